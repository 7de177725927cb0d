"""What each part of the elastic form is good for: short trainings from scratch, arm by arm, denoising.

    python -m benchmarks.prior_arms --store arms --markdown --left-out-data ../shared/data/md200 benchmarks/data/pool \\
        --data ../shared/data/md ../shared/data/md200 benchmarks/data benchmarks/data/training

Every arm adds one thing to the arm before. All have the same steps, tokens, data and seeds, and random first weights.
Those proteins judge that ``report`` of benchmarks/data/split.json names, which neither train nor choose weights. A run
that was stopped goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.lib.paths import RESULTS
from benchmarks.lib.results_page import add_markdown_option, write_block, write_json
from benchmarks.reference_augmentation import SPLIT, cell, described, left_out, not_trained_on, pick, rows_of
from openmm_starmd import __version__
from openmm_starmd.data.folders import open_data
from openmm_starmd.data.windows import WindowSettings
from openmm_starmd.geometry.rigid import Rigids
from openmm_starmd.model.config import ModelConfig, preset
from openmm_starmd.model.elastic import ElasticModel, Expected
from openmm_starmd.model.weights import load_weights
from openmm_starmd.training import recipe as recipes
from openmm_starmd.training.denoising import DenoisingTest
from openmm_starmd.training.settings import DenoisingSettings, ObjectiveSettings, OptimizerSettings, Recipe

STRIDES = (2.0, 10.0, 20.0, 50.0, 100.0)
WINDOWS = WindowSettings(stride_min=1.0, stride_max=200.0, focus_probability=0.4, tokens=450)
AUGMENTED = {"share_max": 0.05, "cold_probability": 0.1, "deformation_probability": 0.6, "deviation_dropout": 0.2}
LAST_FRAME = "wiener"
"""Arm whose prior is the elastic one about the last frame, with one amplitude for all proteins."""
# name: what is said of it, settings of the model, of windows, of the optimiser
ARMS: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "isotropic": ("isotropic, as v2's recipe", {}, {}, {}),
    "augmented": ("+ augmentation, capped shares, cold starts", {}, AUGMENTED, {}),
    LAST_FRAME: ("+ Wiener start about the last frame", {"prior": "elastic"}, AUGMENTED, {}),
    "prior": ("+ prior mean and amplitude", {"prior": "elastic"}, AUGMENTED, {}),
    "temperature": (
        "+ attention temperature", {"prior": "elastic", "attention_temperature": True}, AUGMENTED, {},
    ),
    "all": (
        "+ weight decay: all", {"prior": "elastic", "attention_temperature": True}, AUGMENTED, {"weight_decay": 0.02},
    ),
}  # fmt: skip
WIDTHS = {
    "narrow": {"c_s": 80, "c_z": 20, "conditioner_s": 80, "conditioner_z": 20, "attention_hidden": 80},
    "wide": {"c_s": 192, "c_z": 48, "conditioner_s": 192, "conditioner_z": 48, "attention_hidden": 192},
}
"""Settings of the model beside those of the arm "all", which lies between them."""


@contextmanager
def about_the_last_frame(on: bool) -> Iterator[None]:
    """Within, elastic priors expect the last frame, and the variance of a displacement from it."""
    if not on:
        yield
        return

    def expected(self: ElasticModel, history: Rigids, ages: Tensor, nugget: Tensor, turn_nugget: Tensor) -> Expected:
        found = self.without_history(history.map(lambda x: x[:, -1:]), ages[:, -1:])
        noise, turn_noise = nugget[:, -1:], turn_nugget[:, -1:]
        return replace(
            found, variance=found.variance + noise[..., None], turn_variance=found.turn_variance + turn_noise
        )

    with mock.patch.object(ElasticModel, "expected", expected):
        yield


def recipe_of(arm: str, width: str, seed: int, steps: int, tokens: int) -> Recipe:
    """The recipe of one run."""
    _, model, windows, optimizer = ARMS[arm]
    config = replace(ModelConfig(reference_torsions=True, name="mini"), stride_max=WINDOWS.stride_max, **model)
    config = replace(config, **WIDTHS.get(width, {}))
    if arm == LAST_FRAME:
        first = config.elastic.amplitude[:1]
        config = replace(config, elastic=replace(config.elastic, amplitude=(*first, 0.0) if first else ()))
    return Recipe(
        model=config,
        windows=replace(WINDOWS, tokens=tokens, seed=seed, **windows),
        objective=ObjectiveSettings(),
        optimizer=OptimizerSettings(learning_rate=1e-3, warmup=max(1, steps // 8), ema=0.99, **optimizer),
        steps=steps,
        precision="32",
        seed=seed,
        save_every=max(1, steps // 3),
        log_every=max(1, steps // 6),
    )


def report(content: dict[str, Any]) -> str:
    """The block of docs/results.md."""
    settings, runs = content["settings"], content["runs"]
    judged = ", ".join(f"{p['name']} ({p['picoseconds']:g} ps)" for p in content["proteins"])
    lines = [
        f"{settings['steps']} steps of {settings['tokens']} residues x frames from scratch on {content['trained_on']} "
        f"proteins of the pool; mean over {judged}, which neither train nor choose; "
        f"{len({run['seed'] for run in runs})} seeds (± half their distance). "
        f"{content['untrained']['name']} saw {sum(p['seen'] for p in content['proteins'])} of them.",
        "",
    ]
    taus = settings["denoising"]["taus"]
    for stride in content["strides"]:
        there = sum(stride in p["strides"] for p in content["proteins"])
        last = pick(content["untrained"]["rows"], "mean", stride, taus[0], "last_frame")
        lines += [
            f"Next frame at {stride:g} ps, RMSE (Å) at τ; {there} of the proteins, last frame {last:.3f}:",
            "",
            f"| | parameters | {' | '.join(f'{tau:g}' for tau in taus)} |",
            "|---" * (len(taus) + 2) + "|",
        ]
        cells = " | ".join(cell([content["untrained"]["rows"]], "mean", stride, tau) for tau in taus)
        lines.append(f"| {content['untrained']['name']} | | {cells} |")
        for arm, width in dict.fromkeys((run["arm"], run["width"]) for run in runs):
            of_arm = [run for run in runs if (run["arm"], run["width"]) == (arm, width)]
            said = ARMS[arm][0] if width == "usual" else f"all, {width}"
            cells = " | ".join(cell([run["rows"] for run in of_arm], "mean", stride, tau) for tau in taus)
            lines.append(f"| {said} | {of_arm[0]['parameters'] / 1e6:.2f} M | {cells} |")
        lines.append("")
    return "\n".join(lines).rstrip()


def main() -> None:
    """Train what is not trained yet, judge all, write JSON and Markdown after every run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of the training pool's MD")
    parser.add_argument("--left-out-data", type=Path, nargs="+", required=True)
    parser.add_argument("--store", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--arms", nargs="+", choices=tuple(ARMS), default=list(ARMS))
    parser.add_argument("--widths", nargs="*", choices=tuple(WIDTHS), default=list(WIDTHS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--tokens", type=int, default=WINDOWS.tokens)
    parser.add_argument("--windows", type=int, default=4, help="windows of a protein and stride to denoise")
    parser.add_argument("--compare", default="starmd-mini-v2", help="weights that are judged beside")
    parser.add_argument("--json", type=Path, default=RESULTS / "prior_arms.json")
    add_markdown_option(parser, "prior-arms")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)

    split = json.loads(SPLIT.read_text())
    pool = open_data(arguments.data, not_trained_on(split))
    judged = left_out(arguments.left_out_data, {**split, "choose": []})
    beside = load_weights(arguments.compare)
    listing = json.loads((beside.path.parent / "training_data.json").read_text())
    seen = {protein["name"] for protein in [*listing["proteins"], *listing.get("earlier", [])]}
    settings = DenoisingSettings(strides=STRIDES, windows=arguments.windows, frames=6)
    test = DenoisingTest(judged, settings, replace(preset("mini"), stride_max=WINDOWS.stride_max))
    measured = test.measure(beside.network)
    content: dict[str, Any] = {
        "version": __version__,
        "settings": {"steps": arguments.steps, "tokens": arguments.tokens, "denoising": asdict(settings)},
        "trained_on": len(pool),
        "proteins": [described(protein, split, seen, measured) for protein in judged],
        "strides": sorted({error.stride for error in measured.errors}),
        "untrained": {"name": beside.name, "rows": rows_of(measured)},
        "runs": [],
    }
    plan = [(arm, "usual") for arm in arguments.arms] + [("all", width) for width in arguments.widths]
    for seed in arguments.seeds:
        for arm, width in plan:
            folder = arguments.store / f"{arm}-{width}-seed{seed}-{arguments.steps}x{arguments.tokens}"
            recipe = recipe_of(arm, width, seed, arguments.steps, arguments.tokens)
            begun = time.process_time()
            with about_the_last_frame(arm == LAST_FRAME):
                trained = recipes.train(pool, folder, recipe, resume=True, accelerator="cpu", progress=False)
                seconds = time.process_time() - begun
                network = load_weights(trained).network
                found = test.measure(network)
            content["runs"].append(
                {
                    "arm": arm,
                    "width": width,
                    "seed": seed,
                    "parameters": sum(parameter.numel() for parameter in network.parameters()),
                    "cpu_seconds": round(seconds, 1),
                    "loss": found.loss,
                    "rows": rows_of(found),
                }
            )
            write_json(arguments.json, content)
            shown = " ".join(f"{pick(rows_of(found), 'mean', 10.0, tau):.3f}" for tau in settings.taus)
            print(f"{folder.name}: loss {found.loss:.4f}, 10 ps {shown}, {seconds:.0f} s", flush=True)
            if arguments.markdown:
                write_block(arguments.markdown, "prior-arms", report(content))
    print(report(content))


if __name__ == "__main__":
    main()
