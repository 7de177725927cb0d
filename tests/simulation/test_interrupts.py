"""Ctrl-C at any moment ends in KeyboardInterrupt, with the simulation at its last whole frame."""

from __future__ import annotations

import signal
import sys

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


def interrupted_at(call, action):
    """Run `action` with a KeyboardInterrupt raised at the `call`-th call of a function; whether it came so far."""
    left = call

    def count(frame, event, argument):
        nonlocal left
        if event in ("call", "c_return"):
            left -= 1
            if left == 0:
                sys.setprofile(None)
                raise KeyboardInterrupt

    sys.setprofile(count)
    try:
        action()
    except KeyboardInterrupt:
        return True
    finally:
        sys.setprofile(None)
    return False


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


@pytest.mark.slow
def test_learned_frames_at_every_call():
    """Within OpenMM's wrappers too, which call Python for each vector they convert."""
    simulation = make_simulation(helix(3))
    simulation.step(4)
    saved, before = simulation.context.createCheckpoint(), positions_of(simulation)
    simulation.step(1)
    after, call = positions_of(simulation), 1
    while True:
        simulation.context.loadCheckpoint(saved)
        if not interrupted_at(call, lambda: simulation.step(1)):
            break
        assert np.array_equal(positions_of(simulation), before if simulation.currentStep == 4 else after), call
        if simulation.currentStep == 4:
            simulation.step(1)
        assert np.array_equal(positions_of(simulation), after), call
        call += 7
    assert call > 1000


def test_classical_frames_at_many_calls():
    frames, settings = 12, {"platform": "Reference", "minimize": 2, "equilibrate": 0.0, "timestep": 0.004}
    unbroken = unbroken_trajectory(make_simulation(helix(3), stride=1.0), frames, **settings)
    simulation, random, interrupts = make_simulation(helix(3), stride=1.0), np.random.default_rng(0), 0
    with simulation.classical(**settings) as md:
        while simulation.currentStep < frames:
            missing = simulation.integrator.segment.missing()
            step = simulation.step if random.random() < 0.6 or not missing else md.step
            steps = 1 if step == simulation.step else missing
            interrupts += interrupted_at(int(random.integers(1, 400)), lambda step=step, steps=steps: step(steps))
            done = simulation.currentStep
            assert not done or np.array_equal(positions_of(simulation), unbroken[done - 1])
    assert interrupts > 10


@pytest.mark.slow
def test_classical_frames():
    """Inside a segment: what was begun of a stride is completed, by whichever simulation is stepped."""
    frames, settings = 6, {"platform": "Reference", "minimize": 5, "equilibrate": 0.0}
    unbroken = unbroken_trajectory(make_simulation(helix(5), stride=1.0), frames, **settings)
    simulation, memory = make_simulation(helix(5), stride=1.0), Memory()
    simulation.reporters.append(memory)
    with Interrupts(5e-3, 5e-2) as interrupts, simulation.classical(**settings) as md:
        while simulation.currentStep < frames:
            missing = simulation.integrator.segment.missing()
            if interrupts.count % 2 or not missing:
                interrupts.during(lambda: simulation.step(frames - simulation.currentStep))
            else:
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
