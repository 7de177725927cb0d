"""Alternation: learned frames and classical refreshers in turn, judged, and taken back where the judgement is bad.

What makes a rollback honest: frames are held back until the verdict on the last of them is good, and only then handed
to the simulation's reporters, one by one, as if they had just been drawn. A frame that was taken back was never
reported, so files have one frame per step and a clock without jumps. The price is that reporters lag by up to
`validate_every` cycles, and that a kill loses the frames held; they are drawn again, the same ones, on resuming.

What makes it safe to kill: after each decision the reporters have their frames, then the log has its line, then the
checkpoint is renamed into place. Resuming goes on from the checkpoint and cuts log and trajectory back to it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openmm import app, unit

from openmm_starmd.files.cutting import truncate
from openmm_starmd.hybrid.policy_log import Log
from openmm_starmd.hybrid.reporters import BufferedReporter, hand_over
from openmm_starmd.quantities import in_unit, whole_number
from openmm_starmd.verdicts.report import STATUSES, Verdict
from openmm_starmd.verdicts.verdict import validate

if TYPE_CHECKING:
    from openmm_starmd.classical.settings import ClassicalOptions
    from openmm_starmd.simulation import StarMDSimulation


class PolicyError(RuntimeError):
    """A policy gave up; the simulation is at the last good frame.

    Attributes
    ----------
    verdict : Verdict
        The last bad one.
    """

    def __init__(self, message: str, verdict: Verdict) -> None:
        super().__init__(message)
        self.verdict = verdict


@dataclass(frozen=True)
class Alternation:
    """What :func:`alternate` did, over all calls that went on from one another.

    Attributes
    ----------
    frames : int
        Step count of the simulation now.
    cycles : int
        Cycles accepted.
    accepted, rejected : int
        Verdicts of either kind.
    seconds : float
        Of this call.
    """

    frames: int
    cycles: int
    accepted: int
    rejected: int
    seconds: float


def alternate(
    simulation: StarMDSimulation,
    *,
    cycles: int,
    surrogate: int = 50,
    classical: int = 2,
    validate_every: int = 1,
    duration: Any = 2.0,
    accept: str | Sequence[str] = ("pass", "strained"),
    attempts: int = 3,
    minimize: int | None = 100,
    log: str | os.PathLike[str] | None = None,
    trajectory: str | os.PathLike[str] | None = None,
    on_verdict: Callable[[Verdict, bool], None] | None = None,
    settings: ClassicalOptions | None = None,
) -> Alternation:
    """Alternate between learned frames and classical segments.

    >>> simulation.alternate(cycles=20, surrogate=50, classical=2, log="hybrid.jsonl", trajectory="hybrid.dcd")

    Each cycle draws `surrogate` frames and refreshes the last of them by `classical` strides of MD. Before the
    refresher of each `validate_every`-th cycle the last learned frame is judged
    (:func:`openmm_starmd.verdicts.verdict.validate`). If the verdict is bad, the simulation goes back to where the
    last good one left it and draws other random numbers.

    Parameters
    ----------
    simulation : StarMDSimulation
    cycles : int
        In all, those of earlier calls that this one goes on from included.
    surrogate : int
        Learned frames of a cycle, at least 1.
    classical : int
        Strides of MD of a cycle; 0 for none.
    validate_every : int
        Cycles to a verdict. The last cycle is always judged.
    duration : Quantity or float
        Of the verdict's segment, bare numbers in ps.
    accept : sequence of str
        Statuses to go on with.
    attempts : int
        Bad verdicts in a row at which it gives up.
    minimize : int or None
        Iterations of the minimiser, of verdicts and on entering refreshers.
    log : path, optional
        JSON lines: what was asked for, then one per decision. With it the call is resumable: a checkpoint is kept
        beside it (``.chk`` in place of its ending), and the same call on a new simulation of the same input goes on
        from there. On the Reference platform (``settings={"platform": "Reference"}``) that gives the same frames.
    trajectory : path, optional
        DCD or XTC file of the accepted frames, cut back to the checkpoint on resuming. Reporters of your own are served
        too, but their files cannot be cut: a kill between the report and the checkpoint leaves frames twice in them.
    on_verdict : callable, optional
        Called with each verdict and whether it was accepted.
    settings : dict, optional
        Of the classical model, as keyword arguments of ``simulation.classical()``.

    Returns
    -------
    Alternation

    Raises
    ------
    ValueError
        If an argument does not fit, or the log belongs to another run.
    PolicyError
        After `attempts` bad verdicts in a row; names the residues.
    """
    plan = Plan(
        cycles=cycles,
        surrogate=surrogate,
        classical=classical,
        validate_every=validate_every,
        duration=duration,
        accept=accept,
        attempts=attempts,
        minimize=minimize,
        settings=settings or {},
    )
    if trajectory is not None and Path(trajectory).suffix not in (".dcd", ".xtc"):
        raise ValueError(f"trajectory is {str(trajectory)!r}; its name must end in .dcd or .xtc")
    if trajectory is not None and log is None:
        raise ValueError("a trajectory needs a log beside it, to be cut back to on resuming: give log='run.jsonl' too")
    return _Runner(simulation, plan, log, trajectory, on_verdict).run()


_LEAST = {"cycles": 0, "surrogate": 1, "classical": 0, "validate_every": 1, "attempts": 1}


@dataclass(frozen=True)
class Plan:
    """Arguments of :func:`openmm_starmd.hybrid.alternation.alternate`, under the same names; `duration` becomes ps."""

    cycles: int
    surrogate: int
    classical: int
    validate_every: int
    duration: Any
    accept: Any
    attempts: int
    minimize: int | None
    settings: ClassicalOptions

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


class _Runner:
    """One call of :func:`alternate`."""

    def __init__(
        self,
        simulation: StarMDSimulation,
        plan: Plan,
        log: str | os.PathLike[str] | None,
        trajectory: str | os.PathLike[str] | None,
        on_verdict: Callable[[Verdict, bool], None] | None,
    ) -> None:
        self._simulation, self._plan, self._on_verdict = simulation, plan, on_verdict
        self._trajectory = None if trajectory is None else Path(trajectory)
        self._log = None if log is None else Log(log)
        self._done = self._accepted = self._rejected = self._failures = 0

    def run(self) -> Alternation:
        """Draw the cycles that are missing."""
        began = time.perf_counter()
        simulation, plan = self._simulation, self._plan
        theirs = simulation.reporters
        try:
            own = self._resume()
            while self._done < plan.cycles:
                block = min(plan.validate_every - self._done % plan.validate_every, plan.cycles - self._done)
                self._attempt(block, [*theirs, *own])
        finally:
            simulation.reporters = theirs
            if self._log is not None:
                self._log.close()
        return Alternation(
            simulation.currentStep, self._done, self._accepted, self._rejected, time.perf_counter() - began
        )

    def _attempt(self, block: int, reporters: list[Any]) -> None:
        """Draw `block` cycles, judge, and keep them or go back."""
        simulation, plan = self._simulation, self._plan
        began = time.perf_counter()
        first, number = simulation.currentStep, _draws(simulation)
        good, state = simulation.context.createCheckpoint(), simulation.integrator.state_to_save()
        held = BufferedReporter()
        simulation.reporters = [held]
        try:
            verdict = self._draw(block)
        except BaseException:
            # nothing of this block was reported, so the simulation keeps nothing of it either
            simulation.context.loadCheckpoint(good)
            simulation.integrator.bring_state(state)
            raise
        ended, accepted = simulation.currentStep, verdict.status in plan.accept
        if accepted:
            hand_over(simulation, good, held.frames, reporters)
            self._done, self._accepted, self._failures = self._done + block, self._accepted + 1, 0
        else:
            used = _draws(simulation) - number
            simulation.context.loadCheckpoint(good)
            simulation.integrator.bring_state(state)
            simulation.integrator.skip_draws(used)
            self._rejected, self._failures = self._rejected + 1, self._failures + 1
        self._record(verdict, accepted, first, ended, time.perf_counter() - began)
        if self._on_verdict is not None:
            self._on_verdict(verdict, accepted)
        if self._failures >= plan.attempts:
            where = f" ({', '.join(verdict.residues[:4])})" if verdict.residues else ""
            why = verdict.findings[0].text if verdict.findings else "no finding"
            raise PolicyError(
                f"{self._failures} attempts in a row to go on from step {first} ended in a {verdict.status} frame"
                f"{where}: {why}. The simulation is at step {first}, the last good one. Try fewer surrogate frames, a "
                "shorter stride, or validate() of the start structure",
                verdict,
            )

    def _draw(self, block: int) -> Verdict:
        """Draw `block` cycles and judge the last learned frame; a refresher follows only if it is good."""
        simulation, plan = self._simulation, self._plan
        for cycle in range(1, block + 1):
            simulation.step(plan.surrogate)
            if cycle == block:
                seed = _draws(simulation)
                options: dict[str, Any] = {
                    "minimize": plan.minimize,
                    "seed": seed,
                    "stop_if_broken": "broken" not in plan.accept,
                }
                verdict = validate(simulation, plan.duration, **options, **plan.settings)
                if verdict.status not in plan.accept:
                    break
            if plan.classical:
                with simulation.classical(minimize=plan.minimize, **plan.settings):
                    simulation.step(plan.classical)
        return verdict

    def _record(self, verdict: Verdict, accepted: bool, first: int, ended: int, seconds: float) -> None:
        if self._log is None:
            return
        line = {
            "event": "accepted" if accepted else "rejected",
            "cycles": self._done,
            "from_step": first,
            "to_step": ended,
            "step": self._simulation.currentStep,
            "draws": _draws(self._simulation),
            "failures": self._failures,
            "seconds": round(seconds, 3),
            "verdict": json.loads(verdict.to_json()),
        }
        self._log.append(line)
        self._simulation.saveCheckpoint(str(self._log.checkpoint))

    def _resume(self) -> list[Any]:
        """Go on from log and checkpoint, where there are any; the reporter of the trajectory, if one is wanted."""
        simulation, log = self._simulation, self._log
        if log is None:
            return []
        plan = self._plan.record(simulation)
        if log.checkpoint.exists():
            if simulation.currentStep not in log.known_steps(plan):
                raise ValueError(
                    f"the simulation is at step {simulation.currentStep}, where {log.path} has no decision. Going on "
                    "from the log would lose what was drawn since: call with another log, or with a new simulation"
                )
            simulation.loadCheckpoint(str(log.checkpoint))
            lines = log.resume(simulation.currentStep, _draws(simulation))
            self._done = lines[-1]["cycles"]
            # who calls again after it gave up wants it tried again
            self._failures = lines[-1]["failures"] % self._plan.attempts
            self._accepted = sum(line["event"] == "accepted" for line in lines)
            self._rejected = len(lines) - self._accepted
        elif log.begin(plan) and self._trajectory is not None and self._trajectory.exists():
            raise ValueError(f"{self._trajectory} is there, but no log {log.path} tells of it: move it away")
        return self._open_trajectory(simulation.currentStep - log.first_step)

    def _open_trajectory(self, frames: int) -> list[Any]:
        path = self._trajectory
        if path is None:
            return []
        if frames:
            truncate(path, frames)
        reporter = app.XTCReporter if path.suffix == ".xtc" else app.DCDReporter
        return [reporter(str(path), 1, append=frames > 0)]


def _draws(simulation: StarMDSimulation) -> int:
    """Frames drawn so far, taken back ones included."""
    history = simulation.integrator.history()
    return history.offset + history.count
