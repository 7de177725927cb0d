"""What ``throughput.py`` and the GPU script time: training steps and rollouts, and what a step has to compute and move.

Counted, so that a time has something to stand beside: floating-point operations of matrix products, the bytes that the
code as written moves (each operation's tensors, read or written once; views are free), and the number of operations,
each a launch on a GPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
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


def made_up_window(features: Features, frames: int, stride: float, seed: int = 0, windows: int = 1) -> Batch:
    """Windows of frames that wobble about the reference."""
    generator = torch.Generator().manual_seed(seed)
    n = features.length
    walk = 0.03 * torch.randn(windows, frames, n, 6, generator=generator).cumsum(1)
    reference = features.reference
    rigids = Rigids(reference.rotations @ exp_map(walk[..., 3:]), reference.translations + walk[..., :3])
    target = torch.ones(windows, frames, dtype=torch.bool)
    target[:, 0] = False
    torsions = torch.randn(windows, frames, n, 5, generator=generator)
    exists = torch.ones(n, 5, dtype=torch.bool)
    strides = torch.full((windows, frames), stride)
    return Batch(features, chained(rigids), torsions, exists, ~exists, strides, target, (seed, 0, 0))


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
        self.bytes = 0.0

    def __call__(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any = None) -> torch.Tensor:
        samples, heads, tokens, width = query.shape
        pairs = tokens * key.shape[-2] if mask is None else int(mask.frames.sum()) * mask.residues**2
        # two products forward, four backward
        self.operations += 12.0 * samples * heads * pairs * width
        # queries, keys, values and the result, forward; the same with their gradients, backward
        self.bytes += 3.0 * (sum(_bytes(x) for x in (query, key, value)) + _bytes(value))
        return value + 0 * (query + key)


def _bytes(tensor: torch.Tensor) -> int:
    """Bytes of a tensor's numbers, each counted once however often it is repeated."""
    distinct = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        distinct *= size if stride else min(size, 1)
    return distinct * tensor.element_size()


class Traffic(TorchDispatchMode):
    """Counts operations that compute or copy, and the bytes of what each reads and writes."""

    def __init__(self) -> None:
        super().__init__()
        self.operations, self.bytes = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not (func.is_view or func.overloadpacket.__name__.startswith(("empty", "new_empty"))):
            self.operations += 1
            tensors = tree_leaves((args, kwargs or {}, result))
            self.bytes += sum(_bytes(x) for x in tensors if isinstance(x, torch.Tensor))
        return result


@dataclass(frozen=True)
class Counted:
    """What a piece of work computes and moves.

    Attributes
    ----------
    flops : float
        Floating-point operations of matrix products.
    bytes : float
        Moved by the code as written, with no two operations fused.
    launches : int
        Operations, views aside.
    """

    flops: float
    bytes: float
    launches: int


def counted(work: Callable[[], Any]) -> Counted:
    """Do a piece of work once and count."""
    with Traffic() as traffic, FlopCounterMode(display=False) as counter:
        work()
    return Counted(float(counter.get_total_flops()), float(traffic.bytes), traffic.operations)


def counted_training(step: Callable[[], Any]) -> Counted:
    """Count a training step, whose attention depends on what the mask lets see and not on the kernel."""
    count, real = AttentionCount(), attention.attend
    attention.attend = count
    try:
        found = counted(step)
    finally:
        attention.attend = real
    return Counted(found.flops + count.operations, found.bytes + count.bytes, found.launches)


def operations(step: Callable[[], Any]) -> float:
    """Floating-point operations of the matrix products of a training step."""
    return counted_training(step).flops


def measure_training(
    config: ModelConfig, residues: int, frames: int, device: str, seconds: float, windows: int = 1
) -> dict[str, Any]:
    """Optimiser steps on a batch of windows."""
    from openmm_starmd.training.objective import objective
    from openmm_starmd.training.optimizer import make_optimizer
    from openmm_starmd.training.settings import OptimizerSettings, recipe_objective

    settings = recipe_objective("mini" if config.anchored else "paper")
    network = Network(config).to(device).train()
    optimizer = make_optimizer(network, OptimizerSettings(learning_rate=1e-4))
    batch = made_up_window(made_up_protein(residues), frames, config.stride_default, windows=windows).to(device)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            total, _ = objective(network, batch, settings)
        total.backward()
        optimizer.step()

    if device == "cuda":
        step()  # fills tables that later steps find; a step of the paper's form takes a minute of a CPU
    found = counted_training(step)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    # the step that was counted has warmed up all but the GPU's attention kernel
    spent = timed(step, device, seconds, warm_up=device == "cuda")
    return {
        "frames": frames,
        "windows": windows,
        "tokens_per_second": windows * residues * frames / spent,
        "steps_per_second": 1 / spent,
        "seconds_per_step": spent,
        "flops_per_step": found.flops,
        "flops_per_second": found.flops / spent,
        "bytes_per_step": found.bytes,
        "launches_per_step": found.launches,
        # weights, gradients and Adam's two moments read and written once; the batch is small beside them
        "least_bytes_per_step": 8.0 * sum(_bytes(parameter) for parameter in network.parameters()),
    }


def measure_rollout(
    config: ModelConfig,
    residues: int,
    history: int,
    steps: int,
    device: str,
    seconds: float,
    *,
    replicas: int = 1,
    features: Features | None = None,
    count: bool = False,
) -> dict[str, Any]:
    """Frames drawn against a full history, with `steps` denoising steps; `count` adds what a call of the network does.

    `features` are those of a made-up protein of so many residues by default.
    """
    from openmm_starmd.diffusion.samplers import SamplerSettings
    from openmm_starmd.rollout import Rollout

    features = features or made_up_protein(residues)
    start = backbone_from_rigids(features.reference)[None].double().expand(replicas, -1, -1, -1)
    settings = SamplerSettings(config.sampler, steps, config.tau_end, config.context_tau, history + 1)
    seeds = range(replicas)
    rollout = Rollout(
        Network(config), features, start, stride=config.stride_default, seeds=seeds, device=device, settings=settings
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
    found: dict[str, Any] = {}
    if count:
        fresh()
        drawn = counted(rollout.step)
        # weights once, the history's keys and values once: what a call cannot do without
        cached = sum(2 * _bytes(keys) for keys in rollout._cache.keys)
        found = {
            "flops_per_denoising_step": drawn.flops / (steps + 1),
            "bytes_per_denoising_step": drawn.bytes / (steps + 1),
            "launches_per_denoising_step": drawn.launches / (steps + 1),
            "least_bytes_per_denoising_step": float(
                cached + sum(_bytes(parameter) for parameter in rollout.network.parameters())
            ),
        }
    return found | {
        "history": history,
        "replicas": replicas,
        "steps_timed": steps,
        "seconds_per_denoising_step": per_step,
        "seconds_per_frame": frame if steps == config.steps else per_step * (config.steps + 1),
        "steps": config.steps,
    }
