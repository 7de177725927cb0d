"""How like MD the surrogate moves: validity, RMSF, RMSD against lag, RMSD to start, Rg, on proteins with reference MD.

    python benchmarks/fidelity.py                                # the held-out proteins
    python benchmarks/fidelity.py --training 1vii_A 5a7u_A:2     # proteins trained on, against replicas that were not

Reads ``benchmarks/data/NAME/NAME.pdb`` (start) and ``NAME_prod_R{1,2}_fit.xtc``. Everything in a table comes from one
configuration: one set of weights, one stride, one number of denoising steps, no steering.

What is compared: model, reference and second replica over equal time, stride and number of frames (the reference's
length, thinned to the stride). Validity of the model is counted over ``--frames`` frames. Its figures are means
over the seeds. A second MD replica is the ceiling; the frozen start structure is the floor; the elastic networks, which
know the start structure only, are what a learned model must beat (of the cutoffs listed, the one with the best mean
correlation stands in the table).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import torch
from openmm import unit
from openmm.app import PDBFile

from openmm_starmd import StarMDSimulation, __version__
from openmm_starmd.analysis.flexibility import (
    amplitude_ratio,
    correlation,
    radius_of_gyration,
    rmsd,
    rmsd_against_lag,
    rmsf,
)
from openmm_starmd.analysis.network_models import anm_rmsf, gnm_rmsf
from openmm_starmd.analysis.validity import alpha_carbons, bonded_neighbours, judge
from openmm_starmd.model.weights import load_weights

HELD_OUT = ("1l2y_A", "2op7_A", "2k28_A", "6okd_A", "6mrr_A")
NETWORKS = {
    "GNM 7 Å": partial(gnm_rmsf, cutoff=0.7),
    "GNM 10 Å": partial(gnm_rmsf, cutoff=1.0),
    "ANM 13 Å": partial(anm_rmsf, cutoff=1.3),
    "ANM 15 Å": partial(anm_rmsf, cutoff=1.5),
}


def load_replica(folder: Path, replica: int, stride: float) -> np.ndarray | None:
    """Cα positions [frames, N, 3] in nm of a replica, thinned to `stride` ps; None if there is no such replica."""
    path = folder / f"{folder.name}_prod_R{replica}_fit.xtc"
    if not path.exists():
        return None
    start = mdtraj.load(str(folder / f"{folder.name}.pdb"))
    trajectory = mdtraj.load(str(path), top=start.topology, atom_indices=alpha_carbons(start.topology))
    interval = float(trajectory.time[1] - trajectory.time[0])
    step = round(stride / interval)
    if step < 1 or abs(step * interval - stride) > 1e-6 * stride:
        raise ValueError(f"a stride of {stride:g} ps is not a multiple of the {interval:g} ps between frames of {path}")
    # the first frame of the file lies one interval after the start
    return trajectory.xyz[step - 1 :: step].astype(np.float64)


class Recorder:
    """Reporter that keeps the Cα of every frame."""

    def __init__(self) -> None:
        self.frames: list[np.ndarray] = []

    def describeNextReport(self, simulation: Any) -> dict[str, Any]:
        """Every step, positions."""
        return {"steps": 1, "periodic": False, "include": ["positions"]}

    def report(self, simulation: Any, state: Any) -> None:
        """Keep a frame."""
        self.frames.append(state.getPositions(asNumpy=True).value_in_unit(unit.nanometer).astype(np.float64))


def draw(path: Path, frames: int, seed: int, stride: float, weights: str, steps: int | None, device: str) -> np.ndarray:
    """Cα positions [frames, N, 3] in nm of a rollout from the structure in `path`."""
    pdb = PDBFile(str(path))
    simulation = StarMDSimulation(
        pdb.topology, pdb.positions, stride=stride, seed=seed, weights=weights, steps=steps, atoms="ca", device=device
    )
    recorder = Recorder()
    simulation.reporters.append(recorder)
    simulation.step(frames)
    return np.array(recorder.frames)


def compare(run: np.ndarray, reference: np.ndarray, start: np.ndarray, bonded: np.ndarray, lags: list[int]) -> dict:
    """Figures of a run beside its reference, equal in stride and number of frames; lengths in nm.

    Parameters
    ----------
    run, reference : ndarray [frames, N, 3]
    start : ndarray [N, 3]
    bonded : ndarray [N-1], bool
    lags : list of int
        In frames.
    """
    fluctuation, target = rmsf(run), rmsf(reference)
    ratios = rmsd_against_lag(run, lags) / rmsd_against_lag(reference, lags)
    away, size = rmsd(run, start), radius_of_gyration(run)
    return {
        "valid": judge(run, bonded).fraction,
        "rmsf_correlation": correlation(fluctuation, target),
        "rmsf_amplitude": amplitude_ratio(fluctuation, target),
        "lag_ratios": ratios.tolist(),
        "lag_ratio": float(ratios.mean()),
        "rmsd_to_start": float(away.mean()),
        "rg": float(size.mean()),
    }


def measure(folder: Path, replica: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures of one protein."""
    name = folder.name
    start_path = folder / f"{name}.pdb"
    reference = load_replica(folder, replica, arguments.stride)
    if reference is None:
        raise ValueError(f"no replica {replica} of {name} in {folder}")
    second = load_replica(folder, 3 - replica, arguments.stride)
    structure = mdtraj.load(str(start_path))
    bonded = bonded_neighbours(structure)
    start = structure.xyz[0, alpha_carbons(structure.topology)].astype(np.float64)
    frames = len(reference) if second is None else min(len(reference), len(second))
    reference = reference[:frames]
    lags = [lag for lag in (1, 2, 5, 10) if lag < frames]

    seeds = []
    for seed in arguments.seeds:
        drawn = draw(
            start_path,
            max(arguments.frames, frames),
            seed,
            arguments.stride,
            arguments.weights,
            arguments.steps,
            arguments.device,
        )
        figures = compare(drawn[:frames], reference, start, bonded, lags)
        figures["valid"] = judge(drawn[: arguments.frames], bonded).fraction
        figures["seed"] = seed
        seeds.append(figures)
        print(f"{name} seed {seed}: {figures}", file=sys.stderr, flush=True)
    target, away, size = rmsf(reference), rmsd(reference, start), radius_of_gyration(reference)
    return {
        "residues": len(start),
        "frames": frames,
        "reference_replica": replica,
        "lags": lags,
        "reference": {
            "valid": judge(reference, bonded).fraction,
            "rmsf_mean": float(target.mean()),
            "rmsd_to_start": [float(away.mean()), float(away.std())],
            "rg": [float(size.mean()), float(size.std())],
        },
        "model": {k: float(np.mean([s[k] for s in seeds])) for k in seeds[0] if k not in ("seed", "lag_ratios")}
        | {"lag_ratios": np.mean([s["lag_ratios"] for s in seeds], 0).tolist(), "seeds": seeds},
        "second": None if second is None else compare(second[:frames], reference, start, bonded, lags),
        "networks": {label: correlation(model(start), target) for label, model in NETWORKS.items()},
        "frozen": {
            "valid": judge(start[None], bonded).fraction,
            "rmsd_to_start": 0.0,
            "rg": float(radius_of_gyration(start[None])[0]),
        },
    }


def table(results: dict[str, dict[str, Any]], best: str) -> str:
    """Markdown; lengths in Å."""
    lines = [
        "| protein | | valid % | RMSF r | RMSF amplitude | RMSD against lag | RMSD to start (Å) | Rg (Å) |",
        "|---|---|---|---|---|---|---|---|",
    ]

    def row(protein: str, label: str, f: dict[str, Any]) -> str:
        def show(key: str, scale: float = 1.0, digits: int = 2) -> str:
            if key not in f or not np.isfinite(f[key]):
                return "-"
            spread = scale * np.std([seed[key] for seed in f.get("seeds", [])]) if len(f.get("seeds", [])) > 1 else 0.0
            return f"{scale * f[key]:.{digits}f}" + (f" ± {spread:.{digits}f}" if spread > 0 else "")

        lag = (
            f"{show('lag_ratio')} ({min(f['lag_ratios']):.2f} to {max(f['lag_ratios']):.2f})"
            if "lag_ratios" in f
            else "-"
        )
        cells = [show("valid", 100, 1), show("rmsf_correlation"), show("rmsf_amplitude"), lag]
        return f"| {' | '.join([protein, label, *cells, show('rmsd_to_start', 10), show('rg', 10)])} |"

    for name, result in results.items():
        reference = result["reference"]
        lines.append(row(f"{name} ({result['residues']})", "**STAR-MD**", result["model"]))
        if result["second"] is not None:
            lines.append(row("", "second MD replica", result["second"]))
        lines.append(row("", best, {"rmsf_correlation": result["networks"][best]}))
        lines.append(
            row(
                "",
                "frozen structure",
                {"rmsf_amplitude": 0.0, "lag_ratios": [0.0], "lag_ratio": 0.0} | result["frozen"],
            )
        )
        (away, away_sd), (size, size_sd) = reference["rmsd_to_start"], reference["rg"]
        lines.append(
            f"| | reference MD | {100 * reference['valid']:.1f} | 1 | 1 | 1 | {10 * away:.2f} ± {10 * away_sd:.2f} "
            f"| {10 * size:.2f} ± {10 * size_sd:.2f} |"
        )
    return "\n".join(lines)


def spans(results: dict[str, dict[str, Any]], stride: float) -> str:
    """One sentence: how much of each protein was compared."""
    listed = ", ".join(f"{name} {result['frames']}" for name, result in results.items())
    return f"Frames of {stride:g} ps compared: {listed}. ± is the SD over seeds, for MD's RMSD and Rg that over frames."


def means(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Figures over all proteins."""
    networks = {label: float(np.mean([r["networks"][label] for r in results.values()])) for label in NETWORKS}
    seconds = [r["second"]["rmsf_correlation"] for r in results.values() if r["second"] is not None]
    return {
        "model_rmsf_correlation": float(np.mean([r["model"]["rmsf_correlation"] for r in results.values()])),
        "second_rmsf_correlation": float(np.mean(seconds)) if seconds else None,
        "network_rmsf_correlation": networks,
        "best_network": max(networks, key=lambda label: networks[label]),
        "worst_valid": min(s["valid"] for r in results.values() for s in r["model"]["seeds"]),
    }


def main() -> None:
    """Measure, print Markdown, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="held-out proteins; all five by default", default=list(HELD_OUT))
    parser.add_argument(
        "--training",
        nargs="+",
        metavar="NAME[:REPLICA]",
        help="proteins of the training set instead, each with a replica that was not trained on (by default 2)",
    )
    parser.add_argument("--data", type=Path, default=Path(__file__).parent / "data")
    parser.add_argument("--weights", default="starmd-mini-v1")
    parser.add_argument("--stride", type=float, default=10.0, help="ps")
    parser.add_argument("--steps", type=int, help="denoising steps per frame; the weights' own")
    parser.add_argument("--frames", type=int, default=200, help="over which validity is counted")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="benchmarks/results/fidelity.json, or fidelity-training.json")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(arguments.threads)
    arguments.steps = arguments.steps or load_weights(arguments.weights).config.steps

    pairs = [(name, 1) for name in arguments.names]
    if arguments.training:
        pairs = [(name, int(number or 2)) for name, _, number in (item.partition(":") for item in arguments.training)]
    results = {}
    for name, replica in pairs:
        if not (arguments.data / name / f"{name}_prod_R{replica}_fit.xtc").exists():
            print(f"left out: {name} has no replica {replica} in {arguments.data}", file=sys.stderr)
            continue
        results[name] = measure(arguments.data / name, replica, arguments)
    if not results:
        sys.exit(f"no reference MD in {arguments.data}; see benchmarks/data/README.md")
    summary = means(results)
    print(
        f"{arguments.weights}, stride {arguments.stride:g} ps, {arguments.steps} denoising steps, "
        f"{len(arguments.seeds)} seeds; validity of the model over {arguments.frames} frames\n"
    )
    print(table(results, summary["best_network"]))
    print(f"\n{spans(results, arguments.stride)}")
    ceiling = summary["second_rmsf_correlation"]
    print(
        f"\nMean RMSF correlation: STAR-MD {summary['model_rmsf_correlation']:.2f}, "
        f"second MD replica {'-' if ceiling is None else format(ceiling, '.2f')}, "
        + ", ".join(f"{label} {value:.2f}" for label, value in summary["network_rmsf_correlation"].items())
        + f". Worst single rollout: {100 * summary['worst_valid']:.1f} % valid."
    )
    path = arguments.json or Path("benchmarks/results") / (
        "fidelity-training.json" if arguments.training else "fidelity.json"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(arguments).items()} | {"version": __version__}
    temporary = path.with_suffix(".partial")
    temporary.write_text(json.dumps({"settings": settings, "proteins": results, "means": summary}, indent=1) + "\n")
    os.replace(temporary, path)


if __name__ == "__main__":
    main()
