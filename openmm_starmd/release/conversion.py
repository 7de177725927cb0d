"""Writing a weights directory anew, from weights, a training run or a checkpoint: ``openmm-starmd weights convert``."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from openmm_starmd.files.writing import write_text
from openmm_starmd.model.config import ModelConfig
from openmm_starmd.model.network import Network
from openmm_starmd.model.weights import load_weights, read_config, save_weights
from openmm_starmd.release.checks import CARD, TRAINING, Inspection, inspect, training_data

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def convert(source: str | os.PathLike[str], output: Path, *, dtype: str = "float32", name: str | None = None) -> Path:
    """Write a weights directory from weights, a training run or a checkpoint.

    Parameters
    ----------
    source : str or path
        What :func:`openmm_starmd.model.weights.load_weights` takes; the folder of a training run, whose ``weights`` are
        taken, or its last checkpoint where there are none yet; or a Lightning checkpoint (``.ckpt``), whose averaged
        network is taken.
    output : path
        Directory, new or empty.
    dtype : str
        What the numbers are stored in: ``"float32"``, ``"float16"`` or ``"bfloat16"``. Loading gives float32 always.
    name : str, optional
        Of the new weights; the old one by default.

    Returns
    -------
    Path
        `output`, with ``model.safetensors``, ``config.json``, a card and, where there is one, the list of training
        data.

    Raises
    ------
    ValueError
        If there is nothing to convert, or `output` is not empty.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; choose one of {', '.join(DTYPES)}")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output} is there already and not empty: choose another --output, or remove it")
    network, config, folder = _source(source)
    config = replace(config, name=name or config.name or output.resolve().name)
    save_weights(output, network, config, DTYPES[dtype])
    listing = training_data(folder)
    if listing is not None:
        write_text(output / TRAINING, (folder / TRAINING).read_text())
    card = folder / CARD
    if card.exists() and not name:
        write_text(output / CARD, card.read_text())
    else:
        write_text(output / CARD, skeleton(inspect(output), listing))
    return output


def _source(source: str | os.PathLike[str]) -> tuple[Network, ModelConfig, Path]:
    """Network, configuration, and the folder with card and training data."""
    path = Path(source)
    if path.is_dir() and not (path / "model.safetensors").exists():
        if (path / "weights" / "model.safetensors").exists():
            path = path / "weights"
        elif (path / "last.ckpt").exists():
            path = path / "last.ckpt"
    if path.suffix == ".ckpt" and path.is_file():
        return _from_checkpoint(path)
    loaded = load_weights(path if path.exists() else source)
    return loaded.network, loaded.config, loaded.path.parent


def _from_checkpoint(path: Path) -> tuple[Network, ModelConfig, Path]:
    """The averaged network of a Lightning checkpoint; its configuration lies in the folder of the run."""
    folder = path.parent / "weights"
    recipe = path.parent / "recipe.json"
    if (folder / "config.json").exists():
        config = read_config(folder / "config.json")
    elif recipe.exists():
        config = ModelConfig.from_dict(json.loads(recipe.read_text())["model"])
    else:
        raise ValueError(
            f"{path} says nothing of the network's sizes, and neither {folder / 'config.json'} nor {recipe} exists: "
            "leave the checkpoint in the folder of its run"
        )
    try:
        # refuses all but tensors and plain types: a pickle from elsewhere must not run code
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        averaged = _averaged(content)
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a checkpoint of openmm_starmd: {error}") from error
    if not averaged:
        raise ValueError(f"{path} holds no averaged network: it is not a checkpoint of openmm-starmd train")
    network = Network(config)
    try:
        network.load_state_dict(averaged)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit its run's configuration: {error}") from error
    return network, config, folder


def _averaged(content: dict[str, Any]) -> dict[str, torch.Tensor]:
    """State of the averaged network in a checkpoint; empty if it holds none."""
    if "starmd" in content:
        state, prefix = content["starmd"]["average"], "network."
    else:
        # runs of version 0.1.0 kept the average as a module of its own
        state, prefix = content["state_dict"], "averaged."
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def skeleton(facts: Inspection, listing: dict[str, Any] | None) -> str:
    """A model card with what the files tell; what must be measured or written is said to be missing."""
    config = facts.config
    text = [
        f"# {config.name}",
        "",
        f"Weights of openmm_starmd, {facts.parameters:,} parameters, sha256 `{facts.sha256}`.",
        "",
        "## What it is for",
        "",
        f"Drawing frames {config.stride_min:g} to {config.stride_max:g} ps apart, {config.stride_default:g} ps by "
        f"default, at {config.temperature:g} K of proteins of up to about {config.max_length} residues. What it is "
        "good for and where it fails is **not described yet**.",
        "",
        "## Measured",
        "",
        "**Nothing yet.** `benchmarks/fidelity.py --weights DIRECTORY` compares rollouts with MD.",
        "",
        "## Licence",
        "",
        "**Not stated yet**; it also depends on the training data.",
        "",
        "## Training data",
        "",
    ]
    if listing is None:
        return "\n".join([*text, "**Not listed.**", ""])
    text += [
        f"{facts.proteins} proteins, {facts.trajectories} trajectories, {facts.nanoseconds:.2f} ns in all.",
        "",
        "| protein | residues | ps of each trajectory | sequence |",
        "|---|---|---|---|",
    ]
    for p in listing["proteins"]:
        spans = " + ".join(f"{x:g}" for x in p["picoseconds"])
        text.append(f"| {p['name']} | {len(p['sequence'])} | {spans} | {p['sequence']} |")
    return "\n".join([*text, ""])
