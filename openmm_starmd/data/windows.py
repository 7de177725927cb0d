"""Windows of frames for training: drawn from a key, so that step n of a run is the same after any restart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from openmm_starmd.data.trajectories import ProteinData, Replica
from openmm_starmd.geometry.rigid import Rigids, backbone_from_rigids, rigids_from_backbone, superpose
from openmm_starmd.model.features import Features


@dataclass(frozen=True)
class WindowSettings:
    """How windows are drawn.

    Attributes
    ----------
    length : int
        Frames per window at most (L); fewer where a trajectory is too short for its stride.
    stride_min, stride_max : float
        Range of the log-uniform stride, ps.
    stride_focus, focus_probability : float
        A stride that is drawn with this probability instead.
    full_frames, full_probability : int, float
        With this probability only trajectories that hold so many frames at the drawn stride are considered: most of
        a rollout is drawn against a full history.
    gap_probability : float
        How often the window begins with a frame from before it, as a bounded context keeps a rollout's first frame:
        one time in two an earlier frame of the trajectory, else the PDB file's structure, from which rollouts start.
    reference_probability : float
        How often the reference structure is a frame of the trajectory, no later than any window of the batch, instead
        of the PDB file's.
    residues : int
        Windows per batch: as many of one protein as make about this many residues.
    seed : int
    """

    length: int = 8
    stride_min: float = 1.0
    stride_max: float = 20.0
    stride_focus: float = 10.0
    focus_probability: float = 0.5
    full_frames: int = 4
    full_probability: float = 0.7
    gap_probability: float = 0.6
    reference_probability: float = 0.2
    residues: int = 80
    seed: int = 0


@dataclass(frozen=True)
class Batch:
    """B windows of one protein.

    Attributes
    ----------
    features : Features
    rigids : Rigids [B, L, N]
        Each frame centred on its Cα centroid and superposed on the one before, nm.
    torsions : Tensor [B, L, N, 5]
        ψ, χ1..4, radians.
    torsion_mask, torsion_symmetric : Tensor [N, 5], bool
    stride : Tensor [B, L]
        Time since the frame before, ps; the window's stride for the first frame.
    target : Tensor [B, L], bool
        Frames that may be predicted.
    key : tuple of int
        (seed, step): what every random draw made for this batch is keyed by.
    """

    features: Features
    rigids: Rigids
    torsions: Tensor
    torsion_mask: Tensor
    torsion_symmetric: Tensor
    stride: Tensor
    target: Tensor
    key: tuple[int, int]


def window_frames(frames: int, length: int, stride: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of a window: ``start + (0, 1, 2, ...) * stride``, at most `length` of them, from `frames` frames.

    Parameters
    ----------
    frames : int
    length : int
    stride : int
        In frames; reduced where even two frames would not fit.
    rng : np.random.Generator

    Returns
    -------
    np.ndarray [<= length], int
    """
    stride = max(1, min(stride, frames - 1))
    count = min(length, (frames - 1) // stride + 1)
    start = rng.integers(frames - (count - 1) * stride)
    return start + stride * np.arange(count)


class WindowDataset(Dataset[Batch]):
    """Batches of windows, one per training step.

    Parameters
    ----------
    proteins : sequence of ProteinData
    settings : WindowSettings
    steps : int
        Length of the dataset: the number of training steps.
    """

    def __init__(self, proteins: Sequence[ProteinData], settings: WindowSettings, steps: int) -> None:
        if not proteins:
            raise ValueError("no proteins to draw windows from")
        self.proteins, self.settings, self.steps = list(proteins), settings, steps
        self.trajectories = [(protein, replica) for protein in proteins for replica in protein.replicas]
        spans = np.array([len(replica) * replica.interval for _, replica in self.trajectories])
        # longer data deserve more visits, but a protein with little data must still be seen
        self.weights = np.sqrt(spans)

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        if not 0 <= step < self.steps:
            raise IndexError(step)
        settings = self.settings
        rng = np.random.default_rng([settings.seed, step])
        if rng.random() < settings.focus_probability:
            stride = settings.stride_focus
        else:
            stride = math.exp(rng.uniform(math.log(settings.stride_min), math.log(settings.stride_max)))
        protein, replica = self._trajectory(stride, rng)
        step_frames = max(1, round(stride / replica.interval))
        frames, interval = len(replica), replica.interval
        opening = "none"
        if rng.random() < settings.gap_probability:
            opening = "earlier" if rng.random() < 0.5 else "start"

        windows, firsts = [], []
        for _ in range(max(1, round(settings.residues / protein.features.length))):
            window = window_frames(frames, settings.length, step_frames, rng)
            if opening == "earlier":
                window[0] = rng.integers(window[0] + 1)
            elif opening == "start" and len(window) == settings.length:
                window = window[1:]
            windows.append(window)
            firsts.append(window[0])
        index = np.stack(windows)  # [B, L] or, with the PDB file's structure in front, [B, L - 1]
        rigids, torsions = replica.rigids(index), replica.torsions_at(index)
        times = interval * (index + 1.0)  # the first frame of a trajectory lies one interval after its start
        if opening == "start":
            # through the atoms, as every other frame has come, so that rounding is the same
            start = rigids_from_backbone(backbone_from_rigids(protein.features.reference).to(rigids.translations))
            start = start.map(lambda x: x.expand(len(index), 1, *x.shape))
            rigids = Rigids(*(torch.cat(pair, dim=1) for pair in zip(start, rigids, strict=True)))
            torsions = np.concatenate([np.zeros_like(torsions[:, :1]), torsions], axis=1)
            times = np.concatenate([np.zeros((len(index), 1)), times], axis=1)
        gaps = np.diff(times, axis=1)
        # a frame across a longer gap than any stride is history only
        target = np.concatenate([np.zeros((len(index), 1), dtype=bool), gaps <= settings.stride_max], axis=1)
        gaps = np.concatenate([gaps[:, -1:], gaps], axis=1)

        features = protein.features
        # behind the PDB file's structure the window's own first frame may be a target
        if opening != "start" and rng.random() < settings.reference_probability:
            features = features.with_reference(replica.rigids(np.array(min(firsts))))
        return Batch(
            features=features,
            rigids=chained(rigids),
            torsions=torch.from_numpy(torsions),
            torsion_mask=torch.from_numpy(protein.torsion_mask),
            torsion_symmetric=torch.from_numpy(protein.torsion_symmetric),
            stride=torch.tensor(gaps, dtype=torch.float32),
            target=torch.from_numpy(target),
            key=(settings.seed, step),
        )

    def _trajectory(self, stride: float, rng: np.random.Generator) -> tuple[ProteinData, Replica]:
        """One trajectory of one protein, by the square root of its length."""
        weights = self.weights
        if rng.random() < self.settings.full_probability:
            span = (self.settings.full_frames - 1) * stride
            full = np.array([(len(r) - 1) * r.interval >= span for _, r in self.trajectories])
            if full.any():
                weights = weights * full
        return self.trajectories[rng.choice(len(weights), p=weights / weights.sum())]


def chained(rigids: Rigids) -> Rigids:
    """Centre the first frame on its Cα centroid and superpose each later one on the frame before; [B, L, N]."""
    center = rigids.translations[:, 0].mean(-2)
    previous = rigids.map(lambda x: x[:, 0])
    previous = Rigids(previous.rotations, previous.translations - center[:, None])
    frames = [previous]
    for frame in range(1, rigids.translations.shape[1]):
        previous = superpose(rigids.map(lambda x, frame=frame: x[:, frame]), previous.translations)
        frames.append(previous)
    return Rigids(torch.stack([f.rotations for f in frames], 1), torch.stack([f.translations for f in frames], 1))
