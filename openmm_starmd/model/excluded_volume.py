"""Residues cannot overlap: the least movement that brings the Cα of an estimate as far apart as MD keeps them.

A chain's end that the modes let wander may be drawn into another part of the protein, for a frame or two. Such an
overlap begins at the noise where the estimate becomes one structure (τ about 0.05) and stays as the noise falls. Moved
apart there, all that is drawn after fits it.
"""

from __future__ import annotations

import torch
from torch import Tensor

CLOSEST = 0.36
"""Distance that MD keeps Cα apart that are not bonded neighbours, nm."""
ROUNDS = 4
"""Times that what still overlaps is moved."""
SHARES = (1.0, 0.5, 0.25)
"""How far a residue and its neighbours along the chain, one and two on, go with one that is moved."""
TAU = 0.05
"""Diffusion time up to which the estimate is one structure, and no mean over many, whose overlaps mean nothing."""


def apart(alphas: Tensor, bonded: Tensor) -> Tensor:
    """Positions of which no two that are not bonded neighbours are closer than :data:`CLOSEST`, as far as that goes.

    Parameters
    ----------
    alphas : Tensor [..., N, 3]
        nm.
    bonded : Tensor [N - 1], bool
        Whether residue i is peptide-bonded to residue i + 1.

    Returns
    -------
    Tensor [..., N, 3]
        The same where nothing overlaps.
    """
    piece = torch.cat([bonded.new_zeros(1), ~bonded]).cumsum(0)
    place = torch.arange(alphas.shape[-2], device=alphas.device)
    gap = (place[:, None] - place).abs()
    same_piece = piece[:, None] == piece
    carried = alphas.new_zeros(gap.shape)
    for links, share in enumerate(SHARES):
        carried = carried.masked_fill(same_piece & (gap == links), share)
    # neighbours in one piece are bonded
    bound = (gap == 0) | (same_piece & (gap == 1))
    for _ in range(ROUNDS):
        difference = alphas[..., :, None, :] - alphas[..., None, :, :]
        distance = difference.square().sum(-1).clamp(min=1e-8).sqrt()
        overlap = (CLOSEST - distance).clamp(min=0).masked_fill(bound, 0.0)
        alphas = alphas + carried @ (0.5 * (overlap / distance)[..., None] * difference).sum(-2)
    return alphas
