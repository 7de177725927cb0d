"""StarMDSimulation and StarMDIntegrator on OpenMM's own Simulation, Context and State, over a fake rollout."""

import contextlib
import copy
import math
import pickle
import warnings

import numpy as np
import openmm as mm
import pytest
from openmm import app, unit

from openmm_starmd.diffusion.samplers import SamplerSettings
from openmm_starmd.errors import StarMDWarning
from openmm_starmd.integrator import StarMDIntegrator
from openmm_starmd.model.weights import DEFAULT_WEIGHTS
from openmm_starmd.simulation import StarMDSimulation
from tests.fakes import FakeRollout, Memory, fake_weights, helix, make_simulation, positions_of, trajectory

MODES = ("ca", "backbone", "heavy")
pytestmark = pytest.mark.usefixtures("fake_rollout")


def rollout_of(simulation) -> FakeRollout:
    return simulation.integrator.propagator.rollout


@pytest.mark.parametrize("atoms", MODES)
def test_steps_are_frames_of_the_rollout(atoms):
    """What reporters see is what the rollout drew, whatever the atoms; time advances by the stride."""
    simulation = make_simulation(helix(), atoms)
    alone = FakeRollout(
        rollout_of(simulation).frames()[0], stride=10, seeds=[3], settings=SamplerSettings(steps=2, max_context=4)
    )
    protein = simulation.protein
    assert isinstance(simulation, app.Simulation)
    assert simulation.topology.getNumAtoms() == simulation.system.getNumParticles()
    assert np.array_equal(positions_of(simulation), protein.frame_positions(protein.backbone, atoms))
    for number, seen in enumerate(trajectory(simulation, 15), start=1):
        drawn = alone.step()
        expected = protein.frame_positions(drawn.backbone[0].numpy(), atoms, drawn.torsions[0].numpy())
        assert np.array_equal(seen, expected), f"frame {number}"
    assert simulation.currentStep == 15
    assert simulation.context.getTime() == 150 * unit.picosecond
    assert simulation.stride == 10 * unit.picosecond
    assert rollout_of(simulation).restores == 0


def test_untrained_torsions_are_not_used():
    weights = fake_weights(torsions_trained=False)
    simulation = make_simulation(helix(), None, weights=weights)
    assert simulation.atoms == "backbone"
    assert make_simulation(helix(), None).atoms == "heavy"
    simulation = make_simulation(helix(), "heavy", weights=weights)
    simulation.step(1)
    backbone = rollout_of(simulation).frames()[1][0].numpy()
    assert np.array_equal(positions_of(simulation), simulation.protein.frame_positions(backbone, "heavy"))


def test_seed():
    first, second, other = (trajectory(make_simulation(helix(), seed=seed), 5) for seed in (7, 7, 8))
    assert np.array_equal(first, second)
    assert not np.allclose(first, other)
    drawn = make_simulation(helix(), seed=None)
    again = make_simulation(helix(), seed=drawn.seed)
    assert np.array_equal(trajectory(drawn, 3), trajectory(again, 3))
    large = 2**62 + 12345
    assert make_simulation(helix(), seed=large).seed == large


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, True, "a"])
def test_bad_seed(seed):
    with pytest.raises(ValueError, match="seed"):
        make_simulation(helix(), seed=seed)


def test_stride_and_temperature_have_the_weights_limits():
    assert make_simulation(helix(), stride=5).stride == 5 * unit.picosecond
    assert make_simulation(helix(), stride=0.005 * unit.nanosecond).context.getTime() == 0 * unit.picosecond
    make_simulation(helix(), temperature=300 * unit.kelvin)
    for stride in (0.5, 21, math.nan, 1 * unit.nanosecond):
        with pytest.raises(ValueError, match="1 to 20 ps"):
            make_simulation(helix(), stride=stride)
    with pytest.raises(ValueError, match="stride"):
        make_simulation(helix(), stride="fast")
    with pytest.raises(ValueError, match="300 K"):
        make_simulation(helix(), temperature=310)
    with pytest.raises(ValueError, match="backbone"):
        make_simulation(helix(), atoms="all")
    with pytest.raises(ValueError, match="stride"):
        make_simulation(helix()).integrator.setStepSize(2.0)


def test_step_counts():
    simulation = make_simulation(helix())
    simulation.step(1.0)
    simulation.step(np.int64(2))
    simulation.step(0)
    simulation.integrator.step(2)
    assert simulation.currentStep == 5
    for bad in (1.5, -1, math.nan, math.inf, "3", None):
        with pytest.raises(ValueError, match="steps"):
            simulation.step(bad)
        with pytest.raises(ValueError, match="steps"):
            simulation.integrator.step(bad)
    assert simulation.currentStep == 5


def test_integrator_step_equals_simulation_step():
    first, second = make_simulation(helix()), make_simulation(helix())
    first.step(13)
    second.integrator.step(6)
    second.integrator.step(7)
    assert np.array_equal(positions_of(first), positions_of(second))


def test_run_for_clock_time(tmp_path):
    simulation = make_simulation(helix())
    rollout_of(simulation).delay = 0.01
    simulation.runForClockTime(
        0.5 * unit.second,
        checkpointFile=str(tmp_path / "c"),
        stateFile=str(tmp_path / "s"),
        checkpointInterval=0.1 / 3600,
    )
    steps = simulation.currentStep
    assert steps > 5
    after = trajectory(simulation, 3)
    for load, name in (("loadCheckpoint", "c"), ("loadState", "s")):
        again = make_simulation(helix())
        getattr(again, load)(str(tmp_path / name))
        assert again.currentStep == steps
        assert np.array_equal(trajectory(again, 3), after)


@pytest.mark.filterwarnings("ignore::openmm_starmd.errors.StarMDWarning")
@pytest.mark.parametrize("box", [None, 4.0])
def test_wrapping_keeps_chains_whole(box):
    """Periodic only where the input is; a chain moves into the box as one body."""
    simulation = make_simulation(helix(chains=2, box=box), "backbone")
    assert simulation.system.usesPeriodicBoundaryConditions() == (box is not None)
    simulation.context.setPositions(positions_of(simulation) + [[0.0, 0.0, 9.0]])
    bare, wrapped, stock = Memory(periodic=False), Memory(periodic=True), Memory()
    simulation.reporters += [bare, wrapped, stock]
    simulation.step(3)
    assert np.array_equal(stock.frames, wrapped.frames if box else bare.frames)
    half = len(bare.frames[0]) // 2
    for whole, moved in zip(bare.frames, wrapped.frames if box else stock.frames, strict=True):
        for chain in (slice(0, half), slice(half, None)):
            shift = moved[chain] - whole[chain]
            assert np.ptp(shift, axis=0).max() < 1e-5
            if box:
                assert 0 <= moved[chain].mean(0)[2] <= box


def test_no_energies_warns_once():
    simulation = make_simulation(helix())
    simulation.step(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        positions_of(simulation)
        simulation.context.createCheckpoint()
        simulation.context.getState(positions=True, velocities=True, integratorParameters=True)
    with pytest.warns(StarMDWarning, match="no energies") as caught:
        state = simulation.context.getState(energy=True, forces=True, velocities=True)
        simulation.context.getState(getForces=True)
        simulation.context.setVelocitiesToTemperature(300)
        simulation.context.setVelocities(np.ones((simulation.topology.getNumAtoms(), 3)))
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert state.getPotentialEnergy()._value == state.getKineticEnergy()._value == 0
    state = simulation.context.getState(energy=True, velocities=True)
    assert state.getKineticEnergy()._value == 0
    assert not np.any(state.getVelocities(asNumpy=True)._value)
    assert math.isnan(simulation.integrator.computeSystemTemperature().value_in_unit(unit.kelvin))


def test_cannot_be_copied():
    simulation = make_simulation(helix())
    for thing in (simulation, simulation.integrator):
        for action in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="saveCheckpoint"):
                action(thing)


def test_unbound_integrator():
    simulation = make_simulation(helix())
    maker = simulation.integrator.propagator
    integrator = StarMDIntegrator(simulation.protein, maker, stride=10.0, seed=3, atoms="backbone")
    with pytest.raises(RuntimeError, match="bound"):
        integrator.step(1)
    context = mm.Context(simulation.system, integrator, mm.Platform.getPlatformByName("Reference"))
    with pytest.raises(RuntimeError, match="bound"):
        integrator.step(1)
    with pytest.raises(ValueError, match="another integrator"):
        integrator.bind(simulation.context)
    integrator.bind(context)
    with pytest.raises(RuntimeError, match="origin"):
        integrator.step(1)
    context.setPositions(positions_of(simulation))
    integrator.step(1)
    assert context.getStepCount() == 1


def test_callers_from_cpp_get_infinite_positions_and_a_message():
    """Never a silently frozen or vanished protein, and the simulation can be saved."""
    simulation = make_simulation(helix())
    simulation.step(3)
    saved = simulation.context.createCheckpoint()
    mm.CustomIntegrator.step(simulation.integrator, 1)
    assert np.isinf(positions_of(simulation)).all()
    with pytest.raises(RuntimeError, match="CompoundIntegrator"):
        simulation.step(1)
    simulation.context.loadCheckpoint(saved)
    unbroken = make_simulation(helix())
    unbroken.step(6)
    simulation.step(3)
    assert np.array_equal(positions_of(simulation), positions_of(unbroken))


@pytest.mark.parametrize("number", [1, 4, 5, 9])
def test_interrupt_inside_a_frame(number):
    """Ctrl-C halfway through a frame: state, time and history stay at the frame before, and the run goes on exactly."""
    unbroken = trajectory(make_simulation(helix()), 14)
    simulation = make_simulation(helix())
    rollout_of(simulation).interrupt_at = number
    memory = Memory()
    simulation.reporters.append(memory)
    with pytest.raises(KeyboardInterrupt):
        simulation.step(14)
    assert simulation.currentStep == number - 1 == len(memory.frames)
    assert simulation.context.getTime() == (number - 1) * simulation.stride
    simulation.step(14 - simulation.currentStep)
    assert np.array_equal(memory.frames, unbroken)


@pytest.mark.slow
@pytest.mark.parametrize("call", range(0, 22))
@pytest.mark.parametrize("moved", [False, True])
def test_interrupt_between_any_two_calls(monkeypatch, call, moved):
    """Ctrl-C before any one of a step's calls into OpenMM loses no consistency, in a first frame or a later one."""

    def prepared():
        simulation = make_simulation(helix(), max_context=3)
        simulation.step(4)
        if moved:
            simulation.context.setPositions(positions_of(simulation) + 0.5)
        return simulation

    unbroken = trajectory(prepared(), 6)
    simulation = prepared()
    calls = 0

    def interrupting(original):
        def wrapped(*args):
            nonlocal calls
            calls += 1
            if calls == call:
                raise KeyboardInterrupt
            return original(*args)

        return wrapped

    with monkeypatch.context() as patch:
        for name in ("setGlobalVariableByName", "setPerDofVariableByName", "step"):
            patch.setattr(mm.CustomIntegrator, name, interrupting(getattr(mm.CustomIntegrator, name)))
        with contextlib.suppress(KeyboardInterrupt):
            simulation.integrator.step(1)
    done = simulation.currentStep - 4
    assert simulation.context.getTime() == simulation.currentStep * simulation.stride
    assert simulation.integrator.getGlobalVariableByName("armed") == 0
    if done:
        assert np.array_equal(positions_of(simulation), unbroken[0])
    saved = simulation.context.createCheckpoint()
    assert np.array_equal(trajectory(simulation, 6 - done), unbroken[done:])
    fresh = make_simulation(helix(), max_context=3)
    fresh.context.loadCheckpoint(saved)
    assert np.array_equal(trajectory(fresh, 6 - done), unbroken[done:])


@pytest.mark.parametrize("atoms", ["backbone", "heavy"])
def test_set_positions_starts_a_new_history(atoms):
    """The history restarts from what was set, and no random number is used twice."""
    simulation = make_simulation(helix(), atoms)
    simulation.step(6)
    moved = positions_of(simulation) + 1.0
    simulation.context.setPositions(moved * unit.nanometer)
    assert np.array_equal(positions_of(simulation), moved)
    simulation.step(2)
    rollout = rollout_of(simulation)
    assert (rollout.count, rollout.offset, simulation.currentStep) == (2, 6, 8)
    assert np.array_equal(rollout.frames()[0][0].numpy(), simulation.protein.backbone_from_frame(moved, atoms))
    same = positions_of(simulation)
    simulation.context.setPositions(same)
    simulation.step(1)
    assert (rollout.count, rollout.offset) == (3, 6)


@pytest.mark.parametrize("atoms", MODES)
def test_set_positions_of_the_input(atoms):
    model = helix()
    simulation = make_simulation(model, atoms)
    simulation.step(3)
    shifted = np.array(model[1].value_in_unit(unit.nanometer)) + 0.25
    frame = simulation.protein.frame_positions(simulation.protein.backbone, atoms)
    simulation.setPositions(shifted * unit.nanometer)
    assert np.allclose(positions_of(simulation), frame + 0.25, atol=1e-6)
    saved = simulation.context.createCheckpoint()
    simulation.step(3)
    assert rollout_of(simulation).offset == 3
    other = make_simulation(model, atoms)
    other.context.loadCheckpoint(saved)
    other.step(3)
    assert np.array_equal(positions_of(simulation), positions_of(other))


def test_set_positions_refuses():
    simulation = make_simulation(helix(), "ca")
    simulation.step(2)
    before = positions_of(simulation)
    with pytest.raises(ValueError, match="atoms='backbone'"):
        simulation.context.setPositions(before + 0.1)
    with pytest.raises(ValueError, match="8 atoms"):
        simulation.context.setPositions(before[1:])
    with pytest.raises(ValueError, match="atom 2 is not finite"):
        simulation.context.setPositions(np.where(np.arange(8)[:, None] == 2, np.nan, before))
    with pytest.raises(ValueError, match="40 atoms"):
        simulation.setPositions(before)
    assert np.array_equal(positions_of(simulation), before)
    simulation = make_simulation(helix())
    torn = positions_of(simulation)
    torn[4 * 2] += 1.0
    simulation.context.setPositions(torn)
    with pytest.raises(ValueError, match="ALA 3"):
        simulation.step(1)


def test_set_state_of_positions_only():
    """A State without a history is OpenMM's way to set positions, time and box."""
    simulation = make_simulation(helix())
    simulation.step(5)
    state = simulation.context.getState(positions=True)
    simulation.step(2)
    simulation.context.setState(state)
    assert simulation.currentStep == 5
    simulation.step(1)
    assert rollout_of(simulation).offset == 7
    ca = make_simulation(helix(), "ca")
    ca.step(5)
    state = ca.context.getState(positions=True)
    ca.step(1)
    before = positions_of(ca)
    with pytest.raises(ValueError, match="CA positions"):
        ca.context.setState(state)
    assert np.array_equal(positions_of(ca), before)
    assert ca.currentStep == 6


@pytest.mark.parametrize("atoms", MODES)
def test_reinitialize(atoms):
    unbroken = trajectory(make_simulation(helix(), atoms), 9)
    simulation = make_simulation(helix(), atoms)
    simulation.step(5)
    simulation.context.reinitialize(preserveState=True)
    assert np.array_equal(trajectory(simulation, 4), unbroken[5:])
    last = positions_of(simulation)
    simulation.context.reinitialize()
    with pytest.raises(RuntimeError, match="preserveState"):
        simulation.step(1)
    if atoms == "ca":
        simulation.setPositions(helix()[1])
    else:
        simulation.context.setPositions(last)
    simulation.step(1)
    assert (rollout_of(simulation).count, rollout_of(simulation).offset) == (1, 9)


def test_serialised_integrator_is_harmless():
    """OpenMM's serialiser keeps variables, not the rollout: its copy yields infinities, not a frozen protein."""
    simulation = make_simulation(helix())
    integrator = mm.XmlSerializer.deserialize(mm.XmlSerializer.serialize(simulation.integrator))
    context = mm.Context(simulation.system, integrator, mm.Platform.getPlatformByName("Reference"))
    context.setPositions(positions_of(simulation))
    integrator.step(1)
    assert np.isinf(context.getState(positions=True).getPositions(asNumpy=True)._value).all()


def test_weights_by_name_are_loaded(monkeypatch):
    asked = []

    def load(name):
        asked.append(name)
        return fake_weights()

    monkeypatch.setattr("openmm_starmd.model.weights.load_weights", load)
    StarMDSimulation(*helix()).step(1)
    assert asked == [DEFAULT_WEIGHTS]


def test_difference_from_training_warns_once():
    with pytest.warns(StarMDWarning) as caught:
        make_simulation(helix(12), weights=fake_weights(max_length=5))
    assert len(caught) == 1
