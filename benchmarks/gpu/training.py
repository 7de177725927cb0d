"""Stage: training with large batches for so many seconds, on all MD there is, and what comes of it.

The number of steps is set beforehand by the speed of a few, so that the learning rate ends where it should; a run that
is cut off all the same leaves the weights of its last checkpoint.
"""

from __future__ import annotations

import json
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.gpu.results import MEBI, pack
from benchmarks.gpu.stage import Given, never_trained_on, read_arguments, training_folders
from benchmarks.lib.paths import DATA
from benchmarks.lib.results_page import write_json

RUN = "training"
SPEED = "speed.json"
SPARE = 0.8  # of the time left: validation and checkpoints cost some, and a speed of five steps is rough


def collect(work: Path, output: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Pack weights, log and settings, and the checkpoint where it fits."""
    run = work / RUN
    if not run.is_dir():
        return {"left_out": []}
    files = [path for path in sorted(run.rglob("*")) if path.is_file() and not path.name.startswith(".partial-")]
    named = [(path, str(path.relative_to(work))) for path in files]
    first = [item for item in named if item[0].name != "last.ckpt"]
    rest = [item for item in named if item[0].name == "last.ckpt"]
    groups = [("the run", first), *([("the checkpoint", rest)] if rest else [])]
    left_out = pack(groups, output, "training", 1, 14 * MEBI)
    speed = run / SPEED
    return {"left_out": left_out} | (json.loads(speed.read_text()) if speed.exists() else {})


def validation_names(folders: list[Path]) -> list[str]:
    """Proteins of the pool that settings may be chosen on, those of which there is MD."""
    chosen = [item["name"] for item in json.loads((DATA / "split.json").read_text())["choose"]]
    return [name for name in chosen if any(any((folder / name).glob("*_fit.xtc")) for folder in folders)]


def train(given: Given) -> None:
    """Measure the speed, then train for the time left."""
    import torch

    from openmm_starmd.model.weights import load_weights
    from openmm_starmd.training import recipe as recipes
    from openmm_starmd.training.dry_run import dry_run
    from openmm_starmd.training.parallelism import Parallelism
    from openmm_starmd.training.settings import recipe_for, recipe_from_dict

    options = given.options
    torch.set_num_threads(options["threads"])
    folders = training_folders(given.bundle, given.work)
    names = options["validate"] or validation_names(folders)
    exclude = [*never_trained_on(), *options["validate"]]
    proteins = recipes.load_proteins(folders, exclude)
    nanoseconds = sum(len(r) * r.interval for p in proteins for r in p.replicas) / 1000
    print(f"{len(proteins)} proteins, {nanoseconds:.2f} ns of {[str(f) for f in folders]}", flush=True)

    base = recipe_for(options["preset"])
    weights = load_weights(options["start_from"]) if options["start_from"] else None
    if weights is not None:
        base = replace(base, model=weights.config, start_from=options["start_from"])
    base = recipe_from_dict(options["config"], base, "the plan's config")
    base = replace(base, windows=replace(base.windows, tokens=options["tokens"]))
    measured = dry_run(proteins, base, given.device, options["probe"])
    print(measured, flush=True)
    steps = max(4, min(options["most_steps"], round(SPARE * given.left * measured.steps_per_second)))
    every = max(1, steps // 4)
    recipe = replace(
        base,
        steps=steps,
        save_every=max(1, steps // 8),
        log_every=max(1, steps // 40),
        optimizer=replace(base.optimizer, warmup=min(base.optimizer.warmup, max(1, steps // 10))),
        validation=replace(base.validation, proteins=tuple(names), every=every),
    )
    validation = recipes.validation_proteins(folders, names, exclude, proteins) if names else []
    run = given.work / RUN
    run.mkdir(parents=True, exist_ok=True)
    facts = {
        "steps": steps,
        "tokens": options["tokens"],
        "nanoseconds": nanoseconds,
        "proteins": len(proteins),
        "probe": {
            "steps_per_second": measured.steps_per_second,
            "tokens_per_second": measured.tokens_per_second,
            "peak_mib": measured.peak / MEBI,
        },
    }
    write_json(run / SPEED, facts)
    began = time.monotonic()
    recipes.train(
        proteins,
        run,
        recipe,
        start_from=None if weights is None else weights.network,
        validation=validation,
        parallelism=Parallelism(accelerator="gpu" if given.device == "cuda" else "cpu", workers=options["workers"]),
        progress=False,
    )
    spent = time.monotonic() - began
    write_json(run / SPEED, facts | {"seconds": spent, "steps_per_second": steps / spent})


def main() -> None:
    """Train."""
    given = read_arguments(
        __doc__ or "",
        preset="mini",
        start_from="",
        tokens=16384,
        config={},
        validate=[],
        probe=5,
        most_steps=1000000,
        workers=4,
        threads=1,
    )
    warnings.simplefilter("ignore")
    train(given)


if __name__ == "__main__":
    main()
