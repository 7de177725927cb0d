"""How much a protein moves, on traces whose answer is known."""

from __future__ import annotations

import mdtraj
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from openmm_starmd.analysis import flexibility
from openmm_starmd.geometry.superposition import rmsd
from tests.moving_villin import N, moving, run_of, villin
from tests.traces import helix, trajectory


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


def test_rmsd_agrees_with_mdtraj_and_ignores_pose():
    generator = np.random.default_rng(1)
    frames = helix() + generator.normal(0, 0.05, (20, 20, 3))
    run = trajectory(frames)
    np.testing.assert_allclose(rmsd(frames, frames[0])[1:], mdtraj.rmsd(run, run, 0)[1:], atol=1e-4)
    moved = np.stack([f @ Rotation.random(random_state=k).as_matrix() + k for k, f in enumerate(frames)])
    np.testing.assert_allclose(rmsd(moved, frames[0]), rmsd(frames, frames[0]), atol=1e-9)
    np.testing.assert_allclose(flexibility.rmsf(moved), flexibility.rmsf(frames), atol=1e-7)
    np.testing.assert_allclose(flexibility.radius_of_gyration(moved), mdtraj.compute_rg(run), atol=1e-4)


def test_superposition_does_not_mirror():
    mirrored = helix() * [1, 1, -1]
    assert rmsd(mirrored[None], helix())[0] > 0.1


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


def test_displacement_of_a_constructed_trajectory():
    # one residue of many jumps by 0.3 nm every second frame; superposing spreads 1/N of it over the others
    trace, n = helix(60), 60
    frames = np.repeat(trace[None], 9, axis=0)
    frames[1::2, 30, 2] += 0.3
    frames = np.stack([f @ Rotation.random(random_state=k).as_matrix() + k for k, f in enumerate(frames)])
    at_one, at_two = flexibility.displacement(frames, 1), flexibility.displacement(frames, 2)
    assert at_one[30] == pytest.approx(0.3, abs=0.3 * 4 / n) and np.delete(at_one, 30).max() < 0.3 * 4 / n
    np.testing.assert_allclose(at_two, 0, atol=1e-9)
    # the size over residues is RMSD at the lag, whatever the window
    assert np.sqrt((at_one**2).mean()) == pytest.approx(flexibility.rmsd_against_lag(frames, [1])[0])
    for lag in (0, 9):
        with pytest.raises(ValueError, match=f"lag {lag} does not fit 9 frames"):
            flexibility.displacement(frames, lag)


def test_displacement_at_a_long_lag_is_root_two_of_rmsf():
    widths = np.linspace(0.01, 0.05, 60)
    frames = helix(60) + np.random.default_rng(2).normal(size=(3000, 60, 3)) * widths[:, None]
    found = flexibility.displacement(frames, 7)
    np.testing.assert_allclose(found, np.sqrt(2) * flexibility.rmsf(frames), rtol=0.05)


def test_runs_are_pooled_by_squares_about_their_own_means():
    np.testing.assert_allclose(flexibility.pooled([np.array([3.0, 0.0]), np.array([1.0, 2.0])]), np.sqrt([5, 2]))
    widths = np.linspace(0.01, 0.05, 40)
    generator = np.random.default_rng(5)

    def run(frames: int, shift: float = 0.0) -> np.ndarray:
        """Noise of the given widths about a structure of its own."""
        start = helix(40) + shift * np.random.default_rng(int(10 * shift)).normal(size=(40, 3))
        return start + generator.normal(size=(frames, 40, 3)) * widths[:, None]

    references = [run(400), run(400, 0.2)]
    single = flexibility.rmsf_agreement([run(10)], references)
    many = flexibility.rmsf_agreement([run(10, i / 10) for i in range(16)], references)
    assert many.correlation > 0.97 > single.correlation and many.correlation == pytest.approx(
        np.mean(many.correlations)
    )
    # ten frames about their own mean have 9/10 of the variance
    assert many.amplitude == pytest.approx(np.sqrt(0.9), abs=0.03)
    # of fewer frames nothing is said, nor of what is not finite
    for runs, others in (([run(9)], references), ([run(20)], [run(9)]), ([np.full((20, 40, 3), np.nan)], references)):
        found = flexibility.rmsf_agreement(runs, others)
        assert np.isnan(found.correlation) and np.isnan(found.amplitude) and np.isnan(found.correlations).all()


def test_correlation_of_a_flat_profile_is_nan():
    assert np.isnan(flexibility.correlation(np.zeros(5), np.arange(5)))
