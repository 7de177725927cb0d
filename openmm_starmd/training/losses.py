"""Losses on predicted clean frames: pure functions, one value per frame, lengths in nm unless said otherwise.

Every function returns ``[...]`` for inputs ``[..., N]``, so that the caller decides which frames count.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from openmm_starmd.diffusion import igso3
from openmm_starmd.diffusion.schedule import Schedule
from openmm_starmd.geometry.heavy_atoms import HeavyAtoms, heavy_atoms, present_index, symmetric_torsions
from openmm_starmd.geometry.residues import BOND_LENGTHS, CARBONYL_ANGLE, CARBONYL_LENGTH
from openmm_starmd.geometry.rigid import Rigids, backbone_from_rigids
from openmm_starmd.geometry.so3 import log_map

FAPE_CLAMP = 1.0  # nm
FAPE_SCALE = 1.0  # nm
CONTACT = 0.6  # nm, pairs of the distance map
SOFT = 1e-4  # nm, added to lengths in quadrature, so that they have a gradient at zero
CLASH = 0.36  # nm; MD keeps non-neighbouring CA further apart, and a frame with a pair under 0.30 is not valid


def _length(vectors: Tensor) -> Tensor:
    """Length of ``[..., 3]``, nm, at least SOFT, with a gradient everywhere."""
    return (vectors.square().sum(-1) + SOFT**2).sqrt()


def standardized_error(
    predicted: Rigids, truth: Rigids, scale_translation: Tensor, scale_rotation: Tensor
) -> tuple[Tensor, Tensor]:
    """Squared errors of translations and rotations in units of what is unknowable at each noise level.

    With the scales of :func:`openmm_starmd.model.frames.initial_estimate` this is the loss of Karras et al. (2022,
    arXiv 2206.00364, eq. 8): weight 1/c_out², of order one at every noise level.

    Parameters
    ----------
    predicted, truth : Rigids [..., N]
    scale_translation, scale_rotation : Tensor [...]
        nm and rad.

    Returns
    -------
    (Tensor [...], Tensor [...])
        Translation and rotation error, mean over residues and coordinates.
    """
    shift = (predicted.translations - truth.translations).square().mean((-1, -2)) / scale_translation.square()
    turn = log_map(predicted.rotations.transpose(-1, -2) @ truth.rotations).square().mean((-1, -2))
    return shift, turn / scale_rotation.square()


def translation_score_loss(predicted: Tensor, truth: Tensor, tau: Tensor, schedule: Schedule) -> Tensor:
    """Error of the translation score over the expected squared norm of the score.

    The score is ``(α x̂_0 − x_τ)/σ²`` and the norm's expectation 3/σ² per residue, so that the ratio is
    ``α² |x̂_0 − x_0|² / (3 σ²)`` (FrameDiff, arXiv 2302.02277, section 4).

    Parameters
    ----------
    predicted, truth : Tensor [..., N, 3]
    tau : Tensor [...]
    schedule : Schedule

    Returns
    -------
    Tensor [...]
    """
    weight = (schedule.alpha(tau) / schedule.sigma_translation(tau)).square()
    return weight * (predicted - truth).square().mean((-1, -2))


def rotation_score_loss(
    noisy: Tensor, predicted: Tensor, truth: Tensor, tau: Tensor, schedule: Schedule, angle_above: float = 0.2
) -> Tensor:
    """Error of the rotation score over its expected squared norm, split in axis and angle.

    The axis part compares directions at the true angle and counts at every τ; the angle part compares the score's
    length along the axis and counts for τ above `angle_above`, where it does not explode.

    Parameters
    ----------
    noisy, predicted, truth : Tensor [..., N, 3, 3]
    tau : Tensor [...]
    schedule : Schedule
    angle_above : float

    Returns
    -------
    Tensor [...]
    """
    sigma = schedule.sigma_rotation(tau)[..., None]
    true_vector = log_map(truth.transpose(-1, -2) @ noisy)
    vector = log_map(predicted.transpose(-1, -2) @ noisy)
    true_angle = true_vector.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    angle = (vector.square().sum(-1, keepdim=True) + 1e-12).sqrt()
    norm = igso3.score_norm_squared(sigma)
    true_score = igso3.score(true_vector, sigma)
    # same length, predicted direction: the axis alone
    length = true_score.norm(dim=-1, keepdim=True)
    axis_error = (length * (vector / angle - true_vector / true_angle)).square().sum(-1) / norm
    turned = true_vector / true_angle * angle
    angle_error = (igso3.score(turned, sigma) - true_score).square().sum(-1) / norm
    return axis_error.mean(-1) + (tau > angle_above) * angle_error.mean(-1)


def torsion_loss(predicted: Tensor, norms: Tensor, truth: Tensor, mask: Tensor, symmetric: Tensor) -> Tensor:
    """Squared error of (sin, cos) with π-periodic χ compared to the nearer of both names, plus a term for the norms.

    Parameters
    ----------
    predicted : Tensor [..., N, K, 2]
        Sine and cosine.
    norms : Tensor [..., N, K]
        Length of the raw vectors (AlphaFold 2, supplementary algorithm 27, weight 0.02).
    truth : Tensor [..., N, K]
        Radians.
    mask, symmetric : Tensor [N, K], bool

    Returns
    -------
    Tensor [...]
    """
    target = torch.stack([truth.sin(), truth.cos()], dim=-1)
    error = (predicted - target).square().sum(-1)
    other = (predicted + target).square().sum(-1)
    error = torch.where(symmetric, torch.minimum(error, other), error)
    weight = mask.to(error.dtype)
    return ((error + 0.02 * (norms - 1).abs()) * weight).sum((-1, -2)) / weight.sum().clamp(min=1)


def frame_aligned_point_error(predicted: Rigids, truth: Rigids, points: Tensor, true_points: Tensor) -> Tensor:
    """FAPE (Jumper et al. 2021, supplementary algorithm 28), clamped at 10 Å and divided by 10 Å.

    Parameters
    ----------
    predicted, truth : Rigids [..., N]
        Axes that the points are seen in.
    points, true_points : Tensor [..., P, 3]

    Returns
    -------
    Tensor [...]
    """
    # R'(x - t) - S'(y - u) of all rigids and points as one product [P, 6] @ [6, 3 N], so that the difference is the
    # only array of size N P. Points are centred first, for precision.
    center, true_center = points.mean(-2, keepdim=True), true_points.mean(-2, keepdim=True)
    both = torch.cat([points - center, true_points - true_center], dim=-1)
    axes = torch.cat([predicted.rotations, -truth.rotations], dim=-2)  # [..., N, 6, 3]
    origins = torch.cat([predicted.translations - center, truth.translations - true_center], dim=-1)
    shift = (origins[..., None, :] @ axes).squeeze(-2)  # [..., N, 3]
    difference = (both @ axes.movedim(-3, -2).flatten(-2)).unflatten(-1, (-1, 3)) - shift[..., None, :, :]
    return (_length(difference) - SOFT).clamp(max=FAPE_CLAMP).mean((-1, -2)) / FAPE_SCALE


def sidechain_fape(
    predicted: Rigids,
    truth: Rigids,
    torsions: Tensor,
    true_torsions: Tensor,
    types: Tensor,
    mask: Tensor,
    present: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """FAPE of all heavy atoms seen from all rigid groups of the residues, the backbone's and each torsion's.

    Both sides are built with ideal geometry, so that errors of rigids and torsions are all that counts. Where a turn of
    the last χ by π only exchanges names, the truth under the name nearer to the prediction is compared to.

    Parameters
    ----------
    predicted, truth : Rigids [..., N]
    torsions : Tensor [..., N, 5, 2]
        Predicted sine and cosine of ψ and χ1..4, unit length.
    true_torsions : Tensor [..., N, 5]
        Radians.
    types : Tensor [N], int64
    mask : Tensor [N, 5], bool
        True torsions that exist. Atoms and groups that hang on others are left out.
    present : tuple of Tensor, optional
        Those groups and atoms, as :func:`openmm_starmd.geometry.heavy_atoms.present_index` gives them.

    Returns
    -------
    Tensor [...]
    """
    target = torch.stack([true_torsions.sin(), true_torsions.cos()], dim=-1)
    other_name = symmetric_torsions(types)[..., None] & ((torsions.detach() * target).sum(-1, keepdim=True) < 0)
    target = torch.where(other_name, -target, target)
    built, true = heavy_atoms(predicted, types, torsions), heavy_atoms(truth, types, target)
    groups, atoms = present_index(types, mask) if present is None else present

    def chosen(x: HeavyAtoms) -> tuple[Rigids, Tensor]:
        axes = x.groups.rotations.flatten(-4, -3).index_select(-3, groups)
        origins = x.groups.translations.flatten(-3, -2).index_select(-2, groups)
        return Rigids(axes, origins), x.atoms.flatten(-3, -2).index_select(-2, atoms)

    (axes, points), (true_axes, true_points) = chosen(built), chosen(true)
    return frame_aligned_point_error(axes, true_axes, points, true_points)


def backbone_atoms(rigids: Rigids, psi: Tensor | None = None) -> Tensor:
    """N, CA, C and, with ψ given, O of each residue.

    Parameters
    ----------
    rigids : Rigids [..., N]
    psi : Tensor [..., N, 2], optional
        Sine and cosine of ψ.

    Returns
    -------
    Tensor [..., N, 3 or 4, 3]
    """
    atoms = backbone_from_rigids(rigids)
    if psi is None:
        return atoms
    # O lies opposite the next N, hence ψ + 180° about CA→C
    bend = math.radians(180 - CARBONYL_ANGLE)
    c = BOND_LENGTHS["CA-C"] + CARBONYL_LENGTH * math.cos(bend)
    radius = CARBONYL_LENGTH * math.sin(bend)
    # N lies at azimuth 0 (+y) about x; azimuths grow from y towards z
    sine, cosine = -psi[..., 0], -psi[..., 1]
    local = torch.stack([torch.full_like(sine, c), radius * cosine, radius * sine], dim=-1)
    return torch.cat([atoms, rigids.apply(local)[..., None, :]], dim=-2)


def coordinate_loss(points: Tensor, true_points: Tensor) -> Tensor:
    """Mean squared error of atoms [..., N, A, 3] in Å²; ``[...]``."""
    return 100 * (points - true_points).square().sum(-1).mean((-1, -2))


def distance_map_loss(points: Tensor, true_points: Tensor, contact: float = CONTACT) -> Tensor:
    """Squared error of the distances of all atom pairs that are truly within `contact`, in Å².

    Parameters
    ----------
    points, true_points : Tensor [..., N, A, 3]
    contact : float
        nm.

    Returns
    -------
    Tensor [...]
    """
    flat, true_flat = points.flatten(-3, -2), true_points.flatten(-3, -2)
    distance = _length(flat[..., :, None, :] - flat[..., None, :, :])
    true_distance = _length(true_flat[..., :, None, :] - true_flat[..., None, :, :])
    others = ~torch.eye(flat.shape[-2], dtype=torch.bool, device=flat.device)
    near = ((true_distance < contact) & others).to(distance.dtype)
    return 100 * ((distance - true_distance).square() * near).sum((-1, -2)) / near.sum((-1, -2)).clamp(min=1)


def clash_loss(alphas: Tensor) -> Tensor:
    """Squared overlaps of CA pairs that are no neighbours in the chain, summed and divided by the residues, in Å².

    Parameters
    ----------
    alphas : Tensor [..., N, 3]

    Returns
    -------
    Tensor [...]
        Zero where no such pair is nearer than 3.6 Å.
    """
    count = alphas.shape[-2]
    difference = alphas[..., :, None, :] - alphas[..., None, :, :]
    distance = _length(difference)
    number = torch.arange(count, device=alphas.device)
    apart = (number[:, None] - number[None]).abs() >= 2
    overlap = (10 * (CLASH - distance)).clamp(min=0).square() * apart
    return overlap.sum((-1, -2)) / count
