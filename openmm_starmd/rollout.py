"""The autoregressive loop: draw a frame by denoising it against the history, add it to the history, repeat.

Knows tensors and frames, nothing of OpenMM.

What the history is. The frames kept are frame 0 and the newest contiguous ones, at most ``max_context`` in all
(:func:`kept_frames`); when they are full, half of the contiguous ones are evicted at once. The KV cache is, by
definition, what results from appending the kept frames one after the other to an empty cache, and it is rebuilt that
way at each eviction and by :meth:`Rollout.restore`. So it never depends on an evicted frame, and a run that is stored
and restored sees the same bits as an unbroken one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from openmm_starmd.diffusion import igso3
from openmm_starmd.diffusion.process import forward_noise
from openmm_starmd.diffusion.samplers import SAMPLERS, SamplerSettings, anchored_prior, kept_frames, prior
from openmm_starmd.geometry.heavy_atoms import keep_to_wells
from openmm_starmd.geometry.rigid import Rigids, backbone_from_rigids, rigids_from_backbone, superpose, superposition
from openmm_starmd.model.attention import KVCache
from openmm_starmd.model.features import Features, torsion_features
from openmm_starmd.model.frames import Frames
from openmm_starmd.model.network import Network
from openmm_starmd.randomness import keyed_normal

if TYPE_CHECKING:
    from openmm_starmd.model.openfold import OpenFoldFeatures
    from openmm_starmd.model.weights import Weights
    from openmm_starmd.protein.protein import Protein


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


class Rollout:
    """Autoregressive sampler of B replicas of one protein.

    Parameters
    ----------
    network : Network
    features : Features
        N residues; the reference structure is always frame 0 of the history.
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
    count : int
        Number of the newest frame of this history.
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
        config = network.config
        self.settings = settings or SamplerSettings(
            config.sampler, config.steps, config.tau_end, config.context_tau, config.max_context, config.noise_scale
        )
        self.device, self.dtype = torch.device(device), dtype
        self.network = network.to(device=self.device, dtype=dtype).eval()
        self.features, self.stride, self.seeds = features, float(stride), tuple(int(seed) for seed in seeds)
        self.sampler = SAMPLERS[self.settings.sampler](config.schedule, tau_end=self.settings.tau_end)
        self.timesteps = self.sampler.timesteps(self.settings.steps).to(self.device)
        self.begin(start, 0)

    def begin(self, start: Tensor, offset: int) -> None:
        """Start a new history.

        Parameters
        ----------
        start : Tensor [B, N, 3, 3]
            N, CA, C, nm.
        offset : int
            Frames drawn so far, so that no random number is used twice.
        """
        self.restore({0: start}, 0, offset)

    def restore(self, frames: dict[int, Tensor], count: int, offset: int) -> None:
        """Go on from stored frames, bit by bit as if never interrupted.

        Parameters
        ----------
        frames : dict of int to Tensor [B, N, 3, 3]
            What :meth:`frames` gave: every number of ``kept_frames(count, max_context)``.
        count, offset : int
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
        self._frames = {number: frames[number].detach().to("cpu", torch.float64).clone() for number in numbers}
        self.count, self.offset = count, offset
        start = rigids_from_backbone(self._frames[0])
        self._axes = start.rotations[:, 0]  # [B, 3, 3]
        self._local = start.map(lambda x: x[:, :, None]).to_local(self._frames[0])  # [B, N, 3, 3]
        self._conditions = self._embed(start)
        self._rebuild()

    def frames(self) -> dict[int, Tensor]:
        """The frames kept, by number: N, CA, C [B, N, 3, 3], float64, nm."""
        return dict(self._frames)

    @torch.inference_mode()
    def step(self) -> Frame:
        """Draw the next frame and append it to the history.

        Returns
        -------
        Frame
        """
        settings, number = self.settings, self.count + 1
        residues = self.features.length
        noise = torch.stack(
            [keyed_normal((settings.steps, residues, 7), seed, self.offset + number, "frame") for seed in self.seeds], 1
        ).to(device=self.device, dtype=self.dtype)[:, :, None]  # [steps, B, 1, N, 7]
        if self.network.config.anchored:
            rigids = anchored_prior(noise[0], self._noised[-1].map(lambda x: x[:, None]), self.network.config.schedule)
        else:
            rigids = prior(noise[0])
        previous: tuple[Rigids, Tensor] | None = None
        for k in range(settings.steps):
            prediction = self.network(self._conditions, self._as_noisy(rigids, self.timesteps[k]), cache=self._cache)
            if k + 1 < settings.steps:
                tau, tau_next = self.timesteps[k], self.timesteps[k + 1]
                rigids = self.sampler.step(
                    rigids, prediction.rigids, tau, tau_next, settings.noise_scale * noise[k + 1][..., :6], previous
                )
                previous = (prediction.rigids, tau)
        drawn = prediction.rigids.map(lambda x: x[:, 0]).to("cpu", torch.float64)
        backbone = backbone_from_rigids(drawn, self._local)
        rotation, shift = superposition(backbone[:, :, 1], self._frames[self.count][:, :, 1])
        backbone = backbone @ rotation.transpose(-1, -2)[:, None] + shift[:, None, None]
        angles = prediction.torsions[:, 0].to("cpu", torch.float64)
        self._append(number, backbone)
        torsions = torch.atan2(angles[..., 0], angles[..., 1])
        return Frame(backbone, keep_to_wells(torsions, self.features.residue_types.cpu()))

    def _embed(self, start: Rigids):
        """Condition of the network, with frame 0 of the first replica as the reference."""
        with torch.inference_mode():
            features = self.features.with_reference(start.map(lambda x: x[0])).to(self.device, self.dtype)
            return self.network.condition(features)

    def _append(self, number: int, backbone: Tensor) -> None:
        """Store frame `number` and bring the cache up to date."""
        self._frames[number] = backbone
        self.count = number
        kept = kept_frames(number, self.settings.max_context)
        if len(kept) == len(self._frames):
            self._extend(number)
        else:
            self._frames = {n: self._frames[n] for n in kept}
            self._rebuild()

    @torch.inference_mode()
    def _rebuild(self) -> None:
        """Cache of the frames kept, appended one by one."""
        self._cache = KVCache()
        self._poses: list[Rigids] = []
        self._noised: list[Rigids] = []
        self._taus: list[Tensor] = []
        self._numbers: list[int] = []
        for number in sorted(self._frames):
            self._extend(number)

    @torch.inference_mode()
    def _extend(self, number: int) -> None:
        """Append one clean frame, with its contextual noise, to the cache."""
        rigids = rigids_from_backbone(self._frames[number])
        # into axes fixed to the start structure, then on the frame before, as in training
        center = self._frames[0][:, :, 1].mean(1)
        inverse = self._axes.transpose(-1, -2)
        rigids = rigids.moved(inverse, -(inverse @ center[..., None]).squeeze(-1))
        if self._poses:
            rigids = superpose(rigids, self._poses[-1].translations)
        self._poses.append(rigids)
        noisy, tau = self._contextual_noise(number, rigids)
        schedule = self.network.config.schedule
        undone = Rigids(noisy.rotations, noisy.translations / schedule.alpha(tau)[:, None, None])
        place = len(self._noised)
        anchor = self._noised[-1] if place else undone
        anchor_tau = self._taus[-1] if place else tau
        gap = self.stride * (number - self._numbers[-1] if place else 1)
        frames = Frames(
            rigids=noisy.map(lambda x: x[:, None]),
            anchor=anchor.map(lambda x: x[:, None]),
            tau=tau[:, None],
            anchor_tau=anchor_tau[:, None],
            stride=torch.full_like(tau[:, None], min(gap, self.network.config.stride_max)),
            index=torch.tensor([place], device=self.device),
            noisy=torch.tensor([False], device=self.device),
            anchored=torch.tensor([place > 0], device=self.device),
        )
        self.network(self._conditions, frames, cache=self._cache, store=True)
        self._noised.append(undone)
        self._taus.append(tau)
        self._numbers.append(number)

    def _contextual_noise(self, number: int, rigids: Rigids) -> tuple[Rigids, Tensor]:
        """Frame `number` as the history holds it, and its diffusion time [B]."""
        schedule, top = self.network.config.schedule, self.settings.context_tau
        residues = self.features.length
        rigids = rigids.to(device=self.device, dtype=self.dtype)
        if top == 0:
            return rigids, torch.zeros(len(self.seeds), device=self.device, dtype=self.dtype)
        noise = torch.stack(
            [keyed_normal((residues + 1, 7), seed, self.offset + number, "context") for seed in self.seeds]
        ).to(device=self.device, dtype=self.dtype)
        # Φ of a normal number is uniform: one stream serves levels, angles and axes
        uniform = torch.special.ndtr(noise[..., 0])
        tau = top * uniform[:, 0]
        noise, uniform = noise[:, 1:], uniform[:, 1:]
        sigma = schedule.sigma_rotation(tau)[:, None].expand(-1, residues)
        turn = igso3.sample(sigma, uniform, noise[..., 1:4]).to(self.dtype)
        return forward_noise(rigids, tau, noise[..., 4:7], turn, schedule), tau

    def _as_noisy(self, rigids: Rigids, tau: Tensor) -> Frames:
        """The frame being drawn, as the network takes it; rigids [B, 1, N]."""
        shape = (len(self.seeds), 1)
        anchor = self._noised[-1].map(lambda x: x[:, None])
        return Frames(
            rigids=rigids,
            anchor=anchor,
            tau=tau.to(device=self.device, dtype=self.dtype).expand(shape),
            anchor_tau=self._taus[-1][:, None],
            stride=torch.full(shape, self.stride, device=self.device, dtype=self.dtype),
            index=torch.tensor([len(self._noised)], device=self.device),
            noisy=torch.tensor([True], device=self.device),
            anchored=torch.tensor([True], device=self.device),
        )


PSI_AND_CHI = [1, 3, 4, 5, 6]
"""Columns of :attr:`Protein.torsions` that are the network's."""


def features_of(protein: Protein) -> Features:
    """Features of a coarse-grained protein, with its own structure as reference."""
    return Features(
        torch.as_tensor(protein.residue_types),
        torch.as_tensor(protein.residue_index),
        torch.as_tensor(protein.chain_index),
        torch.as_tensor(protein.bonded),
        rigids_from_backbone(torch.as_tensor(protein.backbone)),
        torsions=torsion_features(
            torch.nan_to_num(torch.as_tensor(protein.torsions[:, PSI_AND_CHI])),
            torch.as_tensor(protein.torsion_mask[:, PSI_AND_CHI]),
        ),
    )


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
        If the stride lies outside the weights' range, or OpenFold's features are missing, unfit or unwanted.
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
    if not config.stride_min <= stride <= config.stride_max:
        raise ValueError(
            f"stride {stride:g} ps lies outside the {config.stride_min:g} to {config.stride_max:g} ps that "
            f"{weights.name} was trained on"
        )
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"there is no device {device!r}: choose 'cpu', 'cuda' or 'cuda:N'") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device is {str(device)!r}, but torch sees {torch.cuda.device_count()} CUDA devices: use 'cpu'"
        )
    seeds = [seed] if isinstance(seed, int) else list(seed)
    settings = SamplerSettings(
        config.sampler,
        config.steps if steps is None else steps,
        config.tau_end,
        config.context_tau,
        config.max_context if max_context is None else max_context,
        config.noise_scale,
    )
    start = torch.as_tensor(protein.backbone, dtype=torch.float64).expand(len(seeds), -1, -1, -1)
    return Rollout(weights.network, features, start, stride=stride, seeds=seeds, settings=settings, device=device)
