"""Random numbers that depend on a key and on nothing else, so that no generator state ever needs saving."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from openmm_starmd.devices import room, shared_out


def keyed_generator(*key: int | str) -> torch.Generator:
    """A CPU generator seeded by a key alone."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def keyed_normal(shape: Sequence[int], *key: int | str) -> Tensor:
    """Standard normal numbers [shape], float32, drawn on the CPU whatever the device of their use."""
    return torch.randn(*shape, generator=keyed_generator(*key))


class Draw(NamedTuple):
    """Numbers to be drawn.

    Attributes
    ----------
    normal : bool
        Standard normal; else uniform in [0, 1).
    shape : tuple of int
    """

    normal: bool
    shape: tuple[int, ...]


def uniform(*shape: int) -> Draw:
    """Uniform numbers in [0, 1)."""
    return Draw(False, shape)


def normal(*shape: int) -> Draw:
    """Standard normal numbers."""
    return Draw(True, shape)


def draw_together(
    generators: Sequence[torch.Generator],
    draws: Mapping[str, Draw],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """Draw from each of several generators, and bring all numbers to a device in one copy.

    Parameters
    ----------
    generators : sequence of torch.Generator
        On the CPU, B of them, so that the numbers are those of every device.
    draws : mapping of str to Draw
        Taken from each generator in this order.
    device : torch.device
    dtype : torch.dtype
        Of the results; float32 is drawn.

    Returns
    -------
    dict of str to Tensor [B, *shape]
        By the names of `draws`.
    """
    shapes = [(len(generators), *draw.shape) for draw in draws.values()]
    packed = room(sum(torch.Size(shape).numel() for shape in shapes), device)
    for part, draw in zip(shared_out(packed, shapes), draws.values(), strict=True):
        for row, generator in zip(part, generators, strict=True):
            if draw.normal:
                row.normal_(generator=generator)
            else:
                row.uniform_(generator=generator)
    there = packed.to(device, non_blocking=True).to(dtype)
    return dict(zip(draws, shared_out(there, shapes), strict=True))
