"""Elastic networks, against what is known of them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from openmm_starmd.analysis import network_models
from tests.traces import helix


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
