"""Writing the store of :mod:`openmm_starmd.data.store`: whole files and folders, or none."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openmm_starmd.data.description import Description
from openmm_starmd.data.store import FORMAT, PROTEIN_FILE, REPLICA_FILE
from openmm_starmd.files.writing import replacing, write_text
from openmm_starmd.geometry.rigid import rigids_from_backbone
from openmm_starmd.geometry.so3 import matrix_to_quaternion


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
        # a worker may outlive its killed parent for a while: the process in the name keeps it apart from the next run's
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
            self.partial.replace(self.folder)
        except OSError:
            # a worker that outlived its killed parent may have been first, with the same frames
            if not (self.folder / REPLICA_FILE).is_file():
                raise
            remove_folder(self.partial)

    def abandon(self) -> None:
        """Remove what was written."""
        for array in self._arrays.values():
            array.file.close()
        remove_folder(self.partial)


class _GrowingArray:
    """An ``.npy`` file that rows are appended to; its header gets the number of rows at the end."""

    def __init__(self, path: Path, row: tuple[int, ...], dtype: type) -> None:
        self.row, self.dtype, self.rows = row, np.dtype(dtype), 0
        self.file = path.open("wb")
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
    residues = description.residues
    for file, array in (("reference.npy", description.structure), ("reference_torsions.npy", description.torsions)):
        with replacing(folder / file) as temporary:
            np.save(temporary, array)
    write_json(
        folder / PROTEIN_FILE,
        {
            "format": FORMAT,
            "name": name,
            "sequence": description.sequence,
            "source": source,
            "left_out": list(residues.dropped),
            "residue_names": list(residues.names),
            "residue_numbers": list(residues.numbers),
            "residue_index": residues.residue_index.tolist(),
            "chain_index": residues.chain_index.tolist(),
            "bonded": residues.bonded.astype(int).tolist(),
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
