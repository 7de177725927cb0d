"""What the network is told about a protein, constant in time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from openmm_starmd.geometry.rigid import Rigids


@dataclass(frozen=True)
class Features:
    """Sequence, chain topology and reference structure of one protein.

    Attributes
    ----------
    residue_types : Tensor [N], int64
        0 to 19, 20 for unknown.
    residue_index : Tensor [N], int64
        Position along the chain; a gap in it is a chain break.
    chain_index : Tensor [N], int64
    bonded : Tensor [N - 1], bool
        Whether residue i is peptide-bonded to residue i + 1.
    reference : Rigids [N]
        Pose of each residue in the reference structure, nm. Only its internal geometry is used.
    """

    residue_types: Tensor
    residue_index: Tensor
    chain_index: Tensor
    bonded: Tensor
    reference: Rigids

    @property
    def length(self) -> int:
        """Number of residues."""
        return self.residue_types.shape[0]

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Features:
        """The same features on `device`, the reference in `dtype`."""
        return Features(
            self.residue_types.to(device),
            self.residue_index.to(device),
            self.chain_index.to(device),
            self.bonded.to(device),
            self.reference.to(device=device, dtype=dtype),
        )

    def with_reference(self, reference: Rigids) -> Features:
        """The same protein with another reference structure."""
        return Features(self.residue_types, self.residue_index, self.chain_index, self.bonded, reference)

    def positions(self) -> Tensor:
        """Residue positions for RoPE, [N]: chains lie 64 apart, so that their ends are not neighbours."""
        index = self.residue_index - self.residue_index.min()
        offset = torch.zeros_like(index)
        starts = torch.nonzero(self.chain_index[1:] != self.chain_index[:-1]).flatten() + 1
        for start in starts.tolist():
            offset[start:] = index[start - 1] + offset[start - 1] + 64 - index[start]
        return index + offset
