"""The optimiser: Adam, with decoupled weight decay where the recipe has one, fused where it runs on a GPU."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from openmm_starmd.training.settings import OptimizerSettings

WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What FSDP and recomputation put into the names of parameters."""


def matrices(network: nn.Module) -> frozenset[str]:
    """Names of the parameters that weight decay is for: matrices, and not norms, biases and scales.

    To be asked before FSDP cuts parameters into rows without a shape.
    """
    return frozenset(name for name, parameter in network.named_parameters() if parameter.ndim >= 2)


def make_optimizer(
    network: nn.Module, settings: OptimizerSettings, decayed: Iterable[str] | None = None
) -> torch.optim.Optimizer:
    """Optimiser of all parameters of a network.

    Without weight decay it has one group of parameters, as trainings of all versions have it; with it two, of which the
    first decays.

    Parameters
    ----------
    network : nn.Module
        On the device it trains on.
    settings : OptimizerSettings
    decayed : iterable of str, optional
        What :func:`matrices` gave; asked of the network as it is by default.

    Returns
    -------
    torch.optim.Optimizer
        Adam, or AdamW with weight decay.
    """
    parameters = {_plain(name): parameter for name, parameter in network.named_parameters()}
    fused = True if runs_fused(network) else None
    if not settings.weight_decay:
        return torch.optim.Adam(parameters.values(), lr=settings.learning_rate, fused=fused)
    chosen = set(matrices(network) if decayed is None else decayed)
    groups = [
        {"params": [p for name, p in parameters.items() if name in chosen], "weight_decay": settings.weight_decay},
        {"params": [p for name, p in parameters.items() if name not in chosen], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=fused)


def runs_fused(network: nn.Module) -> bool:
    """Whether the optimiser updates all parameters in one launch: on a GPU."""
    return all(parameter.device.type == "cuda" for parameter in network.parameters())


def on_this_device(states: Iterable[Mapping[str, Any]], fused: bool) -> None:
    """Change saved states of optimisers, in place, to what this device runs, whichever they were saved on."""
    for state in states:
        for group in state["param_groups"]:
            group["fused"] = True if fused else None


def _plain(name: str) -> str:
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name
