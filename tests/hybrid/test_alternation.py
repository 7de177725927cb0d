"""Alternation of learned and classical frames: what is kept, taken back, logged, resumed."""

from __future__ import annotations

import json
from dataclasses import replace

import mdtraj
import numpy as np
import pytest
from openmm import app, unit

import openmm_starmd.hybrid.alternation
from openmm_starmd.hybrid.alternation import PolicyError, alternate
from openmm_starmd.hybrid.reporters import hand_over
from openmm_starmd.verdicts.report import Finding
from tests.fakes import Memory, helix, make_simulation, positions_of

CLASSICAL = {"platform": "Reference"}
# 1 ps a stride: a refresher is 250 time steps
PLAN = dict(surrogate=3, classical=1, duration=0.0, minimize=10, settings=CLASSICAL)


def simulate(atoms="backbone", **options):
    return make_simulation(helix(5), atoms=atoms, stride=1.0, **options)


@pytest.fixture
def judged(monkeypatch):
    """Verdicts come from a script: statuses in turn, then "pass"; the real one is asked for its form."""
    real, script, asked = openmm_starmd.hybrid.alternation.validate, [], []

    def validate(simulation, duration, **options):
        asked.append(simulation.currentStep)
        verdict = asked_form(simulation, real)
        status = script.pop(0) if script else "pass"
        if status == "broken":
            finding = Finding("chirality", True, "ALA 3 has the wrong hand", ("chain A residue ALA 3",))
            return replace(verdict, status=status, findings=(finding,), residues=finding.residues)
        return replace(verdict, status=status, findings=(), residues=())

    def asked_form(simulation, real, kept=[]):  # noqa: B006
        if not kept:
            kept.append(real(simulation, 0.0, minimize=1, **CLASSICAL))
        return replace(kept[0], step=simulation.currentStep)

    monkeypatch.setattr(openmm_starmd.hybrid.alternation, "validate", validate)
    validate.script, validate.asked = script, asked
    return validate


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_blocks_alternate_and_reporters_see_every_frame_once(fake_rollout, judged):
    simulation, memory, sparse = simulate(), Memory(), Memory(interval=3)
    simulation.reporters += [memory, sparse]
    outcome = alternate(simulation, cycles=2, **PLAN)
    assert (outcome.frames, outcome.cycles, outcome.accepted, outcome.rejected) == (8, 2, 2, 0)
    assert memory.steps == list(range(1, 9)) and sparse.steps == [3, 6]
    assert memory.times == [float(step) for step in range(1, 9)]
    assert judged.asked == [3, 7]
    assert simulation.reporters == [memory, sparse]
    assert np.array_equal(memory.frames[-1], positions_of(simulation))
    moved = [np.abs(b - a).max() for a, b in zip(memory.frames, memory.frames[1:], strict=False)]
    assert min(moved) > 0


def test_frames_are_those_of_the_same_steps_by_hand(fake_rollout, judged):
    simulation, memory = simulate(), Memory()
    simulation.reporters.append(memory)
    alternate(simulation, cycles=2, **PLAN)
    by_hand, other = simulate(), Memory()
    by_hand.reporters.append(other)
    for _ in range(2):
        by_hand.step(3)
        with by_hand.classical(minimize=10, **CLASSICAL):
            by_hand.step(1)
    assert all(np.array_equal(a, b) for a, b in zip(memory.frames, other.frames, strict=True))


def test_verdicts_come_every_k_cycles_and_at_the_end(fake_rollout, judged):
    simulation = simulate()
    outcome = alternate(simulation, cycles=5, validate_every=2, **(PLAN | {"classical": 0}))
    assert judged.asked == [6, 12, 15] and outcome.accepted == 3 and outcome.cycles == 5


@pytest.mark.slow
def test_a_bad_verdict_goes_back_and_draws_anew(fake_rollout, judged, tmp_path):
    straight, kept = simulate(), Memory()
    straight.reporters.append(kept)
    alternate(straight, cycles=2, **PLAN)

    simulation, memory, seen = simulate(), Memory(), []
    simulation.reporters.append(memory)
    judged.script += ["pass", "broken"]
    log = tmp_path / "run.jsonl"
    outcome = alternate(simulation, cycles=2, log=log, on_verdict=lambda v, good: seen.append((v.status, good)), **PLAN)
    assert (outcome.accepted, outcome.rejected, outcome.frames) == (2, 1, 8)
    assert seen == [("pass", True), ("broken", False), ("pass", True)]
    assert memory.steps == list(range(1, 9))
    assert np.array_equal(memory.frames[3], kept.frames[3])
    # the same place, another future
    assert not np.array_equal(memory.frames[4], kept.frames[4])
    lines = lines_of(log)
    assert [line["event"] for line in lines] == ["plan", "accepted", "rejected", "accepted"]
    assert (lines[2]["from_step"], lines[2]["to_step"], lines[2]["step"]) == (4, 7, 4)
    assert lines[2]["verdict"]["residues"] == ["chain A residue ALA 3"]
    assert lines[3]["failures"] == 0


def test_it_gives_up_with_the_residue_and_the_last_good_frame(fake_rollout, judged):
    simulation, memory = simulate(), Memory()
    simulation.reporters.append(memory)
    judged.script += ["pass", *["broken"] * 3]
    with pytest.raises(PolicyError, match="3 attempts in a row .*step 4.*ALA 3.*wrong hand") as caught:
        alternate(simulation, cycles=3, attempts=3, **PLAN)
    assert caught.value.verdict.status == "broken"
    assert simulation.currentStep == 4 and memory.steps == [1, 2, 3, 4]
    assert np.array_equal(positions_of(simulation), memory.frames[-1])
    assert simulation.reporters == [memory]
    simulation.step(1)
    assert memory.steps[-1] == 5


def test_what_is_accepted_can_be_chosen(fake_rollout, judged):
    judged.script += ["strained", "strained"]
    assert alternate(simulate(), cycles=1, **PLAN).accepted == 1
    with pytest.raises(PolicyError):
        alternate(simulate(), cycles=1, accept="pass", attempts=1, **PLAN)


class Killed(BaseException):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("place", ["in a verdict", "in a report", "before the checkpoint"])
def test_a_killed_run_goes_on_to_the_same_frames(fake_rollout, judged, tmp_path, monkeypatch, place):
    def call(folder, script, break_at=None):
        folder.mkdir(exist_ok=True)
        simulation = simulate(seed=None if break_at is None and script == [] else 3)
        judged.script[:] = script
        if break_at:
            break_at(simulation, monkeypatch)
        alternate(simulation, cycles=3, log=folder / "run.jsonl", trajectory=folder / "run.dcd", **PLAN)
        return simulation

    whole = call(tmp_path / "whole", ["pass", "broken"])

    def in_a_verdict(simulation, patch):
        def on(*args, **options):
            if judged.script == ["stop"]:
                raise Killed
            return original(*args, **options)

        original = openmm_starmd.hybrid.alternation.validate
        monkeypatch.setattr(openmm_starmd.hybrid.alternation, "validate", on)

    def in_a_report(simulation, patch):
        class Bomb(Memory):
            def report(self, simulation, state):
                if simulation.currentStep == 6:
                    raise Killed
                super().report(simulation, state)

        simulation.reporters.append(Bomb())

    def before_the_checkpoint(simulation, patch):
        original = simulation.saveCheckpoint

        def save(path):
            if simulation.currentStep == 8:
                raise Killed
            original(path)

        patch.setattr(simulation, "saveCheckpoint", save)

    breaks = {
        "in a verdict": in_a_verdict,
        "in a report": in_a_report,
        "before the checkpoint": before_the_checkpoint,
    }
    folder = tmp_path / "broken"
    script = ["pass", "broken", "stop"] if place == "in a verdict" else ["pass", "broken"]
    with pytest.raises(Killed):
        call(folder, script, breaks[place])
    monkeypatch.setattr(openmm_starmd.hybrid.alternation, "validate", judged)
    judged.script[:] = []
    again = call(folder, [])
    assert again.currentStep == whole.currentStep == 12
    assert np.array_equal(positions_of(again), positions_of(whole))
    assert again.seed == whole.seed
    # the header holds the date
    files = [(tmp_path / name / "run.dcd").read_bytes()[276:] for name in ("whole", "broken")]
    assert files[0] == files[1] and len(files[0]) > 12 * 12 * len(positions_of(whole))
    logs = [lines_of(tmp_path / name / "run.jsonl") for name in ("whole", "broken")]
    assert [(a["event"], a["step"]) for a in logs[0][1:]] == [(a["event"], a["step"]) for a in logs[1][1:]]


@pytest.mark.slow
def test_more_cycles_go_on_where_the_log_ends(fake_rollout, judged, tmp_path):
    files = {"log": tmp_path / "run.jsonl", "trajectory": tmp_path / "run.xtc"}
    alternate(simulate(), cycles=1, **files, **PLAN)
    outcome = alternate(simulate(), cycles=3, **files, **PLAN)
    assert (outcome.frames, outcome.cycles, outcome.accepted) == (12, 3, 3)
    assert alternate(simulate(), cycles=3, **files, **PLAN).frames == 12
    top = mdtraj.Topology.from_openmm(simulate().topology)
    trajectory = mdtraj.load(str(files["trajectory"]), top=top)
    assert np.allclose(np.diff(trajectory.time), 1.0) and trajectory.n_frames == 12


def test_a_log_of_something_else_is_refused(fake_rollout, judged, tmp_path):
    log = tmp_path / "run.jsonl"
    alternate(simulate(), cycles=1, log=log, **PLAN)
    before = log.read_bytes()
    with pytest.raises(ValueError, match=r"surrogate 3 \(now 4\)"):
        alternate(simulate(), cycles=2, log=log, **(PLAN | {"surrogate": 4}))
    simulation = simulate()
    simulation.step(2)
    with pytest.raises(ValueError, match="at step 2, where .* has no decision"):
        alternate(simulation, cycles=2, log=log, **PLAN)
    assert log.read_bytes() == before
    stranger = tmp_path / "notes.jsonl"
    stranger.write_text('{"mine": 1}\n')
    with pytest.raises(ValueError, match="no log of a policy"):
        alternate(simulate(), cycles=1, log=stranger, **PLAN)
    theirs = tmp_path / "other.dcd"
    theirs.write_bytes(b"precious")
    with pytest.raises(ValueError, match="move it away"):
        alternate(simulate(), cycles=1, log=tmp_path / "new.jsonl", trajectory=theirs, **PLAN)
    assert theirs.read_bytes() == b"precious"


@pytest.mark.parametrize(
    "wrong",
    [
        {"cycles": -1},
        {"cycles": 1.5},
        {"surrogate": 0},
        {"classical": -1},
        {"validate_every": 0},
        {"attempts": 0},
        {"accept": ()},
        {"accept": "good"},
        {"duration": "long"},
        {"duration": -1.0},
        {"minimize": -3},
        {"trajectory": "run.pdb", "log": "run.jsonl"},
        {"trajectory": "run.dcd"},
    ],
)
def test_wrong_arguments_change_nothing(fake_rollout, wrong):
    simulation = simulate()
    with pytest.raises(ValueError, match="|".join(wrong)):
        alternate(simulation, **({"cycles": 1} | PLAN | wrong))
    assert simulation.currentStep == 0


def test_an_interrupt_keeps_what_was_reported_and_no_more(fake_rollout, judged):
    simulation, memory = simulate(), Memory()
    simulation.reporters.append(memory)
    alternate(simulation, cycles=1, **PLAN)
    simulation.integrator.propagator.rollout.interrupt_at = 2
    with pytest.raises(KeyboardInterrupt):
        alternate(simulation, cycles=1, **PLAN)
    assert simulation.currentStep == 4 and memory.steps == [1, 2, 3, 4]
    assert np.array_equal(positions_of(simulation), memory.frames[-1])
    assert simulation.reporters == [memory]


def test_handing_over_is_reporting_as_it_would_have_been(fake_rollout, tmp_path):
    live, late = simulate(), simulate()
    for simulation, name in ((live, "live"), (late, "late")):
        simulation.step(1)
        simulation.reporters.append(app.DCDReporter(str(tmp_path / f"{name}.dcd"), 2))
        simulation.reporters.append(
            app.StateDataReporter(str(tmp_path / f"{name}.csv"), 3, step=True, time=True, progress=True, totalSteps=9)
        )
    live.step(8)
    reporters, start, frames = late.reporters, late.context.createCheckpoint(), []
    late.reporters = []
    for _ in range(8):
        late.step(1)
        frames.append(late.context.createCheckpoint())
    hand_over(late, start, frames, reporters)
    assert late.reporters == [] and late.currentStep == 9
    # the header of a DCD file holds the second in which it was made
    for name, header in (("dcd", 276), ("csv", 0)):
        one, other = ((tmp_path / f"{run}.{name}").read_bytes()[header:] for run in ("live", "late"))
        assert one and one == other
    live.step(1)
    late.step(1)
    assert np.array_equal(positions_of(live), positions_of(late))


def test_the_verdict_is_the_real_one(fake_rollout):
    simulation, seen = simulate(atoms="heavy"), []
    outcome = simulation.alternate(
        cycles=1,
        surrogate=2,
        classical=1,
        duration=0.04 * unit.picosecond,
        minimize=20,
        accept=("pass", "strained", "broken"),
        settings=CLASSICAL,
        on_verdict=lambda verdict, good: seen.append(verdict),
    )
    assert outcome.frames == 3 and seen[0].step == 2 and seen[0].duration == pytest.approx(0.04)
