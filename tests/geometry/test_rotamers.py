"""Side-chain wells: what is moved, and what is left alone."""

import math

import numpy as np
import pytest
import torch

from openmm_starmd.analysis.stereochemistry import rotamer_outliers
from openmm_starmd.geometry.heavy_atoms import keep_to_wells, staggered
from openmm_starmd.geometry.residues import AMINO_ACIDS


def types(*names: str) -> torch.Tensor:
    return torch.tensor([AMINO_ACIDS.index(name) for name in names])


def degrees(*values: float) -> torch.Tensor:
    return torch.deg2rad(torch.tensor(values, dtype=torch.float64))


def test_between_wells_moves_to_the_nearer_rim_and_wells_stay():
    torsions = torch.zeros(1, 5, dtype=torch.float64)
    for given, expected in (
        (-119.0, -90.0),
        (-121.0, -150.0),
        (5.0, 30.0),
        (-5.0, -30.0),
        (179.0, 179.0),
        (-75.0, -75.0),
    ):
        torsions[0, 1] = math.radians(given)
        kept = float(keep_to_wells(torsions, types("LEU"))[0, 1])
        assert math.cos(kept - math.radians(expected)) == pytest.approx(1, abs=1e-12)


def test_what_has_no_wells_is_left_alone():
    torsions = degrees(-120.0, 0.0, 0.0, 0.0, 0.0).expand(4, 5)
    kept = torch.rad2deg(keep_to_wells(torsions, types("PRO", "ALA", "ASN", "LYS")))
    assert torch.equal(kept[:2], torch.rad2deg(torsions[:2]))
    assert abs(kept[2, 1]) == pytest.approx(30) and kept[2, [0, 2, 3, 4]].tolist() == pytest.approx([-120.0, 0, 0, 0])
    assert kept[3, 0] == pytest.approx(-120) and (kept[3, 1:].abs() - 30).abs().max() < 1e-9
    assert not staggered(torch.tensor([20])).any()


def test_no_angle_is_a_rotamer_outlier_afterwards():
    random = torch.rand(500, 1, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torsions = 2 * math.pi * random
    kinds = np.array(["staggered"])
    before, after = (torch.rad2deg(x)[:, :, 1].numpy() for x in (torsions, keep_to_wells(torsions, types("SER"))))
    assert 0.2 < rotamer_outliers(before, kinds).mean() < 0.5
    assert not rotamer_outliers(after, kinds).any()
