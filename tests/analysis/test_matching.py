"""Trajectories on equal terms, or an error that says what to do."""

from __future__ import annotations

import numpy as np
import pytest

from openmm_starmd.analysis import coverage, matching
from tests.moving_villin import moving, villin


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
