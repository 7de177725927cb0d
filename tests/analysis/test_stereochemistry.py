"""What is found wrong with the atoms of villin after one thing has been spoilt."""

from __future__ import annotations

import mdtraj
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from openmm_starmd.analysis import stereochemistry
from openmm_starmd.geometry.residues import ALTERNATIVE_NAMES
from openmm_starmd.geometry.torsions import dihedrals
from tests.moving_villin import N, moving, villin


def test_villin_is_sound():
    found = stereochemistry.stereochemistry(villin())
    assert found.bad_bonds[0] == found.twisted[0] == found.cis[0] == found.inverted[0] == 0
    assert (
        found.judged["bonds"] == 3 * N - 1 and found.judged["planes"] == N - 1 and found.judged["ramachandran"] == N - 2
    )
    assert found.ramachandran[0] <= 1 / (N - 2)
    assert found.rotamer[0] <= 2 / found.judged["rotamers"]


def atom(structure: mdtraj.Trajectory, residue: int, name: str) -> int:
    return next(a.index for a in structure.topology.residue(residue).atoms if a.name == name)


def test_broken_bond_is_found():
    structure = villin()
    beyond = [a.index for a in structure.topology.atoms if a.residue.index >= 15]
    bonded = np.ones(N - 1, dtype=bool)
    axis = structure.xyz[0, atom(structure, 15, "N")] - structure.xyz[0, atom(structure, 14, "C")]
    structure.xyz[0, beyond] += 0.015 * axis / np.linalg.norm(axis)
    assert stereochemistry.stereochemistry(structure, bonded).bad_bonds[0] == 0
    structure.xyz[0, beyond] += 0.015 * axis / np.linalg.norm(axis)
    assert stereochemistry.stereochemistry(structure, bonded).bad_bonds[0] == pytest.approx(1 / (3 * N - 1))


def turned(
    structure: mdtraj.Trajectory, first: int, second: int, moved: list[int], degrees: float
) -> mdtraj.Trajectory:
    """A copy with some atoms turned about the line between two."""
    copy = structure[:]
    origin = copy.xyz[0, first].astype(float)
    axis = copy.xyz[0, second] - origin
    rotation = Rotation.from_rotvec(np.radians(degrees) * axis / np.linalg.norm(axis))
    copy.xyz[0, moved] = rotation.apply(copy.xyz[0, moved] - origin) + origin
    return copy


@pytest.mark.slow
@pytest.mark.parametrize("degrees, twisted, cis", [(10, 0, 0), (90, 1, 0), (180, 0, 1)])
def test_twisted_peptide_is_found(degrees, twisted, cis):
    structure = villin()
    beyond = [a.index for a in structure.topology.atoms if a.residue.index > 15]
    moved = [i for i in beyond if i != atom(structure, 16, "N")]
    copy = turned(structure, atom(structure, 15, "C"), atom(structure, 16, "N"), moved, degrees)
    found = stereochemistry.stereochemistry(copy)
    assert round(found.twisted[0] * (N - 1)) == twisted and (found.cis[0] > 0) == bool(cis)


def test_mirror_image_has_every_centre_inverted():
    structure = villin()
    centers = stereochemistry.stereochemistry(structure).judged["centers"]
    structure.xyz[..., 0] *= -1
    found = stereochemistry.stereochemistry(structure)
    assert found.inverted[0] == centers
    assert found.ramachandran[0] > 0.3


def test_one_d_amino_acid_is_found():
    structure = villin()
    n, ca, c, cb = (atom(structure, 12, name) for name in ("N", "CA", "C", "CB"))
    p = structure.xyz[0]
    normal = np.cross(p[n] - p[ca], p[c] - p[ca])
    normal /= np.linalg.norm(normal)
    p[cb] -= 2 * ((p[cb] - p[ca]) @ normal) * normal
    assert stereochemistry.stereochemistry(structure).inverted[0] == 1


def test_eclipsed_side_chain_is_an_outlier():
    structure = villin()
    residue = next(r for r in structure.topology.residues if r.name == "LEU")
    here = {a.name: a.index for a in residue.atoms}
    chi = dihedrals(structure.xyz, np.array([[here[n] for n in ("N", "CA", "CB", "CG")]]))[0, 0]
    moved = [here[n] for n in ("CG", "CD1", "CD2")]
    before = stereochemistry.stereochemistry(structure)
    eclipsed = turned(structure, here["CA"], here["CB"], moved, 120.0 - chi)
    after = stereochemistry.stereochemistry(eclipsed)
    assert after.rotamer[0] - before.rotamer[0] == pytest.approx(1 / before.judged["rotamers"])
    assert not stereochemistry.rotamer_outliers(
        np.array([[-60.0, 180, 62, 89, 25]]), np.array(["staggered"] * 3 + ["aromatic", "proline"])
    ).any()


def test_dihedrals_agree_with_mdtraj():
    structure = villin()
    indices, angles = mdtraj.compute_phi(structure)
    np.testing.assert_allclose(dihedrals(structure.xyz, indices), np.degrees(angles), atol=1e-2)


@pytest.mark.parametrize(
    "kind, phi, psi, outlier",
    [
        ("general", -63, -43, False),
        ("general", -120, 130, False),
        ("general", 60, 45, False),
        ("general", 60, -150, False),
        ("general", 0, 0, True),
        ("general", 120, -60, True),
        ("glycine", 85, 5, False),
        ("glycine", 120, 170, False),
        ("beta-branched", 60, 175, True),
        ("proline", -65, 145, False),
        ("proline", -150, 145, True),
        ("pre-proline", -70, 145, False),
        ("pre-proline", -90, 15, True),
    ],
)
def test_ramachandran_regions(kind, phi, psi, outlier):
    assert stereochemistry.ramachandran_outliers(np.array([[phi]]), np.array([[psi]]), [kind])[0, 0] == outlier


def test_a_trace_alone_is_not_judged(monkeypatch):
    structure = villin()
    trace = structure.atom_slice(structure.topology.select("name CA"))
    found = stereochemistry.stereochemistry(trace)
    assert set(found.judged.values()) == {0} and np.isnan(found.ramachandran[0]) and found.within_limits[0]


def test_chunks_do_not_change_stereochemistry(monkeypatch):
    trajectory = moving(7, width=0.05)
    whole = stereochemistry.stereochemistry(trajectory)
    monkeypatch.setattr(stereochemistry, "_CHUNK", 1)
    parts = stereochemistry.stereochemistry(trajectory)
    np.testing.assert_array_equal(whole.ramachandran, parts.ramachandran)
    np.testing.assert_array_equal(whole.inverted, parts.inverted)


def renamed(structure: mdtraj.Trajectory, standard: str, name: str) -> mdtraj.Trajectory:
    """A copy whose residues of one kind have another name."""
    copy = mdtraj.Trajectory(structure.xyz, structure.topology.copy())
    for residue in copy.topology.residues:
        if residue.name == standard:
            residue.name = name
    return copy


@pytest.mark.slow
@pytest.mark.parametrize(("name", "standard"), [*ALTERNATIVE_NAMES.items(), ("NLEU", "LEU"), ("CPRO", "PRO")])
def test_names_of_force_fields_are_judged_as_the_standard_ones(name, standard):
    structure = villin()
    present = {residue.name for residue in structure.topology.residues}
    # a residue that villin lacks is put in place of one with as many atoms or more
    stand_in = standard if standard in present else {"ARG": "LYS", "CYS": "SER", "HIS": "PHE", "TYR": "PHE"}[standard]
    atoms = {("CYS", "OG"): "SG", ("HIS", "CD1"): "ND1"}
    for residue in structure.topology.residues:
        if residue.name == stand_in:
            residue.name = standard
            for one in residue.atoms:
                one.name = atoms.get((standard, one.name), one.name)
    expected = stereochemistry.stereochemistry(structure)
    found = stereochemistry.stereochemistry(renamed(structure, standard, name))
    assert found.judged == expected.judged
    for field in ("bad_bonds", "twisted", "cis", "ramachandran", "rotamer", "inverted"):
        np.testing.assert_array_equal(getattr(found, field), getattr(expected, field))


def test_selenium_is_judged_where_sulfur_is():
    structure = villin()
    expected = stereochemistry.stereochemistry(structure)
    for residue in structure.topology.residues:
        if residue.name == "MET":
            residue.name = "MSE"
            for one in residue.atoms:
                one.name = "SE" if one.name == "SD" else one.name
    found = stereochemistry.stereochemistry(structure)
    assert found.judged == expected.judged
    np.testing.assert_array_equal(found.rotamer, expected.rotamer)


def test_side_chains_of_no_known_name_are_not_judged():
    structure = villin()
    judged = stereochemistry.stereochemistry(structure).judged["rotamers"]
    assert stereochemistry.stereochemistry(renamed(structure, "LYS", "XYZ")).judged["rotamers"] < judged
