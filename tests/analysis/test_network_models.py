"""Elastic networks, against what is known of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from benchmarks.derive import network_choice
from benchmarks.lib.paths import BENCHMARKS
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


@pytest.mark.parametrize("name", list(network_models.NETWORKS))
def test_every_network_loosens_the_ends_and_ignores_pose(name):
    trace = helix(30)
    found = network_models.network_rmsf(trace, name)
    assert np.isfinite(found).all() and found[0] > found[15] < found[-1]
    moved = trace @ Rotation.random(random_state=0).as_matrix() + 5
    np.testing.assert_allclose(found, network_models.network_rmsf(moved, name), rtol=1e-6)


def test_names_stand_for_the_published_models():
    trace = helix(20)
    np.testing.assert_allclose(network_models.network_rmsf(trace, "GNM 7 Å"), network_models.gnm_rmsf(trace, 0.7))
    np.testing.assert_allclose(network_models.network_rmsf(trace, "ANM 15 Å"), network_models.anm_rmsf(trace, 1.5))
    with pytest.raises(ValueError, match="'GNM 9 Å' is no elastic network; choose one of GNM 7 Å"):
        network_models.network_rmsf(trace, "GNM 9 Å")


def test_springs_of_the_smooth_network():
    # along x a pair's block has one entry, minus its spring
    trace = np.array([[0.0, 0, 0], [0.38, 0, 0], [0.76, 0, 0], [1.14, 0, 0]])
    matrix = network_models.smooth_hessian(trace)
    springs = -matrix[::3, ::3]
    assert springs[0, 1] == springs[2, 3] == 10 and springs[0, 2] == pytest.approx(1) == springs[1, 3]
    assert springs[0, 3] == pytest.approx(3.0**-6)
    np.testing.assert_allclose(matrix.sum(0), 0, atol=1e-12)
    assert np.abs(matrix[1::3]).max() == 0
    # a break of the chain leaves the distance alone
    broken = -network_models.smooth_hessian(trace, np.array([True, False, True]))[::3, ::3]
    assert broken[1, 2] == pytest.approx(1) and broken[0, 2] == pytest.approx(2.0**-6) and broken[0, 1] == 10


def test_the_floor_is_the_network_that_was_chosen():
    stored = json.loads((BENCHMARKS / "results" / "network_choice.json").read_text())
    assert network_models.FLOOR == stored["chosen"] == max(stored["means"], key=lambda name: stored["means"][name])
    assert not set(stored["proteins"]) & network_choice.left_out(BENCHMARKS / "data") and len(stored["proteins"]) >= 10
    # the choice follows from the table
    assert network_choice.choose(stored["proteins"])[0] == stored["chosen"]
    folder = BENCHMARKS / "data" / "training" / "2wqg_A"
    found = network_choice.measure(folder)
    for name, value in found["correlation"].items():
        assert stored["proteins"]["2wqg_A"]["correlation"][name] == pytest.approx(value, abs=1e-6)


def test_anm_has_exactly_six_zero_modes():
    trace = helix(12) + np.random.default_rng(4).normal(0, 0.02, (12, 3))
    # removing a seventh mode would change the answer, leaving the sixth in would blow it up
    assert network_models.anm_rmsf(trace, 5.0).max() < 10


@pytest.mark.parametrize("reach", [2, 4])
def test_neighbourhoods_end_with_their_chain(reach):
    """Three chains of 15, 12 and 2 residues; the last is too short for a pose of its own."""
    size = 2 * reach + 1
    trace = helix(29)
    trace[15:] += [1.5, 0, 0]
    trace[27:] += [1.5, 0, 0]
    bonded = np.ones(28, dtype=bool)
    bonded[[14, 26]] = False
    index = network_models.neighbourhoods(trace, bonded, reach)
    assert index.shape == (29, size)
    assert index[:15].max() == 14 and index[15:27].min() == 15 and index[15:27].max() == 26
    assert index[0].tolist() == list(range(size)) and index[7].tolist() == list(range(7 - reach, 8 + reach))
    assert index[14].tolist() == list(range(15 - size, 15))
    for residue in (27, 28):
        nearest = sorted(range(29), key=lambda other: np.linalg.norm(trace[other] - trace[residue]))
        assert index[residue].tolist() == nearest[:size]
    # every residue is among its own
    assert all(i in row for i, row in enumerate(index))


def test_neighbourhoods_of_short_chains_name_residues_twice():
    trace = helix(6)
    bonded = np.array([True, True, False, True, True])
    index = network_models.neighbourhoods(trace, bonded, 2)
    assert [sorted(set(row)) for row in index.tolist()] == [[0, 1, 2]] * 3 + [[3, 4, 5]] * 3
    assert index.shape == (6, 5)
    assert network_models.neighbourhoods(trace[:1], bonded[:0], 2).tolist() == [[0] * 5]
    assert sorted(set(network_models.neighbourhoods(trace[:2], bonded[:1], 2)[1].tolist())) == [0, 1]
