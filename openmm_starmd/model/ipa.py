"""Invariant point attention (Jumper et al. 2021, supplementary algorithm 22) within each frame."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from openmm_starmd.geometry.rigid import Rigids
from openmm_starmd.model.config import ModelConfig

ANGSTROM_PER_NM = 10.0


class InvariantPointAttention(nn.Module):
    """Attention over the residues of one frame that sees their poses only through invariants.

    In single precision, always: distances between points come out of products of coordinates, which bf16 or TF32 would
    round by more than they differ (see :func:`openmm_starmd.devices.warn_of_tf32`).

    Parameters
    ----------
    config : ModelConfig
        Uses ``c_s``, ``c_z`` and the ``ipa_*`` sizes.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.hidden = config.ipa_heads, config.ipa_hidden
        self.query_points, self.value_points = config.ipa_query_points, config.ipa_value_points
        h, c, p, v = self.heads, self.hidden, self.query_points, self.value_points
        self.scalars = nn.Linear(config.c_s, 3 * h * c, bias=False)
        self.points = nn.Linear(config.c_s, 3 * h * (2 * p + v))
        self.bias = nn.Linear(config.c_z, h, bias=False)
        # softplus(0.541) = 1, the published initial value
        self.point_weight = nn.Parameter(torch.full((h,), 0.541324854612918))
        self.out = nn.Linear(h * (c + 4 * v + config.c_z), config.c_s)

    def forward(self, s: Tensor, z: Tensor, rigids: Rigids) -> Tensor:
        """Mix singles within frames.

        Parameters
        ----------
        s : Tensor [..., N, c_s]
        z : Tensor [..., N, N, c_z]
        rigids : Rigids [..., N]
            nm.

        Returns
        -------
        Tensor [..., N, c_s]
        """
        h, p = self.heads, self.query_points
        rotations = rigids.rotations.to(s.dtype)
        translations = ANGSTROM_PER_NM * rigids.translations.to(s.dtype)
        q, k, v = self.scalars(s).unflatten(-1, (h, 3, -1)).unbind(-2)  # [..., N, H, c]
        local = self.points(s).unflatten(-1, (-1, 3))  # [..., N, H (2p + v), 3]
        points = local @ rotations.transpose(-1, -2) + translations[..., None, :]
        points = points.unflatten(-2, (h, -1))  # [..., N, H, 2p + v, 3]
        q_points, k_points, v_points = points.split([p, p, self.value_points], dim=-2)

        # -w/2 Σ|q - k|² written as one dot product of widened queries and keys, so that it costs one matmul
        weight = nn.functional.softplus(self.point_weight) * math.sqrt(2 / (9 * p))  # [H]
        half = -0.5 * weight
        q_square = half[:, None] * q_points.square().sum((-1, -2))[..., None]  # [..., N, H, 1]
        k_square = half[:, None] * k_points.square().sum((-1, -2))[..., None]
        one = torch.ones_like(q_square)
        query = torch.cat([q * self.hidden**-0.5, weight[:, None] * q_points.flatten(-2), q_square, one], dim=-1)
        key = torch.cat([k, k_points.flatten(-2), one, k_square], dim=-1)
        logits = query.movedim(-2, -3) @ key.movedim(-2, -3).transpose(-1, -2)  # [..., H, N, N]
        logits = (logits + self.bias(z).movedim(-1, -3)) * math.sqrt(1 / 3)
        attention = logits.softmax(-1)

        values = torch.cat([v, v_points.flatten(-2)], dim=-1).movedim(-2, -3)  # [..., H, N, c + 3v]
        mixed = (attention @ values).movedim(-3, -2)  # [..., N, H, c + 3v]
        scalars, mixed_points = mixed.split([self.hidden, 3 * self.value_points], dim=-1)
        mixed_points = mixed_points.flatten(-2).unflatten(-1, (-1, 3)) - translations[..., None, :]
        mixed_points = mixed_points @ rotations  # back in the residue's own axes
        lengths = (mixed_points.square().sum(-1) + 1e-8).sqrt()
        pairs = attention.movedim(-3, -2) @ z  # [..., N, H, c_z]
        return self.out(torch.cat([scalars.flatten(-2), mixed_points.flatten(-2), lengths, pairs.flatten(-2)], dim=-1))
