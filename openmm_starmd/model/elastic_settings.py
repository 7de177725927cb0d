"""The numbers of the elastic prior, as they stand in the configuration of weights."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class ElasticSettings:
    """Variances and rates of modes as powers of their stiffness λ, in units of the spring of two Cα at 3.8 Å.

    The defaults are fitted to MD of the training pool (benchmarks/results/elastic_prior.json).

    Attributes
    ----------
    fast, fast_power, fast_floor : float
        Fast variance ``fast λ^-fast_power + fast_floor``, nm².
    fast_rate, fast_rate_power : float
        Fast rate ``fast_rate λ^fast_rate_power``, 1/ps.
    slow, slow_power, slow_limit : float
        Slow variance ``slow λ^-slow_power / (1 + (λ / slow_limit)²)``, nm²: stiff modes have none.
    slow_rate, slow_rate_power : float
        Slow rate, 1/ps.
    constant : float
        Constant variance over fast and slow variance together: how far from the reference a mode's centre lies.
    turn_fast, turn_fast_rate, turn_slow, turn_slow_rate, turn_constant : float
        The same of a coordinate of a residue's rotation vector, rad² and 1/ps.
    stiffness_min : float
        Softer modes count as this stiff. Folded proteins have none, and those of extended peptides do not follow the
        powers.
    amplitude : tuple of float
        Intercept and slope of a protein's log amplitude in :func:`openmm_starmd.model.elastic.looseness`; empty for
        none.
    looseness : tuple of float
        Lowest and highest looseness of the proteins fitted to; beyond them the nearest counts.
    widening : float
        Added to every protein's log amplitude, by which networks make up for the width that training to least squares
        takes off (benchmarks/derive/spread.py). Training, and what is read off MD, go without.
    """

    fast: float = 0.0007292
    fast_power: float = 0.8276
    fast_floor: float = 0.0001302
    fast_rate: float = 0.759
    fast_rate_power: float = 0.1292
    slow: float = 0.005103
    slow_power: float = 0.3346
    slow_limit: float = 71.04
    slow_rate: float = 0.002454
    slow_rate_power: float = 0.06933
    constant: float = 0.6985
    turn_fast: float = 0.03365
    turn_fast_rate: float = 0.9422
    turn_slow: float = 0.05601
    turn_slow_rate: float = 0.01162
    turn_constant: float = 1.784
    stiffness_min: float = 0.003
    amplitude: tuple[float, ...] = (-0.1853, 0.4868)
    looseness: tuple[float, float] = (-0.81, 2.036)
    widening: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "amplitude", tuple(self.amplitude))
        object.__setattr__(self, "looseness", tuple(self.looseness))
        for name, value in vars(self).items():
            logarithms = name in ("amplitude", "looseness", "widening")
            numbers = value if isinstance(value, tuple) else (value,)
            if not all(math.isfinite(number) and (number >= 0 or logarithms) for number in numbers):
                raise ValueError(f"{name} of the elastic prior is {value!r}; it must be finite, and not below 0")
        for some, what in (
            ((self.stiffness_min,), "stiffness_min"),
            ((self.fast, self.fast_floor), "fast, fast_floor"),
        ):
            if not any(some):
                raise ValueError(f"{what} of the elastic prior is 0, which leaves modes without a width")
        if not self.turn_fast + self.turn_slow > 0:
            raise ValueError(
                "turn_fast and turn_slow of the elastic prior are both 0, which leaves turns without a width"
            )
        if len(self.amplitude) not in (0, 2):
            raise ValueError(
                f"amplitude of the elastic prior has {len(self.amplitude)} numbers; give an intercept and a slope, or "
                "none. Five are of a version that was not released: train anew"
            )
        if len(self.looseness) != 2 or self.looseness[0] > self.looseness[1]:
            raise ValueError(f"looseness of the elastic prior is {self.looseness!r}; give the lowest and the highest")
