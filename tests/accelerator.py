"""A pretended accelerator: tensors that say they lie elsewhere, and a count of what a GPU would have to wait for.

No GPU is needed. A tensor sent to :data:`DEVICE` becomes a :class:`Remote`, which says that it is there while its
numbers stay on the CPU, so that code takes the ways it takes on a GPU and its results can still be compared. Every
operation is seen by :class:`Accelerator`: one that mixes devices fails as on a GPU, copies and waits are counted.
"""

from __future__ import annotations

import functools
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")
"""The one device name that torch lets tensors bear for which there is no hardware."""

COPIES = ("_to_copy", "copy_")
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal", "is_nonzero")
"""Operations whose result, or its shape, is numbers that the CPU has to be told."""
SOLVERS = ("_linalg_svd", "_linalg_det", "_linalg_eigh", "linalg_qr", "linalg_lu_factor_ex", "linalg_inv_ex")
"""Factorisations that report to the CPU whether they converged."""
SCALARS = ("add", "sub", "mul", "div", "pow", "maximum", "minimum", "lt", "le", "gt", "ge", "eq", "ne")
"""Operations that take a number from the CPU along with their launch."""
UNCOUNTED = ("empty", "new_empty", "detach", "lift", "alias", "_unsafe_view", "_reshape_alias")


class Remote(torch.Tensor):
    """A tensor that says it lies on the accelerator; `held` has its numbers."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Remote:
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, device=DEVICE
        )
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    def tolist(self) -> Any:
        """Numbers on the CPU, which torch gives of no subclass."""
        return self.cpu().tolist()

    def new_tensor(self, data: Any, *, dtype: torch.dtype | None = None) -> torch.Tensor:
        """As :func:`torch.tensor`, on the accelerator."""
        return torch.tensor(data, dtype=dtype or self.dtype, device=DEVICE)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} on a pretended device outside of pretended_accelerator()")


class Accelerator(TorchDispatchMode):
    """Computes for remote tensors and counts.

    Attributes
    ----------
    launches : int
        Operations on remote tensors that compute or copy.
    uploads, downloads, waits : Counter of str
        Copies to and from the accelerator, and operations that the CPU waits for, by name and place in the package.
    """

    def __init__(self) -> None:
        super().__init__()
        self.clear()

    def clear(self) -> None:
        """Count from zero."""
        self.launches = 0
        self.uploads: Counter[str] = Counter()
        self.downloads: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        with self:
            decomposed = func.decompose(*args, **kwargs)
        if decomposed is not NotImplemented:
            return decomposed
        name = func.overloadpacket.__name__
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        remote = [tensor for tensor in tensors if isinstance(tensor, Remote)]
        if any(tensor.device == DEVICE for tensor in tensors if not isinstance(tensor, Remote)):
            raise RuntimeError(f"{_place(name)}: a tensor without numbers, from before this began or out of its sight")
        away = bool(remote)
        if kwargs.get("device") is not None:
            away = torch.device(kwargs["device"]).type == DEVICE.type
            kwargs["device"] = "cpu"
        if name == "copy_":
            away = isinstance(args[0], Remote)
        if remote or away:
            self._count(func, name, args, remote, [t for t in tensors if not isinstance(t, Remote)], away)
        outer = {id(tensor.held): tensor for tensor in remote}
        inner_args, inner_kwargs = tree_map(lambda x: x.held if isinstance(x, Remote) else x, (args, kwargs))
        result = func(*inner_args, **inner_kwargs)
        if name == "_to_copy" and away and not remote:
            result = result.clone() if any(result is tensor for tensor in tensors) else result

        def place(x: Any) -> Any:
            if not isinstance(x, torch.Tensor) or not away:
                return x
            return outer.get(id(x)) if id(x) in outer else Remote(x)

        return tree_map(place, result)

    def _count(self, func: Any, name: str, args: Any, remote: list[Any], local: list[torch.Tensor], away: bool) -> None:
        self.launches += not (func.is_view or name.startswith(UNCOUNTED))
        masked = name in ("index", "index_put_", "_index_put_impl_", "index_put") and any(
            isinstance(i, torch.Tensor) and i.dtype == torch.bool for i in args[1]
        )
        if remote and (name in WAITS or name in SOLVERS or masked):
            self.waits[_place(name)] += 1
        if name in COPIES:
            if away and (local or not remote):
                self.uploads[_place(name)] += 1
            elif not away and remote:
                self.downloads[_place(name)] += 1
        elif local and remote:
            if any(tensor.dim() for tensor in local) and not name.startswith("index"):
                raise RuntimeError(f"{name} was given tensors of two devices, {_place(name)}")
            if name.rstrip("_") not in SCALARS:
                self.uploads[_place(name)] += 1

    @property
    def figures(self) -> dict[str, int]:
        """Launches, uploads, downloads and waits."""
        counts = (self.uploads, self.downloads, self.waits)
        return {"launches": self.launches} | {
            kind: sum(count.values()) for kind, count in zip(("uploads", "downloads", "waits"), counts, strict=True)
        }


def _place(name: str) -> str:
    """An operation and the line of the package that asked for it."""
    lines = [frame for frame in traceback.extract_stack() if "openmm_starmd" in frame.filename]
    where = f"{lines[-1].filename.rpartition('openmm_starmd/')[2]}:{lines[-1].lineno}" if lines else "backward"
    return f"{name} in {where}"


def forget() -> None:
    """Empty the caches of the package: what was made for the pretended device must not outlive it."""
    kind = type(functools.cache(len))
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "openmm_starmd":
            for thing in list(vars(module).values()):
                if isinstance(thing, kind):
                    thing.cache_clear()


@contextmanager
def pretended_accelerator() -> Iterator[Accelerator]:
    """Tensors can be sent to :data:`DEVICE`; autocast, which knows no such device, is off."""
    forget()
    make = torch.tensor
    try:
        with pytest.MonkeyPatch.context() as patch, Accelerator() as accelerator:
            patch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
            patch.setattr(torch, "is_autocast_enabled", lambda *_: False)
            # as for a GPU: made on the CPU and copied, where torch would make an empty one of this device
            patch.setattr(torch, "tensor", lambda data, dtype=None, device=None: make(data, dtype=dtype).to(device))
            yield accelerator
    finally:
        forget()
