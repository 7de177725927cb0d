"""Least-squares superposition by quaternions (Horn 1987, J. Opt. Soc. Am. A 4, 629), for GPUs.

A GPU reports to the CPU whether a singular value decomposition converged, and the CPU waits for it at every call. Here
are matrix products alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openmm_starmd.devices import constant

SQUARINGS = 24
"""How often a matrix is squared: eigenvalues that differ by a millionth of the largest are told apart."""
_NORMALISE = 8  # so many squarings stay in the range of float64

# R = _LINEAR of q qᵀ for a unit quaternion q (w, x, y, z): terms (row, column of q qᵀ, factor) of each entry of R
_LINEAR = {
    (0, 0): ((0, 0, 1), (1, 1, 1), (2, 2, -1), (3, 3, -1)),
    (0, 1): ((1, 2, 2), (0, 3, -2)),
    (0, 2): ((1, 3, 2), (0, 2, 2)),
    (1, 0): ((1, 2, 2), (0, 3, 2)),
    (1, 1): ((0, 0, 1), (1, 1, -1), (2, 2, 1), (3, 3, -1)),
    (1, 2): ((2, 3, 2), (0, 1, -2)),
    (2, 0): ((1, 3, 2), (0, 2, -2)),
    (2, 1): ((2, 3, 2), (0, 1, 2)),
    (2, 2): ((0, 0, 1), (1, 1, -1), (2, 2, -1), (3, 3, 1)),
}


@constant
def _linear(device: torch.device) -> Tensor:
    """From q qᵀ to the rotation, [16, 9], float64, symmetric in q qᵀ."""
    table = torch.zeros(4, 4, 3, 3, dtype=torch.float64)
    for (i, j), terms in _LINEAR.items():
        for k, m, factor in terms:
            table[k, m, i, j] += factor / 2
            table[m, k, i, j] += factor / 2
    return table.reshape(16, 9).to(device)


def rotation_by_quaternion(covariance: Tensor) -> Tensor:
    """Rotation that superposes centred points.

    It maximises ``Σ target · R mobile``, which is linear in R, so a quadratic form in the quaternion: this is the
    eigenvector of the form's largest eigenvalue. Squaring the form's matrix again and again, with its eigenvalues moved
    above zero, leaves the projector on that. In float64, whatever comes in.

    Parameters
    ----------
    covariance : Tensor [..., 3, 3]
        Σ mobile targetᵀ over the points.

    Returns
    -------
    Tensor [..., 3, 3]
        Proper rotation; one of the best where there are several, and the identity for a single point.
    """
    linear = _linear(covariance.device)
    form = (covariance.double().transpose(-1, -2).flatten(-2) @ linear.T).unflatten(-1, (4, 4))
    # the eigenvalues add up to zero and none is larger than the norm: moved and scaled they lie between 0 and 2
    norm = form.flatten(-2).norm(dim=-1).clamp(min=1e-30)[..., None, None]
    power = form / norm + torch.eye(4, dtype=form.dtype, device=form.device)
    for number in range(1, SQUARINGS + 1):
        power = power @ power
        if number % _NORMALISE == 0:
            power = power / power.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    # each column of the projector is the eigenvector times one of its own numbers: the longest is the most exact
    longest = power.diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None]
    quaternion = torch.take_along_dim(power, longest, dim=-1)  # [..., 4, 1]
    quaternion = quaternion / quaternion.norm(dim=-2, keepdim=True)
    projector = quaternion * quaternion.transpose(-1, -2)
    return (projector.flatten(-2) @ linear).unflatten(-1, (3, 3)).to(covariance.dtype)
