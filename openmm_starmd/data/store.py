"""The compact store of trajectories: poses and torsions in memory-mapped arrays, one folder per protein.

::

    STORE/store.json                    format version and the settings of the conversion
    STORE/rejected.csv                  what was left out, and why
    STORE/NAME/protein.json             name, residues, chains, bonds, which torsions exist, source
    STORE/NAME/reference.npy            N, CA, C of the start structure [N, 3, 3], float32, nm
    STORE/NAME/reference_torsions.npy   its ψ and χ1..4 [N, 5], float32, radians; 0 where there is none
    STORE/NAME/R1/replica.json          frames, interval (ps), source
    STORE/NAME/R1/translations.npy      Cα [T, N, 3], float32, nm, to the bit of the trajectory
    STORE/NAME/R1/rotations.npy         quaternions w, x, y, z [T, N, 4], float16
    STORE/NAME/R1/torsions.npy          those of ψ, χ1..4 that exist, residue by residue [T, Q], float16, radians

Measured: half precision turns a rigid by 3e-4 rad in the mean and 8e-4 rad at most (1e6 random rotations), which moves
its N and C by under 2e-4 nm, and an angle by 3e-4 and 1e-3 rad. XTC's own rounding to 1e-3 nm costs 5e-3 and 1.5e-2
rad, and 4e-3 and 2.6e-2 rad. Translations would lose up to 4e-3 nm in large proteins, hence their single precision. A
frame is one row in each array, so that a window reads its own frames and no others.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openmm_starmd.data.description import symmetric_torsions
from openmm_starmd.data.trajectories import ProteinData
from openmm_starmd.geometry.residues import AMINO_ACIDS, UNKNOWN
from openmm_starmd.geometry.rigid import Rigids
from openmm_starmd.geometry.so3 import quaternion_to_matrix
from openmm_starmd.model.features import Features
from openmm_starmd.protein.residues import one_letter

FORMAT = 1
STORE_FILE, PROTEIN_FILE, REPLICA_FILE = "store.json", "protein.json", "replica.json"
_AGAIN = "delete {} and prepare it again"


class StoredReplica:
    """A :class:`openmm_starmd.data.trajectories.Replica` on disk; frames are read when asked for, and no others.

    Parameters
    ----------
    folder : path
        ``STORE/NAME/R1``.
    torsion_mask : np.ndarray [N, 5], bool
        Which torsions exist.

    Raises
    ------
    ValueError
        If the folder is incomplete or damaged.
    """

    def __init__(self, folder: str | os.PathLike[str], torsion_mask: np.ndarray) -> None:
        self.folder, self._mask = Path(folder), torsion_mask
        meta = read_json(self.folder / REPLICA_FILE)
        self._frames, self._interval = int(meta["frames"]), float(meta["interval"])
        self._open: dict[str, np.ndarray] = {}

    @property
    def interval(self) -> float:
        """Time between frames, ps."""
        return self._interval

    def __len__(self) -> int:
        return self._frames

    def __getstate__(self) -> dict[str, Any]:
        # a pickled np.memmap is a copy of the whole file; workers of a DataLoader open their own
        return self.__dict__ | {"_open": {}}

    def rigids(self, index: np.ndarray) -> Rigids:
        """See :class:`openmm_starmd.data.trajectories.Replica`."""
        translations = np.array(self.array("translations")[index])
        rotations = np.array(self.array("rotations")[index], dtype=np.float32)
        return Rigids(quaternion_to_matrix(torch.from_numpy(rotations)), torch.from_numpy(translations))

    def torsions_at(self, index: np.ndarray) -> np.ndarray:
        """See :class:`openmm_starmd.data.trajectories.Replica`."""
        stored = self.array("torsions")[index]
        torsions = np.zeros((*stored.shape[:-1], *self._mask.shape), dtype=np.float32)
        torsions[..., self._mask] = stored
        return torsions

    def array(self, name: str) -> np.ndarray:
        """The memory-mapped array ``translations``, ``rotations`` or ``torsions``, for reading."""
        if name not in self._open:
            path = self.folder / f"{name}.npy"
            residues, torsions = len(self._mask), int(self._mask.sum())
            row = {"translations": (residues, 3), "rotations": (residues, 4), "torsions": (torsions,)}[name]
            shape = (self._frames, *row)
            try:
                # an empty file cannot be mapped
                array = np.load(path, mmap_mode="r" if np.prod(shape) else None)
            except (OSError, ValueError) as error:
                raise ValueError(
                    f"{path} cannot be read: {error}; delete {self.folder} and prepare it again"
                ) from error
            if array.shape != shape:
                raise ValueError(f"{path} has the shape {array.shape}, not {shape}; {_AGAIN.format(self.folder)}")
            self._open[name] = array
        return self._open[name]


class _StoredResidues:
    """The residues that a ``protein.json`` lists, N of them, as :class:`openmm_starmd.protein.residues.Residues`."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.name: str = content["name"]
        self.names: tuple[str, ...] = tuple(content["residue_names"])
        self.residue_types = np.array(
            [AMINO_ACIDS.index(name) if name in AMINO_ACIDS else UNKNOWN for name in self.names], dtype=np.int64
        )
        self.residue_index = np.array(content["residue_index"], dtype=np.int64)
        self.chain_index = np.array(content["chain_index"], dtype=np.int64)
        self.bonded = np.array(content["bonded"], dtype=bool)
        # ψ, χ1..4
        self.torsion_mask = np.array([[exists == "1" for exists in row] for row in content["torsions"]])


def open_protein(folder: str | os.PathLike[str], exclude: Collection[str] = ()) -> ProteinData | None:
    """One protein of a store; its trajectories stay on disk.

    Parameters
    ----------
    folder : path
        ``STORE/NAME``.
    exclude : collection of str
        ``NAME`` or ``NAME:R`` to leave out.

    Returns
    -------
    ProteinData or None
        None if no replica is left.

    Raises
    ------
    ValueError
        If a file is damaged or of a later format.
    """
    folder = Path(folder)
    stored = _StoredResidues(read_json(folder / PROTEIN_FILE))
    name, mask = stored.name, stored.torsion_mask
    numbers = sorted(int(path.name[1:]) for path in folder.glob("R*") if path.name[1:].isdigit())
    numbers = [number for number in numbers if f"{name}:{number}" not in exclude]
    if name in exclude or not numbers:
        return None
    try:
        structure, torsions = np.load(folder / "reference.npy"), np.load(folder / "reference_torsions.npy")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"the reference structure of {folder} cannot be read: {error}; delete {folder}, prepare it again"
        ) from error
    return ProteinData(
        name=name,
        sequence=one_letter(stored.names),
        features=Features.of(stored, structure, torsions, mask),
        replicas=tuple(StoredReplica(folder / f"R{number}", mask) for number in numbers),
        torsion_mask=mask,
        torsion_symmetric=symmetric_torsions(stored.names),
    )


def open_store(store: str | os.PathLike[str], exclude: Collection[str] = ()) -> list[ProteinData]:
    """All proteins of a store, ordered by name, without reading a trajectory.

    Parameters
    ----------
    store : path
    exclude : collection of str
        Names, or ``NAME:R`` for one replica, to leave out.
    """
    store = Path(store)
    read_json(store / STORE_FILE)
    excluded = frozenset(exclude)
    folders = [path.parent for path in store.glob(f"*/{PROTEIN_FILE}")]
    proteins = [open_protein(folder, excluded) for folder in folders]
    return sorted((protein for protein in proteins if protein is not None), key=lambda protein: protein.name)


def is_store(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder is a store."""
    return (Path(folder) / STORE_FILE).is_file()


def folder_name(name: str) -> str:
    """Name of a protein's folder: its own where that is safe on every file system, else a cleaned one with a digest."""
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".-") or "protein"
    if safe == name and len(name) <= 100:
        return name
    return f"{safe[:80]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def read_json(path: Path) -> dict[str, Any]:
    """A file of the store, its format checked; ValueError if it is missing, damaged or of a later format."""
    try:
        content = json.loads(path.read_text())
        version = content["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read: {error}; {_AGAIN.format(path.parent)}") from error
    if version != FORMAT:
        raise ValueError(f"{path} has format {version}, and this version of openmm_starmd reads format {FORMAT}")
    return content
