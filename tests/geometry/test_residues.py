"""Names of residues, and the two ways to measure dihedral angles."""

from __future__ import annotations

import numpy as np
import pytest

from openmm_starmd.geometry.residues import ALTERNATIVE_NAMES, AMINO_ACIDS, CHI_ATOMS, STAGGERED_CHI, canonical_name
from openmm_starmd.geometry.torsions import dihedral, dihedrals


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ALA", "ALA"),
        ("NALA", "ALA"),
        ("CHIE", "HIS"),
        (" hsd ", "HIS"),
        ("CYS2", "CYS"),
        ("MSE", "MET"),
        ("ASPP", "ASP"),
    ],
)
def test_names_of_force_fields(name, expected):
    assert canonical_name(name) == expected


@pytest.mark.parametrize("name", ["HOH", "CA", "NA", "ACE", "NME", "XALA", "TPO", ""])
def test_what_is_no_amino_acid_has_no_name(name):
    assert canonical_name(name) is None


def test_every_alternative_stands_for_an_amino_acid():
    assert set(ALTERNATIVE_NAMES.values()) <= set(AMINO_ACIDS)
    assert not set(ALTERNATIVE_NAMES) & set(AMINO_ACIDS)


def test_staggered_angles_are_there():
    for index, names in enumerate(STAGGERED_CHI):
        assert all(len(CHI_ATOMS[name]) > index for name in names)


def test_both_dihedrals_agree():
    frames = np.random.default_rng(0).normal(size=(4, 9, 3))
    indices = np.array([[0, 1, 2, 3], [4, 2, 7, 8], [5, 6, 1, 0]])
    one_by_one = dihedral(*(frames[:, indices[:, k]] for k in range(4)))
    np.testing.assert_allclose(dihedrals(frames, indices), np.degrees(one_by_one), atol=1e-10)
