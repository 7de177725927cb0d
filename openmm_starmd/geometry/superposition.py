"""Least-squares superposition of positions in numpy arrays."""

from __future__ import annotations

import numpy as np


def fitted(mobile: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotation and shift that superpose points.

    Parameters
    ----------
    mobile, target : np.ndarray [points, 3]
        nm.

    Returns
    -------
    rotation : np.ndarray [3, 3]
    shift : np.ndarray [3]
        ``mobile @ rotation.T + shift`` lies closest to `target`.
    """
    import torch

    from openmm_starmd.geometry.rigid import superposition

    rotation, shift = superposition(torch.from_numpy(np.array(mobile)), torch.from_numpy(np.array(target)))
    return rotation.numpy(), shift.numpy()


def rmsd(first: np.ndarray, second: np.ndarray) -> float:
    """RMSD of points [..., 3] after superposition, in their unit."""
    first, second = first.reshape(-1, 3), second.reshape(-1, 3)
    rotation, shift = fitted(first, second)
    return float(np.sqrt(((first @ rotation.T + shift - second) ** 2).sum(-1).mean()))
