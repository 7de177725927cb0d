"""Small layers shared by conditioner and network."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    """Two linear layers with GELU; `zero` starts the output at zero, so that a residual branch starts closed."""

    def __init__(self, width_in: int, hidden: int, width_out: int, zero: bool = False) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(width_in, hidden), nn.Linear(hidden, width_out)
        if zero:
            nn.init.zeros_(self.outer.weight)
            nn.init.zeros_(self.outer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., width_in]`` to ``[..., width_out]``."""
        return self.outer(nn.functional.gelu(self.inner(x)))


def radial_basis(distance: Tensor, count: int, largest: float) -> Tensor:
    """Gaussian bumps of width `largest` / `count`, evenly spaced from 0 to `largest`; ``[..., count]``."""
    centers = torch.linspace(0, largest, count, dtype=distance.dtype, device=distance.device)
    return torch.exp(-(((distance[..., None] - centers) * (count / largest)) ** 2))


def fourier(x: Tensor, count: int, longest: float) -> Tensor:
    """Sines and cosines of `x` at `count` wavelengths from `longest` down by factors of two; ``[..., 2 count]``."""
    frequencies = 2 * math.pi / longest * 2.0 ** torch.arange(count, dtype=x.dtype, device=x.device)
    phase = x[..., None] * frequencies
    return torch.cat([phase.sin(), phase.cos()], dim=-1)
