"""The forward process on rigids, and the scores of a noisy frame given a clean one.

Shapes: rigids ``[..., N]``; diffusion times τ ``[...]``, one a frame (or a scalar for all).
"""

from __future__ import annotations

from torch import Tensor

from openmm_starmd.diffusion import igso3
from openmm_starmd.diffusion.schedule import Schedule
from openmm_starmd.geometry.rigid import Rigids
from openmm_starmd.geometry.so3 import log_map


def forward_noise(
    rigids: Rigids, tau: Tensor, noise_translation: Tensor, rotation_noise: Tensor, schedule: Schedule
) -> Rigids:
    """Noisy rigids ``α x_0 + σ ε`` and ``R_0 N`` with N from IGSO(3).

    Parameters
    ----------
    rigids : Rigids [..., N]
        Clean rigids, translations in nm.
    tau : Tensor [...]
        Diffusion times in [0, 1].
    noise_translation : Tensor [..., N, 3]
        Standard normal draws.
    rotation_noise : Tensor [..., N, 3, 3]
        Draws of :func:`openmm_starmd.diffusion.igso3.sample` at ``schedule.sigma_rotation(tau)[..., None]``.
    schedule : Schedule

    Returns
    -------
    Rigids [..., N]
    """
    tau = tau.double()[..., None, None]
    like = rigids.translations
    alpha, sigma = schedule.alpha(tau).to(like), schedule.sigma_translation(tau).to(like)
    return Rigids(rigids.rotations @ rotation_noise, alpha * like + sigma * noise_translation)


def centred(noise: Tensor) -> Tensor:
    """Draws [..., N, 3] without their mean over residues."""
    return noise - noise.mean(-2, keepdim=True)


def score_translation(x_tau: Tensor, x_0: Tensor, tau: Tensor, schedule: Schedule) -> Tensor:
    """Score ``(α x_0 − x_τ)/σ²`` of the translations.

    Parameters
    ----------
    x_tau, x_0 : Tensor [..., N, 3]
        Noisy and clean translations, nm.
    tau : Tensor [...]
        Diffusion times in (0, 1].
    schedule : Schedule

    Returns
    -------
    Tensor [..., N, 3]
        Per nm.
    """
    tau = tau.double()[..., None, None]
    alpha, variance = schedule.alpha(tau), schedule.sigma_translation(tau).square()
    return (alpha.to(x_0) * x_0 - x_tau) / variance.to(x_0)


def score_rotation(r_tau: Tensor, r_0: Tensor, tau: Tensor, schedule: Schedule) -> Tensor:
    """Score of the rotations, a tangent vector at ``R_τ`` in the axes it carries.

    Parameters
    ----------
    r_tau, r_0 : Tensor [..., N, 3, 3]
        Noisy and clean rotations.
    tau : Tensor [...]
        Diffusion times in [0, 1].
    schedule : Schedule

    Returns
    -------
    Tensor [..., N, 3]
        ``∂_ω ln f`` along the axis of ``R_0ᵀ R_τ``, per radian.
    """
    sigma = schedule.sigma_rotation(tau.double())[..., None]
    return igso3.score(log_map(r_0.transpose(-1, -2) @ r_tau), sigma)
