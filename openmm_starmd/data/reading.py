"""Trajectory files in pieces, whatever their format, with their clock checked."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import mdtraj
import numpy as np

from openmm_starmd.data.description import Description, coarse_frames
from openmm_starmd.files.reading import load_frames, structure_format

TIMED = (".xtc", ".trr", ".h5", ".hdf5", ".nc", ".ncdf", ".netcdf", ".dtr", ".stk", ".gro")
"""Formats whose times mdtraj reads; for others it counts frames."""
CHUNK_BYTES = 2**25
"""Coordinates held at once."""


def read_frames(
    path: str | os.PathLike[str],
    start: mdtraj.Trajectory,
    description: Description,
    every: float | None = None,
    interval: float | None = None,
    chunk: int | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray, Clock]]:
    """Frames 0, k, 2k, ... of a trajectory, a piece at a time.

    Parameters
    ----------
    path : path
        Any format of mdtraj.
    start : mdtraj.Trajectory
        With the topology of the file.
    description : Description
        Of that topology.
    every : float, optional
        ps between the frames to keep, a whole multiple of the file's interval; all frames by default.
    interval : float, optional
        ps between the file's frames, in place of its own times.
    chunk : int, optional
        Frames per piece; as many as make 32 MiB by default.

    Yields
    ------
    backbone : np.ndarray [T, N, 3, 3], float32
        N, CA, C, nm.
    torsions : np.ndarray [T, N, 5], float32
        ψ and χ1..4, radians.
    clock : Clock
        The same each time; its interval and count are final after the last piece.

    Raises
    ------
    ValueError
        If the file cannot be read, does not fit, has no usable or no even times, or a frame is no protein.
    """
    path = os.fspath(path)
    clock = Clock(path, every, interval)
    atoms = start.topology.n_atoms
    chunk = chunk or int(np.clip(CHUNK_BYTES // (12 * atoms), 2, 1000))
    for piece in _pieces(path, start.topology, chunk):
        if piece.n_atoms != atoms:
            raise ValueError(f"it has {piece.n_atoms} atoms and the topology {atoms}: {_MISFIT}")
        first = clock.seen
        keep = clock.advance(piece.time)
        if len(keep):
            yield *coarse_frames(piece[keep], description, first + keep), clock
    clock.finish()


_MISFIT = "name the file that the trajectory was written with"


def _pieces(path: str, topology: mdtraj.Topology, chunk: int) -> Iterator[mdtraj.Trajectory]:
    """Pieces as mdtraj reads them; whatever its readers raise becomes a ValueError."""
    seen = 0
    whole = structure_format(path) is not None
    pieces = _structure_pieces(path, chunk) if whole else mdtraj.iterload(path, chunk=chunk, top=topology)
    while True:
        try:
            piece = next(pieces, None)
        except Exception as error:
            # readers raise whatever the damage happens to cause; of a wrong number of atoms mdtraj tells the shapes
            shapes = re.search(r"shape \(\w+, (\d+), 3\).*\(\d+, (\d+), 3\)", str(error))
            if shapes:
                raise ValueError(f"it has {shapes[2]} atoms and the topology {shapes[1]}: {_MISFIT}") from error
            raise ValueError(f"it cannot be read from frame {seen} on: {type(error).__name__}: {error}") from error
        if piece is None:
            return
        seen += len(piece)
        yield piece


def _structure_pieces(path: str, chunk: int) -> Iterator[mdtraj.Trajectory]:
    """Models of a structure file, which is read at once."""
    frames = load_frames(path)
    for start in range(0, len(frames), chunk):
        yield frames[start : start + chunk]


class Clock:
    """Which frames of a file to keep, and how far apart they lie.

    Parameters
    ----------
    path : str
        Decides whether its times mean something.
    every, interval : float, optional
        As in :func:`read_frames`, ps.

    Attributes
    ----------
    seen : int
        Frames of the file so far.
    kept : int
        Of these, frames kept.
    interval : float
        ps between kept frames.
    """

    def __init__(self, path: str, every: float | None, interval: float | None) -> None:
        for name, value in (("every", every), ("interval", interval)):
            if value is not None and not (np.isfinite(value) and value > 0):
                raise ValueError(f"--{name} is {value} ps; it must be positive")
        if interval is None and not path.lower().endswith(TIMED):
            raise ValueError("this format holds no times: say with --interval how many ps lie between its frames")
        self.seen = self.kept = 0
        self._every, self._given = every, interval
        self._step, self._source = 1, interval or 0.0
        self._first = self._last = 0.0

    @property
    def interval(self) -> float:
        """Time between kept frames, ps."""
        return _rounded(self._step * self._source)

    def advance(self, times: np.ndarray) -> np.ndarray:
        """Take note of the next frames' times, ps [T], and say which of them to keep, [<= T], int."""
        times = np.asarray(times, dtype=np.float64)
        if self.seen == 0:
            self._start(times)
        elif self._given is None:
            times = np.concatenate([[self._last], times])
        self._check(times)
        count = len(times) - (self.seen > 0 and self._given is None)
        keep = np.arange(-self.seen % self._step, count, self._step)
        self.seen += count
        self.kept += len(keep)
        self._last = times[-1]
        return keep

    def finish(self) -> None:
        """Settle the interval once all frames are seen."""
        if self.kept < 2:
            raise ValueError(f"it has {self.seen} frame(s), of which {self.kept} are kept; at least two are needed")
        if self._given is None:
            # over the whole file, the rounding of its single-precision times averages out
            self._source = _rounded((self._last - self._first) / (self.seen - 1))

    def _start(self, times: np.ndarray) -> None:
        if self._given is None:
            if len(times) < 2:
                raise ValueError("it has fewer than two frames")
            self._first = times[0]
            mean, median = (times[-1] - times[0]) / (len(times) - 1), float(np.median(np.diff(times)))
            # the mean averages rounding out; where a gap spoils it, the median tells which frame is the odd one
            self._source = _rounded(mean if abs(mean - median) <= _slack(mean, times[-1]) else median)
            if not np.isfinite(self._source) or self._source <= 0:
                raise ValueError(
                    f"its times do not increase ({times[0]:g} ps, then {times[1]:g} ps): say with --interval how many "
                    "ps lie between its frames"
                )
        if self._every is not None:
            ratio = self._every / self._source
            self._step = round(ratio)
            if self._step < 1 or abs(ratio - self._step) > 1e-3:
                raise ValueError(
                    f"its frames lie {self._source:g} ps apart, of which --every {self._every:g} is no whole multiple"
                )

    def _check(self, times: np.ndarray) -> None:
        """Raise a ValueError where times [T] are uneven by more than single precision explains."""
        if self._given is not None:
            return
        gaps = np.diff(times)
        uneven = np.flatnonzero(~(np.abs(gaps - self._source) <= _slack(self._source, times[1:])))
        if len(uneven):
            i = uneven[0]
            frame = self.seen + i + (self.seen == 0)
            raise ValueError(
                f"its frames are not evenly spaced: frame {frame} at {times[i + 1]:g} ps comes {gaps[i]:g} ps after "
                f"the one before, others {self._source:g} ps; cut it there, or say with --interval what the spacing is"
            )


def _slack(interval: float, times: np.ndarray | float) -> np.ndarray | float:
    """By how much gaps between frames may differ: a hundredth, and the rounding of single-precision times, ps."""
    return 0.01 * abs(interval) + 4 * np.finfo(np.float32).eps * np.abs(times)


def _rounded(time: float) -> float:
    """A time without the noise of single precision."""
    return float(f"{time:.6g}")
