"""What entering a classical segment costs: building, the first entry, later ones, and minimisation by its bound.

    python -m benchmarks.hybrid_cost                        # villin from the openmm package
    python -m benchmarks.hybrid_cost protein.pdb --json cost.json

The surrogate draws frames 1 ps apart; each is entered once per bound. Set-up is amber14 in OBC2 (the native force),
4 fs steps, on OpenMM's CPU platform. "build" is the first of the process, as a user pays for it, "build again" what
another would cost. Times of entries are medians of wall time, with the processor time beside them, for a busy machine
stretches the first alone. The share that matters is "entry / build": an entry without minimisation and without
equilibration, of what building cost.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import openmm.app

from benchmarks.lib.results_page import write_json
from openmm_starmd import StarMDSimulation, __version__
from openmm_starmd.classical.model import ClassicalModel
from openmm_starmd.classical.settings import ClassicalSettings
from openmm_starmd.running import read_structure

VILLIN = Path(openmm.app.__file__).parent / "data" / "test.pdb"
BOUNDS = (0, 10, 50, 200)


Clocked = tuple[float, float, Any]


def clocked(action: Callable[[], Any]) -> Clocked:
    """Wall and processor seconds of a call, and what it returned."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = action()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def entries_table(rows: dict[int, list[Clocked]], residues: int, build_cpu: float) -> list[dict[str, float]]:
    """A row per bound of the minimiser: medians over the entries of so many residues."""
    table = []
    for bound, entries in rows.items():
        found = [one[2] for one in entries]
        row = {
            "minimize": bound,
            "seconds": statistics.median(one[0] for one in entries),
            "cpu_seconds": statistics.median(one[1] for one in entries),
            "energy_per_residue_kj": statistics.median(one.energy_minimized / residues for one in found),
            "energy_per_residue_kj_worst": max(one.energy_minimized / residues for one in found),
            "backbone_moved_angstrom": 10 * float(np.median([one.moved for one in found])),
        }
        table.append(row | {"cpu_of_build": row["cpu_seconds"] / build_cpu})
    return table


def show(result: dict[str, Any]) -> None:
    """Print times, and a line per bound of the minimiser."""
    print(f"{result['structure']}: {result['residues']} residues, {result['atoms']} atoms")
    for name in ("build", "build_again", "first_entry", "later_entry", "picosecond_of_md"):
        print(f"  {name:<18} {result[name]['seconds']:9.3f} s   {result[name]['cpu_seconds']:9.3f} s of processor")
    print(f"  entry / build      {100 * result['entry_of_build']:9.2f} %")
    print("minimize   seconds  processor  / build  kJ/mol/residue    worst  moved (Å)")
    for row in result["entries"]:
        print(
            f"{row['minimize']:8d} {row['seconds']:9.3f} {row['cpu_seconds']:10.3f} {row['cpu_of_build']:8.2f} "
            f"{row['energy_per_residue_kj']:15.1f} {row['energy_per_residue_kj_worst']:8.1f} "
            f"{row['backbone_moved_angstrom']:10.3f}"
        )


def main() -> None:
    """Measure, print, write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("structure", type=Path, nargs="?", default=VILLIN)
    parser.add_argument("--frames", type=int, default=5, help="learned frames, each entered once per bound")
    parser.add_argument("--between", type=int, default=5, help="frames drawn between two that are entered")
    parser.add_argument("--stride", type=float, default=1.0, help="ps")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)

    source = read_structure(options.structure)
    simulation = StarMDSimulation(source.topology, source.positions, stride=options.stride, seed=1)
    settings = ClassicalSettings(platform="CPU", properties={"Threads": str(options.threads)})
    builds = [clocked(lambda: ClassicalModel(simulation.protein, settings)) for _ in range(3)]
    build, build_cpu = builds[0][:2]
    model = builds[-1][2]

    def entry(bound: int, seed: int) -> Clocked:
        frame = simulation.integrator.present()
        return clocked(lambda: model.enter(frame.backbone, frame.torsions, minimize=bound, equilibrate=0.0, seed=seed))

    rows: dict[int, list[Clocked]] = {bound: [] for bound in BOUNDS}
    first = None
    for number in range(options.frames):
        simulation.step(options.between)
        if first is None:
            first = entry(0, 0)
        for bound in BOUNDS:
            rows[bound].append(entry(bound, number))
    steps = round(1 / settings.timestep)
    per_picosecond = clocked(lambda: model.simulation.step(steps))

    residues = simulation.protein.length
    table = entries_table(rows, residues, build_cpu)
    bare = table[0]
    result = {
        "structure": options.structure.name,
        "residues": residues,
        "atoms": model.simulation.topology.getNumAtoms(),
        "build": {"seconds": build, "cpu_seconds": build_cpu},
        "build_again": {
            "seconds": statistics.median(one[0] for one in builds[1:]),
            "cpu_seconds": statistics.median(one[1] for one in builds[1:]),
        },
        "first_entry": {"seconds": first[0], "cpu_seconds": first[1]},
        "later_entry": {"seconds": bare["seconds"], "cpu_seconds": bare["cpu_seconds"]},
        "entry_of_build": bare["cpu_seconds"] / build_cpu,
        "picosecond_of_md": {"seconds": per_picosecond[0], "cpu_seconds": per_picosecond[1]},
        "entries": table,
        "frames": options.frames,
        "threads": options.threads,
        "machine": {"processor": platform.processor() or platform.machine(), "cpus": os.cpu_count()},
        "versions": {"openmm": openmm.__version__, "openmm_starmd": __version__, "python": platform.python_version()},
    }
    show(result)
    if options.json is not None:
        write_json(options.json, result)


if __name__ == "__main__":
    main()
