"""What all tests share: one thread per process, and the rollout that stands in for the network."""

from __future__ import annotations

import os

import pytest
import torch

# before any test starts a process of its own
os.environ["OMP_NUM_THREADS"] = "1"


def pytest_configure() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def fake_rollout(monkeypatch):
    """Every StarMDSimulation made in the test draws from a FakeRollout."""
    import openmm_starmd.rollout
    from tests.fakes import fake_make_rollout

    monkeypatch.setattr(openmm_starmd.rollout, "make_rollout", fake_make_rollout)
