"""Figures of an evaluation on cases whose answer is known."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import mdtraj
import numpy as np
import openmm.app
import pytest
from scipy.spatial.transform import Rotation

from openmm_starmd.analysis import coverage, dynamics, flexibility, matching, stereochemistry
from openmm_starmd.evaluation import floors, runs
from openmm_starmd.evaluation.evaluate import evaluate
from openmm_starmd.evaluation.metrics import Settings

VILLIN = os.path.join(os.path.dirname(openmm.app.__file__), "data", "test.pdb")
N = 35  # its residues


def villin() -> mdtraj.Trajectory:
    """Heavy atoms of villin, one frame."""
    structure = mdtraj.load(VILLIN)
    return structure.atom_slice(structure.topology.select("protein and not element H"))


def moving(frames: int = 120, seed: int = 0, memory: float = 0.9, width: float = 0.03) -> mdtraj.Trajectory:
    """Villin with an autoregressive, smooth displacement of known memory; 10 ps a frame."""
    generator = np.random.default_rng(seed)
    start = villin()
    residues = np.array([a.residue.index for a in start.topology.atoms])
    phase = np.sin(np.outer(residues, [0.05, 0.1, 0.2, 0.3]))  # [atoms, modes]
    amplitude = np.zeros((4, 3))
    xyz = np.empty((frames, start.n_atoms, 3), dtype=np.float32)
    for frame in range(frames):
        amplitude = memory * amplitude + np.sqrt(1 - memory**2) * width * generator.normal(size=(4, 3))
        xyz[frame] = start.xyz[0] + phase @ amplitude
    return mdtraj.Trajectory(xyz, start.topology, time=10.0 * np.arange(frames))


def run_of(trajectory: mdtraj.Trajectory, label: str = "run") -> runs.Run:
    return runs.reduce(trajectory, label)


# -- stereochemistry


def test_villin_is_sound():
    found = stereochemistry.stereochemistry(villin())
    assert found.bad_bonds[0] == found.twisted[0] == found.cis[0] == found.inverted[0] == 0
    assert (
        found.judged["bonds"] == 3 * N - 1 and found.judged["planes"] == N - 1 and found.judged["ramachandran"] == N - 2
    )
    assert found.ramachandran[0] <= 1 / (N - 2)
    assert found.rotamer[0] <= 2 / found.judged["rotamers"]


def atom(structure: mdtraj.Trajectory, residue: int, name: str) -> int:
    return next(a.index for a in structure.topology.residue(residue).atoms if a.name == name)


def test_broken_bond_is_found():
    structure = villin()
    beyond = [a.index for a in structure.topology.atoms if a.residue.index >= 15]
    bonded = np.ones(N - 1, dtype=bool)
    axis = structure.xyz[0, atom(structure, 15, "N")] - structure.xyz[0, atom(structure, 14, "C")]
    structure.xyz[0, beyond] += 0.015 * axis / np.linalg.norm(axis)
    assert stereochemistry.stereochemistry(structure, bonded).bad_bonds[0] == 0
    structure.xyz[0, beyond] += 0.015 * axis / np.linalg.norm(axis)
    assert stereochemistry.stereochemistry(structure, bonded).bad_bonds[0] == pytest.approx(1 / (3 * N - 1))


def turned(
    structure: mdtraj.Trajectory, first: int, second: int, moved: list[int], degrees: float
) -> mdtraj.Trajectory:
    """A copy with some atoms turned about the line between two."""
    copy = structure[:]
    origin = copy.xyz[0, first].astype(float)
    axis = copy.xyz[0, second] - origin
    rotation = Rotation.from_rotvec(np.radians(degrees) * axis / np.linalg.norm(axis))
    copy.xyz[0, moved] = rotation.apply(copy.xyz[0, moved] - origin) + origin
    return copy


@pytest.mark.parametrize("degrees, twisted, cis", [(10, 0, 0), (90, 1, 0), (180, 0, 1)])
def test_twisted_peptide_is_found(degrees, twisted, cis):
    structure = villin()
    beyond = [a.index for a in structure.topology.atoms if a.residue.index > 15]
    moved = [i for i in beyond if i != atom(structure, 16, "N")]
    copy = turned(structure, atom(structure, 15, "C"), atom(structure, 16, "N"), moved, degrees)
    found = stereochemistry.stereochemistry(copy)
    assert round(found.twisted[0] * (N - 1)) == twisted and (found.cis[0] > 0) == bool(cis)


def test_mirror_image_has_every_centre_inverted():
    structure = villin()
    centers = stereochemistry.stereochemistry(structure).judged["centers"]
    structure.xyz[..., 0] *= -1
    found = stereochemistry.stereochemistry(structure)
    assert found.inverted[0] == centers
    assert found.ramachandran[0] > 0.3


def test_one_d_amino_acid_is_found():
    structure = villin()
    n, ca, c, cb = (atom(structure, 12, name) for name in ("N", "CA", "C", "CB"))
    p = structure.xyz[0]
    normal = np.cross(p[n] - p[ca], p[c] - p[ca])
    normal /= np.linalg.norm(normal)
    p[cb] -= 2 * ((p[cb] - p[ca]) @ normal) * normal
    assert stereochemistry.stereochemistry(structure).inverted[0] == 1


def test_eclipsed_side_chain_is_an_outlier():
    structure = villin()
    residue = next(r for r in structure.topology.residues if r.name == "LEU")
    here = {a.name: a.index for a in residue.atoms}
    chi = stereochemistry.dihedrals(structure.xyz, np.array([[here[n] for n in ("N", "CA", "CB", "CG")]]))[0, 0]
    moved = [here[n] for n in ("CG", "CD1", "CD2")]
    before = stereochemistry.stereochemistry(structure)
    eclipsed = turned(structure, here["CA"], here["CB"], moved, 120.0 - chi)
    after = stereochemistry.stereochemistry(eclipsed)
    assert after.rotamer[0] - before.rotamer[0] == pytest.approx(1 / before.judged["rotamers"])
    assert not stereochemistry.rotamer_outliers(
        np.array([[-60.0, 180, 62, 89, 25]]), np.array(["staggered"] * 3 + ["aromatic", "proline"])
    ).any()


def test_dihedrals_agree_with_mdtraj():
    structure = villin()
    indices, angles = mdtraj.compute_phi(structure)
    np.testing.assert_allclose(stereochemistry.dihedrals(structure.xyz, indices), np.degrees(angles), atol=1e-2)


@pytest.mark.parametrize(
    "kind, phi, psi, outlier",
    [
        ("general", -63, -43, False),
        ("general", -120, 130, False),
        ("general", 60, 45, False),
        ("general", 60, -150, False),
        ("general", 0, 0, True),
        ("general", 120, -60, True),
        ("glycine", 85, 5, False),
        ("glycine", 120, 170, False),
        ("beta-branched", 60, 175, True),
        ("proline", -65, 145, False),
        ("proline", -150, 145, True),
        ("pre-proline", -70, 145, False),
        ("pre-proline", -90, 15, True),
    ],
)
def test_ramachandran_regions(kind, phi, psi, outlier):
    assert stereochemistry.ramachandran_outliers(np.array([[phi]]), np.array([[psi]]), [kind])[0, 0] == outlier


def test_a_trace_alone_is_not_judged(monkeypatch):
    structure = villin()
    trace = structure.atom_slice(structure.topology.select("name CA"))
    found = stereochemistry.stereochemistry(trace)
    assert set(found.judged.values()) == {0} and np.isnan(found.ramachandran[0]) and found.within_limits[0]


def test_chunks_do_not_change_stereochemistry(monkeypatch):
    trajectory = moving(7, width=0.05)
    whole = stereochemistry.stereochemistry(trajectory)
    monkeypatch.setattr(stereochemistry, "_CHUNK", 1)
    parts = stereochemistry.stereochemistry(trajectory)
    np.testing.assert_array_equal(whole.ramachandran, parts.ramachandran)
    np.testing.assert_array_equal(whole.inverted, parts.inverted)


# -- matching


def test_strides_and_spans_are_matched():
    fine, coarse = moving(100), moving(30)
    fine.time = 2.0 * np.arange(100)
    first, second, how = matching.match(fine, coarse)
    assert how.steps == (5, 1) and how.frames == 20 and how.stride == 10 and how.span == 190
    np.testing.assert_array_equal(first.time, second.time)
    np.testing.assert_array_equal(first.xyz, fine.xyz[::5])


def test_mismatches_say_what_to_do():
    with pytest.raises(ValueError, match="7 and 10 ps cannot be matched: make one a whole multiple"):
        matching.plan([100, 100], [10.0, 7.0])
    with pytest.raises(ValueError, match="at least two are needed: make the shortest longer"):
        matching.plan([5, 5], [1.0, 10.0])
    with pytest.raises(ValueError, match="must be positive"):
        matching.plan([5, 5], [1.0, -1.0])
    trajectory = moving(4)
    trajectory.time = np.zeros(4)
    with pytest.raises(ValueError, match="give the time between frames by hand"):
        matching.stride_of(trajectory)
    alphas = np.zeros((10, 5, 3))
    with pytest.raises(ValueError, match="10 and 8 frames .*matching.match"):
        coverage.coverage(alphas, alphas[:8])
    with pytest.raises(ValueError, match="strides of 1 and 2 ps"):
        matching.require_matched(alphas, alphas, (1.0, 2.0))
    other = villin().atom_slice(np.arange(50))
    with pytest.raises(ValueError, match="cut both to the residues they share"):
        matching.match(trajectory, other, (1.0, 1.0))


def test_times_of_single_precision_are_even():
    trajectory = moving(50)
    trajectory.time = np.float32(1e6) + np.float32(0.1) * np.arange(50, dtype=np.float32)
    assert matching.stride_of(trajectory) == pytest.approx(0.1, rel=0.3)


# -- coverage


def test_jensen_shannon_of_known_histograms():
    p, q = np.array([1, 1, 0, 0]), np.array([0, 0, 3, 1])
    assert coverage.jensen_shannon(p, p) == 0
    assert coverage.jensen_shannon(p, q) == pytest.approx(1)
    assert coverage.jensen_shannon(p, q, base=np.e, root=False) == pytest.approx(np.log(2))
    # (1, 0) and (1, 1): by hand, 1/2 ln(4/3) + 1/4 (ln(2/3) + ln 2)
    value = 0.5 * np.log(4 / 3) + 0.25 * (np.log(2 / 3) + np.log(2))
    assert coverage.jensen_shannon([1, 0], [1, 1], base=np.e, root=False) == pytest.approx(value)
    assert coverage.jensen_shannon([1, 0], [1, 1], base=np.e) == pytest.approx(np.sqrt(value))


def test_identical_runs_cover_each_other_in_any_pose():
    alphas = run_of(moving()).alphas
    poses = np.stack([f @ Rotation.random(random_state=k).as_matrix() + k for k, f in enumerate(alphas)])
    found = coverage.coverage(alphas, poses)
    assert found.jsd == pytest.approx(0, abs=0.05) and found.recall > 0.97
    same = coverage.coverage(alphas, alphas)
    assert same.jsd == 0 and same.recall == same.precision == same.f1 == 1
    assert same.bins == 10 and same.dimensions == 2 and same.root and same.base == 2 and same.frames == (120, 120)


def test_disjoint_runs_have_distance_one():
    alphas = run_of(moving()).alphas
    far = alphas + np.linspace(0, 1, N)[:, None] ** 2 * np.array([0, 0, 3.0])
    found = coverage.coverage(alphas, far)
    assert found.jsd == pytest.approx(1) and found.recall == found.precision == found.f1 == 0


def test_half_the_range_is_half_the_recall():
    line = np.linspace(-1, 1, 400)
    trace = run_of(moving(2)).alphas[0].astype(float)
    # a bend, which superposition cannot undo
    bend = np.zeros((N, 3))
    bend[:, 1] = np.cos(np.linspace(0, 2 * np.pi, N))
    reference = trace + 0.05 * line[:, None, None] * bend
    half = np.repeat(reference[:200], 2, 0)
    found = coverage.coverage(reference, half, dimensions=1)
    assert found.recall == pytest.approx(0.5, abs=0.1) and found.precision == 1


def test_only_valid_frames_count():
    alphas = run_of(moving()).alphas
    wild = alphas.copy()
    wild[60:] += np.random.default_rng(0).normal(0, 1, wild[60:].shape)
    good = np.arange(120) < 60
    found = coverage.coverage(alphas, wild, valid=(np.ones(120, bool), good))
    assert found.valid == (1, 0.5) and found.frames == (120, 60) and found.precision == 1
    none = coverage.coverage(alphas, wild, valid=(np.ones(120, bool), np.zeros(120, bool)))
    assert none.recall == 0 and np.isnan(none.jsd)


def test_components_are_the_same_by_either_gram_matrix():
    alphas = run_of(moving(130)).alphas.astype(float)
    wide, tall = coverage.fit_projection(alphas[:100], 3), coverage.fit_projection(np.repeat(alphas[:100], 2, 0), 3)
    np.testing.assert_allclose(np.abs((wide.components * tall.components).sum(1)), 1, atol=1e-5)
    np.testing.assert_allclose(wide.variances, tall.variances, rtol=1e-6)
    np.testing.assert_allclose(wide.transform(alphas[:100]).var(0), wide.variances, rtol=1e-6)


def test_a_reference_that_does_not_move_is_refused():
    alphas = np.repeat(run_of(moving(2)).alphas[:1], 10, 0)
    with pytest.raises(ValueError, match="principal components need motion"):
        coverage.fit_projection(alphas)


# -- dynamics


def chain(frames: int, leave: float, seed: int = 0) -> np.ndarray:
    """Two-state Markov chain that leaves either state with the same probability."""
    return np.cumsum(np.random.default_rng(seed).random(frames) < leave) % 2


def test_timescale_of_a_two_state_chain():
    pytest.importorskip("deeptime")
    states = chain(100_000, 0.02)
    truth = -5.0 / np.log(1 - 2 * 0.02)  # 122 ps at 5 ps a frame
    found = dynamics.implied_timescales(states, [1, 5, 20], stride=5.0)
    np.testing.assert_allclose(found[:, 0], truth, rtol=0.08)
    assert np.isnan(found[:, 1:]).all()


def test_transitions_are_counted():
    counts = dynamics.transition_counts(np.array([0, 0, 1, 1, 2, 0]), 3)
    np.testing.assert_array_equal(counts, [[1, 1, 0], [0, 1, 1], [1, 0, 0]])
    np.testing.assert_array_equal(dynamics.transition_counts(np.array([0, 1, 0, 1]), 2, lag=2), [[1, 0], [0, 1]])


def test_autocorrelation_of_an_autoregressive_process():
    generator = np.random.default_rng(1)
    x = np.zeros((40_000, 2))
    for t in range(1, len(x)):
        x[t] = 0.9 * x[t - 1] + generator.normal(size=2)
    found = dynamics.autocorrelation(x, [0, 1, 5, 10])
    np.testing.assert_allclose(found, 0.9 ** np.array([0, 1, 5, 10]), atol=0.03)
    assert np.isnan(dynamics.autocorrelation(np.ones((10, 2)), [0, 1])).all()
    with pytest.raises(ValueError, match="do not fit 10 frames"):
        dynamics.autocorrelation(np.ones((10, 2)), [10])


def test_slowest_mode_is_found_where_it_is():
    pytest.importorskip("deeptime")
    generator = np.random.default_rng(2)
    trace = run_of(moving(2)).alphas[0].astype(float)
    frames = trace + generator.normal(0, 0.02, (3000, N, 3))
    frames[:, 30:, 2] += 0.1 * chain(3000, 0.01)[:, None]
    projection = coverage.fit_projection(frames, 10)
    profile = dynamics.slow_profile(projection.transform(frames), projection, 5)
    assert profile[30:].min() > 2 * profile[5:25].max()


def test_vamp2_of_a_two_state_chain():
    states = chain(50_000, 0.02).astype(float)[:, None]
    score, gap = dynamics.vamp2_gap(states, states, 5)
    assert gap == pytest.approx(0, abs=1e-9)
    assert score == pytest.approx(1 + (1 - 2 * 0.02) ** 10, abs=0.03)
    shuffled = np.random.default_rng(0).permutation(states)
    assert dynamics.vamp2_gap(states, shuffled, 5)[1] == pytest.approx(score - 1, abs=0.01)
    assert np.isnan(dynamics.vamp2_gap(states, np.zeros_like(states), 5)[1])


# -- flexibility


def test_contacts_pairs_and_persistence():
    alphas = run_of(moving(10)).alphas
    probabilities = flexibility.contact_probabilities(alphas)
    distance = np.linalg.norm(alphas[:, 3] - alphas[:, 20], axis=-1)
    assert probabilities[3, 20] == probabilities[20, 3] == np.mean(distance < 0.8)
    assert np.isnan(probabilities[3, 5])
    pairs = flexibility.pairwise_rmsd(alphas, most=4)
    assert pairs.shape == (4, 4) and np.allclose(np.diag(pairs), 0, atol=1e-6)
    np.testing.assert_allclose(pairs, pairs.T, atol=1e-6)
    codes = np.array([["H", "E", "C"], ["H", "C", "H"]])
    np.testing.assert_array_equal(flexibility.persistence(codes, codes[0]), [1, 0.5, np.nan])


def test_secondary_structure_of_villin():
    codes = flexibility.secondary_structure(moving(3))
    assert codes.shape == (3, N) and (codes[0] == "H").mean() > 0.4
    structure = villin()
    assert flexibility.secondary_structure(structure.atom_slice(structure.topology.select("name CA"))) is None


# -- floors


@pytest.mark.parametrize("name", list(floors.NETWORKS))
def test_sampled_networks_have_the_size_and_speed_asked_for(name):
    trace = run_of(moving(2)).alphas[0].astype(float)
    drawn = floors.sample_network(trace, name, 3000, square=0.05**2, step=0.02, seed=1)
    np.testing.assert_array_equal(drawn[0], trace)
    settled = drawn[1000:]
    assert np.sqrt(((settled - trace) ** 2).sum(-1).mean()) == pytest.approx(0.05, rel=0.15)
    # superposition takes a little of both away
    assert 0.015 < flexibility.rmsd_against_lag(settled, [1])[0] < 0.0205


# -- all of it


def test_evaluation_of_identical_shuffled_and_frozen_runs():
    pytest.importorskip("deeptime")
    reference = run_of(moving(200), "MD")
    order = np.random.default_rng(0).permutation(200)
    shuffled = replace(
        reference,
        label="shuffled",
        alphas=reference.alphas[order],
        valid=reference.valid[order],
        atoms=reference.atoms[order],
        codes=reference.codes[order],
    )
    other = run_of(moving(300, seed=1), "second")
    outcome = evaluate([reference, other], [replace(reference, label="same"), shuffled])
    rows = {row.label: row for row in outcome.rows}
    same, mixed, frozen = (rows[k].figures for k in ("same", "shuffled", "frozen structure"))
    assert outcome.match.frames == 200 and rows["second"].kind == "replica"
    assert same["jsd"] == same["lag_error"] == same["autocorrelation_error"] == 0 and same["recall"] == 1
    assert same["tica"] == pytest.approx(1) and same["vamp2_gap"] == pytest.approx(0, abs=1e-9)
    # a shuffle keeps what is visited and destroys when
    assert mixed["jsd"] == 0 and mixed["recall"] == 1 and mixed["rmsf_correlation"] == pytest.approx(1)
    assert mixed["lag_error"] > 0.15 and mixed["autocorrelation_error"] > 0.15
    assert mixed["vamp2_gap"] > 0.5 and mixed["transitions"] > 2 * same["transitions"]
    assert frozen["rmsf_amplitude"] == pytest.approx(0, abs=1e-4) and frozen["recall"] < 0.1
    assert frozen["lag_error"] == pytest.approx(1, abs=1e-3)
    assert any("networks" in label for label in rows)
    table = outcome.table()
    assert "10 bins" in table and "base 2" in table and "square root" in table and "second 300 x 10 ps" in table


def test_json_is_plain_and_replaced_in_one_move(tmp_path):
    pytest.importorskip("deeptime")
    run = run_of(moving(60), "MD")
    outcome = evaluate([run], [replace(run, label="same")], Settings(bins=7, networks=False))
    path = outcome.write_json(tmp_path / "evaluation.json")
    read = json.loads(path.read_text())
    assert read["settings"]["bins"] == 7 and read["runs"][1]["figures"]["jsd"] == 0
    assert read["runs"][-1]["figures"]["rmsf_correlation"] is None and read["matched"]["span"] == 590
    assert [p.name for p in tmp_path.iterdir()] == ["evaluation.json"]


def test_a_run_of_nan_is_counted_as_invalid():
    pytest.importorskip("deeptime")
    reference = run_of(moving(60), "MD")
    broken = moving(60)
    broken.xyz[30:] = np.nan
    outcome = evaluate([reference], [run_of(broken, "broken")], Settings(networks=False))
    figures, good = outcome.rows[1].figures, int(reference.valid[:30].sum())
    assert figures["valid"] == good / 60 and figures["counted"] == good > 10 and figures["precision"] == 1
    assert "rmsf_correlation" not in figures and "broken" in outcome.table()


def test_wrong_inputs_are_named():
    run = run_of(moving(20), "MD")
    with pytest.raises(ValueError, match="at least one other run"):
        evaluate([run], [])
    with pytest.raises(ValueError, match="MD has 35 residues and short 34"):
        evaluate([run], [replace(run, label="short", residues=run.residues[:34])])
    with pytest.raises(ValueError, match="residue 3 is . in MD and A in other"):
        evaluate([run], [replace(run, label="other", residues=(*run.residues[:2], "A", *run.residues[3:]))])
    with pytest.raises(ValueError, match="valid frames of 20: check that its molecules are whole"):
        evaluate([replace(run, valid=np.zeros(20, bool))], [run])
