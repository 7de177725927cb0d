"""Tensors on their way between the CPU and a GPU, where a small copy costs as much as a large one."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar, cast

import torch
from torch import Tensor

P = ParamSpec("P")
T = TypeVar("T")


def constant(make: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function of device and dtype that makes tensors: they are made, and copied there, once for each.

    What it gives is shared and must not be changed. Training may use it even if inference asked for it first.
    """

    @functools.cache
    @functools.wraps(make)
    def kept(*args: P.args, **kwargs: P.kwargs) -> T:
        with torch.inference_mode(False):
            return make(*args, **kwargs)

    return cast(Callable[P, T], kept)


def room(count: int, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Uninitialised numbers [count] on the CPU, to be copied to `device`: page-locked where a GPU will read them."""
    return torch.empty(count, dtype=dtype, pin_memory=device.type == "cuda" and torch.cuda.is_available())


def shared_out(flat: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """Consecutive parts of numbers [count] as contiguous views of these shapes."""
    parts = flat.split([math.prod(shape) for shape in shapes])
    return [part.view(tuple(shape)) for part, shape in zip(parts, shapes, strict=True)]


def moved_together(
    tensors: Sequence[Tensor], device: torch.device | str, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """Bring floating-point tensors to a device in one copy.

    A copy to a GPU is not waited for; one to the CPU is.

    Parameters
    ----------
    tensors : sequence of Tensor
        All on one device.
    device : torch.device or str
    dtype : torch.dtype
        Of the results.

    Returns
    -------
    list of Tensor
        Of the same shapes. Those that need neither copy nor conversion are handed back themselves.
    """
    device = torch.device(device)
    if not tensors or tensors[0].device.type == device.type:
        return [tensor.to(device=device, dtype=dtype) for tensor in tensors]
    shapes = [tensor.shape for tensor in tensors]
    if tensors[0].device.type == "cpu":
        packed = room(sum(tensor.numel() for tensor in tensors), device, dtype)
        for part, tensor in zip(shared_out(packed, shapes), tensors, strict=True):
            part.copy_(tensor)
        return shared_out(packed.to(device, non_blocking=True), shapes)
    return shared_out(torch.cat([tensor.flatten() for tensor in tensors]).to(device).to(dtype), shapes)


@functools.cache
def warn_of_tf32() -> None:
    """Warn, once, if the process lets GPUs round the factors of float32 products to ten bits (TF32).

    Poses and distances do not stand it: it moves atoms by about 0.05 Å. Neither torch nor this package switches it on.
    """
    if _tf32_is_on():
        warnings.warn(
            "TF32 is on (torch.set_float32_matmul_precision, allow_tf32, or fp32_precision): on a GPU that rounds "
            "residue poses by about 0.05 Å. Switch it off the way it was switched on: "
            'torch.set_float32_matmul_precision("highest"), or torch.backends.cuda.matmul.fp32_precision = "ieee"',
            RuntimeWarning,
            stacklevel=3,
        )


def _tf32_is_on() -> bool:
    try:
        return torch.get_float32_matmul_precision() != "highest" or torch.backends.cuda.matmul.allow_tf32
    except RuntimeError:
        # torch 2.9 and later refuse the old question where the new setting, fp32_precision, was used
        return str(torch.backends.cuda.matmul.fp32_precision) == "tf32"
