"""Plans: which stages run, for how many seconds each, with what settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PLANS = Path(__file__).parent / "plans"
MODULES = ("check", "tests", "tables", "together", "training", "paper")
"""Stages there are, each ``benchmarks/gpu/NAME.py``."""
GRACE = 8.0
"""Seconds between asking a stage to end and ending it."""


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes
    ----------
    name : str
        Unique in a plan.
    module : str
        One of :data:`MODULES`, or any module that can be run with ``-m``.
    seconds : float
        Of its time box, in which it is told to end by itself.
    stretch : bool
        Whether it gets the time that stages before it left over.
    options : dict
        Settings, handed over as JSON.
    """

    name: str
    module: str
    seconds: float
    stretch: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.seconds <= 0:
            raise ValueError(f"stage {self.name} has {self.seconds:g} seconds: they must be positive")


@dataclass(frozen=True)
class Plan:
    """Stages in the order in which they run, and the seconds for all of them."""

    seconds: float
    stages: Sequence[Stage]

    def scaled(self, seconds: float) -> Plan:
        """The same plan for another number of seconds: longer boxes where stages stretch, shorter ones everywhere."""
        wanted = sum(stage.seconds for stage in self.stages)
        factor = min(1.0, seconds / wanted)
        stages = [Stage(s.name, s.module, s.seconds * factor, s.stretch, s.options) for s in self.stages]
        return Plan(seconds, stages)


def read_plan(path: Path) -> Plan:
    """Read a plan.

    Raises
    ------
    ValueError
        If the file is no plan, a stage is unknown or named twice, or the stages want more than the plan's seconds.
    """
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in PLANS.glob("*.json")))
        raise ValueError(f"there is no plan {path}: give a JSON file, or one of {there}")
    try:
        content = json.loads(path.read_text())
        stages = [
            Stage(
                item["name"],
                item.get("module", item["name"]),
                float(item["seconds"]),
                bool(item.get("stretch", False)),
                item.get("options", {}),
            )
            for item in content["stages"]
        ]
        plan = Plan(float(content["seconds"]), stages)
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no plan ({type(error).__name__}: {error}): see benchmarks/gpu/plans") from error
    names = [stage.name for stage in stages]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{path} names {', '.join(twice)} twice: give each stage a name of its own")
    unknown = [stage.module for stage in stages if stage.module not in MODULES and "." not in stage.module]
    if unknown:
        raise ValueError(f"{path} has unknown stages {', '.join(unknown)}: there are {', '.join(MODULES)}")
    wanted = sum(stage.seconds for stage in stages)
    if wanted > plan.seconds:
        raise ValueError(f"the stages of {path} want {wanted:g} s, and the plan has {plan.seconds:g} s: shorten them")
    return plan
