"""Which residues of a topology are protein, under which standard names, and what is left out."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from openmm_starmd.geometry.residues import (
    ALTERNATIVE_BACKBONE_ATOMS,
    ALTERNATIVE_SIDE_CHAIN_ATOMS,
    AMINO_ACIDS,
    HEAVY_ATOMS,
    PEPTIDE_BOND,
    SELENIUM,
    UNKNOWN,
    canonical_name,
    spellings,
)
from openmm_starmd.protein.periodic import nearest_image

if TYPE_CHECKING:
    from openmm import app


class HasResidues(Protocol):
    """OpenMM's topology, or :class:`openmm_starmd.protein.views.View` of mdtraj's."""

    def residues(self) -> Iterator[Any]:
        """Residues with name, id, insertionCode, chain and atoms(), as OpenMM names them."""


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

    canonical = canonical_name(name)
    if canonical is not None:
        return canonical, any(spelling in SELENIUM for spelling in spellings(name))
    for spelling in spellings(name):
        if substitutions.get(spelling) in HEAVY_ATOMS:
            return substitutions[spelling], True
    return None, False


def label(residue: app.topology.Residue, name: str | None = None) -> str:
    """How messages name a residue: "chain A residue ALA 12"."""
    chain = residue.chain.id.strip() if residue.chain.id else ""
    code = (residue.insertionCode or "").strip()
    return f"chain {chain or f'#{residue.chain.index + 1}'} residue {name or residue.name} {residue.id}{code}"


def select_protein(topology: HasResidues, positions: np.ndarray, vectors: np.ndarray | None) -> Selection:
    """Find the protein residues of a topology.

    Parameters
    ----------
    topology : HasResidues
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
    found = _find_candidates(topology)
    kept: list[Selected] = []
    unknown: list[str] = []
    for i, candidate in enumerate(found.residues):
        if candidate is None:
            continue
        if candidate.type == UNKNOWN:
            if not _in_chain(candidate, found.neighbours(i), positions, vectors):
                # a ligand whose atoms happen to be called N, CA and C
                found.dropped[candidate.residue.name] += 1
                continue
            unknown.append(label(candidate.residue))
        if kept and _same_place(kept[-1], candidate, positions):
            found.dropped[f"{candidate.residue.name} (alternative to {label(kept[-1].residue)})"] += 1
            continue
        kept.append(candidate)
    if len(kept) < 3:
        raise ValueError(_too_few_message(topology, kept))
    counted = [f"{what} x {count}" for what, count in (found.dropped + found.extra).most_common()]
    read = [what if count == 1 else f"{what} x {count}" for what, count in found.renamed.most_common()]
    return Selection(kept, tuple(counted), tuple(read), tuple(unknown))


@dataclass(frozen=True)
class _Candidates:
    """Residues that could be protein, and what is left out and renamed so far.

    Attributes
    ----------
    residues : list of Selected or None
        In the input's order; None for one that is no protein.
    dropped : Counter
        By residue name.
    extra : Counter
        Atoms that the standard residue does not have.
    renamed : Counter
        "MSE as MET".
    """

    residues: list[Selected | None] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    extra: Counter[str] = field(default_factory=Counter)
    renamed: Counter[str] = field(default_factory=Counter)

    def neighbours(self, i: int) -> tuple[Selected | None, Selected | None]:
        """The candidates before and behind the one of index `i`."""
        return (self.residues[i - 1] if i else None, self.residues[i + 1] if i + 1 < len(self.residues) else None)


def _find_candidates(topology: HasResidues) -> _Candidates:
    """Residues with N, CA and C; ValueError if an amino acid lacks one of them."""
    found = _Candidates()
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
            found.residues.append(None)
            found.dropped[residue.name] += 1
        else:
            found.residues.append(selected)
            if modified:
                found.renamed[f"{residue.name} as {name}"] += 1
            if left_out:
                found.extra[f"{residue.name} atoms {', '.join(left_out)}"] += 1
    if incomplete:
        raise ValueError(_incomplete_message(incomplete))
    return found


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


def _in_chain(
    candidate: Selected,
    neighbours: tuple[Selected | None, Selected | None],
    positions: np.ndarray,
    vectors: np.ndarray | None,
) -> bool:
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


def _incomplete_message(incomplete: list[tuple[app.topology.Residue, list[str]]]) -> str:
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


def _too_few_message(topology: HasResidues, kept: list[Selected]) -> str:
    names = [name for name, _ in Counter(residue.name for residue in topology.residues()).most_common(8)]
    if not kept:
        return f"the topology holds no protein residue (it holds {', '.join(names)}): StarMD moves proteins only"
    found = ", ".join(label(selected.residue, selected.name) for selected in kept)
    return f"the topology holds only {len(kept)} protein residue(s) ({found}): StarMD needs at least three"
