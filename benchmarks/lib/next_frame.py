"""What can be said of the next frame of MD, and what a model says of it: linear predictors, reversion, spread.

Positions are Cα in nm, displacements those from the last frame of a history, superposed on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from openmm_starmd.analysis.flexibility import mean_structure
from openmm_starmd.data.trajectories import ProteinData, Replica
from openmm_starmd.geometry.rigid import backbone_from_rigids
from openmm_starmd.geometry.superposition import superpose, superposition
from openmm_starmd.model.network import Network
from openmm_starmd.rollout import Rollout, kept_frames
from openmm_starmd.training.denoising import ANGSTROM, Windows

Array = NDArray[np.float64]

BANDS = {"PC 1-3": slice(0, 3), "PC 4-10": slice(3, 10), "the rest": slice(10, None)}
"""Principal components that figures are given of together."""


def gram(displacement: Array, regressors: Sequence[Array]) -> Array:
    """Mean products of displacements and of what they are predicted from.

    Parameters
    ----------
    displacement : ndarray [T, N, 3]
        Of T targets.
    regressors : sequence of K ndarray [T, N, 3]

    Returns
    -------
    ndarray [1 + K, 1 + K]
        Scalar products a residue, the displacement first; in the square of the unit.
    """
    vectors = np.stack([displacement, *regressors]).reshape(1 + len(regressors), -1)
    products: Array = vectors @ vectors.T / (vectors.shape[1] / 3)
    return products


def window_gram(windows: Windows) -> Array:
    """:func:`gram` of windows, with (mean of history - last) and (reference - last) to predict from.

    Histories are as the network is given them, with contextual noise; targets are not.

    Parameters
    ----------
    windows : Windows

    Returns
    -------
    ndarray [3, 3]
        nm².
    """
    history = windows.history.translations.double().numpy()
    truth = windows.truth.double().numpy()
    reference = windows.protein.features.reference.translations.double().numpy()
    found: list[list[Array]] = [[], [], []]
    for place in range(truth.shape[1]):
        last = history[:, place]
        before = np.mean([superpose(history[:, past], last) for past in range(place + 1)], axis=0)
        placed = superpose(np.broadcast_to(reference, last.shape), last)
        for kind, value in zip(found, (truth[:, place] - last, before - last, placed - last), strict=True):
            kind.append(value)
    displacement, *regressors = (np.concatenate(kind) for kind in found)
    return gram(displacement, regressors)


def coefficients(grams: Sequence[Array]) -> Array:
    """Coefficients of the best linear predictor over several proteins, each of which counts once.

    Parameters
    ----------
    grams : sequence of ndarray [1 + K, 1 + K]

    Returns
    -------
    ndarray [K]
        0 for a regressor that is zero everywhere.
    """
    mean = np.mean(np.asarray(grams), axis=0)
    found: Array = np.linalg.lstsq(mean[1:, 1:], mean[1:, 0], rcond=1e-10)[0]
    return found


def linear_rmse(products: Array, fitted: Array) -> float:
    """RMSE in Å of a linear predictor with these coefficients, from the :func:`gram` of its targets."""
    weights = np.concatenate([[1.0], -fitted])
    return ANGSTROM * float(np.sqrt(max(0.0, weights @ products @ weights)))


@dataclass(frozen=True)
class Axes:
    """Principal components of all frames of MD of one protein.

    Attributes
    ----------
    mean : ndarray [N, 3]
        Mean structure, nm.
    vectors : ndarray [3 N, components]
        By falling variance; as many as there are, 3 N - 6 at most.
    frames : int
        They rest on.
    picoseconds : float
        MD in all.
    """

    mean: Array
    vectors: Array
    frames: int
    picoseconds: float

    def project(self, vectors: Array, last: Array) -> Array:
        """Displacements [..., N, 3] from frames `last` [..., N, 3] on the components: [..., components]."""
        # the rotation that lays a frame on the mean turns what is added to it as well
        rotations, _ = superposition(torch.tensor(last), torch.tensor(self.mean).expand(last.shape))
        turned = vectors @ rotations.numpy().swapaxes(-1, -2)
        projected: Array = turned.reshape(*vectors.shape[:-2], -1) @ self.vectors
        return projected


def principal_axes(protein: ProteinData) -> Axes:
    """Axes of all frames of all replicas, at the interval that they were written at."""
    replicas = [replica.rigids(np.arange(len(replica))).translations.double().numpy() for replica in protein.replicas]
    frames = np.concatenate(replicas)
    mean = mean_structure(frames)
    apart = (superpose(frames, mean) - mean).reshape(len(frames), -1)
    _, _, vectors = np.linalg.svd(apart - apart.mean(0), full_matrices=False)
    most = max(1, min(apart.shape[1] - 6, len(frames) - 1))
    span = sum(len(replica) * replica.interval for replica in protein.replicas)
    return Axes(mean, vectors[:most].T, len(frames), float(span))


FEWEST = 4
"""Histories that figures of drawn frames are given of at least."""


@dataclass(frozen=True)
class Steps:
    """Next frames of C true histories: MD's, and M drawn by a model. All are superposed on the last frame.

    Attributes
    ----------
    last, truth, reference : ndarray [C, N, 3]
        nm.
    drawn : ndarray [C, M, N, 3]
        nm.
    """

    last: Array
    truth: Array
    reference: Array
    drawn: Array


def places(replicas: Sequence[Replica], stride: float, contexts: int) -> dict[int, list[tuple[Replica, int, int]]]:
    """Last frames of histories, evenly spread over all that have a frame before and one after them.

    Parameters
    ----------
    replicas : sequence of Replica
    stride : float
        ps; of replicas without frames so far apart none is taken.
    contexts : int
        At most.

    Returns
    -------
    dict of int to list of (Replica, int, int)
        By the number that the frame would have in a rollout from the start: replica, frame, frames a stride.
    """
    every = []
    for replica in replicas:
        step = round(stride / replica.interval)
        if step and abs(step * replica.interval - stride) <= 1e-3 * stride:
            # the first frame of a trajectory lies one interval after the start
            every += [(replica, frame, step) for frame in range(step - 1, len(replica) - step)]
    picked = (
        [every[i] for i in np.unique(np.linspace(0, len(every) - 1, contexts).round().astype(int))] if every else []
    )
    found: dict[int, list[tuple[Replica, int, int]]] = {}
    for replica, frame, step in picked:
        found.setdefault((frame + 1) // step, []).append((replica, frame, step))
    return found


def teacher_forced(network: Network, protein: ProteinData, stride: float, contexts: int, draws: int) -> Steps | None:
    """Draw the next frame after true histories, as a rollout would.

    Parameters
    ----------
    network : Network
    protein : ProteinData
        The model's history is its start and the newest frames of MD; where the MD is older than a whole number of
        strides, the start is by the rest older than the model is told.
    stride : float
        ps.
    contexts, draws : int
        Histories, and frames drawn after each.

    Returns
    -------
    Steps or None
        None if the MD has fewer than :data:`FEWEST` histories at the stride.
    """
    found = places(protein.replicas, stride, contexts)
    if sum(map(len, found.values())) < min(FEWEST, contexts):
        return None
    start = backbone_from_rigids(protein.features.reference.to(torch.float64))
    last, truth, drawn = [], [], []
    for count, group in found.items():
        batch = len(group) * draws
        numbers = [number for number in kept_frames(count, network.config.max_context) if number]

        def backbones(shift: int, group: Sequence[tuple[Replica, int, int]] = group) -> torch.Tensor:
            return torch.stack(
                [backbone_from_rigids(r.rigids(np.array(i + shift * k)).to(torch.float64)) for r, i, k in group]
            )

        frames = {0: start.expand(batch, *start.shape)}
        frames |= {number: backbones(number - count).repeat_interleave(draws, 0) for number in numbers}
        rollout = Rollout(network, protein.features, frames[0], stride=stride, seeds=range(batch))
        rollout.restore(frames, count, 0)
        frame = rollout.step().backbone[:, :, 1].numpy()
        drawn.append(frame.reshape(len(group), draws, *frame.shape[1:]))
        last.append(backbones(0)[:, :, 1].numpy())
        truth.append(backbones(1)[:, :, 1].numpy())
    end = np.concatenate(last)
    reference = np.broadcast_to(start[:, 1].numpy(), end.shape)
    return Steps(end, superpose(np.concatenate(truth), end), superpose(reference, end), np.concatenate(drawn))


def reversion_and_spread(steps: Steps, axes: Axes) -> dict[str, dict[str, float]]:
    """How far next frames go back to the reference, and how wide they are about their mean.

    Parameters
    ----------
    steps : Steps
    axes : Axes

    Returns
    -------
    dict of str to dict of str to float
        For ``"all"`` and each of :data:`BANDS`: ``reversion_md`` and ``reversion_model``, slopes of the (mean)
        displacement on (reference - last frame); ``moved``, MD's mean squared displacement; ``spread``, the variance of
        the model's draws about their mean; and ``needed``, the mean squared error of that mean, less what it owes to
        the number of draws: the variance that draws should have about it; all three summed over components, Å².
    """
    away = axes.project(steps.reference - steps.last, steps.last)
    moved = axes.project(steps.truth - steps.last, steps.last)
    repeated = np.broadcast_to(steps.last[:, None], steps.drawn.shape)
    model = axes.project(steps.drawn - repeated, repeated)
    mean, variance = model.mean(1), model.var(1, ddof=1)
    found = {}
    for name, band in {"all": slice(None), **BANDS}.items():
        x, y, m, v = away[:, band], moved[:, band], mean[:, band], variance[:, band]
        spread = v.sum(-1).mean()
        found[name] = {
            "reversion_md": float((x * y).sum() / (x * x).sum()),
            "reversion_model": float((x * m).sum() / (x * x).sum()),
            "moved": ANGSTROM**2 * float((y * y).sum(-1).mean()),
            "spread": ANGSTROM**2 * float(spread),
            "needed": ANGSTROM**2 * float(((y - m) ** 2).sum(-1).mean() - spread / model.shape[1]),
        }
    return found


def pooled_bands(proteins: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Mean over proteins of what :func:`reversion_and_spread` found of each."""
    return {
        band: {key: float(np.mean([protein[band][key] for protein in proteins])) for key in values}
        for band, values in proteins[0].items()
    }
