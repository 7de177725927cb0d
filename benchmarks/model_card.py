"""Write MODEL_CARD.md of bundled weights from what was measured.

    python benchmarks/model_card.py openmm_starmd/weights/starmd-mini-v1

Reads ``config.json``, ``training_data.json`` and ``model.safetensors`` there, and ``fidelity.json``,
``fidelity-training.json`` and ``speed.json`` of ``--results``. Every figure of the card comes from those files.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from safetensors import safe_open

sys.path.insert(0, str(Path(__file__).parent))
from fidelity import means, spans, table

from openmm_starmd.model.config import ModelConfig


def read(path: Path) -> dict:
    """JSON of a file that a benchmark wrote."""
    if not path.exists():
        sys.exit(f"{path} is missing: run the benchmark that writes it first")
    return json.loads(path.read_text())


def mean_line(results: dict) -> str:
    """One sentence over all proteins."""
    summary = means(results["proteins"])
    ceiling = summary["second_rmsf_correlation"]
    networks = ", ".join(f"{label} {value:.2f}" for label, value in summary["network_rmsf_correlation"].items())
    compared = spans(results["proteins"], results["settings"]["stride"])
    return (
        f"{compared}\n\nMean RMSF correlation: STAR-MD {summary['model_rmsf_correlation']:.2f}, second MD replica "
        f"{'-' if ceiling is None else format(ceiling, '.2f')}, {networks}. Worst single rollout: "
        f"{100 * summary['worst_valid']:.1f} % valid."
    )


def describe(recipe: dict) -> str:
    """How the network was trained."""
    windows, objective, optimizer = recipe["windows"], recipe["objective"], recipe["optimizer"]
    weights = ", ".join(f"{name} {weight:g}" for name, weight in objective["weights"])
    return (
        f"{recipe['steps']:,} steps of Adam (learning rate {optimizer['learning_rate']:g}, cosine to "
        f"{optimizer['final']:g} of it, gradients clipped at {optimizer['gradient_clip']:g}, averaged with decay "
        f"{optimizer['ema']:g}), each on windows of up to {windows['length']} frames that hold about "
        f"{windows['residues']} residues. Strides log-uniform in {windows['stride_min']:g} to "
        f"{windows['stride_max']:g} ps, "
        f"{100 * windows['focus_probability']:.0f} % of them {windows['stride_focus']:g} ps. τ log-uniform from "
        f"{objective['tau_min']:g} ({100 * objective['log_uniform']:.0f} %), else uniform; contextual noise up to "
        f"{objective['context_tau']:g}. Losses and weights: {weights}; FAPE, distances and clashes for τ up to "
        f"{objective['geometry_tau']:g} only."
    )


def main() -> None:
    """Render the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--note", default="", help="sentences about the training that the recipe does not hold")
    arguments = parser.parse_args()
    folder = arguments.folder
    config = ModelConfig.from_dict(json.loads((folder / "config.json").read_text()))
    listing = json.loads((folder / "training_data.json").read_text())
    proteins, recipe = listing["proteins"], listing["recipe"]
    held_out, training = read(arguments.results / "fidelity.json"), read(arguments.results / "fidelity-training.json")
    speed = read(arguments.results / "speed.json")
    with safe_open(folder / "model.safetensors", "pt") as file:
        parameters = sum(file.get_tensor(key).numel() for key in file.keys())  # noqa: SIM118
    rows = [
        " | ".join(
            ["", p["name"], str(len(p["sequence"])), " + ".join(f"{x:g}" for x in p["picoseconds"]), p["sequence"], ""]
        ).strip()
        for p in proteins
    ]
    ratios = sorted(speed["ratio"])
    text = (
        (Path(__file__).parent / "model_card.template.md")
        .read_text()
        .format(
            name=config.name,
            parameters=parameters,
            megabytes=(folder / "model.safetensors").stat().st_size / 1e6,
            stride_min=config.stride_min,
            stride_max=config.stride_max,
            stride_default=config.stride_default,
            temperature=config.temperature,
            steps=config.steps,
            longest=max(max(p["picoseconds"]) for p in proteins),
            max_length=config.max_length,
            count=len(proteins),
            total=sum(sum(p["picoseconds"]) for p in proteins) / 1000,
            designs=sum(p["name"].startswith("EEHEE") for p in proteins),
            held_out=", ".join(held_out["proteins"]),
            recipe=f"{describe(recipe)} {arguments.note}".strip(),
            proteins="\n".join(rows),
            stride=held_out["settings"]["stride"],
            seeds=len(held_out["settings"]["seeds"]),
            frames=held_out["settings"]["frames"],
            fidelity=table(held_out["proteins"], held_out["means"]["best_network"]),
            fidelity_means=mean_line(held_out),
            training=table(training["proteins"], training["means"]["best_network"]) + "\n\n" + mean_line(training),
            speed=f"{speed['structure']} ({speed['residues']} residues, {speed['atoms']} atoms in the MD), "
            f"{speed['threads']} thread(s) on either side, {speed['machine']}: {ratios[len(ratios) // 2]:.0f} times "
            f"the ns/day of OpenMM's CPU platform ({ratios[0]:.0f} to {ratios[-1]:.0f} over {len(ratios)} rounds).",
        )
    )
    temporary = folder / ".partial-MODEL_CARD.md"
    temporary.write_text(text)
    os.replace(temporary, folder / "MODEL_CARD.md")


if __name__ == "__main__":
    main()
