"""Batches of windows: which frames one consists of, and the tensors read for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from openmm_starmd.data.trajectories import ProteinData, Replica
from openmm_starmd.geometry.heavy_atoms import present_index
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
    present : tuple of Tensor [G] and [A], int64, optional
        What :func:`openmm_starmd.geometry.heavy_atoms.present_index` says of the protein. A batch that leaves the CPU
        takes it along, since a GPU would have to be waited for.
    """

    features: Features
    rigids: Rigids
    torsions: Tensor
    torsion_mask: Tensor
    torsion_symmetric: Tensor
    stride: Tensor
    target: Tensor
    key: tuple[int, ...]
    present: tuple[Tensor, Tensor] | None = None

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on `device`; a copy from page-locked memory is not waited for."""
        leaves = torch.device(device).type != "cpu"
        batch = self
        if self.present is None and leaves and self.torsion_mask.device.type == "cpu":
            batch = replace(self, present=present_index(self.features.residue_types, self.torsion_mask))
        # numbers that arrive on the CPU must be waited for
        moved = batch.map(lambda tensor: tensor.to(device, non_blocking=leaves))
        return replace(moved, features=moved.features.to(device))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, from which a GPU copies while the CPU goes on."""
        return self.map(lambda tensor: tensor.pin_memory())

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """The same function applied to all tensors."""
        return Batch(
            features=self.features.map(function),
            rigids=self.rigids.map(function),
            torsions=function(self.torsions),
            torsion_mask=function(self.torsion_mask),
            torsion_symmetric=function(self.torsion_symmetric),
            stride=function(self.stride),
            target=function(self.target),
            key=self.key,
            present=None if self.present is None else (function(self.present[0]), function(self.present[1])),
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
    deform : bool
        Whether the reference structure is deformed.
    hide_torsions, hide_deviation : bool
        Whether the network is told nothing of the reference's torsions, and of how far frames are from it.
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
    deform: bool
    hide_torsions: bool
    hide_deviation: bool
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
