"""How a rollout draws: which sampler, how many steps, how much history."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from openmm_starmd.diffusion.multistep import Multistep
from openmm_starmd.diffusion.samplers import EulerMaruyama, Posterior, Sampler

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


def kept_frames(count: int, max_context: int) -> list[int]:
    """Numbers of the frames in memory when frame `count` is the newest.

    Parameters
    ----------
    count : int
        Number of the newest frame; the start is frame 0.
    max_context : int
        At least 3.

    Returns
    -------
    list of int
        0 first, then the newest contiguous ones; at most `max_context`.
    """
    room = max_context - 1
    block = (room + 1) // 2
    recent = count if count <= room else room - block + 1 + (count - room - 1) % block
    return [0, *range(count - recent + 1, count + 1)]
