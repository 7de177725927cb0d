"""Writing a trajectory chunk by chunk in a format of mdtraj, under a temporary name until it is whole."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any

import mdtraj

STREAMED = (".dcd", ".xtc", ".trr", ".nc", ".netcdf", ".h5")
GATHERED = (".pdb", ".cif", ".gro", ".xyz", ".lammpstrj", ".mdcrd")


class FrameWriter:
    """Writes chunks of frames; the file appears under its name when the ``with`` block ends well.

    DCD, XTC, TRR, NetCDF and HDF5 are written as frames come; text formats are kept in memory until the end.

    Parameters
    ----------
    path : path
        Its ending names the format. Formats without times (DCD, PDB) lose them.

    Raises
    ------
    ValueError
        If the format is unknown.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._ending = self._path.suffix.lower()
        if self._ending not in STREAMED + GATHERED:
            raise ValueError(f"{path}: the ending must be one of {', '.join(STREAMED + GATHERED)}")
        self._temporary = self._path.with_name(f".partial-{self._path.name}")
        self._file: Any = None
        self._parts: list[mdtraj.Trajectory] = []
        self._written = 0

    def __enter__(self) -> FrameWriter:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._ending in STREAMED:
            self._file = mdtraj.open(str(self._temporary), "w")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
        if kind is None and self._file is None and self._parts:
            mdtraj.join(self._parts, check_topology=False).save(str(self._temporary))
        if kind is None and self._temporary.exists():
            os.replace(self._temporary, self._path)
        else:
            self._temporary.unlink(missing_ok=True)

    def write(self, chunk: mdtraj.Trajectory) -> None:
        """Append frames."""
        if self._file is None:
            self._parts.append(chunk)
            return
        lengths, angles = chunk.unitcell_lengths, chunk.unitcell_angles
        angstrom = None if lengths is None else 10 * lengths
        if self._ending == ".dcd":
            self._file.write(10 * chunk.xyz, angstrom, angles)
        elif self._ending in (".xtc", ".trr"):
            step = range(self._written, self._written + chunk.n_frames)
            self._file.write(chunk.xyz, time=chunk.time, step=list(step), box=chunk.unitcell_vectors)
        elif self._ending == ".h5":
            if not self._written:
                self._file.topology = chunk.topology
            self._file.write(chunk.xyz, time=chunk.time, cell_lengths=lengths, cell_angles=angles)
        else:
            self._file.write(10 * chunk.xyz, time=chunk.time, cell_lengths=angstrom, cell_angles=angles)
        self._written += chunk.n_frames
