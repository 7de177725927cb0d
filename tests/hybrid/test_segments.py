"""Classical segments: the same reporters, atoms and clock; what the surrogate goes on from; what interrupts them."""

import itertools

import mdtraj
import numpy as np
import openmm as mm
import pytest
from openmm import app, unit

from openmm_starmd.hybrid.segment import entry_seed
from tests.fakes import Memory, fake_weights, helix, make_simulation, positions_of, trajectory

pytestmark = pytest.mark.usefixtures("fake_rollout")
STRIDE = 0.04  # ps, ten time steps: what is tested does not depend on it
RESIDUES = 4
FORCEFIELD = app.ForceField("amber14-all.xml")
REFERENCE = {"forcefield": FORCEFIELD, "platform": "Reference", "minimize": 5, "equilibrate": 0.02}


def hybrid(atoms="backbone", **options):
    weights = fake_weights(stride_min=0.01, stride_default=1.0)
    return make_simulation(helix(RESIDUES), atoms, weights=weights, **({"stride": STRIDE} | options))


def distances(xyz):
    return np.linalg.norm(xyz[..., :, None, :] - xyz[..., None, :, :], axis=-1)


def test_files_through_two_switches(tmp_path):
    """DCD, XTC and log: constant atoms, uniform times, and mdtraj reads them."""
    simulation = hybrid("heavy")
    with open(tmp_path / "top.pdb", "w") as file:
        app.PDBFile.writeFile(simulation.topology, positions_of(simulation) * unit.nanometer, file)
    simulation.reporters += [
        app.DCDReporter(str(tmp_path / "t.dcd"), 1),
        app.XTCReporter(str(tmp_path / "t.xtc"), 1),
        app.StateDataReporter(str(tmp_path / "log.csv"), 1, step=True, time=True),
    ]
    memory = Memory()
    simulation.reporters.append(memory)
    for _ in range(2):
        simulation.step(3)
        with simulation.classical(**REFERENCE):
            simulation.step(2)
    simulation.step(2)
    simulation.reporters.clear()
    assert memory.steps == list(range(1, 13))
    assert np.allclose(memory.times, STRIDE * np.arange(1, 13))
    for name in ("t.dcd", "t.xtc"):
        read = mdtraj.load(str(tmp_path / name), top=str(tmp_path / "top.pdb"))
        assert read.xyz.shape == (12, simulation.topology.getNumAtoms(), 3)
        assert np.abs(read.xyz - np.array(memory.frames)).max() < 2e-3
        if name == "t.xtc":
            assert np.allclose(read.time, STRIDE * np.arange(1, 13), atol=1e-5)
    rows = np.loadtxt(tmp_path / "log.csv", delimiter=",", skiprows=1)
    assert np.allclose(rows[:, 1], STRIDE * rows[:, 0])


@pytest.mark.parametrize("atoms", ["ca", "backbone", "heavy"])
def test_frames_are_those_of_the_all_atom_simulation(atoms):
    """A frame holds the all-atom positions of its moment, moved as one body onto the frame before."""
    simulation = hybrid(atoms)
    simulation.step(2)
    before, inner = positions_of(simulation), Memory(interval=10)
    segment = simulation.classical(**REFERENCE)
    with segment as md:
        assert isinstance(md, app.Simulation) and md is not simulation
        assert md.topology.getNumAtoms() > simulation.topology.getNumAtoms()
        assert {atom.element.symbol for atom in md.topology.atoms()} >= {"H"}
        md.reporters.append(inner)
        frames = trajectory(simulation, 3)
        assert md.currentStep == 10 * simulation.currentStep == 50
        assert md.context.getTime()._value == pytest.approx(5 * STRIDE)
    assert not md.reporters
    picked = np.array(inner.frames)[:, segment.model.frame_atoms(simulation.topology)]
    assert np.allclose(distances(frames), distances(picked), atol=1e-9)
    alpha = [atom.index for atom in simulation.topology.atoms() if atom.name == "CA"]
    for old, new in itertools.pairwise(frames):
        covariance = (new[alpha] - new[alpha].mean(0)).T @ (old[alpha] - old[alpha].mean(0))
        assert np.allclose(covariance, covariance.T, atol=1e-9), "not superposed"
        assert np.allclose(new[alpha].mean(0), old[alpha].mean(0))
    moved = np.linalg.norm(frames[0] - before, axis=-1)
    assert 0.001 < moved.mean() < 0.3


def test_history_is_the_segment():
    """The surrogate goes on from all frames of the segment and the structure it began with; draws are not repeated."""
    simulation = hybrid(max_context=6)
    simulation.step(4)
    segment = simulation.classical(**REFERENCE)
    with segment as md:
        begun = segment.model.positions()[segment.model.backbone_atoms]
        frames = trajectory(simulation, 3)
        assert md.currentStep == 70
    simulation.step(1)
    rollout = simulation.integrator.propagator.rollout
    assert (rollout.count, rollout.offset, simulation.currentStep) == (4, 4, 8)
    kept = rollout.frames()
    assert sorted(kept) == [0, 1, 2, 3, 4]
    pick = simulation.protein.backbone_from_frame
    for number in (1, 2, 3):
        assert np.array_equal(kept[number][0].numpy(), pick(frames[number - 1], "backbone"))
    start = kept[0][0].numpy().reshape(-1, 3)
    assert np.allclose(distances(start), distances(begun.reshape(-1, 3)), atol=1e-9)


def test_a_segment_longer_than_the_history():
    simulation = hybrid(max_context=3)
    simulation.step(1)
    with simulation.classical(**REFERENCE):
        frames = trajectory(simulation, 7)
    simulation.step(1)
    kept = simulation.integrator.propagator.rollout.frames()
    newest = simulation.protein.backbone_from_frame(frames[-1], "backbone")
    assert np.array_equal(kept[7][0].numpy(), newest)


def test_a_segment_without_frames_changes_nothing():
    unbroken = trajectory(hybrid(), 9)
    simulation = hybrid()
    simulation.step(5)
    with simulation.classical(**REFERENCE) as md:
        simulation.step(0)
        md.step(0)
    with pytest.raises(ZeroDivisionError), simulation.classical(**REFERENCE) as md:
        md.step(4)
        _ = 1 / 0
    assert simulation.currentStep == 5
    assert np.array_equal(trajectory(simulation, 4), unbroken[5:])


def test_a_partial_stride_is_named():
    """Leaving in the middle of a stride raises, and leaves the simulation at its last whole frame."""

    def left_whole():
        simulation = hybrid()
        simulation.step(2)
        with simulation.classical(**REFERENCE):
            simulation.step(1)
        return simulation

    simulation = hybrid()
    simulation.step(2)
    with pytest.raises(ValueError, match=r"4 time steps into a stride of 10: 6 are missing"):
        with simulation.classical(**REFERENCE) as md:
            simulation.step(1)
            md.step(4)
    assert simulation.currentStep == 3
    assert np.array_equal(trajectory(simulation, 3), trajectory(left_whole(), 3))


def test_either_clock_may_be_stepped():
    """md.step() completes strides as simulation.step() does, in any portions."""

    def run(portions):
        simulation, memory = hybrid(), Memory()
        simulation.step(1)
        simulation.reporters.append(memory)
        with simulation.classical(**REFERENCE) as md:
            for inner in portions:
                simulation.step(1) if inner is None else md.step(inner)
        return memory

    expected = run([None, None, None])
    assert expected.steps == [2, 3, 4]
    for portions in ([30], [4, 6, 13, 7], [3, None, 20], [None, 5, None, 10]):
        memory = run(portions)
        assert memory.steps == [2, 3, 4]
        assert np.array_equal(memory.frames, expected.frames)


def test_moving_the_inner_clock_is_noticed():
    simulation = hybrid()
    with pytest.raises(RuntimeError, match="leave step counts alone"), simulation.classical(**REFERENCE) as md:
        md.integrator.step(25)
        simulation.step(1)
    assert simulation.currentStep == 0
    simulation.step(1)


@pytest.mark.slow
@pytest.mark.parametrize("call", [1, 2, 4, 5, 9, 12])
def test_interrupted_inside_a_segment(call):
    """Ctrl-C before any inner portion: going on inside gives the same frames; leaving, the last whole one."""
    unbroken = hybrid()
    unbroken.step(2)
    with unbroken.classical(**REFERENCE):
        expected = trajectory(unbroken, 4)

    simulation = hybrid()
    simulation.step(2)
    memory, calls = Memory(), 0
    simulation.reporters.append(memory)

    class Interrupting:
        def describeNextReport(self, md):
            nonlocal calls
            calls += 1
            if calls == call:
                raise KeyboardInterrupt
            return {"steps": 4, "include": []}

        def report(self, md, state):
            pass

    with simulation.classical(**REFERENCE) as md:
        md.reporters.append(Interrupting())
        with pytest.raises(KeyboardInterrupt):
            simulation.step(4)
        done = simulation.currentStep - 2
        assert 0 <= done < 4 and simulation.context.getTime() == simulation.currentStep * simulation.stride
        simulation.step(4 - done)
    assert np.array_equal(memory.frames, expected)

    calls, simulation = 0, hybrid()
    simulation.step(2)
    with pytest.raises(KeyboardInterrupt), simulation.classical(**REFERENCE) as md:
        md.reporters.append(Interrupting())
        simulation.step(4)
    assert simulation.currentStep - 2 == done
    if done:
        assert np.array_equal(positions_of(simulation), expected[done - 1])
    simulation.step(2)
    assert simulation.currentStep == done + 4


def test_interrupted_while_entering(monkeypatch):
    unbroken = trajectory(hybrid(), 5)
    simulation = hybrid()
    simulation.step(3)
    with monkeypatch.context() as patch:
        patch.setattr(mm.LocalEnergyMinimizer, "minimize", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt), simulation.classical(**REFERENCE):
            pass
    assert np.array_equal(trajectory(simulation, 2), unbroken[3:])


def test_what_a_segment_does_not_allow():
    simulation = hybrid()
    simulation.step(1)
    saved, here = simulation.context.createCheckpoint(), positions_of(simulation)
    state = simulation.context.getState(positions=True, integratorParameters=True)
    with simulation.classical(**REFERENCE) as md:
        staged = simulation.integrator.staged_start()
        with pytest.raises(ValueError, match="already"), simulation.classical(**REFERENCE):
            pass
        for forbidden in (
            lambda: simulation.context.setPositions(here),
            lambda: simulation.setPositions(helix(RESIDUES)[1] * 1.01),
            lambda: simulation.context.loadCheckpoint(saved),
            lambda: simulation.context.setState(state),
            lambda: simulation.context.reinitialize(),
            simulation.minimizeEnergy,
            lambda: simulation.validate(1),
            lambda: simulation.alternate(cycles=1),
            simulation.leaveSegment,
        ):
            with pytest.raises(ValueError, match="leave it first"):
                forbidden()
        assert np.array_equal(simulation.integrator.staged_start(), staged)
        md.step(7)
        simulation.step(2)
    assert simulation.currentStep == 3
    simulation.step(1)


def test_chance_depends_on_seed_and_frame_alone():
    def segment(seed=3, before=2, aside=False):
        simulation = hybrid(seed=seed)
        simulation.step(before)
        if aside:
            model = simulation.classical_model(platform="Reference")
            model.enter(simulation.protein.backbone, equilibrate=0.04, seed=9)
        with simulation.classical(**REFERENCE) as md:
            speeds = md.context.getState(velocities=True).getVelocities(asNumpy=True)._value
            return speeds, trajectory(simulation, 2)

    velocities, frames = segment()
    for other in (segment(), segment(aside=True)):
        assert np.array_equal(velocities, other[0]) and np.array_equal(frames, other[1])
    for other in (segment(seed=4), segment(before=3)):
        assert np.abs(velocities - other[0]).mean() > 0.05
    assert len({entry_seed(seed, number) for seed in range(10) for number in range(10)}) == 100


def test_skipped_draws_are_another_future():
    """Back at an earlier frame, other random numbers; and a checkpoint keeps the choice."""
    first = hybrid()
    first.step(4)
    saved = first.context.createCheckpoint()
    future = trajectory(first, 3)
    first.context.loadCheckpoint(saved)
    assert np.array_equal(trajectory(first, 3), future)
    first.context.loadCheckpoint(saved)
    first.integrator.skip_draws(3)
    skipped = first.context.createCheckpoint()
    other = trajectory(first, 3)
    assert np.abs(other - future).max() > 1e-4
    fresh = hybrid()
    fresh.context.loadCheckpoint(skipped)
    assert np.array_equal(trajectory(fresh, 3), other)


def test_models_are_kept_by_their_settings():
    simulation = hybrid()
    model = simulation.classical_model(platform="Reference")
    assert simulation.classical_model(platform="Reference") is model
    reference, timestep = mm.Platform.getPlatformByName("Reference"), 4e-6 * unit.nanosecond
    assert simulation.classical_model(platform=reference, timestep=timestep) is model
    assert simulation.classical_model(platform="Reference", friction=2) is not model
    for options, message in (
        ({"timestep": 0.003}, r"0.04 ps is no whole number of time steps of 0.003 ps: timestep=0.00285714"),
        ({"timestep": 0.1}, "timestep=0.04 fits"),
        ({"minimize": -1}, "minimize is -1"),
        ({"equilibrate": -1}, "equilibrate"),
        ({"solvent": "water"}, "solvent is 'water'"),
        ({"pressure": 1}, "explicit"),
    ):
        with pytest.raises(ValueError, match=message):
            simulation.classical(**options)
    with pytest.raises(TypeError, match="forcefeld"):
        simulation.classical(forcefeld="amber14-all.xml")


@pytest.mark.parametrize("atoms", ["ca", "backbone", "heavy"])
def test_minimize_energy(atoms):
    """A new history from the minimum: lower in energy, in the same place; time goes on."""
    simulation = hybrid(atoms)
    simulation.step(3)
    before, model = positions_of(simulation), simulation.classical_model()
    frame = simulation.integrator.present()
    before_energy = model.enter(frame.backbone, frame.torsions, minimize=0, equilibrate=0).energy_placed
    simulation.minimizeEnergy(maxIterations=40)
    after = positions_of(simulation)
    assert 0.0005 < np.linalg.norm(after - before, axis=-1).mean() < (0.3 if atoms == "heavy" else 0.1)
    assert model.energy() < before_energy
    picked = model.positions()[model.frame_atoms(simulation.topology)]
    assert np.allclose(distances(picked), distances(after), atol=1e-9)
    simulation.step(2)
    rollout = simulation.integrator.propagator.rollout
    assert (rollout.count, rollout.offset, simulation.currentStep) == (2, 3, 5)
    alpha = [atom.index for atom in simulation.topology.atoms() if atom.name == "CA"]
    assert np.allclose(rollout.frames()[0][0].numpy()[:, 1].mean(0), before[alpha].mean(0))


def test_entering_again_builds_nothing(monkeypatch):
    """What it costs is measured by benchmarks/hybrid_cost.py."""
    simulation = hybrid()
    model = simulation.classical_model(platform="Reference")
    inner = model.simulation

    def refuse(*_, **__):
        raise RuntimeError("built again")

    for owner, name in ((app.ForceField, "createSystem"), (app.Modeller, "addHydrogens"), (mm, "Context")):
        monkeypatch.setattr(owner, name, refuse)
    for _ in range(2):
        simulation.step(1)
        with simulation.classical(platform="Reference", minimize=0, equilibrate=0) as md:
            assert md is inner
