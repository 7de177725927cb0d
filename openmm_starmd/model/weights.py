"""Weights on disk: ``model.safetensors`` beside ``config.json`` and ``MODEL_CARD.md``. Never pickle."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from openmm_starmd.files.writing import write_bytes, write_text
from openmm_starmd.model import hub
from openmm_starmd.model.config import ModelConfig
from openmm_starmd.model.network import Network

BUNDLED = Path(__file__).parents[1] / "weights"
DEFAULT_WEIGHTS = "starmd-mini-v3"


@dataclass(frozen=True)
class Weights:
    """A network with its trained parameters.

    Attributes
    ----------
    network : Network
        In evaluation mode, on the CPU.
    config : ModelConfig
    name : str
    path : Path
        The safetensors file.
    """

    network: Network
    config: ModelConfig
    name: str
    path: Path


def bundled_weights() -> list[str]:
    """Names of the weights that ship with the package."""
    return sorted(path.parent.name for path in BUNDLED.glob("*/config.json"))


def find_weights(weights: str | os.PathLike[str] = DEFAULT_WEIGHTS) -> Path:
    """Where weights lie; those of the hub are fetched.

    Parameters
    ----------
    weights : str or path
        As for :func:`load_weights`.

    Returns
    -------
    Path
        The safetensors file; ``config.json`` lies beside it.

    Raises
    ------
    ValueError
        If there are no such weights.
    """
    if str(weights) in bundled_weights():
        folder = BUNDLED / str(weights)
    elif isinstance(weights, str) and hub.is_hub_name(weights):
        folder = hub.fetch(weights)
    else:
        folder = Path(weights)
    path = folder if folder.is_file() else folder / "model.safetensors"
    for needed in (path, path.parent / "config.json"):
        if not needed.exists():
            raise ValueError(
                f"no weights {str(weights)!r}: {needed} does not exist. Give a directory with model.safetensors and "
                f"config.json (of a training run: RUN/weights), one of the bundled names {bundled_weights()}, or "
                "hf:ORGANISATION/NAME of the Hugging Face hub"
            )
    return path


def read_config(path: Path) -> ModelConfig:
    """Configuration in a ``config.json``; a ValueError names the file."""
    try:
        return ModelConfig.from_dict(json.loads(path.read_text()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a configuration of openmm_starmd weights: {error}") from error


def load_weights(weights: str | os.PathLike[str] = DEFAULT_WEIGHTS) -> Weights:
    """Read weights.

    Parameters
    ----------
    weights : str or path
        Name of bundled weights, a directory with ``model.safetensors`` and ``config.json``, the safetensors file in
        such a directory, or ``"hf:org/name"`` (also ``"org/name"`` that is no local path, and ``@revision`` behind
        either) of the Hugging Face hub.

    Returns
    -------
    Weights
        In float32, whatever they are stored in.

    Raises
    ------
    ValueError
        If there are no such weights, or the file does not fit its configuration.
    ImportError
        If weights of the hub are asked for and huggingface_hub is not installed.
    """
    path = find_weights(weights)
    config = read_config(path.parent / "config.json")
    network = Network(config)
    try:
        network.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{path} does not fit {path.parent / 'config.json'}: {error}") from error
    network.eval().requires_grad_(False)
    return Weights(network, config, config.name or path.parent.name, path)


def save_weights(
    folder: str | os.PathLike[str], network: Network, config: ModelConfig, dtype: torch.dtype = torch.float32
) -> None:
    """Write ``model.safetensors`` and ``config.json`` to `folder`, each whole or not at all.

    Parameters
    ----------
    folder : path
        Made if it does not exist.
    network : Network
    config : ModelConfig
    dtype : torch.dtype
        What the numbers are stored in: float32, float16 or bfloat16.

    Raises
    ------
    ValueError
        If a number is too large for `dtype`.
    """
    folder = Path(folder)
    tensors = {}
    for name, parameter in network.state_dict().items():
        value = parameter.detach().cpu()
        stored = value.to(dtype) if value.is_floating_point() else value
        if value.is_floating_point() and not torch.equal(stored.isfinite(), value.isfinite()):
            raise ValueError(f"{name} holds numbers too large for {str(dtype).removeprefix('torch.')}: use bfloat16")
        tensors[name] = stored.contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    # safetensors' own files are their owner's alone to read
    write_bytes(folder / "model.safetensors", save(tensors))
    write_text(folder / "config.json", json.dumps(config.to_dict(), indent=1) + "\n")
