"""Baselines that a model must beat, the floors: elastic networks of the start structure, sampled as dynamics.

Each mode of the network is an Ornstein-Uhlenbeck process: its variance goes with the inverse of its stiffness, and so
does its relaxation time (equal friction on all residues). Two numbers are taken from the reference, which flatters the
floor: the mean square fluctuation, and the RMSD of one frame to the next.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from openmm_starmd.analysis.flexibility import correlation, rmsd_against_lag, rmsf
from openmm_starmd.analysis.network_models import anm_rmsf, gnm_rmsf, hessian, kirchhoff, stiff_modes
from openmm_starmd.analysis.stereochemistry import of_trace
from openmm_starmd.analysis.validity import judge
from openmm_starmd.evaluation.runs import Run

Array = NDArray[np.float64]

# cutoffs in nm
NETWORKS = {"GNM 7 Å": 0.7, "GNM 10 Å": 1.0, "ANM 13 Å": 1.3, "ANM 15 Å": 1.5}


def best_network(alphas: NDArray[np.floating], fluctuation: NDArray[np.floating]) -> str:
    """Which of :data:`NETWORKS` of a structure [N, 3] correlates best with an RMSF [N]."""

    def agreement(name: str) -> float:
        model = gnm_rmsf if name.startswith("GNM") else anm_rmsf
        return float(np.nan_to_num(correlation(model(alphas, NETWORKS[name]), fluctuation), nan=-1.0))

    return max(NETWORKS, key=agreement)


def sample_network(
    alphas: NDArray[np.floating], name: str, frames: int, *, square: float, step: float, seed: int = 0
) -> Array:
    """Draw a trajectory of an elastic network.

    Parameters
    ----------
    alphas : ndarray [N, 3]
        Start structure, which is frame 0, nm.
    name : str
        Of :data:`NETWORKS`.
    frames : int
    square : float
        Mean square fluctuation of a residue, nm^2.
    step : float
        RMSD of one frame to the next, nm.
    seed : int

    Returns
    -------
    ndarray [frames, N, 3]
        nm.
    """
    n = len(alphas)
    gaussian = name.startswith("GNM")
    matrix = kirchhoff(alphas, NETWORKS[name]) if gaussian else hessian(alphas, NETWORKS[name])
    values, vectors = stiff_modes(matrix, 1 if gaussian else 6)
    copies = 3 if gaussian else 1  # a Gaussian network moves alike along x, y and z
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


def network_runs(reference: Run, seed: int = 0) -> list[Run]:
    """The best elastic network of the reference's first frame, as a run of as many frames.

    Parameters
    ----------
    reference : Run
    seed : int

    Returns
    -------
    list of Run
        One; none if the reference does not move.
    """
    start, fluctuation = reference.alphas[0].astype(np.float64), rmsf(reference.alphas)
    step = float(rmsd_against_lag(reference.alphas, [1])[0])
    if step < 1e-6:
        return []
    name = best_network(start, fluctuation)
    square = float((fluctuation**2).mean())
    alphas = sample_network(start, name, len(reference), square=square, step=step, seed=seed).astype(np.float32)
    valid = judge(alphas, reference.bonded).valid
    label = f"{name}, best of {len(NETWORKS)} networks"
    return [replace(reference, label=label, alphas=alphas, valid=valid, atoms=of_trace(len(alphas)), codes=None)]
