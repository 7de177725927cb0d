"""Noise schedules of translations and rotations (STAR-MD, table 8)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Schedule:
    """Variance-preserving noise on translations and logarithmic noise on rotations.

    Attributes
    ----------
    beta_min, beta_max : float
        Ends of the linear β of the translations (in nm: data of about unit scale).
    sigma_min, sigma_max : float
        Ends of the rotations' IGSO(3) width, radians.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    sigma_min: float = 0.1
    sigma_max: float = 1.5

    def __post_init__(self) -> None:
        if not 0 < self.beta_min <= self.beta_max:
            raise ValueError(f"need 0 < beta_min <= beta_max, got {self.beta_min} and {self.beta_max}")
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(f"need 0 < sigma_min < sigma_max, got {self.sigma_min} and {self.sigma_max}")

    def beta(self, tau: Tensor) -> Tensor:
        """Rate of the translations' noise at τ in [0, 1]."""
        return self.beta_min + (self.beta_max - self.beta_min) * tau

    def B(self, tau: Tensor) -> Tensor:  # noqa: N802 (the integral's usual symbol)
        """∫ β from 0 to τ."""
        return self.beta_min * tau + 0.5 * (self.beta_max - self.beta_min) * tau**2

    def alpha(self, tau: Tensor) -> Tensor:
        """Factor e^(−B/2) by which clean translations shrink."""
        return torch.exp(-0.5 * self.B(tau))

    def sigma_translation(self, tau: Tensor) -> Tensor:
        """Standard deviation sqrt(1 − e^(−B)) of the translations' noise, nm."""
        return torch.sqrt(-torch.expm1(-self.B(tau)))

    def sigma_rotation(self, tau: Tensor) -> Tensor:
        """IGSO(3) width ln(τ e^σmax + (1 − τ) e^σmin), radians."""
        return torch.log(tau * math.exp(self.sigma_max) + (1 - tau) * math.exp(self.sigma_min))

    def diffusion_rotation_squared(self, tau: Tensor) -> Tensor:
        """g² = dσ²/dτ = 2σ (e^σmax − e^σmin) / e^σ."""
        sigma = self.sigma_rotation(tau)
        return 2 * sigma * (math.exp(self.sigma_max) - math.exp(self.sigma_min)) * torch.exp(-sigma)
