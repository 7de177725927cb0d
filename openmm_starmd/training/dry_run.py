"""What a training would take, measured by a few real steps that leave nothing behind."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from openmm_starmd.data.batches import Batch, Plan
from openmm_starmd.data.trajectories import ProteinData
from openmm_starmd.data.windows import WindowDataset
from openmm_starmd.model.network import Network
from openmm_starmd.training.objective import objective
from openmm_starmd.training.optimizer import make_optimizer
from openmm_starmd.training.parallelism import mixed_precision
from openmm_starmd.training.recipe import released_config
from openmm_starmd.training.settings import Recipe
from openmm_starmd.training.validation import Validation


@dataclass(frozen=True)
class DryRun:
    """Figures of one process.

    Attributes
    ----------
    device : str
    parameters : int
    state : int
        Bytes of parameters, gradients, optimiser state and average.
    peak : int
        Most bytes in use during a step of the longest protein: of the process on a CPU, of PyTorch on a GPU.
    activations : int
        What such a step adds to the bytes in use before it, gradients and optimiser state aside.
    longest : str
        Shape of that step's batch, for people.
    steps_per_second, tokens_per_second : float
        Of optimiser steps as the recipe draws them; tokens are residues x frames x windows.
    validation : float or None
        Seconds that judging the weights once takes; None without proteins to judge by.
    every : int
        Training steps between two times.
    """

    device: str
    parameters: int
    state: int
    peak: int
    activations: int
    longest: str
    steps_per_second: float
    tokens_per_second: float
    validation: float | None = None
    every: int = 1

    def __str__(self) -> str:
        mega = 1024**2
        judged = []
        if self.validation is not None:
            share = 100 * self.validation / (self.validation + self.every / self.steps_per_second)
            judged = [
                f"validation           {self.validation:.3g} s every {self.every} steps, {share:.2g} % of the time"
            ]
        return "\n".join(
            [
                f"parameters           {self.parameters:,}",
                f"weights and state    {self.state / mega:.0f} MB (with gradients, Adam's moments and the average)",
                f"activations          {self.activations / mega:.0f} MB ({self.longest})",
                f"peak memory          {self.peak / mega:.0f} MB on {self.device}",
                f"speed                {self.steps_per_second:.3g} steps/s, {self.tokens_per_second:.3g} tokens/s",
                *judged,
            ]
        )


def dry_run(
    proteins: Sequence[ProteinData],
    recipe: Recipe,
    device: str,
    steps: int = 5,
    validation: Sequence[ProteinData] = (),
) -> DryRun:
    """Train for a few steps in one process and measure.

    Parameters
    ----------
    proteins : sequence of ProteinData
    recipe : Recipe
    device : str
        ``"cpu"`` or ``"cuda"``.
    steps : int
        Optimiser steps to time, after one that is not.
    validation : sequence of ProteinData
        To judge by, as for :func:`openmm_starmd.training.recipe.train`.

    Returns
    -------
    DryRun
    """
    dataset = WindowDataset(proteins, recipe.windows, recipe.steps)
    network = Network(released_config(recipe, proteins)).to(device).train()
    network.checkpoint_blocks = recipe.checkpointing
    optimizer = make_optimizer(network, recipe.optimizer)
    average = [parameter.detach().clone() for parameter in network.parameters()]
    mixed = mixed_precision(recipe, device == "cuda")

    def backward(batch: Batch) -> None:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=mixed):
            total, _ = objective(network, batch.to(device), recipe.objective)
        total.backward()

    def step(plans: list[Plan]) -> int:
        for plan in plans:
            backward(dataset.read(plan))
        torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.optimizer.gradient_clip)
        optimizer.step()
        optimizer.zero_grad()
        torch._foreach_lerp_(average, [parameter.detach() for parameter in network.parameters()], 1e-3)
        return sum(plan.tokens for plan in plans)

    def planned(number: int) -> list[Plan]:
        return [dataset.plan(number, position) for position in range(recipe.accumulate)]

    step(planned(0))  # the first step allocates Adam's moments, fills tables and compiles kernels
    plan = _longest(proteins, recipe)
    network.zero_grad(set_to_none=False)
    batch = dataset.read(plan)
    before = _reset_peak(device)
    backward(batch)
    peak = _peak(device)
    optimizer.zero_grad()

    _finish(device)
    began, tokens = time.perf_counter(), 0
    for number in range(1, steps + 1):
        tokens += step(planned(number))
    _finish(device)
    seconds = time.perf_counter() - began
    parameters = sum(parameter.numel() for parameter in network.parameters())
    windows, frames = plan.target.shape
    return DryRun(
        device=torch.cuda.get_device_name() if device == "cuda" else "the CPU",
        parameters=parameters,
        state=5 * 4 * parameters,
        peak=peak,
        activations=max(0, peak - before),
        longest=f"{plan.protein.name}: {windows} x {frames} frames x {plan.protein.features.length} residues",
        steps_per_second=steps / seconds,
        tokens_per_second=tokens / seconds,
        validation=_judging(network, recipe, validation, device) if validation else None,
        every=recipe.validation.every,
    )


def _judging(network: Network, recipe: Recipe, validation: Sequence[ProteinData], device: str) -> float:
    """Seconds that judging weights takes."""
    judge = Validation(validation, recipe.validation, network.config, device)
    began = time.perf_counter()
    judge.judge(network.eval())
    _finish(device)
    return time.perf_counter() - began


def _longest(proteins: Sequence[ProteinData], recipe: Recipe) -> Plan:
    """The largest batch of the longest protein."""
    longest = max(proteins, key=lambda protein: protein.features.length)
    # several draws, since a long stride in a short trajectory makes a short window
    dataset = WindowDataset([longest], replace(recipe.windows, focus_probability=0.0), 1)
    return max((dataset.plan(0, position) for position in range(20)), key=lambda plan: plan.tokens)


def _finish(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _reset_peak(device: str) -> int:
    """Begin a new peak; bytes in use now."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    # "5" resets the kernel's high-water mark of this process (Linux)
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")
    return _status("VmRSS")


def _peak(device: str) -> int:
    """Most bytes in use since :func:`_reset_peak`."""
    if device == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()
    return _status("VmHWM")


def _status(name: str) -> int:
    """A line of /proc/self/status in bytes; elsewhere the peak since the process began."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak
