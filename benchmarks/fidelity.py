"""How like MD the surrogate moves, and whether that is enough: validity, RMSF, displacements, drift, side chains.

    python -m benchmarks.fidelity --stride 10 100 --slope --side-chains --store rollouts   # the held-out proteins
    python -m benchmarks.fidelity --training 1vii_A 5a7u_A:2     # proteins trained on, against replicas that were not

Reads ``benchmarks/data/NAME/NAME.pdb`` (start) and ``NAME_prod_R{1,2}_fit.xtc``. Everything in a table comes from one
configuration: one set of weights, one stride, one number of denoising steps, no steering.

What is compared. Model, reference and second replica over equal time, stride and number of frames: the shorter
replica's span T, thinned to the stride, and the first T of each rollout, however long it is. Of held-out proteins both
replicas are the reference: correlations are means over them, amplitudes and RMSD at a lag are relative to both pooled.
The model's RMSF is pooled over its seeds (``--seeds``, and more up to ``--pool``, which are no longer than needed):
each seed about its own mean structure, root of the mean of squares. Of fewer than ten frames there is no RMSF; what
such short MD holds is the displacement of each residue within a lag, over all windows of that length: of MD all that
its frames give, of the model ten a rollout at least, and so is RMSD at a lag. The second replica's r is with the
first: the ceiling. Validity is counted over ``--frames`` frames of each of ``--seeds``. Block SD: each replica's RMSD
to start, every frame the file has, in five blocks; SD of the blocks' means. With ``--slope`` rollouts are that many
frames long, and lines are fitted to their second halves (lib/stationarity.py); slopes are means over the seeds.

The frozen start structure is the floor, and so is the elastic network that all proteins share
(derive/network_choice.py); the network that fits a protein best stands beside it, chosen with hindsight.
``--side-chains`` draws heavy atoms with the network's side chains and compares them with MD's (lib/side_chains.py).
``--markdown`` writes the tables into their blocks of docs/results.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import torch

from benchmarks.lib import criteria, side_chains
from benchmarks.lib.drawing import HELD_OUT, Drawing, read_replica, rollouts
from benchmarks.lib.paths import DATA, RESULTS
from benchmarks.lib.results_page import add_markdown_option, write_block, write_json
from benchmarks.lib.stationarity import Slope, slope, slope_figures
from openmm_starmd import __version__
from openmm_starmd.analysis.flexibility import (
    FEWEST,
    agreement,
    correlation,
    displacement,
    pooled,
    radius_of_gyration,
    rmsd_against_lag,
    rmsf,
    rmsf_agreement,
)
from openmm_starmd.analysis.network_models import FLOOR, NETWORKS, network_rmsf
from openmm_starmd.analysis.validity import alpha_carbons, bonded_neighbours, judge
from openmm_starmd.geometry.superposition import rmsd
from openmm_starmd.model.weights import DEFAULT_WEIGHTS, load_weights
from openmm_starmd.release import figures

LAGS = (10.0, 20.0, 50.0, 100.0, 200.0)  # ps
BLOCKS = 5

Positions = np.ndarray


@dataclass(frozen=True)
class Compared:
    """Runs at one stride over one time, and the same time at whatever interval they have.

    Attributes
    ----------
    thinned : list of ndarray [frames, N, 3]
        Equal in stride and number of frames, nm.
    whole : list of ndarray [more frames, N, 3]
        For windows of a lag, nm.
    interval : float
        Of `whole`, ps.
    """

    thinned: list[Positions]
    whole: list[Positions]
    interval: float

    def one(self, which: int) -> Compared:
        """A single run of these."""
        return Compared([self.thinned[which]], [self.whole[which]], self.interval)

    @property
    def finite(self) -> bool:
        """Whether all positions are numbers."""
        return all(np.isfinite(x).all() for x in (*self.thinned, *self.whole))

    def displacement(self, lag: float) -> np.ndarray:
        """Displacement [N] within a lag in ps, pooled over the runs, nm."""
        return pooled([displacement(x, round(lag / self.interval)) for x in self.whole])

    def rmsd_at(self, lag: float) -> float:
        """RMSD at a lag in ps, mean over the runs, nm."""
        return float(np.mean([rmsd_against_lag(x, [round(lag / self.interval)])[0] for x in self.whole]))


def compare(
    runs: Compared, reference: Compared, beside: Compared, start: Positions, bonded: np.ndarray, lags: list[float]
) -> dict[str, Any]:
    """Figures of runs beside references, lengths in nm.

    Parameters
    ----------
    runs : Compared
        Replicas of one thing: their profiles are pooled.
    reference : Compared
        What correlations are with.
    beside : Compared
        What amplitudes and RMSD at a lag are relative to: all references.
    start : ndarray [N, 3]
    bonded : ndarray [N-1], bool
    lags : list of float
        ps.

    Returns
    -------
    dict
        nan but for the share of valid frames where a run is not finite, and for RMSF where frames are too few.
    """
    valid = float(np.mean([judge(x, bonded).fraction for x in runs.thinned]))
    if not runs.finite:
        nothing = ("rmsf_correlation", "rmsf_amplitude", "lag_ratio", "rmsd_to_start", "rg")
        moved = {"correlation": np.nan, "correlations": [], "amplitude": np.nan}
        lost = {"rmsf_correlations": [], "lag_ratios": [np.nan] * len(lags), "displacements": [moved] * len(lags)}
        return {"valid": valid, **dict.fromkeys(nothing, np.nan), **lost}
    fluctuation = rmsf_agreement(runs.thinned, reference.thinned)
    moved = []
    for lag in lags:
        profile = runs.displacement(lag)
        targets = [reference.one(i).displacement(lag) for i in range(len(reference.whole))]
        r = agreement(profile, targets)
        size = float(profile.mean() / beside.displacement(lag).mean())
        moved.append({"correlation": r.correlation, "correlations": list(r.correlations), "amplitude": size})
    ratios = [runs.rmsd_at(lag) / beside.rmsd_at(lag) for lag in lags]
    return {
        "valid": valid,
        "rmsf_correlation": fluctuation.correlation,
        "rmsf_correlations": list(fluctuation.correlations),
        "rmsf_amplitude": rmsf_agreement(runs.thinned, beside.thinned).amplitude,
        "displacements": moved,
        "lag_ratios": ratios,
        "lag_ratio": float(np.mean(ratios)) if ratios else float("nan"),
        "rmsd_to_start": float(np.mean([rmsd(x, start).mean() for x in runs.thinned])),
        "rg": float(np.mean([radius_of_gyration(x).mean() for x in runs.thinned])),
    }


def lags_of(stride: float, span: float, interval: float = 1.0) -> list[float]:
    """Which of :data:`LAGS` are whole numbers of strides, with :data:`FEWEST` windows at least in `span` ps of MD."""
    whole = [lag for lag in LAGS if abs(lag / stride - round(lag / stride)) < 1e-6 and lag > stride - 1e-6]
    return [lag for lag in whole if round((span - lag) / interval) >= FEWEST]


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
    start_path = folder / f"{folder.name}.pdb"
    structure = mdtraj.load(str(start_path))
    bonded, alphas = bonded_neighbours(structure), alpha_carbons(structure.topology)
    start = structure.xyz[0, alphas].astype(np.float64)
    md, known = reference_md(folder, replica, stride)
    frames = len(known.thinned[0])
    first, second = known.one(0), known.one(1) if len(md) > 1 else None
    reference = known if both else first
    lags = lags_of(stride, len(known.whole[0]) * known.interval, known.interval)
    runs, model = of_the_model(start_path, stride, frames, lags, drawing, arguments)

    seeds, slopes = [], []
    for i, run in enumerate(model):
        part = Compared([run[:frames]], [run[: windows(frames, stride, lags)]], stride)
        found = compare(part, reference, reference, start, bonded, lags)
        long = i < len(arguments.seeds)
        found["valid"] = judge(run[: arguments.frames], bonded).fraction if long else None
        seeds.append({k: v for k, v in found.items() if k not in ("displacements", "rmsf_correlations")})
        if arguments.slope and long:
            slopes.append(slopes_of(run[arguments.slope // 2 : arguments.slope], start, stride))
        print(f"{folder.name} stride {stride:g} run {i}: {seeds[-1]}", file=sys.stderr, flush=True)
    together = Compared([x[:frames] for x in model], [x[: windows(frames, stride, lags)] for x in model], stride)
    pool = compare(together, reference, reference, start, bonded, lags)
    pool["valid"] = float(np.mean([s["valid"] for s in seeds if s["valid"] is not None]))
    whole = [run[:frames] for run, x in zip(runs, model, strict=True) if np.isfinite(x[:frames]).all()]
    return {
        "residues": len(start),
        "frames": frames,
        "reference_replica": replica,
        "references": len(reference.thinned),
        "lag_ps": lags,
        "reference": reference_figures(reference, start, bonded),
        "model": pool | {"seeds": seeds},
        "second": None if second is None else compare(second, first, reference, start, bonded, lags),
        "floor": FLOOR,
        **of_networks(reference, start, bonded, lags),
        "frozen": {
            "valid": judge(start[None], bonded).fraction,
            "rmsd_to_start": 0.0,
            "rg": float(radius_of_gyration(start[None])[0]),
        },
        "slopes": slope_figures(slopes, arguments.slope) if slopes else None,
        "side_chains": side_chains.compare(whole, md[0][:frames], md[1][:frames] if second else None, structure, bonded)
        if arguments.side_chains and whole
        else None,
    }


def reference_md(folder: Path, replica: int, stride: float) -> tuple[list[mdtraj.Trajectory], Compared]:
    """A replica, and the other where there is one: thinned with all atoms, and Cα over the time that all have."""
    md = [read_replica(folder, n, stride, atoms=True) for n in (replica, 3 - replica)]
    if md[0] is None:
        raise ValueError(f"no replica {replica} of {folder.name} in {folder}")
    there = [t for t in md if t is not None]
    frames = min(map(len, there))
    alphas = alpha_carbons(there[0].topology)
    fine = [read_all(folder, n) for n, t in zip((replica, 3 - replica), md, strict=True) if t is not None]
    interval = float(fine[0].time[0])
    if any(abs(t.time[0] - interval) > 1e-6 for t in fine):
        raise ValueError(f"the replicas of {folder} have frames {', '.join(f'{t.time[0]:g}' for t in fine)} ps apart")
    # windows of a lag and means over time do not need the stride: all frames of the shortest replica's time
    count = min(map(len, fine))
    whole = [t.xyz[:count].astype(np.float64) for t in fine]
    return there, Compared([t.xyz[:frames, alphas].astype(np.float64) for t in there], whole, interval)


def windows(frames: int, stride: float, lags: list[float]) -> int:
    """How many frames of a rollout windows lie in: those compared, or what gives :data:`FEWEST` of the longest lag."""
    return max([frames, *(round(lag / stride) + FEWEST for lag in lags)])


def of_the_model(
    path: Path, stride: float, frames: int, lags: list[float], drawing: Drawing, arguments: argparse.Namespace
) -> tuple[list[mdtraj.Trajectory], list[Positions]]:
    """Rollouts of ``--seeds``, as long as validity and slopes need, then those of ``--pool`` alone; and their Cα."""
    long = max(arguments.frames, arguments.slope or 0, windows(frames, stride, lags))
    further = [max(arguments.seeds) + 1 + i for i in range(arguments.pool - len(arguments.seeds))]
    runs = rollouts(path, long, arguments.seeds, stride, drawing)
    runs += rollouts(path, windows(frames, stride, lags), further, stride, drawing) if further else []
    return runs, [run.xyz[:, alpha_carbons(run.topology)].astype(np.float64) for run in runs]


def reference_figures(reference: Compared, start: Positions, bonded: np.ndarray) -> dict[str, Any]:
    """The references themselves, lengths in nm; spreads are over frames at the stride."""
    away, away_blocks = block_spread([rmsd(x, start) for x in reference.whole])
    size, size_blocks = block_spread([radius_of_gyration(x) for x in reference.whole])
    thinned = reference.thinned
    enough = len(thinned[0]) >= FEWEST
    return {
        "valid": float(np.mean([judge(x, bonded).fraction for x in thinned])),
        "rmsf_mean": float(pooled([rmsf(x) for x in thinned]).mean()) if enough else float("nan"),
        "rmsd_to_start": [away, float(np.std(np.concatenate([rmsd(x, start) for x in thinned])))],
        "rmsd_block_sd": away_blocks,
        "rg": [size, float(np.std(np.concatenate([radius_of_gyration(x) for x in thinned])))],
        "rg_block_sd": size_blocks,
    }


def of_networks(reference: Compared, start: Positions, bonded: np.ndarray, lags: list[float]) -> dict[str, Any]:
    """Mean r of each elastic network's RMSF with the references' RMSF, and with their displacements by lag."""
    profiles = {label: network_rmsf(start, label, bonded) for label in NETWORKS}

    def beside(targets: list[np.ndarray]) -> dict[str, float]:
        return {label: float(np.mean([correlation(x, target) for target in targets])) for label, x in profiles.items()}

    enough = len(reference.thinned[0]) >= FEWEST
    singles = [reference.one(i) for i in range(len(reference.thinned))]
    return {
        "networks": beside([rmsf(x) for x in reference.thinned]) if enough else dict.fromkeys(NETWORKS, float("nan")),
        "network_displacements": [beside([one.displacement(lag) for one in singles]) for lag in lags],
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
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument(
        "--pool", type=int, nargs="+", default=[0], help="rollouts whose RMSF is pooled, one number or one per stride"
    )
    parser.add_argument("--store", type=Path, help="directory that keeps rollouts, so that none is drawn twice")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="for one stride; in benchmarks/results by default")
    parser.add_argument(
        "--join",
        type=Path,
        nargs="+",
        default=[],
        help="JSON of this script, with slopes or side chains to add",
    )
    add_markdown_option(parser, "fidelity")
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
    pools = arguments.pool if len(arguments.pool) > 1 else arguments.pool * len(arguments.stride)
    if len(pools) != len(arguments.stride):
        parser.error(f"{len(pools)} numbers for --pool, {len(arguments.stride)} strides")
    for stride, pool in zip(arguments.stride, pools, strict=True):
        arguments.pool = pool
        results, too_short = {}, {}
        for name, replica in pairs:
            if not (arguments.data / name / f"{name}_prod_R{replica}_fit.xtc").exists():
                print(f"left out: {name} has no replica {replica} in {arguments.data}", file=sys.stderr)
                continue
            there = [read_replica(arguments.data / name, r, stride) for r in (replica, 3 - replica)]
            if min(len(t) for t in there if t is not None) < 1:
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
    for run in rollouts(path, arguments.frames, arguments.seeds, stride, drawing):
        shares.append(judge(run.xyz[:, alpha_carbons(run.topology)].astype(np.float64), bonded).fraction)
    return float(np.mean(shares))


def report(
    results: dict[str, dict[str, Any]], too_short: dict[str, float], stride: float, arguments: argparse.Namespace
) -> None:
    """Print and write what was measured at one stride."""
    digest = hashlib.sha256(load_weights(arguments.weights).path.read_bytes()).hexdigest()
    for path in arguments.join:
        join(results, path, digest)
    lines = criteria.judge(results, arguments.frames)
    blocks = markdown(results, too_short, lines, stride, arguments)
    print("\n\n".join(blocks.values()))
    kind = "-training" if arguments.training else ""
    at = "" if stride == 10 else f"-{stride:g}ps"
    path = arguments.json or RESULTS / f"fidelity{kind}{at}.json"
    settings = {k: v if isinstance(v, int | float | list | None) else str(v) for k, v in vars(arguments).items()}
    settings |= {"join": [str(path) for path in arguments.join]}
    settings |= {"stride": stride, "version": __version__, "weights_sha256": digest}
    content = {
        "settings": settings,
        "proteins": results,
        "means": figures.means(results),
        "criteria": lines,
        "validity_only": too_short,
    }
    write_json(path, plain(content), allow_nan=False)
    if arguments.markdown:
        for name, text in blocks.items():
            write_block(arguments.markdown, name, text)


def join(results: dict[str, dict[str, Any]], path: Path, digest: str) -> None:
    """Take slopes and side chains from what this script wrote before, in place."""
    content = json.loads(path.read_text())
    if content["settings"].get("weights_sha256") != digest:
        raise ValueError(f"{path} was measured with other weights: measure it again, or leave it out of --join")
    for name, found in content["proteins"].items():
        for key in ("slopes", "side_chains"):
            if name in results and found.get(key) and not results[name][key]:
                results[name][key] = found[key]


WHY = (
    "Why these figures differ from the first edition's: there the model's r was the mean over single runs, the elastic "
    "network the best of four for the set, and at 100 ps an r stood beside MD of two to ten frames. Here the model's "
    "profile is pooled over its seeds and held against both replicas, one elastic network, chosen on training "
    "proteins, is the floor of all, no r or amplitude stands on fewer than ten frames (the displacement over 100 ps "
    "does), and every protein is named."
)


def markdown(
    results: dict[str, dict[str, Any]],
    too_short: dict[str, float],
    lines: list[dict[str, Any]],
    stride: float,
    arguments: argparse.Namespace,
) -> dict[str, str]:
    """Text of each block of the page that these results fill, by its name."""
    head = (
        f"`{arguments.weights}`, stride {stride:g} ps, {arguments.steps} denoising steps; validity over "
        f"{arguments.frames} frames of {len(arguments.seeds)} seeds."
    )
    parts = [head, figures.fidelity_table(results), figures.summary(results), figures.spans(results, stride)]
    parts += [
        f"{name}: {100 * share:.1f} % valid; its MD is shorter than one frame of {stride:g} ps."
        for name, share in too_short.items()
    ]
    parts += ["Displacement by lag, r / amplitude:", figures.displacement_table(results)]
    name = "fidelity" if stride == 10 else f"fidelity-{stride:g}ps"
    if arguments.training:
        name = name.replace("fidelity", "training")
    else:
        parts += ["What was demanded:", figures.criteria_table(lines), WHY]
    blocks = {name: "\n\n".join(parts)}
    if stride == 10 and not arguments.training:
        slopes, beside = figures.slope_table(results), figures.side_chain_table(results)
        if slopes:
            blocks["slopes"] = slopes
        if beside:
            blocks["side-chains"] = beside
    return blocks


def plain(value: Any) -> Any:
    """The same with None for every number that is none, as JSON has it."""
    if isinstance(value, dict):
        return {key: plain(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [plain(x) for x in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


if __name__ == "__main__":
    main()
