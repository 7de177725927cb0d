"""Least-squares superposition (Kabsch 1976) and RMSD.

There are two forms, because the singular vectors of torch and numpy differ in their last bits and neither may change
what was computed with the other: torch's for the poses a network sees and for single structures, numpy's for measures
on whole trajectories. torch is imported only by those that need it, so that the measures do without. On a GPU, where a
singular value decomposition makes the CPU wait, torch's form goes by quaternions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[np.float64]


def superposition(mobile: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Rotation and shift that superpose points with least squares.

    Parameters
    ----------
    mobile, target : Tensor [..., N, 3]
        Corresponding points.

    Returns
    -------
    rotation : Tensor [..., 3, 3]
        Proper rotation.
    shift : Tensor [..., 3]
        ``mobile @ rotation.T + shift`` lies closest to `target`.
    """
    mobile_center, target_center = mobile.mean(-2), target.mean(-2)
    covariance = (mobile - mobile_center[..., None, :]).transpose(-1, -2) @ (target - target_center[..., None, :])
    if covariance.device.type == "cpu":
        rotation = rotation_by_svd(covariance)
    else:
        from openmm_starmd.geometry.horn import rotation_by_quaternion

        rotation = rotation_by_quaternion(covariance)
    shift = target_center - (rotation @ mobile_center[..., None]).squeeze(-1)
    return rotation, shift


def rotation_by_svd(covariance: Tensor) -> Tensor:
    """Rotation [..., 3, 3] that superposes centred points, from Σ mobile targetᵀ [..., 3, 3]."""
    import torch

    u, _, vt = torch.linalg.svd(covariance)
    sign = torch.det(u @ vt).sign()
    # torch.linalg.svd gives vt with rows v; R = V diag(1, 1, sign) Uᵀ
    correction = torch.ones_like(u[..., 0])
    correction = torch.cat([correction[..., :2], sign[..., None]], dim=-1)
    return (vt.transpose(-1, -2) * correction[..., None, :]) @ u.transpose(-1, -2)


def aligned(mobile: NDArray[np.floating], target: NDArray[np.floating]) -> tuple[Array, Array]:
    """:func:`superposition` of numpy arrays.

    Parameters
    ----------
    mobile, target : ndarray [points, 3]
        nm.

    Returns
    -------
    rotation : ndarray [3, 3]
    shift : ndarray [3]
        ``mobile @ rotation.T + shift`` lies closest to `target`.
    """
    import torch

    rotation, shift = superposition(torch.from_numpy(np.array(mobile)), torch.from_numpy(np.array(target)))
    return rotation.numpy(), shift.numpy()


def aligned_rmsd(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """RMSD of two sets of points [..., 3] after :func:`aligned`, in their unit."""
    first, second = first.reshape(-1, 3), second.reshape(-1, 3)
    rotation, shift = aligned(first, second)
    return float(np.sqrt(((first @ rotation.T + shift - second) ** 2).sum(-1).mean()))


def superpose(moving: NDArray[np.floating], target: NDArray[np.floating]) -> Array:
    """Superpose frames on targets by least squares, all atoms with one weight.

    Parameters
    ----------
    moving : ndarray [frames, N, 3]
        nm.
    target : ndarray [N, 3] or [frames, N, 3]
        nm; one for all or one each.

    Returns
    -------
    ndarray [frames, N, 3]
        nm, in the pose of the targets.
    """
    moving, target = np.asarray(moving, dtype=np.float64), np.asarray(target, dtype=np.float64)
    center = target.mean(-2, keepdims=True)
    centered = moving - moving.mean(-2, keepdims=True)
    u, _, vt = np.linalg.svd(np.swapaxes(centered, -1, -2) @ (target - center))
    handedness = np.sign(np.linalg.det(u) * np.linalg.det(vt))
    u[..., -1] *= handedness[..., None]
    return centered @ (u @ vt) + center


def rmsd(frames: NDArray[np.floating], target: NDArray[np.floating]) -> Array:
    """RMSD of frames after superposition.

    Parameters
    ----------
    frames : ndarray [frames, N, 3]
        nm.
    target : ndarray [N, 3] or [frames, N, 3]
        nm; one for all or one each.

    Returns
    -------
    ndarray [frames]
        nm.
    """
    target = np.asarray(target)
    result = np.empty(len(frames))
    for begin in range(0, len(frames), 1000):
        part = slice(begin, begin + 1000)
        goal = target if target.ndim == 2 else target[part]
        result[part] = np.sqrt(((superpose(frames[part], goal) - goal) ** 2).sum(-1).mean(-1))
    return result
