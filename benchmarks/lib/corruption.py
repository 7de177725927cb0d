"""Ways to spoil an MD frame, from hardly to grossly: what a verdict must find."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from openmm import app

from openmm_starmd.analysis.defects import POLAR_ALLOWANCE, RADII
from openmm_starmd.geometry.residues import CHI_ATOMS, atoms_moved_by_chi
from openmm_starmd.geometry.torsions import dihedral, rotate_about

SEVERITIES = ("mild", "medium", "gross")
STRETCH = {"mild": 0.04, "medium": 0.1, "gross": 0.3}  # nm that a peptide bond is pulled apart
TWIST = {"mild": 50.0, "medium": 75.0, "gross": 180.0}  # degrees of ω from 180
OVERLAP = {"mild": (0.08, 0.15), "medium": (0.15, 0.25)}  # nm, of a side chain with another residue
CROSSING = 0.25  # nm between CA, below which a gross clash lies
INVERTED = {"mild": 1, "medium": 2, "gross": 3}  # residues


class Spoiled(NamedTuple):
    """A spoiled frame: positions [atoms, 3], nm, and the residues that are to blame."""

    positions: np.ndarray
    residues: tuple[int, ...]


class Corruption:
    """Spoils frames of one protein.

    Parameters
    ----------
    topology : openmm.app.Topology
        Heavy atoms of single-chain frames, N residues.
    """

    def __init__(self, topology: app.Topology) -> None:
        self._residues = list(topology.residues())
        self._places = [{atom.name: atom.index for atom in residue.atoms()} for residue in self._residues]
        self._owner = np.array([atom.residue.index for atom in topology.atoms()])
        elements = [atom.element.symbol for atom in topology.atoms()]
        self._radii = np.array([RADII.get(element, 0.17) for element in elements])
        self._polar = np.isin(elements, ("N", "O", "S"))

    def broken_chain(self, xyz: np.ndarray, severity: str, rng: np.random.Generator) -> Spoiled:
        """Pull a peptide bond apart, all that follows moved along."""
        i = int(rng.integers(2, len(self._residues) - 3))
        carbon, nitrogen = xyz[self._places[i]["C"]], xyz[self._places[i + 1]["N"]]
        bond = (nitrogen - carbon) / np.linalg.norm(nitrogen - carbon)
        xyz = np.where(self._owner[:, None] > i, xyz + STRETCH[severity] * bond, xyz)
        return Spoiled(xyz, (i, i + 1))

    def twisted_peptide(self, xyz: np.ndarray, severity: str, rng: np.random.Generator) -> Spoiled:
        """Turn a peptide bond near the end of the chain, so that what follows hits little."""
        count = len(self._residues)
        i = int(rng.integers(count - 9, count - 3))
        here, behind = self._places[i], self._places[i + 1]
        ca, c, n, after = (xyz[k] for k in (here["CA"], here["C"], behind["N"], behind["CA"]))
        turn = np.pi - np.radians(TWIST[severity]) - dihedral(ca, c, n, after)
        moved = (self._owner > i) & (np.arange(len(xyz)) != behind["N"])
        xyz = xyz.copy()
        xyz[moved] = rotate_about(xyz[moved], n, n - c, np.full(int(moved.sum()), turn))
        return Spoiled(xyz, (i, i + 1))

    def d_amino_acid(self, xyz: np.ndarray, severity: str, rng: np.random.Generator) -> Spoiled:
        """Mirror side chains in the plane of N, CA and C."""
        fit = [
            i for i, r in enumerate(self._residues) if r.name not in ("GLY", "PRO") and 0 < i < len(self._residues) - 1
        ]
        chosen = sorted(int(i) for i in rng.choice(fit, INVERTED[severity], replace=False))
        xyz = xyz.copy()
        for i in chosen:
            n, ca, c = (xyz[self._places[i][name]] for name in ("N", "CA", "C"))
            normal = np.cross(n - ca, c - ca)
            normal /= np.linalg.norm(normal)
            side = [index for name, index in self._places[i].items() if name not in ("N", "CA", "C", "O", "OXT")]
            xyz[side] -= 2 * ((xyz[side] - ca) @ normal)[:, None] * normal
        return Spoiled(xyz, tuple(chosen))

    def clash(self, xyz: np.ndarray, severity: str, rng: np.random.Generator) -> Spoiled:
        """Turn a side chain, or for a gross one the rest of the chain, into other atoms."""
        tries = [self._crossed(xyz, rng) if severity == "gross" else self._pushed(xyz, OVERLAP[severity], rng)]
        if tries[0] is None:
            raise ValueError(f"no {severity} clash can be made of this frame")
        return tries[0]

    def _pushed(self, xyz: np.ndarray, wanted: tuple[float, float], rng: np.random.Generator) -> Spoiled | None:
        fit = [i for i, residue in enumerate(self._residues) if CHI_ATOMS.get(residue.name) and residue.name != "PRO"]
        for i in rng.permutation(fit):
            names = self._places[i]
            moved = np.array([names[name] for name in atoms_moved_by_chi(self._residues[i].name, 0)])
            origin, axis = xyz[names["CA"]], xyz[names["CB"]] - xyz[names["CA"]]
            for turn in np.radians(rng.permutation(np.arange(20, 360, 10))):
                made = xyz.copy()
                made[moved] = rotate_about(xyz[moved], origin, axis, np.full(len(moved), turn))
                overlap, other = self._overlap(made, moved, int(i))
                if wanted[0] < overlap < wanted[1]:
                    return Spoiled(made, tuple(sorted((int(i), other))))
        return None

    def _overlap(self, xyz: np.ndarray, moved: np.ndarray, residue: int) -> tuple[float, int]:
        """Largest overlap of `moved` with atoms of residues that are no neighbours, and with which residue."""
        others = np.flatnonzero(np.abs(self._owner - residue) > 1)
        distance = np.linalg.norm(xyz[moved][:, None] - xyz[others], axis=-1)
        allowance = POLAR_ALLOWANCE * (self._polar[moved][:, None] & self._polar[others])
        overlap = self._radii[moved][:, None] + self._radii[others] - distance - allowance
        place = int(overlap.max(0).argmax())
        return float(overlap.max()), int(self._owner[others[place]])

    def _crossed(self, xyz: np.ndarray, rng: np.random.Generator) -> Spoiled | None:
        alphas = np.array([place["CA"] for place in self._places])
        count = len(alphas)
        for i in rng.permutation(np.arange(count // 4, 3 * count // 4)):
            ca, c = xyz[self._places[i]["CA"]], xyz[self._places[i]["C"]]
            moved = (self._owner > i) | (np.arange(len(xyz)) == self._places[i]["O"])
            for turn in np.radians(rng.permutation(np.arange(20, 360, 10))):
                made = xyz.copy()
                made[moved] = rotate_about(xyz[moved], c, c - ca, np.full(int(moved.sum()), turn))
                between = np.linalg.norm(made[alphas[: i + 1], None] - made[alphas[i + 1 :]], axis=-1)
                between[-2:, :2] = np.inf
                if between.min() < CROSSING:
                    rows, columns = np.nonzero(between < CROSSING)
                    return Spoiled(made, tuple(sorted({*map(int, rows), *map(int, columns + i + 1)})))
        return None


KINDS: dict[str, Callable[[Corruption, np.ndarray, str, np.random.Generator], Spoiled]] = {
    "clash": Corruption.clash,
    "broken chain": Corruption.broken_chain,
    "D-amino acid": Corruption.d_amino_acid,
    "twisted peptide": Corruption.twisted_peptide,
}
