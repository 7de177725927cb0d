"""Stage: how fast frames are drawn and networks trained, with what the card would allow beside each time.

Floors are counted, not guessed. ``floor_flops``: floating-point operations of the matrix products over the rate that a
large product of the same precision reaches on this card, here and now. ``floor_bytes``: what cannot be done without,
weights and history (or weights, gradients and Adam's moments) read or written once, over the bandwidth of a large copy.
``as_written_bytes``: every operation's tensors read and written once, over the same bandwidth, which is what fusing
operations could save. ``launches``: operations, each of some 5 microseconds at least, which CUDA graphs could save.
The largest of the three last says what a measured time is made of.

OpenMM stands beside that: the same protein, OBC2, 4 fs, alone in a Context. Rows come in the order of their worth, and
the file is whole after each.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.stage import Given, read_arguments
from benchmarks.lib.results_page import write_json
from benchmarks.lib.throughput_measure import measure_rollout, measure_training
from openmm_starmd import Protein
from openmm_starmd.files.reading import read_structure
from openmm_starmd.model.config import ModelConfig, preset
from openmm_starmd.rollout import features_of

LAUNCH = 5e-6
"""Seconds that one operation takes from Python at least, of a small kernel on a current CPU."""
HISTORY = 7
SECONDS_PER_DAY = 86400.0


def ceilings(device: str, size: int = 8192, copied: int = 2**31) -> dict[str, float]:
    """Bandwidth of a copy, bytes/s read and written, and rates of matrix products, FLOP/s, on random data."""
    found = {}
    found["copy_bytes_per_second"] = 2 * copied / _copy_time(copied, device)
    for name, dtype in (("bf16", torch.bfloat16), ("float32", torch.float32)):
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        found[f"{name}_flops_per_second"] = 2 * size**3 / _median(lambda a=a, b=b: a @ b, device)
    return found


def _copy_time(copied: int, device: str) -> float:
    source = torch.randn(copied // 4, device=device)
    target = torch.empty_like(source)
    return _median(lambda: target.copy_(source), device)


def _median(work: Any, device: str, repeats: int = 7) -> float:
    times = []
    for _ in range(repeats + 2):
        if device == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return sorted(times[2:])[repeats // 2]


def floors(found: dict[str, Any], kind: str, seconds: float, rate: float, bandwidth: float) -> dict[str, float]:
    """Seconds that a step of `kind` would take at the card's ceilings, and the share of its time that the floor is."""
    values = {
        "floor_flops": found[f"flops_per_{kind}"] / rate,
        "floor_bytes": found[f"least_bytes_per_{kind}"] / bandwidth,
        "as_written_bytes": found[f"bytes_per_{kind}"] / bandwidth,
        "launches": found[f"launches_per_{kind}"] * LAUNCH,
    }
    floor = max(values["floor_flops"], values["floor_bytes"])
    return {**values, "share_of_floor": floor / seconds}


class Tables:
    """Rows as they are measured, written after each."""

    def __init__(self, given: Given, structure: Path) -> None:
        self.given, self.path = given, given.output / "tables.json"
        options = given.options
        read = read_structure(structure)
        protein = Protein.from_openmm(read.topology, read.positions)
        self.structure, self.features = structure, features_of(protein)
        self.content: dict[str, Any] = {
            "protein": structure.stem,
            "residues": self.features.length,
            "torch": torch.__version__,
            "gpu": torch.cuda.get_device_name() if given.device == "cuda" else "CPU",
            "ceilings": ceilings(given.device, options["matrix"], options["copied"]),
            "how": __doc__,
            "drawing": [],
            "training": [],
            "openmm": [],
        }
        self._write()

    def drawing(self, name: str, config: ModelConfig, replicas: int) -> None:
        """One row: frames of so many replicas at once."""
        options, ceiling = self.given.options, self.content["ceilings"]
        row: dict[str, Any] = {"form": name, "replicas": replicas}
        found = self._measured(
            row,
            lambda: measure_rollout(
                config,
                self.features.length,
                HISTORY,
                options["denoising_steps"],
                self.given.device,
                options["row_seconds"],
                replicas=replicas,
                features=self.features,
                count=True,
            ),
        )
        if found:
            step = found["seconds_per_denoising_step"]
            per_frame = step * (config.steps + 1)
            row |= {"seconds_per_frame": per_frame, "frames_per_second": replicas / per_frame}
            row["stride_ps"] = config.stride_default
            row["ns_per_day_in_all"] = replicas * config.stride_default / 1000 / per_frame * SECONDS_PER_DAY
            # rollouts are in float32 throughout
            rate = ceiling["float32_flops_per_second"]
            row |= floors(found, "denoising_step", step, rate, ceiling["copy_bytes_per_second"])
        self._add("drawing", row)

    def training(self, name: str, config: ModelConfig, tokens: int) -> None:
        """One row: optimiser steps on windows of 8 frames that make so many tokens."""
        options, ceiling = self.given.options, self.content["ceilings"]
        residues, frames = options["training_residues"], 8
        windows = max(1, tokens // (residues * frames))
        row: dict[str, Any] = {"form": name, "residues": residues, "tokens": windows * residues * frames}
        found = self._measured(
            row,
            lambda: measure_training(
                config, residues, frames, self.given.device, options["row_seconds"], windows=windows
            ),
        )
        if found:
            # attention and edges in bf16, geometry in float32: the higher rate gives the floor
            rate = ceiling["bf16_flops_per_second" if self.given.device == "cuda" else "float32_flops_per_second"]
            row |= floors(found, "step", found["seconds_per_step"], rate, ceiling["copy_bytes_per_second"])
        self._add("training", row)

    def classical(self, structure: Path) -> None:
        """One row: OpenMM's MD of one protein."""
        from benchmarks.speed import classical

        row: dict[str, Any] = {"protein": structure.stem, "platform": self.given.platform}
        try:
            measure, atoms = classical(structure, 1, self.given.platform)
            row |= {"atoms": atoms, "ns_per_day": measure(self.given.options["md_seconds"])}
        except Exception as error:  # a missing platform, a file that does not build
            row["skipped"] = f"{type(error).__name__}: {error}"
        self._add("openmm", row)

    def _measured(self, row: dict[str, Any], measure: Any) -> dict[str, Any]:
        try:
            found = measure()
        except Exception as error:  # out of memory, a compiler's own: the next row is another size
            row["skipped"] = f"{type(error).__name__}: {str(error).strip()[:200]}".splitlines()[0]
            found = {}
        if self.given.device == "cuda":
            row["peak_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)
            torch.cuda.empty_cache()
        row |= found
        return found

    def _add(self, kind: str, row: dict[str, Any]) -> None:
        self.content[kind].append(row)
        self._write()
        print(
            kind, {key: value if isinstance(value, str) else f"{value:.3g}" for key, value in row.items()}, flush=True
        )

    def _write(self) -> None:
        write_json(self.path, self.content)


def structures(bundle: Path, name: str) -> Path:
    """The structure that frames are drawn of: one of the bundle's, else villin from the openmm package."""
    import openmm.app

    given = bundle / "structures" / f"{name}.pdb"
    return given if given.is_file() else Path(openmm.app.__file__).parent / "data" / "test.pdb"


def main() -> None:
    """Rows until the time is up."""
    given = read_arguments(
        __doc__ or "",
        protein="",
        replicas=[1, 16, 64, 256, 4],
        tokens={"mini": [800, 16384, 32768, 8192], "paper": [3072, 16384, 32768, 8192]},
        training_residues=64,
        denoising_steps=10,
        row_seconds=1.0,
        md_seconds=4.0,
        matrix=8192,
        copied=2**31,
        shrink={},
    )
    torch.manual_seed(0)
    options = given.options
    tables = Tables(given, structures(given.bundle, options["protein"]))
    configs = {
        name: ModelConfig.from_dict({**preset(name).to_dict(), **options["shrink"]}) for name in ("mini", "paper")
    }
    work: list[tuple[Any, ...]] = [(tables.classical, tables.structure)]
    # both forms at each size before the next size
    for k in range(max(len(options["replicas"]), *(len(x) for x in options["tokens"].values()))):
        for name, config in configs.items():
            if k < len(options["replicas"]):
                work.append((tables.drawing, name, config, options["replicas"][k]))
            if k < len(options["tokens"][name]):
                work.append((tables.training, name, config, options["tokens"][name][k]))
    longest = 0.0
    for done, (measure, *arguments) in enumerate(work):
        # a row that would be cut is not begun: those to come cost about as much as those before
        if given.left < longest:
            print(f"{len(work) - done} rows are left out: no time", flush=True)
            break
        began = time.monotonic()
        measure(*arguments)
        longest = max(longest, time.monotonic() - began)


if __name__ == "__main__":
    main()
