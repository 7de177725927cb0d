"""Stage: the paper's form on two proteins: what contextual noise and joint attention do to rollouts at 100 ps.

Networks alike but for noise in training and rollout (``with``, ``without``; see benchmarks/ablation.py) and attention
(``joint``, ``separable``) are trained side by side for the same number of steps, one process each, and then draw
frames of each protein, several seeds at once. The steps are set beforehand by the speed of a few. Each frame's validity
is written as it comes, so that a rollout cut off counts as far as it went.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.stage import Given, made_here, never_trained_on, read_arguments
from benchmarks.lib.paths import DATA, ROOT
from benchmarks.lib.results_page import write_json

FOLDER = "paper"
DEFAULTS: dict[str, Any] = {
    "proteins": [],
    "least_ps": 400.0,
    "variants": ["with-joint", "without-joint", "with-separable", "without-separable"],
    "frames": 80,
    "stride": 100.0,
    "seeds": 4,
    "denoising_steps": 50,
    "train_share": 0.4,
    "most_steps": 100000,
    "config": {},
    "task": "",
}
BLOCK = 20


def collect(work: Path, output: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Write what the rollouts have so far into one file."""
    facts = work / FOLDER / "facts.json"
    if not facts.exists():
        return {}
    rollouts = [json.loads(path.read_text()) for path in sorted((work / FOLDER).glob("rollout-*.json"))]
    content = json.loads(facts.read_text()) | {"rollouts": rollouts}
    write_json(output / "paper.json", content)
    return {"rollouts": len(rollouts), "frames": [r["frames"] for r in rollouts]}


def find_proteins(work: Path, wanted: list[str], least: float) -> list[tuple[str, Path]]:
    """Names and folders of the two proteins with the longest runs that may be trained on: made here, else kept MD."""
    import mdtraj

    forbidden = never_trained_on()
    best: list[tuple[float, str, Path]] = []
    for folders in ((made_here(work),), (DATA / "training", DATA)):
        found = []
        for path in (path for folder in folders for path in sorted(folder.glob("*/*_prod_R1_fit.xtc"))):
            name = path.parent.name
            if name in forbidden or (wanted and name not in wanted):
                continue
            with mdtraj.formats.XTCTrajectoryFile(str(path)) as file:
                times = file.read()[1]
            found.append((float(times[-1] - times[0]) if len(times) else 0.0, name, path.parents[1]))
        best = sorted(found, key=lambda item: (-item[0], item[1]))[:2]
        if len(best) == 2 and best[1][0] >= least:
            return [(name, folder) for _, name, folder in best]
    raise SystemExit(f"no two proteins have runs of {least:g} ps: the longest are {best}")


def load(proteins: list[tuple[str, str]]) -> list[Any]:
    """The chosen proteins' trajectories, each of its first replica."""
    from openmm_starmd.data.trajectories import load_protein

    return [load_protein(Path(folder) / name, [1]) for name, folder in proteins]


def recipe_of(key: str, options: dict[str, Any], steps: int) -> Any:
    """Recipe of a variant: the paper's, with strides about that of the rollouts."""
    from benchmarks.ablation import variant
    from openmm_starmd.training.settings import recipe_for, recipe_from_dict

    noise, attention = key.split("-")
    base = recipe_for("paper")
    stride = options["stride"]
    model = replace(base.model, stride_min=stride / 10, stride_max=2 * stride, stride_default=stride)
    windows = replace(base.windows, stride_min=model.stride_min, stride_max=model.stride_max)
    base = recipe_from_dict(options["config"], replace(base, model=model, windows=windows), "the plan's config")
    base = replace(
        base,
        steps=steps,
        save_every=max(1, steps // 4),
        log_every=max(1, steps // 10),
        optimizer=replace(base.optimizer, warmup=min(base.optimizer.warmup, max(1, steps // 10))),
    )
    return variant(base, noise, attention, key)


def train_one(given: Given, key: str) -> None:
    """Train one variant."""
    from openmm_starmd.training import recipe as recipes
    from openmm_starmd.training.parallelism import Parallelism

    facts = json.loads((given.work / FOLDER / "facts.json").read_text())
    recipe = recipe_of(key, given.options, facts["steps"])
    parallelism = Parallelism(accelerator="gpu" if given.device == "cuda" else "cpu")
    recipes.train(load(facts["proteins"]), given.work / FOLDER / key, recipe, parallelism=parallelism, progress=False)


def roll_one(given: Given, key: str, name: str) -> None:
    """Draw frames of one protein with one variant, and judge each as it comes."""
    import torch
    from openmm.app import PDBFile

    from openmm_starmd.analysis.validity import judge
    from openmm_starmd.model.weights import load_weights
    from openmm_starmd.protein.protein import Protein
    from openmm_starmd.rollout import make_rollout

    options = given.options
    facts = json.loads((given.work / FOLDER / "facts.json").read_text())
    folder = Path(dict(facts["proteins"])[name])
    pdb = PDBFile(str(folder / name / f"{name}.pdb"))
    protein = Protein.from_openmm(pdb.topology, pdb.positions)
    weights = load_weights(given.work / FOLDER / key / "weights")
    rollout = make_rollout(
        protein,
        weights,
        stride=options["stride"],
        seed=list(range(options["seeds"])),
        device=given.device,
        steps=options["denoising_steps"],
    )
    alphas: list[np.ndarray] = []
    log = (given.work / FOLDER / key / "log.csv").read_text().splitlines()
    result: dict[str, Any] = {
        "variant": key,
        "protein": name,
        "residues": len(protein.sequence.replace("/", "")),
        "steps_trained": int(log[-1].split(",")[0]),
    }
    while len(alphas) < options["frames"]:
        error = ""
        try:
            drawn = rollout.step().backbone[:, :, 1].numpy()
        except RuntimeError as failure:  # what is not finite cannot be superposed
            error = str(failure)[:200]
        if error or not np.isfinite(drawn).all():
            result["ended"] = error or "a frame is not finite"
            break
        alphas.append(drawn)
        if len(alphas) % 5 == 0 or len(alphas) == options["frames"]:
            result |= figures(np.array(alphas), protein.bonded, folder / name, options, judge)
            write_json(given.work / FOLDER / f"rollout-{key}-{name}.json", result)
    if not alphas or "ended" in result:
        missing = {"frames": 0, "wanted": options["frames"]}
        write_json(given.work / FOLDER / f"rollout-{key}-{name}.json", missing | result)
    if given.device == "cuda":
        result["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
    print(key, name, f"{len(alphas)} frames", flush=True)


def figures(alphas: np.ndarray, bonded: Any, folder: Path, options: dict[str, Any], judge: Any) -> dict[str, Any]:
    """Validity by blocks, and flexibility beside the MD trained on; alphas [frames, seeds, N, 3], nm."""
    from benchmarks.lib.drawing import load_replica
    from openmm_starmd.analysis.flexibility import rmsf

    frames, seeds = alphas.shape[:2]
    verdicts = [judge(alphas[:, seed], bonded) for seed in range(seeds)]
    valid = np.array([verdict.valid for verdict in verdicts])  # [seeds, frames]
    own = np.sqrt(np.mean([rmsf(alphas[:, seed]) ** 2 for seed in range(seeds)], axis=0))
    found: dict[str, Any] = {
        "frames": frames,
        "wanted": options["frames"],
        "valid": float(valid.mean()),
        "valid_by_seed": valid.mean(1).tolist(),
        "valid_by_block": [float(valid[:, b : b + BLOCK].mean()) for b in range(0, frames, BLOCK)],
        "first_invalid": [int(np.argmin(row)) if not row.all() else None for row in valid],
        "broken_bonds_per_frame": float(np.mean([verdict.broken for verdict in verdicts])),
        "clashes_per_frame": float(np.mean([verdict.clashes for verdict in verdicts])),
    }
    reference = load_replica(folder, 1, options["stride"])
    # a profile from fewer than ten frames says nothing
    if reference is not None and min(len(reference), frames) >= 10:
        theirs = rmsf(reference)
        found["rmsf_r_with_training_md"] = float(np.corrcoef(own, theirs)[0, 1])
        found["rmsf_amplitude"] = float(np.mean(own) / np.mean(theirs))
    return found


def orchestrate(given: Given) -> None:
    """Find the proteins, set the steps, train all variants side by side, roll them all out."""
    from openmm_starmd.training.dry_run import dry_run

    options = given.options
    folder = given.work / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    chosen = find_proteins(given.work, options["proteins"], options["least_ps"])
    proteins = [(name, str(place)) for name, place in chosen]
    seconds = options["train_share"] * given.left
    probe = dry_run(load(proteins), recipe_of(options["variants"][0], options, 1000), given.device, 3)
    print(probe, flush=True)
    # side by side on one card, launches of one overlap with the work of others: half of the speed is a safe guess
    shared = max(1.0, len(options["variants"]) / 2) if given.device == "cuda" else float(len(options["variants"]))
    steps = max(2, min(options["most_steps"], round(seconds * probe.steps_per_second / shared)))
    facts = {
        "proteins": proteins,
        "steps": steps,
        "settings": options,
        "tokens_per_second_alone": probe.tokens_per_second,
    }
    write_json(folder / "facts.json", facts)
    began = time.monotonic()
    failed = _side_by_side(given, [f"train {key}" for key in options["variants"]], 1.5 * seconds)
    write_json(folder / "facts.json", facts | {"seconds_of_training": time.monotonic() - began})
    # a training that was cut off has those of its last checkpoint; before the first, weights are random
    ready = [key for key in options["variants"] if (folder / key / "last.ckpt").exists()]
    failed += _side_by_side(given, [f"roll {key} {name}" for key in ready for name, _ in proteins], given.left - 2)
    if failed:
        raise SystemExit(f"failed or cut off: {', '.join(failed)}")


def _side_by_side(given: Given, tasks: list[str], seconds: float) -> list[str]:
    """Run tasks of this module as processes, all at once; those that failed, or were ended when the time was up."""
    deadline = time.monotonic() + seconds
    running = []
    for task in tasks:
        command = [sys.executable, "-u", "-m", "benchmarks.gpu.paper", "--seconds", f"{seconds:.1f}"]
        for name in ("bundle", "output", "work", "device"):
            command += [f"--{name}", str(getattr(given, name))]
        command += ["--options", json.dumps(given.options | {"task": task})]
        running.append((task, subprocess.Popen(command, cwd=ROOT)))
    failed = []
    for task, process in running:
        try:
            if process.wait(max(0.1, deadline - time.monotonic())):
                failed.append(task)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            failed.append(f"{task} (cut off)")
    return failed


def main() -> None:
    """All of it, or one task of it."""
    given = read_arguments(__doc__ or "", **DEFAULTS)
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(1)
    what, *names = given.options["task"].split() or ["all"]
    {"all": orchestrate, "train": train_one, "roll": roll_one}[what](given, *names)


if __name__ == "__main__":
    main()
