"""Elastic network models of a single structure: the baseline a learned model of motion must beat.

All give the shape of the RMSF only: its size scales with a spring constant that one structure does not tell, so the
constant (kT over spring constant) is 1 throughout.

Several networks are in use, each with its cutoff, and which of them fits a protein best is known only once its motion
is. So a floor is :data:`FLOOR`, one network for all proteins.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

Array = NDArray[np.float64]

GNM_CUTOFF = 1.0  # nm
ANM_CUTOFF = 1.5  # nm

SPACING = 0.38
"""Distance of neighbouring Cα, nm: where a spring of :func:`smooth_hessian` has the constant 1."""
FALL = 6
"""Power of the distance with which springs of :func:`smooth_hessian` weaken."""
NEIGHBOUR, NEXT_BUT_ONE = 10.0, 1.0
"""Springs of :func:`smooth_hessian` between bonded neighbours, and the least between residues two bonds apart."""

# by name: model and cutoff in nm
NETWORKS = {
    "GNM 7 Å": ("gnm", 0.7),
    "GNM 10 Å": ("gnm", 1.0),
    "ANM 13 Å": ("anm", 1.3),
    "ANM 15 Å": ("anm", 1.5),
    "ANM r⁻⁶": ("smooth", 0.0),
}
FLOOR = "ANM r⁻⁶"
"""The one of :data:`NETWORKS` that all proteins are held against. Chosen on training proteins, by
``benchmarks/derive/network_choice.py``; ``benchmarks/results/network_choice.json`` has the table."""


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


class Modes(NamedTuple):
    """Modes of non-zero stiffness of an elastic network.

    Attributes
    ----------
    values : ndarray [modes]
        Stiffness, the softest first.
    vectors : ndarray [N, modes] or [3N, modes]
    copies : int
        3 for a Gaussian network, which moves alike along x, y and z; else 1.
    """

    values: Array
    vectors: Array
    copies: int

    def rmsf(self) -> Array:
        """RMSF [N] in arbitrary units."""
        squares = (self.vectors**2 / self.values).sum(1)
        return np.sqrt(squares if self.copies == 3 else squares.reshape(-1, 3).sum(1))


def network_modes(alphas: NDArray[np.floating], name: str, bonded: NDArray[np.bool_] | None = None) -> Modes:
    """Modes of one of :data:`NETWORKS`.

    Parameters
    ----------
    alphas : ndarray [N, 3]
        Cα positions, nm.
    name : str
        Of :data:`NETWORKS`.
    bonded : ndarray [N-1], bool, optional
        Whether each residue is bonded to the next; all are by default.

    Returns
    -------
    Modes
    """
    if name not in NETWORKS:
        raise ValueError(f"{name!r} is no elastic network; choose one of {', '.join(NETWORKS)}")
    kind, cutoff = NETWORKS[name]
    if kind == "gnm":
        return Modes(*stiff_modes(kirchhoff(alphas, cutoff), 1), 3)
    matrix = hessian(alphas, cutoff) if kind == "anm" else smooth_hessian(alphas, bonded)
    return Modes(*stiff_modes(matrix, 6), 1)


def network_rmsf(alphas: NDArray[np.floating], name: str, bonded: NDArray[np.bool_] | None = None) -> Array:
    """RMSF [N] in arbitrary units by one of :data:`NETWORKS`; arguments as for :func:`network_modes`."""
    return network_modes(alphas, name, bonded).rmsf()


def kirchhoff(alphas: NDArray[np.floating], cutoff: float) -> Array:
    """Connectivity matrix [N, N] of the Gaussian network of Cα positions [N, 3] in nm."""
    distances = np.linalg.norm(alphas[:, None] - alphas[None], axis=-1)
    matrix = -(distances < cutoff).astype(np.float64)
    np.fill_diagonal(matrix, 0.0)
    np.fill_diagonal(matrix, -matrix.sum(1))
    return matrix


def hessian(alphas: NDArray[np.floating], cutoff: float) -> Array:
    """Second derivatives [3N, 3N] of the anisotropic network of Cα positions [N, 3] in nm, springs of 1."""
    return _second_derivatives(alphas, (_distances(alphas) < cutoff).astype(np.float64))


def smooth_hessian(alphas: NDArray[np.floating], bonded: NDArray[np.bool_] | None = None) -> Array:
    """Second derivatives [3N, 3N] of a network of all residues, whose springs weaken with the distance.

    Parameters
    ----------
    alphas : ndarray [N, 3]
        Cα positions, nm.
    bonded : ndarray [N-1], bool, optional
        Whether each residue is bonded to the next; all are by default.

    Returns
    -------
    ndarray [3N, 3N]
        Springs (:data:`SPACING` / r)^:data:`FALL`; of bonded neighbours :data:`NEIGHBOUR`, of residues two bonds apart
        at least :data:`NEXT_BUT_ONE`.

    Notes
    -----
    The sixth power, with the chain apart, is that of Hinsen et al. 2000, Chem. Phys. 261, 25 (there fitted to a force
    field); another without a cutoff is that of Yang, Song and Jernigan 2009, Proc. Natl. Acad. Sci. 106, 12347,
    with the second power and no chain.
    """
    n = len(alphas)
    bonded = np.ones(max(n - 1, 0), dtype=bool) if bonded is None else np.asarray(bonded, dtype=bool)
    distances = _distances(alphas)
    np.fill_diagonal(distances, 1.0)
    springs = (SPACING / distances) ** FALL
    first = np.flatnonzero(bonded)
    springs[first, first + 1] = springs[first + 1, first] = NEIGHBOUR
    second = np.flatnonzero(bonded[:-1] & bonded[1:])
    springs[second, second + 2] = springs[second + 2, second] = np.maximum(springs[second, second + 2], NEXT_BUT_ONE)
    return _second_derivatives(alphas, springs)


def neighbourhoods(alphas: NDArray[np.floating], bonded: NDArray[np.bool_], reach: int) -> NDArray[np.int64]:
    """The residues around each whose superposition tells how it has turned.

    Parameters
    ----------
    alphas : ndarray [N, 3]
        Cα positions, nm.
    bonded : ndarray [N - 1], bool
    reach : int
        Residues to each side.

    Returns
    -------
    ndarray [N, 2 reach + 1], int
        i - reach to i + reach; as many at a chain's end for the residues at it, and the nearest in space for those of
        pieces of one or two residues. A residue may be named twice where there are fewer.
    """
    n, size = len(alphas), 2 * reach + 1
    cuts = np.flatnonzero(~np.asarray(bonded, dtype=bool)) + 1
    begins, ends = np.r_[0, cuts], np.r_[cuts, n]
    piece = np.repeat(np.arange(len(begins)), ends - begins)
    begin, end = begins[piece], ends[piece]
    first = np.maximum(np.minimum(np.arange(n) - reach, end - size), begin)
    index = np.minimum(first[:, None] + np.arange(size), end[:, None] - 1)
    short = np.flatnonzero(end - begin < 3)
    distances = np.linalg.norm(alphas[short, None] - alphas[None], axis=-1)
    index[short] = np.argsort(distances, axis=1, kind="stable")[:, np.minimum(np.arange(size), n - 1)]
    return index


def _distances(alphas: NDArray[np.floating]) -> Array:
    """Distances [N, N] of positions [N, 3]."""
    alphas = np.asarray(alphas, dtype=np.float64)
    return np.linalg.norm(alphas[:, None] - alphas[None], axis=-1)


def _second_derivatives(alphas: NDArray[np.floating], springs: Array) -> Array:
    """Hessian [3N, 3N] of harmonic springs [N, N] at rest between positions [N, 3]; the diagonal counts for nothing."""
    n = len(alphas)
    difference = np.asarray(alphas, dtype=np.float64)[:, None] - alphas[None]  # [N, N, 3]
    square = (difference**2).sum(-1)
    joined = (springs > 0) & ~np.eye(n, dtype=bool)
    weight = np.where(joined, springs / np.where(joined, square, 1.0), 0.0)
    # off-diagonal super-elements are minus the spring times the projector on the line between the two residues
    blocks = -weight[..., None, None] * difference[..., :, None] * difference[..., None, :]
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
