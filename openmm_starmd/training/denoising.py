"""How well a network denoises the next frame, given true histories: the judge of weights that needs no rollout.

The clean-frame estimate of every next frame of a few windows of MD, each noised to given levels, in one teacher-forced
pass: histories are MD's, with contextual noise as in a rollout, and the reference structure is the one that rollouts
start from. Windows and noise are keyed by (seed, protein, stride, τ), so that any two networks of one noise schedule,
contextual noise and range of strides are given the same. The error is that of Cα, nothing superposed: frames of a
window lie on one another already. Beside it stands what the last frame of the history says of the same targets; a
network that is no better knows nothing of the motion.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from openmm_starmd.data.batches import chained
from openmm_starmd.data.trajectories import ProteinData, Replica
from openmm_starmd.diffusion import igso3
from openmm_starmd.diffusion.process import centred, forward_noise
from openmm_starmd.geometry.rigid import Rigids
from openmm_starmd.model.config import ModelConfig
from openmm_starmd.model.frames import Frames, with_expected
from openmm_starmd.model.masks import block_causal_mask
from openmm_starmd.model.network import Network, Prediction
from openmm_starmd.randomness import keyed_generator
from openmm_starmd.training.settings import DenoisingSettings

OFF = 0.01
"""Share by which the spacing of MD's frames may differ from the stride."""
ANGSTROM = 10.0  # per nm


@dataclass(frozen=True)
class Error:
    """Root mean square errors of the Cα positions of next frames, Å.

    Attributes
    ----------
    protein : str
        Or :data:`MEAN`.
    stride : float
        ps.
    tau : float
        Diffusion time of the noisy frame that the network is given.
    rmse : float
        Of the network's clean-frame estimate.
    last_frame : float
        Of the last frame of the history as the network is given it, on the same targets.
    """

    protein: str
    stride: float
    tau: float
    rmse: float
    last_frame: float


MEAN = "mean"
"""Stands for a protein's name in the mean over proteins, each counted once: the root of their mean squared errors."""


@dataclass(frozen=True)
class Denoising:
    """What :meth:`DenoisingTest.measure` found.

    Attributes
    ----------
    errors : tuple of Error
        Of each protein, stride and τ.
    """

    errors: tuple[Error, ...]

    @property
    def means(self) -> list[Error]:
        """Mean over proteins for each stride and τ, by size."""
        cells = sorted({(error.stride, error.tau) for error in self.errors})
        found = []
        for stride, tau in cells:
            there = [error for error in self.errors if (error.stride, error.tau) == (stride, tau)]
            rmse, last = (
                math.sqrt(sum(value**2 for value in values) / len(there))
                for values in ([error.rmse for error in there], [error.last_frame for error in there])
            )
            found.append(Error(MEAN, stride, tau, rmse, last))
        return found

    @property
    def loss(self) -> float:
        """One number: the mean over strides and τ of the mean over proteins of ln(RMSE / last frame's RMSE).

        Every protein counts alike, whether it is long or floppy, and every noise level, though errors at high noise are
        ten times those at low noise. Infinite where an error is not finite.
        """
        cells: dict[tuple[float, float], list[float]] = {}
        for error in self.errors:
            ratio = error.rmse / error.last_frame
            value = math.log(max(ratio, 1e-12)) if math.isfinite(ratio) else math.inf
            cells.setdefault((error.stride, error.tau), []).append(value)
        return sum(sum(values) / len(values) for values in cells.values()) / len(cells)


@dataclass(frozen=True)
class Windows:
    """B windows of L frames of one protein at one stride, their histories noised as in a rollout.

    Attributes
    ----------
    protein : ProteinData
    stride : float
        ps.
    rigids : Rigids [B, L, N]
        Of MD: the first frame centred, each later one superposed on the frame before, nm.
    noised : Rigids [B, L, N]
        The same with contextual noise, as the forward process leaves them.
    context : Tensor [B, L]
        Diffusion time of the contextual noise.
    history : Rigids [B, L, N]
        `noised` with the shrinking of the noise undone: what next frames are anchored to.
    """

    protein: ProteinData
    stride: float
    rigids: Rigids
    noised: Rigids
    context: Tensor
    history: Rigids

    @property
    def truth(self) -> Tensor:
        """Cα positions of the targets, frames 1..L-1: [B, L - 1, N, 3]."""
        return self.rigids.translations[:, 1:]

    @property
    def last_frame(self) -> Tensor:
        """Cα positions of the last frame of each target's history: [B, L - 1, N, 3]."""
        return self.history.translations[:, :-1]


def draw_windows(proteins: Sequence[ProteinData], settings: DenoisingSettings, config: ModelConfig) -> list[Windows]:
    """The windows of each protein at each stride that its MD has frames for and the network knows.

    Parameters
    ----------
    proteins : sequence of ProteinData
    settings : DenoisingSettings
    config : ModelConfig
        Strides, length of the history and contextual noise of a rollout; the schedule.

    Returns
    -------
    list of Windows

    Raises
    ------
    ValueError
        If a protein has no frames at any of the strides.
    """
    found = []
    for protein in proteins:
        known = [stride for stride in settings.strides if config.stride_min <= stride <= config.stride_max]
        drawn = [_draw(protein, stride, settings, config) for stride in known]
        there = [windows for windows in drawn if windows is not None]
        if not there:
            spans = ", ".join(f"{len(r)} frames {r.interval:g} ps apart" for r in protein.replicas)
            raise ValueError(
                f"the MD of {protein.name} ({spans}) has no two frames {', '.join(f'{s:g}' for s in known)} ps apart, "
                f"the strides to denoise at within the model's {config.stride_min:g} to {config.stride_max:g} ps: "
                "leave the protein out, or change the strides"
            )
        found += there
    return found


def _draw(protein: ProteinData, stride: float, settings: DenoisingSettings, config: ModelConfig) -> Windows | None:
    """Windows of one protein at one stride; None if it has no frames for that."""
    steps = [(replica, round(stride / replica.interval)) for replica in protein.replicas]
    fitting = [(r, step) for r, step in steps if step and abs(step * r.interval - stride) <= OFF * stride]
    most = max(((len(replica) - 1) // step + 1 for replica, step in fitting), default=0)
    length = min(settings.frames, config.max_context + 1, most)
    if length < 2:
        return None
    # all places where a window may begin, cut into equal parts with one window in each
    places = [(r, step, max(0, len(r) - (length - 1) * step)) for r, step in fitting]
    total = sum(count for *_, count in places)
    count = min(settings.windows, total)
    key = ("denoising", settings.seed, protein.name, f"{stride:g} ps")
    shares = torch.rand(count, generator=keyed_generator(*key, "windows"), dtype=torch.float64).tolist()
    windows = [_window(places, int((number + share) * total / count), length) for number, share in enumerate(shares)]
    rigids = chained(Rigids(*(torch.stack(parts) for parts in zip(*windows, strict=True))))

    generator = keyed_generator(*key, "context")
    context = config.context_tau * torch.rand(count, length, generator=generator)
    noised = _noised(rigids, context, config, generator)
    if config.context_tau == 0:
        noised = rigids
    alpha = config.schedule.alpha(context)[..., None, None]
    return Windows(protein, stride, rigids, noised, context, Rigids(noised.rotations, noised.translations / alpha))


def _window(places: Sequence[tuple[Replica, int, int]], place: int, length: int) -> Rigids:
    """`length` frames from the place of that number on, counted through all replicas."""
    for replica, step, count in places:
        if place < count:
            return replica.rigids(place + step * np.arange(length))
        place -= count
    raise IndexError(place)


def _noised(rigids: Rigids, tau: Tensor, config: ModelConfig, generator: torch.Generator) -> Rigids:
    """Rigids [B, F, N] noised to diffusion times [B, F]."""
    schedule = config.schedule
    shape = rigids.translations.shape[:-1]
    uniform = torch.rand(shape, generator=generator)
    axis, noise = (torch.randn(*shape, 3, generator=generator) for _ in range(2))
    if config.centred_noise:
        noise = centred(noise)
    sigma = schedule.sigma_rotation(tau)[..., None].expand(shape)
    return forward_noise(rigids, tau, noise, igso3.sample(sigma, uniform, axis).to(noise.dtype), schedule)


class DenoisingTest:
    """Fixed windows of some proteins, for networks of one configuration to denoise.

    Parameters
    ----------
    proteins : sequence of ProteinData
        Whose MD no weights to be judged were trained on.
    settings : DenoisingSettings
    config : ModelConfig
        Of the networks; see :func:`draw_windows`.
    device : str or torch.device
        Where networks run.

    Raises
    ------
    ValueError
        If there are no proteins, one is named twice, or one has no frames at any of the strides.
    """

    def __init__(
        self,
        proteins: Sequence[ProteinData],
        settings: DenoisingSettings,
        config: ModelConfig,
        device: str | torch.device = "cpu",
    ) -> None:
        names = [protein.name for protein in proteins]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"proteins to denoise are {names}: give at least one, and each once")
        if not settings.windows:
            raise ValueError("windows is 0: there is nothing to denoise")
        self.settings, self.device = settings, torch.device(device)
        self.windows = draw_windows(proteins, settings, config)

    def measure(self, network: Network) -> Denoising:
        """Errors of a network; the same network gives the same ones, to the bit on one CPU.

        Parameters
        ----------
        network : Network
            Is put into evaluation mode, and moved to the device of the test.

        Returns
        -------
        Denoising
        """
        network = network.to(self.device).eval()
        found = []
        for windows in self.windows:
            last = rmse(windows.last_frame, windows.truth)
            for tau in self.settings.taus:
                estimate = next_frames(network, windows, tau, self.settings.seed)
                error = rmse(estimate.cpu(), windows.truth)
                found.append(Error(windows.protein.name, windows.stride, tau, error, last))
        return Denoising(tuple(found))


def measure_denoising(
    network: Network,
    proteins: Sequence[ProteinData],
    settings: DenoisingSettings | None = None,
    device: str | torch.device = "cpu",
) -> Denoising:
    """Errors of one network; see :class:`DenoisingTest`.

    Parameters
    ----------
    network : Network
    proteins : sequence of ProteinData
    settings : DenoisingSettings, optional
    device : str or torch.device

    Returns
    -------
    Denoising
    """
    return DenoisingTest(proteins, settings or DenoisingSettings(), network.config, device).measure(network)


def rmse(estimate: Tensor, truth: Tensor) -> float:
    """Root of the mean over targets and residues of squared distances, Å, of positions [..., N, 3] in nm."""
    return ANGSTROM * float((estimate.double() - truth.double()).square().sum(-1).mean().sqrt())


def next_frames(network: Network, windows: Windows, tau: float, seed: int = 0) -> Tensor:
    """The network's estimates of the Cα positions of the targets, as :func:`predicted` gives them: [B, L - 1, N, 3]."""
    return predicted(network, windows, tau, seed).rigids.translations


@torch.inference_mode()
def predicted(network: Network, windows: Windows, tau: float, seed: int = 0) -> Prediction:
    """What the network says of the targets, each noised to `tau`, in one pass.

    Parameters
    ----------
    network : Network
    windows : Windows
    tau : float
    seed : int
        Of the noise.

    Returns
    -------
    Prediction
        Of L - 1 frames, on the network's device.
    """
    device = next(network.parameters()).device
    samples, length, residues = windows.rigids.translations.shape[:3]
    generator = keyed_generator("denoising", seed, windows.protein.name, f"{windows.stride:g} ps", "noise", f"{tau:g}")
    taus = torch.full((samples, length - 1), tau)
    noisy = _noised(windows.rigids.map(lambda x: x[:, 1:]), taus, network.config, generator)

    def copies(clean: Tensor, targets: Tensor) -> Tensor:
        return torch.cat([clean, targets], dim=1).to(device)

    def of_anchor(x: Tensor) -> Tensor:
        return copies(torch.cat([x[:, :1], x[:, :-1]], dim=1), x[:, :-1])

    number = torch.cat([torch.arange(length), torch.arange(1, length)])
    frames = Frames(
        rigids=Rigids(*(copies(*pair) for pair in zip(windows.noised, noisy, strict=True))),
        anchor=windows.history.map(of_anchor),
        tau=copies(windows.context, taus),
        anchor_tau=of_anchor(windows.context),
        stride=torch.full((samples, 2 * length - 1), windows.stride, device=device),
        index=number.to(device),
        noisy=(torch.arange(2 * length - 1) >= length).to(device),
        anchored=(number > 0).to(device),
    )
    condition = network.condition(windows.protein.read_features().to(device))
    if condition.elastic is not None:
        frames = with_expected(frames, condition.elastic, network.config, length)
    prediction = network(condition, frames, block_causal_mask(length, residues, device))
    return prediction.frames(length)
