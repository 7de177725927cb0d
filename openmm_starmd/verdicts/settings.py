"""What decides a verdict: how long and how hard a frame is tried, and what it is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from openmm import unit

from openmm_starmd.quantities import in_unit
from openmm_starmd.verdicts.limits import LIMITS, TRAINING_MD, Limits, Spread


@dataclass(frozen=True, kw_only=True)
class VerdictSettings:
    """Settings of a verdict.

    Attributes
    ----------
    duration : Quantity or float
        Of the segment, bare numbers in ps, kept as ps; 0 only minimises.
    minimize : int or None
        Most iterations of the minimiser; None to convergence.
    seed : int
        Of the velocities and the thermostat.
    spread : Spread
        What the drift is compared with.
    limits : Limits
    stop_if_broken : bool
        Spare a frame that inspection finds broken the minimisation and the segment; their figures are nan then.

    Raises
    ------
    ValueError
        If the duration is no time, or a number is out of range.
    """

    duration: Any = 10.0
    minimize: int | None = 100
    seed: int = 0
    spread: Spread = TRAINING_MD
    limits: Limits = LIMITS
    stop_if_broken: bool = False

    def __post_init__(self) -> None:
        try:
            picoseconds = float(in_unit(self.duration, unit.picosecond))
        except (TypeError, ValueError) as error:
            raise ValueError(f"duration is {self.duration!r}; give a time, or a number of ps") from error
        if not 0 <= picoseconds < float("inf"):
            raise ValueError(f"duration is {picoseconds:g} ps; it must be finite and not negative")
        if self.minimize is not None and self.minimize < 0:
            raise ValueError(
                f"minimize is {self.minimize}; give a number of iterations, or None for as many as it takes"
            )
        object.__setattr__(self, "duration", picoseconds)
