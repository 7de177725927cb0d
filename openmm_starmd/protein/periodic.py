"""Molecules split across the periodic box, made whole."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

CONTACT = 1.0
"""CA-CA distance, nm, up to which two pieces lie together as they are. A crystal's contacts through the lattice can be
closer than those within the deposited complex, and must not pull it apart."""
NARROWEST_BOX = 1.2
"""nm; a box narrower than this holds no protein: entries of NMR structures carry a dummy cell of 1 Å."""


def nearest_image(displacement: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Lattice steps that a displacement must lose to become a nearest image.

    Parameters
    ----------
    displacement : np.ndarray [..., 3]
        nm.
    vectors : np.ndarray [3, 3]
        Box vectors in rows, nm, in OpenMM's reduced form (a along x, b in the xy plane).

    Returns
    -------
    np.ndarray [..., 3]
        Whole numbers k; ``displacement - k @ vectors`` is the nearest image (exactly so within half the box's width).
    """
    steps = np.zeros_like(displacement)
    left = displacement
    for axis in (2, 1, 0):
        steps[..., axis] = np.round(left[..., axis] / vectors[axis, axis])
        left = left - steps[..., axis, None] * vectors[axis]
    return steps


def make_whole(
    positions: np.ndarray,
    owner: np.ndarray,
    backbone: np.ndarray,
    chain: np.ndarray,
    vectors: np.ndarray,
    peptide_bond: float,
) -> np.ndarray:
    """Put each residue together, walk along peptide bonds, and bring the pieces together.

    Only C and N of neighbours decide what is bonded, so that topologies without bonds are served alike.

    Parameters
    ----------
    positions : np.ndarray [atoms, 3]
        nm.
    owner : np.ndarray [atoms], int
        Residue of each atom.
    backbone : np.ndarray [N, 3], int
        Atoms N, CA and C of each residue.
    chain : np.ndarray [N], int
        Chain of each residue.
    vectors : np.ndarray [3, 3]
        Box vectors in rows, nm.
    peptide_bond : float
        Longest C-N distance of a bond, nm.

    Returns
    -------
    np.ndarray [atoms, 3]
        nm; what was whole comes back to the bit.
    """
    n, ca, c = backbone.T
    positions = positions - nearest_image(positions - positions[ca[owner]], vectors) @ vectors

    between = positions[n[1:]] - positions[c[:-1]]
    steps = nearest_image(between, vectors)
    bonded = (np.linalg.norm(between - steps @ vectors, axis=-1) < peptide_bond) & (chain[1:] == chain[:-1])
    piece = np.concatenate([[0], np.cumsum(~bonded)])
    walked = np.concatenate([np.zeros((1, 3)), np.cumsum(steps, 0)])
    starts = np.searchsorted(piece, np.arange(piece[-1] + 1))
    walked -= walked[starts[piece]]
    positions = positions - walked[owner] @ vectors

    shift = _gather(positions[ca], piece, vectors)
    return positions - shift[piece[owner]] @ vectors


def _gather(points: np.ndarray, piece: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Lattice steps [pieces, 3] that each piece must lose to lie beside the others."""
    members = [points[piece == p] for p in range(piece[-1] + 1)]
    shift = np.zeros((len(members), 3))
    placed = members[0]
    waiting = list(range(1, len(members)))
    cube = np.stack(np.meshgrid(*[[0.0, -1.0, 1.0]] * 3, indexing="ij"), -1).reshape(-1, 3)
    while waiting:
        tree = cKDTree(placed)
        distances = [tree.query(members[p])[0].min() for p in waiting]
        nearest = int(np.argmin(distances))
        chosen = waiting[nearest]
        if distances[nearest] > CONTACT:
            best = distances[nearest]
            for p in waiting:
                center = nearest_image(members[p].mean(0) - placed.mean(0), vectors)
                for step in center + cube:
                    distance = tree.query(members[p] - step @ vectors)[0].min()
                    if distance < best - 1e-6:
                        best, chosen, shift[p] = distance, p, step
        waiting.remove(chosen)
        for p in waiting:
            shift[p] = 0.0
        placed = np.concatenate([placed, members[chosen] - shift[chosen] @ vectors])
    return shift
