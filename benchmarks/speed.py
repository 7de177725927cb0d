"""Simulated time per day: the surrogate against OpenMM, same protein, same number of threads, CPU or GPU on both sides.

    python -m benchmarks.speed                        # villin from the openmm package
    python -m benchmarks.speed protein.pdb --json speed.json
    python -m benchmarks.speed --device cuda --platform CUDA --json gpu.json

The MD side is the protocol of ``openmm-starmd make-data``: amber14, OBC2 through the native GBSAOBCForce, no cutoff,
300 K, LangevinMiddle at 1/ps, 4 fs, hydrogens of 3 amu. The two sides take turns, so that a busy machine slows both.
Set-up (imports, force field, minimisation, first frames) is not counted, and no reporter is attached, on either side.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import openmm
import openmm.app
import torch
from openmm import unit

from benchmarks.lib.paths import RESULTS
from benchmarks.lib.results_page import write_json
from openmm_starmd import Protein, StarMDSimulation, __version__
from openmm_starmd.classical.replicas import Protocol, prepare_model
from openmm_starmd.model.weights import DEFAULT_WEIGHTS, load_weights
from openmm_starmd.running import read_structure

VILLIN = Path(openmm.app.__file__).parent / "data" / "test.pdb"
SECONDS_PER_DAY = 86400.0


def classical(structure: Path, threads: int, platform: str = "CPU") -> tuple[Callable[[float], float], int]:
    """The MD side.

    Parameters
    ----------
    structure : Path
        Whatever is not protein is left out.
    threads : int
        Of the CPU platform.
    platform : str
        OpenMM's; on a GPU in mixed precision, as training MD is made there.

    Returns
    -------
    callable, int
        Run for about so many seconds and return ns/day; number of atoms.
    """
    protocol = Protocol()
    source = read_structure(structure)
    protein = Protein.from_openmm(source.topology, source.positions)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "protein.pdb"
        topology = protein.frame_topology("heavy")
        positions = protein.frame_positions(protein.backbone, "heavy") * unit.nanometer
        with path.open("w") as file:
            openmm.app.PDBFile.writeFile(topology, positions, file)
        model, system = prepare_model(path, protocol)
    integrator = openmm.LangevinMiddleIntegrator(
        protocol.temperature * unit.kelvin, protocol.friction / unit.picosecond, protocol.timestep * unit.picosecond
    )
    integrator.setRandomNumberSeed(1)
    properties = {"CPU": {"Threads": str(threads)}, "Reference": {}}.get(platform, {"Precision": "mixed"})
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName(platform), properties)
    context.setPositions(model.positions)
    openmm.LocalEnergyMinimizer.minimize(context, maxIterations=100)
    context.setVelocitiesToTemperature(protocol.temperature * unit.kelvin, 1)
    integrator.step(100)
    # waiting costs a GPU, whose steps are short, more than a CPU
    burst = 50 if platform in ("CPU", "Reference") else 1000

    def measure(seconds: float) -> float:
        steps, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            integrator.step(burst)
            context.getState()  # waits for the steps to be done
            steps += burst
        elapsed = time.perf_counter() - began
        return steps * protocol.timestep / 1000 / elapsed * SECONDS_PER_DAY

    return measure, system.getNumParticles()


def surrogate(
    structure: Path, weights: str, stride: float | None, steps: int | None, device: str
) -> tuple[Callable[[float], float], StarMDSimulation]:
    """The surrogate's side: a callable as in :func:`classical`, and the simulation."""
    source = read_structure(structure)
    simulation = StarMDSimulation(
        source.topology, source.positions, weights=weights, stride=stride, steps=steps, seed=1, device=device
    )
    # fills the history, so that every frame counted is drawn against a full one
    simulation.step(16)
    picoseconds = simulation.stride.value_in_unit(unit.picosecond)

    def measure(seconds: float) -> float:
        frames, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            simulation.step(1)
            frames += 1
        elapsed = time.perf_counter() - began
        return frames * picoseconds / 1000 / elapsed * SECONDS_PER_DAY

    return measure, simulation


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("structure", nargs="?", type=Path, default=VILLIN)
    parser.add_argument("--weights", default=DEFAULT_WEIGHTS)
    parser.add_argument("--stride", type=float, help="ps; the weights' default")
    parser.add_argument("--steps", type=int, help="denoising steps per frame; the weights' own")
    parser.add_argument("--device", default="cpu", help="of the surrogate; the ratio is fair on one machine's own")
    parser.add_argument("--platform", default="CPU", help="of OpenMM; CUDA goes with --device cuda")
    parser.add_argument("--threads", type=int, default=1, help="of either side")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="per side and round")
    parser.add_argument("--json", type=Path, default=RESULTS / "speed.json")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(arguments.threads)
    arguments.steps = arguments.steps or load_weights(arguments.weights).config.steps

    learned, simulation = surrogate(
        arguments.structure, arguments.weights, arguments.stride, arguments.steps, arguments.device
    )
    md, atoms = classical(arguments.structure, arguments.threads, arguments.platform)
    speeds: dict[str, list[float]] = {"surrogate": [], "md": []}
    for k in range(arguments.rounds):
        speeds["surrogate"].append(learned(arguments.seconds))
        speeds["md"].append(md(arguments.seconds))
        print(f"round {k + 1}: {speeds['surrogate'][-1]:.0f} and {speeds['md'][-1]:.1f} ns/day", file=sys.stderr)
    ratios = [a / b for a, b in zip(speeds["surrogate"], speeds["md"], strict=True)]
    stride = simulation.stride.value_in_unit(unit.picosecond)
    result = {
        "structure": arguments.structure.name,
        "residues": len(simulation.protein.sequence.replace("/", "")),
        "atoms": atoms,
        "weights": arguments.weights,
        "stride_ps": stride,
        "steps": arguments.steps,
        "device": arguments.device,
        "platform": arguments.platform,
        "threads": arguments.threads,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {"openmm_starmd": __version__, "openmm": openmm.version.version, "torch": torch.__version__},
        "ns_per_day": speeds,
        "ratio": ratios,
    }
    print(
        f"{result['structure']}: {result['residues']} residues, {atoms} atoms; "
        f"{result['machine']}, {arguments.threads} thread(s)"
    )
    print(
        f"stride {stride:g} ps, {arguments.steps} denoising steps, median of {arguments.rounds} rounds of "
        f"{arguments.seconds:g} s (lowest to highest)\n"
    )
    print("| | ns/day |")
    print("|---|---|")
    print(f"| STAR-MD ({arguments.weights}, {arguments.device}) | {spread(speeds['surrogate'], 0)} |")
    print(f"| OpenMM, {arguments.platform} platform, native OBC2, 4 fs | {spread(speeds['md'], 1)} |")
    print(f"| ratio | {spread(ratios, 0)} |")
    write_json(arguments.json, result)


def spread(values: list[float], digits: int) -> str:
    """Median with the lowest and highest value."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


if __name__ == "__main__":
    main()
