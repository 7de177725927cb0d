"""What a policy is asked to do, checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from openmm import unit

from openmm_starmd.quantities import in_unit, whole_number
from openmm_starmd.verdicts.report import STATUSES

if TYPE_CHECKING:
    from openmm_starmd.simulation import StarMDSimulation

_LEAST = {"cycles": 0, "surrogate": 1, "classical": 0, "validate_every": 1, "attempts": 1}


@dataclass(frozen=True)
class Plan:
    """Arguments of :func:`openmm_starmd.hybrid.policies.alternate`, under the same names; `duration` becomes ps."""

    cycles: int
    surrogate: int
    classical: int
    validate_every: int
    duration: Any
    accept: Any
    attempts: int
    minimize: int | None
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            object.__setattr__(self, name, _at_least(name, getattr(self, name), least))
        if self.minimize is not None:
            object.__setattr__(self, "minimize", _at_least("minimize", self.minimize, 0))
        try:
            duration = float(in_unit(self.duration, unit.picosecond))
        except (TypeError, ValueError) as error:
            raise ValueError(f"duration is {self.duration!r}; give a time, or a number of ps") from error
        if not 0 <= duration < float("inf"):
            raise ValueError(f"duration is {duration:g} ps; it must be finite and not negative")
        object.__setattr__(self, "duration", duration)
        chosen = (self.accept,) if isinstance(self.accept, str) else tuple(self.accept)
        if not chosen or any(status not in STATUSES for status in chosen):
            raise ValueError(f"accept is {self.accept!r}; choose among {', '.join(STATUSES)}")
        object.__setattr__(self, "accept", chosen)

    def record(self, simulation: StarMDSimulation) -> dict[str, Any]:
        """The first line of a log. It holds what decides the frames: a log of anything else is not gone on with."""
        return {
            "event": "plan",
            "protein": simulation.protein.sequence,
            "seed": simulation.seed,
            "stride_ps": simulation.stride.value_in_unit(unit.picosecond),
            "first_step": simulation.currentStep,
            "surrogate": self.surrogate,
            "classical": self.classical,
            "validate_every": self.validate_every,
            "duration_ps": self.duration,
            "accept": list(self.accept),
            "minimize": self.minimize,
            "settings": {name: str(value) for name, value in sorted(self.settings.items())},
        }


def _at_least(name: str, value: Any, least: int) -> int:
    try:
        whole = whole_number(value)
    except ValueError:
        whole = -1
    if whole < least:
        raise ValueError(f"{name} is {value!r}; it must be a whole number, at least {least}")
    return whole
