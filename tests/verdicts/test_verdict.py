"""Verdicts: what is found in a frame, what they say, and that they leave a simulation alone."""

from __future__ import annotations

import json
import math
import random
import re
from dataclasses import fields, replace
from pathlib import Path

import mdtraj
import numpy as np
import pytest
from openmm import app, unit

from openmm_starmd.analysis.defects import Inspector
from openmm_starmd.geometry.ideal import ATOM_NAMES, ideal_atoms
from openmm_starmd.geometry.torsions import dihedral, rotate_about
from openmm_starmd.hybrid.reporters import VerdictReporter
from openmm_starmd.protein.protein import Protein
from openmm_starmd.verdicts.judging import Figures
from openmm_starmd.verdicts.limits import LIMITS, TRAINING_MD, Spread, advise
from openmm_starmd.verdicts.report import Finding, Geometry, Verdict
from openmm_starmd.verdicts.settings import VerdictSettings
from openmm_starmd.verdicts.verdict import frame_at, judge, own_spread, present_frame, validate
from tests.fakes import fake_weights, helix, make_simulation, positions_of

DATA = Path(__file__).parents[3] / "shared" / "data"
QUICK = {"duration": 0.08, "minimize": 30, "platform": "Reference"}


@pytest.fixture(scope="module")
def protein():
    topology, positions = helix(8)
    rough = Protein.from_openmm(topology, positions)
    ideal = ideal_atoms(rough.residue_types, rough.backbone, np.zeros((8, 5)))
    xyz = np.array(positions.value_in_unit(unit.nanometer))
    # the textbook's CB leans so far that a force field would turn CA over
    for a in topology.atoms():
        if a.name == "CB":
            xyz[a.index] = ideal[a.residue.index, list(ATOM_NAMES[0]).index("CB")]
    return Protein.from_openmm(topology, xyz * unit.nanometer)


@pytest.fixture(scope="module")
def start(protein):
    return protein.frame_positions(protein.backbone, "heavy")


@pytest.fixture(scope="module")
def inspector(protein, start):
    return Inspector(mdtraj.Topology.from_openmm(protein.frame_topology("heavy")), start, protein.bonded)


@pytest.fixture(scope="module")
def model(protein):
    from openmm_starmd.classical.model import ClassicalModel
    from openmm_starmd.classical.settings import ClassicalSettings

    return ClassicalModel(protein, ClassicalSettings(platform="Reference"))


def atom(protein, residue, name):
    topology = protein.frame_topology("heavy")
    return next(a.index for a in topology.atoms() if a.residue.index == residue and a.name == name)


def atoms_after(protein, residue):
    return np.array([a.residue.index > residue for a in protein.frame_topology("heavy").atoms()])


def kinds(quality):
    return {(d.kind, d.residues, d.grave) for d in quality.defects if d.kind != "outlier"}


def mirrored(protein, start, residue):
    """CB on the other side of the plane of N, CA and C."""
    n, ca, c, cb = (atom(protein, residue, name) for name in ("N", "CA", "C", "CB"))
    normal = np.cross(start[n] - start[ca], start[c] - start[ca])
    normal /= np.linalg.norm(normal)
    made = start.copy()
    made[cb] -= 2 * (start[cb] - start[ca]) @ normal * normal
    return made


def twisted(protein, start, residue, degrees):
    """ω of the bond behind `residue` that far from 180 degrees, all that follows turned along."""
    ca, c = (start[atom(protein, residue, name)] for name in ("CA", "C"))
    n, after = (start[atom(protein, residue + 1, name)] for name in ("N", "CA"))
    turn = np.pi - np.radians(degrees) - dihedral(ca, c, n, after)
    moved = atoms_after(protein, residue)
    moved[atom(protein, residue + 1, "N")] = False
    made = start.copy()
    made[moved] = rotate_about(start[moved], n, n - c, np.full(moved.sum(), turn))
    return made


def test_a_clean_frame_has_no_defects(inspector, start):
    quality = inspector.inspect(start)
    assert kinds(quality) == set() and quality.overlap == 0 and quality.ramachandran == 0


@pytest.mark.parametrize(("pull", "grave"), [(0.03, False), (0.08, True)])
def test_a_broken_chain_is_found_between_its_residues(protein, inspector, start, pull, grave):
    made = start.copy()
    bond = start[atom(protein, 4, "N")] - start[atom(protein, 3, "C")]
    made[atoms_after(protein, 3)] += pull * bond / np.linalg.norm(bond)
    assert ("break", (3, 4), grave) in kinds(inspector.inspect(made))


def test_a_bond_within_a_residue_is_named_once(protein, inspector, start):
    made = start.copy()
    cb = atom(protein, 2, "CB")
    made[cb] += 0.03 * (start[cb] - start[atom(protein, 2, "CA")]) / 0.153
    quality = inspector.inspect(made)
    assert kinds(quality) == {("bond", (2,), False)}
    assert quality.defects[0].describe(["ALA"] * 8).startswith("ALA CA-CB: bond off by 0.")


@pytest.mark.skipif(not DATA.exists(), reason="no ../shared/data")
def test_a_disulfide_is_strained_long_before_it_is_broken():
    """χ1 of one cysteine turned: the sulfurs part, with all other bonds as they were."""
    pdb = app.PDBFile(str(DATA / "structures" / "cobrotoxin_A.pdb"))
    protein = Protein.from_openmm(pdb.topology, pdb.positions)
    topology = protein.frame_topology("heavy")
    first, second = next(b for b in topology.bonds() if b[0].name == b[1].name == "SG")
    start = protein.frame_positions(protein.backbone, "heavy")
    inspector = Inspector(mdtraj.Topology.from_openmm(topology), start, protein.bonded)
    own = protein.backmap("heavy").measure(start)[first.residue.index, 3]
    length = np.linalg.norm(start[first.index] - start[second.index])
    found = {}
    for turn in np.radians(np.arange(5, 181, 5)):
        torsions = np.full((protein.length, 7), np.nan)
        torsions[first.residue.index, 3] = own + turn
        made = protein.frame_positions(protein.backbone, "heavy", torsions)
        off = abs(np.linalg.norm(made[first.index] - made[second.index]) - length)
        bonds = [d for d in inspector.inspect(made).defects if d.kind == "bond"]
        found[round(off, 3)] = [(d.residues, d.grave) for d in bonds]
    pair = tuple(sorted((first.residue.index, second.residue.index)))
    strained = [defects for off, defects in found.items() if 0.06 < off < 0.19]
    broken = [defects for off, defects in found.items() if off > 0.21]
    assert strained and all((pair, False) in defects for defects in strained)
    assert broken and all((pair, True) in defects for defects in broken)


def test_a_d_amino_acid_is_found(protein, inspector, start):
    quality = inspector.inspect(mirrored(protein, start, 5))
    assert ("chirality", (5,), True) in kinds(quality)
    assert quality.count("chirality") == 1


def test_the_hand_of_the_start_is_right(protein, start):
    topology = mdtraj.Topology.from_openmm(protein.frame_topology("heavy"))
    d_start = mirrored(protein, start, 5)
    inspector = Inspector(topology, d_start, protein.bonded)
    assert inspector.inspect(d_start).count("chirality") == 0
    assert inspector.inspect(start).count("chirality") == 1


@pytest.mark.parametrize(("degrees", "grave"), [(45, False), (75, True), (180, True)])
def test_a_twisted_peptide_is_found(protein, inspector, start, degrees, grave):
    quality = inspector.inspect(twisted(protein, start, 5, degrees))
    assert ("peptide", (5, 6), grave) in kinds(quality)
    assert next(d.value for d in quality.defects if d.kind == "peptide") == pytest.approx(degrees, abs=0.1)


def test_a_peptide_that_starts_cis_may_stay_so(protein, start):
    cis = twisted(protein, start, 5, 180)
    inspector = Inspector(mdtraj.Topology.from_openmm(protein.frame_topology("heavy")), cis, protein.bonded)
    assert inspector.inspect(cis).count("peptide") == 0 and inspector.inspect(start).count("peptide") == 1


def test_overlapping_atoms_are_found_unless_side_chains_were_placed(protein, inspector, start):
    made = start.copy()
    made[atom(protein, 7, "CB")] = start[atom(protein, 2, "CB")] + [0.0, 0.0, 0.15]
    assert ("clash", (2, 7), True) in kinds(inspector.inspect(made))
    # CB belongs to the stiff part; an atom beyond it is put there by rule and may be moved
    made = start.copy()
    made[atom(protein, 7, "O")] = start[atom(protein, 1, "O")] + [0.0, 0.0, 0.2]
    assert inspector.inspect(made, placed=True).count("clash") >= 1


def test_what_is_not_finite_is_all_that_is_said(protein, inspector, start):
    made = start.copy()
    made[atom(protein, 4, "O")] = np.nan
    assert kinds(inspector.inspect(made)) == {("position", (4,), True)}


def test_spread_grows_between_and_beyond_its_lags():
    walk = np.random.default_rng(0).normal(0, 0.02, (40, 8, 3, 3)).cumsum(0)
    spread = Spread.from_frames(walk + np.arange(8)[:, None, None], 2.0, "a walk")
    assert spread.lags[0] == 2.0 and spread.lags[-1] == 40.0
    assert spread.at(2.0) == spread.values[0]
    assert spread.values[0] < spread.at(2.4) < spread.at(80.0) < 2 * spread.values[-1]
    with pytest.raises(ValueError, match="at least two"):
        Spread.from_frames(walk[:1], 2.0, "one")


def test_a_verdict_on_a_sound_frame(model, start):
    verdict = judge(model, frame_at(model, start), 0.2, minimize=60)
    assert verdict.status == "pass", str(verdict)
    assert verdict.passed and verdict.fold_held and verdict.residues == ()
    assert verdict.energy_minimized < verdict.energy_drawn
    assert verdict.duration == pytest.approx(0.2) and len(verdict.times) == len(verdict.rmsd) == 11
    assert verdict.drift == verdict.rmsd[-1] > 0 and verdict.spread == pytest.approx(TRAINING_MD.at(0.2))
    assert 100 < verdict.temperature < 400
    text = str(verdict)
    for word in ("PASS", "energy minimised", "backbone drift", "ramachandran outliers (%)", "advice: go on"):
        assert word in text


@pytest.mark.parametrize("spoil", ["chirality", "peptide", "break"])
def test_what_a_minimisation_would_hide_is_broken_and_named(model, protein, start, spoil):
    if spoil == "chirality":
        made, culprit = mirrored(protein, start, 5), {5}
    elif spoil == "peptide":
        made, culprit = twisted(protein, start, 5, 180), {5, 6}
    else:
        made, culprit = start.copy(), {3, 4}
        bond = start[atom(protein, 4, "N")] - start[atom(protein, 3, "C")]
        made[atoms_after(protein, 3)] += 0.1 * bond / np.linalg.norm(bond)
    verdict = judge(model, frame_at(model, made), 0.0, minimize=30)
    assert verdict.status == "broken"
    assert verdict.findings[0].kind == spoil and verdict.findings[0].grave
    assert verdict.residues[0] in {protein.residue_label(i) for i in culprit}
    assert "drop the frame" in verdict.advice


def test_a_broken_frame_can_be_spared_the_dynamics(model, protein, start):
    verdict = judge(model, frame_at(model, mirrored(protein, start, 5)), 0.2, stop_if_broken=True)
    assert verdict.status == "broken" and verdict.residues[0] == protein.residue_label(5)
    assert verdict.duration == 0 and verdict.minimized is None and not verdict.fold_held
    assert math.isnan(verdict.energy_minimized) and "-" in str(verdict)


def test_a_strained_frame_is_between(model, protein, start):
    made = start.copy()
    bond = start[atom(protein, 4, "N")] - start[atom(protein, 3, "C")]
    made[atoms_after(protein, 3)] += 0.03 * bond / np.linalg.norm(bond)
    verdict = judge(model, frame_at(model, made), 0.0, minimize=30)
    assert verdict.status == "strained" and "minimizeEnergy" in verdict.advice
    # no dynamics tried the fold
    assert re.search(r"^fold held +-$", str(verdict), re.MULTILINE)


def test_a_frame_the_force_field_refuses_is_no_traceback(model, protein, start):
    frame = frame_at(model, start)
    lost = replace(frame, positions=np.full_like(start, np.nan), backbone=np.full_like(frame.backbone, np.nan))
    verdict = judge(model, lost, 0.1)
    assert verdict.status == "broken" and verdict.findings[0].kind == "position"
    # two residues at one place: the placed atoms coincide, energies are infinite
    onto = frame.backbone.copy()
    onto[6] = onto[1]
    positions = protein.frame_positions(onto, "heavy")
    verdict = judge(model, frame_at(model, positions), 0.1, minimize=5)
    assert verdict.status == "broken"
    assert {protein.residue_label(1), protein.residue_label(6)} & set(verdict.residues)


def test_validate_leaves_every_bit_of_the_simulation(fake_rollout):
    simulation = make_simulation(helix(8), atoms="heavy")
    simulation.step(5)
    before = simulation.context.createCheckpoint()
    frame = present_frame(simulation)
    verdict = simulation.validate(**QUICK)
    assert simulation.context.createCheckpoint() == before
    assert (verdict.step, verdict.time) == (5, 50.0)
    assert np.array_equal(frame.positions, positions_of(simulation))
    simulation.step(4)
    other = make_simulation(helix(8), atoms="heavy")
    other.step(9)
    assert np.array_equal(positions_of(simulation), positions_of(other))


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_validate_interrupted_leaves_every_bit_too(fake_rollout, monkeypatch, error):
    simulation = make_simulation(helix(8), atoms="heavy")
    simulation.step(2)

    def interrupt(*_):
        raise error

    model = simulation.classical_model(platform=QUICK["platform"])
    before, chance, reporters = simulation.context.createCheckpoint(), random.getstate(), list(simulation.reporters)
    monkeypatch.setattr(model.simulation.integrator, "step", interrupt)
    with pytest.raises(error):
        simulation.validate(**QUICK)
    assert simulation.context.createCheckpoint() == before
    assert random.getstate() == chance and simulation.reporters == reporters
    assert simulation.integrator.segment is None and simulation.integrator.pending is None
    monkeypatch.undo()


@pytest.mark.parametrize("atoms", ["ca", "backbone"])
def test_frames_without_side_chains_are_judged_by_their_backbone(fake_rollout, atoms):
    simulation = make_simulation(helix(8), atoms=atoms)
    start = present_frame(simulation)
    assert start.placed and start.torsions is None
    simulation.step(3)
    frame = present_frame(simulation)
    assert not np.array_equal(start.backbone, frame.backbone)
    alphas = [a.index for a in simulation.topology.atoms() if a.name == "CA"]
    assert np.array_equal(frame.backbone[:, 1], positions_of(simulation)[alphas])


def test_drift_is_measured_by_the_history_once_there_is_one(fake_rollout):
    simulation = make_simulation(helix(8), weights=fake_weights(max_context=8))
    assert own_spread(simulation) is TRAINING_MD
    simulation.step(7)
    spread = own_spread(simulation)
    assert spread.source == "the surrogate's last 7 frames" and spread.lags[0] == 10.0
    assert spread.values[0] > 0


def test_wrong_arguments_are_said(model, start):
    frame = frame_at(model, start)
    for duration in (-1, float("nan"), "long"):
        with pytest.raises(ValueError, match="duration"):
            judge(model, frame, duration)
    with pytest.raises(ValueError, match="iterations"):
        judge(model, frame, 0.0, minimize=-1)


def test_settings_strip_units():
    made = VerdictSettings(duration=40 * unit.femtoseconds)
    assert made.duration == pytest.approx(0.04) and made == VerdictSettings(duration=made.duration)
    with pytest.raises(ValueError, match="duration is -1 ps"):
        VerdictSettings(duration=-1)


def test_figures_make_a_verdict_with_the_gravest_findings_first():
    names = {field.name for field in fields(Verdict)}
    assert names - {field.name for field in fields(Figures)} == {"status", "advice", "residues", "findings", "seconds"}
    given = {name: getattr(example(), name) for name in names & {field.name for field in fields(Figures)}}
    minor, grave = Finding("bond", False, "off", ("ALA 1",)), Finding("break", True, "torn", ("ALA 2", "ALA 1"))
    verdict = Figures(**given).verdict([minor, grave], 2.0)
    assert (verdict.status, verdict.findings, verdict.residues) == ("broken", (grave, minor), ("ALA 2", "ALA 1"))
    assert verdict.seconds == 2.0 and verdict.drift == given["drift"] and "drop the frame" in verdict.advice
    assert Figures(**given).verdict([minor], 0.0).status == "strained" and Figures(**given).verdict([], 0.0).passed


def example(**changes):
    geometry = Geometry(0, 0, 1, 2, 1, 0.1, math.nan, 0.05)
    finding = Finding(
        "peptide", True, "chain A residue ALA 3 C - chain A residue ALA 4 N: twisted", ("chain A residue ALA 3",)
    )
    values = dict(
        status="broken", advice="drop it", residues=finding.residues, findings=(finding,), step=7, time=70.0, count=8,
        duration=1.0, energy_drawn=5e4, energy_minimized=-100.0, energy_start=-120.0, moved=0.02, force=300.0,
        force_residue="chain A residue ALA 1", drawn=geometry, minimized=geometry, ended=None, times=(0.0, 1.0),
        rmsd=(0.0, 0.05), drift=0.05, spread=0.07, spread_from="MD", temperature=math.nan, temperature_set=300.0,
        contacts=1.0, contacts_start=0.9, rmsd_start=0.1, fold_held=True, seconds=1.0, settings={"seed": 1},
    )  # fmt: skip
    return Verdict(**(values | changes))


def test_a_verdict_survives_json_and_draws_itself(tmp_path):
    verdict = example()
    verdict.save(tmp_path / "verdict.json")
    text = (tmp_path / "verdict.json").read_text()
    assert json.loads(text)["temperature"] is None
    again = Verdict.from_json(text)
    assert again.findings == verdict.findings and again.rmsd == verdict.rmsd and math.isnan(again.temperature)
    assert str(again) == str(verdict)
    assert [p.name for p in tmp_path.iterdir()] == ["verdict.json"]
    with pytest.raises(ValueError, match="not a saved verdict"):
        Verdict.from_json('{"status": "pass"}')
    verdict.plot(tmp_path / "verdict.png")
    assert (tmp_path / "verdict.png").read_bytes().startswith(b"\x89PNG")


def test_limits_grade_energy_drift_and_fold():
    assert LIMITS.energy_findings(example(), ()) == []
    high = LIMITS.energy_findings(example(energy_minimized=-120.0 + 8 * 50), ("there",))
    assert [(f.kind, f.grave) for f in high] == [("energy", True)] and "50.0 kJ/mol" in high[0].text
    assert [f.kind for f in LIMITS.energy_findings(example(moved=0.06, force=5e3), ("there",))] == ["moved", "force"]
    assert LIMITS.dynamics_findings(example(), ()) == []
    assert [(f.kind, f.grave) for f in LIMITS.dynamics_findings(example(drift=0.2), ())] == [("drift", False)]
    lost = LIMITS.dynamics_findings(example(drift=0.2, contacts=0.3), ("there",))
    assert [f.kind for f in lost] == ["drift", "fold"] and lost[1].grave
    assert LIMITS.dynamics_findings(example(contacts=0.3), ()) == []
    assert "another" not in advise("pass", []) and "shorten" in advise("broken", [Finding("clash", True, "")])


def test_the_reporter_judges_every_few_frames(fake_rollout, tmp_path):
    simulation = make_simulation(helix(8), atoms="heavy")
    simulation.reporters.append(VerdictReporter(tmp_path / "verdicts.jsonl", 2, **(QUICK | {"duration": 0.0})))
    simulation.step(5)
    lines = [json.loads(line) for line in (tmp_path / "verdicts.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert {line["status"] for line in lines} <= {"pass", "strained", "broken"}
    with pytest.raises(ValueError, match="interval"):
        VerdictReporter(tmp_path / "other.jsonl", 0)


def test_units_are_accepted(fake_rollout):
    simulation = make_simulation(helix(8), atoms="heavy")
    verdict = validate(simulation, 40 * unit.femtoseconds, minimize=10, platform="Reference")
    assert verdict.duration == pytest.approx(0.04)
    assert isinstance(simulation, app.Simulation)
