"""Coverage of runs whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from openmm_starmd.analysis import coverage
from tests.moving_villin import N, moving, run_of


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
