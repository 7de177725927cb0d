"""Windows of frames for training: drawn from a key, so that step n of a run is the same after any restart."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.utils.data import Dataset

from openmm_starmd.data.augmentation import ReferenceDeformer
from openmm_starmd.data.batches import Batch, Plan, chained
from openmm_starmd.data.trajectories import ProteinData, Replica
from openmm_starmd.geometry.rigid import Rigids, backbone_from_rigids, rigids_from_backbone
from openmm_starmd.model.features import torsion_features

ROUNDING = 1e-4
"""Share by which the gap between two frames may exceed the longest stride: clocks of files are single precision."""
COLD_SPREAD = 1.5
"""A trajectory has one beginning: further cold windows of a batch have strides within this factor of the first's."""


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
    share_max : float
        Largest share of the draws that falls to one protein, all its trajectories together, whatever stride is drawn.
        What a protein has above it goes to the others in proportion; where fewer than 1 / share_max proteins have
        trajectories for a stride, they have equal shares. Then only trajectories that can show a stride are drawn for
        it, and all batches of a training step have one stride. 1 sets no limit: trajectories too short for their stride
        show a shorter one.
    cold_probability : float
        How often the windows are a rollout's beginning: the PDB file's structure, which is the reference as well, then
        the trajectory's frames at one, two, three ... strides. The way to the first of them is longer by the MD that
        went before the file.
    deformation_probability, deformation : float
        How often a reference that is the PDB file's structure, and does not stand in front of the window, is deformed
        along its soft modes, and the root mean square displacement of Cα at most, nm; see
        :class:`openmm_starmd.data.augmentation.ReferenceDeformer`.
    deviation_dropout : float
        How often the anchored form is not told how far frames are from the reference.
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
    share_max: float = 1.0
    cold_probability: float = 0.0
    deformation_probability: float = 0.0
    deformation: float = 0.25
    deviation_dropout: float = 0.0

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
        kinds = ("focus", "full", "gap", "reference", "cold", "deformation")
        for name in (*(f"{kind}_probability" for kind in kinds), "torsion_dropout", "deviation_dropout"):
            share = getattr(self, name)
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is {share}; it must lie in [0, 1]")
        if not 0 < self.share_max <= 1:
            raise ValueError(
                f"share_max is {self.share_max}; it must be above 0 and at most 1, which sets no limit to a protein"
            )
        if not 0 < self.deformation <= 1:
            raise ValueError(
                f"deformation is {self.deformation}; it must be above 0 and at most 1 nm (deformation_probability 0 "
                "switches it off)"
            )
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


def limited(weights: np.ndarray, owners: np.ndarray, share: float) -> np.ndarray:
    """Weights scaled until no owner has more than `share` of their sum.

    Parameters
    ----------
    weights : np.ndarray [T]
        Not negative, and not all zero.
    owners : np.ndarray [T], int
        Whose each weight is.
    share : float

    Returns
    -------
    np.ndarray [T]
        With a sum of 1. What is cut off is spread over the other owners in proportion; where fewer than 1 / share
        owners have any weight, those have equal shares. Weights of one owner keep their proportions.
    """
    totals = np.bincount(owners, weights)
    shares = totals / totals.sum()
    limit = max(share, 1 / np.count_nonzero(shares))
    full = np.zeros(len(shares), dtype=bool)
    while (over := ~full & (shares > limit)).any():
        full |= over
        shares[full] = limit
        rest = shares[~full].sum()
        if rest > 0:
            shares[~full] *= max(0.0, 1 - limit * full.sum()) / rest
    scaled: np.ndarray = weights * (shares / np.where(totals > 0, totals, 1.0))[owners]
    return scaled / scaled.sum()


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
        self.counts = np.array([len(replica) for _, replica in self.trajectories])
        self.intervals = np.array([replica.interval for _, replica in self.trajectories])
        self.spans = (self.counts - 1) * self.intervals
        places = {id(protein): place for place, protein in enumerate(self.proteins)}
        self.owners = np.array([places[id(protein)] for protein, _ in self.trajectories])
        # longer trajectories are drawn more often, but less than in proportion, so that short ones are seen too
        self.weights = np.sqrt([len(replica) * replica.interval for _, replica in self.trajectories])
        lengths = np.array([protein.features.length for protein, _ in self.trajectories])
        self.buckets = np.floor(np.log(lengths) / math.log(settings.bucket_ratio)).astype(int)
        self.deformer = ReferenceDeformer(settings.deformation)

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
        if settings.cold_probability and rng.random() < settings.cold_probability:
            opening = "cold"
        elif rng.random() < settings.gap_probability:
            opening = "earlier" if rng.random() < 0.5 else "start"

        windows = self._beginnings if opening == "cold" else self._windows
        index, gaps = windows(replica, residues, step_frames, opening, rng)
        if not (gaps <= self.longest).any():
            # short windows have only the frame in front before their target, and it lies too far from that
            opening = "none"
            index, gaps = self._windows(replica, residues, step_frames, opening, rng)
        # a frame after a longer gap than any stride is not predicted, only seen
        target = np.concatenate([np.zeros((len(index), 1), dtype=bool), gaps <= self.longest], axis=1)
        gaps = np.concatenate([gaps[:, -1:], gaps], axis=1)
        # behind the PDB file's structure the window's own first frame may be a target
        from_start = opening in ("start", "cold")
        earliest = not from_start and rng.random() < settings.reference_probability
        reference = int(index[:, 0].min()) if earliest else None
        hide_torsions = bool(rng.random() < settings.torsion_dropout)
        # drawn last, so that windows are the same with and without
        deform, hide_deviation = (
            rng.random(2) < (settings.deformation_probability, settings.deviation_dropout)
        ).tolist()
        return Plan(
            protein=protein,
            replica=replica,
            index=index,
            from_start=from_start,
            reference=reference,
            deform=deform and reference is None and not from_start,
            hide_torsions=hide_torsions,
            hide_deviation=hide_deviation,
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

    def _beginnings(
        self, replica: Replica, residues: int, step_frames: int, opening: str, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`_windows`, of windows that begin with the trajectory, their strides a little different."""
        settings, frames = self.settings, len(replica)
        length = min(settings.length, max(2, settings.tokens // residues))
        later = min(length - 1, frames // step_frames)
        longest = min(frames // later, max(1, int(self.longest / replica.interval)))
        shortest = math.ceil(step_frames / COLD_SPREAD)
        strides = np.arange(shortest, min(longest, int(step_frames * COLD_SPREAD)) + 1)
        others = max(1, settings.tokens // (residues * (later + 1))) - 1
        each = np.concatenate([[step_frames], rng.choice(strides, others)])
        gaps = replica.interval * np.repeat(each[:, None], later, axis=1)
        return each[:, None] * np.arange(1, later + 1) - 1, gaps

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
        if plan.deform:
            features = self.deformer(features, *plan.key)
        if plan.hide_torsions and features.torsions is not None:
            features = replace(features, torsions=torch.zeros_like(features.torsions))
        if plan.hide_deviation:
            features = replace(features, hide_deviation=True)
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
        limits = settings.share_max < 1
        # shares hold for a stride: a batch whose bucket was chosen at another one could not keep to them
        common = np.random.default_rng([settings.seed, step, 0]) if limits and position else rng
        if common.random() < settings.focus_probability:
            stride = settings.stride_focus
        else:
            stride = math.exp(common.uniform(math.log(settings.stride_min), math.log(settings.stride_max)))
        same = np.ones(len(self.weights), dtype=bool)
        if position:
            first, *_ = self._choose(step, 0)
            same = self.buckets == self.buckets[first]
        if limits:
            weights = self._limited(stride) * same
        else:
            weights = self.weights * same
            if rng.random() < settings.full_probability:
                weights = self._full(stride, weights)
        return int(rng.choice(len(weights), p=weights / weights.sum())), stride, rng

    def _full(self, stride: float, weights: np.ndarray) -> np.ndarray:
        """Those of `weights` whose trajectories hold `full_frames` at the stride; all where none does."""
        full = weights * (self.spans >= (self.settings.full_frames - 1) * stride)
        return full if full.any() else weights

    def _limited(self, stride: float) -> np.ndarray:
        """Chances of all trajectories at a stride, no protein's above `share_max`."""
        settings = self.settings
        apart = np.rint(stride / self.intervals)
        shown = self.weights * ((apart >= 1) & (apart < self.counts))
        weights = shown if shown.any() else self.weights
        full = self._full(stride, weights)
        share = settings.full_probability
        mixed = share * full / full.sum() + (1 - share) * weights / weights.sum()
        return limited(mixed, self.owners, settings.share_max)
