"""Residues cannot overlap, nor leave their chain: Cα of an estimate are moved to where they can be.

A chain's end that the modes let wander may be drawn into another part of the protein, or off its neighbour, for a frame
or two. Such a fault begins at the noise where the estimate becomes one structure (τ about 0.05) and stays as the noise
falls. Mended there, all that is drawn after fits it.
"""

from __future__ import annotations

import torch
from torch import Tensor

CLOSEST = 0.36
"""Distance that MD keeps Cα apart that are not bonded neighbours, nm."""
LINK = (0.28, 0.41)
"""Shortest and longest distance of Cα that are bonded neighbours, nm: 0.29 of a cis, 0.38 of a trans peptide."""
ROUNDS = 4
"""Times that what is still at fault is moved."""
SHARES = (1.0, 0.5, 0.25)
"""How far a residue and its neighbours along the chain, one and two on, go with one that is moved."""
TAU = 0.05
"""Diffusion time up to which the estimate is one structure, and no mean over many, whose overlaps mean nothing."""


def apart(alphas: Tensor, bonded: Tensor) -> Tensor:
    """Positions of which no two are closer than :data:`CLOSEST`, nearly, and bonded neighbours within :data:`LINK`.

    Parameters
    ----------
    alphas : Tensor [..., N, 3]
        nm.
    bonded : Tensor [N - 1], bool
        Whether residue i is peptide-bonded to residue i + 1.

    Returns
    -------
    Tensor [..., N, 3]
        The same where nothing was at fault; elsewhere nearly as demanded. Where several residues in a row overlap they
        end up to 2.5 times as far apart as they had to, for each takes its neighbours along. Residues at the very same
        place stay there.
    """
    piece = torch.cat([bonded.new_zeros(1), ~bonded]).cumsum(0)
    place = torch.arange(alphas.shape[-2], device=alphas.device)
    gap = (place[:, None] - place).abs()
    same_piece = piece[:, None] == piece
    carried = alphas.new_zeros(gap.shape)
    for links, share in enumerate(SHARES):
        carried = carried.masked_fill(same_piece & (gap == links), share)
    # neighbours in one piece are bonded
    linked = same_piece & (gap == 1)
    for _ in range(ROUNDS):
        difference = alphas[..., :, None, :] - alphas[..., None, :, :]
        distance = difference.square().sum(-1).clamp(min=1e-8).sqrt()
        wanted = torch.where(linked, distance.clamp(*LINK), distance.clamp(min=CLOSEST))
        # a residue is no pair with itself: its difference is zero
        push = (0.5 * (wanted - distance) / distance)[..., None] * difference
        alphas = alphas + carried @ push.sum(-2)
    return alphas
