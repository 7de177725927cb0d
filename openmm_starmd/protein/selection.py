"""Which residues of an OpenMM topology are protein, under which standard names, and what is left out."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from openmm_starmd.geometry.residues import (
    ALTERNATIVE_BACKBONE_ATOMS,
    ALTERNATIVE_NAMES,
    ALTERNATIVE_SIDE_CHAIN_ATOMS,
    AMINO_ACIDS,
    HEAVY_ATOMS,
    SELENIUM,
    UNKNOWN,
)
from openmm_starmd.protein.periodic import nearest_image

if TYPE_CHECKING:
    from openmm import app

PEPTIDE_BOND = 0.2
"""Longest C-N distance of a peptide bond, nm; the ideal is 0.133, and 0.2 leaves room for strained inputs."""


@dataclass(frozen=True)
class Selected:
    """One residue that is kept.

    Attributes
    ----------
    residue : app.Residue
        Of the input.
    name : str
        Standard name; the input's own for an unknown amino acid.
    atoms : dict of str to app.Atom
        Heavy atoms by standard name, in the input's order.
    """

    residue: app.topology.Residue
    name: str
    atoms: dict[str, app.topology.Atom]

    @property
    def type(self) -> int:
        """Index in AMINO_ACIDS, or UNKNOWN."""
        return AMINO_ACIDS.index(self.name) if self.name in AMINO_ACIDS else UNKNOWN


@dataclass(frozen=True)
class Selection:
    """The protein of a topology, and what was done to find it.

    Attributes
    ----------
    kept : list of Selected
    dropped : tuple of str
        "HOH x 8000" and the like.
    renamed : tuple of str
        Modified residues read as their standard parent, "MSE as MET x 4".
    unknown : tuple of str
        Amino acids without a standard parent, kept as unknown.
    """

    kept: list[Selected]
    dropped: tuple[str, ...]
    renamed: tuple[str, ...]
    unknown: tuple[str, ...]


@functools.cache
def standard_name(name: str) -> tuple[str | None, bool]:
    """Standard three-letter name of a residue name of the PDB, Amber, CHARMM, GROMACS or OPLS.

    Parameters
    ----------
    name : str

    Returns
    -------
    standard : str or None
        None if it is no known amino acid.
    modified : bool
        Whether it is another molecule than the standard amino acid, not just another name or protonation.
    """
    # imported late: PDBFixer builds its templates at import
    from pdbfixer.pdbfixer import substitutions

    name = name.strip().upper()
    # Amber's terminal residues are NALA, CALA, NHID and so on
    spellings = (name, name[1:]) if len(name) == 4 and name[0] in "NC" else (name,)
    for spelling in spellings:
        if spelling in HEAVY_ATOMS:
            return spelling, False
        if spelling in ALTERNATIVE_NAMES:
            return ALTERNATIVE_NAMES[spelling], spelling in SELENIUM
        if substitutions.get(spelling) in HEAVY_ATOMS:
            return substitutions[spelling], True
    return None, False


def label(residue: app.topology.Residue, name: str | None = None) -> str:
    """How messages name a residue: "chain A residue ALA 12"."""
    chain = residue.chain.id.strip() if residue.chain.id else ""
    code = (residue.insertionCode or "").strip()
    return f"chain {chain or f'#{residue.chain.index + 1}'} residue {name or residue.name} {residue.id}{code}"


def select_protein(topology: app.Topology, positions: np.ndarray, vectors: np.ndarray | None) -> Selection:
    """Find the protein residues of a topology.

    Parameters
    ----------
    topology : app.Topology
    positions : np.ndarray [atoms, 3]
        nm.
    vectors : np.ndarray [3, 3] or None
        Periodic box vectors in rows, nm.

    Returns
    -------
    Selection

    Raises
    ------
    ValueError
        If an amino acid lacks N, CA or C, or there are fewer than three residues.
    """
    candidates: list[Selected | None] = []
    dropped: Counter[str] = Counter()
    extra: Counter[str] = Counter()
    renamed: Counter[str] = Counter()
    incomplete: list[tuple[app.topology.Residue, list[str]]] = []
    for residue in topology.residues():
        if next(residue.atoms(), None) is None:
            continue
        name, modified = standard_name(residue.name)
        selected, left_out = _heavy_atoms(residue, name)
        missing = [atom for atom in ("N", "CA", "C") if atom not in selected.atoms]
        if missing and name is not None:
            incomplete.append((residue, missing))
        elif missing:
            candidates.append(None)
            dropped[residue.name] += 1
        else:
            candidates.append(selected)
            if modified:
                renamed[f"{residue.name} as {name}"] += 1
            if left_out:
                extra[f"{residue.name} atoms {', '.join(left_out)}"] += 1
    if incomplete:
        raise ValueError(_incomplete_message(incomplete))

    kept: list[Selected] = []
    unknown: list[str] = []
    for i, candidate in enumerate(candidates):
        if candidate is None:
            continue
        if candidate.type == UNKNOWN:
            neighbours = (candidates[i - 1] if i else None, candidates[i + 1] if i + 1 < len(candidates) else None)
            if not _in_chain(candidate, neighbours, positions, vectors):
                # a ligand whose atoms happen to be called N, CA and C
                dropped[candidate.residue.name] += 1
                continue
            unknown.append(label(candidate.residue))
        if kept and _same_place(kept[-1], candidate, positions):
            dropped[f"{candidate.residue.name} (alternative to {label(kept[-1].residue)})"] += 1
            continue
        kept.append(candidate)
    if len(kept) < 3:
        raise ValueError(_too_few_message(topology, kept))
    counted = [f"{what} x {count}" for what, count in (dropped + extra).most_common()]
    read = [what if count == 1 else f"{what} x {count}" for what, count in renamed.most_common()]
    return Selection(kept, tuple(counted), tuple(read), tuple(unknown))


def _heavy_atoms(residue: app.topology.Residue, name: str | None) -> tuple[Selected, list[str]]:
    """The residue with its heavy atoms under standard names, and those that the standard residue does not have."""
    atoms: dict[str, app.topology.Atom] = {}
    left_out = []
    for atom in residue.atoms():
        symbol = atom.element.symbol if atom.element is not None else None
        if symbol in ("H", "D"):
            continue
        if name is None:
            if symbol is not None or atom.name in ("N", "CA", "C", "O"):
                atoms.setdefault(atom.name, atom)
            continue
        standard = ALTERNATIVE_SIDE_CHAIN_ATOMS.get((name, atom.name), atom.name)
        if standard not in HEAVY_ATOMS[name]:
            standard = ALTERNATIVE_BACKBONE_ATOMS.get(standard, standard)
        if standard in HEAVY_ATOMS[name] or standard == "OXT":
            # the first of several alternate locations
            atoms.setdefault(standard, atom)
        elif symbol is not None:
            left_out.append(atom.name)
    if "OXT" in atoms and "O" not in atoms:
        atoms["O"] = atoms.pop("OXT")
    return Selected(residue, name or residue.name, atoms), left_out


def _same_place(first: Selected, second: Selected, positions: np.ndarray) -> bool:
    """Whether two residues are alternatives of one another: one number, one place."""
    a, b = first.residue, second.residue
    if (a.chain, a.id, a.insertionCode) != (b.chain, b.id, b.insertionCode):
        return False
    return bool(np.linalg.norm(positions[first.atoms["CA"].index] - positions[second.atoms["CA"].index]) < 0.1)


def _in_chain(candidate: Selected, neighbours: tuple, positions: np.ndarray, vectors: np.ndarray | None) -> bool:
    """Whether a residue is peptide-bonded to the one before or behind it."""
    before, behind = neighbours
    bonds = []
    if before is not None:
        bonds.append((before.atoms["C"], candidate.atoms["N"]))
    if behind is not None:
        bonds.append((candidate.atoms["C"], behind.atoms["N"]))
    for first, second in bonds:
        between = positions[second.index] - positions[first.index]
        if vectors is not None:
            between = between - nearest_image(between, vectors) @ vectors
        if np.linalg.norm(between) < PEPTIDE_BOND:
            return True
    return False


def _incomplete_message(incomplete: list) -> str:
    residue, missing = incomplete[0]
    others = f" (and {len(incomplete) - 1} more residues)" if len(incomplete) > 1 else ""
    plural = "s" if len(missing) > 1 else ""
    if missing == ["N", "C"] and len(incomplete) > 2:
        way_out = "a structure of CA atoms alone must be completed first, by a tool that rebuilds backbones"
    else:
        way_out = (
            "complete the structure with PDBFixer (findMissingResidues, findMissingAtoms, addMissingAtoms), "
            "or delete the residue"
        )
    return f"{label(residue)} lacks backbone atom{plural} {', '.join(missing)}{others}: {way_out}"


def _too_few_message(topology: app.Topology, kept: list[Selected]) -> str:
    names = [name for name, _ in Counter(residue.name for residue in topology.residues()).most_common(8)]
    if not kept:
        return f"the topology holds no protein residue (it holds {', '.join(names)}): StarMD moves proteins only"
    found = ", ".join(label(selected.residue, selected.name) for selected in kept)
    return f"the topology holds only {len(kept)} protein residue(s) ({found}): StarMD needs at least three"
