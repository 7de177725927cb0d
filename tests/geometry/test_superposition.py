"""The two forms of superposition: they agree, and only one of them needs torch."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from openmm_starmd.geometry.superposition import aligned, aligned_rmsd, rmsd, superpose


@pytest.fixture
def points() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(20, 3))


def test_a_motion_is_undone(points):
    rotation = Rotation.random(random_state=1).as_matrix()
    moved = points @ rotation.T + [1.0, -2.0, 3.0]
    found, shift = aligned(points, moved)
    np.testing.assert_allclose(found, rotation, atol=1e-12)
    np.testing.assert_allclose(points @ found.T + shift, moved, atol=1e-12)
    np.testing.assert_allclose(superpose(points[None], moved)[0], moved, atol=1e-12)
    assert aligned_rmsd(points, moved) == pytest.approx(0, abs=1e-12)


def test_both_forms_agree(points):
    frames = points + np.random.default_rng(1).normal(0, 0.2, (5, 20, 3))
    rotation, shift = aligned(frames[3], points)
    np.testing.assert_allclose(superpose(frames, points)[3], frames[3] @ rotation.T + shift, atol=1e-12)
    np.testing.assert_allclose(rmsd(frames, points), [aligned_rmsd(frame, points) for frame in frames], atol=1e-12)


def test_each_frame_may_have_its_own_target(points):
    frames = points + np.random.default_rng(2).normal(0, 0.2, (2500, 20, 3))
    found = rmsd(frames[1:], frames[:-1])
    np.testing.assert_allclose(found[::800], [rmsd(frames[k + 1][None], frames[k])[0] for k in (0, 800, 1600, 2400)])


def test_measures_on_trajectories_need_no_torch():
    code = (
        "import sys, numpy as np\n"
        "from openmm_starmd.geometry.superposition import rmsd\n"
        "rmsd(np.eye(3)[None], np.eye(3)); print('torch' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
