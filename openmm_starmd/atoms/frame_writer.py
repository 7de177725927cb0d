"""Writing a trajectory chunk by chunk in a format of mdtraj, under a temporary name until it is whole."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import mdtraj

from openmm_starmd.files.writing import replacing

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
        If the format is unknown; on leaving the block, if no frames were written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._ending = self._path.suffix.lower()
        if self._ending not in STREAMED + GATHERED:
            raise ValueError(f"{path}: the ending must be one of {', '.join(STREAMED + GATHERED)}")
        self._replacement = replacing(self._path)
        self._file: Any = None
        self._parts: list[mdtraj.Trajectory] = []
        self._written = 0

    def __enter__(self) -> FrameWriter:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = self._replacement.__enter__()
        if self._ending in STREAMED:
            self._file = mdtraj.open(str(self._temporary), "w")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._finish(failed=kind is not None)
        except BaseException:
            self._replacement.__exit__(*sys.exc_info())
            raise
        self._replacement.__exit__(kind, value, trace)

    def _finish(self, *, failed: bool) -> None:
        """Complete the temporary file; a part of one is dropped with it."""
        if self._file is not None:
            self._file.close()
        if failed:
            return
        if not self._written:
            raise ValueError(f"no frames were written to {self._path}")
        if self._parts:
            mdtraj.join(self._parts, check_topology=False).save(str(self._temporary))

    def write(self, chunk: mdtraj.Trajectory) -> None:
        """Append frames."""
        if self._file is None:
            self._parts.append(chunk)
        else:
            self._stream(chunk)
        self._written += chunk.n_frames

    def _stream(self, chunk: mdtraj.Trajectory) -> None:
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
