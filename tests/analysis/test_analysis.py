"""Validity, flexibility, network models and the picture, on traces whose answer is known."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mdtraj
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from openmm_starmd import analysis
from openmm_starmd.analysis import flexibility, network_models, validity
from openmm_starmd.evaluation import picture


def helix(residues: int = 20) -> np.ndarray:
    """Cα trace [N, 3] of an ideal α-helix, nm: rise 0.15, radius 0.23, 100 degrees."""
    turn = np.deg2rad(100) * np.arange(residues)
    return np.stack([0.23 * np.cos(turn), 0.23 * np.sin(turn), 0.15 * np.arange(residues)], -1)


def trajectory(alphas: np.ndarray, chains: int = 1, numbers: list[int] | None = None) -> mdtraj.Trajectory:
    """Trajectory of Cα alone."""
    topology = mdtraj.Topology()
    n = alphas.shape[1]
    for c in range(chains):
        chain = topology.add_chain()
        for i in range(c * n // chains, (c + 1) * n // chains):
            residue = topology.add_residue("ALA", chain, resSeq=numbers[i] if numbers else i + 1)
            topology.add_atom("CA", mdtraj.element.carbon, residue)
    return mdtraj.Trajectory(alphas.astype(np.float32), topology)


def test_helix_is_valid_in_any_pose():
    turned = np.stack([helix() @ Rotation.random(random_state=k).as_matrix() + k for k in range(5)])
    assert validity.validity(trajectory(turned)).valid.all()


@pytest.mark.parametrize("distance, valid", [(0.269, False), (0.271, True), (0.419, True), (0.421, False)])
def test_bounds_of_bonded_neighbours(distance, valid):
    trace = np.stack([np.arange(6) * 0.38, np.zeros(6), np.zeros(6)], -1)
    trace[3:, 0] += distance - 0.38
    assert validity.judge(trace[None], np.ones(5, bool)).valid[0] == valid


@pytest.mark.parametrize("distance, valid", [(0.299, False), (0.301, True)])
def test_bound_of_other_pairs(distance, valid):
    trace = np.array([[0, 0, 0], [0.38, 0, 0], [0.38, 0.38, 0], [0.0, distance, 0]])
    result = validity.judge(trace[None], np.ones(3, bool))
    assert result.valid[0] == valid
    assert result.clashes[0] == (not valid) and result.broken[0] == 0


def test_break_is_excepted_but_not_from_clashes():
    trace = helix(10)
    trace[5:, 2] += 3.0
    bonded = np.ones(9, bool)
    assert not validity.judge(trace[None], bonded).valid[0]
    bonded[4] = False
    assert validity.judge(trace[None], bonded).valid[0]
    trace[5] = trace[4] + [0.28, 0, 0]
    trace[6:] += trace[5] - helix(10)[5] + 1
    bonded[5] = False
    assert validity.judge(trace[None], bonded).clashes[0] >= 1


def test_breaks_of_a_trace_come_from_chains_and_numbers():
    frames = helix(8)[None]
    assert validity.bonded_neighbours(trajectory(frames)).all()
    np.testing.assert_array_equal(validity.bonded_neighbours(trajectory(frames, chains=2)), [1, 1, 1, 0, 1, 1, 1])
    numbers = [1, 2, 3, 7, 8, 9, 10, 11]
    np.testing.assert_array_equal(
        validity.bonded_neighbours(trajectory(frames, numbers=numbers)), [1, 1, 0, 1, 1, 1, 1]
    )


def test_chunks_do_not_change_the_verdict(monkeypatch):
    frames = helix(15) + np.random.default_rng(0).normal(0, 0.03, (50, 15, 3))
    whole = validity.judge(frames, np.ones(14, bool))
    assert 0 < whole.fraction < 1
    monkeypatch.setattr(validity, "_CHUNK", 1000)
    parts = validity.judge(frames, np.ones(14, bool))
    np.testing.assert_array_equal(whole.valid, parts.valid)
    np.testing.assert_array_equal(whole.clashes, parts.clashes)


def test_a_frame_of_nan_is_not_valid():
    frames = np.stack([helix(), helix() * np.nan])
    np.testing.assert_array_equal(validity.judge(frames, np.ones(19, bool)).valid, [True, False])


def test_calcium_is_no_alpha_carbon():
    run = trajectory(helix(5)[None])
    ion = run.topology.add_residue("CA", run.topology.add_chain())
    run.topology.add_atom("CA", mdtraj.element.calcium, ion)
    np.testing.assert_array_equal(validity.alpha_carbons(run.topology), np.arange(5))


def test_too_few_residues_are_named():
    with pytest.raises(ValueError, match="2 CA atoms"):
        validity.validity(trajectory(helix(2)[None]))


def test_rmsd_agrees_with_mdtraj_and_ignores_pose():
    generator = np.random.default_rng(1)
    frames = helix() + generator.normal(0, 0.05, (20, 20, 3))
    run = trajectory(frames)
    np.testing.assert_allclose(flexibility.rmsd(frames, frames[0])[1:], mdtraj.rmsd(run, run, 0)[1:], atol=1e-4)
    moved = np.stack([f @ Rotation.random(random_state=k).as_matrix() + k for k, f in enumerate(frames)])
    np.testing.assert_allclose(flexibility.rmsd(moved, frames[0]), flexibility.rmsd(frames, frames[0]), atol=1e-9)
    np.testing.assert_allclose(flexibility.rmsf(moved), flexibility.rmsf(frames), atol=1e-7)
    np.testing.assert_allclose(flexibility.radius_of_gyration(moved), mdtraj.compute_rg(run), atol=1e-4)


def test_superposition_does_not_mirror():
    mirrored = helix() * [1, 1, -1]
    assert flexibility.rmsd(mirrored[None], helix())[0] > 0.1


def test_rmsf_of_white_noise_is_its_spread():
    widths = np.linspace(0.01, 0.05, 60)
    frames = helix(60) + np.random.default_rng(2).normal(size=(4000, 60, 3)) * widths[:, None]
    found = flexibility.rmsf(frames)
    assert flexibility.correlation(found, widths) > 0.995
    assert flexibility.amplitude_ratio(found, widths * np.sqrt(3)) == pytest.approx(1, abs=0.04)


def test_rmsd_against_lag_of_a_random_walk_grows_as_a_root():
    frames = helix(40) + np.random.default_rng(3).normal(0, 0.005, (400, 40, 3)).cumsum(0)
    found = flexibility.rmsd_against_lag(frames, [1, 4, 16])
    np.testing.assert_allclose(found[1:] / found[:-1], 2, rtol=0.06)
    with pytest.raises(ValueError, match="lag 400"):
        flexibility.rmsd_against_lag(frames, [400])


def test_correlation_of_a_flat_profile_is_nan():
    assert np.isnan(flexibility.correlation(np.zeros(5), np.arange(5)))


@pytest.mark.parametrize("model", [network_models.gnm_rmsf, network_models.anm_rmsf])
def test_network_models_loosen_the_ends_and_ignore_pose(model):
    trace = helix(30)
    found = model(trace)
    assert np.isfinite(found).all() and (found > 0).all()
    assert found[0] > found[15] and found[-1] > found[15]
    np.testing.assert_allclose(found, model(trace @ Rotation.random(random_state=0).as_matrix() + 5), rtol=1e-6)


def test_gnm_of_three_in_a_row_is_the_textbook_answer():
    # Γ = [[1, -1, 0], [-1, 2, -1], [0, -1, 1]]; its pseudo-inverse has the diagonal (5, 2, 5) / 9
    trace = np.array([[0.0, 0, 0], [0.6, 0, 0], [1.2, 0, 0]])
    np.testing.assert_allclose(network_models.gnm_rmsf(trace, 0.7) ** 2, np.array([5, 2, 5]) / 9, rtol=1e-12)


def test_anm_has_exactly_six_zero_modes():
    trace = helix(12) + np.random.default_rng(4).normal(0, 0.02, (12, 3))
    # removing a seventh mode would change the answer, leaving the sixth in would blow it up
    assert network_models.anm_rmsf(trace, 5.0).max() < 10


def test_picture(tmp_path):
    frames = helix() + np.random.default_rng(5).normal(0, 0.005, (30, 20, 3))
    start = trajectory(helix()[None])
    model = picture.figures(trajectory(frames), start, interval=10.0)
    assert model["time"][-1] == 300 and model["valid"].mean() > 0.9
    path = picture.draw(tmp_path / "picture.png", model, model, title="helix")
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert [p.name for p in tmp_path.iterdir()] == ["picture.png"]
    with pytest.raises(ValueError, match="20 residues .* 19"):
        picture.figures(trajectory(frames), trajectory(helix(19)[None]))


def test_analysis_needs_neither_torch_nor_openmm_nor_matplotlib():
    code = (
        "import sys, openmm_starmd.analysis.validity, openmm_starmd.analysis.flexibility, "
        "openmm_starmd.analysis.network_models, openmm_starmd.evaluation.picture\n"
        "print([m for m in ('torch', 'matplotlib', 'lightning') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
    # mdtraj itself imports openmm where it can, so for that the sources are read
    for source in Path(analysis.__file__).parent.glob("*.py"):
        assert "import openmm\n" not in source.read_text() and "from openmm import" not in source.read_text()
