"""The paper's form at a tenth of its size, trained from scratch: contextual noise and attention at 100 ps a frame.

    python -m benchmarks.paper_form --store paper_form --markdown

What ``preset("paper")`` is stays: clean frames estimated from noise alone, variance-preserving schedule, centred noise,
the paper's losses, contextual noise up to τ 0.1, Euler-Maruyama, 32 frames of history. Widths and numbers of layers are
:data:`SIZES`, and a frame is drawn with ``--sampler-steps`` calls of the network where the paper takes 200: 40 by
default, which is what one core can pay for. Four arms, {with, without contextual noise} x {joint, separable attention},
have the same steps, windows, first weights and seeds; training is ``openmm_starmd.training.recipe.train``.

Trained on every replica of 1vii_A and 5a7u_A in benchmarks/data, at strides of 10 ps to ``--stride``, half of them at
``--stride``; then ``--frames`` frames of these very proteins are drawn from their start structures. So this tells how
frames hold together and whether they drift, not what an unseen protein would do, and no weights are kept: replicas that
released weights are measured on are trained on here.

A run that was stopped goes on from its last checkpoint; rollouts in ``--store`` are not drawn again.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import ablation
from benchmarks.fidelity import plain
from benchmarks.lib.drawing import Drawing, load_replica, rollouts
from benchmarks.lib.paths import DATA, RESULTS
from benchmarks.lib.results_page import add_markdown_option, write, write_block, write_json
from openmm_starmd import __version__
from openmm_starmd.analysis.flexibility import agreement, correlation, pooled, rmsf
from openmm_starmd.analysis.network_models import FLOOR, network_rmsf
from openmm_starmd.analysis.validity import judge
from openmm_starmd.data.folders import open_data
from openmm_starmd.data.trajectories import ProteinData
from openmm_starmd.data.windows import WindowDataset
from openmm_starmd.geometry.superposition import rmsd
from openmm_starmd.model.config import preset
from openmm_starmd.model.network import Network
from openmm_starmd.training import recipe as recipes
from openmm_starmd.training.objective import objective
from openmm_starmd.training.optimizer import make_optimizer
from openmm_starmd.training.settings import OptimizerSettings, Recipe

PROTEINS = ("1vii_A", "5a7u_A")
ARMS = tuple(f"{noise}-{attention}" for attention in ablation.ATTENTION for noise in ("with", "without"))
QUARTERS = 4
SIZES: dict[str, Any] = {
    "c_s": 128,
    "c_z": 40,
    "blocks": 3,
    "conditioner_layers": 1,
    "conditioner_s": 192,
    "conditioner_z": 64,
    "ipa_hidden": 64,
    "attention_layers": 1,
    "attention_heads": 4,
    "attention_hidden": 128,
}
"""What differs from the paper's dimensions."""

Positions = NDArray[np.float64]


def training_proteins(data: Path = DATA) -> list[ProteinData]:
    """All replicas of :data:`PROTEINS`, and nothing else of the folder."""
    return open_data([data], [path.name for path in data.iterdir() if path.name not in PROTEINS])


def recipe_of(arm: str, steps: int, tokens: int, stride: float) -> Recipe:
    """The recipe of one arm."""
    noise, attention = arm.split("-")
    base = recipes.recipe_for("paper")
    limits: dict[str, Any] = {"stride_min": min(10.0, stride), "stride_max": stride}
    model = replace(base.model, **SIZES, **limits, stride_default=stride)
    base = replace(
        base,
        model=model,
        windows=replace(base.windows, **limits, stride_focus=stride, focus_probability=0.5, tokens=tokens),
        # so short a training takes a higher rate than the paper's
        optimizer=OptimizerSettings(learning_rate=1e-3, warmup=max(1, steps // 8), ema=0.99),
        steps=steps,
        precision="32",
        save_every=max(1, steps // 10),
        log_every=max(1, steps // 10),
    )
    return ablation.variant(base, noise, attention, arm)


def parameters(recipe: Recipe) -> int:
    """Number of weights of a recipe's network."""
    return sum(parameter.numel() for parameter in Network(recipe.model).parameters())


def step_seconds(proteins: Sequence[ProteinData], arms: dict[str, Recipe], repeats: int = 30) -> dict[str, float]:
    """Median CPU seconds of an optimiser step of each arm, all on the same batches and in turns."""
    works = {}
    for arm, recipe in arms.items():
        torch.manual_seed(recipe.seed)
        network = Network(recipes.released_config(recipe, proteins)).train()
        works[arm] = network, make_optimizer(network, recipe.optimizer), recipe.objective
    batches = WindowDataset(proteins, next(iter(arms.values())).windows, repeats + 1)
    times: dict[str, list[float]] = {arm: [] for arm in arms}
    for number in range(repeats + 1):
        batch = batches[number]
        for arm, (network, optimizer, settings) in works.items():
            begun = time.process_time()
            optimizer.zero_grad()
            objective(network, batch, settings)[0].backward()
            optimizer.step()
            times[arm].append(time.process_time() - begun)
    # the first warms up
    return {arm: float(np.median(spent[1:])) for arm, spent in times.items()}


def phases(frames: Positions, step: int) -> list[Positions]:
    """A trajectory thinned to each `step`-th frame, from each of the `step` frames that it can begin with."""
    count = len(frames) // step
    return [frames[first::step][:count] for first in range(step)]


def pieces(frames: Positions, length: int) -> list[Positions]:
    """Consecutive stretches of `length` frames, without those that are not finite and the rest at the end."""
    cut = [frames[begin : begin + length] for begin in range(0, len(frames) - length + 1, length)]
    return [piece for piece in cut if np.isfinite(piece).all()]


def quarters(values: NDArray[Any]) -> list[float]:
    """Mean of each quarter of a rollout, of what is finite; nan where nothing is."""
    size = math.ceil(len(values) / QUARTERS)
    parts = [values[begin : begin + size] for begin in range(0, len(values), size)]
    return [float(np.mean(part[np.isfinite(part)])) if np.isfinite(part).any() else math.nan for part in parts]


def reference(protein: ProteinData, start: Positions, stride: float, data: Path = DATA) -> dict[str, Any]:
    """MD that was trained on: how much there is, and RMSF over the longer replica's time in frames of `stride` ps."""
    every = [load_replica(data / protein.name, number, 1.0) for number in (1, 2)]
    there = sorted((x for x in every if x is not None), key=len, reverse=True)
    thinned = phases(there[0], round(stride))
    bonded = protein.features.bonded.numpy()
    profile = pooled([rmsf(x) for x in thinned]) if len(thinned[0]) > 1 else None
    floor = None if profile is None else correlation(network_rmsf(start, FLOOR, bonded), profile)
    return {
        "name": protein.name,
        "residues": protein.features.length,
        "picoseconds": [round(len(r) * r.interval, 3) for r in protein.replicas],
        "frames": len(thinned[0]),
        "valid": float(np.mean([judge(x, bonded).fraction for x in there])),
        "rmsd": float(np.mean(np.concatenate([rmsd(x, start) for x in there]))),
        "rmsf": None if profile is None else profile.tolist(),
        "network_r": floor,
    }


def measure(
    protein: ProteinData, runs: Sequence[Positions], seeds: Sequence[int], start: Positions, md: dict[str, Any]
) -> dict[str, Any]:
    """Figures of the rollouts of one protein, one a seed, beside MD; lengths in nm."""
    bonded, found = protein.features.bonded.numpy(), []
    for seed, run in zip(seeds, runs, strict=True):
        judged = judge(run, bonded)
        finite = np.isfinite(run).all((1, 2))
        away = np.full(len(run), math.nan)
        if finite.any():
            away[finite] = rmsd(run[finite], start)
        faults = np.where(finite, judged.broken + judged.clashes, math.nan)
        found.append(
            {
                "seed": seed,
                "valid": float(judged.valid.mean()),
                "quarters": quarters(judged.valid.astype(float)),
                "first_invalid": None if judged.valid.all() else int(np.argmin(judged.valid)),
                "finite": float(finite.mean()),
                "faults": quarters(faults),
                "rmsd": quarters(away),
            }
        )
    profile, length = md["rmsf"], md["frames"]
    windows = [] if profile is None else [piece for run in runs for piece in pieces(run, length)]
    beside = agreement(pooled([rmsf(x) for x in windows]), [np.array(profile)]) if windows else None
    whole = [run for run in runs if len(run) > 1 and np.isfinite(run).all()]
    beside_whole = agreement(pooled([rmsf(x) for x in whole]), [np.array(profile)]) if whole and profile else None
    return {
        "seeds": found,
        "r": beside.correlation if beside else None,
        "amplitude": beside.amplitude if beside else None,
        "amplitude_whole": beside_whole.amplitude if beside_whole else None,
    }


def mean(seeds: Sequence[dict[str, Any]], key: str) -> list[float]:
    """Quarters of a figure, mean over the seeds that have it."""
    table = np.array([seed[key] for seed in seeds], dtype=float)
    return [float(np.mean(x[np.isfinite(x)])) if np.isfinite(x).any() else math.nan for x in table.T]


def number(value: float | None, digits: int = 2, factor: float = 1.0) -> str:
    """A figure of a table, or a dash where there is none."""
    return "-" if value is None or not math.isfinite(value) else f"{factor * value:.{digits}f}"


def report(content: dict[str, Any]) -> str:
    """The block of docs/results.md."""
    settings, proteins, arms = content["settings"], content["proteins"], content["variants"]
    frames, stride = settings["frames"], settings["stride"]
    size = math.ceil(frames / QUARTERS)
    spans = [f"{begin + 1}-{min(begin + size, frames)}" for begin in range(0, frames, size)]
    data = "; ".join(
        f"{p['name']}, {p['residues']} residues, {' + '.join(f'{x:g}' for x in p['picoseconds'])} ps" for p in proteins
    )
    head = ["contextual noise", "attention", *(f"valid {span}" for span in spans), "all (seeds)", "faults a frame"]
    head += ["RMSF r", "amplitude", "of the whole run", f"RMSD to start, Å, {', '.join(spans)}"]
    lines = [
        f"{content['parameters']['here'] / 1e6:.2f} M weights beside the paper's "
        f"{content['parameters']['paper'] / 1e6:.1f} M. {settings['steps']} steps of {settings['tokens']} residues x "
        f"frames from scratch on {data}; then {frames} frames of {stride:g} ps of each, {settings['sampler_steps']} "
        f"Euler-Maruyama steps a frame (the paper: 200), {len(settings['seeds'])} seeds. Valid: % of Cα frames.",
    ]
    for md in proteins:
        lines += ["", f"{md['name']}:", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        blank = " | ".join("-" for _ in spans)
        lines.append(
            f"| MD | | {blank} | {number(md['valid'], 1, 100)} | | 1 | 1 | - | {number(md['rmsd'], 2, 10)} (mean) |"
        )
        for arm, result in arms.items():
            found = result["proteins"][md["name"]]
            seeds = found["seeds"]
            shares = [seed["valid"] for seed in seeds]
            cells = [*arm.split("-"), *(number(x, 1, 100) for x in mean(seeds, "quarters"))]
            cells.append(f"{number(float(np.mean(shares)), 1, 100)} ({', '.join(number(x, 0, 100) for x in shares)})")
            cells.append(", ".join(number(x, 1) for x in mean(seeds, "faults")))
            cells += [number(found[key]) for key in ("r", "amplitude", "amplitude_whole")]
            cells.append(", ".join(number(x, 2, 10) for x in mean(seeds, "rmsd")))
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| contextual noise | attention | training loss at the end | CPU s a training step | beside joint |"]
    lines.append("|---|---|---|---|---|")
    for arm, result in arms.items():
        noise, attention = arm.split("-")
        spent = content["step_seconds"]
        beside = spent.get(f"{noise}-joint")
        cells = [noise, attention, number(result["loss"], 3), number(spent[arm], 3)]
        lines.append(f"| {' | '.join([*cells, number(spent[arm] / beside if beside else None)])} |")
    floors = ", ".join(f"{number(p['network_r'])} for {p['name']}" for p in proteins)
    lengths = ", ".join(f"{p['frames']} of {p['name']}" for p in proteins)
    lines += [
        "",
        "Faults: broken links and clashes of Cα a frame, by quarter. RMSF r and amplitude: over stretches as long as "
        f"the longer replica of MD, which is trained on, in frames of {stride:g} ps ({lengths}), pooled over all "
        "stretches and seeds, and of MD over all frames that it can begin with; so short an MD makes r coarse. r of an "
        f"elastic network of the start: {floors}. Losses with and without contextual noise are of different tasks.",
        "",
        *(f"- {line}" for line in conclusion(arms)),
    ]
    return "\n".join(lines).rstrip()


def conclusion(arms: dict[str, Any]) -> list[str]:
    """What valid frames say of noise and attention: nothing where no arm has any."""
    if not any(seed["valid"] for arm in arms.values() for found in arm["proteins"].values() for seed in found["seeds"]):
        return [
            "No frame of any arm is valid: at this size and length of training, nothing is said of noise or attention."
        ]
    return ablation.conclusion(pairs(arms))


def pairs(arms: dict[str, Any]) -> dict[str, Any]:
    """Arms as :func:`benchmarks.ablation.conclusion` takes them."""
    return {
        arm: {"proteins": {name: found["seeds"] for name, found in result["proteins"].items()}}
        for arm, result in arms.items()
    }


def timed_once(path: Path, proteins: Sequence[ProteinData], arms: dict[str, Recipe]) -> dict[str, float]:
    """:func:`step_seconds`, kept in a file so that a run that goes on does not change them."""
    if not path.exists() or set(json.loads(path.read_text())) != set(arms):
        write(path, json.dumps(step_seconds(proteins, arms)))
    found: dict[str, float] = json.loads(path.read_text())
    return found


def main() -> None:
    """Train, draw, and after each arm write JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True, help="folder of trainings and rollouts")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--steps", type=int, default=1200, help="of training, each arm")
    parser.add_argument("--tokens", type=int, default=300, help="residues x frames of a training step")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--frames", type=int, default=80)
    parser.add_argument("--stride", type=float, default=100.0, help="ps; longest in training, too")
    parser.add_argument("--sampler-steps", type=int, default=40, help="calls of the network a frame; the paper: 200")
    parser.add_argument("--json", type=Path, default=RESULTS / "paper_form.json")
    add_markdown_option(parser, "paper-form")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)

    proteins = training_proteins()
    starts = {p.name: p.features.reference.translations.numpy().astype(np.float64) for p in proteins}
    md = {p.name: reference(p, starts[p.name], arguments.stride) for p in proteins}
    arms = {arm: recipe_of(arm, arguments.steps, arguments.tokens, arguments.stride) for arm in arguments.arms}
    label = f"{arguments.steps}x{arguments.tokens}-{arguments.stride:g}ps"
    content: dict[str, Any] = {
        "version": __version__,
        "settings": {
            "sizes": SIZES,
            "recipe": asdict(next(iter(arms.values()))),
            **{key: getattr(arguments, key) for key in ("steps", "tokens", "seeds", "frames", "stride")},
            "sampler_steps": arguments.sampler_steps,
        },
        "parameters": {
            "here": parameters(next(iter(arms.values()))),
            "paper": sum(p.numel() for p in Network(preset("paper")).parameters()),
        },
        "proteins": list(md.values()),
        "step_seconds": timed_once(arguments.store / f"step_seconds-{label}.json", proteins, arms),
        "variants": {},
    }
    print(f"{content['parameters']}, s a step {content['step_seconds']}", flush=True)
    for arm, recipe in arms.items():
        run = arguments.store / f"{arm}-{label}"
        begun = time.process_time()
        weights = recipes.train(proteins, run, recipe, resume=True, accelerator="cpu", progress=False)
        trained = time.process_time()
        drawing = Drawing(str(weights), arguments.sampler_steps, store=arguments.store / "rollouts" / arm)
        results = {}
        for protein in proteins:
            path = DATA / protein.name / f"{protein.name}.pdb"
            drawn = rollouts(path, arguments.frames, arguments.seeds, arguments.stride, drawing)
            xyz = [run.xyz.astype(np.float64) for run in drawn]
            results[protein.name] = measure(protein, xyz, arguments.seeds, starts[protein.name], md[protein.name])
        content["variants"][arm] = {"proteins": results, "loss": ablation.last_loss(run)}
        content["conclusion"] = conclusion(content["variants"])
        write_json(arguments.json, plain(content), allow_nan=False)
        shares = {name: number(np.mean([s["valid"] for s in f["seeds"]]), 1, 100) for name, f in results.items()}
        print(
            f"{arm}: loss {content['variants'][arm]['loss']}, valid {shares}, trained {trained - begun:.0f} s, "
            f"drawn {time.process_time() - trained:.0f} s",
            flush=True,
        )
        if arguments.markdown:
            write_block(arguments.markdown, "paper-form", report(content))
    print(report(content))


if __name__ == "__main__":
    main()
