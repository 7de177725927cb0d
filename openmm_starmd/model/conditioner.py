"""Single and pair features from residue types and a reference structure, in place of OpenFold's.

The paper conditions on OpenFold's frozen features; here a starting structure always exists and its geometry is
embedded instead, by layers trained along with the network.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from openmm_starmd.geometry.rigid import cb_from_rigids
from openmm_starmd.model.config import ModelConfig
from openmm_starmd.model.features import TORSIONS, Features
from openmm_starmd.model.layers import MLP, radial_basis

LARGEST_SEPARATION = 32
DISTANCE_BINS = 24
LARGEST_DISTANCE = 2.4  # nm


class PairBiasedAttention(nn.Module):
    """Self-attention over residues, biased by pair features."""

    def __init__(self, c_s: int, c_z: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(c_s)
        self.qkv = nn.Linear(c_s, 3 * c_s, bias=False)
        self.bias = nn.Linear(c_z, heads, bias=False)
        self.out = nn.Linear(c_s, c_s)
        self.mlp_norm = nn.LayerNorm(c_s)
        self.mlp = MLP(c_s, 2 * c_s, c_s)

    def forward(self, s: Tensor, z: Tensor) -> Tensor:
        """Singles [N, c_s], pairs [N, N, c_z] to singles [N, c_s]."""
        q, k, v = self.qkv(self.norm(s)).unflatten(-1, (3, self.heads, -1)).permute(1, 2, 0, 3)  # [H, N, d]
        bias = self.bias(z).movedim(-1, 0)  # [H, N, N]
        mixed = nn.functional.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=bias[None])[0]
        s = s + self.out(mixed.movedim(0, -2).flatten(-2))
        return s + self.mlp(self.mlp_norm(s))


class Conditioner(nn.Module):
    """Time-independent features of a protein.

    Parameters
    ----------
    config : ModelConfig
        Uses ``conditioner_s``, ``conditioner_z`` and ``conditioner_layers``.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        c_s, c_z = config.conditioner_s, config.conditioner_z
        self.types = nn.Embedding(21, c_s)
        # neighbours' relative poses (2 x 12), their presence (2), burial (2)
        self.local = MLP(28, c_s, c_s)
        self.torsions = None
        if config.reference_torsions:
            self.torsions = nn.Linear(2 * TORSIONS, c_s, bias=False)
            # zero at first, so that fine-tuning weights without torsions begins by giving what those gave
            nn.init.zeros_(self.torsions.weight)
        self.separation = nn.Embedding(2 * LARGEST_SEPARATION + 2, c_z)
        self.geometry = nn.Linear(DISTANCE_BINS + 12, c_z)
        self.left, self.right = nn.Linear(c_s, c_z, bias=False), nn.Linear(c_s, c_z, bias=False)
        self.pair_norm = nn.LayerNorm(c_z)
        self.pair = MLP(c_z, 2 * c_z, c_z)
        heads = max(1, c_s // 32)
        self.layers = nn.ModuleList(PairBiasedAttention(c_s, c_z, heads) for _ in range(config.conditioner_layers))

    def forward(self, features: Features) -> tuple[Tensor, Tensor]:
        """Embed a protein.

        Parameters
        ----------
        features : Features
            N residues.

        Returns
        -------
        s : Tensor [N, conditioner_s]
        z : Tensor [N, N, conditioner_z]
        """
        rotations, translations = features.reference
        inverse = rotations.transpose(-1, -2)
        # pose of residue j seen from residue i
        turned = inverse[:, None] @ rotations[None]  # [N, N, 3, 3]
        offset = (inverse[:, None] @ (translations[None] - translations[:, None])[..., None]).squeeze(-1)  # nm
        cb = cb_from_rigids(features.reference)
        distance = torch.cdist(cb, cb)
        pose = torch.cat([turned.flatten(-2), offset / (distance[..., None] + 0.1)], dim=-1)  # [N, N, 12]

        adjacent = features.bonded[:, None].to(pose.dtype)
        following = torch.cat([pose.diagonal(1).movedim(-1, 0), adjacent], -1) * adjacent
        preceding = torch.cat([pose.diagonal(-1).movedim(-1, 0), adjacent], -1) * adjacent
        nothing = torch.zeros_like(following[:1])
        near = [torch.sigmoid((cutoff - distance) / 0.05).sum(-1, keepdim=True) / 10 for cutoff in (0.8, 1.2)]
        local = torch.cat([torch.cat([following, nothing]), torch.cat([nothing, preceding]), *near], dim=-1)
        s = self.types(features.residue_types) + self.local(local)
        if self.torsions is not None and features.torsions is not None:
            s = s + self.torsions(features.torsions.flatten(-2))

        separation = features.residue_index[None] - features.residue_index[:, None]
        separation = separation.clamp(-LARGEST_SEPARATION, LARGEST_SEPARATION) + LARGEST_SEPARATION
        other_chain = features.chain_index[None] != features.chain_index[:, None]
        separation = torch.where(other_chain, 2 * LARGEST_SEPARATION + 1, separation)
        z = self.separation(separation)
        z = z + self.geometry(torch.cat([radial_basis(distance, DISTANCE_BINS, LARGEST_DISTANCE), pose], dim=-1))
        z = z + self.left(s)[:, None] + self.right(s)[None]
        z = z + self.pair(self.pair_norm(z))
        for layer in self.layers:
            s = layer(s, z)
        return s, z
