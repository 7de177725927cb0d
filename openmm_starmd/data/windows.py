"""Windows of frames for training: drawn from a key, so that step n of a run is the same after any restart."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.utils.data import Dataset

from openmm_starmd.data.batches import Batch, Plan, chained
from openmm_starmd.data.trajectories import ProteinData, Replica
from openmm_starmd.geometry.rigid import Rigids, backbone_from_rigids, rigids_from_backbone
from openmm_starmd.model.features import torsion_features

ROUNDING = 1e-4
"""Share by which the gap between two frames may exceed the longest stride: clocks of files are single precision."""


@dataclass(frozen=True)
class WindowSettings:
    """How windows are drawn.

    Attributes
    ----------
    length : int
        Frames per window at most (L); fewer where a trajectory is too short for its stride or a protein too long for
        `tokens`.
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
    torsion_dropout : float
        How often the reference's torsions are hidden, as they are for an input without side chains.
    tokens : int
        Size of a batch, all of one protein: as many windows as make at most so many residues x frames. A protein too
        long for that gets one window, and fewer frames where it must be, though never fewer than two.
    bucket_ratio : float
        The batches of one training step are of proteins whose lengths lie within this factor, so that processes that
        share a step take about the same time over it.
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
    torsion_dropout: float = 0.1
    tokens: int = 800
    bucket_ratio: float = 1.25
    seed: int = 0

    def __post_init__(self) -> None:
        if self.length < 2 or self.tokens < 2:
            raise ValueError(f"length is {self.length} and tokens {self.tokens}; both must be at least 2")
        if not 0 < self.stride_min <= self.stride_max or self.stride_focus <= 0:
            raise ValueError(
                f"strides {self.stride_min} to {self.stride_max} ps, focus {self.stride_focus} ps: they must be "
                "positive and the range in order"
            )
        if self.focus_probability > 0 and not self.stride_min <= self.stride_focus <= self.stride_max:
            raise ValueError(
                f"stride_focus is {self.stride_focus:g} ps, outside stride_min {self.stride_min:g} to stride_max "
                f"{self.stride_max:g} ps: choose one within, or set focus_probability to 0"
            )
        for name in ("focus", "full", "gap", "reference"):
            share = getattr(self, f"{name}_probability")
            if not 0 <= share <= 1:
                raise ValueError(f"{name}_probability is {share}; it must lie in [0, 1]")
        if not 0 <= self.torsion_dropout <= 1:
            raise ValueError(f"torsion_dropout is {self.torsion_dropout}; it must lie in [0, 1]")
        if self.bucket_ratio <= 1:
            raise ValueError(f"bucket_ratio is {self.bucket_ratio}; it must be greater than 1")


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
    """Batches of windows, each a function of the seed, the training step and its position in the step.

    Parameters
    ----------
    proteins : sequence of ProteinData
        Trajectories whose frames lie further apart than any stride are left out, with a warning.
    settings : WindowSettings
    steps : int
        Length of the dataset: the number of training steps.

    Raises
    ------
    ValueError
        If there are no proteins, or none has a trajectory with frames near enough to each other.
    """

    def __init__(self, proteins: Sequence[ProteinData], settings: WindowSettings, steps: int) -> None:
        if not proteins:
            raise ValueError("no proteins to draw windows from")
        self.proteins, self.settings, self.steps = list(proteins), settings, steps
        self.longest = settings.stride_max * (1 + ROUNDING)
        self.trajectories = self._usable()
        self.spans = np.array([(len(replica) - 1) * replica.interval for _, replica in self.trajectories])
        # longer trajectories are drawn more often, but less than in proportion, so that short ones are seen too
        self.weights = np.sqrt([len(replica) * replica.interval for _, replica in self.trajectories])
        lengths = np.array([protein.features.length for protein, _ in self.trajectories])
        self.buckets = np.floor(np.log(lengths) / math.log(settings.bucket_ratio)).astype(int)

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        if not 0 <= step < self.steps:
            raise IndexError(step)
        return self.read(self.plan(step))

    def plan(self, step: int, position: int = 0) -> Plan:
        """Choose the windows of one batch.

        Parameters
        ----------
        step : int
            Training step.
        position : int
            Number of the batch in the step, over all processes.

        Returns
        -------
        Plan
        """
        settings = self.settings
        number, stride, rng = self._choose(step, position)
        protein, replica = self.trajectories[number]
        frames, interval, residues = len(replica), replica.interval, protein.features.length
        step_frames = max(1, min(round(stride / interval), int(self.longest / interval), frames - 1))
        opening = "none"
        if rng.random() < settings.gap_probability:
            opening = "earlier" if rng.random() < 0.5 else "start"

        index, gaps = self._windows(replica, residues, step_frames, opening, rng)
        if not (gaps <= self.longest).any():
            # short windows have only the frame in front before their target, and it lies too far from that
            opening = "none"
            index, gaps = self._windows(replica, residues, step_frames, opening, rng)
        # a frame after a longer gap than any stride is not predicted, only seen
        target = np.concatenate([np.zeros((len(index), 1), dtype=bool), gaps <= self.longest], axis=1)
        gaps = np.concatenate([gaps[:, -1:], gaps], axis=1)
        # behind the PDB file's structure the window's own first frame may be a target
        earliest = opening != "start" and rng.random() < settings.reference_probability
        reference = int(index[:, 0].min()) if earliest else None
        return Plan(
            protein=protein,
            replica=replica,
            index=index,
            from_start=opening == "start",
            reference=reference,
            hide_torsions=bool(rng.random() < settings.torsion_dropout),
            stride=gaps,
            target=target,
            key=(settings.seed, step, position),
        )

    def _usable(self) -> list[tuple[ProteinData, Replica]]:
        """Trajectories with frames near enough to each other to be predicted one from another."""
        found = [(protein, replica) for protein in self.proteins for replica in protein.replicas]
        wide = [(protein.name, replica.interval) for protein, replica in found if replica.interval > self.longest]
        if not wide:
            return found
        names = list(dict.fromkeys(name for name, _ in wide))
        said = (
            f"frames {min(i for _, i in wide):g} ps apart or more, further than windows.stride_max "
            f"{self.settings.stride_max:g} ps, in {len(wide)} of {len(found)} trajectories "
            f"({', '.join(names[:5])}{', ...' if len(names) > 5 else ''}): set windows.stride_max by --config, or "
            "use trajectories with more frames"
        )
        if len(wide) == len(found):
            raise ValueError(said)
        warnings.warn(f"left out: {said}", UserWarning, stacklevel=3)
        return [(protein, replica) for protein, replica in found if replica.interval <= self.longest]

    def _windows(
        self, replica: Replica, residues: int, step_frames: int, opening: str, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Frames of the windows of one batch, [B, L or L - 1], and the times between their frames, [B, L - 1] in ps."""
        settings, frames = self.settings, len(replica)
        length = min(settings.length, max(2, settings.tokens // residues))
        count = min(length, (frames - 1) // step_frames + 1)
        total = count if opening != "start" or count == length else count + 1
        windows = []
        for _ in range(max(1, settings.tokens // (residues * total))):
            window = window_frames(frames, length, step_frames, rng)
            if opening == "earlier":
                window[0] = rng.integers(window[0] + 1)
            elif opening == "start" and len(window) == length:
                window = window[1:]
            windows.append(window)
        index = np.stack(windows)
        times = replica.interval * (index + 1.0)  # the first frame of a trajectory lies one interval after its start
        if opening == "start":
            times = np.concatenate([np.zeros((len(index), 1)), times], axis=1)
        return index, np.diff(times, axis=1)

    def read(self, plan: Plan) -> Batch:
        """The batch of a plan."""
        protein, index = plan.protein, plan.index
        rigids, torsions = plan.replica.rigids(index), plan.replica.torsions_at(index)
        features = protein.read_features()
        if plan.from_start:
            # to atoms and back, as the other frames were made, so that rounding is the same
            start = rigids_from_backbone(backbone_from_rigids(features.reference).to(rigids.translations))
            start = start.map(lambda x: x.expand(len(index), 1, *x.shape))
            rigids = Rigids(*(torch.cat(pair, dim=1) for pair in zip(start, rigids, strict=True)))
            torsions = np.concatenate([np.zeros_like(torsions[:, :1]), torsions], axis=1)
        if plan.reference is not None:
            number = np.array(plan.reference)
            angles = torch.from_numpy(plan.replica.torsions_at(number))
            angles = torsion_features(angles, torch.from_numpy(protein.torsion_mask))
            features = features.with_reference(plan.replica.rigids(number), angles)
        if plan.hide_torsions and features.torsions is not None:
            features = replace(features, torsions=torch.zeros_like(features.torsions))
        return Batch(
            features=features,
            rigids=chained(rigids),
            torsions=torch.from_numpy(torsions),
            torsion_mask=torch.from_numpy(protein.torsion_mask),
            torsion_symmetric=torch.from_numpy(protein.torsion_symmetric),
            stride=torch.tensor(plan.stride, dtype=torch.float32),
            target=torch.from_numpy(plan.target),
            key=plan.key,
        )

    def _choose(self, step: int, position: int) -> tuple[int, float, np.random.Generator]:
        """Trajectory, stride in ps, and the generator that further draws are made with."""
        settings = self.settings
        rng = np.random.default_rng([settings.seed, step, position])
        if rng.random() < settings.focus_probability:
            stride = settings.stride_focus
        else:
            stride = math.exp(rng.uniform(math.log(settings.stride_min), math.log(settings.stride_max)))
        weights = self.weights
        if position:
            first, *_ = self._choose(step, 0)
            weights = weights * (self.buckets == self.buckets[first])
        if rng.random() < settings.full_probability:
            full = weights * (self.spans >= (settings.full_frames - 1) * stride)
            if full.any():
                weights = full
        return int(rng.choice(len(weights), p=weights / weights.sum())), stride, rng
