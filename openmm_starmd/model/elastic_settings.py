"""The numbers of the elastic prior, as they stand in the configuration of weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

AMPLITUDE_FEATURES = 4
"""Numbers of :func:`openmm_starmd.model.elastic.amplitude_features`."""


@dataclass(frozen=True)
class ElasticSettings:
    """Variances and rates of modes as powers of their stiffness λ, in units of the spring of two Cα at 3.8 Å.

    The defaults are fitted to MD of 53 proteins of the training pool (benchmarks/results/elastic_prior.json), but for
    `stiffness_min`, which the fit had at 5.5e-5: extended peptides, whose softest modes do not follow the powers, were
    then expected to move too far.

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
        Intercept and slopes of a protein's log amplitude in
        :func:`openmm_starmd.model.elastic.amplitude_features`; empty for none.
    """

    fast: float = 0.0008389
    fast_power: float = 0.7789
    fast_floor: float = 0.0001124
    fast_rate: float = 0.994
    fast_rate_power: float = 0.1338
    slow: float = 0.005223
    slow_power: float = 0.3493
    slow_limit: float = 66.36
    slow_rate: float = 0.002489
    slow_rate_power: float = 0.066
    constant: float = 0.6677
    turn_fast: float = 0.03536
    turn_fast_rate: float = 1.233
    turn_slow: float = 0.05644
    turn_slow_rate: float = 0.01264
    turn_constant: float = 1.758
    stiffness_min: float = 0.003
    amplitude: tuple[float, ...] = (-1.0416, -1.2533, 0.2638, -0.2398, -0.0903)

    def __post_init__(self) -> None:
        object.__setattr__(self, "amplitude", tuple(self.amplitude))
        for name, value in vars(self).items():
            numbers = value if name == "amplitude" else (value,)
            if not all(math.isfinite(number) and (number >= 0 or name == "amplitude") for number in numbers):
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
        if len(self.amplitude) not in (0, 1 + AMPLITUDE_FEATURES):
            raise ValueError(
                f"amplitude of the elastic prior has {len(self.amplitude)} numbers; give an intercept and "
                f"{AMPLITUDE_FEATURES} slopes, or none"
            )
