"""From noise to a clean frame: ways of stepping back in diffusion time, behind one interface.

A rollout denoises a frame with K calls of the network and K − 1 steps, and reports the last clean estimate::

    grid = sampler.timesteps(K)
    x, previous = prior(noise_prior), None
    for k in range(K):
        x_0 = network(x, grid[k])
        if k + 1 < K:
            x = sampler.step(x, x_0, grid[k], grid[k + 1], noise[k], previous)
            previous = (x_0, grid[k])

There are three: the paper's Euler-Maruyama, DDPM's posterior and DPM-Solver++(2M).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from openmm_starmd.diffusion import igso3
from openmm_starmd.diffusion.process import score_rotation, score_translation
from openmm_starmd.diffusion.schedule import Schedule
from openmm_starmd.geometry.rigid import Rigids
from openmm_starmd.geometry.so3 import exp_map, log_map, rotation_from_gaussian


class Sampler(Protocol):
    """A way back from noise to data. Holds no state and draws no random numbers: the noise is the caller's."""

    def timesteps(self, steps: int) -> Tensor:
        """Diffusion times ``[steps]``, float64 and falling, at which the network is called.

        Parameters
        ----------
        steps : int
            Number of network calls, at least 1.
        """
        ...

    def step(
        self,
        rigids: Rigids,
        predicted: Rigids,
        tau: Tensor,
        tau_next: Tensor,
        noise: Tensor,
        previous: tuple[Rigids, Tensor] | None = None,
    ) -> Rigids:
        """One step from τ to the smaller τ_next.

        Parameters
        ----------
        rigids : Rigids [..., N]
            Noisy rigids at `tau`, translations in nm about the origin of the prior.
        predicted : Rigids [..., N]
            The network's clean rigids, x̂_0, in the same pose.
        tau, tau_next : Tensor [] or [...]
            Diffusion times, for all frames or one each.
        noise : Tensor [..., N, 6]
            Standard normal draws: three for the translation, three for the rotation in the residue's own axes.
        previous : tuple of Rigids and Tensor, optional
            The prediction before this one and its τ, for samplers that use both; the others leave it alone.

        Returns
        -------
        Rigids [..., N]
            Noisy rigids at `tau_next`, in the dtype of `rigids`.
        """
        ...


def prior(noise: Tensor) -> Rigids:
    """Rigids at τ = 1: unit Gaussian translations (nm), uniform rotations.

    Parameters
    ----------
    noise : Tensor [..., N, 7]
        Standard normal draws: three for the translation, four for the rotation (as a quaternion).
    """
    return Rigids(rotation_from_gaussian(noise[..., 3:]), noise[..., :3])


def anchored_prior(noise: Tensor, anchor: Rigids, schedule: Schedule) -> Rigids:
    """Rigids at τ = 1 around a pose that the clean frame is near: the forward process's own distribution.

    Uniform rotations are 13 % in total variation away from IGSO(3) of σ = 1.5.

    Parameters
    ----------
    noise : Tensor [..., N, 7]
        Standard normal draws: three for the translation, one for the rotation's angle, three for its axis.
    anchor : Rigids [..., N]
    schedule : Schedule
    """
    tau = torch.ones((), dtype=torch.float64, device=noise.device)
    like = anchor.translations
    uniform = torch.special.ndtr(noise[..., 3].double())
    turn = igso3.sample(schedule.sigma_rotation(tau), uniform, noise[..., 4:])
    alpha, sigma = schedule.alpha(tau).to(like), schedule.sigma_translation(tau).to(like)
    return Rigids(anchor.rotations @ turn, alpha * like + sigma * noise[..., :3])


@dataclass(frozen=True)
class EulerMaruyama:
    """The paper's sampler: Euler-Maruyama on the reverse SDE, evenly spaced in τ (STAR-MD, table 8: 200 steps).

    Attributes
    ----------
    schedule : Schedule
    tau_end : float
        Diffusion time of the last network call.
    """

    schedule: Schedule
    tau_end: float = 0.01

    def timesteps(self, steps: int) -> Tensor:
        """See :meth:`Sampler.timesteps`."""
        _check(steps, self.tau_end)
        return torch.linspace(1.0, self.tau_end, steps, dtype=torch.float64)

    def step(
        self,
        rigids: Rigids,
        predicted: Rigids,
        tau: Tensor,
        tau_next: Tensor,
        noise: Tensor,
        previous: tuple[Rigids, Tensor] | None = None,
    ) -> Rigids:
        """See :meth:`Sampler.step`."""
        x, r = rigids.translations, rigids.rotations
        per_frame = tau.double()[..., None, None]
        length = per_frame - tau_next.double()[..., None, None]

        # dx = [−½ β x − β ∇ln p] dτ + sqrt(β) dw, run backwards
        rate = self.schedule.beta(per_frame) * length
        drift = 0.5 * x + score_translation(x, predicted.translations, tau, self.schedule)
        translations = x + rate.to(x) * drift + rate.sqrt().to(x) * noise[..., :3]

        # dR = R (−g² ∇ln p dτ + g dw), run backwards along geodesics
        rate = self.schedule.diffusion_rotation_squared(per_frame) * length
        drift = score_rotation(r, predicted.rotations, tau, self.schedule)
        turn = rate.to(x) * drift + rate.sqrt().to(x) * noise[..., 3:]
        return Rigids(r @ exp_map(turn), translations)


@dataclass(frozen=True)
class Posterior:
    """Draws from the forward process's posterior between x̂_0 and x_τ, evenly spaced in ln τ; good for few steps.

    It treats x̂_0 as certain, so that frames come out narrow: 13 % at 20 steps, 5 % at 50.

    On translations this is DDPM's ``q(x_s | x_t, x̂_0)`` (Ho et al. 2020, arXiv 2006.11239, eq. 7), exact for any step.
    On rotations it is the same bridge for the rotation vector ``v = log(R̂_0ᵀ R_t)``, mean ``v σ_s²/σ_t²`` and variance
    ``σ_s² (1 − σ_s²/σ_t²)``, exact as far as rotations within σ_t of R̂_0 are flat.

    Attributes
    ----------
    schedule : Schedule
    tau_end : float
        Diffusion time of the last network call.
    """

    schedule: Schedule
    tau_end: float = 0.001

    def timesteps(self, steps: int) -> Tensor:
        """See :meth:`Sampler.timesteps`."""
        _check(steps, self.tau_end)
        return torch.linspace(0.0, 1.0, steps, dtype=torch.float64).mul(math.log(self.tau_end)).exp()

    def step(
        self,
        rigids: Rigids,
        predicted: Rigids,
        tau: Tensor,
        tau_next: Tensor,
        noise: Tensor,
        previous: tuple[Rigids, Tensor] | None = None,
    ) -> Rigids:
        """See :meth:`Sampler.step`."""
        schedule, x = self.schedule, rigids.translations
        t, s = tau.double()[..., None, None], tau_next.double()[..., None, None]

        gap = schedule.B(t) - schedule.B(s)
        kept = schedule.sigma_translation(s).square() / schedule.sigma_translation(t).square()
        fresh = -torch.expm1(-gap)  # variance gained between s and t
        towards = schedule.alpha(s) * fresh / schedule.sigma_translation(t).square()
        translations = (
            (torch.exp(-0.5 * gap) * kept).to(x) * x
            + towards.to(x) * predicted.translations
            + (fresh * kept).sqrt().to(x) * noise[..., :3]
        )

        kept = (schedule.sigma_rotation(s) / schedule.sigma_rotation(t)).square()
        spread = schedule.sigma_rotation(s) * (1 - kept).sqrt()
        vector = log_map(predicted.rotations.transpose(-1, -2) @ rigids.rotations)
        turn = exp_map(kept.to(x) * vector + spread.to(x) * noise[..., 3:])
        return Rigids(predicted.rotations @ turn, translations)


def _check(steps: int, tau_end: float) -> None:
    if steps < 1:
        raise ValueError(f"a frame needs at least one denoising step, got {steps}")
    if not 0 < tau_end < 1:
        raise ValueError(f"tau_end must lie between 0 and 1, got {tau_end}")


@dataclass(frozen=True)
class Multistep:
    """DPM-Solver++(2M) on translations and, in the same form, on rotation vectors relative to R̂_0.

    Attributes
    ----------
    schedule : Schedule
    tau_end : float
        Diffusion time of the last network call.
    stochasticity : float
        0 for the probability-flow ODE; 1 renews noise as the forward process's posterior does (the η of DDIM, Song et
        al. 2021, arXiv 2010.02502, eq. 16). Some renewal forgets what the flat treatment of wide rotations gets wrong.
    """

    schedule: Schedule
    tau_end: float = 0.001
    stochasticity: float = 0.5

    def timesteps(self, steps: int) -> Tensor:
        """See :meth:`Sampler.timesteps`."""
        if steps < 1:
            raise ValueError(f"a frame needs at least one denoising step, got {steps}")
        return torch.linspace(0.0, 1.0, steps, dtype=torch.float64).mul(math.log(self.tau_end)).exp()

    def step(
        self,
        rigids: Rigids,
        predicted: Rigids,
        tau: Tensor,
        tau_next: Tensor,
        noise: Tensor,
        previous: tuple[Rigids, Tensor] | None = None,
    ) -> Rigids:
        """See :meth:`Sampler.step`; first order where `previous` is None."""
        schedule, x = self.schedule, rigids.translations
        t, s = tau.double()[..., None, None], tau_next.double()[..., None, None]
        # noise over signal, with the shrinking of the translations undone
        ratio_t = schedule.sigma_translation(t) / schedule.alpha(t)
        ratio_s = schedule.sigma_translation(s) / schedule.alpha(s)
        # rotation vectors spread less than σ where rotations wrap around; an error of the first step here would stay
        turn_t, turn_s = (igso3.flat_width(schedule.sigma_rotation(x)) for x in (t, s))
        if previous is not None:
            older, tau_older = previous
            o = tau_older.double()[..., None, None]
            ratio_o = schedule.sigma_translation(o) / schedule.alpha(o)
            reach = 0.5 * (ratio_t / ratio_s).log() / (ratio_o / ratio_t).log()
            turn_o = igso3.flat_width(schedule.sigma_rotation(o))
            turn_reach = 0.5 * (turn_t / turn_s).log() / (turn_o / turn_t).log()
            change = log_map(older.rotations.transpose(-1, -2) @ predicted.rotations)
            predicted = Rigids(
                predicted.rotations @ exp_map(turn_reach.to(x) * change),
                predicted.translations + reach.to(x) * (predicted.translations - older.translations),
            )
        kept, fresh = self._split(ratio_t, ratio_s)
        shift = x / schedule.alpha(t).to(x) - predicted.translations
        translations = predicted.translations + kept.to(x) * shift + fresh.to(x) * noise[..., :3]
        kept, fresh = self._split(turn_t, turn_s)
        vector = log_map(predicted.rotations.transpose(-1, -2) @ rigids.rotations)
        turn = exp_map(kept.to(x) * vector + fresh.to(x) * noise[..., 3:])
        return Rigids(predicted.rotations @ turn, schedule.alpha(s).to(x) * translations)

    def _split(self, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        """Factor on the noise that is kept, and width of the noise that is renewed."""
        fresh = self.stochasticity * after * (1 - (after / before).square()).sqrt()
        return (after.square() - fresh.square()).sqrt() / before, fresh


SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "euler-maruyama": EulerMaruyama,
    "posterior": Posterior,
    "multistep": Multistep,
}


@dataclass(frozen=True)
class SamplerSettings:
    """How frames are drawn.

    Attributes
    ----------
    sampler : str
        ``"multistep"``, ``"posterior"`` or ``"euler-maruyama"``.
    steps : int
        Denoising steps (network calls) per frame.
    tau_end : float
        Diffusion time of the last network call.
    context_tau : float
        Upper end of the contextual noise's uniform diffusion time; 0 switches it off.
    max_context : int
        Most frames the history holds.
    noise_scale : float
        Factor on the noise that each denoising step adds (S_noise of Karras et al. 2022, arXiv 2206.00364, section 4):
        a network trained to least squares predicts too little spread, and this gives it back.
    """

    sampler: str = "multistep"
    steps: int = 20
    tau_end: float = 0.0005
    context_tau: float = 0.005
    max_context: int = 7
    noise_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; at least one denoising step is needed")
        if self.max_context < 3:
            raise ValueError(f"max_context is {self.max_context}; it must be at least 3")
        if not 0 <= self.context_tau <= 1:
            raise ValueError(f"context_tau is {self.context_tau}; it must lie in [0, 1]")
        if not self.noise_scale > 0:
            raise ValueError(f"noise_scale is {self.noise_scale}; it must be positive")
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler is {self.sampler!r}; choose one of {sorted(SAMPLERS)}")
