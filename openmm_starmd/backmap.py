"""From backbones back to atoms: what a frame's topology holds, and where its atoms lie."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from openmm import Platform, app, unit

from openmm_starmd.geometry.residues import CHI_ATOMS, HEAVY_ATOMS, atoms_moved_by_chi
from openmm_starmd.geometry.torsions import axes_of, dihedral, frame_axes, rotate_about
from openmm_starmd.selection import label

# Carbonyl of a residue that came without O: C=O 1.231 Å, CA-C-O 120.1° (Engh and Huber 2001)
CARBONYL_LENGTH = 0.1231
CARBONYL_ANGLE = np.deg2rad(120.1)
FREE_PSI = np.deg2rad(135.0)


class BackMap:
    """Places the atoms of a topology on N, CA and C of its residues.

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
        self.positions = positions
        named = [{atom.name: atom.index for atom in residue.atoms()} for residue in self.topology.residues()]
        owner = np.array([atom.residue.index for atom in self.topology.atoms()])
        self._backbone = np.array([[atoms["N"], atoms["CA"], atoms["C"]] for atoms in named])
        own = self.positions[self._backbone]

        linked = np.append(bonded, False)
        oxygen = np.array([atoms["O"] for atoms in named])
        self._linked = np.flatnonzero(linked)
        self._linked_oxygen = oxygen[linked]
        bonds = self.positions[self._linked_oxygen] - own[self._linked, 2]
        self._carbonyl = _rotated(np.swapaxes(_peptide_axes(own, self._linked), -1, -2), bonds)

        free = [
            (atoms[name], i) for i, atoms in enumerate(named) if not linked[i] for name in ("O", "OXT") if name in atoms
        ]
        self._free_atoms, self._free_owner = np.array(free).T
        self._carried = np.setdiff1d(np.arange(len(owner)), np.append(self._backbone, self._linked_oxygen))
        self._carrier = owner[self._carried]
        # terminal oxygens hang on C, all others on CA
        self._origin = np.where(np.isin(self._carried, self._free_atoms), 2, 1)
        arms = self.positions[self._carried] - own[self._carrier, self._origin]
        self._local = _rotated(np.swapaxes(axes_of(own), -1, -2)[self._carrier], arms)
        self._oxygen = oxygen
        self._chi = [_chi_group(self.topology, named, index) for index in range(4)]

    @property
    def backbone(self) -> np.ndarray:
        """Atoms N, CA and C of each residue, [N, 3]."""
        return self._backbone

    def place(self, backbone: np.ndarray, torsions: np.ndarray | None = None) -> np.ndarray:
        """Positions of all atoms.

        Parameters
        ----------
        backbone : np.ndarray [N, 3, 3]
            N, CA, C, nm; they come back to the bit.
        torsions : np.ndarray [N, 5], optional
            ψ and χ1..4, radians. NaN, like None, leaves the input's own angle. ψ turns the O (and OXT) of residues
            that are not bonded to a next one; elsewhere O follows from CA, C and the next N.

        Returns
        -------
        np.ndarray [atoms, 3]
            nm.
        """
        placed = np.empty((len(self.positions), 3))
        placed[self._backbone] = backbone
        arms = _rotated(axes_of(backbone)[self._carrier], self._local)
        placed[self._carried] = backbone[self._carrier, self._origin] + arms
        bonds = _rotated(_peptide_axes(backbone, self._linked), self._carbonyl)
        placed[self._linked_oxygen] = backbone[self._linked, 2] + bonds
        if torsions is not None:
            self._turn_free_oxygens(placed, torsions[:, 0])
            for index, group in enumerate(self._chi):
                _turn_chi(placed, group, torsions[:, index + 1])
        return placed

    def _turn_free_oxygens(self, placed: np.ndarray, psi: np.ndarray) -> None:
        owner = self._free_owner
        n, ca, c = np.moveaxis(placed[self._backbone[owner]], 1, 0)
        # O lies opposite to where the next N would be
        turn = np.nan_to_num(psi[owner] + np.pi - dihedral(n, ca, c, placed[self._oxygen[owner]]))
        placed[self._free_atoms] = rotate_about(placed[self._free_atoms], c, c - ca, turn)


def _rotated(axes: np.ndarray, arms: np.ndarray) -> np.ndarray:
    return (axes @ arms[..., None])[..., 0]


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
    a, b, c, d = np.moveaxis(placed[group.quartets], 1, 0)
    turn = np.nan_to_num(target[group.residues] - dihedral(a, b, c, d))
    axis = c - b
    placed[group.moved] = rotate_about(placed[group.moved], b[group.by], axis[group.by], turn[group.by])


def _peptide_axes(backbone: np.ndarray, linked: np.ndarray) -> np.ndarray:
    """Axes [K, 3, 3] of the peptide planes behind residues `linked` [K]: x along C→CA, y towards the next N."""
    c = backbone[linked, 2]
    return frame_axes(backbone[linked, 1] - c, backbone[linked + 1, 0] - c)


def ideal_oxygen(backbone: np.ndarray, bonded: np.ndarray) -> np.ndarray:
    """Where the carbonyl O of each residue belongs.

    Parameters
    ----------
    backbone : np.ndarray [N, 3, 3]
        N, CA, C, nm.
    bonded : np.ndarray [N - 1], bool

    Returns
    -------
    np.ndarray [N, 3]
        nm; in the peptide plane, or at ψ = FREE_PSI where there is no next residue.
    """
    ca, c = backbone[:, 1], backbone[:, 2]
    behind = np.append(bonded, False)
    following = np.concatenate([backbone[1:, 0], backbone[-1:, 0]])
    # without a next N, this residue's own N marks the plane, and O is turned out of it afterwards
    other = np.where(behind[:, None], following, backbone[:, 0])
    plane = frame_axes(ca - c, other - c)
    side = np.where(behind, -1.0, 1.0) * np.sin(CARBONYL_ANGLE)
    direction = np.cos(CARBONYL_ANGLE) * plane[..., 0] + side[:, None] * plane[..., 1]
    oxygen = c + CARBONYL_LENGTH * direction
    turn = np.where(behind, 0.0, FREE_PSI - np.pi)
    return rotate_about(oxygen, c, c - ca, turn)


def missing_heavy_atoms(topology: app.Topology) -> dict[int, list[str]]:
    """Heavy atoms that each residue of `topology` lacks, by residue index; terminal OXT is not counted."""
    missing = {}
    for residue in topology.residues():
        present = {atom.name for atom in residue.atoms()}
        lacking = [name for name in HEAVY_ATOMS.get(residue.name, ()) if name not in present]
        if lacking:
            missing[residue.index] = lacking
    return missing


def build_missing_atoms(topology: app.Topology, positions: np.ndarray) -> dict[tuple[int, str], np.ndarray]:
    """Positions of heavy atoms that side chains lack, from PDBFixer.

    Parameters
    ----------
    topology : app.Topology
        Heavy atoms; every residue has N, CA, C.
    positions : np.ndarray [atoms, 3]
        nm.

    Returns
    -------
    dict of (int, str) to np.ndarray [3]
        By residue index and atom name, nm.
    """
    from pdbfixer import PDBFixer

    wanted = missing_heavy_atoms(topology)
    first = [{atom.name: atom.index for atom in residue.atoms()} for residue in topology.residues()][0]
    anchor = positions[[first["N"], first["CA"], first["C"]]]
    # in the axes of the first residue, so that a rotated input is completed alike
    axes = axes_of(anchor)
    text = io.StringIO()
    app.PDBFile.writeFile(topology, (positions - anchor[1]) @ axes * unit.nanometer, text)
    text.seek(0)
    # the Reference platform gives the same bits in every process, which an exact restart needs
    fixer = PDBFixer(pdbfile=text, platform=Platform.getPlatformByName("Reference"))
    fixer.missingResidues = {}
    fixer.findMissingAtoms()
    fixer.missingTerminals = {}
    try:
        fixer.addMissingAtoms(seed=1)
    except Exception as error:
        where = ", ".join(label(residue) for residue in topology.residues() if residue.index in wanted)
        raise ValueError(
            f"heavy atoms are missing in {where}, and PDBFixer could not add them ({error}): complete the structure "
            'first, or ask for atoms="backbone"'
        ) from error
    built = np.array(fixer.positions.value_in_unit(unit.nanometer)) @ axes.T + anchor[1]
    return {
        (residue.index, atom.name): built[atom.index]
        for residue in fixer.topology.residues()
        for atom in residue.atoms()
        if atom.name in wanted.get(residue.index, ())
    }
