"""Residues of an input, whoever read it: geometry that can be a rigid, chains, numbers. Imports no OpenMM."""

from __future__ import annotations

import numpy as np

from openmm_starmd.geometry.residues import BROKEN_BOND, CA_LINK, COINCIDENT_ATOMS
from openmm_starmd.protein.selection import Selected, label


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
