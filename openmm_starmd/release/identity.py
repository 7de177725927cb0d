"""How alike two protein sequences are: whether one was in effect trained on."""

from __future__ import annotations

LIMIT = 0.4
"""Largest identity of a training protein with a held-out one."""


def identity(first: str, second: str) -> float:
    """Identical residues of the best global alignment (BLOSUM62, end gaps free) over the shorter length.

    Parameters
    ----------
    first, second : str
        One-letter codes.

    Returns
    -------
    float
        0 to 1.

    Raises
    ------
    ImportError
        If biopython is not installed; names the extra.
    """
    try:
        from Bio import Align
        from Bio.Align import substitution_matrices
    except ImportError as error:
        raise ImportError("sequence identity needs biopython: pip install 'openmm_starmd[train]'") from error
    aligner = Align.PairwiseAligner(mode="global", open_gap_score=-10.0, extend_gap_score=-0.5)
    aligner.substitution_matrix = substitution_matrices.load("BLOSUM62")
    aligner.end_gap_score = 0.0
    best = aligner.align(first, second)[0]
    return sum(a == b for a, b in zip(best[0], best[1], strict=True)) / min(len(first), len(second))
