"""Elastic network models of a single structure: the baseline a learned model of motion must beat.

Both give the shape of the RMSF only: its size scales with a spring constant that one structure does not tell, so the
constant (kT over spring constant) is 1 throughout.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

Array = NDArray[np.float64]

GNM_CUTOFF = 1.0  # nm
ANM_CUTOFF = 1.5  # nm


def gnm_rmsf(alphas: NDArray[np.floating], cutoff: float = GNM_CUTOFF) -> Array:
    """RMSF by the Gaussian network model.

    Parameters
    ----------
    alphas : ndarray [N, 3]
        Cα positions, nm.
    cutoff : float
        Residues closer than this are joined, nm. Published choices lie between 0.7 and 1.0.

    Returns
    -------
    ndarray [N]
        Arbitrary units.

    Notes
    -----
    ⟨ΔR_i²⟩ is proportional to the diagonal of the pseudo-inverse of the Kirchhoff matrix Γ (Bahar, Atilgan and Erman
    1997, Fold. Des. 2, 173, eqs. 2 to 5; Haliloglu, Bahar and Erman 1997, Phys. Rev. Lett. 79, 3090).
    """
    values, vectors = stiff_modes(kirchhoff(alphas, cutoff), 1)
    return np.sqrt((vectors**2 / values).sum(1))


def anm_rmsf(alphas: NDArray[np.floating], cutoff: float = ANM_CUTOFF) -> Array:
    """RMSF by the anisotropic network model.

    Parameters
    ----------
    alphas : ndarray [N, 3]
        Cα positions, nm.
    cutoff : float
        Residues closer than this are joined by a spring, nm. Published choices lie between 1.3 and 1.8.

    Returns
    -------
    ndarray [N]
        Arbitrary units.

    Notes
    -----
    ⟨ΔR_i²⟩ is proportional to the trace of the i-th 3 x 3 block of the pseudo-inverse of the Hessian (Atilgan et al.
    2001, Biophys. J. 80, 505, eqs. 3 to 10; Doruker, Atilgan and Bahar 2000, Proteins 40, 512).
    """
    values, vectors = stiff_modes(hessian(alphas, cutoff), 6)
    return np.sqrt((vectors**2 / values).sum(1).reshape(-1, 3).sum(1))


def kirchhoff(alphas: NDArray[np.floating], cutoff: float) -> Array:
    """Connectivity matrix [N, N] of the Gaussian network of Cα positions [N, 3] in nm."""
    distances = np.linalg.norm(alphas[:, None] - alphas[None], axis=-1)
    matrix = -(distances < cutoff).astype(np.float64)
    np.fill_diagonal(matrix, 0.0)
    np.fill_diagonal(matrix, -matrix.sum(1))
    return matrix


def hessian(alphas: NDArray[np.floating], cutoff: float) -> Array:
    """Second derivatives [3N, 3N] of the anisotropic network of Cα positions [N, 3] in nm, springs of 1."""
    n = len(alphas)
    difference = np.asarray(alphas, dtype=np.float64)[:, None] - alphas[None]  # [N, N, 3]
    square = (difference**2).sum(-1)
    joined = (square < cutoff**2) & ~np.eye(n, dtype=bool)
    safe = np.where(joined, square, 1.0)
    # off-diagonal super-elements are minus the projector on the line between the two residues
    blocks = -np.where(joined, 1.0 / safe, 0.0)[..., None, None] * difference[..., :, None] * difference[..., None, :]
    blocks[np.arange(n), np.arange(n)] = -blocks.sum(1)
    return blocks.transpose(0, 2, 1, 3).reshape(3 * n, 3 * n)


def stiff_modes(matrix: Array, rigid_modes: int) -> tuple[Array, Array]:
    """Modes of non-zero stiffness.

    Parameters
    ----------
    matrix : ndarray [size, size]
    rigid_modes : int
        Modes of rigid motion, left out.

    Returns
    -------
    values : ndarray [modes]
        Stiffness, the softest first.
    vectors : ndarray [size, modes]

    Notes
    -----
    A network that is not held together has more zero modes than its rigid motions; they carry no information on the
    shape of the fluctuations and are left out as well.
    """
    values, vectors = scipy.linalg.eigh(matrix)
    keep = values > 1e-8 * max(values[-1], 1e-300)
    keep[:rigid_modes] = False
    return values[keep], vectors[:, keep]
