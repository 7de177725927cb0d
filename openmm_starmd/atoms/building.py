"""What heavy atoms lack for a force field: charged ends and hydrogens, the same ones every time."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from openmm import Platform, app, unit
from openmm.app import element

from openmm_starmd.geometry.torsions import rotate_about
from openmm_starmd.protein.backmap import BackMap
from openmm_starmd.protein.protein import Protein

_HALF_TETRAHEDRAL = np.deg2rad(54.75)
_LEANING = 0.5  # cosine of the angle by which a hydrogen may lie off where it belongs


@contextmanager
def _seeded() -> Iterator[None]:
    """Python's random numbers, which addHydrogens starts from, seeded for a while."""
    state = random.getstate()
    random.seed(1)
    try:
        yield
    finally:
        random.setstate(state)


def hydrogenated(
    topology: app.Topology, positions: unit.Quantity, forcefield: app.ForceField | None, pH: float
) -> app.Modeller:
    """The molecule with hydrogens, to the same bits every time."""
    modeller = app.Modeller(topology, positions)
    with _seeded():
        modeller.addHydrogens(forcefield, pH=pH, platform=Platform.getPlatformByName("Reference"))
    return modeller


def correct_hydrogens(topology: app.Topology, positions: np.ndarray) -> np.ndarray:
    """Hydrogens that lie among the other neighbours of their atom, put on its free side.

    Where a side chain leans, ``addHydrogens`` may leave the HA of a residue between N, C and CB, and a minimiser then
    makes a D-amino acid of it.

    Parameters
    ----------
    topology : app.Topology
        All atoms.
    positions : np.ndarray [atoms, 3]
        nm.

    Returns
    -------
    np.ndarray [atoms, 3]
        nm; bond lengths are kept, and so is every hydrogen that lies well.
    """
    neighbours: dict[int, list[app.topology.Atom]] = {}
    for first, second in topology.bonds():
        neighbours.setdefault(first.index, []).append(second)
        neighbours.setdefault(second.index, []).append(first)
    made = positions.copy()
    for atom, around in neighbours.items():
        hydrogens = [other.index for other in around if other.element is element.hydrogen]
        others = [other.index for other in around if other.element is not element.hydrogen]
        if len(others) < 2 or len(hydrogens) not in (1, 2):
            continue
        arms = _units(positions[others] - positions[atom])
        free = _units(-arms.sum(0))
        bonds = positions[hydrogens] - positions[atom]
        aside = np.zeros((1, 3))
        if len(hydrogens) == 2:
            across = _units(np.cross(arms[0], arms[1])) * np.sin(_HALF_TETRAHEDRAL)
            aside = np.array([across, -across]) * (1 if (bonds[0] - bonds[1]) @ across > 0 else -1)
        right = aside + np.sqrt(1 - (aside**2).sum(-1, keepdims=True)) * free
        if ((_units(bonds) * right).sum(-1) < _LEANING).any():
            made[hydrogens] = positions[atom] + right * np.linalg.norm(bonds, axis=-1, keepdims=True)
    return made


def _units(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def with_termini(mapping: BackMap, bonded: np.ndarray) -> tuple[app.Topology, np.ndarray, list[tuple[int, str]]]:
    """The heavy atoms with OXT at every end, each unbroken stretch a chain of its own.

    Returns
    -------
    topology : app.Topology
    positions : np.ndarray [atoms, 3]
        nm.
    at : list of (int, str)
        Residue index and name, in `topology`, of each atom of the mapping's.
    """
    source, xyz = mapping.topology, mapping.positions
    topology = app.Topology()
    topology.setPeriodicBoxVectors(source.getPeriodicBoxVectors())
    new: dict[app.topology.Atom, app.topology.Atom] = {}
    rows, at, ends = [], [], []
    linked = np.append(bonded, False)
    chain = None
    for residue in source.residues():
        if residue.index == 0 or not bonded[residue.index - 1]:
            chain = topology.addChain(residue.chain.id)
        copy = topology.addResidue(residue.name, chain, residue.id, residue.insertionCode)
        atoms = {atom.name: atom for atom in residue.atoms()}
        for name, atom in atoms.items():
            new[atom] = topology.addAtom(name, atom.element, copy)
            rows.append(xyz[atom.index])
            at.append((copy.index, name))
        if not linked[residue.index] and "OXT" not in atoms:
            ends.append((atoms["C"], topology.addAtom("OXT", element.oxygen, copy)))
            c, ca, o = (xyz[atoms[name].index] for name in ("C", "CA", "O"))
            rows.append(rotate_about(o, c, c - ca, np.array(np.pi)))
    for first, second in source.bonds():
        topology.addBond(new[first], new[second])
    for carbon, oxygen in ends:
        topology.addBond(new[carbon], oxygen)
    return topology, np.array(rows), at


def check_templates(protein: Protein, topology: app.Topology, forcefield: app.ForceField) -> None:
    """Raise a ValueError that names the residues for which the force field has no template."""
    unmatched = forcefield.getUnmatchedResidues(topology)
    # getUnmatchedResidues ignores patches, by which CHARMM's force field makes termini and disulfides
    if unmatched and not _creates_system(forcefield, topology):
        where = ", ".join(protein.residue_label(residue.index) for residue in unmatched[:8])
        raise ValueError(
            f"the force field has no template for {where}: give a ForceField that knows it (ForceField.loadFile), "
            "change the residue, or bring an all-atom topology of your own (AllAtomModel.from_topology)"
        )


def _creates_system(forcefield: app.ForceField, topology: app.Topology) -> bool:
    try:
        forcefield.createSystem(topology)
    except ValueError:
        return False
    return True
