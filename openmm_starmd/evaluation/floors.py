"""Baselines that a model must beat, the floors: elastic networks of the start structure, sampled as dynamics.

All proteins have the same network (:data:`~openmm_starmd.analysis.network_models.FLOOR`); the best of several for a
protein stands beside it as what it is, chosen with hindsight. Each mode of a network is an Ornstein-Uhlenbeck process,
whose variance goes with the inverse of its stiffness, and so does its relaxation time (equal friction on all residues).
Two numbers are taken from the reference, which flatters the floor: the mean square fluctuation, and the RMSD of one
frame to the next.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from openmm_starmd.analysis.flexibility import correlation, rmsd_against_lag, rmsf
from openmm_starmd.analysis.network_models import FLOOR, NETWORKS, network_modes, network_rmsf
from openmm_starmd.analysis.stereochemistry import of_trace
from openmm_starmd.analysis.validity import judge
from openmm_starmd.evaluation.runs import Run

Array = NDArray[np.float64]

HINDSIGHT = f"best of {len(NETWORKS)} with hindsight"


def best_network(
    alphas: NDArray[np.floating], fluctuation: NDArray[np.floating], bonded: NDArray[np.bool_] | None = None
) -> str:
    """Which of :data:`~openmm_starmd.analysis.network_models.NETWORKS` of a structure correlates best with an RMSF.

    Parameters
    ----------
    alphas : ndarray [N, 3]
        nm.
    fluctuation : ndarray [N]
        What the best one is picked with: a figure of it knows the answer.
    bonded : ndarray [N-1], bool, optional
        Whether each residue is bonded to the next; all are by default.

    Returns
    -------
    str
    """

    def agreement(name: str) -> float:
        return float(np.nan_to_num(correlation(network_rmsf(alphas, name, bonded), fluctuation), nan=-1.0))

    return max(NETWORKS, key=agreement)


def sample_network(
    alphas: NDArray[np.floating],
    name: str,
    frames: int,
    *,
    square: float,
    step: float,
    seed: int = 0,
    bonded: NDArray[np.bool_] | None = None,
) -> Array:
    """Draw a trajectory of an elastic network.

    Parameters
    ----------
    alphas : ndarray [N, 3]
        Start structure, which is frame 0, nm.
    name : str
        Of :data:`~openmm_starmd.analysis.network_models.NETWORKS`.
    frames : int
    square : float
        Mean square fluctuation of a residue, nm^2.
    step : float
        RMSD of one frame to the next, nm.
    seed : int
    bonded : ndarray [N-1], bool, optional
        Whether each residue is bonded to the next; all are by default.

    Returns
    -------
    ndarray [frames, N, 3]
        nm.
    """
    n = len(alphas)
    values, vectors, copies = network_modes(alphas, name, bonded)
    variances = square * n / (copies * (1 / values).sum()) / values

    def excess(log_rate: float) -> float:
        lost = -np.expm1(-np.exp(log_rate) * values)
        return float(np.log(copies * (2 * variances * lost).sum() / n) - 2 * np.log(step))

    # frames that are independent move by the square root of 2 times the fluctuation; no rate gives more
    top = 30.0
    rate = np.exp(top if excess(top) <= 0 else brentq(excess, -60.0, top))
    kept = np.exp(-rate * values)[:, None]
    spread = np.sqrt(variances[:, None] * (1 - kept**2))
    generator = np.random.default_rng(seed)
    amplitudes = np.zeros((len(values), copies))
    result = np.empty((frames, n, 3))
    for frame in range(frames):
        if frame:
            amplitudes = kept * amplitudes + spread * generator.normal(size=amplitudes.shape)
        result[frame] = alphas + (vectors @ amplitudes).reshape(n, 3)
    return result


def network_runs(reference: Run, seed: int = 0, hindsight: bool = True) -> list[Run]:
    """Elastic networks of the reference's first frame, as runs of as many frames.

    Parameters
    ----------
    reference : Run
    seed : int
    hindsight : bool
        Also the one that fits the reference's RMSF best, where that is another.

    Returns
    -------
    list of Run
        The same network for every protein, then the best; none if the reference does not move.
    """
    start, fluctuation = reference.alphas[0].astype(np.float64), rmsf(reference.alphas)
    step = float(rmsd_against_lag(reference.alphas, [1])[0])
    if step < 1e-6:
        return []
    labels = {FLOOR: f"elastic network {FLOOR}"}
    best = best_network(start, fluctuation, reference.bonded)
    if hindsight and best != FLOOR:
        labels[best] = f"elastic network {best}, {HINDSIGHT}"
    runs = []
    for name, label in labels.items():
        square = float((fluctuation**2).mean())
        alphas = sample_network(
            start, name, len(reference), square=square, step=step, seed=seed, bonded=reference.bonded
        ).astype(np.float32)
        valid = judge(alphas, reference.bonded).valid
        trace = of_trace(len(alphas))
        runs.append(replace(reference, label=label, alphas=alphas, valid=valid, atoms=trace, codes=None))
    return runs
