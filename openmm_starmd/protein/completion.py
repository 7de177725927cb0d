"""Atoms that an input lacks: carbonyl oxygens and side chains, by ideal geometry.

PDBFixer is not asked: from N, CA, C and O alone it built D-amino acids.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from openmm_starmd.geometry.ideal import FREE_PSI, IDEAL, PROLINE_CG_CD, PROLINE_N_CD
from openmm_starmd.geometry.residues import CARBONYL_ANGLE, CARBONYL_LENGTH, CHI_ATOMS
from openmm_starmd.geometry.torsions import axes_of, close_ring, frame_axes, rotate_about
from openmm_starmd.protein.residues import missing_heavy_atoms

if TYPE_CHECKING:
    from openmm import app

_BEND = np.deg2rad(CARBONYL_ANGLE)

_REACH, _CONTACT = 1.4, 0.36  # nm
_SWEEPS = 3
# Degrees to try for chi angles that no atom decides
_STAGGERED = (-60.0, 180.0, 60.0)
_AMIDE = (-40.0, 0.0, 40.0, 140.0, 180.0, -140.0)
_ROTAMERS = {
    ("ASN", 2): _AMIDE,
    ("ASP", 2): _AMIDE[:3],
    ("GLN", 3): _AMIDE,
    ("GLU", 3): _AMIDE[:3],
    ("HIS", 2): (-90.0, 90.0),
    ("PHE", 2): (90.0,),
    ("PRO", 1): (28.0, -28.0),
    ("PRO", 2): (-36.0, 36.0),
    ("TRP", 2): (-90.0, 90.0),
    ("TYR", 2): (90.0,),
}


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
    side = np.where(behind, -1.0, 1.0) * np.sin(_BEND)
    direction = np.cos(_BEND) * plane[..., 0] + side[:, None] * plane[..., 1]
    oxygen = c + CARBONYL_LENGTH * direction
    turn = np.where(behind, 0.0, FREE_PSI - np.pi)
    return rotate_about(oxygen, c, c - ca, turn)


def build_missing_atoms(topology: app.Topology, positions: np.ndarray) -> dict[tuple[int, str], np.ndarray]:
    """Positions of heavy atoms that side chains lack, of ideal geometry and the hand of L-amino acids.

    Atoms that are there decide the torsion of those that share it with them. Torsions that nothing decides take the
    rotamer, all combinations tried, that leaves most room to the other residues; residues are gone through three times.

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
    wanted = {i: [name for name in names if name != "O"] for i, names in missing_heavy_atoms(topology).items()}
    owner = np.array([atom.residue.index for atom in topology.atoms()])
    residues = [residue for residue in topology.residues() if wanted.get(residue.index)]
    built: dict[int, dict[str, np.ndarray]] = {}
    for _ in range(_SWEEPS):
        for residue in residues:
            known = {atom.name: positions[atom.index] for atom in residue.atoms()}
            others = [positions[owner != residue.index]]
            others += [np.array(list(made.values())) for i, made in built.items() if i != residue.index]
            around = np.concatenate(others)
            around = around[np.linalg.norm(around - known["CA"], axis=-1) < _REACH]
            best = _roomiest(residue.name, known, wanted[residue.index], around)
            built[residue.index] = {name: best[name] for name in wanted[residue.index]}
    return {(i, name): place for i, made in built.items() for name, place in made.items()}


def _roomiest(name: str, known: dict[str, np.ndarray], lacking: list[str], around: np.ndarray) -> dict[str, np.ndarray]:
    """The way to complete a residue that overlaps least with the atoms `around` [M, 3]."""
    best, least = known, np.inf
    for candidate in _conformers(name, known):
        apart = np.linalg.norm(np.array([candidate[atom] for atom in lacking])[:, None] - around[None], axis=-1)
        crowding = float((np.maximum(_CONTACT - apart, 0.0) ** 2).sum())
        if name == "PRO":
            crowding += 100 * (float(np.linalg.norm(candidate["CD"] - known["N"])) - PROLINE_N_CD) ** 2
        if crowding < least - 1e-9:
            best, least = candidate, crowding
    if "CD" in lacking and name == "PRO":
        best["CD"] = close_ring(best["N"], best["CG"], best["CD"], PROLINE_N_CD, PROLINE_CG_CD)
    return best


def _conformers(name: str, known: dict[str, np.ndarray], group: int = 2) -> Iterator[dict[str, np.ndarray]]:
    """All ways to complete a residue of which the atoms `known` (name to position, nm) are there."""
    table = IDEAL[name]
    if "CB" in table and "CB" not in known:
        own = np.array([known[atom] for atom in ("N", "CA", "C")])
        known = known | {"CB": known["CA"] + axes_of(own) @ table["CB"][1]}
    if group - 2 == len(CHI_ATOMS[name]):
        yield known
        return
    first, near, far = (known[atom] for atom in CHI_ATOMS[name][group - 2][:3])
    axes = frame_axes(far - near, first - near)
    local = {atom: place for atom, (own_group, place) in table.items() if own_group == group}
    there = [atom for atom in local if atom in known]
    if there:
        arm = axes.T @ (known[there[0]] - far)
        angles = [np.arctan2(arm[2], arm[1]) - np.arctan2(local[there[0]][2], local[there[0]][1])]
    else:
        angles = np.deg2rad(_ROTAMERS.get((name, group - 1), _STAGGERED)).tolist()
    for angle in angles:
        turn = rotate_about(np.array(list(local.values())), np.zeros(3), np.array([1.0, 0.0, 0.0]), np.array(angle))
        made = {atom: far + axes @ place for atom, place in zip(local, turn, strict=True)}
        yield from _conformers(name, made | known, group + 1)
