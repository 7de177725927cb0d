"""Slow modes and kinetics of processes whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from openmm_starmd.analysis import coverage, dynamics
from tests.moving_villin import N, moving, run_of


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
    pytest.importorskip("deeptime")
    states = chain(50_000, 0.02).astype(float)[:, None]
    score, gap = dynamics.vamp2_gap(states, states, 5)
    assert gap == pytest.approx(0, abs=1e-9)
    assert score == pytest.approx(1 + (1 - 2 * 0.02) ** 10, abs=0.03)
    shuffled = np.random.default_rng(0).permutation(states)
    assert dynamics.vamp2_gap(states, shuffled, 5)[1] == pytest.approx(score - 1, abs=0.01)
    assert np.isnan(dynamics.vamp2_gap(states, np.zeros_like(states), 5)[1])


def test_vamp2_of_a_run_that_moves_at_one_end_only():
    pytest.importorskip("deeptime")
    states = chain(2_000, 0.02).astype(float)[:, None]
    score, _ = dynamics.vamp2_gap(states, states, 50)
    resting = states.copy()
    resting[40:] = 0.0
    assert dynamics.vamp2_gap(states, resting, 50)[1] == pytest.approx(score - 1)


def test_vamp2_does_not_depend_on_the_size_of_a_motion():
    pytest.importorskip("deeptime")
    points = np.random.default_rng(3).normal(size=(500, 3)).cumsum(0)
    run = np.random.default_rng(4).normal(size=(500, 3)).cumsum(0)
    expected = dynamics.vamp2_gap(points, run, 7)
    np.testing.assert_allclose(dynamics.vamp2_gap(1e-3 * points, 1e-6 * run, 7), expected, rtol=1e-9)
