"""The denoising network: from noisy frames and a history to clean frames and torsions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from openmm_starmd.geometry.rigid import Rigids, cb_from_rigids
from openmm_starmd.geometry.so3 import exp_map, log_map
from openmm_starmd.model.attention import KVCache, RotaryAngles, SpaceTimeAttention, sharpness
from openmm_starmd.model.conditioner import Conditioner
from openmm_starmd.model.config import ModelConfig
from openmm_starmd.model.elastic import ElasticModel
from openmm_starmd.model.features import TORSIONS, Features
from openmm_starmd.model.frames import (
    ELASTIC_POSE,
    Estimate,
    Frames,
    deviation,
    elastic_estimate,
    initial_estimate,
)
from openmm_starmd.model.ipa import InvariantPointAttention
from openmm_starmd.model.layers import MLP, fourier, radial_basis
from openmm_starmd.model.masks import FrameMask
from openmm_starmd.model.openfold import OpenFoldConditioner

DISTANCE_BINS = 16
LARGEST_DISTANCE = 2.0  # nm
MODE_TIMES = (1.0, 10.0, 100.0)
"""Times over which features tell the width of motion, ps."""
MODE_WIDTHS = (0.03, 0.06, 0.09)
"""Usual widths of it per coordinate, nm."""


@dataclass(frozen=True)
class Condition:
    """Time-independent inputs of one protein, computed once per rollout.

    Where replicas have references of their own, all but `positions` begin with dimensions [B, 1].

    Attributes
    ----------
    s : Tensor [N, c_s]
    z : Tensor [N, N, c_z]
    positions : Tensor [N]
        Residue positions for RoPE.
    reference : Rigids [N]
    hide_deviation : bool
        As in :class:`openmm_starmd.model.features.Features`.
    elastic : ElasticModel, optional
        Of networks with an elastic prior.
    """

    s: Tensor
    z: Tensor
    positions: Tensor
    reference: Rigids
    hide_deviation: bool = False
    elastic: ElasticModel | None = None

    @classmethod
    def of_replicas(cls, conditions: Sequence[Condition]) -> Condition:
        """Conditions of one protein with references of their own, one a replica."""
        first = conditions[0]

        def stacked(parts: Sequence[Tensor]) -> Tensor:
            return torch.stack(list(parts))[:, None]

        reference = Rigids(*(stacked(part) for part in zip(*(c.reference for c in conditions), strict=True)))
        elastic = [c.elastic for c in conditions if c.elastic is not None]
        return cls(
            stacked([c.s for c in conditions]),
            stacked([c.z for c in conditions]),
            first.positions,
            reference,
            first.hide_deviation,
            ElasticModel.stacked(elastic) if elastic else None,
        )


@dataclass(frozen=True)
class Prediction:
    """What the network says of each frame.

    Attributes
    ----------
    rigids : Rigids [B, F, N]
        Predicted clean frames, nm.
    torsions : Tensor [B, F, N, 5, 2]
        Sine and cosine of ψ and χ1..4, unit length.
    torsion_norms : Tensor [B, F, N, 5]
        Length of the raw vectors, for the loss that keeps it near one.
    estimate : Estimate
        Where the estimate started; its scales are the units of the losses.
    """

    rigids: Rigids
    torsions: Tensor
    torsion_norms: Tensor
    estimate: Estimate

    def frames(self, begin: int) -> Prediction:
        """The frames from `begin` on."""
        return Prediction(
            self.rigids.map(lambda x: x[:, begin:]),
            self.torsions[:, begin:],
            self.torsion_norms[:, begin:],
            self.estimate.frames(begin),
        )


@dataclass(frozen=True)
class Pass:
    """What all blocks of one call of the network are given alike, beside what each hands on to the next.

    Attributes
    ----------
    estimate : Estimate
        Where the clean-frame estimate started; its scales are the units of the blocks' updates.
    condition : Tensor [B, F, c_s]
        Embedding of diffusion time, stride and kind of frame.
    rotary : RotaryAngles
        Of the F N tokens, frame by frame.
    mask : FrameMask, optional
        Which frame sees which.
    cache : KVCache, optional
        History to attend to as well.
    store : bool
        Whether the frames are appended to the cache.
    mixed : bool
        Whether attention over tokens and edges run under autocast.
    """

    estimate: Estimate
    condition: Tensor
    rotary: RotaryAngles
    mask: FrameMask | None
    cache: KVCache | None
    store: bool
    mixed: bool


class EdgeTransition(nn.Module):
    """z_ij ← z_ij + MLP(s_i, s_j, z_ij), without triangle operations."""

    def __init__(self, c_s: int, c_z: int) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(c_s, c_z, bias=False), nn.Linear(c_s, c_z)
        self.pair = nn.Linear(c_z, c_z, bias=False)
        self.out = nn.Linear(c_z, c_z)
        self.norm = nn.LayerNorm(c_z)

    def forward(self, s: Tensor, z: Tensor) -> Tensor:
        """Singles [..., N, c_s] and pairs [..., N, N, c_z] to pairs."""
        hidden = self.pair(z) + self.left(s)[..., :, None, :] + self.right(s)[..., None, :, :]
        return self.norm(z + self.out(nn.functional.gelu(hidden)))


class Block(nn.Module):
    """IPA within frames, space-time attention, edge transition, backbone update.

    Parameters
    ----------
    config : ModelConfig
    index : int
        Number of the block; its attention layers' places in the cache follow from it.
    """

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.ipa_norm = nn.LayerNorm(config.c_s)
        self.ipa = InvariantPointAttention(config)
        first = index * config.attention_layers
        self.attention = nn.ModuleList(
            SpaceTimeAttention(config, first + layer) for layer in range(config.attention_layers)
        )
        self.update_norm = nn.LayerNorm(config.c_s)
        self.update = nn.Linear(config.c_s, 6)
        nn.init.zeros_(self.update.weight)
        nn.init.zeros_(self.update.bias)
        # no later block reads the last one's pair features
        last = index == config.blocks - 1
        self.edges = None if last else EdgeTransition(config.c_s, config.c_z)

    def forward(self, s: Tensor, z: Tensor, rigids: Rigids, given: Pass) -> tuple[Tensor, Tensor, Rigids]:
        """One block over F frames.

        Parameters
        ----------
        s : Tensor [B, F, N, c_s]
        z : Tensor [B, F, N, N, c_z]
        rigids : Rigids [B, F, N]
            Present estimate of the clean frames, nm.
        given : Pass

        Returns
        -------
        s, z, rigids
            Of the same shapes.
        """
        dtype = s.dtype
        s = s + self.ipa(self.ipa_norm(s), z, rigids)
        with torch.autocast(s.device.type, enabled=given.mixed):
            for layer in self.attention:
                s = layer(s, given.condition, given.rotary, given.mask, given.cache, given.store)
            if self.edges is not None:
                z = self.edges(s, z)
        s, z = s.to(dtype), z.to(dtype)
        shift, turn = self.update(self.update_norm(s)).to(rigids.translations.dtype).split(3, dim=-1)
        estimate = given.estimate
        reach = estimate.scale_translation[..., None] if estimate.scale_residue is None else estimate.scale_residue
        step = Rigids(exp_map(estimate.scale_rotation[..., None, None] * turn), reach[..., None] * shift)
        return s, z, rigids.compose(step)


class ModeFeatures(nn.Module):
    """What the modes of an elastic prior tell of residues and pairs, zero-initialised.

    Parameters
    ----------
    config : ModelConfig
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.single = nn.Linear(len(MODE_TIMES), config.conditioner_s)
        self.pair = nn.Linear(2, config.conditioner_z)
        for layer in (self.single, self.pair):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, elastic: ElasticModel) -> tuple[Tensor, Tensor]:
        """Features of one protein.

        Parameters
        ----------
        elastic : ElasticModel
            Of N residues.

        Returns
        -------
        s : Tensor [N, conditioner_s]
            Of the log width of the motion over three times.
        z : Tensor [N, N, conditioner_z]
            Of the correlation of the motion over 10 ps, and of the slow motion.
        """
        residues = elastic.squares.shape[1]
        spreads = [elastic.spread(time)[0] for time in MODE_TIMES]  # [K] each
        widths = [(elastic.squares[0] @ spread / 3).clamp(min=1e-8).sqrt() for spread in spreads]
        single = torch.stack([2 * (width / usual).log() for width, usual in zip(widths, MODE_WIDTHS, strict=True)], -1)
        vectors = elastic.vectors[0].unflatten(0, (residues, 3))
        pairs = []
        for variance in (spreads[1], elastic.slow[0, :-1]):
            covariance = torch.einsum("iak,jak->ij", vectors * variance, vectors)
            size = covariance.diagonal().clamp(min=1e-10).sqrt()
            pairs.append(covariance / (size[:, None] * size))
        like = self.single.weight
        return self.single(single.to(like)), self.pair(torch.stack(pairs, dim=-1).to(like))


def kept_correction(tau: Tensor, correction: Sequence[tuple[float, float]]) -> Tensor:
    """Share of the correction at each τ, interpolated in ln τ between pairs of τ and share."""
    log_tau = tau.clamp(min=1e-8).log()
    share = torch.full_like(tau, correction[0][1])
    for (low, before), (high, after) in itertools.pairwise(correction):
        place = ((log_tau - math.log(low)) / math.log(high / low)).clamp(0, 1)
        share = share + (after - before) * place
    return share


class Network(nn.Module):
    """STAR-MD's network, in the paper's form or in the anchored form.

    Parameters
    ----------
    config : ModelConfig

    Attributes
    ----------
    checkpoint_blocks : bool
        Whether a training pass keeps only the inputs of each block and computes its inside again for the gradient: a
        third more time for memory that no longer grows with what happens inside the blocks.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpoint_blocks = False
        self.conditioner = Conditioner(config) if config.conditioner == "reference" else OpenFoldConditioner(config)
        self.single, self.pair = (
            nn.Linear(config.conditioner_s, config.c_s),
            nn.Linear(config.conditioner_z, config.c_z),
        )
        elastic = config.prior == "elastic"
        self.pose = nn.Linear(6 + (ELASTIC_POSE if elastic else 12), config.c_s)
        self.distance = nn.Linear(DISTANCE_BINS, config.c_z)
        self.pair_norm = nn.LayerNorm(config.c_z)
        self.kind = nn.Embedding(3, config.c_s)  # frame to predict, frame of the history, first frame
        self.time = MLP(3 * 16, config.c_s, config.c_s)
        self.blocks = nn.ModuleList(Block(config, index) for index in range(config.blocks))
        self.head_norm = nn.LayerNorm(config.c_s)
        self.head = MLP(config.c_s, config.c_s, 2 * TORSIONS)
        self.modes = ModeFeatures(config) if elastic else None

    def condition(self, features: Features) -> Condition:
        """Embed a protein once for all its frames."""
        with torch.autocast(features.residue_types.device.type, enabled=False):
            s, z = self.conditioner(features)
            elastic = None
            if self.modes is not None:
                settings = self.config.elastic
                if self.training:
                    settings = replace(settings, widening=0.0)
                elastic = ElasticModel.of(features, settings, features.amplitude)
                mode_single, mode_pair = self.modes(elastic)
                s, z = s + mode_single, z + mode_pair
            single, pair, positions = self.single(s), self.pair(z), features.positions()
            return Condition(single, pair, positions, features.reference, features.hide_deviation, elastic)

    def forward(
        self,
        condition: Condition,
        frames: Frames,
        mask: FrameMask | None = None,
        cache: KVCache | None = None,
        store: bool = False,
    ) -> Prediction:
        """Predict clean frames.

        Parameters
        ----------
        condition : Condition
            N residues.
        frames : Frames
            F frames of B samples.
        mask : FrameMask, optional
            Which frame sees which; see :func:`openmm_starmd.model.masks.block_causal_mask`.
        cache : KVCache, optional
            Clean frames of the history, which every token sees.
        store : bool
            Append the frames to the cache.

        Returns
        -------
        Prediction
        """
        # Coordinates do not fit bf16: under autocast only attention over tokens and the edges run in it.
        device = frames.tau.device.type
        mixed = torch.is_autocast_enabled(device)
        with torch.autocast(device, enabled=False):
            return self._forward(condition, frames, mask, cache, store, mixed)

    def _forward(
        self,
        condition: Condition,
        frames: Frames,
        mask: FrameMask | None,
        cache: KVCache | None,
        store: bool,
        mixed: bool,
    ) -> Prediction:
        if condition.elastic is None:
            estimate = initial_estimate(frames, self.config)
        else:
            estimate = elastic_estimate(frames, condition.elastic, self.config)
        rigids = estimate.rigids
        embedding = self._frame_embedding(frames)
        s, z = self._first_features(condition, estimate, embedding)
        count = condition.positions.shape[0]
        rotary = RotaryAngles(
            condition.positions.repeat(frames.index.shape[0]),
            frames.index.repeat_interleave(count),
            self.config.attention_hidden // self.config.attention_heads,
            self.pose.weight.dtype,
        )
        if self.config.attention_temperature:
            rotary.sharpness = sharpness(frames.index, count).to(self.pose.weight.dtype)
        given = Pass(estimate, embedding, rotary, mask, cache, store, mixed)
        recompute = self.checkpoint_blocks and self.training and cache is None and torch.is_grad_enabled()
        for block in self.blocks:
            # nothing in a block is random
            s, z, rigids = (
                checkpoint(block, s, z, rigids, given, use_reentrant=False, preserve_rng_state=False)
                if recompute
                else block(s, z, rigids, given)
            )
        if self.config.correction and not self.training:
            rigids = self._shrunk(rigids, estimate, frames)
        raw = self.head(self.head_norm(s)).unflatten(-1, (TORSIONS, 2))
        norms = (raw.square().sum(-1) + 1e-8).sqrt()
        return Prediction(rigids, raw / norms[..., None], norms, estimate)

    def _shrunk(self, rigids: Rigids, estimate: Estimate, frames: Frames) -> Rigids:
        """Predicted frames with the part of the correction to their estimate that ``config.correction`` keeps."""
        share = kept_correction(frames.tau, self.config.correction)[..., None, None]
        start = estimate.rigids
        turn = log_map(start.rotations.transpose(-1, -2) @ rigids.rotations)
        shift = rigids.translations - start.translations
        return Rigids(start.rotations @ exp_map(share * turn), start.translations + share * shift)

    def _frame_embedding(self, frames: Frames) -> Tensor:
        """Diffusion time, stride and kind of each frame, [B, F, c_s]."""
        log_noise = self.config.schedule.sigma_translation(frames.tau).clamp(min=1e-3).log()
        stride = frames.stride.clamp(max=self.config.stride_max)
        # one physical scale for both: ln σ spans about ln 1e-3 .. 0, ln Δt in ps about 0 .. ln 1e4
        time = torch.cat(
            [fourier(log_noise, 8, 16.0), fourier(stride.log(), 8, 32.0), fourier(frames.tau, 8, 2.0)], dim=-1
        ).to(self.pose.weight.dtype)
        # 0, 1 and 2 of a frame to predict, one of the history, and the first
        kind = (2 - frames.anchored.long()).masked_fill(frames.noisy, 0)
        return self.time(time) + self.kind(kind)

    def _first_features(self, condition: Condition, estimate: Estimate, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Singles [B, F, N, c_s] and pairs [B, F, N, N, c_z] that the first block is given."""
        dtype = self.pose.weight.dtype
        rigids, pose = estimate.rigids, estimate.pose
        if self.config.anchored and not condition.hide_deviation:
            pose = torch.cat([pose, deviation(rigids, condition.reference)], dim=-1)
        else:
            pose = torch.cat([pose, torch.zeros_like(pose[..., :6])], dim=-1)
        s = condition.s + self.pose(pose.to(dtype)) + embedding[:, :, None]
        cb = cb_from_rigids(rigids)
        distance = torch.linalg.vector_norm(cb[..., :, None, :] - cb[..., None, :, :], dim=-1)
        z = condition.z + self.distance(radial_basis(distance.to(dtype), DISTANCE_BINS, LARGEST_DISTANCE))
        return s, self.pair_norm(z)
