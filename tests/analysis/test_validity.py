"""Validity of Cα traces whose answer is known."""

from __future__ import annotations

import mdtraj
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from openmm_starmd.analysis import validity
from tests.traces import helix, trajectory


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
