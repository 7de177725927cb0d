"""Segment: classical MD as one more propagator, whose strides are frames of the same simulation."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import openmm as mm
from openmm import app, unit

from openmm_starmd.classical.settings import inner_steps
from openmm_starmd.errors import keyboard_interrupts
from openmm_starmd.geometry.superposition import aligned
from openmm_starmd.propagators import Present, Proposal

if TYPE_CHECKING:
    from types import TracebackType

    from openmm_starmd.classical.model import AllAtomSimulation, ClassicalModel, Entry
    from openmm_starmd.simulation import StarMDSimulation


class Segment:
    """Classical MD from the current frame; :meth:`StarMDSimulation.classical` makes one, for a ``with`` statement.

    Parameters
    ----------
    outer : StarMDSimulation
    model : callable or ClassicalModel
        Called without arguments when the segment is entered, so that a model is only built if it is used.
    timestep : float
        ps; must fit the stride.
    minimize : int or None
        Most iterations on entry; 0 for none, None to convergence.
    equilibrate : float
        ps after that, before the segment's clock starts.

    Attributes
    ----------
    entry : Entry or None
        How the frame was received by the force field; None before, and where a checkpoint was resumed.

    Notes
    -----
    The inner clock is the outer one: time goes on, and the inner step count is the outer one times the steps of a
    stride. How far a stride has come is thus read off the two counters, and an interrupt cannot put them at odds.
    """

    def __init__(
        self, outer: StarMDSimulation, model: Any, *, timestep: float, minimize: int | None, equilibrate: float
    ) -> None:
        self._outer, self._make, self._minimize, self._equilibrate = outer, model, minimize, equilibrate
        self.steps = inner_steps(outer.stride.value_in_unit(unit.picosecond), timestep)
        self.entry: Entry | None = None
        self._model: ClassicalModel | None = None
        self._first = 0  # outer step at which the segment began
        self._start: np.ndarray | None = None  # N, CA, C there, superposed on the last frame
        self._atoms: np.ndarray | None = None

    @property
    def model(self) -> ClassicalModel:
        """The all-atom model the segment runs in."""
        if self._model is None:
            raise RuntimeError("the segment was not entered: use it in a with statement")
        return self._model

    @property
    def simulation(self) -> AllAtomSimulation:
        """The all-atom Simulation."""
        return self.model.simulation

    def __enter__(self) -> AllAtomSimulation:
        with keyboard_interrupts():
            return self._enter()

    def _enter(self) -> AllAtomSimulation:
        outer, integrator = self._outer, self._outer.integrator
        if integrator.segment is not None:
            raise ValueError("a classical segment is running already: leave it before entering another")
        self._model = model = self._make()
        self._atoms = model.frame_atoms(outer.topology)
        if integrator.pending is not None:
            self._resume(integrator.pending)
        else:
            frame = integrator.present()
            self.entry = model.enter(
                frame.backbone,
                frame.torsions,
                minimize=self._minimize,
                equilibrate=self._equilibrate,
                seed=entry_seed(outer.seed, frame.number),
            )
            backbone = model.backbone()
            rotation, shift = aligned(backbone[:, 1], frame.backbone[:, 1])
            self._start = backbone @ rotation.T + shift
            self._first = outer.currentStep
            context = model.simulation.context
            context.setTime(outer.context.getTime())
            context.setStepCount(outer.currentStep * self.steps)
        model.simulation.segment = self
        integrator.segment, integrator.pending = self, None
        return model.simulation

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        done = self.steps - self._missing()
        self.simulation.segment = None
        self.simulation.reporters.clear()
        self._outer.integrator.segment = None
        if kind is None and done != 0:
            raise ValueError(
                f"the segment was left {done} time steps into a stride of {self.steps}: {self.steps - done} are "
                "missing to a frame. Go on with step() of the simulation, which completes the stride, before leaving. "
                f"The simulation stays at the last whole frame, step {self._outer.currentStep}"
            )

    def step_inside(self, steps: int) -> None:
        """Advance by time steps; each stride they complete becomes a frame of the outer simulation."""
        while steps > 0:
            part = min(steps, self.missing())
            app.Simulation.step(self.simulation, part)
            steps -= part
            if self.missing() == 0:
                self._outer.step(1)

    def missing(self) -> int:
        """Time steps to the next frame; a RuntimeError if the inner clock was moved by something else."""
        missing = self._missing()
        if not 0 <= missing <= self.steps:
            raise RuntimeError(
                f"the classical simulation is at step {self.simulation.currentStep}, but the next frame is due at step "
                f"{self.simulation.currentStep + missing}: inside a segment advance it by md.step() or "
                "simulation.step(), and leave step counts alone. Leave the segment; the simulation stays "
                "at its last whole frame"
            )
        return missing

    def _missing(self) -> int:
        return self.steps * (self._outer.currentStep + 1) - self.simulation.currentStep

    def next_frame(self, present: Present) -> Proposal:
        """Complete the stride; its end, superposed on the frame before, is the next frame.

        Parameters
        ----------
        present : Present
            The outer simulation's last frame.

        Returns
        -------
        Proposal
            The first of a segment begins a new history, with the structure that dynamics started from as its frame 0.

        Raises
        ------
        RuntimeError
            If the dynamics have blown up.
        """
        missing = self.missing()
        if missing:
            app.Simulation.step(self.simulation, missing)
        positions = self.model.positions()
        if not np.isfinite(positions).all():
            raise RuntimeError(
                "classical MD has blown up: positions are not finite. The simulation stays at the frame before. "
                "Minimise more on entry (minimize=None), or take a shorter timestep"
            )
        start = self._start if self._outer.currentStep == self._first else None
        target = present.backbone if start is None else start
        atoms = self.model.backbone_atoms
        rotation, shift = aligned(positions[atoms[:, 1]], target[:, 1])
        positions = positions @ rotation.T + shift
        return Proposal(positions[self._atoms], positions[atoms], start)

    def state(self) -> bytes:
        """All that is needed to be inside this segment again, for a checkpoint."""
        context = self.simulation.context
        facts = {
            **self._conditions(),
            "first": self._first,
            "start": base64.b64encode(np.ascontiguousarray(self._start).tobytes()).decode(),
        }
        return json.dumps(facts).encode() + b"\n" + context.createCheckpoint()

    def _conditions(self) -> dict[str, Any]:
        """What a saved state can only be loaded under."""
        return {
            **self.model.digests,
            "platform": self.simulation.context.getPlatform().getName(),
            "openmm": mm.Platform.getOpenMMVersion(),
            "steps": self.steps,
        }

    def _resume(self, state: bytes) -> None:
        """Inverse of :meth:`state`."""
        head, checkpoint = state.split(b"\n", 1)
        facts = json.loads(head)
        names = {"system": "System (force field, solvent, barostat)", "steps": "timestep", "openmm": "OpenMM version"}
        wrong = [names.get(name, name) for name, value in self._conditions().items() if facts[name] != value]
        if wrong:
            raise ValueError(
                f"the checkpoint was saved inside a classical segment with another {', another '.join(wrong)}. Call "
                "classical() with the settings of that segment, or simulation.leaveSegment() to go on with learned "
                "frames"
            )
        self.simulation.context.loadCheckpoint(checkpoint)
        self._first = facts["first"]
        self._start = np.frombuffer(base64.b64decode(facts["start"]), dtype=np.float64).reshape(-1, 3, 3)


def entry_seed(seed: int, number: int) -> int:
    """Seed of a segment that begins at frame `number` of the simulation with `seed`."""
    return int.from_bytes(hashlib.sha256(f"{seed} {number} segment".encode()).digest()[:7], "little")
