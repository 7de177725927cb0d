"""The all-atom molecule behind a Protein, hydrogens and all: built once, placed on any number of frames."""

from __future__ import annotations

from typing import Any

import numpy as np
from openmm import app, unit

from openmm_starmd.atoms.building import check_templates, correct_hydrogens, hydrogenated, with_termini
from openmm_starmd.geometry.residues import PEPTIDE_BOND
from openmm_starmd.geometry.torsions import axes_of, frame_axes
from openmm_starmd.protein.backmap import BackMap
from openmm_starmd.protein.periodic import make_whole
from openmm_starmd.protein.protein import Protein
from openmm_starmd.protein.selection import Selected, label, select_protein
from openmm_starmd.protein.topologies import box_vectors, checked_positions


class AllAtomModel:
    """The all-atom molecule behind a Protein: built once, placed many times.

    Heavy atoms are placed from rigids and torsions. Every hydrogen rides on three heavy atoms: its parent and two
    others nearest to it, so it turns with the χ that turns its parent, and an amide hydrogen lies in the peptide plane
    of the residue before. Hydroxyl, methyl and ammonium hydrogens keep the torsion they were built with. Caps and
    ligands that are bonded to a residue ride on it alike; all other atoms (solvent, ions) stay where they are.

    Attributes
    ----------
    protein : Protein
    topology : app.Topology
        All atoms with hydrogens, residues in the order of the protein's; where a chain is broken, a chain of its own
        begins in a model that :meth:`build` made.
    positions : np.ndarray [atoms, 3]
        nm, as built.
    heavy : np.ndarray [heavy atoms], int
        Index of each atom of ``protein.frame_topology("heavy")`` in `topology`.
    others : np.ndarray, int
        Atoms that do not move with the protein.
    """

    def __init__(
        self, protein: Protein, topology: app.Topology, positions: np.ndarray, heavy: np.ndarray, mapping: BackMap
    ) -> None:
        self.protein = protein
        self.topology = topology
        self.positions = positions
        self.heavy = heavy
        self._riders, anchors = _anchors(topology, heavy, mapping)
        self._anchors = heavy[anchors].reshape(-1, 3)
        moving = np.zeros(len(positions), bool)
        moving[heavy] = moving[self._riders] = True
        self.others = np.flatnonzero(~moving)
        self._map = mapping.with_geometry(positions[heavy])
        self._arms = self._measure_arms(positions)

    @classmethod
    def build(cls, protein: Protein, forcefield: app.ForceField, *, pH: float = 7.0) -> AllAtomModel:
        """Add what a force field needs: missing side-chain atoms, terminal oxygens, hydrogens.

        Protonation states are OpenMM's choice at this pH (cysteines of a disulfide have no HG; the hydrogen of a
        neutral histidine follows from its hydrogen bonds). Both ends of every chain, and of every break in one, are
        made charged termini. The same protein gives the same model, whatever its orientation.

        Parameters
        ----------
        protein : Protein
        forcefield : app.ForceField
            What the model is to be simulated with.
        pH : float

        Returns
        -------
        AllAtomModel

        Raises
        ------
        ValueError
            If the force field has no template for a residue; names it.
        """
        complete = protein.backmap("heavy")
        topology, positions, at = with_termini(complete, protein.bonded)
        # hydrogens are added in the axes of the first residue, so that a rotated input gets the same ones
        anchor = complete.positions[complete.backbone[0]]
        axes = axes_of(anchor)
        local = (positions - anchor[1]) @ axes * unit.nanometer
        try:
            # without a force field amide and aromatic hydrogens come out of plane, by up to 70 degrees
            modeller = hydrogenated(topology, local, forcefield, pH)
        except ValueError:
            modeller = hydrogenated(topology, local, None, pH)
            check_templates(protein, modeller.topology, forcefield)
        built = np.array(modeller.positions.value_in_unit(unit.nanometer)) @ axes.T + anchor[1]
        built = correct_hydrogens(modeller.topology, built)
        places = [{atom.name: atom.index for atom in residue.atoms()} for residue in modeller.topology.residues()]
        heavy = np.array([places[residue][name] for residue, name in at])
        # turning to those axes and back has rounded the heavy atoms
        built[heavy] = complete.positions
        return cls(protein, modeller.topology, built, heavy, complete)

    @classmethod
    def from_topology(cls, protein: Protein, topology: app.Topology, positions: Any) -> AllAtomModel:
        """A user's own all-atom topology, with whatever protonation, caps and solvent it has.

        Parameters
        ----------
        protein : Protein
            Of that topology, or of the same residues (chain, number, insertion code) in another one.
        topology : app.Topology
        positions : Quantity or array [atoms, 3]
            nm; a protein that is split across the periodic box is made whole.

        Returns
        -------
        AllAtomModel

        Raises
        ------
        ValueError
            If a residue or heavy atom of the protein is not there; names it.
        """
        xyz = checked_positions(topology, positions)
        _, vectors = box_vectors(topology)
        kept = _matched(protein, select_protein(topology, xyz, vectors).kept)
        complete = protein.backmap("heavy")
        heavy = np.empty(complete.topology.getNumAtoms(), int)
        for residue, selected in zip(complete.topology.residues(), kept, strict=True):
            for atom in residue.atoms():
                found = selected.atoms.get(atom.name)
                if found is None:
                    raise ValueError(
                        f"{label(residue)} has no atom {atom.name} in the all-atom topology: complete it first, or let "
                        "AllAtomModel.build do so"
                    )
                heavy[atom.index] = found.index
        if vectors is not None:
            xyz = _whole(xyz, kept, heavy[complete.backbone], vectors)
        return cls(protein, topology, xyz, heavy, complete)

    def place(self, backbone: np.ndarray, torsions: np.ndarray | None = None) -> np.ndarray:
        """Positions of all atoms.

        Parameters
        ----------
        backbone : np.ndarray [..., N, 3, 3]
            N, CA, C, nm.
        torsions : np.ndarray [..., N, 5 or 7], optional
            As :meth:`BackMap.place` reads them; the model's own by default.

        Returns
        -------
        np.ndarray [..., atoms, 3]
            nm.
        """
        return self._ride(self._map.place(backbone, torsions), self.positions, self._arms)

    def carry(self, positions: np.ndarray, backbone: np.ndarray) -> np.ndarray:
        """Side chains and hydrogens of given positions carried rigidly on new backbones.

        Parameters
        ----------
        positions : np.ndarray [..., atoms, 3]
            nm.
        backbone : np.ndarray [..., N, 3, 3]
            N, CA, C, nm.

        Returns
        -------
        np.ndarray [..., atoms, 3]
            nm; atoms that are not the protein's stay.
        """
        placed = self._map.with_geometry(positions[..., self.heavy, :]).place(backbone)
        return self._ride(placed, positions, self._measure_arms(positions))

    def dress(self, heavy: np.ndarray) -> np.ndarray:
        """Hydrogens, and whatever else rides on heavy atoms, added to frames that have those.

        Parameters
        ----------
        heavy : np.ndarray [..., heavy atoms, 3]
            Atoms of ``protein.frame_topology("heavy")``, nm; they come back to the bit.

        Returns
        -------
        np.ndarray [..., atoms, 3]
            nm.
        """
        return self._ride(heavy, self.positions, self._arms)

    def measure(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Backbones and torsions of positions.

        Parameters
        ----------
        positions : np.ndarray [..., atoms, 3]
            nm, the protein whole.

        Returns
        -------
        backbone : np.ndarray [..., N, 3, 3]
            N, CA, C, nm.
        torsions : np.ndarray [..., N, 7]
            φ, ψ, ω, χ1..4, radians; 0 where there is none, as :attr:`Protein.torsions` has them.
        """
        heavy = positions[..., self.heavy, :]
        return heavy[..., self._map.backbone, :], np.nan_to_num(self._map.measure(heavy))

    def _measure_arms(self, positions: np.ndarray) -> np.ndarray:
        parent, axes = self._frames(positions)
        arms = positions[..., self._riders, :] - parent
        return (np.swapaxes(axes, -1, -2) @ arms[..., None])[..., 0]

    def _ride(self, heavy: np.ndarray, others: np.ndarray, arms: np.ndarray) -> np.ndarray:
        """All atoms: `heavy` as placed, what rides on them by its `arms`, the rest as in `others`."""
        placed = np.broadcast_to(others, (*heavy.shape[:-2], *others.shape[-2:])).copy()
        placed[..., self.heavy, :] = heavy
        parent, axes = self._frames(placed)
        placed[..., self._riders, :] = parent + (axes @ arms[..., None])[..., 0]
        return placed

    def _frames(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Origin [..., K, 3] and axes [..., K, 3, 3] of the anchors of each rider."""
        parent, first, second = (positions[..., atom, :] for atom in self._anchors.T)
        return parent, frame_axes(first - parent, second - parent)


def _matched(protein: Protein, kept: list[Selected]) -> list[Selected]:
    """The residues of an all-atom topology in the order of the protein's."""
    names = [residue.name for residue in protein.topology.residues()]
    if [selected.name for selected in kept] == names:
        return kept
    by_place = {_place(selected.residue): selected for selected in kept}
    found = []
    for residue in protein.topology.residues():
        selected = by_place.get(_place(residue))
        if selected is None or selected.name != residue.name:
            there = f"is {selected.name} there" if selected else "is not there"
            raise ValueError(
                f"{label(residue)} {there}, in the all-atom topology: it must hold the protein's residues under the "
                "same chain and number"
            )
        found.append(selected)
    return found


def _place(residue: app.topology.Residue) -> tuple[str, str, str]:
    return residue.chain.id, residue.id, (residue.insertionCode or "").strip()


def _whole(xyz: np.ndarray, kept: list[Selected], backbone: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Positions with the atoms of the kept residues made whole across the box."""
    atoms = [[atom.index for atom in selected.residue.atoms()] for selected in kept]
    flat = np.concatenate(atoms)
    owner = np.repeat(np.arange(len(kept)), [len(some) for some in atoms])
    where = {int(atom): row for row, atom in enumerate(flat)}
    rows = np.array([[where[int(atom)] for atom in residue] for residue in backbone])
    chain = np.array([selected.residue.chain.index for selected in kept])
    whole = xyz.copy()
    whole[flat] = make_whole(xyz[flat], owner, rows, chain, vectors, PEPTIDE_BOND)
    return whole


def _anchors(topology: app.Topology, heavy: np.ndarray, mapping: BackMap) -> tuple[np.ndarray, np.ndarray]:
    """What rides on the heavy atoms: its atoms [K], and three heavy atoms each, [K, 3], as indices into `heavy`.

    The first is the heavy atom it hangs on, the others that atom's neighbours, or a neighbour and its neighbour.
    """
    rank = {int(atom): k for k, atom in enumerate(heavy)}
    neighbours: dict[int, list[int]] = {k: [] for k in range(topology.getNumAtoms())}
    for first, second in topology.bonds():
        neighbours[first.index].append(second.index)
        neighbours[second.index].append(first.index)
    owner = [atom.residue.index for atom in mapping.topology.atoms()]
    carried: dict[int, int] = {}
    frontier = [int(atom) for atom in heavy]
    while frontier:
        here = frontier.pop()
        for there in neighbours[here]:
            if there not in rank and there not in carried:
                carried[there] = carried.get(here, here)
                frontier.append(there)
    riders = sorted(carried)
    return np.array(riders, int), np.array([_frame_of(carried[r], rank, neighbours, owner) for r in riders], int)


def _frame_of(parent: int, rank: dict[int, int], neighbours: dict[int, list[int]], owner: list[int]) -> list[int]:
    """`parent` and two more heavy atoms that fix a frame with it: nearest along bonds, those of its residue first."""
    home = owner[rank[parent]]

    def near(atom: int) -> list[int]:
        # a disulfide's partner moves on its own; the residue before holds the peptide plane
        known = [there for there in neighbours[atom] if there in rank and abs(owner[rank[there]] - home) <= 1]
        return sorted(known, key=lambda there: (owner[rank[there]] != home, rank[there]))

    found = near(parent)
    for atom in list(found):
        found += [there for there in near(atom) if there != parent and there not in found]
    return [rank[parent], rank[found[0]], rank[found[1]]]
