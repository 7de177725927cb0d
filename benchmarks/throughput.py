"""How fast training and rollouts are, and how much memory they take: both presets, several lengths, CPU and GPU.

    python -m benchmarks.throughput                                    # all there is
    python -m benchmarks.throughput --presets paper --residues 64 128 --devices cuda

Training: optimiser steps on one window of L frames (2L - 1 with the noisy copies): noise, forward, losses, backward,
Adam. Tokens are residues x frames of the window. Where L = 8 does not fit, L is halved. Rollout: frames drawn against
a history of --history frames; per denoising step (a network call), and per frame of the preset's number of steps: on a
GPU measured, on a CPU from the time of a few steps, as the steps are alike. Weights are random: speed does not depend
on them.

Each measurement runs in a process of its own, so that peak memory is its own, with one warm-up and at least one timed
repetition, a limit on time and, on a CPU, on memory. A dash stands for what did not fit, with the reason below the
table. Absolute times count on a GPU; those of a CPU are the process's CPU seconds where it has one thread, so that
other work on the machine disturbs them less, and ratios to the smallest length stand beside them.

Share of peak: floating-point operations of matrix products, forward and backward (torch.utils.flop_counter; attention
counted as 12 x heads x width x pairs of tokens that see each other, so that blocks which the mask hides and work that
kernels do twice do not count), over time and the GPU's dense bf16 peak. Element-wise work does not count as useful.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.lib.paths import RESULTS, ROOT
from benchmarks.lib.results_page import add_markdown_option, write_block, write_json
from benchmarks.lib.throughput_measure import measure_rollout, measure_training
from openmm_starmd import __version__
from openmm_starmd.model.config import preset

# dense bf16 with fp32 accumulation, TFLOP/s, from NVIDIA's data sheets
PEAKS = {
    "H200": 989.4,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.4,
    "A100": 312.0,
    "L40S": 362.0,
    "A10": 125.0,
}
DOES_NOT_FIT = 3  # exit code of a measurement that ran out of memory


def one(arguments: argparse.Namespace) -> dict[str, Any]:
    """One measurement, in this process."""
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    device, residues = arguments.devices[0], arguments.residues[0]
    if device == "cpu":
        limit = int(arguments.memory * 1024**3)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    config = preset(arguments.presets[0])
    if arguments.one == "training":
        figures = measure_training(config, residues, arguments.frames, device, arguments.seconds)
    else:
        steps = config.steps if device == "cuda" else min(config.steps, 4)
        figures = measure_rollout(config, residues, arguments.history, steps, device, arguments.seconds)
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated() / 1024**2
        figures |= {"gpu": torch.cuda.get_device_name()}
    else:
        scale = 1024**2 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale
    return figures | {"peak_mib": peak}


def attempt(kind: str, device: str, name: str, residues: int, frames: int, arguments: argparse.Namespace) -> dict:
    """One measurement in a process of its own; ``{"skipped": reason}`` where it does not fit."""
    command = [sys.executable, "-m", "benchmarks.throughput", "--one", kind, "--devices", device, "--presets", name]
    command += ["--residues", str(residues), "--frames", str(frames), "--history", str(arguments.history)]
    command += ["--seconds", str(arguments.seconds), "--threads", str(arguments.threads)]
    command += ["--memory", str(arguments.memory)]
    try:
        outcome = subprocess.run(
            command, capture_output=True, text=True, timeout=arguments.timeout, check=False, cwd=ROOT
        )
    except subprocess.TimeoutExpired:
        return {"skipped": f"no repetition within {arguments.timeout:g} s"}
    if outcome.returncode == DOES_NOT_FIT:
        where = f"{arguments.memory:g} GiB" if device == "cpu" else "the GPU's memory"
        return {"skipped": f"does not fit into {where}", "memory": True}
    if outcome.returncode:
        return {"skipped": (outcome.stderr.strip().splitlines() or ["died without a word"])[-1][:200]}
    return json.loads(outcome.stdout.splitlines()[-1])


def measure(device: str, name: str, residues: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Training, with fewer frames where the window does not fit, and rollout."""
    frames = arguments.frames
    training = attempt("training", device, name, residues, frames, arguments)
    while training.get("memory") and frames > 2:
        frames //= 2
        training = attempt("training", device, name, residues, frames, arguments)
    rollout = attempt("rollout", device, name, residues, frames, arguments)
    row = {"device": device, "preset": name, "residues": residues, "training": training, "rollout": rollout}
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row


def skipped(row: dict[str, Any]) -> bool:
    """Whether a part of a row could not be measured."""
    return any("skipped" in row[kind] for kind in ("training", "rollout"))


def peak_of(gpu: str) -> float | None:
    """Dense bf16 peak of a GPU by its name, TFLOP/s."""
    return next((peak for key, peak in PEAKS.items() if all(word in gpu for word in key.split())), None)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a table per device, reasons below it."""
    parts = []
    for device in dict.fromkeys(row["device"] for row in rows):
        own = [row for row in rows if row["device"] == device]
        gpu = next((row["training"]["gpu"] for row in own if "gpu" in row["training"]), None)
        peak = peak_of(gpu) if gpu else None
        heads = ["preset", "N", "L", "tokens/s", "steps/s", "s per step"]
        heads += ["x smallest"] if device == "cpu" else []
        heads += ["peak (MiB)", "TFLOP per step"] + (["share of bf16 peak"] if peak else [])
        heads += ["ms per denoising step"] + (["x smallest"] if device == "cpu" else [])
        heads += ["s per frame", "peak (MiB)"]
        lines = [f"**{gpu or 'CPU, one process, float32'}**", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        reasons: dict[str, list[str]] = {}
        for row in own:
            smallest = next(r for r in own if r["preset"] == row["preset"])
            lines.append(f"| {' | '.join(_cells(row, smallest, device, peak))} |")
            for kind in ("training", "rollout"):
                if "skipped" in row[kind]:
                    what = f"{row['preset']} N {row['residues']} {kind}"
                    reasons.setdefault(row[kind]["skipped"], []).append(what)
        lines += ["", *(f"- {', '.join(what)}: {reason}" for reason, what in reasons.items())]
        parts.append("\n".join(lines).rstrip())
    return "\n\n".join(parts)


def _cells(row: dict[str, Any], smallest: dict[str, Any], device: str, peak: float | None) -> list[str]:
    training, rollout = row["training"], row["rollout"]

    def shown(figures: dict[str, Any], key: str, scale: float = 1.0) -> str:
        return f"{scale * figures[key]:.3g}" if key in figures else "-"

    def ratio(kind: str, per: Callable[[dict[str, Any]], float]) -> list[str]:
        if device != "cpu":
            return []
        if "skipped" in row[kind] or "skipped" in smallest[kind]:
            return ["-"]
        return [f"{per(row[kind]) / per(smallest[kind]):.1f}"]

    def whole(figures: dict[str, Any]) -> str:
        return f"{figures['peak_mib']:.0f}" if "peak_mib" in figures else "-"

    # a shorter window makes a shorter step: compare what a frame of the window costs
    cells = [row["preset"], str(row["residues"]), str(training.get("frames", "-"))]
    cells += [shown(training, key) for key in ("tokens_per_second", "steps_per_second", "seconds_per_step")]
    cells += ratio("training", lambda f: f["seconds_per_step"] / f["frames"])
    cells += [whole(training), shown(training, "flops_per_step", 1e-12)]
    if peak:
        cells.append(f"{training['flops_per_second'] / peak / 1e10:.1f} %" if "flops_per_second" in training else "-")
    cells.append(shown(rollout, "seconds_per_denoising_step", 1000))
    cells += ratio("rollout", lambda f: f["seconds_per_denoising_step"])
    return [*cells, shown(rollout, "seconds_per_frame"), whole(rollout)]


def main() -> None:
    """Measure, print Markdown, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", choices=["mini", "paper"], default=["mini", "paper"])
    parser.add_argument("--residues", type=int, nargs="+", default=[64, 128, 256, 384])
    parser.add_argument("--devices", nargs="+", choices=["cpu", "cuda"], help="cpu, and cuda where there is a GPU")
    parser.add_argument("--frames", type=int, default=8, help="L of the training window")
    parser.add_argument("--history", type=int, default=7, help="frames of history of the rollout")
    parser.add_argument("--seconds", type=float, default=10.0, help="for repetitions of one measurement")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for one measurement, set-up and all")
    parser.add_argument("--memory", type=float, default=16.0, help="GiB that a measurement on the CPU may take")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="keep what the JSON file has, but for what was skipped")
    parser.add_argument("--json", type=Path, default=RESULTS / "throughput.json")
    add_markdown_option(parser, "throughput")
    parser.add_argument("--one", choices=["training", "rollout"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.devices = arguments.devices or (["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
    if arguments.one:
        try:
            print(json.dumps(one(arguments)))
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error):
                sys.exit(DOES_NOT_FIT)
            raise
        return
    rows: list[dict[str, Any]] = []
    known = json.loads(arguments.json.read_text())["rows"] if arguments.resume and arguments.json.exists() else []
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(arguments).items() if k != "one"}
    settings |= {"version": __version__, "torch": torch.__version__, "machine": platform.machine()}
    for device in arguments.devices:
        for name in arguments.presets:
            for residues in arguments.residues:
                place = {"device": device, "preset": name, "residues": residues}
                kept = [row for row in known if place.items() <= row.items() and not skipped(row)]
                rows.append(kept[0] if kept else measure(device, name, residues, arguments))
                # a long table survives being stopped
                write_json(arguments.json, {"settings": settings, "rows": rows})
    print(table(rows))
    if arguments.markdown:
        write_block(arguments.markdown, "throughput", table(rows))


if __name__ == "__main__":
    main()
