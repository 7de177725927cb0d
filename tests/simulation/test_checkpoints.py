"""A run split by a checkpoint or a state equals the unbroken one to the bit; the foreign is refused without harm."""

import io
import itertools

import numpy as np
import openmm as mm
import pytest
import torch
from openmm import app, unit

from openmm_starmd.checkpoint import MAGIC, unpack
from openmm_starmd.model.config import ModelConfig
from openmm_starmd.model.network import Network
from openmm_starmd.model.weights import Weights
from openmm_starmd.rollout import kept_frames
from tests.fakes import Memory, fake_weights, helix, make_simulation, positions_of, trajectory

MODES = ("ca", "backbone", "heavy")
KINDS = ("Checkpoint", "State")
pytestmark = pytest.mark.usefixtures("fake_rollout")


def save(simulation, kind, file):
    getattr(simulation, f"save{kind}")(file)


def load(simulation, kind, file):
    getattr(simulation, f"load{kind}")(file)


def evictions(max_context, frames):
    """Numbers of frames whose arrival evicts others."""
    kept = [set(kept_frames(count, max_context)) for count in range(frames + 1)]
    return [count for count, (old, new) in enumerate(itertools.pairwise(kept), start=1) if old - new]


@pytest.mark.slow
@pytest.mark.parametrize("max_context", [3, 4, 8])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("atoms", MODES)
def test_split_run_equals_unbroken(tmp_path, atoms, kind, max_context):
    """Into the same simulation and into a fresh one, before any frame, and on either side of every eviction."""
    frames = 3 * max_context + 4
    unbroken_simulation = make_simulation(helix(), atoms, max_context=max_context)
    unbroken = trajectory(unbroken_simulation, frames)
    evicting = evictions(max_context, frames)
    assert evicting
    same = make_simulation(helix(), atoms, max_context=max_context)
    for split in sorted({0, 1, 3 * max_context, *evicting, *(number - 1 for number in evicting)} - {frames}):
        same.step(split - same.currentStep)
        file = tmp_path / f"{split}"
        save(same, kind, file)
        ahead = trajectory(same, 4)[: frames - split]
        load(same, kind, file)
        assert same.currentStep == split
        assert same.context.getTime() == split * same.stride
        assert np.array_equal(trajectory(same, frames - split), unbroken[split:])
        assert np.array_equal(ahead, unbroken[split : split + 4])
        fresh = make_simulation(helix(), atoms, seed=99, max_context=max_context)
        load(fresh, kind, file)
        assert fresh.seed == 3
        assert np.array_equal(trajectory(fresh, frames - split), unbroken[split:])
        load(same, kind, file)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_split_run_of_the_real_rollout(tmp_path, monkeypatch, kind):
    """The same with the package's own Rollout, over a narrow network with random parameters."""
    monkeypatch.undo()
    config = ModelConfig(c_s=16, c_z=8, blocks=1, conditioner_layers=1, conditioner_s=16, conditioner_z=8,
                         attention_hidden=16, max_length=100, steps=2, max_context=3, name="narrow")  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = Network(config)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
    weights = Weights(network.eval().requires_grad_(False), config, "narrow", None)
    unbroken = trajectory(make_simulation(helix(), weights=weights), 11)
    assert np.abs(np.diff(unbroken, axis=0)).max() > 1e-3
    same = make_simulation(helix(), weights=weights)
    for split in (2, 3, 5, 8, 9):
        same.step(split - same.currentStep)
        save(same, kind, tmp_path / "run")
        fresh = make_simulation(helix(), weights=weights, seed=None)
        load(fresh, kind, tmp_path / "run")
        assert np.array_equal(trajectory(fresh, 11 - split), unbroken[split:])
        same.step(3)
        load(same, kind, tmp_path / "run")
    assert np.array_equal(trajectory(same, 2), unbroken[9:])


@pytest.mark.parametrize("kind", KINDS)
def test_split_after_new_history(tmp_path, kind):
    """A checkpoint between setPositions() and the next step, and later, resumes exactly."""
    simulation = make_simulation(helix())
    simulation.step(7)
    simulation.context.setPositions(positions_of(simulation) + 0.5)
    save(simulation, kind, tmp_path / "before")
    first = trajectory(simulation, 3)
    save(simulation, kind, tmp_path / "after")
    second = trajectory(simulation, 5)
    fresh = make_simulation(helix())
    load(fresh, kind, tmp_path / "before")
    assert np.array_equal(trajectory(fresh, 3), first)
    load(fresh, kind, tmp_path / "after")
    assert np.array_equal(trajectory(fresh, 5), second)


def test_histories_of_equal_length_are_told_apart(tmp_path):
    """Same seed, same counters, other frames: loading must not go on from what the rollout still remembers."""
    one, two = make_simulation(helix()), make_simulation(helix())
    two.context.setPositions(positions_of(two) + 0.5)
    one.step(6)
    two.step(6)
    one.saveCheckpoint(tmp_path / "one")
    expected = trajectory(one, 4)
    two.loadCheckpoint(tmp_path / "one")
    assert np.array_equal(trajectory(two, 4), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_open_files_and_string_paths(tmp_path, kind):
    simulation = make_simulation(helix())
    simulation.step(5)
    file = io.BytesIO() if kind == "Checkpoint" else io.StringIO()
    save(simulation, kind, file)
    save(simulation, kind, str(tmp_path / "run"))
    expected = trajectory(simulation, 3)
    file.seek(0)
    for source in (file, str(tmp_path / "run"), tmp_path / "run"):
        fresh = make_simulation(helix())
        load(fresh, kind, source)
        assert np.array_equal(trajectory(fresh, 3), expected)


@pytest.mark.parametrize("state", [False, True])
def test_checkpoint_reporter(tmp_path, state):
    """The stock reporter writes what resumes exactly, to a name and to an open file, over and over."""
    unbroken = trajectory(make_simulation(helix()), 12)
    simulation = make_simulation(helix())
    name = str(tmp_path / "run")
    simulation.reporters.append(app.CheckpointReporter(name, 3, writeState=state))
    with open(tmp_path / "open", "w+" if state else "w+b") as file:
        simulation.reporters.append(app.CheckpointReporter(file, 7, writeState=state))
        simulation.step(8)
    for path, split in ((name, 6), (tmp_path / "open", 7)):
        fresh = make_simulation(helix())
        load(fresh, "State" if state else "Checkpoint", path)
        assert fresh.currentStep == split
        assert np.array_equal(trajectory(fresh, 12 - split), unbroken[split:])


def test_interrupted_save_keeps_the_old_file(tmp_path, monkeypatch):
    simulation = make_simulation(helix())
    file = tmp_path / "run.chk"
    simulation.saveCheckpoint(file)
    before = file.read_bytes()
    simulation.step(1)

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        simulation.saveCheckpoint(file)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["run.chk"]


def classical_simulation(model):
    """A classical Simulation with as many particles as the frames of `model`."""
    topology = make_simulation(model).topology
    system = mm.System()
    for _ in topology.atoms():
        system.addParticle(12.0)
    integrator = mm.LangevinMiddleIntegrator(300, 1, 0.001)
    simulation = app.Simulation(topology, system, integrator, mm.Platform.getPlatformByName("Reference"))
    simulation.context.setPositions(np.random.default_rng(0).normal(size=(topology.getNumAtoms(), 3)))
    simulation.step(50)
    return simulation


def other_start():
    topology, positions = helix()
    return topology, np.array(positions.value_in_unit(unit.nanometer)) + [0.0, 0.0, 0.1]


FOREIGN = {
    "another protein": lambda: make_simulation(helix(9)),
    "another chain division": lambda: make_simulation(helix(4, chains=2)),
    "another start": lambda: make_simulation(other_start()),
    "another stride": lambda: make_simulation(helix(), stride=5),
    "other atoms": lambda: make_simulation(helix(), "ca"),
    "other steps": lambda: make_simulation(helix(), steps=7),
    "another max_context": lambda: make_simulation(helix(), max_context=7),
    "other weights": lambda: make_simulation(helix(), weights=fake_weights(context_tau=0.1)),
    "a classical simulation": lambda: classical_simulation(helix()),
}


@pytest.mark.filterwarnings("ignore::openmm_starmd.errors.StarMDWarning")
@pytest.mark.parametrize("through", ["simulation", "context"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("foreign", FOREIGN)
def test_foreign_is_refused_without_harm(foreign, kind, through):
    unbroken = trajectory(make_simulation(helix()), 12)
    simulation = make_simulation(helix())
    simulation.step(6)
    other = FOREIGN[foreign]()
    other.step(2)
    with pytest.raises(ValueError, match="StarMDSimulation|another") as refusal:
        if through == "simulation":
            file = io.BytesIO() if kind == "Checkpoint" else io.StringIO()
            save(other, kind, file)
            file.seek(0)
            load(simulation, kind, file)
        elif kind == "Checkpoint":
            simulation.context.loadCheckpoint(other.context.createCheckpoint())
        else:
            simulation.context.setState(other.context.getState(positions=True, integratorParameters=True))
    assert len(str(refusal.value)) > 40
    assert simulation.currentStep == 6
    assert simulation.context.getTime() == 60 * unit.picosecond
    assert np.array_equal(positions_of(simulation), unbroken[5])
    assert np.array_equal(trajectory(simulation, 6), unbroken[6:])


def test_refusal_names_what_differs(tmp_path):
    make_simulation(helix(), stride=5).saveCheckpoint(tmp_path / "run")
    with pytest.raises(ValueError, match=r"another stride"):
        make_simulation(helix()).loadCheckpoint(tmp_path / "run")
    make_simulation(other_start()).saveState(tmp_path / "run")
    with pytest.raises(ValueError, match="another start structure"):
        make_simulation(helix()).loadState(tmp_path / "run")


def test_damaged_files_are_refused(tmp_path):
    simulation = make_simulation(helix())
    simulation.step(6)
    before = positions_of(simulation)
    simulation.saveCheckpoint(tmp_path / "c")
    simulation.saveState(tmp_path / "s")
    whole, xml = (tmp_path / "c").read_bytes(), (tmp_path / "s").read_bytes()
    assert whole.startswith(MAGIC)
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    for bad in (whole[:-1], whole[:40], flipped, b"", b"junk", xml):
        with pytest.raises(ValueError, match="checkpoint"):
            simulation.loadCheckpoint(io.BytesIO(bad))
    system = mm.XmlSerializer.serialize(simulation.system).encode()
    for bad in (xml[: len(xml) // 2], b"", b"junk", whole, system):
        with pytest.raises(ValueError, match="state|State"):
            simulation.loadState(io.BytesIO(bad))
    bare = mm.XmlSerializer.serialize(simulation.context.getState(positions=True))
    with pytest.raises(ValueError, match="no frame history"):
        simulation.loadState(io.StringIO(bare))
    for bad in (b"", b"junk", simulation.context.createCheckpoint()[:900]):
        with pytest.raises(ValueError, match="StarMDSimulation"):
            simulation.context.loadCheckpoint(bad)
    assert np.array_equal(positions_of(simulation), before)
    assert simulation.currentStep == 6
    assert np.array_equal(trajectory(simulation, 4), trajectory(make_simulation(helix()), 10)[6:])


FORCEFIELD = app.ForceField("amber14-all.xml")
REFERENCE = {"forcefield": FORCEFIELD, "platform": "Reference", "minimize": 3, "equilibrate": 0.01}


def hybrid(seed=3):
    """Strides of ten time steps."""
    weights = fake_weights(stride_min=0.01, stride_default=1.0)
    return make_simulation(helix(4), "heavy", seed=seed, weights=weights, stride=0.04)


def schedule(simulation, memory, save=None):
    """Learned frames, a segment of four strides, learned frames, another segment; `save` is called at every turn."""
    save = save or (lambda: None)
    simulation.reporters.append(memory)
    simulation.step(2)
    for _ in range(2):
        save()
        with simulation.classical(**REFERENCE) as md:
            save()
            simulation.step(1)
            save()
            md.step(16)
            save()
            simulation.step(2)
            save()
        save()
        simulation.step(2)
    simulation.reporters.remove(memory)


def test_split_inside_a_segment_equals_unbroken():
    """Before a segment, on entry, at a whole frame, in the middle of a stride, at the end: bit by bit on Reference."""
    unbroken, files = Memory(), []

    def save():
        files.append(io.BytesIO())
        simulation.saveCheckpoint(files[-1])

    simulation = hybrid()
    schedule(simulation, unbroken, save)
    assert len(unbroken.frames) == 14 and len(files) == 12
    inner = {1: 0, 2: 10, 3: 26, 4: 40}  # time steps into the segment, by the place of its file
    fresh = hybrid(seed=99)
    for place, file in enumerate(files):
        file.seek(0)
        fresh.loadCheckpoint(file)
        memory = Memory()
        fresh.reporters.append(memory)
        done, (number, turn) = fresh.currentStep, divmod(place, 6)
        if turn < 5:
            with fresh.classical(**REFERENCE) as md:
                begun = inner.get(turn, 0)
                assert md.currentStep == 10 * (2 + 6 * number) + begun
                md.step(40 - begun)
        fresh.step(2)
        if number == 0 and turn in (0, 3, 5):
            with fresh.classical(**REFERENCE):
                fresh.step(4)
            fresh.step(2)
        fresh.reporters.clear()
        assert np.array_equal(memory.frames, unbroken.frames[done : done + len(memory.frames)]), place
        assert fresh.currentStep in (8, 14)


def test_after_loading_a_segment():
    """Nothing but going on in it, or saying that it is over; and another model is refused."""
    simulation = hybrid()
    simulation.step(2)
    inside = io.BytesIO()
    with simulation.classical(**REFERENCE) as md:
        simulation.step(1)
        md.step(3)
        simulation.saveCheckpoint(inside)
        with pytest.raises(ValueError, match="saveCheckpoint"):
            simulation.saveState(io.StringIO())
        frames = trajectory(simulation, 2)

    fresh = hybrid()
    inside.seek(0)
    fresh.loadCheckpoint(inside)
    with pytest.raises(ValueError, match="leaveSegment"):
        fresh.step(1)
    with pytest.raises(ValueError, match="saveCheckpoint"):
        fresh.saveState(io.StringIO())
    others = {
        "integrator": {"friction": 2.0},
        "System": {"hydrogen_mass": 2.0},
        "integrator, another timestep": {"timestep": 0.002},
    }
    for what, options in others.items():
        with pytest.raises(ValueError, match=f"another {what}"), fresh.classical(**REFERENCE | options):
            pass
    again = io.BytesIO()
    fresh.saveCheckpoint(again)
    assert unpack(again.getvalue())[1] == unpack(inside.getvalue())[1] is not None
    with fresh.classical(**REFERENCE):
        assert np.array_equal(trajectory(fresh, 2), frames)

    counts = []
    for drop in (lambda one: one.leaveSegment(), lambda one: one.context.setPositions(positions_of(one) + 0.1)):
        inside.seek(0)
        fresh.loadCheckpoint(inside)
        drop(fresh)
        fresh.step(2)
        assert fresh.currentStep == 5
        counts.append(fresh.integrator.history().count)
    assert counts == [3, 2], "leaving keeps the segment's history; new positions start their own"


def test_checkpoint_reporter_inside_a_segment(tmp_path):
    simulation = hybrid()
    simulation.reporters.append(app.CheckpointReporter(str(tmp_path / "run"), 3))
    simulation.step(1)
    with simulation.classical(**REFERENCE):
        frames = trajectory(simulation, 4)
    fresh = hybrid()
    fresh.loadCheckpoint(tmp_path / "run")
    assert fresh.currentStep == 3
    with fresh.classical(**REFERENCE):
        assert np.array_equal(trajectory(fresh, 2), frames[2:])


def test_a_damaged_segment_is_refused():
    simulation, file = hybrid(), io.BytesIO()
    with simulation.classical(**REFERENCE):
        simulation.saveCheckpoint(file)
    data = file.getvalue()
    for bad in (data[:-1], data[:60], data[:-9] + b"X" + data[-8:]):
        with pytest.raises(ValueError, match="damaged"):
            simulation.loadCheckpoint(io.BytesIO(bad))
    simulation.step(1)
