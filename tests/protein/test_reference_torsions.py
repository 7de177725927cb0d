"""What the second weights see and draw beside the first: side chains of the reference, and the scale of the noise."""

from dataclasses import replace

import mdtraj
import numpy as np
import openmm.app
import pytest
import torch

from openmm_starmd.data.trajectories import load_protein
from openmm_starmd.data.windows import WindowDataset, WindowSettings
from openmm_starmd.diffusion.samplers import SamplerSettings
from openmm_starmd.model.conditioner import Conditioner
from openmm_starmd.model.config import preset
from openmm_starmd.model.features import torsion_features
from openmm_starmd.protein.protein import Protein
from openmm_starmd.rollout import features_of
from tests.model.test_network import NARROW
from tests.proteins import VILLIN, villin_features
from tests.simulation.test_rollout import SETTINGS, awake, draw, narrow, rollout


@pytest.fixture(scope="module")
def protein():
    pdb = openmm.app.PDBFile(VILLIN)
    with pytest.warns(UserWarning, match="left out"):
        return Protein.from_openmm(pdb.topology, pdb.positions)


def test_features_of_a_protein_hold_its_psi_and_chi(protein):
    features = features_of(protein)
    first = next(i for i, name in enumerate(protein.sequence) if name == "L")
    expected = protein.torsions[first, 3]
    assert torch.atan2(*features.torsions[first, 1]) == pytest.approx(expected, abs=1e-6)
    glycine = protein.sequence.index("G")
    assert features.torsions[glycine, 1:].abs().max() == 0 and features.torsions[glycine, 0].norm() == pytest.approx(1)


def test_the_conditioner_sees_them_and_nothing_else_moves():
    torch.manual_seed(0)
    config = replace(preset("mini"), **NARROW)
    assert config.reference_torsions
    conditioner = Conditioner(config)
    torch.nn.init.normal_(conditioner.torsions.weight)
    bare = villin_features(12)
    angles = torch.randn(12, 5, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(12, 5, dtype=torch.bool)
    dressed = replace(bare, torsions=torsion_features(angles, mask))
    turned = replace(bare, torsions=torsion_features(angles + 2 * torch.pi, mask))
    hidden = replace(bare, torsions=torsion_features(angles, ~mask))
    singles = [conditioner(features)[0] for features in (bare, dressed, turned, hidden)]
    assert (singles[0] - singles[1]).abs().max() > 1e-2
    assert torch.allclose(singles[1], singles[2], atol=1e-4)
    assert torch.equal(singles[0], singles[3])


def test_windows_carry_those_of_their_reference(tmp_path):
    start = mdtraj.load(VILLIN)
    start = start.atom_slice(start.topology.select("protein and not element H and resid 1 to 10"))
    start.unitcell_vectors = None
    (tmp_path / "frag").mkdir()
    start.save_pdb(tmp_path / "frag" / "frag.pdb")
    noise = 0.01 * np.random.default_rng(0).standard_normal((30, start.n_atoms, 3))
    times = np.arange(1, 31, dtype=float)
    mdtraj.Trajectory(start.xyz + noise, start.topology, time=times).save_xtc(
        tmp_path / "frag" / "frag_prod_R1_fit.xtc"
    )
    data = load_protein(tmp_path / "frag")
    mask = torch.from_numpy(data.torsion_mask)
    settings = WindowSettings(tokens=100, stride_max=20.0, gap_probability=0.0, torsion_dropout=0.0)

    earliest = WindowDataset([data], replace(settings, reference_probability=1.0), 5)
    for step in range(5):
        plan, batch = earliest.plan(step), earliest[step]
        angles = torch.from_numpy(data.replicas[0].torsions_at(np.array(plan.reference)))
        assert torch.equal(batch.features.torsions, torsion_features(angles, mask))
    own = WindowDataset([data], replace(settings, reference_probability=0.0), 5)
    assert all(torch.equal(own[k].features.torsions, data.features.torsions) for k in range(5))
    assert data.features.torsions.abs().max() > 0.9
    hidden = WindowDataset([data], replace(settings, torsion_dropout=1.0), 5)
    assert all(hidden[k].features.torsions.abs().max() == 0 for k in range(5))


def test_more_noise_draws_wider_frames_and_none_is_refused():
    network = awake(narrow("mini"), torch.float32)

    def spread(scale: float) -> float:
        run = rollout(tuple(range(16)), settings=replace(SETTINGS, noise_scale=scale), network=network)
        frames = draw(run, 1)[0, :, :, 1]
        return float((frames - frames.mean(0)).norm())

    assert 1.05 * spread(1.0) < spread(1.4)
    with pytest.raises(ValueError, match="noise_scale is 0"):
        SamplerSettings(noise_scale=0.0)
