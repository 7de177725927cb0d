"""Validation during training: short rollouts beside MD of the same protein."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from openmm_starmd.data.trajectories import ProteinData
from openmm_starmd.geometry.rigid import backbone_from_rigids
from openmm_starmd.model.config import ModelConfig
from openmm_starmd.model.features import Features
from openmm_starmd.model.network import Network
from openmm_starmd.rollout import Rollout
from openmm_starmd.training.settings import ValidationSettings

OFF = 0.01
"""Share by which the spacing of MD's frames may differ from the stride."""


@dataclass(frozen=True)
class Trial:
    """One protein to roll out.

    Attributes
    ----------
    name : str
    features : Features
    rmsf : np.ndarray [N]
        Of Cα in MD, nm: mean over stretches of `compared` frames.
    compared : int
        Frames whose fluctuation is compared: all that are drawn, or as many as the longest MD has.
    stride : float
        ps.
    frames : int
        To draw.
    """

    name: str
    features: Features
    rmsf: np.ndarray
    compared: int
    stride: float
    frames: int


def trials(proteins: Sequence[ProteinData], settings: ValidationSettings, config: ModelConfig) -> list[Trial]:
    """Measure the MD that rollouts will be held against.

    Parameters
    ----------
    proteins : sequence of ProteinData
    settings : ValidationSettings
    config : ModelConfig

    Returns
    -------
    list of Trial

    Raises
    ------
    ValueError
        If a protein's MD is too short or has no frames at the stride, or the model does not know the stride.
    """
    from openmm_starmd.analysis.flexibility import rmsf

    stride = settings.stride or config.stride_default
    if not config.stride_min <= stride <= config.stride_max:
        raise ValueError(
            f"validation.stride is {stride:g} ps, outside the {config.stride_min:g} to {config.stride_max:g} ps of the "
            "model"
        )
    found = []
    for protein in proteins:
        steps = [(replica, round(stride / replica.interval)) for replica in protein.replicas]
        fitting = [(r, step) for r, step in steps if step and abs(step * r.interval - stride) <= OFF * stride]
        count = max((min(settings.frames, len(r) // step) for r, step in fitting), default=0)
        if count < 2:
            intervals = ", ".join(sorted({f"{replica.interval:g}" for replica in protein.replicas}))
            raise ValueError(
                f"the MD of {protein.name} is too short to validate at a stride of {stride:g} ps, or has no frames so "
                f"far apart (its frames lie {intervals} ps apart): change validation.stride, or choose another protein "
                "with --validate"
            )
        # fluctuations grow with time: only stretches of equal length are alike
        measured = [
            rmsf(replica.rigids(begin + step * np.arange(count)).translations.double().numpy())
            for replica, step in fitting
            for begin in range(0, len(replica) - count * step + 1, count * step)
        ]
        found.append(
            Trial(protein.name, protein.read_features(), np.mean(measured, axis=0), count, stride, settings.frames)
        )
    return found


def roll_out(network: Network, trial: Trial, device: str | torch.device) -> dict[str, float]:
    """Draw one trajectory and judge it.

    Parameters
    ----------
    network : Network
    trial : Trial
    device : str or torch.device

    Returns
    -------
    dict of str to float
        ``valid/NAME``, the share of valid frames; ``rmsf_r/NAME``, correlation of the RMSF profile with MD's; and
        ``rmsf_ratio/NAME``, its mean over MD's.
    """
    from openmm_starmd.analysis.flexibility import correlation, rmsf
    from openmm_starmd.analysis.validity import judge

    features = trial.features
    start = backbone_from_rigids(features.reference.to(torch.float64))[None]
    rollout = Rollout(network, features, start, stride=trial.stride, seeds=(0,), device=device)
    alphas = np.full((trial.frames, features.length, 3), np.nan)
    for frame in range(trial.frames):
        try:
            alphas[frame] = rollout.step().backbone[0, :, 1].numpy()
        except RuntimeError:
            # half-trained weights may give frames that are not finite: count them as invalid and go on training
            break
    verdict = judge(alphas, features.bonded.numpy())
    compared = alphas[: trial.compared]
    drawn = rmsf(compared) if np.isfinite(compared).all() else np.full(len(trial.rmsf), np.nan)
    return {
        f"valid/{trial.name}": float(verdict.valid.mean()),
        f"rmsf_r/{trial.name}": float(correlation(drawn, trial.rmsf)),
        f"rmsf_ratio/{trial.name}": float(drawn.mean() / trial.rmsf.mean()),
    }


def rollout_columns(chosen: Sequence[Trial]) -> list[str]:
    """Names of the figures that :func:`roll_out` gives of all trials."""
    return [f"{kind}/{trial.name}" for trial in chosen for kind in ("valid", "rmsf_r", "rmsf_ratio")]
