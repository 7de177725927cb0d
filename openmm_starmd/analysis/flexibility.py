"""How much and where a protein moves: RMSD, radius of gyration, RMSF, RMSD against lag, and how two runs compare.

Every function takes Cα positions as arrays [frames, N, 3] in nm and returns nm.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def superpose(moving: NDArray[np.floating], target: NDArray[np.floating]) -> Array:
    """Superpose frames on targets by least squares (Kabsch 1976), all atoms with one weight.

    Parameters
    ----------
    moving : ndarray [frames, N, 3]
        nm.
    target : ndarray [N, 3] or [frames, N, 3]
        nm; one for all or one each.

    Returns
    -------
    ndarray [frames, N, 3]
        nm, in the pose of the targets.
    """
    moving, target = np.asarray(moving, dtype=np.float64), np.asarray(target, dtype=np.float64)
    center = target.mean(-2, keepdims=True)
    centered = moving - moving.mean(-2, keepdims=True)
    u, _, vt = np.linalg.svd(np.swapaxes(centered, -1, -2) @ (target - center))
    handedness = np.sign(np.linalg.det(u) * np.linalg.det(vt))
    u[..., -1] *= handedness[..., None]
    return centered @ (u @ vt) + center


def rmsd(frames: NDArray[np.floating], target: NDArray[np.floating]) -> Array:
    """RMSD after superposition.

    Parameters
    ----------
    frames : ndarray [frames, N, 3]
        nm.
    target : ndarray [N, 3] or [frames, N, 3]
        nm; one for all or one each.

    Returns
    -------
    ndarray [frames]
        nm.
    """
    difference = superpose(frames, target) - target
    return np.sqrt((difference**2).sum(-1).mean(-1))


def radius_of_gyration(frames: NDArray[np.floating]) -> Array:
    """Radius of gyration of the Cα trace, each atom with one weight.

    Parameters
    ----------
    frames : ndarray [frames, N, 3]
        nm.

    Returns
    -------
    ndarray [frames]
        nm.
    """
    frames = np.asarray(frames, dtype=np.float64)
    return np.sqrt(((frames - frames.mean(1, keepdims=True)) ** 2).sum(-1).mean(-1))


def mean_structure(frames: NDArray[np.floating], iterations: int = 10) -> Array:
    """Mean of frames superposed on that mean.

    Parameters
    ----------
    frames : ndarray [frames, N, 3]
        nm.
    iterations : int
        Rounds of superposition at most; it ends when the mean no longer moves.

    Returns
    -------
    ndarray [N, 3]
        nm, in the pose of the first frame.
    """
    mean = np.asarray(frames[0], dtype=np.float64)
    for _ in range(iterations):
        new = superpose(frames, mean).mean(0)
        moved = float(np.abs(new - mean).max())
        mean = new
        if moved < 1e-7:
            break
    return mean


def rmsf(frames: NDArray[np.floating]) -> Array:
    """Root mean square fluctuation of each residue after superposition on the mean structure.

    Parameters
    ----------
    frames : ndarray [frames, N, 3]
        nm; at least two.

    Returns
    -------
    ndarray [N]
        nm.
    """
    if len(frames) < 2:
        raise ValueError(f"a fluctuation needs at least two frames; there are {len(frames)}")
    mean = mean_structure(frames)
    return np.sqrt(((superpose(frames, mean) - mean) ** 2).sum(-1).mean(0))


def rmsd_against_lag(frames: NDArray[np.floating], lags: Sequence[int]) -> Array:
    """RMSD between frames a lag apart, averaged over all starting frames.

    Parameters
    ----------
    frames : ndarray [frames, N, 3]
        nm.
    lags : sequence of int
        In frames, each at least 1 and less than the number of frames.

    Returns
    -------
    ndarray [lags]
        nm.
    """
    for lag in lags:
        if not 1 <= lag < len(frames):
            raise ValueError(f"lag {lag} does not fit {len(frames)} frames: choose 1 to {len(frames) - 1}")
    return np.array([rmsd(frames[lag:], frames[:-lag]).mean() for lag in lags])


def correlation(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Pearson correlation of two profiles [N]; nan when one of them is flat."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.std() < 1e-12 or b.std() < 1e-12:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def amplitude_ratio(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Mean of profile `a` [N] over the mean of profile `b` [N]."""
    return float(np.mean(a) / np.mean(b))
