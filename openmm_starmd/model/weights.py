"""Weights on disk: ``model.safetensors`` beside ``config.json`` and ``MODEL_CARD.md``. Never pickle."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from openmm_starmd.model.config import ModelConfig
from openmm_starmd.model.network import Network

BUNDLED = Path(__file__).parents[1] / "weights"
DEFAULT_WEIGHTS = "starmd-mini-v1"


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


def load_weights(weights: str | os.PathLike[str] = DEFAULT_WEIGHTS) -> Weights:
    """Read weights.

    Parameters
    ----------
    weights : str or path
        Name of bundled weights, a directory with ``model.safetensors`` and ``config.json``, or the safetensors file in
        such a directory.

    Returns
    -------
    Weights

    Raises
    ------
    ValueError
        If there are no such weights, or the file does not fit its configuration.
    """
    folder = BUNDLED / str(weights) if str(weights) in bundled_weights() else Path(weights)
    if folder.is_file():
        path, folder = folder, folder.parent
    else:
        path = folder / "model.safetensors"
    config_path = folder / "config.json"
    for needed in (path, config_path):
        if not needed.exists():
            raise ValueError(
                f"no weights {str(weights)!r}: {needed} does not exist. Give a directory with model.safetensors and "
                f"config.json (of a training run: RUN/weights), or one of the bundled names {bundled_weights()}"
            )
    try:
        config = ModelConfig.from_dict(json.loads(config_path.read_text()))
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{config_path} is not a configuration of openmm_starmd weights: {error}") from error
    network = Network(config)
    try:
        network.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{path} does not fit {config_path}: {error}") from error
    network.eval().requires_grad_(False)
    return Weights(network, config, config.name or folder.name, path)


def save_weights(folder: str | os.PathLike[str], network: Network, config: ModelConfig) -> None:
    """Write ``model.safetensors`` and ``config.json`` to `folder`, each by renaming a finished temporary file.

    Parameters
    ----------
    folder : path
        Made if it does not exist.
    network : Network
    config : ModelConfig
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    temporary = folder / ".partial-model.safetensors"
    save_file(tensors, temporary)
    os.replace(temporary, folder / "model.safetensors")
    temporary = folder / ".partial-config.json"
    temporary.write_text(json.dumps(config.to_dict(), indent=1) + "\n")
    os.replace(temporary, folder / "config.json")
