"""The autoregressive loop: draw a frame by denoising it against the history, add it to the history, repeat.

Knows tensors and frames, nothing of OpenMM.

What the history is. The frames kept are frame 0 and the newest contiguous ones, at most ``max_context`` in all
(:func:`kept_frames`); when they are full, half of the contiguous ones are evicted at once. The KV cache is, by
definition, what results from appending the kept frames one after the other to an empty cache, and it is rebuilt that
way at each eviction and by :meth:`Rollout.restore`. So it never depends on an evicted frame, and a run that is stored
and restored sees the same bits as an unbroken one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from openmm_starmd.devices import moved_together, warn_of_tf32
from openmm_starmd.diffusion import igso3
from openmm_starmd.diffusion.process import centred, forward_noise
from openmm_starmd.diffusion.samplers import SAMPLERS, SamplerSettings, anchored_prior, prior
from openmm_starmd.geometry.heavy_atoms import keep_to_wells
from openmm_starmd.geometry.rigid import Rigids, backbone_from_rigids, rigids_from_backbone, superpose
from openmm_starmd.geometry.superposition import superposition
from openmm_starmd.geometry.torsions import dihedral
from openmm_starmd.model.attention import KVCache
from openmm_starmd.model.elastic import Expected
from openmm_starmd.model.excluded_volume import TAU, apart
from openmm_starmd.model.features import Features, torsion_features
from openmm_starmd.model.frames import Frames, noise_variances
from openmm_starmd.model.network import Condition, Network
from openmm_starmd.protein.residues import PSI_AND_CHI
from openmm_starmd.randomness import keyed_normal

if TYPE_CHECKING:
    from openmm_starmd.model.openfold import OpenFoldFeatures
    from openmm_starmd.model.weights import Weights
    from openmm_starmd.protein.protein import Protein


def kept_frames(count: int, max_context: int) -> list[int]:
    """Numbers of the frames in the history when frame `count` is the newest.

    Parameters
    ----------
    count : int
        Number of the newest frame; the start is frame 0.
    max_context : int
        At least 3.

    Returns
    -------
    list of int
        0 first, then the newest contiguous ones; at most `max_context`.
    """
    room = max_context - 1
    block = (room + 1) // 2
    recent = count if count <= room else room - block + 1 + (count - room - 1) % block
    return [0, *range(count - recent + 1, count + 1)]


class Frame(NamedTuple):
    """One drawn frame of B replicas.

    Attributes
    ----------
    backbone : Tensor [B, N, 3, 3], float64
        N, CA, C in nm, superposed on the frame before.
    torsions : Tensor [B, N, 5], float64
        ψ and χ1..4, radians.
    """

    backbone: Tensor
    torsions: Tensor


@dataclass(frozen=True)
class Kept:
    """One frame of the history of B replicas.

    Attributes
    ----------
    number : int
        0 for the start.
    backbone : Tensor [B, N, 3, 3], float64
        N, CA, C as drawn, nm.
    rigids : Rigids [B, N], float64
        The same in axes fixed to the start structure, superposed on the kept frame before, nm.
    noised : Rigids [B, N]
        `rigids` with contextual noise and with the shrinking of that noise undone: what the next frame is anchored to.
    tau : Tensor [B]
        Diffusion time of the contextual noise.
    """

    number: int
    backbone: Tensor
    rigids: Rigids
    noised: Rigids
    tau: Tensor


class Rollout:
    """Autoregressive sampler of B replicas of one protein.

    Parameters
    ----------
    network : Network
    features : Features
        N residues; the reference structures are frame 0 of each replica's history, unless others are given.
    start : Tensor [B, N, 3, 3]
        N, CA, C of the start structures, nm.
    stride : float
        Physical time per frame, ps.
    seeds : sequence of int
        One per replica; all that is random follows from it and from the frame's number.
    settings : SamplerSettings, optional
        The weights' own by default.
    device : str or torch.device
    dtype : torch.dtype
        Of the network; frames are stored in float64.

    Attributes
    ----------
    offset : int
        Frames drawn before this history began; draws are keyed by ``offset + count``.

    Raises
    ------
    ValueError
        If shapes or numbers of seeds do not fit.

    Notes
    -----
    Global translation and rotation are removed: each frame is superposed on the frame before (Cα, least squares).
    Noise is drawn in axes fixed to the start structure's first residue, so that a rotated start gives the rotated
    trajectory.
    """

    def __init__(
        self,
        network: Network,
        features: Features,
        start: Tensor,
        *,
        stride: float,
        seeds: Sequence[int],
        settings: SamplerSettings | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.settings = settings or network.config.sampling
        self.device, self.dtype = torch.device(device), dtype
        self.network = network.to(device=self.device, dtype=dtype).eval()
        self.features, self.stride, self.seeds = features, float(stride), tuple(int(seed) for seed in seeds)
        self.sampler = SAMPLERS[self.settings.sampler](network.config.schedule, tau_end=self.settings.tau_end)
        timesteps = self.sampler.timesteps(self.settings.steps)
        self._mended = [network.config.excluded_volume and tau <= TAU for tau in timesteps.tolist()]
        self.timesteps = timesteps.to(self.device)
        self._bonded = features.bonded.to(self.device)
        # there once, so that no call of the network copies numbers of its own
        self._index = torch.arange(self.settings.max_context + 1, device=self.device)
        self._false, self._true = (torch.arange(2, device=self.device) > 0).split(1)
        if self.device.type == "cuda":
            warn_of_tf32()
        self.begin(start, 0)

    def begin(
        self, start: Tensor, offset: int, reference: Tensor | None = None, torsions: Tensor | None = None
    ) -> None:
        """Start a new history.

        Parameters
        ----------
        start : Tensor [B, N, 3, 3]
            N, CA, C, nm.
        offset : int
            Frames drawn so far, so that no random number is used twice.
        reference : Tensor [B, N, 3, 3], optional
            N, CA, C of the reference structures, nm; `start` by default.
        torsions : Tensor [B, N, 5, 2], optional
            Sine and cosine of their ψ and χ1..4, zero where there is none; those of `features` by default.
        """
        self.restore({0: start}, 0, offset, reference, torsions)

    @property
    def count(self) -> int:
        """Number of the newest frame of this history."""
        return self._history[-1].number

    def restore(
        self,
        frames: Mapping[int, Tensor],
        count: int,
        offset: int,
        reference: Tensor | None = None,
        torsions: Tensor | None = None,
    ) -> None:
        """Resume from stored frames, bit by bit as if never interrupted.

        Parameters
        ----------
        frames : dict of int to Tensor [B, N, 3, 3]
            What :meth:`frames` gave: every number of ``kept_frames(count, max_context)``.
        count, offset : int
        reference, torsions : Tensor, optional
            As for :meth:`begin`.
        """
        numbers = kept_frames(count, self.settings.max_context)
        missing = [number for number in numbers if number not in frames]
        if missing:
            raise ValueError(f"frames {missing} of the history are missing: frame {count} needs frames {numbers}")
        expected = (len(self.seeds), self.features.length, 3, 3)
        for number in numbers:
            if tuple(frames[number].shape) != expected:
                raise ValueError(
                    f"frame {number} of the history has shape {tuple(frames[number].shape)}, expected {expected}: "
                    "replicas, residues, (N, CA, C), coordinates"
                )
        stored = {number: frames[number].detach().to("cpu", torch.float64).clone() for number in numbers}
        self.offset = offset
        start = rigids_from_backbone(stored[0])
        self._axes = start.rotations[:, 0]  # [B, 3, 3]
        self._center = stored[0][:, :, 1].mean(1)  # [B, 3]
        self._local = start.map(lambda x: x[:, :, None]).to_local(stored[0])  # [B, N, 3, 3]
        references = start if reference is None else rigids_from_backbone(reference.detach().to("cpu", torch.float64))
        self._conditions = self._embed(references, torsions)
        self._rebuild(stored)

    def frames(self) -> dict[int, Tensor]:
        """The frames kept, by number: N, CA, C [B, N, 3, 3], float64, nm."""
        return {kept.number: kept.backbone for kept in self._history}

    @torch.inference_mode()
    def step(self) -> Frame:
        """Draw the next frame and append it to the history.

        Returns
        -------
        Frame
        """
        settings, newest = self.settings, self._history[-1]
        number = newest.number + 1
        residues = self.features.length
        noise = torch.stack(
            [keyed_normal((settings.steps, residues, 7), seed, self.offset + number, "frame") for seed in self.seeds], 1
        )
        noise, *context = moved_together([noise, *self._context_noise([number])], self.device, self.dtype)
        if self.network.config.centred_noise:
            noise = torch.cat([centred(noise[..., :3]), noise[..., 3:]], dim=-1)
        noise = noise[:, :, None]  # [steps, B, 1, N, 7]
        expected = self._expected(number)
        if self.network.config.anchored:
            rigids = anchored_prior(noise[0], _one_frame(newest.noised), self.network.config.schedule)
        else:
            rigids = prior(noise[0])
        previous: tuple[Rigids, Tensor] | None = None
        for k in range(settings.steps):
            noisy = self._as_noisy(rigids, self.timesteps[k], expected)
            prediction = self.network(self._conditions, noisy, cache=self._cache)
            clean = prediction.rigids
            if self._mended[k]:
                clean = Rigids(clean.rotations, apart(clean.translations, self._bonded))
            if k + 1 < settings.steps:
                tau, tau_next = self.timesteps[k], self.timesteps[k + 1]
                rigids = self.sampler.step(
                    rigids, clean, tau, tau_next, settings.noise_scale * noise[k + 1][..., :6], previous
                )
                previous = (clean, tau)
        drawn = [x[:, 0] for x in (*clean, prediction.torsions)]
        rotations, translations, angles = moved_together(drawn, "cpu", torch.float64)
        backbone = backbone_from_rigids(Rigids(rotations, translations), self._local)
        rotation, shift = superposition(backbone[:, :, 1], newest.backbone[:, :, 1])
        backbone = backbone @ rotation.transpose(-1, -2)[:, None] + shift[:, None, None]
        self._append(number, backbone, context)
        torsions = torch.atan2(angles[..., 0], angles[..., 1])
        return Frame(backbone, keep_to_wells(torsions, self.features.residue_types.cpu()))

    def _embed(self, references: Rigids, torsions: Tensor | None) -> Condition:
        """Condition of the network, given each replica's reference; one for all where it is the same."""
        known = [*references, *([] if torsions is None else [torsions])]
        alike = all(bool((part == part[:1]).all()) for part in known)
        conditions = []
        with torch.inference_mode():
            for number in range(1 if alike else len(self.seeds)):
                own = Rigids(*(part[number] for part in references))
                features = self.features.with_reference(own, None if torsions is None else torsions[number])
                conditions.append(self.network.condition(features.to(self.device, self.dtype)))
            return conditions[0] if alike else Condition.of_replicas(conditions)

    def _expected(self, number: int, alone: Rigids | None = None) -> Expected | None:
        """What the elastic prior expects of frame `number`, given the history; of a first one, `alone`, without."""
        elastic = self._conditions.elastic
        if elastic is None:
            return None
        if alone is not None:
            return elastic.without_history(alone, alone.translations.new_full((len(self.seeds), 1), self.stride))
        ages = [self.stride * (number - kept.number) for kept in self._history]
        tau = torch.stack([kept.tau for kept in self._history], 1)
        noise, turn_noise = noise_variances(tau, self.network.config.schedule)
        history = Rigids(*(torch.stack(part, 1) for part in zip(*(kept.noised for kept in self._history), strict=True)))
        # filled in on the device: a copied number would be waited for
        times = torch.stack([torch.full_like(tau[:, 0], age) for age in ages], 1)
        return elastic.expected(history, times, noise, turn_noise)

    def _append(self, number: int, backbone: Tensor, noise: list[Tensor]) -> None:
        """Add frame `number`, with its :meth:`_context_noise`, to the history, which is cut back where it is full."""
        kept = kept_frames(number, self.settings.max_context)
        if len(kept) == len(self._history) + 1:
            self._extend({number: backbone}, noise)
        else:
            frames = self.frames() | {number: backbone}
            self._rebuild({n: frames[n] for n in kept})

    @torch.inference_mode()
    def _rebuild(self, frames: Mapping[int, Tensor]) -> None:
        """History and cache of these frames, appended one by one."""
        self._cache = KVCache()
        self._history: list[Kept] = []
        numbers = sorted(frames)
        noise = moved_together(self._context_noise(numbers), self.device, self.dtype)
        self._extend({number: frames[number] for number in numbers}, noise)

    @torch.inference_mode()
    def _extend(self, frames: Mapping[int, Tensor], noise: list[Tensor]) -> None:
        """Append clean frames, in order and each with its :meth:`_context_noise`, to history and cache."""
        before = self._history[-1].rigids if self._history else None
        posed: list[Rigids] = []
        for backbone in frames.values():
            rigids = rigids_from_backbone(backbone)
            # into axes fixed to the start structure, then on the frame before, as in training
            inverse = self._axes.transpose(-1, -2)
            rigids = rigids.moved(inverse, -(inverse @ self._center[..., None]).squeeze(-1))
            if before is not None:
                rigids = superpose(rigids, before.translations)
            posed.append(rigids)
            before = rigids
        moved = moved_together([part for rigids in posed for part in rigids], self.device, self.dtype)
        for place, (number, backbone) in enumerate(frames.items()):
            there = Rigids(*moved[2 * place : 2 * place + 2])
            noisy, tau = self._contextual_noise(there, noise[place] if noise else None)
            self._store(number, backbone, posed[place], noisy, tau)

    def _store(self, number: int, backbone: Tensor, rigids: Rigids, noisy: Rigids, tau: Tensor) -> None:
        """Append one frame to history and cache, given as :class:`Kept` has it and with its contextual noise."""
        before = self._history[-1] if self._history else None
        alpha = self.network.config.schedule.alpha(tau)
        kept = Kept(number, backbone, rigids, Rigids(noisy.rotations, noisy.translations / alpha[:, None, None]), tau)
        anchor = kept if before is None else before
        gap = self.stride if before is None else self.stride * (number - before.number)
        frames = Frames(
            rigids=_one_frame(noisy),
            anchor=_one_frame(anchor.noised),
            tau=tau[:, None],
            anchor_tau=anchor.tau[:, None],
            stride=torch.full_like(tau[:, None], gap),
            index=self._next_index(),
            noisy=self._false,
            anchored=self._false if before is None else self._true,
            expected=self._expected(number, _one_frame(kept.noised) if before is None else None),
        )
        self.network(self._conditions, frames, cache=self._cache, store=True)
        self._history.append(kept)

    def _next_index(self) -> Tensor:
        """Number, [1], of the next frame among those kept."""
        return self._index[len(self._history), None]

    def _context_noise(self, numbers: Sequence[int]) -> list[Tensor]:
        """Standard normal draws [B, N + 1, 7] for the contextual noise of frames, on the CPU; none if it is off."""
        if self.settings.context_tau == 0:
            return []
        shape = (self.features.length + 1, 7)
        return [
            torch.stack([keyed_normal(shape, seed, self.offset + number, "context") for seed in self.seeds])
            for number in numbers
        ]

    def _contextual_noise(self, rigids: Rigids, noise: Tensor | None) -> tuple[Rigids, Tensor]:
        """Clean rigids as the history holds them, given their draws, and their diffusion time [B]."""
        schedule, top = self.network.config.schedule, self.settings.context_tau
        residues = self.features.length
        if noise is None:
            return rigids, torch.zeros(len(self.seeds), device=self.device, dtype=self.dtype)
        # Φ of a normal number is uniform: one stream serves levels, angles and axes
        uniform = torch.special.ndtr(noise[..., 0])
        tau = top * uniform[:, 0]
        noise, uniform = noise[:, 1:], uniform[:, 1:]
        sigma = schedule.sigma_rotation(tau)[:, None].expand(-1, residues)
        turn = igso3.sample(sigma, uniform, noise[..., 1:4]).to(self.dtype)
        shift = centred(noise[..., 4:7]) if self.network.config.centred_noise else noise[..., 4:7]
        return forward_noise(rigids, tau, shift, turn, schedule), tau

    def _as_noisy(self, rigids: Rigids, tau: Tensor, expected: Expected | None) -> Frames:
        """The frame being drawn, as the network takes it; rigids [B, 1, N]."""
        shape, anchor = (len(self.seeds), 1), self._history[-1]
        return Frames(
            rigids=rigids,
            anchor=_one_frame(anchor.noised),
            tau=tau.to(device=self.device, dtype=self.dtype).expand(shape),
            anchor_tau=anchor.tau[:, None],
            stride=torch.full(shape, self.stride, device=self.device, dtype=self.dtype),
            index=self._next_index(),
            noisy=self._true,
            anchored=self._true,
            expected=expected,
        )


def _one_frame(rigids: Rigids) -> Rigids:
    """Rigids [B, N] as those of one frame, [B, 1, N]."""
    return rigids.map(lambda x: x[:, None])


def features_of(protein: Protein) -> Features:
    """Features of a coarse-grained protein, with its own structure as reference."""
    torsions = np.nan_to_num(protein.torsions[:, PSI_AND_CHI])
    return Features.of(protein, protein.backbone, torsions, protein.torsion_mask[:, PSI_AND_CHI])


def reference_torsions(features: Features, backbone: np.ndarray, chi: np.ndarray) -> Tensor:
    """Torsion features of a reference structure, as :func:`features_of` makes them of a protein's own.

    Parameters
    ----------
    features : Features
        N residues; tell which are bonded.
    backbone : np.ndarray [N, 3, 3]
        N, CA, C, nm.
    chi : np.ndarray [N, 4]
        χ1..4, radians; NaN where there is none or it is not known.

    Returns
    -------
    Tensor [N, 5, 2]
        Sine and cosine of ψ and χ1..4, float64.
    """
    i = np.flatnonzero(features.bonded.cpu().numpy())
    n, ca, c = np.moveaxis(backbone, -2, 0)
    psi = np.full((len(backbone), 1), np.nan)
    psi[i, 0] = dihedral(n[i], ca[i], c[i], n[i + 1])
    angles = np.concatenate([psi, chi], axis=1)
    return torsion_features(torch.as_tensor(np.nan_to_num(angles)), torch.as_tensor(np.isfinite(angles)))


def resolve_device(device: str | torch.device | None = None) -> torch.device:
    """A device that torch has.

    Parameters
    ----------
    device : str or torch.device, optional
        A GPU where there is one, else the CPU, by default.

    Returns
    -------
    torch.device

    Raises
    ------
    ValueError
        If there is no such device.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"there is no device {device!r}: choose 'cpu', 'cuda' or 'cuda:N'") from error
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device is {str(found)!r}, but torch sees {torch.cuda.device_count()} CUDA devices: use 'cpu'"
        )
    return found


def make_rollout(
    protein: Protein,
    weights: Weights,
    *,
    stride: float,
    seed: int | Sequence[int],
    device: str | torch.device | None = None,
    steps: int | None = None,
    max_context: int | None = None,
    openfold_features: OpenFoldFeatures | None = None,
) -> Rollout:
    """Rollout of a protein with trained weights.

    Parameters
    ----------
    protein : Protein
    weights : Weights
    stride : float
        ps, within the range the weights were trained on.
    seed : int or sequence of int
        One replica per seed.
    device : str or torch.device, optional
        A GPU where there is one, else the CPU.
    steps, max_context : int, optional
        The weights' own by default.
    openfold_features : OpenFoldFeatures, optional
        For weights that condition on them, and for no others; see
        :func:`openmm_starmd.model.openfold.load_openfold_features`.

    Returns
    -------
    Rollout

    Raises
    ------
    ValueError
        If the stride lies outside the weights' range, there is no such device, or OpenFold's features are missing,
        unfit or unwanted.
    """
    config = weights.config
    features = features_of(protein)
    if openfold_features is not None:
        if config.conditioner != "openfold":
            raise ValueError(
                f"{weights.name} conditions on the structure alone and has no use for OpenFold's features: leave "
                "openfold_features out, or load weights that were trained with them"
            )
        features = features.with_openfold(*openfold_features)
    config.check_stride(stride, weights.name)
    device = resolve_device(device)
    seeds = [seed] if isinstance(seed, int) else list(seed)
    own = config.sampling
    settings = replace(
        own,
        steps=own.steps if steps is None else steps,
        max_context=own.max_context if max_context is None else max_context,
    )
    start = torch.as_tensor(protein.backbone, dtype=torch.float64).expand(len(seeds), -1, -1, -1)
    return Rollout(weights.network, features, start, stride=stride, seeds=seeds, settings=settings, device=device)
