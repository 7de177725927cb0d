"""Space-time attention over (residue, frame) tokens, block-causal in frames, with its KV cache."""

from __future__ import annotations

import functools
import inspect
import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from openmm_starmd.model.config import ModelConfig
from openmm_starmd.model.layers import MLP
from openmm_starmd.model.masks import FrameMask, block_causal_mask

RESIDUE_BASE = 1000.0
FRAME_BASE = 100.0
USUAL_TOKENS = 200
"""Tokens seen for which attention with a temperature is as sharp as attention without."""
DENSE_TOKENS = 4096
"""Tokens of a training pass up to which a GPU takes a dense mask.

Up to here, 15 copies of 273 residues, the mask takes 16 MiB at most, and attention by arithmetic under a millisecond,
two thirds of it on pairs that the mask hides. FlexAttention skips those, but is compiled first, which takes seconds."""
KERNELS = 64
"""How often FlexAttention may be compiled. Two kernels do for all lengths, twice as many with and without gradients."""


class RotaryAngles:
    """Cosines and sines of 2D-RoPE for a set of tokens: half of each head turns by residue, half by frame.

    Parameters
    ----------
    residues, frames : Tensor [T]
        Residue position and frame index of each token.
    head_width : int
        A multiple of four.
    dtype : torch.dtype

    Attributes
    ----------
    sharpness : Tensor [T], optional
        Factor on the logits of each token, for attention with a temperature; see :func:`sharpness`.
    """

    def __init__(self, residues: Tensor, frames: Tensor, head_width: int, dtype: torch.dtype) -> None:
        pairs = head_width // 4
        step = torch.arange(pairs, device=residues.device, dtype=torch.float64) / pairs
        by_residue = residues.double()[:, None] * RESIDUE_BASE**-step
        by_frame = frames.double()[:, None] * FRAME_BASE**-step
        angle = torch.cat([by_residue, by_frame], dim=-1)  # [T, head_width / 2]
        self.cos, self.sin = angle.cos().to(dtype), angle.sin().to(dtype)
        self.sharpness: Tensor | None = None

    def rotate(self, x: Tensor) -> Tensor:
        """Turn the pairs (first half, second half) of ``[..., T, head_width]``."""
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * self.cos - second * self.sin, first * self.sin + second * self.cos], dim=-1)


def sharpness(index: Tensor, residues: int) -> Tensor:
    """Factor on the logits of the tokens of frames, ln T / ln :data:`USUAL_TOKENS` with T the tokens that each sees.

    Normalised queries and keys bound the logits, so that a softmax over more tokens is flatter; logits that grow with
    their logarithm keep it as sharp (Chiang and Cholak 2022, arXiv 2202.12172).

    Parameters
    ----------
    index : Tensor [F], int64
        Number of each frame among those it sees.
    residues : int

    Returns
    -------
    Tensor [F residues]
    """
    seen = ((index + 1) * residues).float().log() / math.log(USUAL_TOKENS)
    return seen.repeat_interleave(residues)


class KVCache:
    """Keys and values of the history's clean frames, for inference alone.

    Only singles are cached: ``[B, heads, L N, head width]`` of keys and as much of values per attention layer,
    O(N L d). They lie in buffers with room behind them, where the tokens of a call are laid down to be attended to
    along with the history; keeping them costs nothing more. A frame is drawn in many calls, and none of them copies the
    history.
    """

    def __init__(self) -> None:
        self._buffers: dict[int, tuple[Tensor, Tensor]] = {}
        self._lengths: dict[int, int] = {}

    @property
    def keys(self) -> list[Tensor]:
        """Cached keys of each layer, ``[B, heads, L N, head width]``."""
        return [keys[..., : self._lengths[layer], :] for layer, (keys, _) in sorted(self._buffers.items())]

    def extended(self, layer: int, key: Tensor, value: Tensor, store: bool) -> tuple[Tensor, Tensor]:
        """Cached keys and values of `layer` followed by new ones.

        Parameters
        ----------
        layer : int
        key, value : Tensor [B, heads, T, head width]
        store : bool
            Whether the new ones stay.

        Returns
        -------
        keys, values : Tensor [B, heads, cached + T, head width]
            Views, good until the next call for this layer.
        """
        if torch.is_grad_enabled() and key.requires_grad:
            raise ValueError("a KVCache is overwritten in place and holds no gradients: use torch.inference_mode()")
        length = self._lengths.get(layer, 0)
        if length == 0 and not store:
            return key, value
        end = length + key.shape[-2]
        room = self._buffers[layer][0].shape[-2] if length else 0
        if end > room:
            grown = tuple(x.new_empty(*x.shape[:-2], 2 * end, x.shape[-1]) for x in (key, value))
            if length:
                for new, old in zip(grown, self._buffers[layer], strict=True):
                    new[..., :length, :] = old[..., :length, :]
            self._buffers[layer] = grown[0], grown[1]
        keys, values = self._buffers[layer]
        keys[..., length:end, :] = key
        values[..., length:end, :] = value
        if store:
            self._lengths[layer] = end
        return keys[..., :end, :], values[..., :end, :]


class SpaceTimeAttention(nn.Module):
    """One S×T layer: attention and MLP, each behind an adaptive LayerNorm with a zero-initialised gate.

    Joint attention lets each token see all residues of all frames. Separable attention, the ablation, has half of the
    heads look at the same residue in other frames and then the other half at the other residues of the same frame; it
    has the same parameters, to the name.

    Parameters
    ----------
    config : ModelConfig
        Uses ``attention``, ``c_s``, ``mlp_ratio`` and the ``attention_*`` sizes.
    layer : int
        Number of this layer in the network, its place in the cache.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.heads, self.joint = layer, config.attention_heads, config.attention == "joint"
        width = config.c_s
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv = nn.Linear(width, 3 * config.attention_hidden, bias=False)
        self.out = nn.Linear(config.attention_hidden, width)
        self.mlp = MLP(width, config.mlp_ratio * width, width)
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        self.log_scale = nn.Parameter(torch.zeros(self.heads)) if config.attention_temperature else None

    def forward(
        self,
        s: Tensor,
        condition: Tensor,
        rotary: RotaryAngles,
        mask: FrameMask | None = None,
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
        mask : FrameMask, optional
            Which of the F frames sees which.
        cache : KVCache, optional
            History to attend to as well.
        store : bool
            Append the new keys and values to the cache.

        Returns
        -------
        Tensor [B, F, N, c_s]
        """
        modulation = self.modulation(condition)[:, :, None].chunk(6, dim=-1)  # 6 x [B, F, 1, c_s]
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation
        mixers = [self._over_all] if self.joint else [self._over_frames, self._over_residues]
        for mix in mixers:
            s = s + gate * mix(self.norm(s) * (1 + scale) + shift, rotary, mask, cache, store)
        return s + mlp_gate * self.mlp(self.norm(s) * (1 + mlp_scale) + mlp_shift)

    def _over_all(
        self, x: Tensor, rotary: RotaryAngles, mask: FrameMask | None, cache: KVCache | None, store: bool
    ) -> Tensor:
        """Every token to every token that the mask lets it see."""
        q, k, v = self._turned(self.qkv(x), self.heads, rotary)
        if self.log_scale is not None and rotary.sharpness is not None:
            q = q * (self.log_scale.exp()[:, None, None] * rotary.sharpness[:, None])
        if cache is not None:
            k, v = cache.extended(self.layer, k, v, store)
        mixed = attend(q, k, v, mask)
        return self.out(mixed.movedim(1, -2).flatten(-2)).unflatten(1, x.shape[1:3])

    def _over_frames(
        self, x: Tensor, rotary: RotaryAngles, mask: FrameMask | None, cache: KVCache | None, store: bool
    ) -> Tensor:
        """Every token to the same residue in other frames."""
        residues = x.shape[2]
        q, k, v = self._half(x, 0, rotary)
        if cache is not None:
            k, v = cache.extended(self.layer, k, v, store)
        q, k, v = (y.unflatten(-2, (-1, residues)).movedim(-2, 1) for y in (q, k, v))  # [B, N, H / 2, frames, d]
        allowed = None if mask is None else mask.frames
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        mixed = mixed.permute(0, 3, 1, 2, 4).flatten(-2)  # [B, F, N, hidden / 2]
        return nn.functional.linear(mixed, self.out.weight.chunk(2, dim=1)[0])

    def _over_residues(
        self, x: Tensor, rotary: RotaryAngles, mask: FrameMask | None, cache: KVCache | None, store: bool
    ) -> Tensor:
        """Every token to the other residues of its frame, which needs neither mask nor cache."""
        q, k, v = (
            y.unflatten(-2, x.shape[1:3]).transpose(1, 2) for y in self._half(x, 1, rotary)
        )  # [B, F, H / 2, N, d]
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).movedim(2, -2).flatten(-2)
        return nn.functional.linear(mixed, self.out.weight.chunk(2, dim=1)[1], self.out.bias)

    def _half(self, x: Tensor, half: int, rotary: RotaryAngles) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the first or the second half of the heads."""
        weight = self.qkv.weight.unflatten(0, (3, 2, -1))[:, half].flatten(0, 1)
        return self._turned(nn.functional.linear(x, weight), self.heads // 2, rotary)

    @staticmethod
    def _turned(qkv: Tensor, heads: int, rotary: RotaryAngles) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [B, heads, F N, d] of projections [B, F, N, 3 heads d]."""
        q, k, v = qkv.flatten(1, 2).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        # normalised queries and keys keep the logits bounded whatever the learning rate
        q, k = (rotary.rotate(nn.functional.rms_norm(y, y.shape[-1:], eps=1e-6)) for y in (q, k))
        return q, k, v


def attend(query: Tensor, key: Tensor, value: Tensor, mask: FrameMask | None = None) -> Tensor:
    """Softmax attention.

    Parameters
    ----------
    query, key, value : Tensor [B, heads, T, head width]
    mask : FrameMask, optional
        Of the T tokens; every query sees every key by default.

    Returns
    -------
    Tensor [B, heads, T, head width]
    """
    if mask is not None and takes_flex(query.device, query.shape[-2]):
        mixed = _attend_sparsely(query, key, value, mask)
        if mixed is not None:
            return mixed
    dense = None if mask is None else mask.tokens
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=dense)


def takes_flex(device: torch.device, tokens: int) -> bool:
    """Whether attention of so many tokens to each other, masked, goes through FlexAttention."""
    return device.type == "cuda" and tokens > DENSE_TOKENS


def _attend_sparsely(query: Tensor, key: Tensor, value: Tensor, mask: FrameMask) -> Tensor | None:
    """:func:`attend` through FlexAttention; None where that cannot be had, of which a warning tells once."""
    kernel = compiled_flex()
    if kernel is None:
        return None
    try:
        return flex_attend(query, key, value, mask, kernel)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        # compilers fail in their own ways, also at a length they have not met, or one too many of these
        _give_up_flex(_first_line(error))
        return None


def flex_attend(query: Tensor, key: Tensor, value: Tensor, mask: FrameMask, kernel: Callable[..., Tensor]) -> Tensor:
    """:func:`attend` through `kernel`: torch's ``flex_attention``, or that compiled."""
    # autocast does not reach it, and queries and keys come out of their normalisation in single precision
    return kernel(query.to(value.dtype), key.to(value.dtype), value, block_mask=mask.blocks)


@functools.cache
def compiled_flex() -> Callable[..., Tensor] | None:
    """FlexAttention compiled for CUDA and all lengths, tried once on a small input; None where it cannot be had."""
    if _flex_failures:
        return None
    try:
        from torch.nn.attention.flex_attention import flex_attention
    except ImportError:  # torch before 2.5
        return None
    try:
        kernel = compile_flex(flex_attention)
        with torch.inference_mode(False), torch.enable_grad():
            trial = torch.ones(1, 1, 3 * 64, 32, device="cuda", requires_grad=True)
            flex_attend(trial, trial, trial, block_causal_mask(2, 64, trial.device), kernel).sum().backward()
    except Exception as error:
        # compilers fail in their own ways: no Triton, no C compiler, a card too old
        _give_up_flex(_first_line(error))
        return None
    return kernel


def compile_flex(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """`function`, torch's ``flex_attention``, compiled so that one kernel serves all lengths.

    ``fullgraph`` makes an error of what would otherwise be an uncompiled call, which holds all scores in memory.
    """
    if (
        "recompile_limit" in inspect.signature(torch.compile).parameters
    ):  # the process's own, mostly 8, before torch 2.13
        options.setdefault("recompile_limit", KERNELS)
    return torch.compile(function, dynamic=True, fullgraph=True, **options)


_flex_failures: list[str] = []
"""Why FlexAttention is not used any more in this process; empty while it may be."""


def _give_up_flex(reason: str) -> None:
    """Use dense masks from now on, and say so."""
    if not _flex_failures:
        warnings.warn(
            f"FlexAttention does not compile here ({reason}): training uses a dense mask, slower and with memory "
            "quadratic in frames x residues. It needs Triton and a C compiler",
            RuntimeWarning,
            stacklevel=3,
        )
    _flex_failures.append(reason)
    compiled_flex.cache_clear()


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
