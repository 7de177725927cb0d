"""How much and where a protein moves: radius of gyration, RMSF, contacts, RMSD against lag, and how runs compare.

The functions take Cα positions as arrays [frames, N, 3] in nm and return nm. What grows with both frames and pairs is
worked through in chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import mdtraj
import numpy as np
from numpy.typing import NDArray

from openmm_starmd.analysis.validity import alpha_carbons
from openmm_starmd.geometry.superposition import rmsd, superpose

Array = NDArray[np.float64]

CONTACT = 0.8  # nm between Cα
CONTACT_SEPARATION = 3  # residues along the chain
FEWEST = 10
"""Frames, or windows of a lag, below which a profile over residues is noise and no figure of it is given."""

# Frames per chunk are chosen so that one array of distances stays below this many numbers (64 MB).
_CHUNK = 8_000_000


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


def displacement(frames: NDArray[np.floating], lag: int) -> Array:
    """How far each residue moves within a lag, in windows that overlap.

    Parameters
    ----------
    frames : ndarray [frames, N, 3]
        nm.
    lag : int
        In frames, at least 1 and less than the number of frames.

    Returns
    -------
    ndarray [N]
        nm: root mean square over all ``frames - lag`` starting frames, each pair superposed (later on earlier).

    Notes
    -----
    Where a trajectory is too short for an RMSF at a stride, it still holds many windows of that length: at a lag long
    beside all motion, this is the square root of 2 times the RMSF.
    """
    if not 1 <= lag < len(frames):
        raise ValueError(f"lag {lag} does not fit {len(frames)} frames: choose 1 to {len(frames) - 1}")
    earlier, later = np.asarray(frames[:-lag], dtype=np.float64), frames[lag:]
    total = np.zeros(earlier.shape[1])
    for begin in range(0, len(earlier), 1000):
        part = slice(begin, begin + 1000)
        total += ((superpose(later[part], earlier[part]) - earlier[part]) ** 2).sum((0, -1))
    return np.sqrt(total / len(earlier))


def pooled(profiles: Sequence[NDArray[np.floating]]) -> Array:
    """One profile [N] of several [N], of runs of one length: root of the mean of squares, residue by residue.

    Squares, because the mean square fluctuation of many runs, each about its own mean, is what a single run's estimates
    without bias; the mean of the roots is smaller.
    """
    return np.sqrt(np.mean(np.square(np.asarray(profiles, dtype=np.float64)), axis=0))


class Agreement(NamedTuple):
    """A profile over residues beside those of one or more reference runs.

    Attributes
    ----------
    correlation : float
        Mean of `correlations`.
    correlations : tuple of float
        Pearson r with each reference.
    amplitude : float
        Mean of the profile over the mean of the references' pooled profile.
    """

    correlation: float
    correlations: tuple[float, ...]
    amplitude: float


def agreement(profile: NDArray[np.floating], references: Sequence[NDArray[np.floating]]) -> Agreement:
    """A profile [N] beside one or more of reference runs [N]: r with each, amplitude beside all of them pooled."""
    each = tuple(correlation(profile, reference) for reference in references)
    return Agreement(float(np.mean(each)), each, amplitude_ratio(profile, pooled(references)))


def rmsf_agreement(
    runs: Sequence[NDArray[np.floating]], references: Sequence[NDArray[np.floating]], fewest: int = FEWEST
) -> Agreement:
    """RMSF of runs, pooled, beside that of reference runs.

    Parameters
    ----------
    runs, references : sequence of ndarray [frames, N, 3]
        nm. Runs of one model, each about its own mean structure.
    fewest : int
        Frames that each must have.

    Returns
    -------
    Agreement
        nan where there is no run, one has fewer frames, or a run is not finite.
    """
    each = [*runs, *references]
    if not runs or min(map(len, each)) < max(2, fewest) or not all(np.isfinite(x).all() for x in runs):
        nan = float("nan")
        return Agreement(nan, (nan,) * len(references), nan)
    return agreement(pooled([rmsf(run) for run in runs]), [rmsf(reference) for reference in references])


def pairwise_rmsd(frames: NDArray[np.floating], others: NDArray[np.floating] | None = None, most: int = 200) -> Array:
    """RMSD between all pairs of evenly picked frames.

    Parameters
    ----------
    frames : ndarray [frames, N, 3]
        nm.
    others : ndarray [frames, N, 3], optional
        The other side of each pair, nm; `frames` by default.
    most : int
        Frames picked from each at most.

    Returns
    -------
    ndarray [picked, picked]
        nm.
    """
    rows, columns = (_pick(x, most) for x in (frames, frames if others is None else others))
    return np.stack([rmsd(columns, row) for row in rows])


def _pick(frames: NDArray[np.floating], most: int) -> NDArray[np.floating]:
    """At most so many frames, evenly spread from the first to the last."""
    if len(frames) <= most:
        return frames
    return frames[np.linspace(0, len(frames) - 1, most).round().astype(int)]


def contact_probabilities(frames: NDArray[np.floating], cutoff: float = CONTACT) -> Array:
    """How often pairs of residues are in contact.

    Parameters
    ----------
    frames : ndarray [frames, N, 3]
        nm.
    cutoff : float
        Largest distance of two Cα in contact, nm.

    Returns
    -------
    ndarray [N, N]
        0 to 1, symmetric; nan for pairs closer than three residues along the sequence.
    """
    n = frames.shape[1]
    rows, columns = np.triu_indices(n, CONTACT_SEPARATION)
    counts = np.zeros(len(rows))
    size = max(1, _CHUNK // max(1, 3 * len(rows)))
    for begin in range(0, len(frames), size):
        part = np.asarray(frames[begin : begin + size])
        squares = ((part[:, rows] - part[:, columns]) ** 2).sum(-1)
        counts += (squares < cutoff**2).sum(0)
    result = np.full((n, n), np.nan)
    result[rows, columns] = result[columns, rows] = counts / max(1, len(frames))
    return result


def secondary_structure(trajectory: mdtraj.Trajectory) -> NDArray[np.str_] | None:
    """Secondary structure by DSSP (Kabsch and Sander 1983), in three classes.

    Parameters
    ----------
    trajectory : mdtraj.Trajectory

    Returns
    -------
    ndarray [frames, N] of str, or None
        H, E or C for the residues with a Cα; None unless each of them has N, CA, C and O.
    """
    residues = [trajectory.topology.atom(i).residue for i in alpha_carbons(trajectory.topology)]
    if not all({"N", "C", "O"} <= {a.name for a in residue.atoms} for residue in residues):
        return None
    columns = [residue.index for residue in residues]
    result = np.empty((trajectory.n_frames, len(columns)), dtype="<U1")
    for begin in range(0, trajectory.n_frames, 500):
        codes = mdtraj.compute_dssp(trajectory[begin : begin + 500], simplified=True)
        result[begin : begin + 500] = codes[:, columns]
    return result


def persistence(codes: NDArray[np.str_], start: NDArray[np.str_]) -> Array:
    """How long secondary structure lasts.

    Parameters
    ----------
    codes : ndarray [frames, N] of str
    start : ndarray [N] of str

    Returns
    -------
    ndarray [N]
        Share of the frames in which a residue of a helix or strand in `start` is still in one of that kind; nan for
        other residues.
    """
    return np.where(start == "C", np.nan, (codes == start).mean(0))


def correlation(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Pearson correlation of two profiles [N]; nan when one of them is flat."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.std() < 1e-12 or b.std() < 1e-12:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def amplitude_ratio(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Mean of profile `a` [N] over the mean of profile `b` [N]."""
    return float(np.mean(a) / np.mean(b))
