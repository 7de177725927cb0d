"""OpenFold's features as the conditioner, as the paper has it: read from files, since OpenFold is not part of this."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from openmm_starmd.model.config import ModelConfig
from openmm_starmd.model.features import Features

SINGLE_WIDTH = 384
PAIR_WIDTH = 128


class OpenFoldFeatures(NamedTuple):
    """What a frozen OpenFold says of one protein of N residues.

    Attributes
    ----------
    single : Tensor [N, 384], float32
    pair : Tensor [N, N, 128], float32
    """

    single: Tensor
    pair: Tensor


def load_openfold_features(folder: str | os.PathLike[str], name: str, length: int) -> OpenFoldFeatures:
    """Read ``NAME_single_repr.npy`` (N x 384) and ``NAME_pair_repr.npy`` (N x N x 128).

    Parameters
    ----------
    folder : path
    name : str
        Of the protein.
    length : int
        N, residues of the protein as it is simulated.

    Returns
    -------
    OpenFoldFeatures

    Raises
    ------
    ValueError
        If a file is missing or is not an array of numbers of this shape.
    """
    loaded = {}
    for kind, array in open_openfold_files(folder, name, length).items():
        if not np.isfinite(array).all():
            path = Path(folder) / f"{name}_{kind}_repr.npy"
            raise ValueError(f"{path} holds numbers that are not finite: run OpenFold again in single precision")
        loaded[kind] = torch.from_numpy(array.astype(np.float32))
    return OpenFoldFeatures(loaded["single"], loaded["pair"])


def open_openfold_files(folder: str | os.PathLike[str], name: str, length: int) -> dict[str, np.ndarray]:
    """Check the files of :func:`load_openfold_features` without reading their numbers.

    Returns
    -------
    dict of str to np.ndarray
        ``single`` and ``pair``, memory-mapped.

    Raises
    ------
    ValueError
        If a file is missing or is not an array of numbers of this shape.
    """
    shapes = {"single": (length, SINGLE_WIDTH), "pair": (length, length, PAIR_WIDTH)}
    opened = {}
    for kind, shape in shapes.items():
        path = Path(folder) / f"{name}_{kind}_repr.npy"
        if not path.exists():
            raise ValueError(f"OpenFold's {kind} features of {name} are missing: {path} does not exist")
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise ValueError(f"{path} is not a NumPy file of numbers: {error}") from error
        if array.dtype.kind != "f":
            raise ValueError(f"{path} holds {array.dtype}, expected floating-point numbers")
        check_shape(array.shape, shape, f"{path}: OpenFold's {kind} features of {name}")
        opened[kind] = array
    return opened


def check_shape(found: tuple[int, ...], expected: tuple[int, ...], what: str) -> None:
    """Raise a ValueError that names both shapes if they differ."""
    if tuple(found) != expected:
        raise ValueError(
            f"{what} have shape {tuple(found)}, but the protein has {expected[0]} residues, which takes {expected}: "
            "run OpenFold on exactly the residues simulated, in their order"
        )


class OpenFoldConditioner(nn.Module):
    """Time-independent features of a protein from OpenFold's, in place of those from a reference structure.

    Parameters
    ----------
    config : ModelConfig
        Uses ``conditioner_s`` and ``conditioner_z``.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.types = nn.Embedding(21, config.conditioner_s)
        # the scale of OpenFold's features differs between proteins and channels
        self.single_norm, self.pair_norm = nn.LayerNorm(SINGLE_WIDTH), nn.LayerNorm(PAIR_WIDTH)
        self.single = nn.Linear(SINGLE_WIDTH, config.conditioner_s)
        self.pair = nn.Linear(PAIR_WIDTH, config.conditioner_z)

    def forward(self, features: Features) -> tuple[Tensor, Tensor]:
        """Embed a protein.

        Parameters
        ----------
        features : Features
            N residues, with ``single`` and ``pair``.

        Returns
        -------
        s : Tensor [N, conditioner_s]
        z : Tensor [N, N, conditioner_z]

        Raises
        ------
        ValueError
            If OpenFold's features are missing or of another length.
        """
        if features.single is None or features.pair is None:
            raise ValueError(
                "these weights condition on OpenFold's features, and none were given: read them with "
                "openmm_starmd.model.openfold.load_openfold_features and pass them as openfold_features (training: "
                "openmm_starmd.data.folders.with_openfold, or --openfold)"
            )
        length = features.length
        check_shape(features.single.shape, (length, SINGLE_WIDTH), "OpenFold's single features")
        check_shape(features.pair.shape, (length, length, PAIR_WIDTH), "OpenFold's pair features")
        s = self.single(self.single_norm(features.single)) + self.types(features.residue_types)
        return s, self.pair(self.pair_norm(features.pair))
