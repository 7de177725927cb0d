"""OpenMM topologies of a protein: its heavy atoms, its backbone, its CA atoms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from openmm import app, unit
from openmm.app import element

from openmm_starmd.geometry.residues import BACKBONE_BONDS, SIDE_CHAIN_BONDS
from openmm_starmd.protein.selection import Selected

DISULFIDE = 0.25
"""Longest S-S distance of a disulfide, nm; the ideal is 0.205."""
_ELEMENTS = {"N": element.nitrogen, "C": element.carbon, "O": element.oxygen, "S": element.sulfur}


def protein_topology(
    kept: list[Selected],
    chain_index: np.ndarray,
    bonded: np.ndarray,
    xyz: np.ndarray,
    source: app.Topology,
    box: unit.Quantity | None,
) -> app.Topology:
    """Topology of the kept residues.

    Parameters
    ----------
    kept : list of Selected
        N residues.
    chain_index : np.ndarray [N]
    bonded : np.ndarray [N - 1], bool
        Where peptide bonds go, whatever the input says.
    xyz : np.ndarray [atoms, 3]
        Positions of the kept atoms, nm.
    source : app.Topology
        The input, for bonds between residues and inside unknown ones.
    box : Quantity or None
        Periodic box vectors.

    Returns
    -------
    app.Topology
    """
    topology = app.Topology()
    topology.setPeriodicBoxVectors(box)
    new: dict[app.topology.Atom, app.topology.Atom] = {}
    named: list[dict[str, app.topology.Atom]] = []
    for i, selected in enumerate(kept):
        if i == 0 or chain_index[i] != chain_index[i - 1]:
            chain = topology.addChain(selected.residue.chain.id)
        residue = topology.addResidue(selected.name, chain, selected.residue.id, selected.residue.insertionCode)
        named.append({})
        for name, atom in selected.atoms.items():
            kind = _ELEMENTS[name[0]] if selected.name in SIDE_CHAIN_BONDS else atom.element or _ELEMENTS[name[0]]
            named[i][name] = new[atom] = topology.addAtom(name, kind, residue)

    bonds: dict[tuple[int, int], tuple[app.topology.Atom, app.topology.Atom]] = {}
    for atoms in named:
        name = next(iter(atoms.values())).residue.name
        for first, second in standard_bonds(name):
            if first in atoms and second in atoms:
                _add(bonds, atoms[first], atoms[second])
    for before, behind, joined in zip(named[:-1], named[1:], bonded, strict=True):
        if joined:
            _add(bonds, before["C"], behind["N"])
    for first, second in source.bonds():
        if first in new and second in new:
            a, b = new[first], new[second]
            inside = a.residue is b.residue
            peptide = {a.name, b.name} == {"C", "N"} and abs(a.residue.index - b.residue.index) == 1
            if (inside and a.residue.name not in SIDE_CHAIN_BONDS) or not (inside or peptide):
                _add(bonds, a, b)
    sulfurs = [atoms["SG"] for atoms in named if "SG" in atoms]
    for k, first in enumerate(sulfurs):
        for second in sulfurs[k + 1 :]:
            if np.linalg.norm(xyz[first.index] - xyz[second.index]) < DISULFIDE:
                _add(bonds, first, second)
    for first, second in bonds.values():
        topology.addBond(first, second)
    return topology


def standard_bonds(residue: str) -> tuple[tuple[str, str], ...]:
    """Bonds between heavy atoms of a residue, by name; only those of the backbone for an unknown one."""
    return BACKBONE_BONDS + SIDE_CHAIN_BONDS.get(residue, ())


def restricted_topology(
    topology: app.Topology,
    positions: np.ndarray,
    extra: Mapping[tuple[int, str], np.ndarray],
    names: Sequence[str] | None = None,
) -> tuple[app.Topology, np.ndarray]:
    """A topology with atoms added and others left out.

    Parameters
    ----------
    topology : app.Topology
    positions : np.ndarray [atoms, 3]
        nm.
    extra : mapping of (int, str) to np.ndarray [3]
        Positions of atoms to add, by residue index and name; each goes to the end of its residue.
    names : sequence of str, optional
        The atoms to keep, and their order in each residue; by default all as they are.

    Returns
    -------
    topology : app.Topology
    positions : np.ndarray [atoms, 3]
        nm.
    """
    added: dict[int, dict[str, np.ndarray]] = {}
    for (index, name), position in extra.items():
        added.setdefault(index, {})[name] = position
    restricted = app.Topology()
    restricted.setPeriodicBoxVectors(topology.getPeriodicBoxVectors())
    new: dict[app.topology.Atom, app.topology.Atom] = {}
    bonds: dict[tuple[int, int], tuple[app.topology.Atom, app.topology.Atom]] = {}
    rows = []
    for chain in topology.chains():
        new_chain = restricted.addChain(chain.id)
        for residue in chain.residues():
            new_residue = restricted.addResidue(residue.name, new_chain, residue.id, residue.insertionCode)
            old = {atom.name: atom for atom in residue.atoms()}
            own = {name: positions[atom.index] for name, atom in old.items()} | added.get(residue.index, {})
            made = {}
            for name in own if names is None else [name for name in names if name in own]:
                kind = old[name].element if name in old else _ELEMENTS[name[0]]
                made[name] = restricted.addAtom(name, kind, new_residue)
                rows.append(own[name])
                if name in old:
                    new[old[name]] = made[name]
            for first, second in standard_bonds(residue.name):
                if first in made and second in made:
                    _add(bonds, made[first], made[second])
    for first, second in topology.bonds():
        if first in new and second in new:
            _add(bonds, new[first], new[second])
    for first, second in bonds.values():
        restricted.addBond(first, second)
    return restricted, np.array(rows)


def ca_topology(topology: app.Topology, bonded: np.ndarray) -> app.Topology:
    """Topology of the CA atoms, with a bond between neighbours where `bonded` [N - 1] says so."""
    alone = app.Topology()
    alone.setPeriodicBoxVectors(topology.getPeriodicBoxVectors())
    atoms = []
    for chain in topology.chains():
        new_chain = alone.addChain(chain.id)
        for residue in chain.residues():
            new_residue = alone.addResidue(residue.name, new_chain, residue.id, residue.insertionCode)
            atoms.append(alone.addAtom("CA", element.carbon, new_residue))
    for i in np.flatnonzero(bonded):
        alone.addBond(atoms[i], atoms[i + 1])
    return alone


def _add(bonds: dict, first: app.topology.Atom, second: app.topology.Atom) -> None:
    bonds.setdefault(tuple(sorted((first.index, second.index))), (first, second))
