"""The attention kernel: FlexAttention for masked passes on CUDA, torch's scaled_dot_product_attention elsewhere."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from openmm_starmd.model.masks import FrameMask, block_causal_mask


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
    if mask is not None and query.is_cuda:
        kernel = compiled_flex()
        if kernel is not None:
            return flex_attend(query, key, value, mask, kernel)
    dense = None if mask is None else mask.tokens
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=dense)


def flex_attend(query: Tensor, key: Tensor, value: Tensor, mask: FrameMask, kernel: Callable[..., Tensor]) -> Tensor:
    """:func:`attend` through `kernel`: torch's ``flex_attention``, or that compiled."""
    # autocast does not reach it, and queries and keys come out of their normalisation in single precision
    return kernel(query.to(value.dtype), key.to(value.dtype), value, block_mask=mask.blocks)


@functools.cache
def compiled_flex() -> Callable[..., Tensor] | None:
    """FlexAttention compiled for CUDA, tried once on a small input; None where torch or the machine lacks it."""
    try:
        from torch.nn.attention.flex_attention import flex_attention
    except ImportError:  # torch before 2.5
        return None
    kernel: Callable[..., Tensor] = torch.compile(flex_attention)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            trial = torch.ones(1, 1, 3 * 64, 32, device="cuda", requires_grad=True)
            flex_attend(trial, trial, trial, block_causal_mask(2, 64, trial.device), kernel).sum().backward()
    except Exception as error:
        # compilers fail in their own ways: no Triton, no C compiler, a card too old
        warnings.warn(
            f"FlexAttention does not compile here ({str(error).strip().splitlines()[:1]}): training uses a dense mask, "
            "slower and with memory quadratic in frames x residues. It needs Triton and a C compiler",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return kernel
