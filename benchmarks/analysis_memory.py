"""Peak memory of an evaluation of long trajectories of a large protein.

Writes a synthetic reference and run (a helix bundle of alanine with N, CA, C, O, CB that sways; XTC), evaluates them as
the command does, in a process of its own, and prints the peak of that process's resident memory.

    python -m benchmarks.analysis_memory --frames 10000 --residues 300
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mdtraj
import numpy as np

from benchmarks.lib.paths import ROOT
from benchmarks.lib.results_page import write_json

# Cartesian coordinates (nm) of N, CA, C, O, CB of an alanine in an α-helix along z, at azimuth 0
_RESIDUE = np.array(
    [
        [0.1560, 0.0000, -0.0900],
        [0.2290, 0.0000, 0.0360],
        [0.1637, 0.0822, 0.1470],
        [0.1888, 0.0638, 0.2660],
        [0.3650, 0.0500, 0.0200],
    ]
)


def structure(residues: int, per_helix: int = 25) -> mdtraj.Trajectory:
    """Helices side by side on a square lattice, each a chain, one frame."""
    topology = mdtraj.Topology()
    positions = []
    side = int(np.ceil(np.sqrt(residues / per_helix)))
    for i in range(residues):
        helix, place = divmod(i, per_helix)
        if place == 0:
            chain = topology.add_chain()
        residue = topology.add_residue("ALA", chain, resSeq=i + 1)
        angle = np.deg2rad(100) * place
        turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        shift = np.array([*np.divmod(helix, side), 0.15 * place / 1.2]) * 1.2
        positions.append(_RESIDUE @ turn.T + shift)
        for name in ("N", "CA", "C", "O", "CB"):
            topology.add_atom(name, mdtraj.element.Element.getBySymbol(name[0]), residue)
    return mdtraj.Trajectory(np.concatenate(positions)[None].astype(np.float32), topology)


def write(path: Path, start: mdtraj.Trajectory, frames: int, seed: int) -> None:
    """A swaying trajectory, 500 frames at a time."""
    generator = np.random.default_rng(seed)
    phase = np.sin(np.outer(start.xyz[0, :, 2] + start.xyz[0, :, 0], [0.5, 1.0, 2.0]))
    amplitude = np.zeros((3, 3))
    with mdtraj.formats.XTCTrajectoryFile(str(path), "w") as file:
        for begin in range(0, frames, 500):
            count = min(500, frames - begin)
            block = np.empty((count, start.n_atoms, 3), dtype=np.float32)
            for k in range(count):
                amplitude = 0.99 * amplitude + 0.14 * 0.1 * generator.normal(size=(3, 3))
                block[k] = start.xyz[0] + phase @ amplitude
            block += generator.normal(0, 0.004, block.shape)
            time_ps = 10.0 * np.arange(begin, begin + count, dtype=np.float32)
            file.write(
                block, time=time_ps, step=np.arange(begin, begin + count), box=np.tile(np.eye(3) * 9, (count, 1, 1))
            )


def evaluate(folder: Path) -> None:
    """Evaluate as the command does and print time and peak memory."""
    from openmm_starmd.evaluation.from_files import evaluate_files

    begin = time.perf_counter()
    outcome = evaluate_files([folder / "md.xtc"], [folder / "run.xtc"], folder / "start.pdb", folder / "out")
    scale = 1024**3 if sys.platform == "darwin" else 1024**2
    print(
        json.dumps(
            {
                "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale,
                "seconds": time.perf_counter() - begin,
                "frames": outcome.match.frames,
                "residues": len(outcome.residues),
                "report_mib": (folder / "out" / "report.html").stat().st_size / 1024**2,
            }
        )
    )


def main() -> None:
    """Write trajectories, measure in another process, print, and fail over the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--residues", type=int, default=300)
    parser.add_argument("--limit", type=float, default=2.0, help="GiB")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--evaluate", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.evaluate:
        evaluate(arguments.evaluate)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = structure(arguments.residues)
        start.save_pdb(str(folder / "start.pdb"))
        for seed, path in enumerate(("md.xtc", "run.xtc")):
            write(folder / path, start, arguments.frames, seed)
        command = [sys.executable, "-m", "benchmarks.analysis_memory", "--evaluate", str(folder)]
        figures = json.loads(subprocess.check_output(command, text=True, cwd=ROOT).splitlines()[-1])
    print(
        f"{figures['frames']} frames x {figures['residues']} residues, two trajectories: peak "
        f"{figures['peak_gib']:.2f} GiB, {figures['seconds']:.0f} s, report {figures['report_mib']:.1f} MiB"
    )
    if arguments.json:
        write_json(arguments.json, figures)
    if figures["peak_gib"] > arguments.limit:
        sys.exit(f"over the limit of {arguments.limit:g} GiB")


if __name__ == "__main__":
    main()
