"""The elastic prior: where the next frame lies, and how widely it scatters, by the modes of an elastic network.

What the anchored form starts from before it has seen the noisy frame is a Gaussian of the next frame. Its isotropic
form knows the time since the last frame alone. Here every mode of an elastic network of the reference structure is a
Gaussian process in time: a fast and a slow Ornstein-Uhlenbeck component and a constant part about the reference,

    C(t) = Vf exp(-rf |t|) + Vs exp(-rs |t|) + Vc.

Its mean and variance given the frames of the history, noised as they are, follow by kriging (Rasmussen and Williams
2006, Gaussian Processes for Machine Learning, eqs. 2.23 and 2.24): soft modes spread more than stiff ones, the mean
goes back to the reference and to older frames as far as motion does, and all of it grows with the stride. Variances and
rates are powers of a mode's stiffness, fitted once to MD of training proteins (benchmarks/derive/elastic_prior.py).

Displacements are seen in axes that turn with each residue's surroundings, so that a part that has moved takes its modes
along.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from openmm_starmd.analysis.network_models import neighbourhoods, smooth_hessian
from openmm_starmd.geometry.rigid import Rigids, superpose
from openmm_starmd.geometry.so3 import log_map
from openmm_starmd.geometry.superposition import superposition
from openmm_starmd.model.elastic_settings import ElasticSettings
from openmm_starmd.model.features import Features, ReferenceModes

RIGID = 6
"""Directions that no mode has: those of rigid motion, which turning surroundings make something else."""
REACH = 4
"""Residues to each side whose superposition gives a residue's axes; 9 residues in all."""
FRAME_NOISE, FRAME_TURN_NOISE = 0.003, 0.01
"""Standard deviation that frames of a history are not trusted beyond, nm and rad."""
CONDITIONING = 1e-4
"""Share of a mode's variance added to the diagonal, so that single precision solves for weights."""
USUAL = 3.5
"""Logarithm of a residue's mean squared fluctuation in a usual folded protein, springs at 3.8 Å being 1."""
LEFT_OVER = 0.1
"""Variance along the left-over directions over the mean of that along the six softest modes."""


@dataclass(frozen=True)
class Expected:
    """The Gaussian of each of F frames, given the frames before it.

    Attributes
    ----------
    axes : Tensor [B, F, N, 3, 3]
        Rotation of each residue's surroundings from the reference to the last frame before.
    mean : Tensor [B, F, N, 3]
        Mean displacement from the last frame before, in those axes, nm.
    variance : Tensor [B, F, K]
        Along each mode, nm².
    turn_mean : Tensor [B, F, N, 3]
        Mean rotation vector from the last frame before, in the residue's own axes, rad.
    turn_variance : Tensor [B, F]
        Of each of its coordinates, rad².
    """

    axes: Tensor
    mean: Tensor
    variance: Tensor
    turn_mean: Tensor
    turn_variance: Tensor

    @classmethod
    def joined(cls, parts: list[Expected]) -> Expected:
        """Frames of several, one after the other."""
        return cls(*(torch.cat([getattr(part, name) for part in parts], dim=1) for name in cls.__dataclass_fields__))


@dataclass(frozen=True)
class ElasticModel:
    """Modes of one protein, or of one reference each of B replicas, with the statistics of their motion.

    The first dimension, B, is 1 where all replicas share a reference.

    Attributes
    ----------
    reference : Rigids [B, N]
    around : Tensor [B, N, 9], int64, or None
        Residues whose superposition gives each one's axes; None for fewer than three residues.
    vectors : Tensor [B, 3N, K]
        Orthonormal.
    squares : Tensor [B, N, K]
        Squared length of each residue's part of a mode.
    fast, fast_rate, slow, slow_rate, constant : Tensor [B, K + 1]
        Variances in nm² and rates in 1/ps; the last of each is that of a rotation vector's coordinate, in rad².
    """

    reference: Rigids
    around: Tensor | None
    vectors: Tensor
    squares: Tensor
    fast: Tensor
    fast_rate: Tensor
    slow: Tensor
    slow_rate: Tensor
    constant: Tensor

    @classmethod
    def of(cls, features: Features, settings: ElasticSettings, amplitude: float = 0.0) -> ElasticModel:
        """Modes of the reference structure of one protein.

        Parameters
        ----------
        features : Features
            N residues. Where they bring no modes, these are found on the CPU.
        settings : ElasticSettings
        amplitude : float
            Natural logarithm of a factor on all displacements, beside what `settings` say of the protein.

        Returns
        -------
        ElasticModel
            On the device and with the precision of the reference.
        """
        modes = reference_modes(features) if features.modes is None else features.modes
        like = features.reference.translations
        residues = len(like)
        stiffness = modes.stiffness.clamp(min=settings.stiffness_min)
        logarithm: float | Tensor = amplitude + settings.widening
        if settings.amplitude:
            intercept, slope = settings.amplitude
            logarithm = logarithm + intercept + slope * looseness(stiffness, residues).clamp(*settings.looseness)
        parts = statistics(stiffness, settings, logarithm)
        squares = modes.vectors.unflatten(0, (residues, 3)).square().sum(1)
        return cls(
            features.reference.map(lambda x: x[None]),
            modes.around.to(like.device)[None] if residues > 2 else None,
            *(x.to(like)[None] for x in (modes.vectors, squares, *parts)),
        )

    @classmethod
    def stacked(cls, models: list[ElasticModel]) -> ElasticModel:
        """One model a replica as one model of B replicas."""
        first = models[0]
        reference = Rigids(*(torch.cat(part) for part in zip(*(model.reference for model in models), strict=True)))
        names = ("vectors", "squares", "fast", "fast_rate", "slow", "slow_rate", "constant")
        around = None if first.around is None else torch.cat([m.around for m in models if m.around is not None])
        return cls(reference, around, *(torch.cat([getattr(model, name) for model in models]) for name in names))

    def spread(self, time: float) -> Tensor:
        """Variance of the displacement over `time` ps along each mode, nm²: [B, K]."""
        return self._grown(self.fast.new_full((1, 1), time))[:, 0, :-1]

    def _grown(self, time: Tensor) -> Tensor:
        """Variance of the displacement over times [B, F], ps: of modes, a turn's coordinate last, [B, F, K + 1]."""
        time = time[..., None]
        grown = 2 * self.fast[:, None] * (1 - torch.exp(-self.fast_rate[:, None] * time))
        return grown + 2 * self.slow[:, None] * (1 - torch.exp(-self.slow_rate[:, None] * time))

    def axes(self, anchor: Rigids) -> Tensor:
        """Rotation of each residue's surroundings from the reference to `anchor` [B, F, N]: [B, F, N, 3, 3]."""
        if self.around is None:
            return anchor.rotations @ self.reference.rotations[:, None].transpose(-1, -2)
        here = surroundings(anchor.translations, self.around)
        there = surroundings(self.reference.translations[:, None], self.around)
        return superposition(there.expand(here.shape), here)[0]

    def weights(self, ages: Tensor, nugget: Tensor, turn_nugget: Tensor) -> tuple[Tensor, Tensor]:
        """Kriging of a frame from n others.

        Parameters
        ----------
        ages : Tensor [B, n]
            How long before the frame they were, ps.
        nugget, turn_nugget : Tensor [B, n]
            Variance of their noise per coordinate, nm² and rad².

        Returns
        -------
        weights : Tensor [B, n, K + 1]
            Of each one's displacement from the reference.
        variance : Tensor [B, K + 1]
            That is left.
        """
        total = self.fast + self.slow + self.constant

        def correlation(time: Tensor) -> Tensor:  # [B, ...] to [B, K + 1, ...]
            more = (...,) + (None,) * (time.ndim - 1)
            there = time[:, None]
            decayed = self.fast[more] * torch.exp(-self.fast_rate[more] * there)
            decayed = decayed + self.slow[more] * torch.exp(-self.slow_rate[more] * there)
            return (self.constant[more] + decayed) / total[more]

        matrix = correlation((ages[:, :, None] - ages[:, None]).abs())  # [B, K + 1, n, n]
        modes = self.fast.shape[1] - 1
        noise = (nugget + FRAME_NOISE**2)[:, None].expand(-1, modes, -1)
        noise = torch.cat([noise, (turn_nugget + FRAME_TURN_NOISE**2)[:, None]], dim=1) / total[..., None]
        matrix = matrix + torch.diag_embed(noise + CONDITIONING)
        towards = correlation(ages)  # [B, K + 1, n]
        # does not ask a GPU whether it worked: with noise on its diagonal the matrix is never singular
        weights = torch.linalg.solve_ex(matrix, towards[..., None])[0][..., 0]
        variance = total * (1 - (weights * towards).sum(-1)).clamp(min=CONDITIONING)
        return weights.movedim(-1, 1), variance

    def expected(self, history: Rigids, ages: Tensor, nugget: Tensor, turn_nugget: Tensor) -> Expected:
        """The Gaussian of one frame given those before it.

        Parameters
        ----------
        history : Rigids [B, n, N]
            Oldest first, on one another; the last is what the frame's displacement is measured from.
        ages, nugget, turn_nugget : Tensor [B, n]
            As for :meth:`weights`.

        Returns
        -------
        Expected
            Of one frame.
        """
        samples, _, residues = history.translations.shape[:3]
        anchor = history.map(lambda x: x[:, -1:])
        axes = self.axes(anchor)
        weights, variance = self.weights(ages, nugget, turn_nugget)
        placed = self.reference.map(lambda x: x.expand(samples, *x.shape[1:]))
        placed = superpose(placed, anchor.translations[:, 0])
        # displacements from the reference: of the last frame, and of the others from that
        shift = placed.translations[:, None] - history.translations  # [B, n, N, 3]
        coordinates = self.coordinates(axes, shift)  # [B, n, K]
        to_reference = self.coordinates(axes, placed.translations[:, None] - anchor.translations)  # [B, 1, K]
        mean = to_reference[:, 0] - (weights[..., :-1] * coordinates).sum(1)  # from the anchor
        inverse = anchor.rotations.transpose(-1, -2)
        turns = log_map(inverse @ history.rotations)  # [B, n, N, 3], none for the last
        home = log_map(inverse @ placed.rotations[:, None])
        turn_mean = home[:, 0] + (weights[:, :, -1, None, None] * (turns - home)).sum(1)
        moved = (mean[:, None] @ self.vectors.transpose(-1, -2)).unflatten(-1, (residues, 3))
        return Expected(axes, moved, variance[:, None, :-1], turn_mean[:, None], variance[:, None, -1])

    def coordinates(self, axes: Tensor, shift: Tensor) -> Tensor:
        """Displacements [B, F, N, 3] of the common axes along each mode in `axes` [B, F or 1, N, 3, 3]: [B, F, K]."""
        return (shift[..., None, :] @ axes).flatten(-3) @ self.vectors

    def without_history(self, frames: Rigids, stride: Tensor) -> Expected:
        """The Gaussian of frames that no frame was before, about themselves; of the width of `stride` [B, F], ps."""
        axes = self.axes(frames)
        zero = torch.zeros_like(frames.translations)
        grown = self._grown(stride)
        return Expected(axes, zero, grown[..., :-1], zero, grown[..., -1])


def surroundings(positions: Tensor, around: Tensor) -> Tensor:
    """Positions [B, F, N, 3] of the residues `around` [B, N, 9] each, either B may be 1: [B, F, N, 9, 3]."""
    samples, frames = max(len(positions), len(around)), positions.shape[1]
    index = around.flatten(1)[:, None, :, None].expand(samples, frames, -1, 3)
    return positions.expand(samples, -1, -1, -1).gather(2, index).unflatten(2, around.shape[1:])


def reference_modes(features: Features) -> ReferenceModes:
    """Modes of the reference structure of `features`, found on the CPU in float64, wherever that lies."""
    alphas = features.reference.translations.detach().cpu().double().numpy()
    bonded = features.bonded.detach().cpu().numpy()
    stiffness, vectors = elastic_modes(alphas, bonded)
    return ReferenceModes(
        torch.from_numpy(stiffness),
        torch.from_numpy(vectors),
        torch.from_numpy(neighbourhoods(alphas, bonded, REACH)),
    )


def elastic_modes(alphas: np.ndarray, bonded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 3N - 6 stiffest modes of :func:`openmm_starmd.analysis.network_models.smooth_hessian`.

    Parameters
    ----------
    alphas : ndarray [N, 3]
        nm.
    bonded : ndarray [N - 1], bool

    Returns
    -------
    stiffness : ndarray [K]
        Rising; not below zero.
    vectors : ndarray [3N, K]
    """
    values, vectors = np.linalg.eigh(smooth_hessian(alphas, bonded))
    return np.maximum(values[RIGID:], 0.0), vectors[:, RIGID:]


def statistics(stiffness: Tensor, settings: ElasticSettings, amplitude: float | Tensor = 0.0) -> tuple[Tensor, ...]:
    """Fast variance and rate, slow variance and rate, constant variance of modes [K], a rotation's last: [K + 1]."""
    s = settings
    fast = s.fast * stiffness**-s.fast_power + s.fast_floor
    slow = s.slow * stiffness**-s.slow_power / (1 + (stiffness / s.slow_limit) ** 2)
    parts = [
        (fast, s.turn_fast),
        (s.fast_rate * stiffness**s.fast_rate_power, s.turn_fast_rate),
        (slow, s.turn_slow),
        (s.slow_rate * stiffness**s.slow_rate_power, s.turn_slow_rate),
        (s.constant * (fast + slow), s.turn_constant * (s.turn_fast + s.turn_slow)),
    ]
    scale = torch.exp(2 * stiffness.new_ones(()) * amplitude)
    whole = [torch.cat([modes, modes.new_ones(1) * turn]) for modes, turn in parts]
    return tuple(part * scale if place in (0, 2, 4) else part for place, part in enumerate(whole))


def looseness(stiffness: Tensor, residues: int) -> Tensor:
    """Logarithm of a residue's mean squared fluctuation in an elastic network, over that of a usual folded protein.

    Parameters
    ----------
    stiffness : Tensor [K]
        Of the modes, above zero.
    residues : int

    Returns
    -------
    Tensor []
        From -0.8 in tight proteins to 2 in extended peptides; 0 without modes.
    """
    return ((1 / stiffness).sum() / residues).log() - USUAL if len(stiffness) else stiffness.new_zeros(())
