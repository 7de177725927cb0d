"""How much of MD's conformations and dynamics the surrogate reaches: coverage, flexibility and kinetics beside MD.

    python -m benchmarks.coverage                                # the held-out proteins
    python -m benchmarks.coverage --training 1vii_A 5a7u_A:2     # proteins trained on, against replicas that were not

Reads ``benchmarks/data`` as ``fidelity.py`` does. Reference is replica 1 (or the replica that was not trained on). All
runs have the reference's stride, span and number of frames; none counts the start structure, which all share.

RMSF r and amplitude are as in ``fidelity.py``: profiles pooled over the seeds, r the mean with each reference,
amplitude beside both pooled (of training proteins, beside the reference alone), none of either under ten frames. All
else is a mean over seeds.

The other MD replica is the ceiling; an elastic network, one for all proteins, and the frozen start structure are
floors. MD at equal wall-clock is what remains of that other replica if it is stopped when the model has drawn the whole
span: all frames of that time, a picosecond apart, evenly repeated or thinned to the reference's number of frames.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.lib import published_results
from benchmarks.lib.drawing import HELD_OUT, Drawing, load_replica, rollouts
from benchmarks.lib.paths import DATA, RESULTS
from benchmarks.lib.published_results import markdown, paper_table
from benchmarks.lib.results_page import add_markdown_option, write_block, write_json
from openmm_starmd import __version__
from openmm_starmd.analysis import coverage, dynamics
from openmm_starmd.analysis.flexibility import FEWEST, rmsf_agreement
from openmm_starmd.analysis.network_models import FLOOR
from openmm_starmd.analysis.stereochemistry import of_trace
from openmm_starmd.analysis.validity import alpha_carbons, bonded_neighbours, judge
from openmm_starmd.evaluation import evaluate, floors, metrics
from openmm_starmd.evaluation.runs import Run
from openmm_starmd.model.weights import DEFAULT_WEIGHTS, load_weights

KEYS = (
    "valid",
    "jsd",
    "recall",
    "precision",
    "rmsf_correlation",
    "rmsf_amplitude",
    "lag_error",
    "autocorrelation_error",
    "tica",
    "vamp2_gap",
)
COLUMNS = tuple(column for column in evaluate.COLUMNS if column[0] in KEYS)
# need frames at the reference's stride, over all of its lags
TIMED = ("lag_error", "autocorrelation_error", "tica", "vamp2_gap")
COVERED = ("jsd", "recall", "precision")
# the lower the better; of the others but the amplitude, the higher
LOWER = ("jsd", "lag_error", "autocorrelation_error", "vamp2_gap")
ROWS = {
    "model": "**STAR-MD**",
    "second": "second MD replica",
    "network": "elastic network",
    "network_all": "elastic network, invalid frames counted",
    "frozen": "frozen structure",
    "equal_time": "MD at equal wall-clock",
}
FINEST = 1.0  # ps between the frames of the MD

Figures = dict[str, Any]


def traced(label: str, alphas: NDArray[np.floating], stride: float, like: mdtraj.Trajectory) -> Run:
    """A run of Cα positions [frames, N, 3] in nm, `stride` ps apart, of the protein whose start structure is `like`."""
    bonded = bonded_neighbours(like)
    residues = tuple(like.topology.atom(i).residue.code or "X" for i in alpha_carbons(like.topology))
    alphas = alphas.astype(np.float32)
    return Run(label, alphas, stride, judge(alphas, bonded).valid, of_trace(len(alphas)), None, residues, bonded)


def network(reference: Run, start: Run, seed: int) -> Run | None:
    """The elastic network of the start structure, as many frames after it as the reference has."""
    whole = replace(reference, alphas=np.concatenate([start.alphas[:1], reference.alphas]))
    for run in floors.network_runs(whole, seed, hindsight=False):
        return replace(run, alphas=run.alphas[1:], valid=run.valid[1:], atoms=run.atoms[1:])
    return None


def spread_evenly(frames: int, count: int) -> NDArray[np.int64]:
    """Which of so many frames stand for `count` frames, [count]: evenly repeated or thinned, the order kept."""
    return np.arange(count) * frames // count


def summarise(runs: Sequence[metrics.Row], label: str) -> Figures:
    """Mean and standard deviation over seeds; None where undefined in any way."""
    seeds = [{key: known(run.figures.get(key)) for key in KEYS} for run in runs]
    over = {key: [value for seed in seeds if (value := seed[key]) is not None] for key in KEYS}
    return {"label": label, "seeds": seeds, **spread(over)}


def spread(values: dict[str, list[float]]) -> Figures:
    """Mean and standard deviation of each list; None where there are too few values."""
    return {
        "mean": {key: float(np.mean(v)) if v else None for key, v in values.items()},
        "sd": {key: float(np.std(v, ddof=1)) if len(v) > 1 else None for key, v in values.items()},
    }


def known(value: float | None) -> float | None:
    """None for what is not a number."""
    return float(value) if value is not None and np.isfinite(value) else None


def pool(summary: Figures, runs: Sequence[Run], references: Sequence[Run], beside: Sequence[Run]) -> Figures:
    """Put pooled RMSF figures in the place of means over seeds, in a row of :func:`summarise`."""
    for key, against in (("rmsf_correlation", references), ("rmsf_amplitude", beside)):
        found = rmsf_agreement([run.alphas for run in runs], [run.alphas for run in against])
        summary["mean"][key] = known(found.correlation if key == "rmsf_correlation" else found.amplitude)
        summary["sd"][key] = None
    return summary


def measure(
    folder: Path, replica: int, ratio: float | None, arguments: argparse.Namespace, *, both: bool = True
) -> dict[str, Any]:
    """All rows of one protein; with `both`, RMSF is held against both replicas."""
    name, stride = folder.name, arguments.stride
    structure = mdtraj.load(str(folder / f"{name}.pdb"))
    positions = load_replica(folder, replica, stride)
    if positions is None:
        raise ValueError(f"no replica {replica} of {name} in {folder}")
    other = load_replica(folder, 3 - replica, stride)
    frames = len(positions) if other is None else min(len(positions), len(other))
    reference = traced("reference MD", positions[:frames], stride, structure)
    if reference.valid.sum() < 2:
        raise ValueError(f"replica {replica} of {name} has {int(reference.valid.sum())} valid frames; it needs two")
    start = structure.xyz[:1, alpha_carbons(structure.topology)]
    frozen = traced(ROWS["frozen"], np.repeat(start, frames, 0), stride, structure)
    settings = metrics.Settings(bins=arguments.bins, dimensions=arguments.dimensions)
    lags = evaluate.choose_lags(frames)
    scale = metrics.ReferenceMetrics(reference, settings, lags)

    second = None if other is None else traced(ROWS["second"], other[:frames], stride, structure)
    references = [reference, second] if both and second is not None else [reference]

    drawn, networks, lenient, elastics = [], [], [], []
    drawing = Drawing(arguments.weights, arguments.steps, arguments.device, store=arguments.store)
    found = rollouts(folder / f"{name}.pdb", frames, arguments.seeds, stride, drawing)
    runs = [traced(ROWS["model"], run.xyz, stride, structure) for run in found]
    for run, seed in zip(runs, arguments.seeds, strict=True):
        drawn.append(scale.measure(run, run, "generated"))
        elastic = network(reference, frozen, seed)
        if elastic is not None:
            elastics.append(elastic)
            networks.append(scale.measure(elastic, elastic, "floor"))
            counted = replace(elastic, valid=np.ones(frames, dtype=bool))
            lenient.append(scale.measure(counted, elastic, "floor"))
            lenient[-1].figures = {key: lenient[-1].figures[key] for key in COVERED}
        print(f"{name} seed {seed} done", file=sys.stderr, flush=True)
    rows = {"model": pool(summarise(drawn, ROWS["model"]), runs, references, references)}
    if second is not None:
        rows["second"] = summarise([scale.measure(second, second, "replica")], second.label)
        pool(rows["second"], [second], [reference], references)
    if networks:
        rows["network"] = pool(summarise(networks, networks[0].label), elastics, references, references)
        rows["network_all"] = summarise(lenient, ROWS["network_all"])
    rows["frozen"] = pool(
        summarise([scale.measure(frozen, frozen, "floor")], frozen.label), [frozen], references, references
    )
    if other is not None and ratio is not None:
        fine = load_replica(folder, 3 - replica, FINEST)
        time = min(1.0, 1 / ratio) * frames * stride
        count = int(time / FINEST + 1e-9)
        if fine is None or count < 2:
            label = f"{ROWS['equal_time']}: {time:.2g} ps, fewer than two frames of {FINEST:g} ps, so frozen"
            rows["equal_time"] = rows["frozen"] | {"label": label}
        else:
            short = traced(f"{ROWS['equal_time']}: {count * FINEST:g} ps", fine[:count], FINEST, structure)
            rows["equal_time"] = summarise([stopped(short, frames, stride, scale)], short.label)
    explained = float(scale.projection.explained[: settings.dimensions].sum())
    return {
        "residues": len(reference.residues),
        "frames": frames,
        "span_ps": frames * stride,
        "reference_replica": replica,
        "reference_valid": float(reference.valid.mean()),
        "explained": explained,
        "lags": lags,
        "rows": rows,
    }


def stopped(short: Run, frames: int, stride: float, scale: metrics.ReferenceMetrics) -> metrics.Row:
    """Figures of a run that ended early, spread over the reference's number of frames; nothing that depends on time."""
    places = spread_evenly(len(short), frames)
    run = replace(
        short, alphas=short.alphas[places], stride=stride, valid=short.valid[places], atoms=short.atoms[places]
    )
    row = scale.measure(run, short, "floor")
    row.figures |= dict.fromkeys(TIMED, metrics.NAN)
    return row


def means(results: dict[str, dict[str, Any]]) -> dict[str, Figures]:
    """Mean and standard deviation over proteins of each row, and of the model minus each other row.

    A difference is over the proteins that have both figures.
    """
    summary = {}
    for kind in ROWS:
        having = [result["rows"][kind]["mean"] for result in results.values() if kind in result["rows"]]
        if having:
            over = {key: [f[key] for f in having if f[key] is not None] for key in KEYS}
            summary[kind] = {"proteins": len(having), **spread(over)}
    for kind in [kind for kind in summary if kind != "model"]:
        pairs = [
            (result["rows"]["model"]["mean"], result["rows"][kind]["mean"])
            for result in results.values()
            if kind in result["rows"]
        ]
        over = {key: [a[key] - b[key] for a, b in pairs if None not in (a[key], b[key])] for key in KEYS}
        summary[f"model minus {kind}"] = {"proteins": len(pairs), **spread(over)}
    return summary


def cells(figures: Figures) -> list[str]:
    """Mean ± standard deviation in each column; a dash for what is undefined."""

    def cell(key: str, scale: float, digits: int) -> str:
        mean, sd = figures["mean"].get(key), figures["sd"].get(key)
        if mean is None:
            return "-"
        return f"{scale * mean:.{digits}f}" + ("" if sd is None else f" ± {scale * sd:.{digits}f}")

    return [cell(key, scale, digits) for key, _, scale, digits in COLUMNS]


def table(results: dict[str, dict[str, Any]], summary: dict[str, Figures], settings: metrics.Settings) -> str:
    """Markdown: rows per protein, then means over proteins and the model's distance from the other rows.

    Parameters
    ----------
    results : dict
        From :func:`measure`, by protein.
    summary : dict
        From :func:`means`.
    settings : Settings

    Returns
    -------
    str
        Two tables.
    """
    jsd = f"JSD ({'root' if settings.root else 'no root'}, base {settings.base:g})"
    headings = [jsd if key == "jsd" else heading for key, heading, _, _ in COLUMNS]
    rows = []
    for name, result in results.items():
        first = f"{name} ({result['residues']})"
        for kind in ROWS:
            if kind in result["rows"]:
                row = result["rows"][kind]
                rows.append([first, row["label"], *cells(row)])
                first = ""
    parts = [markdown(["protein", "", *headings], rows)]
    over = []
    for kind, figures in summary.items():
        _, minus, reduced = kind.partition("model minus ")
        label = f"STAR-MD minus {ROWS[reduced]}" if minus else ROWS[kind]
        over.append([label, str(figures["proteins"]), *cells(figures)])
        if kind == "model" and len(results) > 1:
            over.append([f"{label}, worst protein", "1", *worst(results)])
    parts.append("Mean ± standard deviation over proteins; differences over the proteins that have both figures:")
    parts.append(markdown(["", "proteins", *headings], over))
    return "\n\n".join(parts)


def worst(results: dict[str, dict[str, Any]]) -> list[str]:
    """The model's worst figure in each column, with the protein's name."""
    found = []
    for key, _, scale, digits in COLUMNS:
        values = {name: result["rows"]["model"]["mean"].get(key) for name, result in results.items()}
        there = {name: value for name, value in values.items() if value is not None}

        def badness(name: str, key: str = key, there: dict[str, float] = there) -> float:
            if key == "rmsf_amplitude":
                return abs(float(np.log(max(there[name], 1e-9))))
            return there[name] if key in LOWER else -there[name]

        name = max(there, key=badness) if there else None
        found.append("-" if name is None else f"{scale * there[name]:.{digits}f} ({name})")
    return found


def notes(results: dict[str, dict[str, Any]], settings: metrics.Settings, timing: str, stride: float) -> list[str]:
    """The choices behind the figures, in sentences."""

    def each(text: str) -> str:
        return "; ".join(f"{name} {text.format(**result)}" for name, result in results.items())

    def top(kind: str) -> str:
        return ", ".join(f"{name} {result['lags'][kind][-1] * stride:g} ps" for name, result in results.items())

    root = "distance, the square root of the divergence" if settings.root else "divergence"
    return [
        "± beside STAR-MD and the elastic network: standard deviation over seeds; the start structure is in no run",
        "RMSF r and amplitude: profiles pooled over seeds (root of the mean of squares), r the mean with each "
        "reference replica, the second replica's with the first, amplitude beside the references pooled; none of fewer "
        f"than {FEWEST} frames",
        "matched stride, span and number of frames: "
        + each("{frames} frames over {span_ps:g} ps against replica {reference_replica}"),
        "valid Cα %: neighbours 2.7 to 4.2 Å apart, no other pair under 3.0 Å; of the reference "
        + ", ".join(f"{name} {100 * result['reference_valid']:.1f}" for name, result in results.items()),
        f"JSD: Jensen-Shannon {root}, logarithm to base {settings.base:g}; with recall and precision on "
        f"{settings.bins} bins over the reference's range, and one beyond either end, in each of {settings.dimensions} "
        "principal components of the reference, valid frames only; their share of its variance: "
        + ", ".join(f"{name} {100 * result['explained']:.0f} %" for name, result in results.items())
        + ". With fewer frames than bins these three say little by themselves: read them beside the second MD replica",
        f"RMSD-lag err.: mean difference relative to the reference, lags up to {top('rmsd')}",
        f"autocorr. err.: mean difference in at most {settings.components} components, lags up to "
        f"{top('autocorrelation')}",
        f"tICA r (over residues, of the slowest mode's size) and VAMP-2 gap: at most {dynamics.SLOW} components, lag "
        f"{top('tica')}; - where the run does not move or has too few frames",
        f"elastic network: {FLOOR}, the same for all proteins (chosen on training proteins), random draws of it from "
        "the start structure; its amplitude and its first step are the reference's. "
        "Where none of its frames is valid it covers nothing, so its coverage stands also with all frames counted",
        timing,
    ]


def wall_clock(arguments: argparse.Namespace) -> tuple[float | None, str]:
    """How many times the model's simulated time per day is MD's, and where that is from; None if it is not known."""
    what = "MD at equal wall-clock: the other replica, stopped after the span divided by"
    same = (
        f"; its frames are {FINEST:g} ps apart, evenly repeated or thinned to the reference's number, and figures that "
        "depend on time are left out"
    )
    if arguments.ratio is not None:
        if arguments.ratio <= 0:
            raise ValueError(f"a ratio of {arguments.ratio:g}; it must be positive")
        return arguments.ratio, f"{what} {arguments.ratio:g}, given by hand{same}"
    if not arguments.speed.exists():
        return (
            None,
            f"MD at equal wall-clock left out: no {arguments.speed} (python -m benchmarks.speed) and no --ratio",
        )
    found = json.loads(arguments.speed.read_text())
    ratio = float(statistics.median(found["ratio"]))
    here = (arguments.weights, arguments.stride, arguments.steps)
    other = (
        "" if here == (found["weights"], found["stride_ps"], found["steps"]) else ", which is NOT this table's setting"
    )
    source = (
        f"measured on {found['structure']} ({found['residues']} residues) with {found['weights']}, stride "
        f"{found['stride_ps']:g} ps, {found['steps']} denoising steps, on {found['device']}{other}"
    )
    return ratio, f"{what} {ratio:.3g}, the median {source}{same}"


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
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--weights", default=DEFAULT_WEIGHTS)
    parser.add_argument("--stride", type=float, default=10.0, help="ps")
    parser.add_argument("--steps", type=int, help="denoising steps per frame; the weights' own")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--store", type=Path, help="directory that keeps rollouts, so that none is drawn twice")
    parser.add_argument("--bins", type=int, default=coverage.BINS, help="per dimension of the histogram")
    parser.add_argument("--dimensions", type=int, default=coverage.DIMENSIONS, help="principal components of it")
    parser.add_argument("--ratio", type=float, help="simulated time per day over MD's; else the median of --speed")
    parser.add_argument("--speed", type=Path, default=RESULTS / "speed.json")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="benchmarks/results/coverage.json, or coverage-training.json")
    add_markdown_option(parser, "coverage")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(arguments.threads)
    arguments.steps = arguments.steps or load_weights(arguments.weights).config.steps
    ratio, timing = wall_clock(arguments)

    pairs = [(name, 1) for name in arguments.names]
    if arguments.training:
        pairs = [(name, int(number or 2)) for name, _, number in (item.partition(":") for item in arguments.training)]
    results = {}
    for name, replica in pairs:
        if not (arguments.data / name / f"{name}_prod_R{replica}_fit.xtc").exists():
            print(f"left out: {name} has no replica {replica} in {arguments.data}", file=sys.stderr)
            continue
        results[name] = measure(arguments.data / name, replica, ratio, arguments, both=not arguments.training)
    if not results:
        sys.exit(f"no reference MD in {arguments.data}; see benchmarks/data/README.md")
    settings = metrics.Settings(bins=arguments.bins, dimensions=arguments.dimensions)
    summary, remarks = means(results), notes(results, settings, timing, arguments.stride)
    head = (
        f"`{arguments.weights}`, stride {arguments.stride:g} ps, {arguments.steps} denoising steps, seeds "
        f"{', '.join(map(str, arguments.seeds))}."
    )
    each, over = table(results, summary, settings).split("\n\n", 1)
    said = "\n".join(f"- {remark}" for remark in remarks)
    paper = paper_table()
    print("\n\n".join([head, each, over, said, paper]))
    if arguments.markdown:
        whole = "\n\n".join([head, each, over, said])
        if arguments.training:
            write_block(arguments.markdown, "coverage-training", whole)
        else:
            few = "At so few frames the second replica itself covers little; every protein stands further down."
            write_block(arguments.markdown, "coverage", "\n\n".join([head, over, few]))
            write_block(arguments.markdown, "coverage-held-out", f"{whole}\n\n{paper}")

    path = arguments.json or RESULTS / ("coverage-training.json" if arguments.training else "coverage.json")
    chosen = {k: str(v) if isinstance(v, Path) else v for k, v in vars(arguments).items()}
    content = {
        "settings": chosen | {"ratio": ratio, "analysis": asdict(settings), "version": __version__},
        "notes": remarks,
        "proteins": results,
        "means": summary,
        "paper": {
            "comparable": False,
            "setting": published_results.SETTING,
            "columns": published_results.COLUMNS,
            "rows": published_results.ROWS,
        },
    }
    write_json(path, content, ensure_ascii=False, allow_nan=False)


if __name__ == "__main__":
    main()
