"""Write MODEL_CARD.md of a weights directory from what was measured.

    python -m openmm_starmd.release.model_card openmm_starmd/weights/NAME

Reads ``config.json``, ``training_data.json`` and ``model.safetensors`` there, and of ``--results``: ``speed.json``,
``fidelity.json`` and ``fidelity-*ps.json`` (a section per stride), ``fidelity-training*.json`` and ``ablation.json``
where they are, as the benchmarks write them. Every figure of the card comes from those files.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from safetensors import safe_open

from openmm_starmd.files.writing import write_text
from openmm_starmd.model.config import ModelConfig
from openmm_starmd.model.excluded_volume import CLOSEST, LINK, TAU
from openmm_starmd.release.checks import CARD, TRAINING
from openmm_starmd.release.figures import (
    criteria_table,
    displacement_table,
    fidelity_table,
    side_chain_table,
    slope_table,
    spans,
    summary,
)

TEMPLATE = Path(__file__).with_name("model_card.template.md")
RESULTS = Path("benchmarks/results")
"""Where the benchmarks write, seen from the root of the repository."""


def read(path: Path) -> dict[str, Any]:
    """JSON of a file that a benchmark wrote."""
    if not path.exists():
        raise ValueError(f"{path} is missing: run the benchmark that writes it first")
    return json.loads(path.read_text())


def measurements(results: Path, stem: str) -> list[dict[str, Any]]:
    """What ``fidelity.py`` wrote under a name, one for each stride, by stride."""
    found = [read(path) for path in results.glob(f"{stem}*.json") if path.stem == stem or path.stem.endswith("ps")]
    return sorted(found, key=stride_of)


def stride_of(content: dict[str, Any]) -> float:
    """Stride of what ``fidelity.py`` wrote, ps."""
    return float(content["settings"]["stride"])


def section(results: dict[str, Any], title: str) -> str:
    """Everything measured at one stride."""
    proteins = results["proteins"]
    stride = stride_of(results)
    settings = results["settings"]
    counted = f"Validity over {settings['frames']} frames of {len(settings['seeds'])} seeds."
    parts = [f"### {title}, {stride:g} ps", counted, fidelity_table(proteins), summary(proteins)]
    parts.append(spans(proteins, stride))
    parts += ["Displacement by lag, r / amplitude:", displacement_table(proteins), slope_table(proteins)]
    beside = side_chain_table(proteins)
    if beside:
        parts += ["Side chains as the network draws them, beside MD's:", beside]
    lines = [line for line in results.get("criteria", []) if line["passed"] is not None]
    if lines and "training" not in title:
        parts += ["What was demanded:", criteria_table(lines)]
    return "\n\n".join(part for part in parts if part)


def describe(recipe: dict[str, Any]) -> str:
    """How the network was trained."""
    windows, objective, optimizer = recipe["windows"], recipe["objective"], recipe["optimizer"]
    weights = ", ".join(f"{name} {weight:g}" for name, weight in objective["weights"])
    size = f"{windows['tokens']} residues x frames" if "tokens" in windows else f"{windows['residues']} residues"
    batches = recipe.get("accumulate", 1)
    more = []
    if windows.get("share_max", 1) < 1:
        more.append(f"No protein has more than {100 * windows['share_max']:g} % of the draws at a stride.")
    if windows.get("deformation_probability"):
        more.append(
            f"{100 * windows['deformation_probability']:g} % of the references that are the start structure are "
            f"deformed along soft modes, by up to {10 * windows['deformation']:g} Å."
        )
    if optimizer.get("weight_decay"):
        more.append(f"Weight decay {optimizer['weight_decay']:g}.")
    if objective.get("high_steps"):
        more.append(
            f"From step {objective['high_steps']:,} on only {100 * objective['high_share']:g} % of the τ above "
            f"{objective['high_tau']:g} stay there."
        )
    said = (
        f"{recipe['steps']:,} steps of Adam (learning rate {optimizer['learning_rate']:g}, cosine to "
        f"{optimizer['final']:g} of it, gradients clipped at {optimizer['gradient_clip']:g}, averaged with decay "
        f"{optimizer['ema']:g}), each on {f'{batches} batches of ' if batches > 1 else ''}windows of up to "
        f"{windows['length']} frames, about {size} a batch. Strides log-uniform in {windows['stride_min']:g} to "
        f"{windows['stride_max']:g} ps, "
        f"{100 * windows['focus_probability']:.0f} % of them {windows['stride_focus']:g} ps. τ log-uniform from "
        f"{objective['tau_min']:g} ({100 * objective['log_uniform']:.0f} %), else uniform; contextual noise up to "
        f"{objective['context_tau']:g}. Losses and weights: {weights}; FAPE, distances and clashes for τ up to "
        f"{objective['geometry_tau']:g} only."
    )
    return " ".join([said, *more])


def form_of(config: ModelConfig) -> str:
    """What kind of network it is."""
    if not config.anchored:
        return "a STAR-MD network in the paper's form"
    elastic = " with an elastic prior" if config.prior == "elastic" else ""
    return f"an anchored, low-noise STAR-MD network{elastic}"


def correction_note(config: ModelConfig) -> str:
    """How much of the network's correction is kept, where that is not all."""
    if not config.correction:
        return ""
    shares = ", ".join(f"{share:g} at {tau:g}" for tau, share in config.correction)
    return (
        "Of the network's correction to what the prior expects a share is kept that is best for proteins left out of "
        f"training: {shares} (τ)."
    )


def overlap_note(config: ModelConfig) -> str:
    """What keeps residues apart, where something does."""
    if not config.excluded_volume:
        return ""
    return (
        f"Below τ {TAU:g} the estimate of a frame is kept from overlaps and breaks: Cα that are not bonded neighbours "
        f"are moved apart to {10 * CLOSEST:g} Å, bonded ones to {10 * LINK[0]:g} to {10 * LINK[1]:g} Å, so that valid "
        "frames say less of what was learned."
    )


def check_weights(folder: Path, measured: list[dict[str, Any]]) -> None:
    """Refuse figures of other weights than those in `folder`."""
    own = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    for content in measured:
        settings = content["settings"]
        if settings.get("weights_sha256", own) != own:
            raise ValueError(
                f"the figures at {settings['stride']:g} ps are of other weights ({settings['weights']}) than {folder}"
            )


def join_separate(content: dict[str, Any], results: Path) -> list[dict[str, Any]]:
    """Add slopes and side chains that were measured in runs of their own to `content`, in place; returns those runs."""
    joined = []
    for key, name in (("slopes", "slope.json"), ("side_chains", "side_chains.json")):
        if not (results / name).exists():
            continue
        joined.append(read(results / name))
        for protein, figures in joined[-1]["proteins"].items():
            if protein in content["proteins"] and not content["proteins"][protein].get(key):
                content["proteins"][protein][key] = figures[key]
    return joined


def side_chains_note(config: ModelConfig, held_out: list[dict[str, Any]]) -> str:
    """What to expect of side chains."""
    measured = any(result.get("side_chains") for content in held_out for result in content["proteins"].values())
    if config.torsions_trained:
        return (
            'Rotamers that must be right one by one: side chains are drawn (`atoms="heavy"` is the default) and agree '
            "with MD as far as the tables below say."
        )
    known = "the tables below say how well" if measured else "they were not measured"
    return f'Side chains: χ angles were trained along, {known}; `atoms="backbone"` is the default.'


def ablation_text(path: Path) -> str:
    """What the ablation concluded, or where to look."""
    page = "`docs/results.md` has what each change of data and training gave."
    if not path.exists():
        return page
    content = read(path)
    settings = content["settings"]
    made = (
        f"Networks trained for {settings['steps']} steps each, {settings['frames']} frames at {settings['stride']} ps:"
    )
    return "\n".join([made, "", *(f"- {line}" for line in content["conclusion"]), "", page])


def render(folder: Path, results: Path, note: str = "") -> str:
    """Text of the card.

    Parameters
    ----------
    folder : Path
        Of the weights.
    results : Path
        Folder of what the benchmarks wrote.
    note : str
        Sentences about the training that the recipe does not hold.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If a benchmark has not been run, or its figures are of other weights.
    """
    config = ModelConfig.from_dict(json.loads((folder / "config.json").read_text()))
    listing = json.loads((folder / TRAINING).read_text())
    proteins, recipe = listing["proteins"], listing["recipe"]
    read(results / "fidelity.json")
    held_out, training = measurements(results, "fidelity"), measurements(results, "fidelity-training")
    held_out = [content for content in held_out if not content["settings"].get("training")]
    check_weights(folder, [*held_out, *training, *join_separate(held_out[0], results)])
    speed = read(results / "speed.json")
    with safe_open(folder / "model.safetensors", "pt") as file:
        parameters = sum(file.get_tensor(key).numel() for key in file.keys())  # noqa: SIM118
    rows = [
        f"| {p['name']} | {len(p['sequence'])} | {len(p['picoseconds'])} | "
        f"{' + '.join(f'{x:g}' for x in p['picoseconds'])} | {p['sequence']} |"
        for p in proteins
    ]
    ratios = sorted(speed["ratio"])
    designs = sum(p["name"].startswith("EEHEE") for p in proteins)
    strides = " and ".join(f"{stride_of(content):g}" for content in held_out)
    parent = recipe.get("start_from")
    return TEMPLATE.read_text().format(
        name=config.name,
        form=form_of(config),
        parameters=parameters,
        megabytes=(folder / "model.safetensors").stat().st_size / 1e6,
        origin=f"fine-tuned from {parent}" if parent else "trained from scratch",
        stride_min=config.stride_min,
        stride_max=config.stride_max,
        stride_default=config.stride_default,
        temperature=config.temperature,
        steps=config.steps,
        max_context=config.max_context,
        measured_strides=f"Measured at {strides} ps; other strides in that range were trained on, not measured.",
        longest=max(max(p["picoseconds"]) for p in proteins),
        max_length=config.max_length,
        side_chains_note=side_chains_note(config, held_out),
        count=len(proteins),
        replicas=sum(len(p["picoseconds"]) for p in proteins),
        total=sum(sum(p["picoseconds"]) for p in proteins) / 1000,
        designs=f"{designs} of them are de novo designs of one family (EEHEE, 43 residues). " if designs else "",
        held_out=", ".join(held_out[0]["proteins"]),
        recipe=" ".join(
            part
            for part in (
                describe(recipe),
                correction_note(config),
                overlap_note(config),
                *listing.get("notes", []),
                note,
            )
            if part
        ),
        proteins="\n".join(rows),
        held_out_sections="\n\n".join(section(content, "Held-out proteins") for content in held_out),
        training_sections="\n\n".join(
            section(content, "Proteins of the training set, against replicas not trained on") for content in training
        ),
        ablation=ablation_text(results / "ablation.json"),
        speed=f"{speed['structure']} ({speed['residues']} residues, {speed['atoms']} atoms in the MD), "
        f"{speed['threads']} thread(s) on either side, {speed['machine']}: {ratios[len(ratios) // 2]:.0f} times "
        f"the ns/day of OpenMM's CPU platform ({ratios[0]:.0f} to {ratios[-1]:.0f} over {len(ratios)} rounds).",
    )


def main() -> None:
    """Render the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--note", default="", help="sentences about the training that the recipe does not hold")
    arguments = parser.parse_args()
    try:
        text = render(arguments.folder, arguments.results, arguments.note)
    except ValueError as error:
        sys.exit(str(error))
    write_text(arguments.folder / CARD, text)


if __name__ == "__main__":
    main()
