"""OpenMM topologies: what an input brings, checked, and those of a protein's heavy atoms, backbone and CA atoms."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from openmm import app, unit
from openmm.app import element

from openmm_starmd.geometry.residues import BACKBONE_BONDS, DISULFIDE, SIDE_CHAIN_BONDS
from openmm_starmd.protein.periodic import NARROWEST_BOX
from openmm_starmd.protein.residues import Residues

_ELEMENTS = {"N": element.nitrogen, "C": element.carbon, "O": element.oxygen, "S": element.sulfur}
_Bonds: TypeAlias = dict[tuple[int, int], tuple[app.topology.Atom, app.topology.Atom]]


def checked_positions(topology: app.Topology, positions: Any) -> np.ndarray:
    """Positions as an array [atoms, 3] in nm.

    Parameters
    ----------
    topology : app.Topology
    positions : Quantity or array [atoms, 3]
        Bare numbers mean nm.

    Raises
    ------
    ValueError
        If `topology` is not OpenMM's or is empty, or the positions do not fit it.
    """
    if not isinstance(topology, app.Topology):
        way_out = "; mdtraj's topologies have to_openmm()" if hasattr(topology, "to_openmm") else ""
        raise ValueError(f"topology must be an openmm.app.Topology, not {type(topology).__name__}{way_out}")
    if topology.getNumAtoms() == 0:
        raise ValueError("the topology has no atoms: give the topology of a protein")
    if positions is None:
        raise ValueError("there are no positions: give one structure, [atoms, 3]")
    try:
        if isinstance(positions, unit.Quantity):
            positions = positions.value_in_unit(unit.nanometer)
        elif len(positions) and isinstance(positions[0], unit.Quantity):
            positions = [position.value_in_unit(unit.nanometer) for position in positions]
        array = np.array(positions, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"positions must be lengths [atoms, 3], a Quantity or numbers in nm: {error}") from error
    if array.ndim == 3 and array.shape[1:] == (topology.getNumAtoms(), 3):
        raise ValueError(f"positions hold {len(array)} frames: give one of them, positions[0] for the first")
    if array.shape != (topology.getNumAtoms(), 3):
        raise ValueError(
            f"positions have the shape {array.shape}, but the topology has {topology.getNumAtoms()} atoms: "
            f"they must be [{topology.getNumAtoms()}, 3], in the order of the topology"
        )
    return array


def box_vectors(topology: app.Topology) -> tuple[unit.Quantity | None, np.ndarray | None]:
    """Periodic box vectors of a topology, as they are and in rows [3, 3] in nm; None where there is no usable box."""
    box = topology.getPeriodicBoxVectors()
    if box is None:
        return None, None
    vectors = np.array(box.value_in_unit(unit.nanometer), dtype=np.float64)
    if not np.isfinite(vectors).all() or np.abs(np.triu(vectors, 1)).max() > 1e-6 * np.abs(vectors).max():
        raise ValueError(
            f"the topology's periodic box vectors {vectors.tolist()} nm are not in OpenMM's reduced form "
            "(a along x, b in the xy plane): set them with openmm.app.internal.unitcell.reducePeriodicBoxVectors, "
            "or setPeriodicBoxVectors(None) if the structure is whole"
        )
    if np.diag(vectors).min() < NARROWEST_BOX:
        return None, None
    return box, vectors


def protein_topology(residues: Residues, source: app.Topology, box: unit.Quantity | None) -> app.Topology:
    """Topology of the kept residues, with peptide bonds as `residues` says, whatever the input does.

    Parameters
    ----------
    residues : Residues
        Read from `source`.
    source : app.Topology
        The input, for identifiers, elements, bonds between residues, and bonds inside unknown ones.
    box : Quantity or None
        Periodic box vectors.

    Returns
    -------
    app.Topology
    """
    topology = app.Topology()
    topology.setPeriodicBoxVectors(box)
    by_index = {atom.index: atom for atom in source.atoms()}
    old = [by_index[index] for index in residues.atoms.tolist()]
    new: dict[app.topology.Atom, app.topology.Atom] = {}
    named: list[dict[str, app.topology.Atom]] = []
    for atom, name, owner in zip(old, residues.atom_names, residues.owner.tolist(), strict=True):
        if owner == len(named):
            if owner == 0 or residues.chain_index[owner] != residues.chain_index[owner - 1]:
                chain = topology.addChain(atom.residue.chain.id)
            residue = topology.addResidue(residues.names[owner], chain, atom.residue.id, atom.residue.insertionCode)
            named.append({})
        known = residue.name in SIDE_CHAIN_BONDS
        kind = _ELEMENTS[name[0]] if known else atom.element or _ELEMENTS[name[0]]
        named[owner][name] = new[atom] = topology.addAtom(name, kind, residue)

    bonds: _Bonds = {}
    for atoms, name in zip(named, residues.names, strict=True):
        _add_standard(bonds, atoms, name)
    for i in np.flatnonzero(residues.bonded):
        _add(bonds, named[i]["C"], named[i + 1]["N"])
    for first, second in source.bonds():
        if first in new and second in new and not _known_bond(new[first], new[second]):
            _add(bonds, new[first], new[second])
    sulfurs = [atoms["SG"] for atoms in named if "SG" in atoms]
    for first, second in itertools.combinations(sulfurs, 2):
        if np.linalg.norm(residues.positions[first.index] - residues.positions[second.index]) < DISULFIDE:
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
    bonds: _Bonds = {}
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
            _add_standard(bonds, made, residue.name)
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


def _known_bond(first: app.topology.Atom, second: app.topology.Atom) -> bool:
    """Whether two atoms are of a standard residue, or C and N of neighbours: their bonds do not follow the input."""
    if first.residue is second.residue:
        return first.residue.name in SIDE_CHAIN_BONDS
    return {first.name, second.name} == {"C", "N"} and abs(first.residue.index - second.residue.index) == 1


def _add_standard(bonds: _Bonds, atoms: Mapping[str, app.topology.Atom], residue: str) -> None:
    """Add the bonds of a residue, of which the atoms are there by name."""
    for first, second in standard_bonds(residue):
        if first in atoms and second in atoms:
            _add(bonds, atoms[first], atoms[second])


def _add(bonds: _Bonds, first: app.topology.Atom, second: app.topology.Atom) -> None:
    low, high = sorted((first.index, second.index))
    bonds.setdefault((low, high), (first, second))
