"""From rigids and torsions back to atoms: where the atoms of a frame's topology lie."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
from openmm import app

from openmm_starmd.geometry.ideal import IDEAL, OXT, PROLINE_CG_CD, PROLINE_N_CD, ideal_atoms
from openmm_starmd.geometry.residues import AMINO_ACIDS, CHI_ATOMS, UNKNOWN, atoms_moved_by_chi
from openmm_starmd.geometry.torsions import axes_of, close_ring, dihedral, frame_axes, rotate_about
from openmm_starmd.protein.completion import ideal_oxygen
from openmm_starmd.protein.residues import PSI_AND_CHI

GEOMETRIES = ("input", "ideal")
PUCKER = np.deg2rad(45.0)
"""Largest χ1 of proline, radians: the ring closes no further out. An input's own larger angle is kept."""


class BackMap:
    """Places the atoms of a topology on N, CA and C of its residues, and measures their torsions.

    Bond lengths and angles are those of `positions`; a turn of χ moves all beyond its bond and keeps them. Two things
    cannot be kept by turning alone. The ring of proline closes: where χ1 or χ2 is given, χ1 is held within `PUCKER`,
    and CD goes to the place nearest to the one that χ1 and χ2 ask for at which N-CD and CG-CD have their lengths.
    And a disulfide opens where the two χ1 asked for do not suit one another.

    Parameters
    ----------
    topology : app.Topology
        Every residue has N, CA, C and O.
    positions : np.ndarray [atoms, 3]
        Their geometry in the input, nm: bond lengths, angles and side chains are taken from here.
    bonded : np.ndarray [N - 1], bool
        Whether residue i is peptide-bonded to residue i + 1.
    """

    def __init__(self, topology: app.Topology, positions: np.ndarray, bonded: np.ndarray) -> None:
        self.topology = topology
        named = [{atom.name: atom.index for atom in residue.atoms()} for residue in topology.residues()]
        owner = np.array([atom.residue.index for atom in topology.atoms()])
        self._backbone = np.array([[atoms["N"], atoms["CA"], atoms["C"]] for atoms in named])
        linked = np.append(bonded, False)
        self._bonded = bonded
        self._linked = np.flatnonzero(linked)
        self._oxygen = np.array([atoms["O"] for atoms in named])
        self._linked_oxygen = self._oxygen[linked]
        free = [
            (atoms[name], i) for i, atoms in enumerate(named) if not linked[i] for name in ("O", "OXT") if name in atoms
        ]
        self._free_atoms, self._free_owner = np.array(free).T
        self._carried = np.setdiff1d(np.arange(len(owner)), np.append(self._backbone, self._linked_oxygen))
        self._carrier = owner[self._carried]
        # terminal oxygens hang on C, all others on CA
        self._origin = np.where(np.isin(self._carried, self._free_atoms), 2, 1)
        self._chi = [_chi_group(topology, named, index) for index in range(4)]
        rings = [
            (i, atoms["N"], atoms["CG"], atoms["CD"])
            for i, (residue, atoms) in enumerate(zip(topology.residues(), named, strict=True))
            if residue.name == "PRO" and {"CG", "CD"} <= atoms.keys()
        ]
        self._rings = np.array(rings, int).reshape(-1, 4)
        self._take_geometry(positions)

    def _take_geometry(self, positions: np.ndarray) -> None:
        """Measure what placing keeps of `positions` [..., atoms, 3]."""
        self.positions = positions
        own = positions[..., self._backbone, :]
        bonds = positions[..., self._linked_oxygen, :] - own[..., self._linked, 2, :]
        self._carbonyl = _rotated(np.swapaxes(_peptide_axes(own, self._linked), -1, -2), bonds)
        arms = positions[..., self._carried, :] - own[..., self._carrier, self._origin, :]
        self._local = _rotated(np.swapaxes(axes_of(own), -1, -2)[..., self._carrier, :, :], arms)
        n, cg, cd = (positions[..., atom, :] for atom in self._rings.T[1:])
        self._ring_bonds = np.linalg.norm(cd - n, axis=-1), np.linalg.norm(cd - cg, axis=-1)
        ring_chi = self.measure(positions)[..., self._rings[:, 0], 3]
        self._pucker = np.maximum(PUCKER, np.abs(ring_chi))

    def with_geometry(self, positions: np.ndarray) -> BackMap:
        """The same topology with the bond lengths, angles and side chains of other positions [..., atoms, 3], nm."""
        other = copy.copy(self)
        other._take_geometry(positions)
        return other

    def with_ideal_geometry(self) -> BackMap:
        """The same topology and torsions with the bond lengths and angles of :mod:`openmm_starmd.geometry.ideal`.

        N, CA and C stay, and so do residues of unknown type.
        """
        own = self.positions[self._backbone]
        torsions = self.measure(self.positions)[:, PSI_AND_CHI]
        residues = list(self.topology.residues())
        types = np.array([AMINO_ACIDS.index(r.name) if r.name in AMINO_ACIDS else UNKNOWN for r in residues])
        made = ideal_atoms(types, own, np.nan_to_num(torsions))
        oxygen = ideal_oxygen(own, self._bonded)
        ideal = self.positions.copy()
        linked = np.append(self._bonded, False)
        for i, residue in enumerate(residues):
            if types[i] == UNKNOWN:
                continue
            column = {name: k for k, name in enumerate(IDEAL[residue.name])}
            order = sorted(column, key=lambda name: column[name])
            for atom in residue.atoms():
                if atom.name == "O":
                    ideal[atom.index] = oxygen[i] if linked[i] else made[i, 3]
                elif atom.name == "OXT":
                    frame = frame_axes(own[i, 2] - own[i, 1], own[i, 0] - own[i, 1])
                    flat = own[i, 2] + frame @ OXT
                    ideal[atom.index] = rotate_about(flat, own[i, 2], own[i, 2] - own[i, 1], torsions[i, 0])
                elif atom.name not in ("N", "CA", "C"):
                    ideal[atom.index] = made[i, order.index(atom.name)]
        _, n, cg, cd = self._rings.T
        ideal[cd] = close_ring(ideal[n], ideal[cg], ideal[cd], PROLINE_N_CD, PROLINE_CG_CD)
        mapped = self.with_geometry(ideal)
        # torsions are off by a little, since the table's N, CA and C are not quite the input's: turn them back
        return self.with_geometry(mapped.place(own, torsions))

    @property
    def backbone(self) -> np.ndarray:
        """Atoms N, CA and C of each residue, [N, 3]."""
        return self._backbone

    def place(self, backbone: np.ndarray, torsions: np.ndarray | None = None) -> np.ndarray:
        """Positions of all atoms.

        Parameters
        ----------
        backbone : np.ndarray [..., N, 3, 3]
            N, CA, C, nm; they come back to the bit.
        torsions : np.ndarray [..., N, 5 or 7], optional
            ψ and χ1..4, or φ, ψ, ω, χ1..4 as :meth:`measure` gives them, radians. NaN, like None, leaves the geometry's
            own angle. ψ turns the O (and OXT) of residues that are not bonded to a next one; elsewhere O follows from
            CA, C and the next N, and φ, ψ and ω are what the backbone says.

        Returns
        -------
        np.ndarray [..., atoms, 3]
            nm.
        """
        asked = () if torsions is None else torsions.shape[:-2]
        frames = np.broadcast_shapes(backbone.shape[:-3], self.positions.shape[:-2], asked)
        placed = np.empty((*frames, self.positions.shape[-2], 3))
        placed[..., self._backbone, :] = backbone
        arms = _rotated(axes_of(backbone)[..., self._carrier, :, :], self._local)
        placed[..., self._carried, :] = backbone[..., self._carrier, self._origin, :] + arms
        bonds = _rotated(_peptide_axes(backbone, self._linked), self._carbonyl)
        placed[..., self._linked_oxygen, :] = backbone[..., self._linked, 2, :] + bonds
        if torsions is not None:
            if torsions.shape[-1] == 7:
                torsions = torsions[..., PSI_AND_CHI]
            self._turn_free_oxygens(placed, torsions[..., 0])
            torsions = self._within_pucker(torsions)
            for index, group in enumerate(self._chi):
                _turn_chi(placed, group, torsions[..., index + 1])
            self._close_rings(placed, torsions)
        return placed

    def measure(self, positions: np.ndarray) -> np.ndarray:
        """Torsions of positions [..., atoms, 3]: φ, ψ, ω (to the next residue), χ1..4 in radians, [..., N, 7].

        NaN where there is none; but where there is no next residue, ψ is the angle that O stands for.
        """
        backbone = positions[..., self._backbone, :]
        n, ca, c = np.moveaxis(backbone, -2, 0)
        measured = np.full((*backbone.shape[:-2], 7), np.nan)
        i = self._linked
        measured[..., i + 1, 0] = dihedral(c[..., i, :], n[..., i + 1, :], ca[..., i + 1, :], c[..., i + 1, :])
        measured[..., :, 1] = _opposite(dihedral(n, ca, c, positions[..., self._oxygen, :]))
        measured[..., i, 1] = dihedral(n[..., i, :], ca[..., i, :], c[..., i, :], n[..., i + 1, :])
        measured[..., i, 2] = dihedral(ca[..., i, :], c[..., i, :], n[..., i + 1, :], ca[..., i + 1, :])
        for index, group in enumerate(self._chi):
            quartets = np.moveaxis(positions[..., group.quartets, :], -2, 0)
            measured[..., group.residues, index + 3] = dihedral(*quartets)
        return measured

    def _turn_free_oxygens(self, placed: np.ndarray, psi: np.ndarray) -> None:
        owner = self._free_owner
        n, ca, c = np.moveaxis(placed[..., self._backbone[owner], :], -2, 0)
        # O lies opposite to where the next N would be
        now = dihedral(n, ca, c, placed[..., self._oxygen[owner], :])
        turn = np.nan_to_num(psi[..., owner] + np.pi - now)
        placed[..., self._free_atoms, :] = rotate_about(placed[..., self._free_atoms, :], c, c - ca, turn)

    def _within_pucker(self, torsions: np.ndarray) -> np.ndarray:
        residues = self._rings[:, 0]
        chi = torsions[..., residues, 1]
        bounded = torsions.copy()
        bounded[..., residues, 1] = np.clip(np.arctan2(np.sin(chi), np.cos(chi)), -self._pucker, self._pucker)
        return bounded

    def _close_rings(self, placed: np.ndarray, torsions: np.ndarray) -> None:
        residues, n, cg, cd = self._rings.T
        asked = np.isfinite(torsions[..., residues, 1:3]).any(-1)[..., None]
        here = placed[..., cd, :]
        closed = close_ring(placed[..., n, :], placed[..., cg, :], here, *self._ring_bonds)
        placed[..., cd, :] = np.where(asked, closed, here)


def _rotated(axes: np.ndarray, arms: np.ndarray) -> np.ndarray:
    return (axes @ arms[..., None])[..., 0]


def _opposite(angle: np.ndarray) -> np.ndarray:
    return np.arctan2(-np.sin(angle), -np.cos(angle))


@dataclass(frozen=True)
class _ChiGroup:
    """All χ angles of one index: their residues [M] and quartets [M, 4]; the atoms that turn [K] and by which χ [K]."""

    residues: np.ndarray
    quartets: np.ndarray
    moved: np.ndarray
    by: np.ndarray


def _chi_group(topology: app.Topology, named: list[dict[str, int]], index: int) -> _ChiGroup:
    residues: list[int] = []
    quartets: list[list[int]] = []
    moved: list[int] = []
    by: list[int] = []
    for residue, atoms in zip(topology.residues(), named, strict=True):
        chis = CHI_ATOMS.get(residue.name, ())
        if index >= len(chis) or any(name not in atoms for name in chis[index]):
            continue
        turning = [atoms[name] for name in atoms_moved_by_chi(residue.name, index) if name in atoms]
        moved += turning
        by += [len(residues)] * len(turning)
        residues.append(residue.index)
        quartets.append([atoms[name] for name in chis[index]])
    return _ChiGroup(
        np.array(residues, int), np.array(quartets, int).reshape(-1, 4), np.array(moved, int), np.array(by, int)
    )


def _turn_chi(placed: np.ndarray, group: _ChiGroup, target: np.ndarray) -> None:
    a, b, c, d = np.moveaxis(placed[..., group.quartets, :], -2, 0)
    turn = np.nan_to_num(target[..., group.residues] - dihedral(a, b, c, d))
    axis = c - b
    by = group.by
    placed[..., group.moved, :] = rotate_about(
        placed[..., group.moved, :], b[..., by, :], axis[..., by, :], turn[..., by]
    )


def _peptide_axes(backbone: np.ndarray, linked: np.ndarray) -> np.ndarray:
    """Axes [..., K, 3, 3] of the peptide planes behind residues `linked` [K]: x along C→CA, y towards the next N."""
    c = backbone[..., linked, 2, :]
    return frame_axes(backbone[..., linked, 1, :] - c, backbone[..., linked + 1, 0, :] - c)
