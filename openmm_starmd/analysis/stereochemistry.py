"""Whether the atoms of a frame make sense: bond lengths, peptide planes, Ramachandran and rotamer outliers, chirality.

No maintained package on PyPI judges Ramachandran and rotamer outliers of a trajectory, so the criteria are written out
here, to be read and argued with:

- Ramachandran: (φ, ψ) outside every rectangle of :data:`openmm_starmd.analysis.ramachandran.RAMACHANDRAN`.
- Rotamers: a χ angle about a bond between two sp3 carbons (or carbon and sulfur) more than :data:`STAGGERED` away from
  -60, 60 and 180 degrees; for χ2 of Phe and Tyr, more than :data:`AROMATIC` away from 90 (mod 180). Other χ angles next
  to sp2 atoms, and the broad χ3 of Met, are free. χ1 of proline must lie within 50 degrees of 0.

They are kin to MolProbity's outliers, not the same ones: over 131 structures of 13,000 residues, 1.2 % against 1.1 %
Ramachandran outliers and (all but Arg and Lys) 3.6 % against 5.3 % rotamer outliers by the Top8000 contours, about 60 %
of them the same residues. The shares are compared with the paper's limits on that understanding:
:data:`RAMACHANDRAN_LIMIT` and :data:`ROTAMER_LIMIT`, the 99th percentiles of ATLAS frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import mdtraj
import numpy as np
from numpy.typing import NDArray

from openmm_starmd.analysis.ramachandran import RAMACHANDRAN
from openmm_starmd.analysis.validity import alpha_carbons, bonded_neighbours
from openmm_starmd.geometry.residues import (
    ALTERNATIVE_SIDE_CHAIN_ATOMS,
    BOND_LENGTHS,
    CHI_ATOMS,
    STAGGERED_CHI,
    canonical_name,
)
from openmm_starmd.geometry.torsions import dihedrals

RAMACHANDRAN_LIMIT = 0.0412
ROTAMER_LIMIT = 0.0705

BOND_TOLERANCE = 0.02  # nm, over five times the thermal spread at 300 K
PLANARITY = 30.0  # degrees of ω from 0 or 180
STAGGERED = 40.0  # degrees
AROMATIC = 75.0  # degrees

# Chiral centres of side chains: centre, then the three neighbours whose triple product is positive in L-amino acids.
_CENTERS = {"THR": ("CB", "CA", "OG1", "CG2"), "ILE": ("CB", "CA", "CG1", "CG2")}

_SHARES = ("bad_bonds", "twisted", "cis", "ramachandran", "rotamer")
_CHUNK = 4_000_000  # numbers per gathered array


@dataclass(frozen=True)
class Stereochemistry:
    """Verdict on the atoms of each frame.

    Attributes
    ----------
    bad_bonds : ndarray [frames], float
        Share of backbone bonds (N-CA, CA-C, C-N) more than 0.2 Å from their standard length.
    twisted : ndarray [frames], float
        Share of peptide planes whose ω is more than 30 degrees from both 0 and 180.
    cis : ndarray [frames], float
        Share of peptide planes, other than those before proline, with ω within 30 degrees of 0.
    ramachandran : ndarray [frames], float
        Share of outliers among residues that have both φ and ψ.
    rotamer : ndarray [frames], float
        Share of outliers among residues with a χ angle that is judged.
    inverted : ndarray [frames], int
        Chiral centres (Cα; Cβ of Thr and Ile) of the wrong hand.
    judged : dict of str to int
        How many of each a frame has. Where there are none (frames of Cα alone, no side chains) shares are nan.
    """

    bad_bonds: NDArray[np.float64]
    twisted: NDArray[np.float64]
    cis: NDArray[np.float64]
    ramachandran: NDArray[np.float64]
    rotamer: NDArray[np.float64]
    inverted: NDArray[np.int64]
    judged: dict[str, int]

    @property
    def within_limits(self) -> NDArray[np.bool_]:
        """Frames [frames] within the paper's limits: Ramachandran 4.12 %, rotamers 7.05 % where there are side chains.

        A frame that has no backbone is not judged and passes.
        """
        return ~(self.ramachandran > RAMACHANDRAN_LIMIT) & ~(self.rotamer > ROTAMER_LIMIT)

    def __getitem__(self, part: slice | NDArray[Any]) -> Stereochemistry:
        """Verdict on some of the frames, by slice, mask or index."""
        arrays = {f.name: getattr(self, f.name)[part] for f in fields(self) if f.name != "judged"}
        return Stereochemistry(**arrays, judged=self.judged)


@dataclass(frozen=True)
class JudgedAtoms:
    """Indices of what is judged; each row an instance."""

    bonds: NDArray[np.int64]  # [bonds, 2]
    lengths: NDArray[np.float64]  # [bonds], nm
    omega: NDArray[np.int64]  # [planes, 4]
    before_proline: NDArray[np.bool_]  # [planes]
    phi: NDArray[np.int64]  # [residues, 4]
    psi: NDArray[np.int64]  # [residues, 4]
    classes: list[str]
    chi: NDArray[np.int64]  # [angles, 4]
    chi_kind: NDArray[np.str_]  # [angles]: staggered, aromatic, proline
    chi_residue: NDArray[np.int64]  # [angles]: counts residues with a judged χ
    centers: NDArray[np.int64]  # [centers, 4]


def _rows(rows: Sequence[tuple[int, ...]], width: int) -> NDArray[np.int64]:
    return np.array(rows, dtype=np.int64).reshape(-1, width)


def find_judged(topology: mdtraj.Topology, bonded: NDArray[np.bool_]) -> JudgedAtoms:
    """Look up the atoms of everything that is judged.

    Parameters
    ----------
    topology : mdtraj.Topology
        N residues with a CA, under the names of any force field.
    bonded : ndarray [N-1], bool
        Whether residue i is peptide-bonded to i+1.

    Returns
    -------
    JudgedAtoms
    """
    residues = [topology.atom(i).residue for i in alpha_carbons(topology)]
    names = [canonical_name(r.name) or r.name for r in residues]
    tables = [
        {ALTERNATIVE_SIDE_CHAIN_ATOMS.get((name, a.name), a.name): a.index for a in r.atoms}
        for name, r in zip(names, residues, strict=True)
    ]
    bonds, lengths, omega, before, phi, psi, classes = [], [], [], [], [], [], []
    for i, (name, here) in enumerate(zip(names, tables, strict=True)):
        after = tables[i + 1] if i + 1 < len(tables) and bonded[i] else {}
        earlier = tables[i - 1] if i > 0 and bonded[i - 1] else {}
        for a, b, label in ((here.get("N"), here["CA"], "N-CA"), (here["CA"], here.get("C"), "CA-C")):
            if a is not None and b is not None:
                bonds.append((a, b))
                lengths.append(BOND_LENGTHS[label])
        if "C" in here and "N" in after:
            bonds.append((here["C"], after["N"]))
            lengths.append(BOND_LENGTHS["C-N"])
            omega.append((here["CA"], here["C"], after["N"], after["CA"]))
            before.append(names[i + 1] == "PRO")
        if "C" in earlier and "N" in here and "C" in here and "N" in after:
            phi.append((earlier["C"], here["N"], here["CA"], here["C"]))
            psi.append((here["N"], here["CA"], here["C"], after["N"]))
            classes.append(_class_of(name, names[i + 1]))
    chi, kinds, owner = _judged_chi(names, tables)
    return JudgedAtoms(
        bonds=_rows(bonds, 2),
        lengths=np.array(lengths),
        omega=_rows(omega, 4),
        before_proline=np.array(before, dtype=bool),
        phi=_rows(phi, 4),
        psi=_rows(psi, 4),
        classes=classes,
        chi=_rows(chi, 4),
        chi_kind=np.array(kinds, dtype=str),
        chi_residue=np.array(owner, dtype=np.int64),
        centers=_rows(_judged_centers(names, tables), 4),
    )


def _judged_chi(names: list[str], tables: list[dict[str, int]]) -> tuple[list[tuple[int, ...]], list[str], list[int]]:
    """Quartets of the judged χ angles, what kind each is, and which of the residues with a judged χ it belongs to."""
    chi: list[tuple[int, ...]] = []
    kinds: list[str] = []
    owner: list[int] = []
    side_chains = 0
    for name, here in zip(names, tables, strict=True):
        found = len(chi)
        for k, quartet in enumerate(CHI_ATOMS.get(name, ())):
            kind = _kind_of_chi(name, k)
            if kind is None or not all(atom in here for atom in quartet):
                break
            chi.append(tuple(here[atom] for atom in quartet))
            kinds.append(kind)
            owner.append(side_chains)
        side_chains += len(chi) > found
    return chi, kinds, owner


def _kind_of_chi(name: str, index: int) -> str | None:
    """How a χ angle (0 for χ1) is judged; None where it is free."""
    if name == "PRO":
        return "proline" if index == 0 else None
    if name in ("PHE", "TYR") and index == 1:
        return "aromatic"
    return "staggered" if name in STAGGERED_CHI[index] else None


def _judged_centers(names: list[str], tables: list[dict[str, int]]) -> list[tuple[int, ...]]:
    """Chiral centres, each with the three neighbours whose triple product is positive in L-amino acids."""
    centers: list[tuple[int, ...]] = []
    for name, here in zip(names, tables, strict=True):
        for quartet in (("CA", "N", "C", "CB"), _CENTERS.get(name)):
            if quartet is not None and all(atom in here for atom in quartet):
                centers.append(tuple(here[atom] for atom in quartet))
    return centers


def _class_of(name: str, following: str) -> str:
    """Class of a residue in the Ramachandran plot."""
    if name == "GLY":
        return "glycine"
    if name == "PRO":
        return "proline"
    if following == "PRO":
        return "pre-proline"
    return "beta-branched" if name in ("ILE", "VAL") else "general"


def ramachandran_outliers(
    phi: NDArray[np.floating], psi: NDArray[np.floating], classes: list[str]
) -> NDArray[np.bool_]:
    """Which residues lie outside the allowed regions of their class.

    Parameters
    ----------
    phi, psi : ndarray [frames, residues]
        Degrees.
    classes : list of str [residues]
        Keys of :data:`RAMACHANDRAN`.

    Returns
    -------
    ndarray [frames, residues], bool
    """
    allowed = np.zeros(np.shape(phi), dtype=bool)
    for kind, rectangles in RAMACHANDRAN.items():
        columns = np.array([c == kind for c in classes], dtype=bool)
        a, b = phi[:, columns], psi[:, columns]
        inside = np.zeros(a.shape, dtype=bool)
        for low, high, bottom, top in rectangles:
            inside |= (a >= low) & (a <= high) & (b >= bottom) & (b <= top)
        allowed[:, columns] = inside
    return ~allowed


def rotamer_outliers(chi: NDArray[np.floating], kinds: NDArray[np.str_]) -> NDArray[np.bool_]:
    """Which χ angles are eclipsed (or, about aromatic rings, flat).

    Parameters
    ----------
    chi : ndarray [frames, angles]
        Degrees.
    kinds : ndarray [angles] of str
        ``"staggered"``, ``"aromatic"`` or ``"proline"``.

    Returns
    -------
    ndarray [frames, angles], bool
    """
    from_staggered = np.abs((chi % 120) - 60)
    from_upright = np.abs((chi % 180) - 90)
    return np.where(
        kinds == "proline",
        np.abs(chi) > 50,
        np.where(kinds == "aromatic", from_upright > AROMATIC, from_staggered > STAGGERED),
    )


def stereochemistry(trajectory: mdtraj.Trajectory, bonded: NDArray[np.bool_] | None = None) -> Stereochemistry:
    """Judge the atoms of each frame.

    Parameters
    ----------
    trajectory : mdtraj.Trajectory
        Whatever atoms there are: parts that need missing ones come out as nan.
    bonded : ndarray [N-1], bool, optional
        Whether residue i is peptide-bonded to i+1; by the first frame where it is not given.

    Returns
    -------
    Stereochemistry
    """
    bonded = bonded_neighbours(trajectory) if bonded is None else bonded
    atoms = find_judged(trajectory.topology, bonded)
    frames = trajectory.n_frames
    judged = {
        "bonds": len(atoms.bonds),
        "planes": len(atoms.omega),
        "ramachandran": len(atoms.phi),
        "rotamers": int(atoms.chi_residue[-1]) + 1 if len(atoms.chi) else 0,
        "centers": len(atoms.centers),
    }
    shares = {name: np.full(frames, np.nan) for name in _SHARES}
    inverted = np.zeros(frames, dtype=np.int64)
    size = max(1, _CHUNK // (12 * max(1, *judged.values())))
    for begin in range(0, frames, size):
        part = slice(begin, begin + size)
        xyz = trajectory.xyz[part]
        for name, share in _shares(xyz, atoms).items():
            shares[name][part] = share
        if judged["centers"]:
            p = xyz[:, atoms.centers].astype(np.float64)
            a, b, c = (p[:, :, k] - p[:, :, 0] for k in (1, 2, 3))
            inverted[part] = (~((np.cross(a, b) * c).sum(-1) > 0)).sum(1)
    return Stereochemistry(**shares, inverted=inverted, judged=judged)


def _shares(xyz: NDArray[np.floating], atoms: JudgedAtoms) -> dict[str, NDArray[np.float64]]:
    """Shares [frames] of what is wrong in frames [frames, atoms, 3], by field of :class:`Stereochemistry`."""
    shares = {}
    if len(atoms.bonds):
        length = np.linalg.norm(xyz[:, atoms.bonds[:, 0]] - xyz[:, atoms.bonds[:, 1]], axis=-1)
        shares["bad_bonds"] = (~(np.abs(length - atoms.lengths) <= BOND_TOLERANCE)).mean(1)
    if len(atoms.omega):
        bend = np.abs(dihedrals(xyz, atoms.omega))
        shares["twisted"] = (~((bend <= PLANARITY) | (bend >= 180 - PLANARITY))).mean(1)
        if not atoms.before_proline.all():
            shares["cis"] = (bend[:, ~atoms.before_proline] <= PLANARITY).mean(1)
    if len(atoms.phi):
        outliers = ramachandran_outliers(dihedrals(xyz, atoms.phi), dihedrals(xyz, atoms.psi), atoms.classes)
        shares["ramachandran"] = outliers.mean(1)
    if len(atoms.chi):
        outliers = rotamer_outliers(dihedrals(xyz, atoms.chi), atoms.chi_kind)
        per_residue = np.zeros((len(xyz), int(atoms.chi_residue[-1]) + 1), dtype=bool)
        for angle, residue in enumerate(atoms.chi_residue):
            per_residue[:, residue] |= outliers[:, angle]
        shares["rotamer"] = per_residue.mean(1)
    return shares


def of_trace(frames: int) -> Stereochemistry:
    """The verdict on frames of Cα alone: nothing to judge."""
    shares = dict.fromkeys(_SHARES, np.full(frames, np.nan))
    judged = dict.fromkeys(("bonds", "planes", "ramachandran", "rotamers", "centers"), 0)
    return Stereochemistry(**shares, inverted=np.zeros(frames, dtype=np.int64), judged=judged)
