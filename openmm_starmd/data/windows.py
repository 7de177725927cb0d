"""Windows of frames for training: drawn from a key, so that step n of a run is the same after any restart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from openmm_starmd.data.trajectories import ProteinData
from openmm_starmd.geometry.rigid import Rigids, rigids_from_backbone, superpose
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
    gap_probability : float
        How often the first frame is replaced by an earlier one, as a bounded context keeps a rollout's first frame.
    reference_probability : float
        How often the reference structure is the window's first frame instead of the trajectory's PDB file.
    residues : int
        Windows per batch: as many of one protein as make about this many residues.
    seed : int
    """

    length: int = 8
    stride_min: float = 1.0
    stride_max: float = 20.0
    stride_focus: float = 10.0
    focus_probability: float = 0.4
    gap_probability: float = 0.4
    reference_probability: float = 0.3
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
        # longer data deserve more visits, but a protein with little data must still be seen
        frames = [sum(len(r.backbone) * r.interval for r in p.replicas) for p in self.proteins]
        weight = np.sqrt(np.array(frames))
        self.probabilities = weight / weight.sum()

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        if not 0 <= step < self.steps:
            raise IndexError(step)
        settings = self.settings
        rng = np.random.default_rng([settings.seed, step])
        protein = self.proteins[rng.choice(len(self.proteins), p=self.probabilities)]
        lengths = np.array([len(r.backbone) for r in protein.replicas])
        count = max(1, round(settings.residues / protein.features.length))
        if rng.random() < settings.focus_probability:
            stride = settings.stride_focus
        else:
            stride = math.exp(rng.uniform(math.log(settings.stride_min), math.log(settings.stride_max)))
        replica = protein.replicas[rng.choice(len(lengths), p=lengths / lengths.sum())]
        step_frames = max(1, round(stride / replica.interval))
        picked, times, targets = [], [], []
        first: np.ndarray | None = None
        for _ in range(count):
            window = window_frames(len(replica.backbone), settings.length, step_frames, rng)
            if first is not None and len(first) != len(window):
                raise RuntimeError("windows of one batch differ in length")
            first = window
            target = np.ones(len(window), dtype=bool)
            target[0] = False
            if len(window) > 2 and window[0] > 0 and rng.random() < settings.gap_probability:
                window = window.copy()
                window[0] = rng.integers(window[0])
                target[1] = False
            gaps = np.diff(window, prepend=window[0]) * replica.interval
            gaps[0] = gaps[-1]
            picked.append(window)
            times.append(gaps)
            targets.append(target)

        index = np.stack(picked)  # [B, L]
        rigids = chained(rigids_from_backbone(torch.from_numpy(replica.backbone[index])))
        features = protein.features
        if rng.random() < settings.reference_probability:
            features = features.with_reference(rigids.map(lambda x: x[0, 0]))
        return Batch(
            features=features,
            rigids=rigids,
            torsions=torch.from_numpy(replica.torsions[index]),
            torsion_mask=torch.from_numpy(protein.torsion_mask),
            torsion_symmetric=torch.from_numpy(protein.torsion_symmetric),
            stride=torch.tensor(np.stack(times), dtype=torch.float32),
            target=torch.from_numpy(np.stack(targets)),
            key=(settings.seed, step),
        )


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
