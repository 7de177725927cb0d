"""Rotations in three dimensions: exponential and logarithm maps, quaternions, uniform draws.

Every function is pure, batched over leading dimensions, and finite for every rotation; gradients are too, but for
:func:`angle_of`, which has none at the identity.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def hat(vector: Tensor) -> Tensor:
    """Skew-symmetric matrix of a vector.

    Parameters
    ----------
    vector : Tensor [..., 3]

    Returns
    -------
    Tensor [..., 3, 3]
        ``hat(v) @ u == cross(v, u)``.
    """
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.unflatten(torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1), -1, (3, 3))


def exp_map(vector: Tensor) -> Tensor:
    """Rotation matrix of a rotation vector (Rodrigues' formula).

    Parameters
    ----------
    vector : Tensor [..., 3]
        Axis times angle, radians.

    Returns
    -------
    Tensor [..., 3, 3]
    """
    squared = vector.square().sum(-1)[..., None, None]
    # Below this angle the series is exact to rounding, and sqrt has no finite derivative at zero.
    small = squared < 1e-4 if vector.dtype == torch.float64 else squared < 1e-2
    safe = torch.where(small, torch.ones_like(squared), squared)
    angle = safe.sqrt()
    sine = torch.where(
        small, 1 - squared / 6 * (1 - squared / 20 * (1 - squared / 42 * (1 - squared / 72))), angle.sin() / angle
    )
    # (1 - cos a) / a^2 = 2 sin^2(a/2) / a^2 keeps its digits where 1 - cos a loses them.
    cosine = torch.where(
        small,
        0.5 - squared / 24 * (1 - squared / 30 * (1 - squared / 56)),
        2 * (angle / 2).sin().square() / safe,
    )
    matrix = hat(vector)
    identity = torch.eye(3, dtype=vector.dtype, device=vector.device)
    return identity + sine * matrix + cosine * (matrix @ matrix)


def matrix_to_quaternion(matrix: Tensor) -> Tensor:
    """Unit quaternion (w, x, y, z) of a rotation matrix, with w >= 0.

    Parameters
    ----------
    matrix : Tensor [..., 3, 3]

    Returns
    -------
    Tensor [..., 4]
    """
    m = matrix
    diagonal = torch.diagonal(m, dim1=-2, dim2=-1)
    d0, d1, d2 = diagonal.unbind(-1)
    # Rows of 4 q qᵀ: any row is the quaternion up to scale, the one with the largest diagonal is safe.
    rows = torch.stack(
        [
            torch.stack(
                [
                    1 + d0 + d1 + d2,
                    m[..., 2, 1] - m[..., 1, 2],
                    m[..., 0, 2] - m[..., 2, 0],
                    m[..., 1, 0] - m[..., 0, 1],
                ],
                -1,
            ),
            torch.stack(
                [
                    m[..., 2, 1] - m[..., 1, 2],
                    1 + d0 - d1 - d2,
                    m[..., 0, 1] + m[..., 1, 0],
                    m[..., 0, 2] + m[..., 2, 0],
                ],
                -1,
            ),
            torch.stack(
                [
                    m[..., 0, 2] - m[..., 2, 0],
                    m[..., 0, 1] + m[..., 1, 0],
                    1 - d0 + d1 - d2,
                    m[..., 1, 2] + m[..., 2, 1],
                ],
                -1,
            ),
            torch.stack(
                [
                    m[..., 1, 0] - m[..., 0, 1],
                    m[..., 0, 2] + m[..., 2, 0],
                    m[..., 1, 2] + m[..., 2, 1],
                    1 - d0 - d1 + d2,
                ],
                -1,
            ),
        ],
        dim=-2,
    )  # [..., 4, 4]
    best = torch.diagonal(rows, dim1=-2, dim2=-1).argmax(-1)
    chosen = torch.take_along_dim(rows, best[..., None, None], dim=-2).squeeze(-2)
    quaternion = chosen / chosen.norm(dim=-1, keepdim=True)
    return torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)


def quaternion_to_matrix(quaternion: Tensor) -> Tensor:
    """Rotation matrix of a quaternion (w, x, y, z), which need not have unit length.

    Parameters
    ----------
    quaternion : Tensor [..., 4]

    Returns
    -------
    Tensor [..., 3, 3]
    """
    w, x, y, z = (quaternion / quaternion.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = torch.stack(
        [
            1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
            2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
            2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
        ],
        dim=-1,
    )  # fmt: skip
    return torch.unflatten(rows, -1, (3, 3))


def log_map(matrix: Tensor) -> Tensor:
    """Rotation vector of a rotation matrix.

    Parameters
    ----------
    matrix : Tensor [..., 3, 3]

    Returns
    -------
    Tensor [..., 3]
        Axis times angle, angle in [0, π] radians.
    """
    quaternion = matrix_to_quaternion(matrix)
    w, v = quaternion[..., :1], quaternion[..., 1:]
    squared = v.square().sum(-1, keepdim=True)
    small = squared < 1e-8
    length = torch.where(small, torch.ones_like(squared), squared).sqrt()
    # angle / sin(angle / 2), by its series at zero where the norm has no derivative
    factor = torch.where(small, 2 + squared / 3, 2 * torch.atan2(length, w) / length)
    return factor * v


def angle_of(matrix: Tensor) -> Tensor:
    """Rotation angle in [0, π] radians of rotation matrices ``[..., 3, 3]``; shape ``[...]``."""
    quaternion = matrix_to_quaternion(matrix)
    return 2 * torch.atan2(quaternion[..., 1:].norm(dim=-1), quaternion[..., 0])


def rotation_from_gaussian(noise: Tensor) -> Tensor:
    """Uniformly distributed rotations from standard normal numbers.

    Parameters
    ----------
    noise : Tensor [..., 4]
        Independent standard normal draws; their direction is uniform on the unit quaternions.

    Returns
    -------
    Tensor [..., 3, 3]
    """
    return quaternion_to_matrix(noise)


UNIFORM_MEAN_ANGLE = math.pi / 2 + 2 / math.pi
"""Mean rotation angle of the uniform distribution, ∫ ω (1 − cos ω)/π dω over [0, π]."""
