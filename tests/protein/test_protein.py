"""Protein: what is read from a topology, what is refused, and the way back to atoms."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import mdtraj
import numpy as np
import openmm.app as app
import pytest
from openmm import Vec3, unit
from openmm.app import element

from openmm_starmd.geometry.residues import AMINO_ACIDS, HEAVY_ATOMS, SIDE_CHAIN_BONDS, atoms_moved_by_chi
from openmm_starmd.geometry.torsions import dihedral, rotate_about
from openmm_starmd.protein.protein import Protein, describe_differences

VILLIN = os.path.join(os.path.dirname(app.__file__), "data", "test.pdb")
DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="the shared data is not here")

# what each nasty file must come to: its one-letter sequence's length and chains, or the words of the ValueError
NASTY = {
    "1A8O.pdb": (70, 1),
    "1BHL.pdb": (135, 1),
    "1LCD.pdb": (51, 1),
    "1dix.pdb": (208, 1),
    "1dpx.pdb": "chain A residue LEU 129 lacks backbone atom C: .*PDBFixer.*delete",
    "1orc.pdb": (64, 1),
    "3POZ.pdb": (293, 1),
    "3o5r.pdb": (128, 1),
    "3str.cif": (193, 1),
    "4i39.cif": (125, 1),
    "5dfr_solv-cube_equil.pdb": (159, 1),
    "5xnd_topology.pdb": (110, 1),
    "6mvz.cif": (4, 1),
    "altlocs.pdb": r"only 1 protein residue\(s\) \(chain A residue ILE 25\)",
    "insertions.pdbx": (7, 1),
    "maestro_aaqaa_capped.pdb": (14, 1),
    "nmr_neopetrosiamide.pdb": (28, 1),
    "nucleic.pdb": "no protein residue",
    "pdb1ejg.pdb": (46, 1),
    "pdb1ubi_ca.pdb": "chain A residue MET 1 lacks backbone atoms N, C .*75 more.*CA atoms alone",
    "test_charmm_20aa.pdb": (60, 20),
}
MULTICHAIN = {"1k6p_AB": 2, "1ql2_ABC": 3, "2beg_ABCDE": 5, "4e43_AB": 2, "5zng_AC": 2}


def read(path) -> tuple[app.Topology, np.ndarray]:
    reader = app.PDBxFile if str(path).endswith((".cif", ".pdbx")) else app.PDBFile
    structure = reader(str(path))
    return structure.topology, structure.getPositions(asNumpy=True).value_in_unit(unit.nanometer)


def quiet(topology, positions) -> Protein:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return Protein.from_openmm(topology, positions)


@pytest.fixture(scope="module")
def source() -> tuple[app.Topology, np.ndarray]:
    return read(VILLIN)


@pytest.fixture(scope="module")
def villin(source) -> Protein:
    return quiet(*source)


def rotation(seed: int) -> np.ndarray:
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return q * np.sign(np.linalg.det(q))


def copied(topology, positions, keep=lambda atom: True, rename=lambda residue: residue.name, bonds=True, box=True):
    """A topology with some atoms left out or residues renamed."""
    new, rows, atoms = app.Topology(), [], {}
    if box:
        new.setPeriodicBoxVectors(topology.getPeriodicBoxVectors())
    for chain in topology.chains():
        new_chain = new.addChain(chain.id)
        for residue in chain.residues():
            new_residue = new.addResidue(rename(residue), new_chain, residue.id, residue.insertionCode)
            for atom in residue.atoms():
                if keep(atom):
                    atoms[atom] = new.addAtom(atom.name, atom.element, new_residue)
                    rows.append(positions[atom.index])
    if bonds:
        for first, second in topology.bonds():
            if first in atoms and second in atoms:
                new.addBond(atoms[first], atoms[second])
    return new, np.array(rows)


def own_torsions(protein: Protein) -> np.ndarray:
    chis = np.where(protein.torsion_mask[:, 3:], protein.torsions[:, 3:], np.nan)
    return np.concatenate([protein.torsions[:, 1:2], chis], axis=1)


def matched(protein: Protein, atoms: str) -> tuple[np.ndarray, np.ndarray]:
    """Atoms of a frame that the input has, and their rows in the input."""
    rows = {(atom.residue.index, atom.name): atom.index for atom in protein.topology.atoms()}
    pairs = [
        (atom.index, rows[atom.residue.index, atom.name])
        for atom in protein.frame_topology(atoms).atoms()
        if (atom.residue.index, atom.name) in rows
    ]
    return tuple(np.array(pairs).T)


def check_round_trip(protein: Protein) -> None:
    for atoms in ("backbone", "heavy"):
        here, there = matched(protein, atoms)
        for torsions in (None, own_torsions(protein)):
            placed = protein.frame_positions(protein.backbone, atoms, torsions)
            assert np.array_equal(protein.backbone_from_frame(placed, atoms), protein.backbone)
            assert np.abs(placed[here] - protein.positions[there]).max() < 1e-6
            assert np.isfinite(placed).all()
    assert len(matched(protein, "heavy")[0]) == protein.topology.getNumAtoms()


def test_tables():
    assert AMINO_ACIDS[:4] == ("ALA", "ARG", "ASN", "ASP") and len(AMINO_ACIDS) == 20
    bonds = app.Topology()
    chain = bonds.addChain()
    for name in AMINO_ACIDS:
        residue = bonds.addResidue(name, chain)
        for atom in HEAVY_ATOMS[name]:
            bonds.addAtom(atom, element.Element.getBySymbol(atom[0]), residue)
    bonds.createStandardBonds()
    expected = {(a.residue.name, frozenset((a.name, b.name))) for a, b in bonds.bonds() if a.residue is b.residue} - {
        (name, frozenset(pair)) for name in AMINO_ACIDS for pair in (("N", "CA"), ("CA", "C"), ("C", "O"))
    }
    assert {(name, frozenset(pair)) for name, pairs in SIDE_CHAIN_BONDS.items() for pair in pairs} == expected
    assert atoms_moved_by_chi("ILE", 0) == ("CG1", "CG2", "CD1")
    assert atoms_moved_by_chi("PRO", 0) == ("CG", "CD")
    assert atoms_moved_by_chi("TYR", 1) == ("CD1", "CD2", "CE1", "CE2", "CZ", "OH")


def test_dihedral_follows_rotation():
    a, b, c, d = np.random.default_rng(0).normal(size=(4, 10, 3))
    before = dihedral(a, b, c, d)
    after = dihedral(a, b, c, rotate_about(d, b, c - b, np.full(10, 0.3)))
    assert np.allclose(np.angle(np.exp(1j * (after - before))), 0.3)


def test_villin(source, villin):
    assert villin.sequence == "LSDEDFKAVFGMTRSAFANLPLWKQQHLKKEKGLF"
    assert villin.dropped == ("HOH x 2761", "Cl x 2")
    assert villin.bonded.all() and villin.bonded.shape == (34,)
    assert list(villin.residue_index) == list(range(1, 36)) and not villin.chain_index.any()
    assert [AMINO_ACIDS[t] for t in villin.residue_types] == [r.name for r in villin.topology.residues()]
    assert villin.residue_label(0) == "chain #1 residue LEU 1"
    assert villin.box is not None
    assert all(atom.element.symbol != "H" for atom in villin.topology.atoms())
    expected = [source[1][atom.index] for atom in source[0].atoms() if atom.element.symbol not in ("H", "Cl")][
        : villin.topology.getNumAtoms()
    ]
    assert np.abs(villin.positions - expected).max() < 1e-12
    check_round_trip(villin)


def test_one_warning_lists_what_was_left_out(source):
    with pytest.warns(UserWarning, match="left out") as caught:
        Protein.from_openmm(*source)
    assert len(caught) == 1 and "HOH x 2761" in str(caught[0].message)
    assert caught[0].filename == __file__


def test_units_and_kinds_of_positions(source, villin):
    topology, xyz = source
    for positions in (xyz * unit.nanometer, xyz * 10 * unit.angstrom, [Vec3(*row) for row in xyz] * unit.nanometer):
        assert np.allclose(quiet(topology, positions).positions, villin.positions, atol=1e-9)


def test_torsions_are_mdtrajs(villin):
    trajectory = mdtraj.Trajectory(villin.positions[None], mdtraj.Topology.from_openmm(villin.topology))
    owners = {"phi": 1, "psi": 1, "omega": 1, "chi1": 1, "chi2": 1, "chi3": 1, "chi4": 1}
    for k, (name, atom) in enumerate(owners.items()):
        quartets, values = getattr(mdtraj, f"compute_{name}")(trajectory)
        residues = [trajectory.topology.atom(q[atom]).residue.index for q in quartets]
        assert sorted(residues) == list(np.flatnonzero(villin.torsion_mask[:, k]))
        difference = np.exp(1j * (villin.torsions[residues, k] - values[0])) if residues else np.ones(1)
        assert np.abs(np.angle(difference)).max() < 1e-3


def check_chi_plus_sixty_degrees(protein: Protein) -> None:
    torsions = own_torsions(protein)
    torsions[:, 1:] += np.deg2rad(60)
    placed = protein.frame_positions(protein.backbone, "heavy", torsions)
    trajectory = mdtraj.Trajectory(placed[None], mdtraj.Topology.from_openmm(protein.frame_topology("heavy")))
    for k in range(4):
        quartets, values = getattr(mdtraj, f"compute_chi{k + 1}")(trajectory)
        residues = np.array([trajectory.topology.atom(q[1]).residue.index for q in quartets], int)
        # the ring of proline stays closed, whatever is asked for
        turned = np.array([protein.sequence.replace("/", "")[i] != "P" for i in residues], bool)
        if turned.any():
            difference = np.angle(np.exp(1j * (values[0] - torsions[residues, k + 1])))
            assert np.rad2deg(np.abs(difference[turned])).max() < 0.1
        assert protein.torsion_mask[residues, 3 + k].all()
    assert np.array_equal(protein.backbone_from_frame(placed, "heavy"), protein.backbone)


def test_chi_plus_sixty_degrees(villin):
    check_chi_plus_sixty_degrees(villin)


@needs_data
def test_chi_of_all_twenty_amino_acids():
    check_chi_plus_sixty_degrees(quiet(*read(DATA / "nasty" / "test_charmm_20aa.pdb")))


def test_nan_torsions_leave_the_inputs_angles(villin):
    nothing = np.full((35, 5), np.nan)
    placed = villin.frame_positions(villin.backbone, "heavy", nothing)
    assert np.allclose(placed, villin.frame_positions(villin.backbone, "heavy"), atol=1e-12)


def test_terminal_psi_turns_oxygens(villin):
    torsions = own_torsions(villin)
    torsions[-1, 0] += 1.0
    before = villin.frame_positions(villin.backbone, "backbone")
    after = villin.frame_positions(villin.backbone, "backbone", torsions)
    assert np.flatnonzero(np.abs(after - before).max(-1) > 1e-9).tolist() == [4 * 35 - 1]


def test_bond_lengths_survive_deformation(villin):
    rng = np.random.default_rng(3)
    backbone = villin.backbone + rng.normal(scale=0.005, size=villin.backbone.shape)
    torsions = rng.uniform(-np.pi, np.pi, size=(35, 5))
    topology = villin.frame_topology("heavy")
    placed = villin.frame_positions(backbone, "heavy", torsions)
    rigid = [
        (a.index, b.index)
        for a, b in topology.bonds()
        if a.residue is b.residue and not {a.name, b.name} <= {"N", "CA", "C"} and a.residue.name != "PRO"
    ]
    first, second = np.array(rigid).T
    here, there = matched(villin, "heavy")
    own = np.empty_like(placed)
    own[here] = villin.positions[there]
    lengths = np.linalg.norm(placed[first] - placed[second], axis=-1)
    assert np.abs(lengths - np.linalg.norm(own[first] - own[second], axis=-1)).max() < 1e-9


def test_rotated_input_rotated_output(source, villin):
    # without a box: its vectors would have to turn too
    topology, xyz = copied(*source, box=False, keep=lambda a: not (a.residue.name == "LYS" and a.name == "CE"))
    turn, shift = rotation(1), np.array([1.0, -2.0, 0.5])
    straight, turned = quiet(topology, xyz), quiet(topology, xyz @ turn.T + shift)
    torsions = np.random.default_rng(2).uniform(-np.pi, np.pi, size=(35, 5))
    assert np.allclose(straight.torsions[straight.torsion_mask], turned.torsions[turned.torsion_mask], atol=1e-9)
    for atoms in ("ca", "backbone", "heavy"):
        placed = straight.frame_positions(straight.backbone, atoms, torsions)
        again = turned.frame_positions(turned.backbone, atoms, torsions)
        assert np.abs(again - (placed @ turn.T + shift)).max() < 1e-6


def test_frame_topologies(villin):
    counts = {"ca": 35, "backbone": 140, "heavy": villin.topology.getNumAtoms()}
    for atoms, count in counts.items():
        topology = villin.frame_topology(atoms)
        assert topology.getNumAtoms() == count and topology.getPeriodicBoxVectors() is not None
        assert villin.frame_positions(villin.backbone, atoms).shape == (count, 3)
        assert topology is villin.frame_topology(atoms)
    assert [a.name for a in villin.frame_topology("backbone").atoms()][:4] == ["N", "CA", "C", "O"]
    assert villin.frame_topology("ca").getNumBonds() == 34
    assert villin.backbone_from_frame(villin.frame_positions(villin.backbone, "ca"), "ca") is None
    with pytest.raises(ValueError, match="atoms must be one of ca, backbone, heavy"):
        villin.frame_topology("all")
    with pytest.raises(ValueError, match=r"shape \(35, 3, 3\)"):
        villin.frame_positions(villin.backbone[:-1], "ca")


@pytest.mark.parametrize("bonds", [True, False])
def test_split_across_the_box_is_made_whole(source, villin, bonds):
    topology, xyz = copied(*source, bonds=bonds)
    vectors = np.array(topology.getPeriodicBoxVectors().value_in_unit(unit.nanometer))
    edges = np.diag(vectors)
    wrapped = xyz + np.array([0.5, 0.4, 0.6]) * edges
    wrapped -= np.floor(wrapped / edges) * edges
    protein = quiet(topology, wrapped)
    assert not np.allclose(np.ptp(wrapped[:500], axis=0), np.ptp(xyz[:500], axis=0), atol=0.5)
    moved = protein.positions - villin.positions
    assert np.abs(moved - moved[0]).max() < 1e-9
    assert protein.bonded.all()


def test_complex_in_a_truncated_octahedron(villin):
    vectors = np.array([[6.0, 0, 0], [2.0, 5.656854, 0], [-2.0, 2.828427, 4.898979]])
    modeller = app.Modeller(villin.topology, villin.positions * unit.nanometer)
    modeller.add(villin.topology, (villin.positions + np.array([0, 0, 1.2])) * unit.nanometer)
    modeller.topology.setPeriodicBoxVectors(vectors * unit.nanometer)
    whole = np.array(modeller.positions.value_in_unit(unit.nanometer))
    assert np.array_equal(quiet(modeller.topology, whole).positions, whole)
    rng = np.random.default_rng(5)
    for _ in range(10):
        moved = whole + rng.uniform(0, 6, size=3)
        scaled = moved @ np.linalg.inv(vectors)
        protein = quiet(modeller.topology, (scaled - np.floor(scaled)) @ vectors)
        difference = protein.positions - whole
        assert np.abs(difference - difference[0]).max() < 1e-9


def test_split_without_a_box_names_the_residue(source):
    topology, xyz = copied(*source, box=False)
    atom = next(a for a in topology.atoms() if a.name == "C" and a.residue.id == "7")
    xyz[atom.index] += 5
    with pytest.raises(ValueError, match=r"chain #1 residue LYS 7: atoms C and CA .*setPeriodicBoxVectors"):
        Protein.from_openmm(topology, xyz)


def test_missing_side_chain_atoms_are_completed(source, villin):
    gone = {"CD", "CE", "NZ", "OE1", "OE2"}
    topology, xyz = copied(
        *source, keep=lambda a: a.name not in gone and not (a.name == "O" and "2" <= a.residue.id <= "30")
    )
    with pytest.warns(UserWarning, match="heavy atoms are missing .*chain #1 residue LYS 7"):
        protein = Protein.from_openmm(topology, xyz)
    heavy = protein.frame_topology("heavy")
    assert heavy.getNumAtoms() == villin.topology.getNumAtoms() and heavy.getNumBonds() == villin.topology.getNumBonds()
    placed = protein.frame_positions(protein.backbone, "heavy")
    for first, second in heavy.bonds():
        assert 0.1 < np.linalg.norm(placed[first.index] - placed[second.index]) < 0.22
    check_round_trip(protein)
    oxygen = [a.index for a in villin.frame_topology("backbone").atoms() if a.name == "O"]
    difference = protein.frame_positions(protein.backbone, "backbone") - villin.frame_positions(
        villin.backbone, "backbone"
    )
    assert np.linalg.norm(difference[oxygen[:-1]], axis=-1).max() < 0.05
    assert not protein.torsion_mask[6, 5] and villin.torsion_mask[6, 5]


def test_names_of_other_programs(source, villin):
    names = {"HIS": "HSD", "ASP": "ASH", "GLU": "GLUP", "LYS": "LYN", "MET": "MSE", "LEU": "NLEU"}
    topology, xyz = copied(*source, rename=lambda residue: names.get(residue.name, residue.name))
    for atom in topology.atoms():
        if atom.residue.name == "MSE" and atom.name == "SD":
            atom.name, atom.element = "SE", element.selenium
        if atom.name in ("O", "OXT") and atom.residue.id == "35":
            atom.name = {"O": "OT1", "OXT": "OT2"}[atom.name]
    with pytest.warns(UserWarning, match="standard parent") as caught:
        protein = Protein.from_openmm(topology, xyz)
    assert protein.sequence == villin.sequence
    assert [a.name for a in protein.topology.atoms()] == [a.name for a in villin.topology.atoms()]
    assert "read as their standard parent: MSE as MET" in str(caught[0].message)
    assert "LYN" not in str(caught[0].message) and "NLEU" not in str(caught[0].message)


def test_unknown_residue_stays_and_ligand_goes(source):
    topology, xyz = copied(*source, rename=lambda residue: "XXX" if residue.id == "5" else residue.name)
    chain = topology.addChain("L")
    residue = topology.addResidue("LIG", chain)
    for name, symbol in (("N", "N"), ("CA", "C"), ("C", "C")):
        topology.addAtom(name, element.Element.getBySymbol(symbol), residue)
    with pytest.warns(UserWarning, match="kept as unknown residues: chain #1 residue XXX 5"):
        protein = Protein.from_openmm(topology, np.concatenate([xyz, [[9, 9, 9], [9, 9.146, 9], [9.1, 9.2, 9]]]))
    assert protein.residue_types[4] == 20 and protein.sequence[4] == "X" and protein.bonded.all()
    assert "LIG x 1" in protein.dropped
    check_round_trip(protein)
    sentence = describe_differences(protein, 20, True)
    assert "35 residues" in sentence and "LIG" in sentence and "1 unknown" in sentence and "HOH" not in sentence


def test_chain_break_and_numbering(source):
    gone = {"12", "13", "14"}
    topology, xyz = copied(*source, keep=lambda a: a.residue.id not in gone or a.residue.name == "HOH")
    with pytest.warns(UserWarning, match="chain broken .* after chain #1 residue GLY 11"):
        protein = Protein.from_openmm(topology, xyz)
    assert np.flatnonzero(~protein.bonded).tolist() == [10]
    assert protein.residue_index[10:12].tolist() == [11, 15] and not protein.chain_index.any()
    assert not protein.torsion_mask[10, 1] and not protein.torsion_mask[11, 0]
    check_round_trip(protein)
    for residue in topology.residues():
        residue.id = "x"
    jumped = quiet(topology, xyz).residue_index
    assert jumped[11] - jumped[10] > 1 and (np.delete(np.diff(jumped), 10) == 1).all()


def test_two_chains_and_two_in_one(source, villin):
    rows = villin.topology.getNumAtoms()
    modeller = app.Modeller(villin.topology, villin.positions * unit.nanometer)
    modeller.add(villin.topology, (villin.positions + np.array([0, 0, 1.5])) * unit.nanometer)
    protein = quiet(modeller.topology, modeller.positions)
    assert protein.sequence == "/".join([villin.sequence] * 2) and protein.chain_index[-1] == 1
    assert describe_differences(protein, 100, True) is None
    assert "2 chains" in describe_differences(protein, 100, False)
    assert np.allclose(protein.positions[rows:], villin.positions + np.array([0, 0, 1.5]))

    joined = app.Topology()
    chain = joined.addChain(" ")
    for residue in modeller.topology.residues():
        new = joined.addResidue(residue.name, chain, residue.id)
        for atom in residue.atoms():
            joined.addAtom(atom.name, atom.element, new)
    again = quiet(joined, modeller.positions)
    assert np.array_equal(again.chain_index, protein.chain_index)
    assert np.array_equal(again.residue_index, protein.residue_index)
    assert again.residue_label(0) == "chain #1 residue LEU 1"


def test_bonds_between_residues_are_peptide_bonds(villin):
    names = {frozenset((a.name, b.name)) for a, b in villin.topology.bonds() if a.residue is not b.residue}
    assert names == {frozenset(("C", "N"))}


def test_bad_input(source):
    topology, xyz = source
    with pytest.raises(ValueError, match="no atoms"):
        Protein.from_openmm(app.Topology(), np.zeros((0, 3)))
    with pytest.raises(ValueError, match=r"8867 atoms"):
        Protein.from_openmm(topology, xyz[:-1])
    with pytest.raises(ValueError, match="2 frames: give one"):
        Protein.from_openmm(topology, np.stack([xyz, xyz]))
    with pytest.raises(ValueError, match="positions must be lengths"):
        Protein.from_openmm(topology, xyz * unit.picosecond)
    with pytest.raises(ValueError, match="no positions"):
        Protein.from_openmm(topology, None)
    with pytest.raises(ValueError, match="to_openmm"):
        Protein.from_openmm(mdtraj.Topology.from_openmm(topology), xyz)
    with pytest.raises(ValueError, match=r"split across|with their unit"):
        Protein.from_openmm(copied(*source, box=False)[0], xyz * 10)
    with pytest.raises(ValueError, match="lie on one another"):
        Protein.from_openmm(topology, np.zeros_like(xyz))
    broken = xyz.copy()
    broken[1000] = np.nan
    quiet(topology, broken)
    atom = next(a for a in topology.atoms() if a.name == "CB" and a.residue.id == "9")
    broken[atom.index, 1] = np.inf
    with pytest.raises(ValueError, match="chain #1 residue VAL 9 atom CB has no finite position"):
        Protein.from_openmm(topology, broken)
    with pytest.raises(ValueError, match=r"chain #1 residue PHE 6 lacks backbone atom CA: .*PDBFixer.*delete"):
        Protein.from_openmm(*copied(*source, keep=lambda a: not (a.name == "CA" and a.residue.id == "6")))
    with pytest.raises(ValueError, match=r"only 2 protein residue.*LEU 1.*SER 2.*at least three"):
        Protein.from_openmm(*copied(*source, keep=lambda a: a.residue.id in ("1", "2") and a.residue.name != "HOH"))


def test_atom_in_line(source):
    topology, xyz = source
    atoms = {a.name: a.index for a in topology.atoms() if a.residue.id == "4" and a.residue.name == "GLU"}
    bent = xyz.copy()
    bent[atoms["N"]] = 2 * bent[atoms["CA"]] - bent[atoms["C"]]
    with pytest.raises(ValueError, match=r"chain #1 residue GLU 4: .*in one line"):
        Protein.from_openmm(topology, bent)


@needs_data
@pytest.mark.parametrize("name", sorted(NASTY))
def test_nasty(name):
    topology, xyz = read(DATA / "nasty" / name)
    expected = NASTY[name]
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            Protein.from_openmm(topology, xyz)
        return
    protein = quiet(topology, xyz)
    assert (protein.length, protein.chain_index[-1] + 1) == expected
    if name.endswith(".pdb") and not name.startswith("5dfr"):
        # a crystal's cell must not move what is whole
        assert {tuple(row) for row in protein.positions} <= {tuple(row) for row in xyz}
    assert (np.diff(protein.residue_index)[protein.bonded] == 1).all()
    check_round_trip(protein)


@needs_data
def test_nasty_details():
    numbered = quiet(*read(DATA / "nasty" / "insertions.pdbx"))
    assert numbered.residue_index.tolist() == list(range(59, 66))
    kinase = quiet(*read(DATA / "nasty" / "3POZ.pdb"))
    ids = [int(residue.id) for residue in kinase.topology.residues()]
    assert kinase.residue_index.tolist() == ids and (~kinase.bonded).sum() == 4
    capped = quiet(*read(DATA / "nasty" / "maestro_aaqaa_capped.pdb"))
    assert capped.dropped == ("ACE x 1", "NME x 1")
    oxidised = quiet(*read(DATA / "nasty" / "nmr_neopetrosiamide.pdb"))
    assert oxidised.sequence.count("X") == 1 and oxidised.box is None
    sulfurs = [1 for a, b in oxidised.topology.bonds() if a.name == b.name == "SG"]
    assert len(sulfurs) == 3


@needs_data
@pytest.mark.parametrize("name", sorted(MULTICHAIN))
def test_multichain(name):
    topology, xyz = read(DATA / "multichain" / f"{name}.pdb")
    protein = quiet(topology, xyz)
    assert protein.chain_index[-1] + 1 == MULTICHAIN[name] == protein.topology.getNumChains()
    assert np.array_equal(protein.positions, quiet(*copied(topology, xyz, box=False)).positions)
    check_round_trip(protein)


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize(
    "trajectory, top, expected",
    [("adk_oplsaa.xtc", "adk_oplsaa.gro", (214, 1)), ("traj.twochains.xtc", "sim.prot.twochains.gro", (140, 2))],
)
def test_gromacs_frames(trajectory, top, expected):
    frames = mdtraj.load(str(DATA / "nasty" / trajectory), top=str(DATA / "nasty" / top))[::9]
    topology = frames.topology.to_openmm()
    for k in range(len(frames)):
        topology.setPeriodicBoxVectors(frames.openmm_boxes(k))
        protein = quiet(topology, frames.xyz[k])
        assert (protein.length, protein.chain_index[-1] + 1) == expected
        jumps = np.linalg.norm(np.diff(protein.backbone[:, 1], axis=0), axis=-1)
        assert jumps[protein.bonded].max() < 0.42 and (~protein.bonded).sum() == expected[1] - 1
        check_round_trip(protein)
