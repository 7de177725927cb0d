"""The two forms of superposition: they agree, and only one of them needs torch."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from openmm_starmd.geometry.horn import rotation_by_quaternion
from openmm_starmd.geometry.so3 import exp_map
from openmm_starmd.geometry.superposition import aligned, aligned_rmsd, rmsd, rotation_by_svd, superpose


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


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("points", [3, 4, 60])
@pytest.mark.parametrize("noise", [0.0, 0.1, 1.0])
def test_quaternions_give_what_the_svd_gives(points, noise, dtype, tolerance):
    generator = torch.Generator().manual_seed(points)
    mobile, error = torch.randn(2, 100, points, 3, generator=generator, dtype=torch.float64)
    turn = exp_map(2 * torch.randn(100, 3, generator=generator, dtype=torch.float64))
    target = mobile @ turn.mT + noise * error
    covariance = ((mobile - mobile.mean(1, True)).mT @ (target - target.mean(1, True))).to(dtype)
    found = rotation_by_quaternion(covariance)
    assert found.dtype == dtype
    # the SVD of what float32 holds, in float64: the one in float32 is further off than this
    assert (found - rotation_by_svd(covariance.double())).abs().max() < tolerance


def test_quaternions_of_mirrored_flat_and_lone_points():
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(5, 9, 3, generator=generator, dtype=torch.float64)
    points = points - points.mean(1, True)
    mirrored = points.mT @ (points * torch.tensor([1.0, 1.0, -1.0]))
    assert (rotation_by_quaternion(mirrored) - rotation_by_svd(mirrored)).abs().max() < 1e-9
    turn = exp_map(torch.tensor([0.3, -1.0, 0.5], dtype=torch.float64))
    for flat in (points * torch.tensor([1.0, 1.0, 0.0]), points[..., :1] * torch.tensor([1.0, 2.0, 3.0])):
        rotation = rotation_by_quaternion(flat.mT @ (flat @ turn.T))
        assert (flat @ rotation.mT - flat @ turn.T).abs().max() < 1e-9
        assert torch.allclose(torch.linalg.det(rotation), torch.ones(5, dtype=torch.float64))
    assert torch.equal(rotation_by_quaternion(torch.zeros(3, 3)), torch.eye(3))
