"""What deforming the reference structure in training is good for: short trainings with and without it, denoising.

    python -m benchmarks.reference_augmentation --store augmentation --markdown --left-out-data ../shared/data/md200 \\
        --data ../shared/data/md ../shared/data/md200 benchmarks/data benchmarks/data/training

Each run is ``openmm_starmd.training.recipe.train`` on the training pool without the left-out proteins of
benchmarks/data/split.json, from the bundled weights or from scratch. Runs of one seed differ in the augmentation alone:
they see the same windows and the same noise. The judge is ``openmm_starmd.training.denoising``, on those left-out
proteins that MD is given of. A run that was stopped goes on from its last checkpoint; with more MD of left-out proteins
the weights in ``--store`` are judged anew without being trained again.
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.lib.paths import DATA, RESULTS
from benchmarks.lib.results_page import add_markdown_option, write_block, write_json
from openmm_starmd import __version__
from openmm_starmd.data.folders import open_data
from openmm_starmd.data.trajectories import ProteinData
from openmm_starmd.data.windows import WindowSettings
from openmm_starmd.model.config import preset
from openmm_starmd.model.weights import Weights, load_weights
from openmm_starmd.release.checks import training_data
from openmm_starmd.training import recipe as recipes
from openmm_starmd.training.denoising import Denoising, DenoisingTest
from openmm_starmd.training.settings import DenoisingSettings, OptimizerSettings, Recipe

SPLIT = DATA / "split.json"
SCRATCH = "scratch"
KEPT_BACK = ("1vii_A:2", "5a7u_A:2", "villin")
"""Replicas, and a protein, of benchmarks/data that released weights are measured on."""
ARMS = {
    "plain": {},
    "augmented": {"deformation_probability": 0.6, "deviation_dropout": 0.2},
}
# the same in all arms
WINDOWS = WindowSettings(
    stride_min=1.0, stride_max=200.0, focus_probability=0.4, tokens=450, share_max=0.05, cold_probability=0.1
)
STRIDES = (2.0, 10.0, 20.0, 50.0, 100.0)
RATES = {True: 1e-3, False: 3e-4}
"""Learning rate from scratch, and from trained weights."""


def not_trained_on(split: dict[str, Any]) -> list[str]:
    """Names that no run here may see: left-out proteins, what may not be trained on, and the kin of both."""
    listed = [split["choose"], split["report"], split["also_left_out"], split["not_to_be_trained_on"]["kin"]]
    names = [item["name"] for items in listed for item in items]
    return [*names, *split["not_to_be_trained_on"]["compared"], *KEPT_BACK]


def left_out(folders: Sequence[Path], split: dict[str, Any]) -> list[ProteinData]:
    """The left-out proteins that there is MD of, those that choose first."""
    names = [item["name"] for group in ("choose", "report") for item in split[group]]
    there = {path.name for folder in folders for path in folder.iterdir() if path.name in names}
    found = []
    for name in names:
        if name in there:
            others = [path.name for folder in folders for path in folder.iterdir() if path.name != name]
            found += open_data([folder for folder in folders if (folder / name).is_dir()], others)
    if not found:
        raise ValueError(f"none of {', '.join(names)} has MD in {', '.join(map(str, folders))}: name its folder")
    return found


def recipe_of(begin: Weights | None, arm: str, seed: int, steps: int, tokens: int) -> Recipe:
    """The recipe of one run."""
    model = replace(preset("mini"), stride_max=WINDOWS.stride_max) if begin is None else begin.config
    windows = replace(WINDOWS, tokens=tokens, seed=seed, **ARMS[arm])
    warmup = max(1, steps // 6)
    rate = RATES[begin is None]
    return Recipe(
        model=model,
        windows=windows,
        optimizer=OptimizerSettings(learning_rate=rate, warmup=warmup, ema=0.99),
        steps=steps,
        precision="32",
        seed=seed,
        save_every=max(1, steps // 3),
        log_every=max(1, steps // 6),
        start_from="" if begin is None else begin.name,
    )


def rows_of(measured: Denoising) -> list[dict[str, Any]]:
    """Errors of each protein and the means over proteins, as JSON has them."""
    return [asdict(error) for error in [*measured.errors, *measured.means]]


def pick(rows: Iterable[dict[str, Any]], protein: str, stride: float, tau: float, key: str = "rmse") -> float | None:
    """One figure of the rows of a run; None where it was not measured."""
    for row in rows:
        if (row["protein"], row["stride"], row["tau"]) == (protein, stride, tau):
            return row[key]
    return None


def cell(runs: Sequence[list[dict[str, Any]]], protein: str, stride: float, tau: float) -> str:
    """Mean over seeds, and half the distance of the outermost, of one figure."""
    values = [value for rows in runs if (value := pick(rows, protein, stride, tau)) is not None]
    if not values:
        return "-"
    text = f"{sum(values) / len(values):.3f}"
    return f"{text} ± {(max(values) - min(values)) / 2:.3f}" if len(values) > 1 else text


def table(content: dict[str, Any], protein: str, stride: float) -> list[str]:
    """Markdown: a row for each way to predict, a column for each noise level."""
    settings, runs = content["settings"], content["runs"]
    taus = settings["denoising"]["taus"]
    lines = [f"| RMSE, Å, at τ | {' | '.join(f'{tau:g}' for tau in taus)} |", "|---" * (len(taus) + 1) + "|"]
    untrained = content["untrained"]
    last = [pick(untrained["rows"], protein, stride, tau, "last_frame") for tau in taus]
    lines.append(f"| last frame | {' | '.join('-' if x is None else f'{x:.3f}' for x in last)} |")
    lines.append(
        f"| {untrained['name']} | {' | '.join(cell([untrained['rows']], protein, stride, tau) for tau in taus)} |"
    )
    for begin in sorted({run["begin"] for run in runs}, key=lambda name: name == SCRATCH):
        for arm in ARMS:
            seeds = [run["rows"] for run in runs if run["begin"] == begin and run["arm"] == arm]
            if seeds:
                what = "from scratch" if begin == SCRATCH else begin
                cells = " | ".join(cell(seeds, protein, stride, tau) for tau in taus)
                lines.append(f"| {what} + {settings['steps']} steps, {arm} | {cells} |")
    return lines


def ratios(content: dict[str, Any], begin: str) -> list[str]:
    """How augmented runs stand to plain ones of the same seed, protein by protein, as a list."""
    runs = {(run["arm"], run["seed"]): run["rows"] for run in content["runs"] if run["begin"] == begin}
    seeds = [seed for arm, seed in runs if arm == "plain" and ("augmented", seed) in runs]
    lines = []
    for protein in content["proteins"]:
        cells = []
        for stride in content["strides"]:
            for tau in (0.06, 0.2, 0.6):
                pairs = [(pick(runs[arm, s], protein["name"], stride, tau) for arm in ARMS) for s in seeds]
                logs = [math.log(second / first) for first, second in pairs if first and second]
                if logs:
                    cells.append((stride, math.exp(sum(logs) / len(logs))))
        if cells:
            by_stride = {s: [v for stride, v in cells if stride == s] for s in dict(cells)}
            shown = ", ".join(f"{s:g} ps {' '.join(f'{v:.2f}' for v in values)}" for s, values in by_stride.items())
            lines.append(f"- {protein['name']}: {shown}")
    return lines


def report(content: dict[str, Any]) -> str:
    """The block of docs/results.md."""
    settings, windows = content["settings"], content["settings"]["windows"]
    judged = ", ".join(
        f"{p['name']} ({p['residues']} residues, {p['picoseconds']:g} ps, {p['role']}"
        f"{', trained on by ' + content['untrained']['name'] if p['seen'] else ''})"
        for p in content["proteins"]
    )
    none_seen = (
        "" if any(p["seen"] for p in content["proteins"]) else f" {content['untrained']['name']} saw none of them."
    )
    seeds = len({run["seed"] for run in content["runs"]})
    shown = f"{seeds} seeds (mean, ± half their distance)" if seeds > 1 else "one seed"
    augmented = ARMS["augmented"]
    deformed, hidden = (round(100 * augmented[key]) for key in ("deformation_probability", "deviation_dropout"))
    lines = [
        f"Trainings of {settings['steps']} steps of {settings['tokens']} residues x frames on {content['trained_on']} "
        f"proteins of the pool, {shown}. Augmented: "
        f"{deformed} % of the references that are the PDB file's structure, and not in the window, are deformed along "
        f"soft modes by up to {10 * windows['deformation']:g} Å (rms); {hidden} % of all batches hide the deviation "
        f"from the reference. In both arms share_max is {windows['share_max']:g} and cold_probability "
        f"{windows['cold_probability']:g}. Judged on proteins left out: {judged}.{none_seen} "
        f"{settings['start']} itself was trained on {content['overlap']} of the {content['trained_on']} proteins.",
        "",
    ]
    for stride in content["strides"]:
        there = [p["name"] for p in content["proteins"] if stride in p["strides"]]
        lines += [f"Next frame at {stride:g} ps, mean over {len(there)} protein{'s' if len(there) > 1 else ''}:", ""]
        lines += [*table(content, "mean", stride), ""]
    for begin in sorted({run["begin"] for run in content["runs"]}, key=lambda name: name == SCRATCH):
        found = ratios(content, begin)
        if found:
            what = "from scratch" if begin == SCRATCH else f"from {begin}"
            lines += [f"Augmented over plain, {what}, at τ 0.06, 0.2 and 0.6 (under 1 is better):", "", *found, ""]
    return "\n".join(lines).rstrip()


def described(protein: ProteinData, split: dict[str, Any], seen: set[str], measured: Denoising) -> dict[str, Any]:
    """What is said of a judged protein."""
    role = "choose" if protein.name in {item["name"] for item in split["choose"]} else "report"
    return {
        "name": protein.name,
        "residues": protein.features.length,
        "picoseconds": round(sum(len(replica) * replica.interval for replica in protein.replicas), 1),
        "role": role,
        "seen": protein.name in seen,
        "strides": sorted({error.stride for error in measured.errors if error.protein == protein.name}),
    }


def main() -> None:
    """Train what is not trained yet, judge all, write JSON and Markdown after every run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of the training pool's MD")
    parser.add_argument(
        "--left-out-data", type=Path, nargs="+", required=True, help="folders with left-out proteins' MD"
    )
    parser.add_argument("--store", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--start", default="starmd-mini-v2", help="weights to begin from")
    parser.add_argument("--begin", nargs="+", choices=("start", SCRATCH), default=["start", SCRATCH])
    parser.add_argument("--arms", nargs="+", choices=tuple(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--tokens", type=int, default=WINDOWS.tokens, help="residues x frames of a training batch")
    parser.add_argument("--windows", type=int, default=8, help="windows of a protein and stride to denoise")
    parser.add_argument("--frames", type=int, default=8, help="frames of a window to denoise")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, default=RESULTS / "reference_augmentation.json")
    add_markdown_option(parser, "reference-augmentation")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(arguments.threads)

    split = json.loads(SPLIT.read_text())
    pool = open_data(arguments.data, not_trained_on(split))
    judged = left_out(arguments.left_out_data, split)
    start = load_weights(arguments.start)
    listing = training_data(start.path.parent) or {"proteins": []}
    seen = {protein["name"] for protein in [*listing["proteins"], *listing.get("earlier", [])]}
    settings = DenoisingSettings(strides=STRIDES, windows=arguments.windows, frames=arguments.frames)
    test = DenoisingTest(judged, settings, start.config)
    measured = test.measure(start.network)
    content: dict[str, Any] = {
        "version": __version__,
        "settings": {
            "start": start.name,
            "steps": arguments.steps,
            "tokens": arguments.tokens,
            "windows": asdict(replace(WINDOWS, tokens=arguments.tokens)),
            "arms": ARMS,
            "denoising": asdict(settings),
        },
        "trained_on": len(pool),
        "overlap": sum(protein.name in seen for protein in pool),
        "proteins": [described(protein, split, seen, measured) for protein in judged],
        "strides": sorted({error.stride for error in measured.errors}),
        "untrained": {"name": start.name, "rows": rows_of(measured)},
        "runs": [],
    }
    for begin in arguments.begin:
        for seed in arguments.seeds:
            for arm in arguments.arms:
                weights = None if begin == SCRATCH else start
                folder = arguments.store / f"{begin}-{arm}-seed{seed}-{arguments.steps}x{arguments.tokens}"
                recipe = recipe_of(weights, arm, seed, arguments.steps, arguments.tokens)
                network = None if weights is None else weights.network
                trained = recipes.train(
                    pool, folder, recipe, resume=True, start_from=network, accelerator="cpu", progress=False
                )
                rows = rows_of(test.measure(load_weights(trained).network))
                name = SCRATCH if begin == SCRATCH else start.name
                content["runs"].append({"begin": name, "arm": arm, "seed": seed, "rows": rows})
                write_json(arguments.json, content)
                print(f"{folder.name}: {pick(rows, 'mean', 10.0, 0.2)} Å at 10 ps and τ 0.2", flush=True)
                if arguments.markdown:
                    write_block(arguments.markdown, "reference-augmentation", report(content))
    print(report(content))


if __name__ == "__main__":
    main()
