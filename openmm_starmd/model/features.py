"""What the network is told about a protein, constant in time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from openmm_starmd.geometry.rigid import Rigids, rigids_from_backbone

TORSIONS = 5
"""Torsions of a residue that the network sees and predicts: ψ and χ1..4."""


class ReferenceModes(NamedTuple):
    """Modes of the elastic network of a reference structure.

    Attributes
    ----------
    stiffness : Tensor [K]
        Rising; not below zero.
    vectors : Tensor [3N, K]
        Orthonormal.
    around : Tensor [N, 9], int64
        Residues whose superposition gives each one's axes.
    """

    stiffness: Tensor
    vectors: Tensor
    around: Tensor


class ResidueArrays(Protocol):
    """What :meth:`Features.of` reads of residues, as arrays; the attributes are those of :class:`Features`."""

    @property
    def residue_types(self) -> np.ndarray:
        """[N], int64."""

    @property
    def residue_index(self) -> np.ndarray:
        """[N], int64."""

    @property
    def chain_index(self) -> np.ndarray:
        """[N], int64."""

    @property
    def bonded(self) -> np.ndarray:
        """[N - 1], bool."""


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
    single : Tensor [N, 384], optional
    pair : Tensor [N, N, 128], optional
        OpenFold's features, for weights that condition on them.
    torsions : Tensor [N, 5, 2], optional
        Sine and cosine of ψ and χ1..4 in the reference structure; zero where there is none or it is not known.
    hide_deviation : bool
        Whether the anchored form is told nothing of how far frames are from the reference, as happens in training.
    amplitude : float
        Natural logarithm of a factor on the widths that an elastic prior expects of this protein, as
        :meth:`openmm_starmd.simulation.StarMDSimulation.calibrate` finds it.
    modes : ReferenceModes, optional
        Of the reference, where they were found before: a GPU would have to be waited for. Another reference has none.
    """

    residue_types: Tensor
    residue_index: Tensor
    chain_index: Tensor
    bonded: Tensor
    reference: Rigids
    single: Tensor | None = None
    pair: Tensor | None = None
    torsions: Tensor | None = None
    hide_deviation: bool = False
    amplitude: float = 0.0
    modes: ReferenceModes | None = None

    @classmethod
    def of(cls, residues: ResidueArrays, backbone: np.ndarray, torsions: np.ndarray, mask: np.ndarray) -> Features:
        """Features of residues that were read from a structure or a store.

        Parameters
        ----------
        residues : ResidueArrays
            N residues.
        backbone : np.ndarray [N, 3, 3]
            N, CA, C of the reference structure, nm; the reference has its precision.
        torsions : np.ndarray [N, 5]
            ψ and χ1..4 of the reference structure, radians.
        mask : np.ndarray [N, 5], bool
            Which of them exist.
        """
        return cls(
            residue_types=torch.as_tensor(residues.residue_types),
            residue_index=torch.as_tensor(residues.residue_index),
            chain_index=torch.as_tensor(residues.chain_index),
            bonded=torch.as_tensor(residues.bonded),
            reference=rigids_from_backbone(torch.as_tensor(backbone)),
            torsions=torsion_features(torch.as_tensor(torsions), torch.as_tensor(mask)),
        )

    @property
    def length(self) -> int:
        """Number of residues."""
        return self.residue_types.shape[0]

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Features:
        """The same features on `device`, reference and OpenFold's features in `dtype`."""
        # numbers that arrive on the CPU must be waited for
        leaves = torch.device(device).type != "cpu"
        return self.map(lambda x: x.to(device, dtype if x.is_floating_point() else x.dtype, non_blocking=leaves))

    def map(self, function: Callable[[Tensor], Tensor]) -> Features:
        """The same function applied to all tensors."""
        return Features(
            function(self.residue_types),
            function(self.residue_index),
            function(self.chain_index),
            function(self.bonded),
            self.reference.map(function),
            None if self.single is None else function(self.single),
            None if self.pair is None else function(self.pair),
            None if self.torsions is None else function(self.torsions),
            self.hide_deviation,
            self.amplitude,
            None if self.modes is None else ReferenceModes(*(function(part) for part in self.modes)),
        )

    def with_reference(self, reference: Rigids, torsions: Tensor | None = None) -> Features:
        """The same protein with another reference structure; torsions stay unless those of that are given."""
        torsions = self.torsions if torsions is None else torsions
        return replace(self, reference=reference, torsions=torsions, modes=None)

    def with_openfold(self, single: Tensor, pair: Tensor) -> Features:
        """The same protein with OpenFold's features, ``[N, 384]`` and ``[N, N, 128]``."""
        return replace(self, single=single, pair=pair)

    def positions(self) -> Tensor:
        """Residue positions for RoPE, [N]: chains lie 64 apart, so that their ends are not neighbours."""
        index = self.residue_index - self.residue_index.min()
        new_chain = self.chain_index[1:] != self.chain_index[:-1]
        return torch.cat([index[:1], index.diff().masked_fill(new_chain, 64)]).cumsum(0)


def torsion_features(torsions: Tensor, mask: Tensor) -> Tensor:
    """Sine and cosine of torsions, zero where there is none.

    Parameters
    ----------
    torsions : Tensor [..., 5]
        Radians.
    mask : Tensor [..., 5], bool

    Returns
    -------
    Tensor [..., 5, 2]
    """
    return torch.stack([torsions.sin(), torsions.cos()], dim=-1) * mask[..., None].to(torsions.dtype)
