"""Elastic networks sampled as trajectories."""

from __future__ import annotations

import numpy as np
import pytest

from openmm_starmd.analysis import flexibility
from openmm_starmd.analysis.network_models import FLOOR, NETWORKS
from openmm_starmd.evaluation import floors
from tests.moving_villin import moving, run_of


@pytest.mark.slow
@pytest.mark.parametrize("name", list(NETWORKS))
def test_sampled_networks_have_the_size_and_speed_asked_for(name):
    trace = run_of(moving(2)).alphas[0].astype(float)
    drawn = floors.sample_network(trace, name, 3000, square=0.05**2, step=0.02, seed=1)
    np.testing.assert_array_equal(drawn[0], trace)
    settled = drawn[1000:]
    assert np.sqrt(((settled - trace) ** 2).sum(-1).mean()) == pytest.approx(0.05, rel=0.15)
    # superposition takes a little of both away
    assert 0.015 < flexibility.rmsd_against_lag(settled, [1])[0] < 0.0205


def test_one_network_for_all_and_the_best_beside_it_with_hindsight():
    reference = run_of(moving(40), "MD")
    runs = floors.network_runs(reference)
    assert runs[0].label == f"elastic network {FLOOR}" and len(runs[0]) == 40
    best = floors.best_network(reference.alphas[0].astype(float), flexibility.rmsf(reference.alphas), reference.bonded)
    assert [run.label for run in runs[1:]] == ([] if best == FLOOR else [f"elastic network {best}, {floors.HINDSIGHT}"])
    assert [run.label for run in floors.network_runs(reference, hindsight=False)] == [runs[0].label]
    still = reference.frozen(40)
    assert floors.network_runs(still) == []
