"""One reader of residues: the same bits from OpenMM's topology as from mdtraj's."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from dataclasses import fields

import mdtraj
import numpy as np
import pytest
from openmm import app, unit

from openmm_starmd.data.description import describe
from openmm_starmd.protein.protein import Protein
from openmm_starmd.protein.residues import PSI_AND_CHI, Residues, measure_torsions, read_residues
from openmm_starmd.protein.topologies import box_vectors
from openmm_starmd.protein.views import View
from tests.fakes import helix
from tests.proteins import VILLIN


def villin() -> tuple[app.Topology, np.ndarray]:
    """With its water and box."""
    pdb = app.PDBFile(VILLIN)
    return pdb.topology, np.array(pdb.positions.value_in_unit(unit.nanometer))


def two_chains() -> tuple[app.Topology, np.ndarray]:
    """Ten residues of villin twice, 2 nm apart; the second chain lacks its fifth residue and has a terminal oxygen."""
    topology, xyz = villin()
    made, rows = app.Topology(), []
    for number, name in enumerate("AB"):
        chain = made.addChain(name)
        for residue in list(topology.residues())[:10]:
            if number == 1 and residue.index == 4:
                continue
            copy = made.addResidue(residue.name, chain, residue.id)
            for atom in residue.atoms():
                last = number == 1 and residue.index == 9
                made.addAtom("OXT" if last and atom.name == "HA" else atom.name, atom.element, copy)
                rows.append(xyz[atom.index] + [0, 0, 2 * number])
    return made, np.array(rows)


@pytest.mark.parametrize("make", [villin, two_chains])
def test_openmm_and_mdtraj_give_the_same_bits(make):
    topology, xyz = make()
    vectors = box_vectors(topology)[1]
    ours = read_residues(topology, xyz, vectors)
    theirs = read_residues(View(mdtraj.Topology.from_openmm(topology)), xyz, vectors)
    for field in fields(Residues):
        first, second = getattr(ours, field.name), getattr(theirs, field.name)
        if isinstance(first, np.ndarray):
            assert (first.dtype, first.shape) == (second.dtype, second.shape), field.name
            assert first.tobytes() == second.tobytes(), field.name
        else:
            assert first == second, field.name


def test_chains_and_gaps_of_two_chains():
    residues = read_residues(*two_chains(), None)
    assert residues.length == 19
    assert residues.chain_index.tolist() == 10 * [0] + 9 * [1]
    assert np.flatnonzero(~residues.bonded).tolist() == [9, 13]
    first, second = residues.sequence.split("/")
    assert second == first[:4] + first[5:]
    assert residues.labels[10] == f"chain B residue {residues.names[10]} {residues.numbers[10]}"


def test_torsion_atoms_are_those_of_the_torsions():
    residues = read_residues(*two_chains(), None)
    assert np.array_equal(residues.torsion_mask, (residues.torsion_atoms >= 0).all(-1))
    names = np.array(residues.atom_names)[residues.torsion_atoms]
    owner = residues.owner[residues.torsion_atoms]
    mask = residues.torsion_mask
    for column, (expected, offsets) in enumerate(
        [
            (["C", "N", "CA", "C"], [-1, 0, 0, 0]),
            (["N", "CA", "C", "N"], [0, 0, 0, 1]),
            (["CA", "C", "N", "CA"], [0, 0, 1, 1]),
            (["N", "CA", "CB", None], [0, 0, 0, 0]),
        ]
    ):
        rows = np.flatnonzero(mask[:, column])
        assert len(rows) > 10
        for row in rows:
            assert all(name in (None, found) for name, found in zip(expected, names[row, column], strict=True))
            assert (owner[row, column] - row).tolist() == offsets


@pytest.mark.slow
def test_both_measure_the_same_torsions():
    """In double precision with our formula, in single precision with mdtraj's."""
    start = mdtraj.load(VILLIN)[0]
    description = describe(start)
    mask = description.torsion_mask
    ours = measure_torsions(description.residues)[:, PSI_AND_CHI]
    assert ours.dtype == np.float64 and description.torsions.dtype == np.float32
    turn = np.angle(np.exp(1j * (ours - description.torsions)))
    assert np.abs(turn[mask]).max() < 1e-4
    topology, xyz = villin()
    with pytest.warns(UserWarning, match="left out"):
        protein = Protein.from_openmm(topology, xyz)
    assert protein.torsions.tobytes() == measure_torsions(protein).tobytes()


def test_positions_that_are_not_finite_are_named_whoever_read_them():
    topology, xyz = two_chains()
    atom = next(a for a in topology.atoms() if a.residue.index == 6 and a.name == "CB")
    xyz[atom.index, 1] = np.nan
    message = rf"chain A residue {atom.residue.name} {atom.residue.id} atom CB has no finite position"
    with pytest.raises(ValueError, match=message):
        Protein.from_openmm(topology, xyz)
    with pytest.raises(ValueError, match=message):
        describe(mdtraj.Trajectory(xyz.astype(np.float32), mdtraj.Topology.from_openmm(topology)))


def test_protein_lets_go_of_the_input():
    """Topologies of solvated systems are large."""
    topology, xyz = villin()
    with pytest.warns(UserWarning, match="left out"):
        protein = Protein.from_openmm(topology, xyz)
    alive = weakref.ref(next(topology.atoms()))
    del topology
    gc.collect()
    assert alive() is None and protein.length == 35


def test_reader_imports_neither_openmm_nor_mdtraj():
    code = (
        "import sys, openmm_starmd.protein.residues, openmm_starmd.protein.views; "
        "print([m for m in ('openmm', 'mdtraj', 'torch') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_data_and_training_need_no_openmm():
    """Not even where mdtraj, which imports it if it is there, finds none."""
    code = (
        "import sys; sys.modules['openmm'] = None; import openmm_starmd.data.prepare, openmm_starmd.data.folders, "
        "openmm_starmd.data.windows, openmm_starmd.training.objective, openmm_starmd.training.losses"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_repr_is_one_line():
    pdb = app.PDBFile(VILLIN)
    with pytest.warns(UserWarning, match="left out"):
        protein = Protein.from_openmm(pdb.topology, pdb.positions)
    assert repr(protein) == f"<Protein: 35 residues, 1 chain, {protein.sequence}>"
    two = Protein.from_openmm(*helix(30, chains=2))
    assert repr(two) == f"<Protein: 60 residues, 2 chains, {'A' * 30}/{'A' * 9}...>"
