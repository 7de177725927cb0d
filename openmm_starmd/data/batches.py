"""Batches of windows: which frames one consists of, and the tensors read for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from openmm_starmd.data.trajectories import ProteinData, Replica
from openmm_starmd.geometry.rigid import Rigids, superpose
from openmm_starmd.model.features import Features


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
        (seed, step, position in the step): what every random draw made for this batch is keyed by, together with the
        number of the window in it.
    """

    features: Features
    rigids: Rigids
    torsions: Tensor
    torsion_mask: Tensor
    torsion_symmetric: Tensor
    stride: Tensor
    target: Tensor
    key: tuple[int, ...]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on `device`."""
        return Batch(
            features=self.features.to(device),
            rigids=self.rigids.to(device),
            torsions=self.torsions.to(device),
            torsion_mask=self.torsion_mask.to(device),
            torsion_symmetric=self.torsion_symmetric.to(device),
            stride=self.stride.to(device),
            target=self.target.to(device),
            key=self.key,
        )


@dataclass(frozen=True)
class Plan:
    """Which frames a batch consists of, before any is read.

    Attributes
    ----------
    protein : ProteinData
    replica : Replica
    index : np.ndarray [B, L or L - 1], int
        Frames of the trajectory.
    from_start : bool
        Whether the PDB file's structure stands in front of them.
    reference : int or None
        Frame of the trajectory that is the reference structure; the PDB file's without it.
    hide_torsions : bool
        Whether the reference's torsions are hidden.
    stride : np.ndarray [B, L]
        As in :class:`Batch`.
    target : np.ndarray [B, L], bool
        As in :class:`Batch`.
    key : tuple of int
    """

    protein: ProteinData
    replica: Replica
    index: np.ndarray
    from_start: bool
    reference: int | None
    hide_torsions: bool
    stride: np.ndarray
    target: np.ndarray
    key: tuple[int, ...]

    @property
    def counted(self) -> int:
        """Frames that losses are summed over."""
        return int(self.target[:, 1:].sum())

    @property
    def tokens(self) -> int:
        """Residues x frames x windows."""
        return self.target.size * self.protein.features.length


def chained(rigids: Rigids) -> Rigids:
    """Centre the first frame on its Cα centroid and superpose each later one on the frame before; [B, L, N]."""

    def frame(number: int) -> Rigids:
        return rigids.map(lambda x: x[:, number])

    center = rigids.translations[:, 0].mean(-2)
    previous = frame(0)
    previous = Rigids(previous.rotations, previous.translations - center[:, None])
    frames = [previous]
    for number in range(1, rigids.translations.shape[1]):
        previous = superpose(frame(number), previous.translations)
        frames.append(previous)
    return Rigids(torch.stack([f.rotations for f in frames], 1), torch.stack([f.translations for f in frames], 1))
