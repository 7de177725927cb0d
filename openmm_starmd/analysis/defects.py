"""What is wrong with the atoms of one frame, residue by residue, before a force field sees it.

A minimiser mends a torn bond, and closes a chain over a D-amino acid, without a word: such frames must be found by
looking at them. Each kind has two limits. Beyond the first a defect is MILD: molecular dynamics does not go there, a
minimisation mends it. Beyond the second it is GRAVE: what a minimisation makes of it is another molecule, or luck.

Limits come from the MD of 59 training proteins (amber14, OBC2, 300 K; 68 runs of 20 frames; 131,000 bonds N-CA and
CA-C, 64,000 peptide bonds, 340 frames of contacts), held-out proteins left out. Three runs do not count for chirality:
a residue of theirs has the wrong hand throughout.

========== ============================================================== ============ ======= =======
kind       measured                                                       MD, extreme  mild    grave
========== ============================================================== ============ ======= =======
bond       deviation of a heavy-atom bond from its length                 0.16 Å       0.2 Å   0.5 Å
break      the same of a peptide bond                                     0.13 Å       0.2 Å   0.5 Å
bond       the same of a disulfide                                        -            0.2 Å   2 Å
chirality  triple product of unit vectors at a chiral centre, L positive  0.43         -       0.2
peptide    ω from 180 degrees, or from 0 where the start is cis           49 (99.99 %: 40 degrees  60
                                                                          38) degrees          degrees
clash      overlap of heavy atoms more than three bonds apart             0.56 Å       0.6 Å   1.5 Å
outlier    (φ, ψ) outside the regions of its class                        share 8.5 %  share   -
                                                                          (99 %)       10 %
========== ============================================================== ============ ======= =======

A peptide bond stretched by 0.5 Å costs some 500 kJ/mol. Overlap is the sum of van der Waals radii (C 1.7, N 1.55, O
1.52, S 1.8 Å; Bondi 1964) less the distance, and less 0.6 Å between two polar atoms, which may share a hydrogen bond.
A clash is grave only within the backbone and CB: side chains step aside. So do the two sulfurs of a disulfide, whose
side chains are drawn without knowing of each other; 2 Å further apart they are no longer bonded.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import mdtraj
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from openmm_starmd.analysis.stereochemistry import find_judged, ramachandran_outliers, rotamer_outliers
from openmm_starmd.geometry.ideal import ATOM_NAMES, ideal_atoms
from openmm_starmd.geometry.residues import AMINO_ACIDS, SIDE_CHAIN_BONDS
from openmm_starmd.geometry.torsions import dihedrals

BOND_MILD, BOND_GRAVE, DISULFIDE_GRAVE = 0.02, 0.05, 0.2  # nm
CHIRALITY_GRAVE = 0.2
PEPTIDE_MILD, PEPTIDE_GRAVE = 40.0, 60.0  # degrees
CLASH_MILD, CLASH_GRAVE = 0.06, 0.15  # nm
OUTLIERS_MILD = 0.10  # share of the residues with φ and ψ
RADII = {"C": 0.170, "N": 0.155, "O": 0.152, "S": 0.180}  # nm
POLAR_ALLOWANCE = 0.06  # nm
_REACH = 2 * max(RADII.values())  # nm; atoms further apart do not overlap

_STIFF = ("N", "CA", "C", "O", "CB", "OXT")
_UNITS = {"bond": "Å", "break": "Å", "clash": "Å", "peptide": "degrees", "chirality": "", "outlier": "", "position": ""}
_SAYS = {
    "position": "not finite",
    "bond": "bond off by",
    "break": "chain broken: peptide bond off by",
    "chirality": "wrong hand: triple product",
    "peptide": "peptide twisted by",
    "clash": "atoms overlap by",
    "outlier": "Ramachandran outlier",
}


@dataclass(frozen=True)
class Defect:
    """One thing that is wrong with a frame.

    Attributes
    ----------
    kind : str
        position, bond, break, chirality, peptide, clash or outlier.
    residues : tuple of int
        The one or two residues concerned.
    atoms : tuple of str
        Their atoms, where the kind has two.
    value : float
        As measured, in Å or degrees; a chirality has no unit.
    grave : bool
    """

    kind: str
    residues: tuple[int, ...]
    atoms: tuple[str, ...]
    value: float
    grave: bool

    def describe(self, labels: Sequence[str]) -> str:
        """One line, with the residues' labels [N]."""
        where = [labels[i] + (f" {atom}" if atom else "") for i, atom in zip(self.residues, self._names(), strict=True)]
        amount = "" if self.kind in ("position", "outlier") else f" {self.value:.2f} {_UNITS[self.kind]}".rstrip()
        return f"{' - '.join(where)}: {_SAYS[self.kind]}{amount}"

    def _names(self) -> tuple[str, ...]:
        return self.atoms if len(self.atoms) == len(self.residues) else ("",) * len(self.residues)


@dataclass(frozen=True)
class Quality:
    """The defects of a frame and the shares they are counted among.

    Attributes
    ----------
    defects : tuple of Defect
        The worst of each kind first.
    ramachandran, rotamer : float
        Shares of outliers; nan where there is nothing to judge.
    overlap : float
        Largest overlap, nm; 0 where nothing touches.
    """

    defects: tuple[Defect, ...]
    ramachandran: float
    rotamer: float
    overlap: float

    def count(self, kind: str) -> int:
        """Defects of one kind."""
        return sum(defect.kind == kind for defect in self.defects)


class Inspector:
    """Finds the defects of frames of one protein.

    Parameters
    ----------
    topology : mdtraj.Topology
        Heavy atoms with bonds, N residues.
    start : ndarray [atoms, 3]
        A structure to compare with, nm: its hands, its cis peptides and bonds of no standard length count as right.
    bonded : ndarray [N-1], bool
        Whether residue i is peptide-bonded to i+1.
    """

    def __init__(self, topology: mdtraj.Topology, start: NDArray[np.floating], bonded: NDArray[np.bool_]) -> None:
        self._topology, self._judged = topology, find_judged(topology, bonded)
        reference = np.asarray(start, dtype=np.float64)
        self._owner = np.array([atom.residue.index for atom in topology.atoms])
        self._names = [atom.name for atom in topology.atoms]
        self._stiff = np.isin(self._names, _STIFF)
        elements = np.array([atom.element.symbol for atom in topology.atoms])
        self._radii = np.array([RADII.get(element, 0.17) for element in elements])
        self._polar = np.isin(elements, ("N", "O", "S"))
        self._bonds, self._lengths = self._bond_table(reference)
        self._close = _within_three_bonds(topology, self._bonds)
        self._hands = np.sign(_triple_products(reference, self._judged.centers))
        self._trans = np.abs(dihedrals(reference[None], self._judged.omega)[0]) > 90

    def inspect(self, positions: NDArray[np.floating], *, placed: bool = False) -> Quality:
        """Look for defects.

        Parameters
        ----------
        positions : ndarray [atoms, 3]
            nm.
        placed : bool
            Whether side chains were put there by rule, not drawn. Their bonds and what they overlap with say nothing
            of the frame, and are left out.

        Returns
        -------
        Quality
        """
        xyz = np.asarray(positions, dtype=np.float64)
        missing = ~np.isfinite(xyz).all(1)
        if missing.any():
            residues = np.unique(self._owner[missing])
            return Quality(
                tuple(Defect("position", (int(i),), (), np.nan, True) for i in residues), np.nan, np.nan, np.nan
            )
        clashes = self._clashes(xyz, placed)
        outliers, ramachandran = self._outliers(xyz)
        found = self._stretched(xyz, placed) + self._inverted(xyz) + self._twisted(xyz) + clashes + outliers
        overlap = max((defect.value / 10 for defect in clashes), default=0.0)
        return Quality(
            tuple(sorted(found, key=lambda defect: not defect.grave)), ramachandran, self._rotamers(xyz), overlap
        )

    def _bond_table(self, start: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Bonded pairs [bonds, 2] and their lengths [bonds]: standard where there is one, else the start's own."""
        judged, ideal = self._judged, _ideal_lengths()
        known = {
            tuple(sorted(pair)): length for pair, length in zip(judged.bonds.tolist(), judged.lengths, strict=True)
        }
        for first, second in self._topology.bonds:
            pair = tuple(sorted((first.index, second.index)))
            own = float(np.linalg.norm(start[pair[0]] - start[pair[1]]))
            same = first.residue is second.residue
            key = (first.residue.name, frozenset((first.name, second.name)))
            known.setdefault(pair, ideal.get(key, own) if same else own)
        return np.array(list(known), dtype=np.int64).reshape(-1, 2), np.array(list(known.values()), dtype=np.float64)

    def _stretched(self, xyz: NDArray[np.float64], placed: bool) -> list[Defect]:
        off = np.linalg.norm(xyz[self._bonds[:, 0]] - xyz[self._bonds[:, 1]], axis=-1) - self._lengths
        if placed:
            off = np.where(self._stiff[self._bonds].all(1), off, 0.0)
        found = []
        for i in np.flatnonzero(np.abs(off) > BOND_MILD):
            first, second = self._bonds[i]
            names = self._names[first], self._names[second]
            kind = "break" if names == ("C", "N") else "bond"
            limit = DISULFIDE_GRAVE if names == ("SG", "SG") else BOND_GRAVE
            found.append(self._pair(kind, first, second, 10 * off[i], abs(off[i]) > limit))
        return found

    def _inverted(self, xyz: NDArray[np.float64]) -> list[Defect]:
        hand = _triple_products(xyz, self._judged.centers) * self._hands
        return [
            Defect("chirality", (int(self._owner[center]),), (self._names[center],), float(value), True)
            for center, value in zip(self._judged.centers[:, 0], hand, strict=True)
            if value < CHIRALITY_GRAVE
        ]

    def _twisted(self, xyz: NDArray[np.float64]) -> list[Defect]:
        angle = np.abs(dihedrals(xyz[None], self._judged.omega)[0])
        off = np.where(self._trans, 180 - angle, angle)
        return [
            self._pair("peptide", self._judged.omega[i, 1], self._judged.omega[i, 2], off[i], off[i] > PEPTIDE_GRAVE)
            for i in np.flatnonzero(off > PEPTIDE_MILD)
        ]

    def _clashes(self, xyz: NDArray[np.float64], placed: bool) -> list[Defect]:
        pairs = cKDTree(xyz).query_pairs(_REACH, output_type="ndarray")  # [pairs, 2], first < second
        pairs = pairs[~np.isin(pairs[:, 0] * len(xyz) + pairs[:, 1], self._close)]
        if placed:
            pairs = pairs[self._stiff[pairs].all(1)]
        overlap = self._radii[pairs].sum(1) - np.linalg.norm(xyz[pairs[:, 0]] - xyz[pairs[:, 1]], axis=-1)
        overlap -= POLAR_ALLOWANCE * self._polar[pairs].all(1)
        worst: dict[tuple[int, ...], int] = {}
        for i in np.flatnonzero(overlap > CLASH_MILD).tolist():
            residues = tuple(sorted(self._owner[pairs[i]].tolist()))
            if residues not in worst or overlap[i] > overlap[worst[residues]]:
                worst[residues] = i
        return [
            self._pair(
                "clash",
                pairs[i, 0],
                pairs[i, 1],
                10 * overlap[i],
                overlap[i] > CLASH_GRAVE and bool(self._stiff[pairs[i]].all()),
            )
            for i in sorted(worst.values(), key=lambda i: -overlap[i])
        ]

    def _outliers(self, xyz: NDArray[np.float64]) -> tuple[list[Defect], float]:
        judged = self._judged
        if not len(judged.phi):
            return [], np.nan
        phi, psi = dihedrals(xyz[None], judged.phi), dihedrals(xyz[None], judged.psi)
        outside = ramachandran_outliers(phi, psi, judged.classes)[0]
        residues = self._owner[judged.phi[outside, 2]]
        return [Defect("outlier", (int(i),), (), np.nan, False) for i in residues], float(outside.mean())

    def _rotamers(self, xyz: NDArray[np.float64]) -> float:
        judged = self._judged
        if not len(judged.chi):
            return np.nan
        outside = rotamer_outliers(dihedrals(xyz[None], judged.chi), judged.chi_kind)[0]
        return len(np.unique(judged.chi_residue[outside])) / (int(judged.chi_residue[-1]) + 1)

    def _pair(self, kind: str, first: int, second: int, value: float, grave: bool) -> Defect:
        """Defect between two atoms, named once where both belong to one residue."""
        residues = tuple(int(self._owner[atom]) for atom in (first, second))
        if residues[0] == residues[1]:
            return Defect(
                kind, residues[:1], (f"{self._names[first]}-{self._names[second]}",), float(value), bool(grave)
            )
        return Defect(kind, residues, (self._names[first], self._names[second]), float(value), bool(grave))


@functools.cache
def _ideal_lengths() -> dict[tuple[str, frozenset[str]], float]:
    """Lengths, nm, of side-chain bonds by residue and pair of atoms; no bond that closes the ring of proline."""
    count = len(AMINO_ACIDS)
    backbone = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])  # only its directions are read
    atoms = ideal_atoms(np.arange(count), np.tile(backbone, (count, 1, 1)), np.zeros((count, 5)))
    lengths = {}
    for row, name in enumerate(AMINO_ACIDS):
        places = dict(zip(ATOM_NAMES[row], atoms[row], strict=True))
        for first, second in SIDE_CHAIN_BONDS[name]:
            if {first, second} != {"CD", "N"}:
                lengths[name, frozenset((first, second))] = float(np.linalg.norm(places[first] - places[second]))
    return lengths


def _triple_products(xyz: NDArray[np.float64], centers: NDArray[np.int64]) -> NDArray[np.float64]:
    """Triple products [centers] of unit vectors from each centre to its three neighbours."""
    arms = xyz[centers[:, 1:]] - xyz[centers[:, :1]]  # [centers, 3, 3]
    arms = arms / np.maximum(np.linalg.norm(arms, axis=-1, keepdims=True), 1e-9)
    return (np.cross(arms[:, 0], arms[:, 1]) * arms[:, 2]).sum(-1)


def _within_three_bonds(topology: mdtraj.Topology, bonds: NDArray[np.int64]) -> NDArray[np.int64]:
    """Codes first * atoms + second, first < second, of atoms at most three bonds apart."""
    count = topology.n_atoms
    near: list[set[int]] = [set() for _ in range(count)]
    for first, second in bonds.tolist():
        near[first].add(second)
        near[second].add(first)
    codes = set()
    for atom in range(count):
        seen, edge = {atom}, {atom}
        for _ in range(3):
            edge = set().union(*(near[i] for i in edge)) - seen
            seen |= edge
        codes |= {atom * count + other for other in seen if other > atom}
    return np.array(sorted(codes), dtype=np.int64)
