"""The protein residues of a structure, whoever read it: OpenMM or mdtraj. Imports neither."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from openmm_starmd.geometry.ideal import FREE_PSI
from openmm_starmd.geometry.residues import (
    BROKEN_BOND,
    CA_LINK,
    CHI_ATOMS,
    COINCIDENT_ATOMS,
    HEAVY_ATOMS,
    PEPTIDE_BOND,
    THREE_TO_ONE,
)
from openmm_starmd.geometry.torsions import dihedral
from openmm_starmd.protein.periodic import make_whole
from openmm_starmd.protein.selection import HasResidues, Selected, label, select_protein

LONGEST_SHOWN = 40
"""Letters of the sequence that a ``repr`` shows."""
PSI_AND_CHI = [1, 3, 4, 5, 6]
"""Columns of :attr:`Residues.torsion_mask` that the network knows: ψ and χ1..4."""


@dataclass(frozen=True, eq=False, repr=False)
class Residues:
    """The protein residues of a structure: N residues, A heavy atoms.

    Attributes
    ----------
    atoms : np.ndarray [A], int64
        Index of each kept atom among those of the input.
    atom_names : tuple of str
        Standard name of each kept atom.
    owner : np.ndarray [A], int64
        Residue of each kept atom.
    backbone_atoms : np.ndarray [N, 3], int64
        N, CA, C of each residue, among the kept atoms.
    torsion_atoms : np.ndarray [N, 7, 4], int64
        The four of each torsion φ, ψ, ω (of the bond to the next residue), χ1..4, among the kept atoms; -1 where there
        is none.
    torsion_mask : np.ndarray [N, 7], bool
        Which of the torsions exist.
    positions : np.ndarray [A, 3]
        nm, made whole across the periodic box.
    backbone : np.ndarray [N, 3, 3]
        N, CA, C, nm.
    residue_types : np.ndarray [N], int64
        0 to 19 in the order of AMINO_ACIDS, 20 for unknown.
    residue_index : np.ndarray [N], int64
        Position along the chain: the input's own numbers where they count bonded residues up one by one; a gap in
        the numbers stays a gap. Insertion codes shift what follows; where the numbers say nothing about a break, the
        index jumps by the fewest residues that could span it.
    chain_index : np.ndarray [N], int64
        A chain of the input that holds several molecules is split.
    bonded : np.ndarray [N - 1], bool
        Whether residue i is peptide-bonded to residue i + 1 (same chain, C-N under 0.2 nm).
    names, numbers : tuple of str
        Standard residue names (an unknown amino acid keeps its own), and the input's residue numbers with their
        insertion codes.
    labels : tuple of str
        How messages about the input name each residue: "chain A residue ALA 12".
    sequence : str
        One-letter codes, X for unknown, chains joined by "/".
    dropped : tuple of str
        What was left out, "HOH x 8000" and the like.
    renamed : tuple of str
        Modified residues read as their standard parent, "MSE as MET x 4".
    unknown : tuple of str
        Labels of amino acids without a standard parent, kept as unknown.
    """

    atoms: np.ndarray
    atom_names: tuple[str, ...]
    owner: np.ndarray
    backbone_atoms: np.ndarray
    torsion_atoms: np.ndarray
    torsion_mask: np.ndarray
    positions: np.ndarray
    backbone: np.ndarray
    residue_types: np.ndarray
    residue_index: np.ndarray
    chain_index: np.ndarray
    bonded: np.ndarray
    names: tuple[str, ...]
    numbers: tuple[str, ...]
    labels: tuple[str, ...]
    sequence: str
    dropped: tuple[str, ...]
    renamed: tuple[str, ...]
    unknown: tuple[str, ...]

    def __repr__(self) -> str:
        chains = len(self.sequence.split("/"))
        shown = self.sequence if len(self.sequence) <= LONGEST_SHOWN else f"{self.sequence[:LONGEST_SHOWN]}..."
        return f"<{type(self).__name__}: {self.length} residues, {chains} chain{'s' * (chains > 1)}, {shown}>"

    @property
    def length(self) -> int:
        """Number of residues."""
        return len(self.residue_types)


def read_residues(topology: HasResidues, positions: np.ndarray, vectors: np.ndarray | None) -> Residues:
    """Find the protein residues of a structure.

    Parameters
    ----------
    topology : HasResidues
    positions : np.ndarray [atoms, 3]
        nm.
    vectors : np.ndarray [3, 3] or None
        Periodic box vectors in rows, nm.

    Returns
    -------
    Residues

    Raises
    ------
    ValueError
        If there are fewer than three protein residues, one lacks N, CA or C or cannot be a rigid, or a position is not
        finite; names the chain, residue and atom, and says what to do.
    """
    selection = select_protein(topology, positions, vectors)
    kept = selection.kept
    atoms = np.array([atom.index for selected in kept for atom in selected.atoms.values()])
    owner = np.repeat(np.arange(len(kept)), [len(selected.atoms) for selected in kept])
    offsets = np.searchsorted(owner, np.arange(len(kept)))
    places = [{name: int(offsets[i]) + k for k, name in enumerate(s.atoms)} for i, s in enumerate(kept)]
    backbone_atoms = np.array([[place["N"], place["CA"], place["C"]] for place in places])
    input_chain = np.array([selected.residue.chain.index for selected in kept])
    xyz = positions[atoms]
    _check_finite(xyz, owner, kept)
    if vectors is not None:
        xyz = make_whole(xyz, owner, backbone_atoms, input_chain, vectors, PEPTIDE_BOND)

    backbone = xyz[backbone_atoms]
    check_backbone(backbone, kept)
    near = np.linalg.norm(backbone[1:, 0] - backbone[:-1, 2], axis=-1) < PEPTIDE_BOND
    bonded = near & (input_chain[1:] == input_chain[:-1])
    chain_index = split_chains(kept, input_chain, bonded)
    torsion_atoms = _torsion_atoms(kept, places, bonded)
    names = tuple(selected.name for selected in kept)
    chains = np.split(np.array(list(one_letter(names))), np.flatnonzero(np.diff(chain_index)) + 1)
    return Residues(
        atoms=atoms,
        atom_names=tuple(name for selected in kept for name in selected.atoms),
        owner=owner,
        backbone_atoms=backbone_atoms,
        torsion_atoms=torsion_atoms,
        torsion_mask=torsion_atoms[..., 0] >= 0,
        positions=xyz,
        backbone=backbone,
        residue_types=np.array([selected.type for selected in kept], dtype=np.int64),
        residue_index=number_residues(kept, chain_index, bonded, backbone),
        chain_index=chain_index,
        bonded=bonded,
        names=names,
        numbers=tuple(f"{selected.residue.id}{selected.residue.insertionCode}".strip() for selected in kept),
        labels=tuple(label(selected.residue, selected.name) for selected in kept),
        sequence="/".join("".join(letters) for letters in chains),
        dropped=selection.dropped,
        renamed=selection.renamed,
        unknown=selection.unknown,
    )


def check_backbone(backbone: np.ndarray, kept: list[Selected]) -> None:
    """Refuse residues whose N, CA and C [N, 3, 3] (nm) cannot be a rigid: torn, coincident or in one line.

    Raises
    ------
    ValueError
        Naming the first such residue.
    """
    to_n, to_c = backbone[:, 0] - backbone[:, 1], backbone[:, 2] - backbone[:, 1]
    for other, arm in (("N", to_n), ("C", to_c)):
        length = np.linalg.norm(arm, axis=-1)
        for i in np.flatnonzero((length < COINCIDENT_ATOMS) | (length > BROKEN_BOND)):
            if length[i] < COINCIDENT_ATOMS:
                way_out = "atoms lie on one another: check the positions"
            else:
                way_out = (
                    "if the molecule is split across the periodic box, set the topology's box vectors of this frame "
                    "(topology.setPeriodicBoxVectors); if the numbers are in Å, give them with their unit"
                )
            raise ValueError(
                f"{label(kept[i].residue, kept[i].name)}: atoms {other} and CA are {length[i]:.3g} nm apart "
                f"(0.15 is normal); {way_out}"
            )
    area = np.linalg.norm(np.cross(to_n, to_c), axis=-1)
    for i in np.flatnonzero(area < 0.05 * np.linalg.norm(to_n, axis=-1) * np.linalg.norm(to_c, axis=-1)):
        raise ValueError(
            f"{label(kept[i].residue, kept[i].name)}: atoms N, CA and C lie in one line, so that the residue has no "
            "orientation: check the positions"
        )


def split_chains(kept: list[Selected], input_chain: np.ndarray, bonded: np.ndarray) -> np.ndarray:
    """Chain of each residue, [N]: an input chain ends early where a terminus or a restart of the numbers says so.

    Parameters
    ----------
    kept : list of Selected
        N residues.
    input_chain : np.ndarray [N]
        Chain of the input topology.
    bonded : np.ndarray [N - 1], bool

    Returns
    -------
    np.ndarray [N], int64
        0, 1, 2, ...
    """
    starts = input_chain[1:] != input_chain[:-1]
    for i in np.flatnonzero(~starts & ~bonded):
        before, behind = _number(kept[i]), _number(kept[i + 1])
        restarts = before is not None and behind is not None and behind < before
        starts[i] = restarts or "OXT" in kept[i].atoms
    return np.concatenate([[0], np.cumsum(starts)]).astype(np.int64)


def number_residues(
    kept: list[Selected], chain_index: np.ndarray, bonded: np.ndarray, backbone: np.ndarray
) -> np.ndarray:
    """Position of each residue along its chain, [N], as :class:`openmm_starmd.protein.Protein` describes it."""
    numbers = [_number(selected) for selected in kept]
    index = np.empty(len(kept), dtype=np.int64)
    for i, here in enumerate(numbers):
        if i == 0 or chain_index[i] != chain_index[i - 1]:
            index[i] = 1 if here is None else here
            continue
        step = 1
        if not bonded[i - 1]:
            before = numbers[i - 1]
            step = here - before if before is not None and here is not None else 0
            if step < 1:
                span = np.linalg.norm(backbone[i, 1] - backbone[i - 1, 1])
                step = max(2, int(np.ceil(span / CA_LINK)))
        index[i] = index[i - 1] + step
    return index


def _number(selected: Selected) -> int | None:
    try:
        return int(selected.residue.id)
    except (TypeError, ValueError):
        return None


def one_letter(names: tuple[str, ...]) -> str:
    """Sequence of standard residue names; X for unknown ones."""
    return "".join(THREE_TO_ONE.get(name, "X") for name in names)


def measure_torsions(residues: Residues) -> np.ndarray:
    """Torsions of a structure, φ, ψ, ω, χ1..4 in radians, [N, 7]; 0 where there is none.

    Where there is no next residue, ψ is the angle that O stands for, as :class:`openmm_starmd.protein.Protein`
    describes it.
    """
    # Not the numbers of data.description, which measures with mdtraj in single precision, as stores hold them and
    # networks learn them; either way of measuring would change bits that the other one's users rely on.
    xyz, mask = residues.positions, residues.torsion_mask
    torsions = np.zeros(mask.shape)
    torsions[mask] = dihedral(*np.moveaxis(xyz[residues.torsion_atoms[mask]], -2, 0))
    oxygens = {int(residues.owner[k]): k for k, name in enumerate(residues.atom_names) if name == "O"}
    for i in np.flatnonzero(~mask[:, 1]).tolist():
        n, ca, c = residues.backbone[i]
        angle = dihedral(n, ca, c, xyz[oxygens[i]]) if i in oxygens else FREE_PSI - np.pi
        torsions[i, 1] = np.arctan2(-np.sin(angle), -np.cos(angle))
    return torsions


def missing_heavy_atoms(topology: HasResidues) -> dict[int, list[str]]:
    """Heavy atoms that each residue of `topology` lacks, by residue index; terminal OXT is not counted."""
    missing = {}
    for residue in topology.residues():
        present = {atom.name for atom in residue.atoms()}
        lacking = [name for name in HEAVY_ATOMS.get(residue.name, ()) if name not in present]
        if lacking:
            missing[residue.index] = lacking
    return missing


def _check_finite(xyz: np.ndarray, owner: np.ndarray, kept: list[Selected]) -> None:
    """Raise a ValueError for the first kept atom [A, 3] without a finite position."""
    for atom in np.flatnonzero(~np.isfinite(xyz).all(-1)):
        selected = kept[owner[atom]]
        name = list(selected.atoms.values())[atom - np.searchsorted(owner, owner[atom])].name
        raise ValueError(f"{label(selected.residue)} atom {name} has no finite position: check the input")


def _torsion_atoms(kept: list[Selected], places: list[dict[str, int]], bonded: np.ndarray) -> np.ndarray:
    """Atoms of each torsion φ, ψ, ω, χ1..4, [N, 7, 4]; -1 where there is none."""
    table = np.full((len(kept), 7, 4), -1, dtype=np.int64)
    for i in np.flatnonzero(bonded).tolist():
        here, behind = places[i], places[i + 1]
        table[i + 1, 0] = here["C"], behind["N"], behind["CA"], behind["C"]
        table[i, 1] = here["N"], here["CA"], here["C"], behind["N"]
        table[i, 2] = here["CA"], here["C"], behind["N"], behind["CA"]
    for i, (selected, place) in enumerate(zip(kept, places, strict=True)):
        for k, quartet in enumerate(CHI_ATOMS.get(selected.name, ())):
            if all(name in place for name in quartet):
                table[i, 3 + k] = [place[name] for name in quartet]
    return table
