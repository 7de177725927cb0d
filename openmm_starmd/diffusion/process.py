"""The forward process on rigids and the scores of its transition densities."""

from __future__ import annotations

from torch import Tensor

from openmm_starmd.diffusion import igso3
from openmm_starmd.diffusion.schedule import Schedule
from openmm_starmd.geometry.rigid import Rigids
from openmm_starmd.geometry.so3 import log_map


def forward_noise(
    rigids: Rigids, tau: Tensor, noise_translation: Tensor, rotation_noise: Tensor, schedule: Schedule
) -> Rigids:
    """Clean rigids brought to diffusion time τ: ``T_τ = α T_0 + σ ε`` and ``R_τ = R_0 Δ``.

    Parameters
    ----------
    rigids : Rigids [..., N]
        Centred, nm.
    tau : Tensor [...]
        One diffusion time per frame.
    noise_translation : Tensor [..., N, 3]
        Standard normal.
    rotation_noise : Tensor [..., N, 3, 3]
        Drawn from IGSO(3) of width ``schedule.sigma_rotation(tau)``, see :func:`igso3.sample`.
    schedule : Schedule

    Returns
    -------
    Rigids [..., N]
    """
    alpha, sigma = schedule.alpha(tau)[..., None, None], schedule.sigma_translation(tau)[..., None, None]
    return Rigids(rigids.rotations @ rotation_noise, alpha * rigids.translations + sigma * noise_translation)


def score_translation(noisy: Tensor, clean: Tensor, tau: Tensor, schedule: Schedule) -> Tensor:
    """Score ``(α T_0 − T_τ)/σ²`` of the noisy translations [..., N, 3], per nm, with `tau` of shape [...]."""
    alpha, sigma = schedule.alpha(tau)[..., None, None], schedule.sigma_translation(tau)[..., None, None]
    return (alpha * clean - noisy) / sigma.square()


def score_rotation(noisy: Tensor, clean: Tensor, tau: Tensor, schedule: Schedule) -> Tensor:
    """Score of the noisy rotations [..., N, 3, 3] in their own axes, [..., N, 3] per rad, with `tau` of shape [...]."""
    vector = log_map(clean.transpose(-1, -2) @ noisy)
    return igso3.score(vector, schedule.sigma_rotation(tau)[..., None])
