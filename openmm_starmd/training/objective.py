"""One training pass: noise a batch of windows, predict all frames at once, weigh the losses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from openmm_starmd.data.batches import Batch
from openmm_starmd.diffusion import igso3
from openmm_starmd.diffusion.process import centred, forward_noise
from openmm_starmd.geometry.rigid import Rigids
from openmm_starmd.geometry.so3 import exp_map
from openmm_starmd.model.frames import Frames, with_expected
from openmm_starmd.model.masks import block_causal_mask
from openmm_starmd.model.network import Network, Prediction
from openmm_starmd.randomness import Draw, draw_together, keyed_generator, normal, uniform
from openmm_starmd.training import losses
from openmm_starmd.training.settings import ObjectiveSettings


@dataclass(frozen=True)
class NoisedBatch:
    """Inputs of one training pass.

    Attributes
    ----------
    frames : Frames
        Clean copies of frames 0..L-1, then noisy copies of frames 1..L-1.
    truth : Rigids [B, L - 1, N]
    tau : Tensor [B, L - 1]
        Of the noisy copies.
    """

    frames: Frames
    truth: Rigids
    tau: Tensor


def training_draws(length: int, residues: int) -> dict[str, Draw]:
    """What is drawn for a window of L frames of N residues, in this order, which decides the numbers."""
    later = length - 1
    return {
        # contextual noise and jitter of the clean copies
        "highest": uniform(1),
        "level": uniform(length),
        "noised": uniform(1),
        "angle": uniform(length, residues),
        "axis": normal(length, residues, 3),
        "jittered": uniform(length, 1, 1),
        "jitter": uniform(length, 1, 1),
        "turn": normal(length, residues, 3),
        "shift": normal(length, residues, 3),
        "translation": normal(length, residues, 3),
        # diffusion times and noise of the noisy copies
        "log_tau": uniform(later),
        "tau": uniform(later),
        "which": uniform(later),
        "target angle": uniform(later, residues),
        "target axis": normal(later, residues, 3),
        "target translation": normal(later, residues, 3),
        # drawn last, so that windows without an end of high noise have the numbers they had
        "lowered": uniform(later),
        "lowered log_tau": uniform(later),
    }


def noise_batch(batch: Batch, network: Network, settings: ObjectiveSettings) -> NoisedBatch:
    """Draw diffusion times and noise, keyed by ``batch.key`` and the number of the window in the batch.

    Parameters
    ----------
    batch : Batch
    network : Network
        For its schedule.
    settings : ObjectiveSettings

    Returns
    -------
    NoisedBatch
        On the device of the batch.
    """
    schedule = network.config.schedule
    samples, length, residues = batch.rigids.translations.shape[:3]
    device, dtype = batch.rigids.translations.device, batch.rigids.translations.dtype
    generators = [keyed_generator("training noise", *batch.key, window) for window in range(samples)]
    draws = draw_together(generators, training_draws(length, residues), device, dtype)

    # one upper level per window: in a rollout all levels come from the same narrow range
    context = settings.context_tau * draws["highest"] * draws["level"]
    context = torch.where(draws["noised"] < settings.context_probability, context, torch.zeros_like(context))
    sigma = schedule.sigma_rotation(context)[..., None].expand(samples, length, residues)
    rotation_noise = igso3.sample(sigma, draws["angle"], draws["axis"]).to(dtype)
    identity = torch.eye(3, device=device, dtype=dtype)
    rotation_noise = torch.where((context > 0)[..., None, None, None], rotation_noise, identity)
    jittered = (draws["jittered"] < settings.jitter_probability).to(dtype) * draws["jitter"]
    history = Rigids(
        batch.rigids.rotations @ exp_map(settings.jitter_rotation * jittered * draws["turn"]),
        batch.rigids.translations + settings.jitter_translation * jittered * draws["shift"],
    )
    noise = centred(draws["translation"]) if network.config.centred_noise else draws["translation"]
    clean = forward_noise(history, context, noise, rotation_noise, schedule)

    truth = batch.rigids.map(lambda x: x[:, 1:])
    later = length - 1
    log_tau = math.log(settings.tau_min) * draws["log_tau"]
    flat = settings.tau_min + (1 - settings.tau_min) * draws["tau"]
    tau = torch.where(draws["which"] < settings.log_uniform, log_tau.exp(), flat)
    step = batch.key[1]
    if settings.high_steps and step >= settings.high_steps:
        low = math.log(settings.high_tau) + math.log(settings.tau_min / settings.high_tau) * draws["lowered log_tau"]
        lowered = (tau > settings.high_tau) & (draws["lowered"] >= settings.high_share)
        tau = torch.where(lowered, low.exp(), tau)
    sigma = schedule.sigma_rotation(tau)[..., None].expand(samples, later, residues)
    rotation_noise = igso3.sample(sigma, draws["target angle"], draws["target axis"]).to(dtype)
    noise = draws["target translation"]
    if network.config.centred_noise:
        noise = centred(noise)
    noisy = forward_noise(truth, tau, noise, rotation_noise, schedule)

    undone = Rigids(clean.rotations, clean.translations / schedule.alpha(context)[..., None, None])
    anchor = undone.map(lambda x: torch.cat([x[:, :1], x[:, :-1], x[:, :-1]], dim=1))
    anchor_context = torch.cat([context[:, :1], context[:, :-1], context[:, :-1]], dim=1)
    number = torch.arange(length, device=device)
    frames = Frames(
        rigids=Rigids(*(torch.cat(pair, dim=1) for pair in zip(clean, noisy, strict=True))),
        anchor=anchor,
        tau=torch.cat([context, tau], dim=1),
        anchor_tau=anchor_context,
        stride=torch.cat([batch.stride, batch.stride[:, 1:]], dim=1),
        index=torch.cat([number, number[1:]]),
        noisy=torch.arange(2 * length - 1, device=device) >= length,
        anchored=torch.cat([number > 0, number[1:] > 0]),
    )
    return NoisedBatch(frames, truth, tau)


def training_pass(network: Network, batch: Batch, noised: NoisedBatch) -> Prediction:
    """Predict the noisy copies of a batch in one block-causal pass; the prediction holds those frames only."""
    length, residues = batch.rigids.translations.shape[1:3]
    mask = block_causal_mask(length, residues, batch.rigids.translations.device)
    condition, frames = network.condition(batch.features), noised.frames
    if condition.elastic is not None:
        frames = with_expected(frames, condition.elastic, network.config, length)
    return network(condition, frames, mask).frames(length)


def loss_terms(
    network: Network, batch: Batch, noised: NoisedBatch, prediction: Prediction, settings: ObjectiveSettings
) -> dict[str, Tensor]:
    """Every loss with a weight, per frame [B, L - 1]."""
    schedule = network.config.schedule
    predicted, truth, tau = prediction.rigids, noised.truth, noised.tau
    scale = prediction.estimate.scale_translation
    names = dict(settings.weights)
    sharp = (tau <= settings.geometry_tau).to(tau.dtype)
    terms: dict[str, Tensor] = {}
    if names.keys() & {"translation", "rotation"}:
        terms["translation"], terms["rotation"] = losses.standardized_error(
            predicted, truth, scale, prediction.estimate.scale_rotation
        )
    if "translation_score" in names:
        terms["translation_score"] = losses.translation_score_loss(
            predicted.translations, truth.translations, tau, schedule
        )
    if "rotation_score" in names:
        rotations = noised.frames.rigids.rotations[:, -tau.shape[1] :]
        terms["rotation_score"] = losses.rotation_score_loss(
            rotations, predicted.rotations, truth.rotations, tau, schedule
        )
    if "torsion" in names:
        terms["torsion"] = losses.torsion_loss(
            prediction.torsions,
            prediction.torsion_norms,
            batch.torsions[:, 1:],
            batch.torsion_mask,
            batch.torsion_symmetric,
        )
    if "fape" in names:
        terms["fape"] = sharp * losses.frame_aligned_point_error(
            predicted,
            truth,
            losses.backbone_atoms(predicted).flatten(-3, -2),
            losses.backbone_atoms(truth).flatten(-3, -2),
        )
    if "sidechain_fape" in names:
        terms["sidechain_fape"] = sharp * losses.sidechain_fape(
            predicted,
            truth,
            prediction.torsions,
            batch.torsions[:, 1:],
            batch.features.residue_types,
            batch.torsion_mask,
            batch.present,
        )
    if "clash" in names:
        terms["clash"] = sharp * losses.clash_loss(predicted.translations)
    if "distance" in names:
        points, true_points = losses.backbone_atoms(predicted), losses.backbone_atoms(truth)
        # over the spread that the noise leaves, like the standardised errors
        terms["distance"] = sharp * losses.distance_map_loss(points, true_points) / (10 * scale).square()
    if names.keys() & {"coordinates", "distance_low"}:
        psi = batch.torsions[:, 1:, :, 0]
        true_psi = torch.stack([psi.sin(), psi.cos()], dim=-1)
        # the last residue of a chain has no ψ: its O must not teach the network one
        psi_known = batch.torsion_mask[:, 0, None]
        points = losses.backbone_atoms(predicted, torch.where(psi_known, prediction.torsions[..., 0, :], true_psi))
        true_points = losses.backbone_atoms(truth, true_psi)
        low = (tau <= 0.25).to(points.dtype)
        terms["coordinates"] = low * losses.coordinate_loss(points, true_points)
        terms["distance_low"] = low * losses.distance_map_loss(points, true_points)
    return terms


def objective_sums(network: Network, batch: Batch, settings: ObjectiveSettings) -> tuple[dict[str, Tensor], Tensor]:
    """Every loss summed over the frames that may be predicted, and the number of these.

    Sums, not means, so that batches of unequal size that share a training step can be divided by their common count.

    Parameters
    ----------
    network : Network
    batch : Batch
    settings : ObjectiveSettings

    Returns
    -------
    sums : dict of str to Tensor
        Scalars, unweighted.
    count : Tensor
        Scalar.
    """
    device = batch.rigids.translations.device.type
    mixed = torch.is_autocast_enabled(device)
    # noise and losses are geometry: single precision, whatever the network runs in
    with torch.autocast(device, enabled=False):
        noised = noise_batch(batch, network, settings)
        with torch.autocast(device, enabled=mixed):
            prediction = training_pass(network, batch, noised)
        counted = batch.target[:, 1:].to(noised.tau.dtype)
        terms = loss_terms(network, batch, noised, prediction, settings)
        return {name: (value * counted).sum() for name, value in terms.items()}, counted.sum()


def weighted(terms: Mapping[str, Tensor], settings: ObjectiveSettings) -> Tensor:
    """The losses of `settings` with their weights, added up."""
    return torch.stack([weight * terms[name] for name, weight in settings.weights]).sum()


def objective(network: Network, batch: Batch, settings: ObjectiveSettings) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted loss of a batch and its terms, averaged over the frames that may be predicted.

    Parameters
    ----------
    network : Network
    batch : Batch
    settings : ObjectiveSettings

    Returns
    -------
    total : Tensor
        Scalar.
    terms : dict of str to Tensor
        Scalars, unweighted.
    """
    sums, count = objective_sums(network, batch, settings)
    terms = {name: value / count.clamp(min=1) for name, value in sums.items()}
    return weighted(terms, settings), terms
