"""What ``throughput.py`` times: training steps and rollouts of made-up proteins, and the operations of a step."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from openmm_starmd.data.batches import Batch, chained
from openmm_starmd.geometry.rigid import Rigids, backbone_from_rigids
from openmm_starmd.geometry.so3 import exp_map
from openmm_starmd.model import attention
from openmm_starmd.model.config import ModelConfig
from openmm_starmd.model.features import Features
from openmm_starmd.model.network import Network


def made_up_protein(residues: int, seed: int = 0) -> Features:
    """Features of a globule of residues: a random chain at the density of proteins, which time does not depend on."""
    generator = torch.Generator().manual_seed(seed)
    radius = 0.22 * residues ** (1 / 3) + 0.2  # nm
    points = torch.randn(residues, 3, generator=generator, dtype=torch.float64)
    points = radius * points / points.norm(dim=-1, keepdim=True)
    points = points * torch.rand(residues, 1, generator=generator, dtype=torch.float64) ** (1 / 3)
    turns = exp_map(2 * torch.randn(residues, 3, generator=generator, dtype=torch.float64))
    types = torch.randint(20, (residues,), generator=generator)
    return Features(
        types,
        torch.arange(residues),
        torch.zeros(residues, dtype=torch.long),
        torch.ones(residues - 1, dtype=torch.bool),
        Rigids(turns, points).to(torch.float32),
    )


def made_up_window(features: Features, frames: int, stride: float, seed: int = 0) -> Batch:
    """A window of frames that wobble about the reference."""
    generator = torch.Generator().manual_seed(seed)
    n = features.length
    walk = 0.03 * torch.randn(1, frames, n, 6, generator=generator).cumsum(1)
    reference = features.reference
    rigids = Rigids(reference.rotations @ exp_map(walk[..., 3:]), reference.translations + walk[..., :3])
    target = torch.ones(1, frames, dtype=torch.bool)
    target[:, 0] = False
    torsions = torch.randn(1, frames, n, 5, generator=generator)
    exists = torch.ones(n, 5, dtype=torch.bool)
    return Batch(
        features, chained(rigids), torsions, exists, ~exists, torch.full((1, frames), stride), target, (seed, 0, 0)
    )


def stopwatch(device: str) -> Callable[[], float]:
    """A clock in seconds, read when the device has done what it was told."""
    if device == "cpu":
        return time.process_time if torch.get_num_threads() == 1 else time.perf_counter

    def read() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return read


def timed(
    work: Callable[[], Any],
    device: str,
    seconds: float,
    prepare: Callable[[], Any] = lambda: None,
    warm_up: bool = True,
) -> float:
    """Median seconds of `work` after one warm-up: at least one repetition, more while time lasts, 50 at most.

    `prepare` runs before each and is not counted.
    """
    clock = stopwatch(device)

    def once() -> float:
        prepare()
        begin = clock()
        work()
        return clock() - begin

    if warm_up:
        once()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or (time.perf_counter() < end and len(times) < 50):
        times.append(once())
    return float(np.median(times))


class AttentionCount:
    """Stands in for attention: counts its operations and computes none, so that counting costs no memory."""

    def __init__(self) -> None:
        self.operations = 0.0

    def __call__(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any = None) -> torch.Tensor:
        samples, heads, tokens, width = query.shape
        pairs = tokens * key.shape[-2] if mask is None else int(mask.frames.sum()) * mask.residues**2
        # two products forward, four backward
        self.operations += 12.0 * samples * heads * pairs * width
        return value + 0 * (query + key)


def operations(step: Callable[[], Any]) -> float:
    """Floating-point operations of the matrix products of a training step."""
    count, real = AttentionCount(), attention.attend
    attention.attend = count
    try:
        with FlopCounterMode(display=False) as counter:
            step()
    finally:
        attention.attend = real
    return counter.get_total_flops() + count.operations


def measure_training(config: ModelConfig, residues: int, frames: int, device: str, seconds: float) -> dict[str, Any]:
    """Optimiser steps on one window."""
    from openmm_starmd.training.objective import objective
    from openmm_starmd.training.settings import recipe_objective

    settings = recipe_objective("mini" if config.anchored else "paper")
    network = Network(config).to(device).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    batch = made_up_window(made_up_protein(residues), frames, config.stride_default).to(device)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            total, _ = objective(network, batch, settings)
        total.backward()
        optimizer.step()

    flops = operations(step)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    # the step that was counted has warmed up all but the GPU's attention kernel
    spent = timed(step, device, seconds, warm_up=device == "cuda")
    return {
        "frames": frames,
        "tokens_per_second": residues * frames / spent,
        "steps_per_second": 1 / spent,
        "seconds_per_step": spent,
        "flops_per_step": flops,
        "flops_per_second": flops / spent,
    }


def measure_rollout(
    config: ModelConfig, residues: int, history: int, steps: int, device: str, seconds: float
) -> dict[str, Any]:
    """Frames drawn against a full history, with `steps` denoising steps."""
    from openmm_starmd.diffusion.samplers import SamplerSettings
    from openmm_starmd.rollout import Rollout

    features = made_up_protein(residues)
    start = backbone_from_rigids(features.reference)[None].double()
    settings = SamplerSettings(config.sampler, steps, config.tau_end, config.context_tau, history + 1)
    rollout = Rollout(
        Network(config), features, start, stride=config.stride_default, seeds=[0], device=device, settings=settings
    )
    # frame 0 and the contiguous ones after it: the history is full, and stays so for the frames timed
    wobble = np.random.default_rng(0).normal(size=(history, *start.shape)) * 0.01
    stored = {0: start} | {n: start + torch.from_numpy(wobble[n - 1]) for n in range(1, history)}

    def fresh() -> None:
        rollout.restore(stored, history - 1, 0)

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    frame = timed(rollout.step, device, seconds, fresh)
    per_step = frame / (steps + 1)  # and one call that appends the frame to the history
    return {
        "history": history,
        "steps_timed": steps,
        "seconds_per_denoising_step": per_step,
        "seconds_per_frame": frame if steps == config.steps else per_step * (config.steps + 1),
        "steps": config.steps,
    }
