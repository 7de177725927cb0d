"""The frames a network call sees: poses, noise levels and strides, and the Gaussian posterior of the anchored form."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from openmm_starmd.diffusion.schedule import Schedule
from openmm_starmd.geometry.rigid import Rigids, superpose
from openmm_starmd.geometry.so3 import exp_map, log_map
from openmm_starmd.model.config import ModelConfig
from openmm_starmd.model.elastic import LEFT_OVER, RIGID, ElasticModel, Expected

NEIGHBOURHOODS = (0.6, 1.2)
"""Radii of the Gaussian neighbourhoods over which noisy displacements are averaged, nm."""


@dataclass(frozen=True)
class Frames:
    """F frames of B samples, noisy or clean copies alike.

    Attributes
    ----------
    rigids : Rigids [B, F, N]
        Noisy poses; translations as the forward process leaves them (shrunk by α), nm.
    anchor : Rigids [B, F, N]
        Pose of the history frame before each frame, as noised by contextual noise and with its shrinking undone.
        The frame's own pose where there is none.
    tau : Tensor [B, F]
        Diffusion time of each frame; 0 for a frame without noise.
    anchor_tau : Tensor [B, F]
        Diffusion time of the anchor's contextual noise.
    stride : Tensor [B, F]
        Physical time since the anchor, ps. The network takes what is longer than its longest stride for that.
    index : Tensor [F], int64
        Frame index for RoPE; copies of one frame share it.
    noisy : Tensor [F], bool
        True for a frame to be predicted, False for a frame of the history.
    anchored : Tensor [F], bool
        False for a frame with no frame before it.
    expected : Expected, optional
        What an elastic prior expects of each frame; needed by networks that have one.
    """

    rigids: Rigids
    anchor: Rigids
    tau: Tensor
    anchor_tau: Tensor
    stride: Tensor
    index: Tensor
    noisy: Tensor
    anchored: Tensor
    expected: Expected | None = None


@dataclass(frozen=True)
class Estimate:
    """Where the clean-frame estimate starts and how far updates reach.

    Attributes
    ----------
    rigids : Rigids [B, F, N]
    scale_translation, scale_rotation : Tensor [B, F]
        Standard deviation left per coordinate, nm and rad: the unit of the network's updates and of its losses.
    pose : Tensor [B, F, N, 12 or 17]
        The noisy pose seen from the anchor in units of its own spread, and the noisy displacement averaged over
        neighbourhoods of two sizes. With an elastic prior, see :func:`elastic_estimate`.
    scale_residue : Tensor [B, F, N], optional
        Of translations, for each residue, where the unit of updates is not that of the losses.
    """

    rigids: Rigids
    scale_translation: Tensor
    scale_rotation: Tensor
    pose: Tensor
    scale_residue: Tensor | None = None

    def frames(self, begin: int) -> Estimate:
        """The frames from `begin` on."""
        return Estimate(
            self.rigids.map(lambda x: x[:, begin:]),
            self.scale_translation[:, begin:],
            self.scale_rotation[:, begin:],
            self.pose[:, begin:],
            None if self.scale_residue is None else self.scale_residue[:, begin:],
        )


def displacement_spread(stride: Tensor, config: ModelConfig) -> tuple[Tensor, Tensor]:
    """Spread per coordinate of a residue's motion over `stride` ps: translations in nm, rotation vectors in rad."""
    growth = stride**config.displacement_exponent
    return (
        (config.displacement * growth).clamp(max=config.displacement_max),
        (config.turn * growth).clamp(max=config.turn_max),
    )


def initial_estimate(frames: Frames, config: ModelConfig) -> Estimate:
    """Start of the clean-frame estimate.

    In the anchored form the prior of a clean frame is a Gaussian of the stride's spread d around the anchor, so that
    its posterior given the noisy frame (noise s) has mean ``anchor + d²/(d² + s²) (noisy − anchor)`` and standard
    deviation ``s d / sqrt(s² + d²)``, for translations and for rotation vectors alike. This is the preconditioning of
    Karras et al. (2022, arXiv 2206.00364) with the anchor as the data's mean. In the paper's form the estimate
    starts from the noisy frame itself, and updates are in Å and rad.

    Parameters
    ----------
    frames : Frames
    config : ModelConfig

    Returns
    -------
    Estimate
    """
    schedule = config.schedule
    tau = frames.tau
    alpha = schedule.alpha(tau)[..., None, None]
    if not config.anchored:
        ones = torch.ones_like(tau)
        pose = torch.zeros(*frames.rigids.translations.shape[:-1], 12, dtype=tau.dtype, device=tau.device)
        return Estimate(frames.rigids, 0.1 * ones, ones, pose)

    anchor = frames.anchor
    noisy = Rigids(frames.rigids.rotations, frames.rigids.translations / alpha)
    noise = schedule.sigma_translation(tau) / schedule.alpha(tau)
    # the rotations' schedule has σ_min > 0 at τ = 0, but a history frame at τ = 0 carries no noise at all
    turn_noise = schedule.sigma_rotation(tau).masked_fill(tau <= 0, 0.0)
    spread, turn = displacement_spread(frames.stride.clamp(max=config.stride_max), config)
    anchor_noise = schedule.sigma_translation(frames.anchor_tau) / schedule.alpha(frames.anchor_tau)
    anchor_turn = schedule.sigma_rotation(frames.anchor_tau).masked_fill(frames.anchor_tau <= 0, 0.0)
    spread, turn = (spread**2 + anchor_noise**2).sqrt(), (turn**2 + anchor_turn**2).sqrt()

    relative = noisy.relative_to(anchor)
    shift, angle = relative.translations, log_map(relative.rotations)  # in the anchor's axes
    keep, keep_turn = spread**2 / (spread**2 + noise**2), turn**2 / (turn**2 + turn_noise**2)
    blended = anchor.compose(Rigids(exp_map(keep_turn[..., None, None] * angle), keep[..., None, None] * shift))
    # The update's scale has a floor, so that frames of the history without noise still have finite updates.
    scale = (noise * spread / (noise**2 + spread**2).sqrt()).clamp(min=1e-3)
    scale_turn = (turn_noise * turn / (turn_noise**2 + turn**2).sqrt()).clamp(min=1e-2)
    width = (spread**2 + noise**2).sqrt()[..., None, None]
    width_turn = (turn**2 + turn_noise**2).sqrt()[..., None, None]
    averages = neighbourhood_averages(noisy.translations - anchor.translations, anchor, spread, noise)
    pose = torch.cat([shift / width, angle / width_turn, *averages], dim=-1)
    return Estimate(blended, scale, scale_turn, pose * frames.anchored[:, None, None].to(pose.dtype))


ELASTIC_POSE = 17
"""Numbers of a residue's pose with an elastic prior."""


def noise_variances(tau: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor]:
    """Variances of the noise at diffusion times [...], its shrinking undone: translations in nm², turns in rad²."""
    noise = (schedule.sigma_translation(tau) / schedule.alpha(tau)).square()
    # the rotations' schedule has σ_min > 0 at τ = 0, but a history frame at τ = 0 carries no noise at all
    return noise, schedule.sigma_rotation(tau).masked_fill(tau <= 0, 0.0).square()


def undone(frames: Frames, config: ModelConfig, end: int) -> tuple[Rigids, Tensor, Tensor]:
    """The first `end` frames with the shrinking of their noise undone, and its variances [B, F] in nm² and rad²."""
    tau = frames.tau[:, :end]
    alpha = config.schedule.alpha(tau)
    rigids = Rigids(frames.rigids.rotations[:, :end], frames.rigids.translations[:, :end] / alpha[..., None, None])
    return rigids, *noise_variances(tau, config.schedule)


@torch.no_grad()
def with_expected(frames: Frames, elastic: ElasticModel, config: ModelConfig, length: int) -> Frames:
    """Frames of a training pass, clean copies 0..L-1 and noisy copies 1..L-1, with what is expected of each.

    Parameters
    ----------
    frames : Frames
        2 L - 1 of them.
    elastic : ElasticModel
    config : ModelConfig
    length : int
        L.

    Returns
    -------
    Frames
    """
    # positions do not fit the half precision that a network may run in
    with torch.autocast(frames.tau.device.type, enabled=False):
        history, noise, turn_noise = undone(frames, config, length)
        gaps = frames.stride[:, :length]
        clock = torch.cat([torch.zeros_like(gaps[:, :1]), gaps[:, 1:]], dim=1).cumsum(1)
        expected = [elastic.without_history(history.map(lambda x: x[:, :1]), gaps[:, :1])]
        for number in range(1, length):
            before = history.map(lambda x: x[:, :number])  # noqa: B023
            ages = clock[:, number : number + 1] - clock[:, :number]
            expected.append(elastic.expected(before, ages, noise[:, :number], turn_noise[:, :number]))
        return replace(frames, expected=Expected.joined([*expected, *expected[1:]]))


def elastic_estimate(frames: Frames, elastic: ElasticModel, config: ModelConfig) -> Estimate:
    """Start of the clean-frame estimate with an elastic prior.

    The posterior of the expected Gaussian given the noisy frame, mode by mode: with variance D along a mode and s of
    the noise, ``mean + D / (D + s) (noisy − mean)`` and variance ``D s / (D + s)`` are left, the Wiener filter.

    Parameters
    ----------
    frames : Frames
        With `expected`.
    elastic : ElasticModel
    config : ModelConfig

    Returns
    -------
    Estimate
        `pose` holds, in each residue's own axes: noisy displacement and turn in units of their spread, displacement of
        the estimate and of the mean in units of the prior's, mean turn in those of its own, and the logarithms of the
        prior's spread and of the residue's share in what is left.
    """
    expected, schedule, tau, anchor = frames.expected, config.schedule, frames.tau, frames.anchor
    if expected is None:
        raise ValueError("frames without what is expected of them: a network with an elastic prior needs it")
    alpha = schedule.alpha(tau)
    noise, turn_noise = noise_variances(tau, schedule)
    noisy = Rigids(frames.rigids.rotations, frames.rigids.translations / alpha[..., None, None])
    inverse = anchor.rotations.transpose(-1, -2)
    vectors = elastic.vectors.transpose(-1, -2)  # [B, K, 3N]

    displacement = noisy.translations - anchor.translations
    centred = (displacement[..., None, :] @ expected.axes).squeeze(-2) - expected.mean
    flat = centred.flatten(-2)
    along = flat @ elastic.vectors
    variance, over = expected.variance, noise[..., None]
    soft = variance[..., :RIGID] if variance.shape[-1] else expected.turn_variance[..., None]
    rest = LEFT_OVER * soft.mean(-1)
    kept = (variance / (variance + over)) * along
    others = (rest / (rest + noise))[..., None] * (flat - along @ vectors)
    moved = (kept @ vectors + others).unflatten(-1, centred.shape[-2:]) + expected.mean
    squares = elastic.squares.transpose(-1, -2)  # [B, K, N]
    floor = RIGID / 3 * rest[..., None] / squares.shape[-1]  # they are few among all directions
    left = ((variance * over / (variance + over)) @ squares) / 3 + floor * (over / (rest[..., None] + over))
    prior = (variance @ squares) / 3 + floor
    scale = left.mean(-1).sqrt().clamp(min=1e-3)
    scale_residue = left.sqrt().clamp(min=1e-3)

    turn = log_map(inverse @ noisy.rotations)
    share = expected.turn_variance / (expected.turn_variance + turn_noise)
    turned = expected.turn_mean + share[..., None, None] * (turn - expected.turn_mean)
    scale_turn = (share * turn_noise).sqrt().clamp(min=1e-2)
    # both in the common axes, then in each residue's own
    common = (expected.axes @ moved[..., None]).squeeze(-1)
    shifts = torch.stack([displacement, common, (expected.axes @ expected.mean[..., None]).squeeze(-1)], dim=-1)
    own_noisy, own_moved, own_mean = (inverse @ shifts).unbind(-1)
    width = prior.sqrt()[..., None]
    turn_width = (expected.turn_variance + turn_noise).sqrt()[..., None, None]
    pose = torch.cat(
        [
            own_noisy / (prior + over).sqrt()[..., None],
            turn / turn_width,
            own_moved / width,
            own_mean / width,
            expected.turn_mean / expected.turn_variance.sqrt()[..., None, None],
            (width / 0.05).log(),
            (scale_residue / scale[..., None])[..., None].log(),
        ],
        dim=-1,
    )
    pose = 5 * torch.tanh(pose / 5) * frames.anchored[:, None, None].to(pose.dtype)
    blended = Rigids(anchor.rotations @ exp_map(turned), anchor.translations + common)
    return Estimate(blended, scale, scale_turn, pose, scale_residue)


def neighbourhood_averages(displacement: Tensor, anchor: Rigids, spread: Tensor, noise: Tensor) -> list[Tensor]:
    """Displacements averaged over Gaussian neighbourhoods of the anchor, in each residue's own axes.

    Collective motion is hidden in the noise of single residues long before it is in that of a neighbourhood, whose
    noise is smaller by the root of its size.

    Parameters
    ----------
    displacement : Tensor [B, F, N, 3]
        From anchor to noisy frame, nm.
    anchor : Rigids [B, F, N]
    spread, noise : Tensor [B, F]
        Standard deviations of true displacement and of noise, nm.

    Returns
    -------
    list of Tensor [B, F, N, 3]
        In units of their own spread, one for each of :data:`NEIGHBOURHOODS`.
    """
    difference = anchor.translations[..., :, None, :] - anchor.translations[..., None, :, :]
    squared = difference.square().sum(-1)
    averages = []
    for radius in NEIGHBOURHOODS:
        weight = torch.exp(squared / (-2 * radius**2))
        weight = weight / weight.sum(-1, keepdim=True)
        width = (spread.square()[..., None] + noise.square()[..., None] * weight.square().sum(-1)).sqrt()
        local = ((weight @ displacement)[..., None, :] @ anchor.rotations).squeeze(-2)
        averages.append(local / width[..., None])
    return averages


def deviation(rigids: Rigids, reference: Rigids) -> Tensor:
    """Pose of each residue seen from its pose in the superposed reference structure.

    Parameters
    ----------
    rigids : Rigids [B, F, N]
    reference : Rigids [N]

    Returns
    -------
    Tensor [B, F, N, 6]
        Translation in 0.1 nm and rotation vector in units of 0.3 rad, both in the reference residue's axes; squashed to
        +-5, so that a residue that has left the reference gives the same signal however far it is.
    """
    shape = rigids.translations.shape
    placed = Rigids(reference.rotations.expand(*shape, 3), reference.translations.expand(shape))
    relative = rigids.relative_to(superpose(placed, rigids.translations))
    values = torch.cat([relative.translations / 0.1, log_map(relative.rotations) / 0.3], dim=-1)
    return 5 * torch.tanh(values / 5)
