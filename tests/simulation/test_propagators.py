"""Propagators of others: a random walk gets reporters, checkpoints, exact restarts and alternation for nothing."""

from __future__ import annotations

import inspect
import json
from importlib.metadata import EntryPoint

import numpy as np
import pytest
from openmm import app, unit

import openmm_starmd.propagators
from openmm_starmd import Propagator, Proposal, StarMDSimulation, check_propagator
from openmm_starmd.protein import Protein
from openmm_starmd.simulation import SimulationOptions
from tests.fakes import Memory, helix, make_simulation, positions_of, trajectory


class RandomWalk:
    """Residues that wander off, each by itself: no physics, but all that the contract asks for."""

    def __init__(self, protein, *, stride, atoms):
        self.protein, self.atoms, self.width = protein, atoms, 0.002 * np.sqrt(stride)

    def next_frame(self, present):
        noise = np.random.default_rng([present.seed, present.number]).normal(0, self.width, (self.protein.length, 1, 3))
        backbone = present.backbone + noise
        return Proposal(self.protein.frame_positions(backbone, self.atoms), backbone)

    def state(self):
        return None


class Springs(RandomWalk):
    """Has a velocity that no history tells, and so a state: what it was after which frame."""

    name, memory, after, velocity = "springs", 2, 0, 0.0

    def next_frame(self, present):
        if present.state is not None:
            self.after, self.velocity = (
                int.from_bytes(present.state[:8]),
                np.frombuffer(present.state[8:]).reshape(-1, 1, 3),
            )
        if present.token != self.after and present.token != getattr(self, "before", None):
            self.after, self.velocity = present.token, 0.0  # somebody else's frame
        velocity = self.velocity if present.token == self.after else self.old
        noise = np.random.default_rng([present.seed, present.number]).normal(0, self.width, (self.protein.length, 1, 3))
        backbone = present.backbone + velocity + noise
        proposal = Proposal(self.protein.frame_positions(backbone, self.atoms), backbone)
        self.before, self.old = present.token, velocity
        self.after, self.velocity = present.token_after(proposal), 0.9 * velocity + noise
        return proposal

    def state(self):
        return self.after.to_bytes(8) + self.velocity.tobytes() if self.after else None


def simulate(kind=RandomWalk, atoms="backbone", seed=5, model=None, **options):
    return StarMDSimulation(*(model or helix(5)), propagator=kind, stride=1.0, atoms=atoms, seed=seed, **options)


@pytest.mark.parametrize("kind", [RandomWalk, Springs])
@pytest.mark.parametrize("atoms", ["ca", "backbone", "heavy"])
def test_sound_ones_are_found_sound(kind, atoms):
    check_propagator(kind, Protein.from_openmm(*helix(5)), stride=1.0, atoms=atoms)
    assert isinstance(simulate(kind, atoms).integrator.propagator, Propagator)


@pytest.mark.parametrize("kind", [RandomWalk, Springs])
def test_reporters_and_clock(kind, tmp_path):
    simulation = simulate(kind)
    simulation.reporters.append(app.DCDReporter(str(tmp_path / "walk.dcd"), 1))
    seen = trajectory(simulation, 4)
    assert simulation.context.getTime() == 4 * unit.picosecond
    assert (np.abs(np.diff(seen, axis=0)).max((1, 2)) > 1e-4).all()
    assert np.array_equal(seen, trajectory(simulate(kind), 4))
    assert not np.allclose(seen, trajectory(simulate(kind, seed=6), 4))
    name = "springs" if kind is Springs else "RandomWalk"
    assert repr(simulation) == f"<StarMDSimulation: 5 residues, backbone, 1 ps, frame 4, {name}>"


@pytest.mark.parametrize("kind", [RandomWalk, Springs])
@pytest.mark.parametrize("atoms", ["ca", "backbone", "heavy"])
def test_exact_restart(kind, atoms, tmp_path):
    whole = trajectory(simulate(kind, atoms), 9)
    first = simulate(kind, atoms)
    first.step(5)
    first.saveCheckpoint(tmp_path / "walk.chk")
    second = simulate(kind, atoms, seed=1)
    second.loadCheckpoint(tmp_path / "walk.chk")
    second.saveCheckpoint(tmp_path / "again.chk")  # what was loaded and not used yet is saved again
    assert (tmp_path / "again.chk").read_bytes() == (tmp_path / "walk.chk").read_bytes()
    assert np.array_equal(trajectory(second, 4), whole[5:])


def test_a_state_file_holds_no_state_of_a_propagator(tmp_path):
    walk, springs = simulate(), simulate(Springs)
    for simulation in (walk, springs):
        simulation.step(2)
    walk.saveState(tmp_path / "walk.xml")
    again = simulate()
    again.loadState(tmp_path / "walk.xml")
    assert np.array_equal(trajectory(again, 2), trajectory(walk, 2))
    with pytest.raises(ValueError, match="saveCheckpoint"):
        springs.saveState(tmp_path / "springs.xml")


def test_checkpoints_of_another_propagator_are_refused(tmp_path, fake_rollout):
    walk = simulate()
    walk.step(2)
    walk.saveCheckpoint(tmp_path / "walk.chk")
    for other in (simulate(Springs), make_simulation(helix(5), stride=1.0)):
        before = positions_of(other)
        with pytest.raises(ValueError, match="another"):
            other.loadCheckpoint(tmp_path / "walk.chk")
        assert np.array_equal(positions_of(other), before)


def test_what_a_propagator_is_shown():
    """Time is the simulation's; the start is remembered from the first frame on; the number counts draws taken back."""

    seen = []

    class Curious(RandomWalk):
        def next_frame(self, present):
            same = np.array_equal(present.kept([0])[0], self.protein.backbone)
            seen.append((present.number, present.count, present.time, same))
            return super().next_frame(present)

    simulation = simulate(Curious)
    simulation.step(2)
    simulation.integrator.skip_draws(2)
    simulation.step(1)
    assert seen == [(0, 0, 0.0, True), (1, 1, 1.0, True), (4, 2, 2.0, True)]


def test_identity_is_beside_the_class(tmp_path):
    class Warm(RandomWalk):
        identity = (300.0,)

    class Other(RandomWalk):
        identity = (300.0,)

    class Hot(Warm):
        identity = (310.0,)

    warm = simulate(Warm)
    warm.step(1)
    warm.saveCheckpoint(tmp_path / "warm.chk")
    simulate(Warm).loadCheckpoint(tmp_path / "warm.chk")
    for kind in (Other, Hot):
        with pytest.raises(ValueError, match="another propagator"):
            simulate(kind).loadCheckpoint(tmp_path / "warm.chk")


@pytest.mark.parametrize("kind", [RandomWalk, Springs])
def test_classical_segments_and_alternation(kind, tmp_path):
    simulation, memory = simulate(kind), Memory()
    simulation.reporters.append(memory)
    with simulation.classical(platform="Reference", minimize=5, equilibrate=0.0):
        simulation.step(1)
    plan = dict(cycles=2, surrogate=2, classical=1, duration=0.0, minimize=5, settings={"platform": "Reference"})
    accept = ("pass", "strained", "broken")
    outcome = simulation.alternate(**plan, accept=accept, log=tmp_path / "log.jsonl")
    assert (outcome.frames, outcome.cycles, memory.steps) == (7, 2, list(range(1, 8)))
    assert [json.loads(line)["event"] for line in (tmp_path / "log.jsonl").read_text().splitlines()][1:] == [
        "accepted"
    ] * 2
    assert simulation.validate(0.0, minimize=5, platform="Reference").step == 7


def test_a_block_taken_back_leaves_the_state_as_it_was():
    """Frames that are taken back are drawn anew from the state that the propagator had before them."""
    simulation, other = simulate(Springs), simulate(Springs)
    for one in (simulation, other):
        one.step(2)
    plan = dict(cycles=1, surrogate=2, classical=0, duration=0.0, minimize=1, settings={"platform": "Reference"})
    with pytest.raises(RuntimeError, match="1 attempts"):
        simulation.alternate(**plan, accept=_never(simulation), attempts=1)
    other.integrator.skip_draws(2)
    assert simulation.currentStep == 2
    assert np.array_equal(trajectory(simulation, 2), trajectory(other, 2))


def _never(simulation):
    """A status that the next frames will not have."""
    status = simulation.validate(0.0, minimize=1, platform="Reference").status
    return "pass" if status != "pass" else "broken"


def test_set_positions_begins_a_history():
    simulation = simulate()
    simulation.step(3)
    start = positions_of(simulation) + np.array([0.0, 0.1, 0.0])
    simulation.context.setPositions(start)
    simulation.step(1)
    history = simulation.integrator.history()
    assert (history.count, history.offset) == (1, 3)


def test_entry_points_are_found_by_name(monkeypatch):
    point = EntryPoint("walk", "tests.simulation.test_propagators:RandomWalk", "openmm_starmd.propagators")
    monkeypatch.setattr(openmm_starmd.propagators, "entry_points", lambda group: [point])
    assert np.array_equal(trajectory(simulate("walk"), 2), trajectory(simulate(), 2))
    with pytest.raises(ValueError, match=r"no propagator 'run'.*walk"):
        simulate("run")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"weights": "starmd-mini-v2"}, ValueError, "weights"),
        ({"steps": 3, "device": "cpu"}, ValueError, "device, steps"),
        ({"stride": None}, ValueError, "stride"),
        ({"stride": -1}, ValueError, "stride"),
        ({"temperature": "hot"}, ValueError, "temperature"),
        ({"propagator": 3}, TypeError, "next_frame"),
        ({"propagator": lambda protein, **_: object()}, TypeError, "next_frame and no method state"),
    ],
)
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match=message):
        StarMDSimulation(*helix(5), **({"propagator": RandomWalk, "stride": 1.0} | options))


def test_temperature_is_that_of_classical_segments():
    assert simulate().temperature == 300 * unit.kelvin
    assert simulate(temperature=350).temperature == 350 * unit.kelvin


class Unseeded(RandomWalk):
    def next_frame(self, present):
        backbone = present.backbone + np.random.normal(0, 0.001, present.backbone.shape)  # noqa: NPY002
        return Proposal(self.protein.frame_positions(backbone, self.atoms), backbone)


class Scribbler(RandomWalk):
    def next_frame(self, present):
        present.backbone[:] += 0.001
        return Proposal(self.protein.frame_positions(present.backbone, self.atoms), present.backbone)


class Forgetful(RandomWalk):
    drawn = 0

    def next_frame(self, present):
        self.drawn = present.number + 1 if present.fresh else self.drawn
        backbone = present.backbone + 0.001 * self.drawn
        return Proposal(self.protein.frame_positions(backbone, self.atoms), backbone)


class Shifted(RandomWalk):
    def next_frame(self, present):
        proposal = super().next_frame(present)
        return proposal._replace(positions=proposal.positions + 0.01)


class Short(RandomWalk):
    def next_frame(self, present):
        proposal = super().next_frame(present)
        return proposal._replace(positions=proposal.positions[1:])


class Infinite(RandomWalk):
    def next_frame(self, present):
        return super().next_frame(present)._replace(backbone=np.full_like(present.backbone, np.inf))


class Greedy(RandomWalk):
    memory = 2

    def next_frame(self, present):
        present.kept([max(0, present.count - 1)] if present.count > 2 else [])
        return super().next_frame(present)


class Talker(RandomWalk):
    def state(self):
        return "hello"


class Nameless(RandomWalk):
    identity = "hot"


class Bare(RandomWalk):
    def next_frame(self, present):
        return super().next_frame(present).positions


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Unseeded, "asked for again"),
        (Scribbler, "changes the arrays"),
        (Forgetful, "no restart would be exact"),
        (Shifted, "positions and backbone differ"),
        (Short, r"positions has the shape \(19, 3\); expected \(20, 3\)"),
        (Infinite, "backbone is not finite"),
        (Greedy, r"next_frame\(\) raises ValueError: frames \[2\] of the history are not remembered"),
        (Talker, "gives a str"),
        (Bare, "must give a Proposal"),
        (Nameless, "identity is 'hot'"),
    ],
)
def test_what_is_wrong_is_said(kind, message):
    with pytest.raises(ValueError, match=message):
        check_propagator(kind, Protein.from_openmm(*helix(5)), stride=1.0)


@pytest.mark.parametrize(
    ("kind", "error", "message"), [(Short, ValueError, "shape"), (Infinite, RuntimeError, "finite")]
)
def test_the_integrator_refuses_what_is_no_frame(kind, error, message):
    simulation = simulate(kind)
    before = positions_of(simulation)
    with pytest.raises(error, match=message):
        simulation.step(1)
    assert simulation.currentStep == 0 and np.array_equal(positions_of(simulation), before)


def test_memory_is_limited_to_what_is_remembered():
    simulation = simulate(Greedy)
    simulation.step(3)
    with pytest.raises(ValueError, match="not remembered"):
        simulation.step(1)
    assert simulation.currentStep == 3


def test_every_parameter_is_shown():
    """help() and completion list what a ``**`` takes."""
    for method, some in (
        (StarMDSimulation.classical, {"minimize", "equilibrate", "forcefield", "solvent", "platform"}),
        (StarMDSimulation.classical_model, {"timestep", "integrator"}),
        (StarMDSimulation.validate, {"duration", "limits", "stop_if_broken", "water"}),
        (StarMDSimulation.alternate, {"cycles", "surrogate", "settings"}),
        (StarMDSimulation.fromSimulation, {"simulation", "stride", "weights", "propagator"}),
    ):
        shown = inspect.signature(method).parameters
        assert some <= set(shown)
        assert not any(one.kind in (one.VAR_KEYWORD, one.VAR_POSITIONAL) for one in shown.values())
    keywords = {
        one.name for one in inspect.signature(StarMDSimulation).parameters.values() if one.kind is one.KEYWORD_ONLY
    }
    assert keywords == set(SimulationOptions.__annotations__)
    with pytest.raises(TypeError, match="solvant"):
        simulate().classical(solvant="obc2")
