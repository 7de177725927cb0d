"""Ctrl-C at any moment ends in KeyboardInterrupt, with the simulation at its last whole frame."""

from __future__ import annotations

import signal

import numpy as np
import pytest

from openmm_starmd.errors import keyboard_interrupts
from tests.fakes import Memory, helix, make_simulation, positions_of

pytestmark = pytest.mark.usefixtures("fake_rollout")


class Interrupts:
    """Raises KeyboardInterrupt in the main thread, as Ctrl-C does, at random moments while ``during`` runs.

    The timer counts the process's own time, so that a busy machine changes nothing.
    """

    def __init__(self, shortest, longest):
        self.count, self._armed = 0, False
        self._delays = np.random.default_rng(0).uniform(shortest, longest, 1000)

    def __enter__(self):
        self._before = signal.signal(signal.SIGVTALRM, self._raise)
        return self

    def __exit__(self, *_):
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, self._before)

    def _raise(self, *_):
        if self._armed:
            self._armed = False
            raise KeyboardInterrupt

    def during(self, action):
        """Run `action`, interrupted once if it takes long enough."""
        try:
            self._armed = True
            signal.setitimer(signal.ITIMER_VIRTUAL, self._delays[self.count % 1000])
            action()
            self._armed = False
        except KeyboardInterrupt:
            self.count += 1
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def unbroken_trajectory(simulation, frames, **classical):
    memory = Memory()
    simulation.reporters.append(memory)
    if not classical:
        simulation.step(frames)
        return np.array(memory.frames)
    with simulation.classical(**classical):
        simulation.step(frames)
    return np.array(memory.frames)


def check(simulation, memory, unbroken):
    step = simulation.currentStep
    assert simulation.context.getTime() == step * simulation.stride
    if step:
        assert np.array_equal(positions_of(simulation), unbroken[step - 1])
    # a frame whose report was interrupted is lost to that reporter, as in any Simulation; none is wrong
    assert memory.steps == sorted(set(memory.steps))
    for number, _, seen in memory.rows:
        assert np.array_equal(seen, unbroken[number - 1])


@pytest.mark.slow
def test_learned_frames():
    frames = 400
    unbroken = unbroken_trajectory(make_simulation(helix()), frames)
    simulation, memory = make_simulation(helix()), Memory()
    simulation.reporters.append(memory)
    with Interrupts(2e-3, 2e-2) as interrupts:
        while simulation.currentStep < frames:
            interrupts.during(lambda: simulation.step(frames - simulation.currentStep))
            check(simulation, memory, unbroken)
    assert interrupts.count > 10


def test_classical_frames():
    """Inside a segment: what was begun of a stride is completed, by whichever simulation is stepped."""
    frames, settings = 6, {"platform": "Reference", "minimize": 5, "equilibrate": 0.0}
    unbroken = unbroken_trajectory(make_simulation(helix(5), stride=1.0), frames, **settings)
    simulation, memory = make_simulation(helix(5), stride=1.0), Memory()
    simulation.reporters.append(memory)
    with Interrupts(5e-3, 5e-2) as interrupts, simulation.classical(**settings) as md:
        while simulation.currentStep < frames:
            if interrupts.count % 2:
                interrupts.during(lambda: simulation.step(frames - simulation.currentStep))
            else:
                missing = max(1, simulation.integrator.segment.missing())
                interrupts.during(lambda steps=missing: md.step(steps))
            check(simulation, memory, unbroken)
    assert interrupts.count > 3


def test_errors_of_the_wrappers_become_the_interrupts_they_were():
    with pytest.raises(KeyboardInterrupt), keyboard_interrupts():
        raise SystemError("returned a result with an exception set") from KeyboardInterrupt()
    with pytest.raises(SystemError, match="their own"), keyboard_interrupts():
        raise SystemError("an error of their own")
    inner = SystemError("inner")
    inner.__cause__ = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt), keyboard_interrupts():
        raise SystemError("outer") from inner
