"""Two trajectories on equal terms: the same residues, stride, number of frames and so the same span.

RMSF, coverage and everything against lag grow with the span of a trajectory, and rates depend on its stride. Figures
that compare two trajectories therefore refuse unequal ones (:func:`require_matched`), and :func:`match` makes them
equal by thinning the finer and cutting the longer one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mdtraj
import numpy as np
from numpy.typing import NDArray

from openmm_starmd.analysis.validity import alpha_carbons

FEWEST = 2


@dataclass(frozen=True)
class Match:
    """How trajectories become equal.

    Attributes
    ----------
    steps : tuple of int
        Every so many frames of each are taken.
    frames : int
        Frames that all have then.
    stride : float
        ps between them.
    """

    steps: tuple[int, ...]
    frames: int
    stride: float

    @property
    def span(self) -> float:
        """Time from the first to the last frame, ps."""
        return self.stride * (self.frames - 1)


def stride_of(trajectory: mdtraj.Trajectory) -> float:
    """Time between frames.

    Parameters
    ----------
    trajectory : mdtraj.Trajectory

    Returns
    -------
    float
        ps.

    Raises
    ------
    ValueError
        If the times are missing, do not grow, or are not evenly spaced.
    """
    if trajectory.n_frames < FEWEST:
        raise ValueError(f"a stride needs at least two frames; the trajectory has {trajectory.n_frames}")
    steps = np.diff(np.asarray(trajectory.time, dtype=np.float64))
    stride = float(np.median(steps))
    # single precision times of a long trajectory are rounded
    slack = 1e-3 * abs(stride) + 4 * np.spacing(np.float32(np.abs(trajectory.time).max()))
    if stride <= 0 or np.abs(steps - stride).max() > slack:
        raise ValueError(
            f"the times of the trajectory are not evenly spaced ({steps.min():g} to {steps.max():g} ps between "
            "frames): give the time between frames by hand"
        )
    return stride


def plan(frames: Sequence[int], strides: Sequence[float], at_most: int | None = None) -> Match:
    """How to match trajectories.

    Parameters
    ----------
    frames : sequence of int
        Frames of each.
    strides : sequence of float
        ps between their frames.
    at_most : int, optional
        Upper bound on the frames taken.

    Returns
    -------
    Match
        The finer ones are thinned to the stride of the coarsest, the longer ones cut.

    Raises
    ------
    ValueError
        If a stride is not a whole part of the coarsest, or fewer than two frames would be left.
    """
    coarse = max(strides)
    steps = []
    for stride in strides:
        if not (np.isfinite(stride) and stride > 0):
            raise ValueError(f"a stride of {stride:g} ps; it must be positive")
        step = round(coarse / stride)
        if abs(step * stride - coarse) > 1e-3 * coarse:
            raise ValueError(
                f"strides of {stride:g} and {coarse:g} ps cannot be matched: make one a whole multiple of the other, "
                "by drawing or saving frames at another stride"
            )
        steps.append(step)
    count = min(-(-n // step) for n, step in zip(frames, steps, strict=True))
    if at_most is not None:
        count = min(count, at_most)
    if count < FEWEST:
        each = ", ".join(f"{n} frames of {stride:g} ps" for n, stride in zip(frames, strides, strict=True))
        raise ValueError(
            f"{each}: they share {count} frame of {coarse:g} ps, and at least two are needed: make the shortest longer"
        )
    return Match(tuple(steps), count, coarse)


def match(
    first: mdtraj.Trajectory,
    second: mdtraj.Trajectory,
    strides: tuple[float | None, float | None] = (None, None),
) -> tuple[mdtraj.Trajectory, mdtraj.Trajectory, Match]:
    """Thin and cut two trajectories of one protein until they are equal in stride and number of frames.

    Parameters
    ----------
    first, second : mdtraj.Trajectory
        They may differ in their atoms, but not in their residues.
    strides : (float or None, float or None)
        ps between frames, where the trajectories' own times are not to be used.

    Returns
    -------
    (Trajectory, Trajectory, Match)

    Raises
    ------
    ValueError
        If the residues differ or the strides cannot be matched.
    """
    require_same_residues(first.topology, second.topology)
    own = [stride_of(run) if stride is None else stride for run, stride in zip((first, second), strides, strict=True)]
    how = plan((first.n_frames, second.n_frames), own)
    return first[:: how.steps[0]][: how.frames], second[:: how.steps[1]][: how.frames], how


def require_same_residues(first: mdtraj.Topology, second: mdtraj.Topology) -> None:
    """Raise a ValueError unless two topologies have the same residues, by their Cα and one-letter names."""
    names = [[t.atom(i).residue for i in alpha_carbons(t)] for t in (first, second)]
    if len(names[0]) != len(names[1]):
        raise ValueError(
            f"the trajectories have {len(names[0])} and {len(names[1])} residues: cut both to the residues they share"
        )
    for i, (a, b) in enumerate(zip(*names, strict=True)):
        if a.code != b.code and None not in (a.code, b.code):
            raise ValueError(
                f"residue {i + 1} is {a} in one trajectory and {b} in the other: they are not of one protein"
            )


def require_matched(
    first: NDArray[np.floating], second: NDArray[np.floating], strides: tuple[float, float] | None = None
) -> None:
    """Raise a ValueError unless two sets of frames are equal in residues, number of frames and stride.

    Parameters
    ----------
    first, second : ndarray [frames, N, 3]
    strides : (float, float), optional
        ps.
    """
    if first.shape[1:] != second.shape[1:]:
        raise ValueError(f"{first.shape[1]} and {second.shape[1]} residues cannot be compared")
    if len(first) != len(second):
        raise ValueError(
            f"{len(first)} and {len(second)} frames cannot be compared, because the figure grows with the number of "
            "frames: cut and thin them with openmm_starmd.analysis.matching.match"
        )
    if strides is not None and abs(strides[0] - strides[1]) > 1e-3 * max(strides):
        raise ValueError(
            f"strides of {strides[0]:g} and {strides[1]:g} ps cannot be compared: "
            "match them with openmm_starmd.analysis.matching.match"
        )
