"""How like MD the surrogate moves, and whether that is enough: validity, RMSF, RMSD against lag, drift, side chains.

    python -m benchmarks.fidelity --stride 10 100 --slope --side-chains --store rollouts   # the held-out proteins
    python -m benchmarks.fidelity --training 1vii_A 5a7u_A:2     # proteins trained on, against replicas that were not

Reads ``benchmarks/data/NAME/NAME.pdb`` (start) and ``NAME_prod_R{1,2}_fit.xtc``. Everything in a table comes from one
configuration: one set of weights, one stride, one number of denoising steps, no steering.

What is compared. Model, reference and second replica over equal time, stride and number of frames: the shorter
replica's span T, thinned to the stride, and the first T of each rollout, however long it is. Of held-out proteins both
replicas are the reference: correlations are means over them, amplitudes and RMSD at a lag are relative to their mean;
the row "second MD replica" is replica 2 beside replica 1. Validity is counted over ``--frames`` frames. The model's
figures are means over the seeds. Block SD: each replica's RMSD to start, every frame the file has, in five blocks; SD
of the blocks' means. With ``--slope`` rollouts are that many frames long, and lines are fitted to their second
halves (lib/stationarity.py); slopes are means over the seeds.

A second MD replica is the ceiling; the frozen start structure is the floor; the elastic networks, which know the start
structure only, are what a learned model must beat (of the cutoffs listed, the one with the best mean correlation).
``--side-chains`` draws heavy atoms with the network's side chains and compares them with MD's (lib/side_chains.py).
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import torch

from benchmarks.lib import criteria, side_chains
from benchmarks.lib.drawing import HELD_OUT, Drawing, read_replica, rollout
from benchmarks.lib.paths import DATA, RESULTS
from benchmarks.lib.results_page import write_json
from benchmarks.lib.stationarity import Slope, slope, slope_figures
from openmm_starmd import __version__
from openmm_starmd.analysis.flexibility import (
    amplitude_ratio,
    correlation,
    radius_of_gyration,
    rmsd_against_lag,
    rmsf,
)
from openmm_starmd.analysis.network_models import anm_rmsf, gnm_rmsf
from openmm_starmd.analysis.validity import alpha_carbons, bonded_neighbours, judge
from openmm_starmd.geometry.superposition import rmsd
from openmm_starmd.model.weights import DEFAULT_WEIGHTS, load_weights
from openmm_starmd.release.figures import criteria_table, fidelity_table, means, side_chain_table, slope_table, spans

NETWORKS = {
    "GNM 7 Å": partial(gnm_rmsf, cutoff=0.7),
    "GNM 10 Å": partial(gnm_rmsf, cutoff=1.0),
    "ANM 13 Å": partial(anm_rmsf, cutoff=1.3),
    "ANM 15 Å": partial(anm_rmsf, cutoff=1.5),
}
LAGS = (10.0, 20.0, 50.0, 100.0, 200.0)  # ps
BLOCKS = 5

Positions = np.ndarray


def compare(
    run: Positions, references: list[Positions], start: Positions, bonded: np.ndarray, lags: list[int]
) -> dict[str, Any]:
    """Figures of a run beside its references, equal in stride and number of frames; lengths in nm.

    Parameters
    ----------
    run : ndarray [frames, N, 3]
    references : list of ndarray [frames, N, 3]
    start : ndarray [N, 3]
    bonded : ndarray [N-1], bool
    lags : list of int
        In frames.

    Returns
    -------
    dict
        nan but for the share of valid frames where the run is not finite.
    """
    if not np.isfinite(run).all():
        nothing = dict.fromkeys(("rmsf_correlation", "rmsf_amplitude", "lag_ratio", "rmsd_to_start", "rg"), np.nan)
        return {"valid": judge(run, bonded).fraction, "lag_ratios": [np.nan] * len(lags), **nothing}
    fluctuation, targets = rmsf(run), [rmsf(reference) for reference in references]
    ratios = rmsd_against_lag(run, lags) / np.mean([rmsd_against_lag(r, lags) for r in references], axis=0)
    away, size = rmsd(run, start), radius_of_gyration(run)
    return {
        "valid": judge(run, bonded).fraction,
        "rmsf_correlation": float(np.mean([correlation(fluctuation, target) for target in targets])),
        "rmsf_amplitude": amplitude_ratio(fluctuation, np.mean(targets, axis=0)),
        "lag_ratios": ratios.tolist(),
        "lag_ratio": float(ratios.mean()) if len(ratios) else float("nan"),
        "rmsd_to_start": float(away.mean()),
        "rg": float(size.mean()),
    }


def lags_of(stride: float, frames: int) -> list[int]:
    """Which of :data:`LAGS` are whole numbers of strides within so many frames, in frames."""
    lags = [lag / stride for lag in LAGS]
    return [round(lag) for lag in lags if abs(lag - round(lag)) < 1e-6 and 1 <= round(lag) < frames]


def block_spread(series: list[np.ndarray]) -> tuple[float, float]:
    """Mean of several series and the standard deviation of the means of :data:`BLOCKS` blocks of each."""
    means = [block.mean() for values in series for block in np.array_split(values, BLOCKS) if len(block)]
    return float(np.mean(np.concatenate(series))), float(np.std(means, ddof=1))


def slopes_of(half: Positions, start: Positions, stride: float) -> list[Slope]:
    """Slopes of RMSD to start and Rg over half a run [frames, N, 3], nm/ns; nan where it is not finite."""
    if not np.isfinite(half).all():
        return [Slope(np.nan, np.nan, np.nan)] * 2
    interval = stride / 1000  # ns
    return [slope(series, interval) for series in (rmsd(half, start), radius_of_gyration(half))]


def measure(
    folder: Path, replica: int, stride: float, drawing: Drawing, arguments: argparse.Namespace, *, both: bool
) -> dict[str, Any]:
    """All figures of one protein at one stride; with `both`, the other replica is a reference as well."""
    name = folder.name
    start_path = folder / f"{name}.pdb"
    read = partial(read_replica, folder, stride=stride, atoms=True)
    md = [read(replica), read(3 - replica)]
    if md[0] is None:
        raise ValueError(f"no replica {replica} of {name} in {folder}")
    structure = mdtraj.load(str(start_path))
    bonded, alphas = bonded_neighbours(structure), alpha_carbons(structure.topology)
    start = structure.xyz[0, alphas].astype(np.float64)
    frames = min(len(t) for t in md if t is not None)
    md = [t and t[:frames] for t in md]
    first, second = (None if t is None else t.xyz[:, alphas].astype(np.float64) for t in md)
    references = [first, second] if both and second is not None else [first]
    lags = lags_of(stride, frames)
    # a mean over time does not depend on the number of frames: all that the files have
    numbers = [replica, 3 - replica][: len(references)]
    fine = [t.xyz[t.time <= frames * stride + 1e-3] for t in (read_all(folder, n) for n in numbers)]
    away, away_blocks = block_spread([rmsd(x, start) for x in fine])
    size, size_blocks = block_spread([radius_of_gyration(x) for x in fine])

    seeds, slopes, runs = [], [], []
    count = max(arguments.frames, frames, arguments.slope or 0)
    for seed in arguments.seeds:
        run = rollout(start_path, count, seed, stride, drawing)
        drawn = run.xyz[:, alpha_carbons(run.topology)].astype(np.float64)
        figures = compare(drawn[:frames], references, start, bonded, lags)
        figures["valid"] = judge(drawn[: arguments.frames], bonded).fraction
        figures["seed"] = seed
        seeds.append(figures)
        if np.isfinite(drawn[:frames]).all():
            runs.append(run[:frames])
        if arguments.slope:
            slopes.append(slopes_of(drawn[arguments.slope // 2 : arguments.slope], start, stride))
        print(f"{name} stride {stride:g} seed {seed}: {figures}", file=sys.stderr, flush=True)
    targets = [rmsf(reference) for reference in references]
    return {
        "residues": len(start),
        "frames": frames,
        "reference_replica": replica,
        "references": len(references),
        "lags": lags,
        "lag_ps": [lag * stride for lag in lags],
        "reference": {
            "valid": float(np.mean([judge(reference, bonded).fraction for reference in references])),
            "rmsf_mean": float(np.mean(targets)),
            "rmsd_to_start": [away, float(np.std(np.concatenate([rmsd(x, start) for x in references])))],
            "rmsd_block_sd": away_blocks,
            "rg": [size, float(np.std(np.concatenate([radius_of_gyration(x) for x in references])))],
            "rg_block_sd": size_blocks,
        },
        "model": {k: float(np.mean([s[k] for s in seeds])) for k in seeds[0] if k not in ("seed", "lag_ratios")}
        | {"lag_ratios": np.mean([s["lag_ratios"] for s in seeds], 0).tolist(), "seeds": seeds},
        "second": None if second is None else compare(second, [first], start, bonded, lags),
        "networks": {
            label: float(np.mean([correlation(model(start), target) for target in targets]))
            for label, model in NETWORKS.items()
        },
        "frozen": {
            "valid": judge(start[None], bonded).fraction,
            "rmsd_to_start": 0.0,
            "rg": float(radius_of_gyration(start[None])[0]),
        },
        "slopes": slope_figures(slopes, arguments.slope) if slopes else None,
        "side_chains": side_chains.compare(runs, md[0], md[1], structure, bonded)
        if arguments.side_chains and runs
        else None,
    }


def read_all(folder: Path, replica: int) -> mdtraj.Trajectory:
    """Cα of a replica, every frame."""
    topology = mdtraj.load(str(folder / f"{folder.name}.pdb")).topology
    path = folder / f"{folder.name}_prod_R{replica}_fit.xtc"
    trajectory = mdtraj.load(str(path), top=topology, atom_indices=alpha_carbons(topology))
    # whatever zero the file's clock has, its first frame lies one interval after the start
    interval = float(trajectory.time[1] - trajectory.time[0])
    trajectory.time = interval * np.arange(1, len(trajectory) + 1)
    return trajectory


def main() -> None:
    """Measure, print Markdown, write JSON: a file per stride."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="held-out proteins; all five by default", default=list(HELD_OUT))
    parser.add_argument(
        "--training",
        nargs="+",
        metavar="NAME[:REPLICA]",
        help="proteins of the training set instead, each with a replica that was not trained on (by default 2)",
    )
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--weights", default=DEFAULT_WEIGHTS)
    parser.add_argument("--stride", type=float, nargs="+", default=[10.0], help="ps; one table and file each")
    parser.add_argument("--steps", type=int, help="denoising steps per frame; the weights' own")
    parser.add_argument("--frames", type=int, default=200, help="over which validity is counted")
    parser.add_argument("--slope", type=int, nargs="?", const=2000, help="fit slopes to rollouts of so many frames")
    parser.add_argument("--side-chains", action="store_true", help="draw and judge side chains as well")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--store", type=Path, help="directory that keeps rollouts, so that none is drawn twice")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="for one stride; in benchmarks/results by default")
    arguments = parser.parse_args()
    if arguments.json and len(arguments.stride) > 1:
        parser.error("--json names one file: give one --stride")
    warnings.simplefilter("ignore")
    torch.set_num_threads(arguments.threads)
    config = load_weights(arguments.weights).config
    arguments.steps = arguments.steps or config.steps
    beyond = [stride for stride in arguments.stride if not config.stride_min <= stride <= config.stride_max]
    if beyond:
        span = f"{config.stride_min:g} to {config.stride_max:g} ps"
        parser.error(f"strides {beyond} lie outside the {span} of {arguments.weights}")
    drawing = Drawing(arguments.weights, arguments.steps, arguments.device, arguments.side_chains, arguments.store)
    pairs = [(name, 1) for name in arguments.names]
    if arguments.training:
        pairs = [(name, int(number or 2)) for name, _, number in (item.partition(":") for item in arguments.training)]
    for stride in arguments.stride:
        results, too_short = {}, {}
        for name, replica in pairs:
            if not (arguments.data / name / f"{name}_prod_R{replica}_fit.xtc").exists():
                print(f"left out: {name} has no replica {replica} in {arguments.data}", file=sys.stderr)
                continue
            there = [read_replica(arguments.data / name, r, stride) for r in (replica, 3 - replica)]
            if min(len(t) for t in there if t is not None) < 2:
                # nothing to compare with, but a frame is valid or not without MD
                too_short[name] = validity(arguments.data / name, stride, drawing, arguments)
                continue
            results[name] = measure(
                arguments.data / name, replica, stride, drawing, arguments, both=not arguments.training
            )
        if not results:
            sys.exit(f"no reference MD in {arguments.data}; see benchmarks/data/README.md")
        report(results, too_short, stride, arguments)


def validity(folder: Path, stride: float, drawing: Drawing, arguments: argparse.Namespace) -> float:
    """Share of valid frames alone, over all seeds."""
    path = folder / f"{folder.name}.pdb"
    bonded = bonded_neighbours(mdtraj.load(str(path)))
    shares = []
    for seed in arguments.seeds:
        run = rollout(path, arguments.frames, seed, stride, drawing)
        shares.append(judge(run.xyz[:, alpha_carbons(run.topology)].astype(np.float64), bonded).fraction)
    return float(np.mean(shares))


def report(
    results: dict[str, dict[str, Any]], too_short: dict[str, float], stride: float, arguments: argparse.Namespace
) -> None:
    """Print and write what was measured at one stride."""
    summary = means(results)
    lines = criteria.judge(results, summary, arguments.frames)
    print(
        f"## {arguments.weights}, stride {stride:g} ps, {arguments.steps} denoising steps\n\n"
        f"{len(arguments.seeds)} seeds; validity of the model over {arguments.frames} frames\n"
    )
    print(fidelity_table(results, summary["best_network"]))
    print(f"\n{spans(results, stride)}")
    ceiling = summary["second_rmsf_correlation"]
    print(
        f"\nMean RMSF correlation: STAR-MD {summary['model_rmsf_correlation']:.2f}, "
        f"second MD replica {'-' if ceiling is None else format(ceiling, '.2f')}, "
        + ", ".join(f"{label} {value:.2f}" for label, value in summary["network_rmsf_correlation"].items())
        + f". Worst single rollout: {100 * summary['worst_valid']:.1f} % valid.\n"
    )
    for name, share in too_short.items():
        print(f"{name}: {100 * share:.1f} % valid; its MD has fewer than two frames of {stride:g} ps\n")
    for part in (slope_table(results), side_chain_table(results), criteria_table(lines)):
        if part:
            print(part + "\n")
    kind = "-training" if arguments.training else ""
    at = "" if stride == 10 else f"-{stride:g}ps"
    path = arguments.json or RESULTS / f"fidelity{kind}{at}.json"
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(arguments).items()}
    digest = hashlib.sha256(load_weights(arguments.weights).path.read_bytes()).hexdigest()
    settings |= {"stride": stride, "version": __version__, "weights_sha256": digest}
    content = {
        "settings": settings,
        "proteins": results,
        "means": summary,
        "criteria": lines,
        "validity_only": too_short,
    }
    write_json(path, content)


if __name__ == "__main__":
    main()
