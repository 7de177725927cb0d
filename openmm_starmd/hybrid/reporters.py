"""Reporters that OpenMM has none of, and handing frames to reporters after the event."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openmm as mm

from openmm_starmd.quantities import keywords_of, whole_number
from openmm_starmd.verdicts.verdict import validate

if TYPE_CHECKING:
    from openmm_starmd.simulation import StarMDSimulation


class VerdictReporter:
    """Judges every so many frames by a classical segment on the side, one JSON line each.

    >>> simulation.reporters.append(VerdictReporter("verdicts.jsonl", 100, duration=2.0))

    Parameters
    ----------
    file : path or text file
        A path is appended to.
    interval : int
        Frames between verdicts.
    **options
        Of :func:`openmm_starmd.verdicts.verdict.validate`.
    """

    @keywords_of(validate, leave_out=("simulation",))
    def __init__(self, file: str | os.PathLike[str] | Any, interval: int, **options: Any) -> None:
        if whole_number(interval) < 1:
            raise ValueError(f"interval is {interval}; it must be at least 1")
        self._owned = isinstance(file, (str, os.PathLike))
        self._file: Any = Path(file).open("a") if self._owned else file  # noqa: SIM115  # for as long as it reports
        self._interval, self._options = int(interval), options

    def describeNextReport(self, simulation: Any) -> dict[str, Any]:
        """When the next verdict is due; it reads positions itself."""
        return {"steps": self._interval - simulation.currentStep % self._interval, "periodic": False, "include": []}

    def report(self, simulation: StarMDSimulation, state: Any) -> None:
        """Judge the present frame; inside a classical segment there is nothing learned to judge."""
        if simulation.integrator.segment is not None:
            return
        verdict = validate(simulation, **self._options)
        self._file.write(json.dumps(json.loads(verdict.to_json())) + "\n")
        self._file.flush()

    def __del__(self) -> None:
        if getattr(self, "_owned", False):
            self._file.close()


class BufferedReporter:
    """Keeps the state after each frame, for :func:`hand_over`.

    Attributes
    ----------
    frames : list of bytes
        Checkpoints of the Context.
    """

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def describeNextReport(self, simulation: Any) -> dict[str, Any]:
        """Every step; the checkpoint is taken from the Context."""
        return {"steps": 1, "periodic": False, "include": []}

    def report(self, simulation: Any, state: Any) -> None:
        """Keep a frame."""
        self.frames.append(simulation.context.createCheckpoint())


def hand_over(simulation: StarMDSimulation, start: bytes, frames: Sequence[bytes], reporters: Sequence[Any]) -> None:
    """Let reporters see frames that were drawn without them, as if they were drawn now.

    Parameters
    ----------
    simulation : StarMDSimulation
        It ends at the last frame; its own reporters are left alone.
    start : bytes
        Checkpoint of its Context one step before the first frame.
    frames : sequence of bytes
        Checkpoints of consecutive steps.
    reporters : sequence of reporters
        OpenMM's Simulation decides which are due, as ever. If one raises, the simulation stays at that frame.
    """
    context, integrator, own = simulation.context, simulation.integrator, simulation.reporters
    mm.Context.loadCheckpoint(context, start)
    replay: Any = _Replay(integrator, context, frames)
    simulation.integrator = replay
    simulation.reporters = list(reporters)
    try:
        simulation.step(len(frames))
    finally:
        simulation.integrator, simulation.reporters = integrator, own


class _Replay:
    """An integrator whose steps are frames drawn before; all else is the integrator's own."""

    def __init__(self, integrator: Any, context: mm.Context, frames: Sequence[bytes]) -> None:
        self._integrator, self._context, self._frames, self._next = integrator, context, frames, 0

    def step(self, steps: int) -> None:
        """Go on by `steps` frames."""
        if steps:
            self._next += steps
            mm.Context.loadCheckpoint(self._context, self._frames[self._next - 1])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._integrator, name)
