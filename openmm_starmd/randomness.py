"""Random numbers that depend on a key and on nothing else, so that no generator state ever needs saving."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def keyed_generator(*key: int | str) -> torch.Generator:
    """A CPU generator seeded by a key alone."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def keyed_normal(shape: Sequence[int], *key: int | str) -> Tensor:
    """Standard normal numbers [shape], float32, drawn on the CPU whatever the device of their use."""
    return torch.randn(*shape, generator=keyed_generator(*key))
