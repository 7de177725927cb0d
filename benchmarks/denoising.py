"""The next frame of MD, given its true history: what weights say of it, beside what can be said without them.

    python -m benchmarks.denoising                                  # held-out proteins, and left-out ones of the pool
    python -m benchmarks.denoising --weights RUN/weights --proteins 5zng_A --data MD --json x.json

First the error of the estimate of a noised next frame (``openmm_starmd.training.denoising``), by noise level and
stride, beside the last frame and the best linear predictor, last + c1 (mean of history - last) + c2 (reference - last):
its coefficients are fitted on proteins of the training pool, and, as an upper bound, on the protein itself. Then frames
drawn as a rollout draws them, after true histories: how far their mean goes back to the reference, in per cent of the
way, and how wide they are about it, by principal component, beside MD's own. What the draws need to be is the mean
squared error of their mean: a spread of 1 says that they are as far from it as MD is.

Prints Markdown, writes JSON; ``--markdown`` puts the tables into the block of docs/results.md.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.lib.drawing import HELD_OUT
from benchmarks.lib.next_frame import (
    BANDS,
    FEWEST,
    Axes,
    coefficients,
    linear_rmse,
    pooled_bands,
    principal_axes,
    reversion_and_spread,
    teacher_forced,
    window_gram,
)
from benchmarks.lib.paths import DATA, RESULTS
from benchmarks.lib.results_page import add_markdown_option, write_block, write_json
from openmm_starmd.data.trajectories import ProteinData, load_protein
from openmm_starmd.model.network import Network
from openmm_starmd.model.weights import DEFAULT_WEIGHTS, load_weights
from openmm_starmd.training.denoising import Denoising, DenoisingTest, Error, draw_windows
from openmm_starmd.training.settings import DenoisingSettings

SPLIT = DATA / "split.json"
HELD, REPORT = "held out", "left out of the pool, only reported"
POOL = ("1vii_A:1", "5a7u_A:1")
"""Replicas of benchmarks/data that may be trained on, beside benchmarks/data/training."""

Row = dict[str, Any]


def folder_of(name: str, folders: Sequence[Path]) -> Path | None:
    """The first folder ``NAME`` with a trajectory in one of the folders, or in a folder of theirs."""
    for folder in folders:
        for path in (folder / name, *sorted(folder.glob(f"*/{name}"))):
            if any(path.glob(f"{name}_prod_R*_fit.xtc")):
                return path
    return None


def pool(folders: Sequence[Path], allowed: Sequence[str]) -> list[ProteinData]:
    """Proteins of the training pool that there is MD of."""
    found = []
    for item in allowed:
        name, _, number = item.partition(":")
        folder = folder_of(name, folders)
        if folder is not None:
            found.append(load_protein(folder, [int(number)] if number else None))
    return found


def fitted_grams(proteins: Sequence[ProteinData], settings: DenoisingSettings, network: Network) -> dict[float, Row]:
    """Products to fit linear predictors by, for each stride and protein."""
    found: dict[float, Row] = {}
    for protein in proteins:
        try:
            drawn = draw_windows([protein], settings, network.config)
        except ValueError:
            continue  # too short for any of the strides
        for windows in drawn:
            found.setdefault(windows.stride, {})[protein.name] = window_gram(windows)
    return found


def linear(test: DenoisingTest, grams: dict[float, Row]) -> list[Row]:
    """Errors of linear predictors on the windows of a test, protein by protein and stride by stride."""
    found = []
    for windows in test.windows:
        name, own = windows.protein.name, window_gram(windows)
        others = [gram for other, gram in grams.get(windows.stride, {}).items() if other != name]
        row: Row = {"protein": name, "stride": windows.stride, "fitted_on": len(others)}
        best = coefficients([own])
        row |= {"best_rmse": linear_rmse(own, best), "best_c": best.tolist()}
        if others:
            c = coefficients(others)
            row |= {"rmse": linear_rmse(own, c), "c": c.tolist()}
        found.append(row)
    return found


def drawn(network: Network, proteins: Sequence[ProteinData], arguments: argparse.Namespace) -> tuple[list[Row], Row]:
    """Reversion and spread of each protein and stride, and what the principal components rest on."""
    found, rests = [], {}
    for protein in proteins:
        axes: Axes = principal_axes(protein)
        interval = max(replica.interval for replica in protein.replicas)
        rests[protein.name] = {"frames": axes.frames, "ps": axes.picoseconds, "interval": interval}
        for stride in arguments.stride:
            steps = teacher_forced(network, protein, stride, arguments.contexts, arguments.draws)
            if steps is not None:
                bands = reversion_and_spread(steps, axes)
                found.append({"protein": protein.name, "stride": stride, "contexts": len(steps.last), "bands": bands})
                print(f"{protein.name}, {stride:g} ps: {len(steps.last)} histories", file=sys.stderr, flush=True)
    return found, rests


def measure(network: Network, proteins: Sequence[ProteinData], grams: dict[float, Row], arguments: Any) -> Row:
    """Everything of one group of proteins."""
    settings = DenoisingSettings(strides=tuple(arguments.stride), windows=arguments.windows, frames=arguments.frames)
    test = DenoisingTest(proteins, settings, network.config, arguments.device)
    errors = test.measure(network)
    print(f"denoised: {', '.join(protein.name for protein in proteins)}", file=sys.stderr, flush=True)
    reversion, rests = drawn(network, proteins, arguments) if arguments.contexts else ([], {})
    return {
        "residues": {protein.name: protein.features.length for protein in proteins},
        "loss": errors.loss,
        "errors": [vars(error) for error in errors.errors],
        "linear": linear(test, grams),
        "reversion": reversion,
        "principal_components": rests,
    }


def mean(values: Sequence[float]) -> float:
    """Root of the mean of squares: proteins count once each."""
    return math.sqrt(sum(value**2 for value in values) / len(values))


def worst(errors: Sequence[Error]) -> str:
    """The protein whose errors at the highest noise are largest beside the last frame's, in words."""
    top = max(errors, key=lambda e: (e.tau, e.rmse / e.last_frame))
    return f"{top.protein}, {top.rmse / top.last_frame:.2f} times the last frame's at τ {top.tau:g}"


def furthest(rows: Sequence[Row]) -> str:
    """The protein whose draws go back otherwise than MD by most, in words."""
    row = max(rows, key=lambda r: abs(r["bands"]["all"]["reversion_model"] - r["bands"]["all"]["reversion_md"]))
    band = row["bands"]["all"]
    return (
        f"Reversion furthest from MD's: {row['protein']}, {100 * band['reversion_model']:.0f} % against "
        f"{100 * band['reversion_md']:.0f} %."
    )


def error_table(group: Row, stride: float) -> str:
    """RMSE at one stride, protein by protein."""
    errors = [Error(**error) for error in group["errors"] if error["stride"] == stride]
    rows = {row["protein"]: row for row in group["linear"] if row["stride"] == stride}
    taus = sorted({error.tau for error in errors})
    lines = [
        "| protein | last frame | linear | linear, its own | " + " | ".join(f"τ {tau:g}" for tau in taus) + " |",
        "|---|" + "---|" * (3 + len(taus)),
    ]
    named = [(f"{name} ({group['residues'][name]})", name) for name in rows]
    for label, name in [*named, *([("**mean**", "mean")] if len(rows) > 1 else [])]:
        chosen = [row for row in rows.values() if name in ("mean", row["protein"])]
        there = Denoising(tuple(error for error in errors if name in ("mean", error.protein))).means
        cells = [f"{there[0].last_frame:.2f}"]
        cells.append(f"{mean([row['rmse'] for row in chosen]):.2f}" if all("rmse" in row for row in chosen) else "-")
        cells.append(f"{mean([row['best_rmse'] for row in chosen]):.2f}")
        cells += [f"{error.rmse:.3f}" for error in there]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def reversion_table(rows: Sequence[Row]) -> str:
    """Reversion and spread at one stride, protein by protein."""
    names = list(BANDS)
    heads = [f"reversion {name}" for name in ("all", *names)] + [f"spread {name}" for name in ("all", *names)]
    lines = [f"| protein | histories | {' | '.join(heads)} |", "|---|---|" + "---|" * len(heads)]
    everyone = [{"protein": "**mean**", "contexts": sum(r["contexts"] for r in rows)}]
    everyone[0]["bands"] = pooled_bands([row["bands"] for row in rows])
    for row in [*rows, *(everyone if len(rows) > 1 else [])]:
        bands = row["bands"]
        cells = [
            f"{100 * bands[n]['reversion_md']:.0f} / {100 * bands[n]['reversion_model']:.0f}" for n in ("all", *names)
        ]
        cells += [f"{bands[n]['spread'] / bands[n]['needed']:.2f}" for n in ("all", *names)]
        lines.append(f"| {row['protein']} | {row['contexts']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def tables(found: Row) -> str:
    """All tables, with a sentence on what each rests on."""
    text = [
        f"`{found['weights']}`, {found['windows']} windows of up to {found['frames']} frames a protein and stride; "
        "RMSE in Å of Cα, nothing superposed. Linear: last frame + c1 (mean of history - last) + c2 (reference - last) "
        f"with c1 and c2 fitted on {len(found['pool'])} proteins of the training pool; its own: on the protein itself, "
        "the most that such a predictor can do. Reversion: MD / model, per cent of the way back to the reference in "
        f"one stride; spread: variance of {found['draws']} draws over what it would need to be, 1 is right, summed "
        "over components.",
    ]
    for title, group in found["groups"].items():
        for stride in found["strides"]:
            errors = [Error(**error) for error in group["errors"] if error["stride"] == stride]
            if not errors:
                continue
            fitted = [row for row in group["linear"] if row["stride"] == stride and "c" in row]
            c = f"; c1 {fitted[0]['c'][0]:.2f}, c2 {fitted[0]['c'][1]:.2f}" if fitted else ""
            text.append(f"**Proteins {title}, {stride:g} ps**; worst: {worst(errors)}{c}.")
            text.append(error_table(group, stride))
            rows = [row for row in group["reversion"] if row["stride"] == stride]
            if rows:
                text += [furthest(rows), reversion_table(rows)]
        rests = group["principal_components"].items()
        if rests:
            said = ", ".join(f"{name} {r['frames']} ({r['ps']:g} ps)" for name, r in rests)
            text.append(
                f"Principal components rest on all frames of MD, both replicas where there are two: {said}. Frames are "
                f"drawn only where there are {FEWEST} histories or more; at long strides these overlap."
            )
    return "\n\n".join(text)


def groups(arguments: argparse.Namespace, split: Row) -> dict[str, list[ProteinData]]:
    """Proteins to measure, those named or by default the held-out ones and the pool's reporting ones."""
    if arguments.proteins:
        named = {"named": arguments.proteins}
    else:
        named = {HELD: list(HELD_OUT), REPORT: [item["name"] for item in split.get("report", [])]}
    found: dict[str, list[ProteinData]] = {}
    for title, names in named.items():
        folders = {name: folder_of(name, arguments.data) for name in names}
        lacking = [name for name, folder in folders.items() if folder is None]
        if lacking:
            print(f"left out, for there is no MD of them: {', '.join(lacking)}", file=sys.stderr)
        there = [load_protein(folder) for folder in folders.values() if folder is not None]
        if there:
            found[title] = there
    return found


def main() -> None:
    """Measure, print Markdown, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default=DEFAULT_WEIGHTS)
    parser.add_argument(
        "--proteins", nargs="+", metavar="NAME", default=[], help="instead of held-out and left-out ones"
    )
    parser.add_argument("--data", type=Path, nargs="+", default=[DATA], help="folders of NAME, or of folders of NAME")
    parser.add_argument("--stride", type=float, nargs="+", default=[10.0, 100.0], help="ps")
    parser.add_argument("--windows", type=int, default=6, help="of a protein at each stride")
    parser.add_argument("--frames", type=int, default=8, help="in a window")
    parser.add_argument("--contexts", type=int, default=12, help="histories to draw after; 0 for none")
    parser.add_argument("--draws", type=int, default=4, help="frames drawn after each")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, default=RESULTS / "denoising.json")
    add_markdown_option(parser, "denoising")
    arguments = parser.parse_args()
    if arguments.draws < 2:
        parser.error("--draws: a spread needs at least two")
    warnings.simplefilter("ignore")
    torch.set_num_threads(arguments.threads)
    network = load_weights(arguments.weights).network
    split = json.loads(SPLIT.read_text()) if SPLIT.exists() else {}
    chosen = groups(arguments, split)
    if not chosen:
        sys.exit("no MD of any of the proteins: give its folder with --data")
    trained = [path.name for path in sorted((DATA / "training").iterdir()) if path.is_dir()]
    may = set(split.get("pool", trained))
    fitted = pool([DATA], [*POOL, *(name for name in trained if name in may)])
    settings = DenoisingSettings(strides=tuple(arguments.stride), windows=arguments.windows, frames=arguments.frames)
    grams = fitted_grams(fitted, settings, network)
    found = {
        "weights": arguments.weights,
        "strides": arguments.stride,
        "windows": arguments.windows,
        "frames": arguments.frames,
        "draws": arguments.draws,
        "pool": [protein.name for protein in fitted],
        "groups": {title: measure(network, proteins, grams, arguments) for title, proteins in chosen.items()},
    }
    write_json(arguments.json, found)
    text = tables(found)
    print(text)
    if arguments.markdown:
        write_block(arguments.markdown, "denoising", text)


if __name__ == "__main__":
    main()
