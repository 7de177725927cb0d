"""How a run moves in time, beside a reference: autocorrelation, slow modes, kinetics between the reference's states.

Everything takes Cα positions or projections of runs that are equal in stride and number of frames
(:mod:`openmm_starmd.analysis.matching`); lags are in frames. deeptime (Hoffmann et al. 2022, Mach. Learn.: Sci.
Technol. 3, 015009) does tICA, k-means and Markov models, and is imported only where it is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openmm_starmd.analysis.coverage import Projection
from openmm_starmd.analysis.flexibility import correlation
from openmm_starmd.analysis.matching import require_matched

Array = NDArray[np.float64]

COMPONENTS = 32  # of the autocorrelation, as in the paper
SLOW = 10  # components given to tICA and VAMP
_STILL = 1e-9  # nm, largest standard deviation of a run that does not move
_EPSILON = 1e-10  # variances below this share of the largest count as none


def _deeptime(module: str) -> Any:
    """A module of deeptime, or an error that names the extra."""
    from importlib import import_module

    try:
        return import_module(f"deeptime.{module}")
    except ImportError as error:
        raise ImportError("tICA, VAMP and MSM need deeptime: pip install 'openmm_starmd[analysis]'") from error


def autocorrelation(points: NDArray[np.floating], lags: Sequence[int]) -> Array:
    """Autocorrelation of a run in principal components, all components pooled.

    Parameters
    ----------
    points : ndarray [frames, k]
        Projections on the reference's components.
    lags : sequence of int
        0 to frames - 1.

    Returns
    -------
    ndarray [lags]
        C(l) = Σ_k ⟨δx_k(t) δx_k(t+l)⟩ / Σ_k ⟨δx_k²⟩, deviations from the run's own mean; 1 at lag 0, nan for a run
        that does not move.

    Raises
    ------
    ValueError
        If a lag does not fit.
    """
    points = np.asarray(points, dtype=np.float64)
    frames = len(points)
    if any(not 0 <= lag < frames for lag in lags):
        raise ValueError(f"lags {list(lags)} do not fit {frames} frames: choose 0 to {frames - 1}")
    deviations = points - points.mean(0)
    size = 1 << (2 * frames - 1).bit_length()
    spectrum = np.fft.rfft(deviations, size, axis=0)
    sums = np.fft.irfft((np.abs(spectrum) ** 2).sum(1), size)[:frames]
    normal = sums / (frames - np.arange(frames))
    if normal[0] < 1e-14:
        return np.full(len(lags), np.nan)
    return (normal / normal[0])[list(lags)]


def slow_profile(points: NDArray[np.floating], projection: Projection, lag: int) -> Array:
    """Where the slowest mode moves: its size at each residue.

    Parameters
    ----------
    points : ndarray [frames, k]
        Projections on the reference's components.
    projection : Projection
        k components of N residues.
    lag : int
        Of tICA, in frames.

    Returns
    -------
    ndarray [N]
        nm per standard deviation of the slowest tIC: the covariance of each Cα's coordinates with it. nan if the run
        does not move.
    """
    points = np.asarray(points, dtype=np.float64)[:, :SLOW]
    residues = len(projection.target)
    if points.std(0).max() < _STILL:
        return np.full(residues, np.nan)
    model = _deeptime("decomposition").TICA(lagtime=lag, dim=1, scaling=None).fit(points).fetch_model()
    slowest = model.transform(points)[:, 0]
    slowest = (slowest - slowest.mean()) / slowest.std()
    loading = (points - points.mean(0)).T @ slowest / len(points)  # [k]
    pattern = loading @ projection.components[: points.shape[1]]
    return np.linalg.norm(pattern.reshape(residues, 3), axis=1)


def tica_agreement(
    reference: NDArray[np.floating], generated: NDArray[np.floating], projection: Projection, lag: int
) -> float:
    """Pearson correlation over residues of the two runs' :func:`slow_profile`; arguments [frames, k]."""
    return correlation(*(slow_profile(points, projection, lag) for points in (reference, generated)))


def vamp2_gap(
    reference: NDArray[np.floating], generated: NDArray[np.floating], lag: int, processes: int = 5
) -> tuple[float, float]:
    """How much of the reference's slow subspace is slow in the run.

    Parameters
    ----------
    reference, generated : ndarray [frames, k]
        Projections on the reference's components; the first ten are used.
    lag : int
        In frames.
    processes : int
        Singular functions.

    Returns
    -------
    score, gap : float
        VAMP-2 score (Wu and Noé 2020, J. Nonlinear Sci. 30, 23) of the reference's singular functions on the reference,
        the constant included, and that score minus the score of the same functions on the run: 0 for the same run, up
        to score - 1 for one without memory. The gap is nan for a run that does not move.

    Notes
    -----
    Both runs are scaled to the same size, which no score depends on, for deeptime's cutoff of variances is absolute.
    """
    decomposition, covariance = _deeptime("decomposition"), _deeptime("covariance")
    reference, generated = (np.asarray(x, dtype=np.float64)[:, :SLOW] for x in (reference, generated))
    scaled = reference / reference.std(0).max()
    model = decomposition.VAMP(lagtime=lag, epsilon=_EPSILON).fit(scaled).fetch_model()

    def score(points: Array) -> float:
        estimator = covariance.Covariance(lag, compute_c0t=True, compute_ctt=True, remove_data_mean=True)
        covariances = estimator.fit(points / points.std(0).max()).fetch_model()
        try:
            return float(decomposition.vamp_score(model, 2, covariances, processes, _EPSILON))
        except _deeptime("numeric").ZeroRankError:
            # a run that moves in its first or last frames only: just the constant has a counterpart a lag away
            return 1.0

    own = score(reference)
    return own, own - score(generated) if generated.std(0).max() >= _STILL else float("nan")


@dataclass(frozen=True)
class States:
    """States of the reference: the nearest of these centres.

    Attributes
    ----------
    centers : ndarray [states, d]
        In the reference's principal components, nm.
    """

    centers: Array

    def assign(self, points: NDArray[np.floating]) -> NDArray[np.int64]:
        """State [frames] of projections [frames, >= d]."""
        points = np.asarray(points)[:, : self.centers.shape[1]]
        distances = ((points[:, None] - self.centers) ** 2).sum(-1)
        return distances.argmin(1)


def find_states(reference: NDArray[np.floating], states: int = 5, dimensions: int = 2, seed: int = 0) -> States:
    """k-means of a reference in its first components; reference [frames, k]."""
    points = np.ascontiguousarray(np.asarray(reference, dtype=np.float64)[:, :dimensions])
    states = min(states, len(np.unique(points, axis=0)))
    model = _deeptime("clustering").KMeans(states, fixed_seed=seed, max_iter=200, n_jobs=1).fit(points).fetch_model()
    return States(np.asarray(model.cluster_centers))


def transition_counts(states: NDArray[np.integer], count: int, lag: int = 1) -> NDArray[np.int64]:
    """Transitions between states a lag apart, all starts.

    Parameters
    ----------
    states : ndarray [frames], int
    count : int
        Number of states.
    lag : int
        In frames.

    Returns
    -------
    ndarray [count, count], int
        From row to column.
    """
    pairs = np.asarray(states[:-lag]) * count + np.asarray(states[lag:])
    return np.bincount(pairs, minlength=count * count).reshape(count, count)


def implied_timescales(
    states: NDArray[np.integer], lags: Sequence[int], stride: float = 1.0, processes: int = 3
) -> Array:
    """Implied timescales of reversible Markov state models.

    Parameters
    ----------
    states : ndarray [frames], int
    lags : sequence of int
        In frames, one model each.
    stride : float
        ps per frame.
    processes : int
        Slowest ones.

    Returns
    -------
    ndarray [lags, processes]
        t = -lag / ln λ in ps, the slowest first; nan where there are fewer. Estimated on the largest connected set.
    """
    msm = _deeptime("markov.msm").MaximumLikelihoodMSM
    counts = _deeptime("markov").TransitionCountEstimator
    result = np.full((len(lags), processes), np.nan)
    states = np.asarray(states, dtype=np.int64)
    for row, lag in enumerate(lags):
        if not 1 <= lag < len(states):
            raise ValueError(f"lag {lag} does not fit {len(states)} frames: choose 1 to {len(states) - 1}")
        model = counts(lagtime=lag, count_mode="sliding").fit(states).fetch_model().submodel_largest()
        if model.n_states < 2:
            continue
        # an eigenvalue of zero is a process that is over at once
        with np.errstate(divide="ignore"):
            found = np.asarray(msm(reversible=True).fit(model).fetch_model().timescales())[:processes]
        result[row, : len(found)] = found * stride
    return result


def relative_error(run: NDArray[np.floating], reference: NDArray[np.floating]) -> float:
    """Mean absolute difference of two curves [lags] over the mean of the reference's."""
    require_matched(np.asarray(run)[:, None], np.asarray(reference)[:, None])
    return float(np.nanmean(np.abs(np.asarray(run) - reference)) / np.nanmean(reference))
