"""Torsion angles: measuring them and turning atoms about bonds. Pure numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def dihedral(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Torsion angle about the bond b-c (IUPAC sign: positive when, seen along b→c, d lies clockwise of a).

    Parameters
    ----------
    a, b, c, d : np.ndarray [..., 3]
        Points, any one unit.

    Returns
    -------
    np.ndarray [...]
        Radians in (-π, π].
    """
    axis = c - b
    first = np.cross(a - b, axis)
    second = np.cross(axis, d - c)
    sine = np.sum(np.cross(second, first) * axis, -1) / np.maximum(np.linalg.norm(axis, axis=-1), 1e-12)
    return np.arctan2(sine, -np.sum(first * second, -1))


def dihedrals(xyz: NDArray[np.floating], indices: NDArray[np.integer]) -> NDArray[np.float64]:
    """Dihedral angles of atoms of many frames.

    Kept beside :func:`dihedral`, whose formula differs from it in the last bits, so that measured shares stay as they
    were.

    Parameters
    ----------
    xyz : ndarray [frames, atoms, 3]
    indices : ndarray [angles, 4], int

    Returns
    -------
    ndarray [frames, angles]
        Degrees, -180 to 180.
    """
    p = np.asarray(xyz)[:, indices].astype(np.float64)  # [frames, angles, 4, 3]
    b = p[:, :, 1:] - p[:, :, :-1]
    left, right = np.cross(b[:, :, 0], b[:, :, 1]), np.cross(b[:, :, 1], b[:, :, 2])
    length = np.linalg.norm(b[:, :, 1], axis=-1)
    return np.degrees(np.arctan2(length * (b[:, :, 0] * right).sum(-1), (left * right).sum(-1)))


def rotate_about(points: np.ndarray, origin: np.ndarray, axis: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Points turned about an axis through `origin` (Rodrigues' formula).

    Parameters
    ----------
    points, origin, axis : np.ndarray [..., 3]
        `axis` need not be of unit length.
    angle : np.ndarray [...]
        Radians, right-handed about `axis`.

    Returns
    -------
    np.ndarray [..., 3]
    """
    unit = axis / np.maximum(np.linalg.norm(axis, axis=-1, keepdims=True), 1e-12)
    arm = points - origin
    cosine, sine = np.cos(angle)[..., None], np.sin(angle)[..., None]
    along = np.sum(unit * arm, -1, keepdims=True) * unit
    return origin + along + cosine * (arm - along) + sine * np.cross(unit, arm)


def axes_of(backbone: np.ndarray) -> np.ndarray:
    """Axes of each residue, as :func:`openmm_starmd.geometry.rigid.rigids_from_backbone` defines them.

    Parameters
    ----------
    backbone : np.ndarray [..., 3, 3]
        N, CA, C.

    Returns
    -------
    np.ndarray [..., 3, 3]
        Columns x, y, z.
    """
    n, ca, c = backbone[..., 0, :], backbone[..., 1, :], backbone[..., 2, :]
    return frame_axes(c - ca, n - ca)


def frame_axes(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Right-handed axes [..., 3, 3] in columns: x along `first`, `second` in the xy plane with positive y."""
    x = first / np.maximum(np.linalg.norm(first, axis=-1, keepdims=True), 1e-12)
    y = second - np.sum(second * x, -1, keepdims=True) * x
    y = y / np.maximum(np.linalg.norm(y, axis=-1, keepdims=True), 1e-12)
    return np.stack([x, y, np.cross(x, y)], axis=-1)


def close_ring(
    n: np.ndarray, cg: np.ndarray, cd: np.ndarray, n_cd: float | np.ndarray, cg_cd: float | np.ndarray
) -> np.ndarray:
    """The place nearest to `cd` at the distances `n_cd` and `cg_cd` from `n` and `cg`.

    Parameters
    ----------
    n, cg, cd : np.ndarray [..., 3]
        nm.
    n_cd, cg_cd : float or np.ndarray [...]
        nm.

    Returns
    -------
    np.ndarray [..., 3]
        On the line n-cg where they are too far apart.
    """
    between = cg - n
    span = np.linalg.norm(between, axis=-1)
    along = between / np.maximum(span, 1e-9)[..., None]
    foot = np.clip((span**2 + n_cd**2 - cg_cd**2) / (2 * np.maximum(span, 1e-9)), -n_cd, n_cd)
    height = np.sqrt(np.maximum(n_cd**2 - foot**2, 0.0))
    arm = cd - n
    aside = arm - np.sum(arm * along, -1, keepdims=True) * along
    aside = aside / np.maximum(np.linalg.norm(aside, axis=-1, keepdims=True), 1e-9)
    return n + foot[..., None] * along + height[..., None] * aside
