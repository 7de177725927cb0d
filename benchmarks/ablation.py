"""What contextual noise and joint attention are good for: networks trained without, rolled out beside one with.

    python -m benchmarks.ablation --data DATA... --steps 1500 --output ablation \\
        --proteins benchmarks/data/1vii_A/1vii_A.pdb benchmarks/data/1l2y_A/1l2y_A.pdb

Trains a network for each variant, all alike but for what is varied: same data, windows, noise keys, number of steps
and initial seed (training is that of ``openmm-starmd train``). Then draws ``--frames`` frames of each protein with each
seed and counts valid ones per 100 frames. Held-out proteins are never trained on. A run that was stopped goes on:
training from its checkpoint, rollouts from the last whole one.

Contextual noise: ``with``, or ``without`` in training and in the rollout, or ``bare``: without it and without the
jitter of the history that the network is not told of, which the mini recipe has besides and which works the same way.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from openmm.app import PDBFile

from benchmarks.lib.drawing import HELD_OUT
from benchmarks.lib.paths import RESULTS
from benchmarks.lib.results_page import add_markdown_option, write, write_block, write_json
from openmm_starmd import __version__
from openmm_starmd.analysis.validity import judge
from openmm_starmd.model.weights import load_weights
from openmm_starmd.protein.protein import Protein
from openmm_starmd.rollout import make_rollout
from openmm_starmd.training import recipe as recipes
from openmm_starmd.training.settings import Recipe, read_recipe

NOISE = ("with", "without", "bare")
ATTENTION = ("joint", "separable")
BLOCK = 100


def variant(recipe: Recipe, noise: str, attention: str, name: str) -> Recipe:
    """A recipe with contextual noise and attention as named."""
    objective, model = recipe.objective, replace(recipe.model, attention=attention, name=name)
    if noise != "with":
        objective = replace(objective, context_probability=0.0)
        model = replace(model, context_tau=0.0)
    if noise == "bare":
        objective = replace(objective, jitter_probability=0.0)
    return replace(recipe, objective=objective, model=model)


def rolled(path: Path, weights: Path, frames: int, seed: int, stride: float) -> NDArray[np.bool_]:
    """Which frames of a rollout are valid, [frames]; none from a frame on that is no longer finite."""
    pdb = PDBFile(str(path))
    protein = Protein.from_openmm(pdb.topology, pdb.positions)
    rollout = make_rollout(protein, load_weights(weights), stride=stride, seed=seed, device="cpu")
    valid = np.zeros(frames, dtype=bool)
    for frame in range(frames):
        try:
            alphas = rollout.step().backbone[:, :, 1].numpy()
        except RuntimeError:
            # what is not finite cannot be superposed
            break
        if not np.isfinite(alphas).all():
            break
        valid[frame] = judge(alphas, protein.bonded).valid[0]
    return valid


def blocks(valid: NDArray[np.bool_], size: int = BLOCK) -> list[float]:
    """Share of valid frames in each block of a rollout; the last may be shorter."""
    return [float(valid[begin : begin + size].mean()) for begin in range(0, len(valid), size)]


def measure(weights: Path, store: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Rollouts of one variant; those in `store` are not drawn again."""
    digest = hashlib.sha256((weights / "model.safetensors").read_bytes() + (weights / "config.json").read_bytes())
    results: dict[str, Any] = {}
    for path in arguments.proteins:
        seeds = []
        for seed in arguments.seeds:
            key = digest.copy()
            key.update(path.read_bytes() + repr((arguments.frames, seed, arguments.stride)).encode())
            kept = store / f"{path.stem}-seed{seed}-{key.hexdigest()[:12]}.json"
            if not kept.exists():
                valid = rolled(path, weights, arguments.frames, seed, arguments.stride)
                write(kept, json.dumps(valid.astype(int).tolist()))
                print(f"{store.name} {path.stem} seed {seed}: {100 * valid.mean():.1f} % valid", flush=True)
            valid = np.array(json.loads(kept.read_text()), dtype=bool)
            first = int(np.argmin(valid)) if not valid.all() else None
            seeds.append({"seed": seed, "blocks": blocks(valid), "valid": float(valid.mean()), "first_invalid": first})
        results[path.stem] = seeds
    return results


def summarise(results: dict[str, Any]) -> dict[str, Any]:
    """Mean over proteins and seeds, standard error over proteins (their mean over seeds), for each block and in all."""
    per_block = np.array([np.mean([seed["blocks"] for seed in seeds], axis=0) for seeds in results.values()])
    whole = np.array([np.mean([seed["valid"] for seed in seeds]) for seeds in results.values()])
    count = len(results)
    return {
        "blocks": per_block.mean(0).tolist(),
        "blocks_error": (per_block.std(0, ddof=1) / np.sqrt(count)).tolist() if count > 1 else None,
        "valid": float(whole.mean()),
        "error": float(whole.std(ddof=1) / np.sqrt(count)) if count > 1 else None,
    }


def difference(first: dict[str, Any], second: dict[str, Any]) -> tuple[float, float]:
    """Valid share of `first` minus that of `second`, mean over proteins, and its standard error over proteins."""
    pairs = [
        np.mean([seed["valid"] for seed in first[name]]) - np.mean([seed["valid"] for seed in second[name]])
        for name in first
    ]
    error = float(np.std(pairs, ddof=1) / np.sqrt(len(pairs))) if len(pairs) > 1 else float("nan")
    return float(np.mean(pairs)), error


def conclusion(variants: dict[str, dict[str, Any]]) -> list[str]:
    """What the variants say of the paper's direction, that noise keeps rollouts valid: a line per pair that differs."""
    said = []
    for attention in ATTENTION:
        for other in NOISE[1:]:
            keys = f"with-{attention}", f"{other}-{attention}"
            if all(key in variants for key in keys):
                gain, error = difference(*(variants[key]["proteins"] for key in keys))
                clear = abs(gain) > 2 * error
                verdict = "not to be told from zero"
                if clear:
                    verdict = "the paper's direction" if gain > 0 else "AGAINST the paper's direction"
                said.append(
                    f"contextual noise ({attention} attention, beside `{other}`): {100 * gain:+.1f} ± "
                    f"{100 * error:.1f} points of valid frames: {verdict}"
                )
    for noise in NOISE:
        keys = f"{noise}-joint", f"{noise}-separable"
        if all(key in variants for key in keys):
            gain, error = difference(*(variants[key]["proteins"] for key in keys))
            said.append(
                f"joint minus separable attention (noise: {noise}): {100 * gain:+.1f} ± {100 * error:.1f} points of "
                "valid frames (the paper: -1.5, with better coverage)"
            )
    return said


def table(variants: dict[str, dict[str, Any]], frames: int) -> str:
    """Markdown: a row per variant, a column per block."""
    ends = [f"{begin + 1}-{min(begin + BLOCK, frames)}" for begin in range(0, frames, BLOCK)]
    head = ["contextual noise", "attention", *ends, "all", "loss"]
    lines = [f"Valid frames, %, by number of the frame.\n\n| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for key, result in variants.items():
        noise, attention = key.split("-")
        summary = result["summary"]
        cells = [f"{100 * share:.1f}" for share in summary["blocks"]]
        spread = f" ± {100 * summary['error']:.1f}" if summary["error"] is not None else ""
        whole = f"{100 * summary['valid']:.1f}{spread}"
        loss = f"{result['loss']:.3f}" if result.get("loss") is not None else "-"
        lines.append(f"| {' | '.join([noise, attention, *cells, whole, loss])} |")
    return "\n".join(lines)


def last_loss(run: Path) -> float | None:
    """The last loss that a training run has written down."""
    rows = (run / "log.csv").read_text().splitlines() if (run / "log.csv").exists() else []
    if len(rows) < 2:
        return None
    return float(dict(zip(rows[0].split(","), rows[-1].split(","), strict=True))["loss"])


def main() -> None:
    """Train, roll out, print Markdown, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders in ATLAS layout, or stores")
    parser.add_argument("--proteins", type=Path, nargs="+", required=True, metavar="PDB", help="to roll out")
    parser.add_argument("--output", type=Path, required=True, help="directory; what is in it is gone on with")
    parser.add_argument("--exclude", nargs="+", default=[], help="beside the held-out proteins")
    parser.add_argument("--preset", choices=["mini", "paper"], default="mini")
    parser.add_argument("--config", type=Path, help="JSON file of settings, as of `train --config`")
    parser.add_argument("--steps", type=int, default=1500, help="of training, each variant")
    parser.add_argument("--noise", nargs="+", choices=NOISE, default=list(NOISE))
    parser.add_argument("--attention", nargs="+", choices=ATTENTION, default=list(ATTENTION))
    parser.add_argument("--frames", type=int, default=500)
    parser.add_argument("--stride", type=float, help="ps; the model's default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, default=RESULTS / "ablation.json")
    add_markdown_option(parser, "ablation")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(arguments.threads)
    base = recipes.recipe_for(arguments.preset)
    if arguments.config:
        base = read_recipe(arguments.config, base)
    base = replace(base, steps=arguments.steps, save_every=max(1, min(250, arguments.steps // 4)))
    arguments.stride = arguments.stride or base.model.stride_default
    missing = [str(path) for path in arguments.proteins if not path.exists()]
    if missing:
        parser.error(f"no such files: {', '.join(missing)}")
    proteins = recipes.load_proteins(arguments.data, [*HELD_OUT, *arguments.exclude])
    print(f"{len(proteins)} proteins, {sum(len(p.replicas) for p in proteins)} trajectories", file=sys.stderr)

    variants: dict[str, dict[str, Any]] = {}
    for attention in arguments.attention:
        for noise in arguments.noise:
            key = f"{noise}-{attention}"
            run = arguments.output / key
            recipe = variant(base, noise, attention, key)
            # an unfinished run goes on, a finished one is left as it is
            weights = recipes.train(proteins, run, recipe, resume=True, accelerator="cpu", progress=False)
            results = measure(weights, arguments.output / "rollouts" / key, arguments)
            variants[key] = {"summary": summarise(results), "proteins": results, "loss": last_loss(run)}
            settings = {k: [str(x) for x in v] if isinstance(v, list) else str(v) for k, v in vars(arguments).items()}
            content = {
                "settings": settings | {"version": __version__, "trained_on": [p.name for p in proteins]},
                "variants": variants,
                "conclusion": conclusion(variants),
            }
            write_json(arguments.json, content)
    text = table(variants, arguments.frames) + "\n\n"
    names = ", ".join(path.stem for path in arguments.proteins)
    text += (
        f"{arguments.preset} recipe, {arguments.steps} steps on {len(proteins)} proteins; {arguments.frames} frames of "
        f"{arguments.stride:g} ps of {names}, {len(arguments.seeds)} seeds. "
        "± is the standard error over proteins.\n\n"
    )
    text += "\n".join(f"- {line}" for line in conclusion(variants))
    print(text)
    if arguments.markdown:
        write_block(arguments.markdown, "ablation", text)


if __name__ == "__main__":
    main()
