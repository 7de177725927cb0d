"""Joint space-time attention over (residue, frame) tokens, block-causal in frames, with its KV cache."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from openmm_starmd.model.config import ModelConfig
from openmm_starmd.model.layers import MLP

RESIDUE_BASE = 1000.0
FRAME_BASE = 100.0


class RotaryAngles:
    """Cosines and sines of 2D-RoPE for a set of tokens: half of each head turns by residue, half by frame.

    Parameters
    ----------
    residues, frames : Tensor [T]
        Residue position and frame index of each token.
    head_width : int
        A multiple of four.
    dtype : torch.dtype
    """

    def __init__(self, residues: Tensor, frames: Tensor, head_width: int, dtype: torch.dtype) -> None:
        pairs = head_width // 4
        step = torch.arange(pairs, device=residues.device, dtype=torch.float64) / pairs
        by_residue = residues.double()[:, None] * RESIDUE_BASE**-step
        by_frame = frames.double()[:, None] * FRAME_BASE**-step
        angle = torch.cat([by_residue, by_frame], dim=-1)  # [T, head_width / 2]
        self.cos, self.sin = angle.cos().to(dtype), angle.sin().to(dtype)

    def rotate(self, x: Tensor) -> Tensor:
        """Turn the pairs (first half, second half) of ``[..., T, head_width]``."""
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * self.cos - second * self.sin, first * self.sin + second * self.cos], dim=-1)


class KVCache:
    """Keys and values of the history's clean frames, one pair of tensors per attention layer.

    Only singles are cached: ``[B, heads, L N, head width]`` each, O(N L d) per layer.
    """

    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def extended(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Cached keys and values of `layer` followed by new ones ``[B, heads, T, head width]``."""
        if layer >= len(self.keys):
            return key, value
        return torch.cat([self.keys[layer], key], dim=-2), torch.cat([self.values[layer], value], dim=-2)

    def store(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Replace what is cached for `layer`."""
        if layer == len(self.keys):
            self.keys.append(key)
            self.values.append(value)
        else:
            self.keys[layer], self.values[layer] = key, value


class SpaceTimeAttention(nn.Module):
    """One S×T layer: attention and MLP, each behind an adaptive LayerNorm with a zero-initialised gate.

    Parameters
    ----------
    config : ModelConfig
        Uses ``c_s``, ``mlp_ratio`` and the ``attention_*`` sizes.
    layer : int
        Number of this layer in the network, its place in the cache.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.heads = layer, config.attention_heads
        width = config.c_s
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv = nn.Linear(width, 3 * config.attention_hidden, bias=False)
        self.out = nn.Linear(config.attention_hidden, width)
        self.mlp = MLP(width, config.mlp_ratio * width, width)
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(
        self,
        s: Tensor,
        condition: Tensor,
        rotary: RotaryAngles,
        mask: Tensor | None = None,
        cache: KVCache | None = None,
        store: bool = False,
    ) -> Tensor:
        """Mix singles over residues and frames.

        Parameters
        ----------
        s : Tensor [B, F, N, c_s]
        condition : Tensor [B, F, c_s]
            Embedding of diffusion time and stride.
        rotary : RotaryAngles
            Of the F N tokens, frame by frame.
        mask : Tensor [F N, F N], bool, optional
            True where a query (row) may see a key (column).
        cache : KVCache, optional
            History to attend to as well.
        store : bool
            Append the new keys and values to the cache.

        Returns
        -------
        Tensor [B, F, N, c_s]
        """
        frames, residues = s.shape[1:3]
        modulation = self.modulation(condition)[:, :, None].chunk(6, dim=-1)  # 6 x [B, F, 1, c_s]
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation

        x = self.norm(s) * (1 + scale) + shift
        q, k, v = self.qkv(x).flatten(1, 2).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [B, H, T, d]
        # normalised queries and keys keep the logits bounded whatever the learning rate
        q, k = (rotary.rotate(nn.functional.rms_norm(y, y.shape[-1:], eps=1e-6)) for y in (q, k))
        if cache is not None:
            k, v = cache.extended(self.layer, k, v)
            if store:
                cache.store(self.layer, k, v)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        mixed = self.out(mixed.movedim(1, -2).flatten(-2)).unflatten(1, (frames, residues))
        s = s + gate * mixed
        return s + mlp_gate * self.mlp(self.norm(s) * (1 + mlp_scale) + mlp_shift)
