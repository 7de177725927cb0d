"""Trajectories in ATLAS layout as arrays of backbones and torsions."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import mdtraj
import numpy as np
import torch

from openmm_starmd.data.description import coarse_frames, describe, symmetric_torsions
from openmm_starmd.data.reading import Clock
from openmm_starmd.geometry.rigid import Rigids, rigids_from_backbone
from openmm_starmd.model.features import Features
from openmm_starmd.model.openfold import load_openfold_features


class Replica(Protocol):
    """One trajectory of one protein, in memory (:class:`LoadedReplica`) or on disk.

    Attributes
    ----------
    interval : float
        Time between frames, ps.
    """

    @property
    def interval(self) -> float:
        """Time between frames, ps."""

    def __len__(self) -> int:
        """Number of frames."""

    def rigids(self, index: np.ndarray) -> Rigids:
        """Poses of the frames `index` [...]: Rigids [..., N], float32, nm. No other frame is read."""

    def torsions_at(self, index: np.ndarray) -> np.ndarray:
        """Torsions of the frames `index` [...]: [..., N, 5], float32: ψ and χ1..4, radians; 0 where there is none."""


@dataclass(frozen=True)
class LoadedReplica:
    """A :class:`Replica` in memory.

    Attributes
    ----------
    backbone : np.ndarray [T, N, 3, 3], float32
        N, CA, C, nm.
    torsions : np.ndarray [T, N, 5], float32
        ψ and χ1..4, radians; 0 where there is none.
    interval : float
        Time between frames, ps.
    """

    backbone: np.ndarray
    torsions: np.ndarray
    interval: float

    def __len__(self) -> int:
        return len(self.backbone)

    def rigids(self, index: np.ndarray) -> Rigids:
        """See :class:`Replica`."""
        return rigids_from_backbone(torch.from_numpy(self.backbone[index]))

    def torsions_at(self, index: np.ndarray) -> np.ndarray:
        """See :class:`Replica`."""
        return self.torsions[index]


@dataclass(frozen=True)
class ProteinData:
    """A protein with its trajectories.

    Attributes
    ----------
    name : str
    sequence : str
        One-letter codes.
    features : Features
        With the PDB file's structure as reference.
    replicas : tuple of Replica
    torsion_mask : np.ndarray [N, 5], bool
    torsion_symmetric : np.ndarray [N, 5], bool
    openfold : Path, optional
        Folder of OpenFold's features; see :func:`openmm_starmd.data.folders.with_openfold`.
    """

    name: str
    sequence: str
    features: Features
    replicas: tuple[Replica, ...]
    torsion_mask: np.ndarray
    torsion_symmetric: np.ndarray
    openfold: Path | None = None

    def read_features(self) -> Features:
        """The features, with OpenFold's, where there are some, read anew: N² x 128 numbers are too many to keep."""
        if self.openfold is None:
            return self.features
        return self.features.with_openfold(*load_openfold_features(self.openfold, self.name, self.features.length))


def load_protein(folder: str | os.PathLike[str], replicas: list[int] | None = None) -> ProteinData:
    """Read ``NAME/NAME.pdb`` and ``NAME/NAME_prod_R*_fit.xtc``.

    Parameters
    ----------
    folder : path
        The folder ``NAME``.
    replicas : list of int, optional
        Numbers of the replicas to read; all by default.

    Returns
    -------
    ProteinData

    Raises
    ------
    ValueError
        If the PDB file is missing, a residue lacks a backbone atom, there is no trajectory, or its frames are not
        evenly spaced in time.
    """
    folder = Path(folder)
    name = folder.name
    pdb = folder / f"{name}.pdb"
    if not pdb.exists():
        raise ValueError(f"{pdb} is missing: a protein's folder holds NAME.pdb and NAME_prod_R*_fit.xtc")
    start = mdtraj.load(str(pdb))
    try:
        description = describe(start)
    except ValueError as error:
        raise ValueError(f"{pdb}: {error}") from error

    paths = sorted(folder.glob(f"{name}_prod_R*_fit.xtc"))
    if replicas is not None:
        paths = [path for path in paths if int(path.stem.split("_prod_R")[1].split("_")[0]) in replicas]
    if not paths:
        raise ValueError(f"{folder} holds no trajectory {name}_prod_R*_fit.xtc")
    loaded = []
    for path in paths:
        trajectory = mdtraj.load(str(path), top=start.topology)
        if trajectory.n_frames < 2:
            continue
        clock = Clock(str(path), None, None)
        try:
            clock.advance(trajectory.time)
            clock.finish()
            backbone, torsions = coarse_frames(trajectory, description)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        loaded.append(LoadedReplica(backbone, torsions, clock.interval))
    if not loaded:
        raise ValueError(f"{folder}: every trajectory has fewer than two frames")

    return ProteinData(
        name=name,
        sequence=description.sequence,
        features=description.features,
        replicas=tuple(loaded),
        torsion_mask=description.torsion_mask,
        torsion_symmetric=symmetric_torsions(description.residues.names),
    )
