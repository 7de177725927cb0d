"""The exponential moving average of the weights, which is what is released."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FullStateDictConfig, FullyShardedDataParallel, StateDictType


class Average:
    """Moving average of the parameters that this process holds: all of them, or under FSDP its shards.

    Kept beside the module, not as a module: FSDP would shard a second copy along other lines than the first.

    Parameters
    ----------
    root : nn.Module
        What holds the parameters: the module, or the FSDP wrapper around it.
    """

    def __init__(self, root: nn.Module) -> None:
        self.root = root
        self.values = [parameter.detach().clone() for parameter in root.parameters()]

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Move towards the present parameters: ``average ← decay average + (1 - decay) parameters``."""
        torch._foreach_lerp_(self.values, self._parameters(), 1 - decay)

    def full(self) -> dict[str, Tensor]:
        """All averaged weights by name, on the CPU; under FSDP gathered by all processes, empty but on the first."""
        with self._swapped():
            return full_state(self.root)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Load what :meth:`full` gave, whatever the number of processes it was gathered from."""
        with self._swapped():
            load_full_state(self.root, state)

    def _parameters(self) -> list[Tensor]:
        return [parameter.detach() for parameter in self.root.parameters()]

    @torch.no_grad()
    def _swap(self) -> None:
        parameters = self._parameters()
        kept = [parameter.clone() for parameter in parameters]
        torch._foreach_copy_(parameters, self.values)
        torch._foreach_copy_(self.values, kept)

    @contextmanager
    def _swapped(self) -> Iterator[None]:
        """The module holds the average, and the average the module's parameters."""
        self._swap()
        try:
            yield
        finally:
            self._swap()


def full_state(root: nn.Module) -> dict[str, Tensor]:
    """Copy of all weights of a module on the CPU; under FSDP a collective call that fills only the first process's."""
    if isinstance(root, FullyShardedDataParallel):
        # tensors that are on the CPU already would be freed by the offloading
        on_cpu = next(root.parameters()).device.type == "cpu"
        config = FullStateDictConfig(offload_to_cpu=not on_cpu, rank0_only=True)
        with FullyShardedDataParallel.state_dict_type(root, StateDictType.FULL_STATE_DICT, config):
            state = root.state_dict()
    else:
        state = root.state_dict()
    return {name: value.detach().to("cpu", copy=True) for name, value in state.items()}


def load_full_state(root: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Inverse of :func:`full_state`; under FSDP every process gives all weights and keeps its shards."""
    if isinstance(root, FullyShardedDataParallel):
        config = FullStateDictConfig(rank0_only=False)
        with FullyShardedDataParallel.state_dict_type(root, StateDictType.FULL_STATE_DICT, config):
            root.load_state_dict(dict(state))
    else:
        root.load_state_dict(dict(state))
