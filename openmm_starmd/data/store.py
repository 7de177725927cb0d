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

from openmm_starmd.data.description import Description, one_letter, symmetric_torsions
from openmm_starmd.data.trajectories import ProteinData
from openmm_starmd.files.writing import write_text
from openmm_starmd.geometry.residues import AMINO_ACIDS, UNKNOWN
from openmm_starmd.geometry.rigid import Rigids, rigids_from_backbone
from openmm_starmd.geometry.so3 import matrix_to_quaternion, quaternion_to_matrix
from openmm_starmd.model.features import Features, torsion_features

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
    meta = read_json(folder / PROTEIN_FILE)
    name = meta["name"]
    mask = np.array([[exists == "1" for exists in row] for row in meta["torsions"]])
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
    names = tuple(meta["residue_names"])
    features = Features(
        torch.tensor([AMINO_ACIDS.index(name) if name in AMINO_ACIDS else UNKNOWN for name in names]),
        torch.tensor(meta["residue_index"]),
        torch.tensor(meta["chain_index"]),
        torch.tensor(meta["bonded"], dtype=torch.bool),
        rigids_from_backbone(torch.from_numpy(structure)),
        torsions=torsion_features(torch.from_numpy(torsions), torch.from_numpy(mask)),
    )
    return ProteinData(
        name=name,
        sequence=one_letter(names),
        features=features,
        replicas=tuple(StoredReplica(folder / f"R{number}", mask) for number in numbers),
        torsion_mask=mask,
        torsion_symmetric=symmetric_torsions(names),
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


class ReplicaWriter:
    """Writes a replica frame by frame under a temporary name, and renames it when it is whole.

    Parameters
    ----------
    folder : Path
        Of the finished replica, ``STORE/NAME/R1``.
    description : Description
    """

    def __init__(self, folder: Path, description: Description) -> None:
        self.folder, self._mask = folder, description.torsion_mask
        # the process in the name keeps an orphan of a killed run out of its successor's way
        self.partial = folder.with_name(f".partial-{folder.name}-{os.getpid()}")
        remove_folder(self.partial)
        self.partial.mkdir()
        count = description.features.length
        self._arrays = {
            "translations": _GrowingArray(self.partial / "translations.npy", (count, 3), np.float32),
            "rotations": _GrowingArray(self.partial / "rotations.npy", (count, 4), np.float16),
            "torsions": _GrowingArray(self.partial / "torsions.npy", (int(self._mask.sum()),), np.float16),
        }

    @property
    def frames(self) -> int:
        """Frames written so far."""
        return self._arrays["translations"].rows

    def append(self, backbone: np.ndarray, torsions: np.ndarray) -> None:
        """Add frames: N, CA, C [T, N, 3, 3] in nm, and ψ, χ1..4 [T, N, 5] in radians."""
        rigids = rigids_from_backbone(torch.from_numpy(backbone))
        self._arrays["translations"].append(rigids.translations.numpy())
        self._arrays["rotations"].append(matrix_to_quaternion(rigids.rotations).numpy())
        self._arrays["torsions"].append(torsions[:, self._mask])

    def finish(self, metadata: dict[str, Any]) -> None:
        """Close the arrays, add ``replica.json`` with `metadata` and the number of frames, and rename the folder."""
        frames = self.frames
        for array in self._arrays.values():
            array.close()
        write_json(self.partial / REPLICA_FILE, {"format": FORMAT, "frames": frames, **metadata})
        try:
            os.replace(self.partial, self.folder)
        except OSError:
            # an orphan of a killed run may have come first, with the same frames
            if not (self.folder / REPLICA_FILE).is_file():
                raise
            remove_folder(self.partial)

    def abandon(self) -> None:
        """Remove what was written."""
        for array in self._arrays.values():
            array.file.close()
        remove_folder(self.partial)


class _GrowingArray:
    """An ``.npy`` file that rows are appended to; its header is put right at the end."""

    def __init__(self, path: Path, row: tuple[int, ...], dtype: type) -> None:
        self.row, self.dtype, self.rows = row, np.dtype(dtype), 0
        self.file = open(path, "wb")
        self._header()
        self._start = self.file.tell()

    def append(self, values: np.ndarray) -> None:
        self.file.write(np.ascontiguousarray(values, dtype=self.dtype).tobytes())
        self.rows += len(values)

    def close(self) -> None:
        self.file.seek(0)
        self._header()
        if self.file.tell() != self._start:
            raise ValueError(f"{self.file.name}: numpy {np.__version__} leaves no room for growth in .npy headers")
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()

    def _header(self) -> None:
        # numpy pads the header so that the first axis can grow in place
        np.lib.format.write_array_header_1_0(
            self.file, {"descr": self.dtype.str, "fortran_order": False, "shape": (self.rows, *self.row)}
        )


def write_protein(folder: Path, name: str, description: Description, source: dict[str, Any]) -> None:
    """Write a protein's folder without its replicas; ``protein.json`` comes last: where it is, the folder is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    features = description.features
    for file, array in (("reference.npy", description.structure), ("reference_torsions.npy", description.torsions)):
        temporary = folder / f".partial-{file}"
        np.save(temporary, array)
        os.replace(temporary, folder / file)
    write_json(
        folder / PROTEIN_FILE,
        {
            "format": FORMAT,
            "name": name,
            "sequence": description.sequence,
            "source": source,
            "left_out": list(description.dropped),
            "residue_names": list(description.names),
            "residue_numbers": list(description.numbers),
            "residue_index": features.residue_index.tolist(),
            "chain_index": features.chain_index.tolist(),
            "bonded": features.bonded.int().tolist(),
            "torsions": ["".join("1" if exists else "0" for exists in row) for row in description.torsion_mask],
        },
    )


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON under a temporary name and rename it."""
    write_text(path, json.dumps(content, indent=None, separators=(",", ":")) + "\n")


def remove_folder(folder: Path) -> None:
    """Remove a folder of plain files, if it is there."""
    if folder.is_dir():
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
