"""The amplitude of a protein's motion, read off a short trajectory of its own.

An elastic prior expects every mode to scatter as it does in the proteins that it was fitted to. How much more or less
one protein moves shows in its innovations: how far each frame lies from what the frames before it led to expect, in
units of the expected width. The factor on all widths that makes them most likely is the protein's amplitude.

How much a trajectory tells is what must be kept honest. The modes of a frame are wrong together where a protein is
softer than its kind, so a frame counts as few coordinates, whatever its length; windows that overlap count once; and
strides are pooled as views of one motion, whose evidence is averaged and not added up. What is left is weighed against
a prior of one for all proteins, which pulls the result of a few picoseconds towards 1. In 18 trajectories, of 80 ps and
more, of proteins of the training pool (``benchmarks/derive/calibration_error.py``), the logarithm of the amplitude that
the rest of one has at 10 ps is 0.20 off 0 (root mean square), 0.17 off what its first 5 ps say and 0.18 off what its
first 20 do, where the errors stated are 0.3 and 0.2. It comes out 0.06 too low, for motion widens as MD goes on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from openmm_starmd.geometry.rigid import Rigids, superpose
from openmm_starmd.model.elastic import ElasticModel
from openmm_starmd.model.elastic_settings import ElasticSettings
from openmm_starmd.model.features import Features

STRIDES = (1.0, 2.0, 5.0, 10.0)
"""Strides that innovations are taken over, ps."""
COORDINATES = 1.0
"""Independent coordinates that one innovation of a whole frame counts as; with it, errors are as large as stated."""
PRIOR = 0.5
"""Standard deviation of the logarithm of amplitudes, before anything is seen."""
LARGEST = 1.5
"""Largest absolute logarithm of an amplitude."""
MOST = 60
"""Windows of one kind that are looked at, evenly spread, so that long trajectories cost no more."""


@dataclass(frozen=True)
class Amplitude:
    """What a trajectory tells of a protein's amplitude.

    Attributes
    ----------
    log : float
        Natural logarithm of the factor on all displacements, as :attr:`Features.amplitude` has it.
    error : float
        Its standard error.
    frames : int
        Of the trajectory.
    """

    log: float
    error: float
    frames: int


def find_amplitude(
    frames: Rigids, interval: float, features: Features, settings: ElasticSettings, *, max_context: int
) -> Amplitude:
    """The most likely amplitude of a protein, given a short trajectory.

    Parameters
    ----------
    frames : Rigids [T, N]
        nm, superposed or not.
    interval : float
        Time between frames, ps.
    features : Features
        N residues, with the reference structure; its own amplitude counts for nothing.
    settings : ElasticSettings
    max_context : int
        Frames that a history may hold, the reference included: one more than an innovation looks back on.

    Returns
    -------
    Amplitude

    Raises
    ------
    ValueError
        If there are fewer than three frames, or they are not of this protein.
    """
    count, residues = frames.translations.shape[:2]
    if count < 3 or residues != features.length:
        raise ValueError(
            f"frames have shape {tuple(frames.translations.shape)}; at least three of {features.length} residues are "
            "needed to tell an amplitude"
        )
    frames = frames.to(torch.float64)
    model = ElasticModel.of(features.to("cpu", torch.float64), replace(settings, widening=0.0))
    steps = sorted({max(1, round(stride / interval)) for stride in STRIDES})
    steps = [step for step in steps if count > 2 * step] or [1]
    windows = {step: windows_of(frames, step, max_context - 1) for step in steps}
    evidence = {step: COORDINATES / len(steps) * ((count - 1) // step) for step in steps}

    def loss(log: float) -> float:
        there = scaled(model, log)
        found = log**2 / (2 * PRIOR**2)
        for step in steps:
            misfits = [misfit(there, window, step * interval) for window in windows[step]]
            found += evidence[step] * float(torch.cat(misfits).mean())
        return found

    log = float(minimize_scalar(loss, bounds=(-LARGEST, LARGEST), method="bounded", options={"xatol": 1e-3}).x)
    # the logarithm of a scale has 2 of information for each normal number that shows it
    return Amplitude(log, 1 / math.sqrt(2 * sum(evidence.values()) + 1 / PRIOR**2), count)


def windows_of(frames: Rigids, step: int, longest: int) -> list[Rigids]:
    """Frames with the histories before them.

    Parameters
    ----------
    frames : Rigids [T, N]
    step : int
        Frames from one of a window to the next.
    longest : int
        Most frames of a history.

    Returns
    -------
    list of Rigids [W, n + 1, N]
        Histories of n frames with the frame that follows, each superposed on the one before; one item for each n.
    """
    count = frames.translations.shape[0]
    targets = range(step, count)
    found = []
    for length in range(1, longest + 1):
        chosen = [t for t in targets if min(t // step, longest) == length]
        chosen = chosen[:: -(-len(chosen) // MOST) or 1]
        if not chosen:
            continue
        index = torch.tensor(chosen)[:, None] - step * torch.arange(length, -1, -1)
        window = frames.map(lambda x: x[index])  # noqa: B023
        posed = [window.map(lambda x: x[:, 0])]
        for place in range(1, length + 1):
            posed.append(superpose(window.map(lambda x: x[:, place]), posed[-1].translations))  # noqa: B023
        found.append(Rigids(*(torch.stack(part, 1) for part in zip(*posed, strict=True))))
    return found


def misfit(model: ElasticModel, window: Rigids, stride: float) -> Tensor:
    """Negative log-likelihood per coordinate of the last frames of windows [W, n + 1, N], given those before: [W]."""
    count, length = window.translations.shape[0], window.translations.shape[1] - 1
    history = window.map(lambda x: x[:, :length])
    ages = stride * torch.arange(length, 0, -1).to(window.translations).expand(count, -1)
    none = torch.zeros_like(ages)
    expected = model.expected(history, ages, none, none)
    shift = window.translations[:, -1:] - window.translations[:, length - 1 : length]
    along = model.coordinates(expected.axes, shift) - expected.mean.flatten(-2) @ model.vectors
    return 0.5 * (expected.variance.log() + along.square() / expected.variance).mean((-1, -2))


def scaled(model: ElasticModel, log: float) -> ElasticModel:
    """The model with all its widths times the exponential of `log`."""
    factor = math.exp(2 * log)
    return replace(model, fast=factor * model.fast, slow=factor * model.slow, constant=factor * model.constant)
