"""What calibration to a protein's own MD gives: innovations before and after, and the width of drawn motion.

    python -m benchmarks.calibration --weights starmd-mini-v3 --markdown \\
        --data ../shared/data/md200 benchmarks/data/pool

For each left-out protein of benchmarks/data/split.json that there is MD of: its amplitude is read off the first 20 ps
(half of the MD where that is under 60 ps); the rest judges. Innovation: the logarithm of the mean squared innovation
over the variance expected, 0 is right. RMSF amplitude, where the MD is 150 ps or longer: mean RMSF of 4 rollouts as
long, over that of the MD, with and without calibration; and that of the MD that calibrated, which is what the same time
would have given. With ``--held-out``, of the proteins held out as well, by their first replica.
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from openmm.app import PDBFile

from benchmarks.lib.drawing import HELD_OUT
from benchmarks.lib.paths import DATA, RESULTS
from benchmarks.lib.results_page import add_markdown_option, write_block, write_json
from benchmarks.reference_augmentation import SPLIT, left_out
from openmm_starmd import Protein, __version__
from openmm_starmd.analysis.flexibility import pooled, rmsf
from openmm_starmd.data.folders import open_data
from openmm_starmd.data.trajectories import ProteinData, Replica
from openmm_starmd.geometry.rigid import Rigids, superpose
from openmm_starmd.model.calibration import find_amplitude, scaled, windows_of
from openmm_starmd.model.elastic import ElasticModel
from openmm_starmd.model.weights import Weights, load_weights
from openmm_starmd.rollout import make_rollout

STRIDES = (2.0, 10.0)
LONG, ENOUGH = 60.0, 150.0  # ps
SHORT = 20.0  # ps of calibration
SEEDS = range(4)


def innovation(model: ElasticModel, frames: Rigids, step: int, stride: float, longest: int) -> float | None:
    """Logarithm of the mean squared innovation over the variance expected; None without frames for it."""
    ratios = []
    for window in windows_of(frames.to(torch.float64), step, longest):
        count, length = window.translations.shape[0], window.translations.shape[1] - 1
        ages = stride * torch.arange(length, 0, -1).double().expand(count, -1)
        none = torch.zeros_like(ages)
        expected = model.expected(window.map(lambda x: x[:, :length]), ages, none, none)  # noqa: B023
        shift = window.translations[:, -1:] - window.translations[:, length - 1 : length]
        along = model.coordinates(expected.axes, shift) - expected.mean.flatten(-2) @ model.vectors
        ratios.append((along.square() / expected.variance).mean((-1, -2)))
    return float(torch.cat(ratios).mean().log()) if ratios else None


def measure(protein: ProteinData, replica: Replica, weights: Weights, path: Path) -> dict[str, Any]:
    """Figures of one protein."""
    interval, count = replica.interval, len(replica)
    span = interval * count
    first = round((SHORT if span >= LONG else span / 2) / interval)
    frames = replica.rigids(np.arange(count))
    features, config = protein.read_features(), weights.config
    placed = [frames.map(lambda x: x[0])]
    for number in range(1, count):
        placed.append(superpose(frames.map(lambda x: x[number]), placed[-1].translations))  # noqa: B023
    frames = Rigids(*(torch.stack(part) for part in zip(*placed, strict=True)))
    found = find_amplitude(
        frames.map(lambda x: x[:first]), interval, features, config.elastic, max_context=config.max_context
    )
    plain = ElasticModel.of(features.to("cpu", torch.float64), replace(config.elastic, widening=0.0))
    rest = frames.map(lambda x: x[first:])
    row: dict[str, Any] = {
        "picoseconds": span,
        "calibration": first * interval,
        "amplitude": math.exp(found.log),
        "error": found.error,
        "innovation": {},
    }
    for stride in STRIDES:
        step = round(stride / interval)
        models = plain, scaled(plain, found.log)
        models = plain, scaled(plain, found.log)
        values = [innovation(model, rest, step, stride, config.max_context - 1) for model in models]
        if None not in values:
            row["innovation"][f"{stride:g}"] = values
    if span >= ENOUGH:
        thin = round(config.stride_default / interval)
        md = frames.translations.double().numpy()[thin - 1 :: thin]
        width = rmsf(md).mean()
        pdb = PDBFile(str(path))
        mine = Protein.from_openmm(pdb.topology, pdb.positions)
        row["rmsf"] = {"MD that calibrated": float(rmsf(frames.translations[:first].double().numpy()).mean() / width)}
        for name, log in (("without", 0.0), ("with", found.log)):
            run = make_rollout(mine, weights, stride=config.stride_default, seed=list(SEEDS), device="cpu")
            run.features = replace(run.features, amplitude=log)
            run.begin(torch.as_tensor(mine.backbone, dtype=torch.float64).expand(len(SEEDS), -1, -1, -1), 0)
            drawn = np.stack([run.step().backbone[:, :, 1].numpy() for _ in range(len(md))], axis=1)
            row["rmsf"][name] = float(pooled([rmsf(x) for x in drawn]).mean() / width)
    return row


def report(content: dict[str, Any]) -> str:
    """The block of docs/results.md."""
    lines = [
        f"{content['settings']['weights']}; log of squared innovations over what was expected, before → after; RMSF "
        "over MD's.",
        "",
        "| protein | MD, ps (calibration) | amplitude | 2 ps | 10 ps | RMSF without | with | MD of calibration |",
        "|---|---|---|---|---|---|---|---|",
    ]
    squares: dict[str, list[tuple[float, float]]] = {}
    for name, row in content["proteins"].items():
        cells = []
        for stride in ("2", "10"):
            pair = row["innovation"].get(stride)
            cells.append("-" if pair is None else f"{pair[0]:+.2f} → {pair[1]:+.2f}")
            if pair is not None:
                squares.setdefault(stride, []).append((pair[0] ** 2, pair[1] ** 2))
        kinds = "without", "with", "MD that calibrated"
        kinds = "without", "with", "MD that calibrated"
        sizes = [f"{row['rmsf'][kind]:.2f}" if "rmsf" in row else "-" for kind in kinds]
        lines.append(
            f"| {name} | {row['picoseconds']:g} ({row['calibration']:g}) | {row['amplitude']:.2f} ± "
            f"{row['amplitude'] * row['error']:.2f} | {' | '.join(cells)} | {' | '.join(sizes)} |"
        )
    means = []
    for stride in ("2", "10"):
        both = np.sqrt(np.mean(squares[stride], axis=0)) if stride in squares else None
        means.append("-" if both is None else f"{both[0]:.2f} → {both[1]:.2f}")
    return "\n".join([*lines, f"| **root mean square** | | | {' | '.join(means)} | | | |"])


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="starmd-mini-v3")
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--json", type=Path, default=RESULTS / "calibration.json")
    parser.add_argument("--held-out", action="store_true", help="proteins of benchmarks/data held out, too")
    add_markdown_option(parser, "calibration")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    weights = load_weights(arguments.weights)
    judged = left_out(arguments.data, json.loads(SPLIT.read_text()))
    if arguments.held_out:
        others = [path.name for path in DATA.iterdir() if path.name not in HELD_OUT]
        judged += open_data([DATA], others)
        arguments.data.append(DATA)
    content: dict[str, Any] = {"version": __version__, "settings": {"weights": weights.name}, "proteins": {}}
    for protein in judged:
        replica = max(protein.replicas, key=len)
        path = next(f / protein.name / f"{protein.name}.pdb" for f in arguments.data if (f / protein.name).is_dir())
        content["proteins"][protein.name] = measure(protein, replica, weights, path)
        print(protein.name, json.dumps(content["proteins"][protein.name]), flush=True)
    write_json(arguments.json, content)
    if arguments.markdown:
        write_block(arguments.markdown, "calibration", report(content))
    print(report(content))


if __name__ == "__main__":
    main()
