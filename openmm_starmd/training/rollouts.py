"""Validation during training: short rollouts beside MD of the same protein."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


@dataclass(frozen=True)
class Trial:
    """One protein to roll out.

    Attributes
    ----------
    name : str
    features : Features
    rmsf : np.ndarray [N]
        Of Cα in MD, nm: mean over stretches as long as the rollout.
    stride : float
        ps.
    frames : int
        To draw.
    """

    name: str
    features: Features
    rmsf: np.ndarray
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
        If a protein's MD is too short for the stride, or the model does not know the stride.
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
        measured = []
        for replica in protein.replicas:
            step = max(1, round(stride / replica.interval))
            count = min(settings.frames, len(replica) // step)
            for begin in range(0, len(replica) - count * step + 1, max(1, count * step)):
                if count >= 2:
                    frames = begin + step * np.arange(count)
                    measured.append(rmsf(replica.rigids(frames).translations.double().numpy()))
        if not measured:
            raise ValueError(
                f"the MD of {protein.name} is too short to validate at a stride of {stride:g} ps: lower "
                "validation.stride, or choose another protein with --validate"
            )
        found.append(Trial(protein.name, protein.features, np.mean(measured, axis=0), stride, settings.frames))
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
    alphas = torch.stack([rollout.step().backbone[0, :, 1] for _ in range(trial.frames)]).numpy()
    verdict = judge(alphas, features.bonded.numpy())
    drawn = rmsf(alphas) if np.isfinite(alphas).all() else np.full(len(trial.rmsf), np.nan)
    return {
        f"valid/{trial.name}": float(verdict.valid.mean()),
        f"rmsf_r/{trial.name}": float(correlation(drawn, trial.rmsf)),
        f"rmsf_ratio/{trial.name}": float(drawn.mean() / trial.rmsf.mean()),
    }


def validator(
    proteins: Sequence[ProteinData], settings: ValidationSettings, config: ModelConfig, device: str | torch.device
) -> tuple[Callable[[Network], dict[str, float]], list[str]]:
    """What the keeper calls, and the columns it fills."""
    chosen = trials(proteins, settings, config)

    def validate(network: Network) -> dict[str, float]:
        figures: dict[str, float] = {}
        for trial in chosen:
            figures.update(roll_out(network, trial, device))
        return figures

    return validate, [f"{kind}/{trial.name}" for trial in chosen for kind in ("valid", "rmsf_r", "rmsf_ratio")]
