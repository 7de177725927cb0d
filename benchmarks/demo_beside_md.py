"""Is the demo's trajectory a protein where MD's is? After `make demo`:

    python -m benchmarks.demo_beside_md demo

Compares the frames that `openmm-starmd run` left in a folder with MD replicas of the same protein from the same start,
minimised, in ``benchmarks/data/villin`` by default: share of valid frames, RMSD to the start and radius of gyration
beside MD's mean and standard deviation. MD ran for 200 ps; the demo draws 2 ns.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import mdtraj
import numpy as np

from benchmarks.lib.paths import DATA, RESULTS
from benchmarks.lib.results_page import write_json
from openmm_starmd.analysis.flexibility import radius_of_gyration
from openmm_starmd.analysis.validity import alpha_carbons, bonded_neighbours, judge
from openmm_starmd.geometry.superposition import rmsd


def alphas(trajectory: Path, topology: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cα [frames, N, 3] and of the start [N, 3], nm, and which neighbours are bonded [N - 1]."""
    start = mdtraj.load(str(topology))
    kept = alpha_carbons(start.topology)
    frames = mdtraj.load(str(trajectory), top=start.topology, atom_indices=kept)
    return frames.xyz.astype(np.float64), start.xyz[0, kept].astype(np.float64), bonded_neighbours(start)


def figures(frames: np.ndarray, start: np.ndarray, bonded: np.ndarray) -> dict[str, float]:
    """Validity, RMSD to the start and radius of gyration, nm."""
    away, size = rmsd(frames, start), radius_of_gyration(frames)
    return {
        "frames": len(frames),
        "valid": judge(frames, bonded).fraction,
        "rmsd": float(away.mean()),
        "rmsd_sd": float(away.std()),
        "rg": float(size.mean()),
        "rg_sd": float(size.std()),
    }


def main() -> None:
    """Print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, default=Path("demo"))
    parser.add_argument("--reference", type=Path, default=DATA / "villin")
    parser.add_argument("--json", type=Path, default=RESULTS / "demo.json")
    arguments = parser.parse_args()
    name = arguments.reference.name
    rows = {"STAR-MD": figures(*alphas(next(arguments.run.glob("trajectory.*")), arguments.run / "topology.pdb"))}
    replicas = []
    for path in sorted(arguments.reference.glob(f"{name}_prod_R*_fit.xtc")):
        frames, start, bonded = alphas(path, arguments.reference / f"{name}.pdb")
        replicas.append(frames)
        rows[f"MD replica {len(replicas)}"] = figures(frames, start, bonded)
    rows["MD, all"] = figures(np.concatenate(replicas), start, bonded)
    print("| | frames | valid % | RMSD to start (Å) | Rg (Å) |\n|---|---|---|---|---|")
    for label, row in rows.items():
        print(
            f"| {label} | {row['frames']} | {100 * row['valid']:.1f} "
            f"| {10 * row['rmsd']:.2f} ± {10 * row['rmsd_sd']:.2f} | {10 * row['rg']:.2f} ± {10 * row['rg_sd']:.2f} |"
        )
    learned, md = rows["STAR-MD"], rows["MD, all"]
    for key in ("rmsd", "rg"):
        print(f"{key}: {(learned[key] - md[key]) / md[key + '_sd']:+.1f} SD of MD")
    write_json(arguments.json, rows)


if __name__ == "__main__":
    main()
