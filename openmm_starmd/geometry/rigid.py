"""Rigids: the pose of each residue, a rotation and a translation (Cα), and the backbone atoms they carry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from openmm_starmd.devices import constant
from openmm_starmd.geometry.superposition import superposition


class Rigids(NamedTuple):
    """Poses of residues.

    Attributes
    ----------
    rotations : Tensor [..., 3, 3]
        Columns are the axes of the residue's own frame: x along CA→C, z normal to the N-CA-C plane.
    translations : Tensor [..., 3]
        Cα positions, nm.
    """

    rotations: Tensor
    translations: Tensor

    def compose(self, other: Rigids) -> Rigids:
        """``self ∘ other``: `other` is expressed in the axes of `self`."""
        return Rigids(self.rotations @ other.rotations, self.apply(other.translations))

    def apply(self, points: Tensor) -> Tensor:
        """Points [..., 3] of the residue's axes in the common axes (one point per rigid)."""
        return (self.rotations @ points[..., None]).squeeze(-1) + self.translations

    def to_local(self, points: Tensor) -> Tensor:
        """Points [..., 3] of the common axes in the residue's axes (one point per rigid)."""
        return (self.rotations.transpose(-1, -2) @ (points - self.translations)[..., None]).squeeze(-1)

    def relative_to(self, other: Rigids) -> Rigids:
        """``other⁻¹ ∘ self``: this pose as seen from `other`, unchanged by any common rigid motion."""
        return Rigids(other.rotations.transpose(-1, -2) @ self.rotations, other.to_local(self.translations))

    def moved(self, rotation: Tensor, shift: Tensor) -> Rigids:
        """All residues of each frame moved by one rotation [..., 3, 3] and then one shift [..., 3].

        The leading dimensions of `rotation` and `shift` are those of the rigids without the residue axis.
        """
        rotated = self.translations @ rotation.transpose(-1, -2)
        return Rigids(rotation[..., None, :, :] @ self.rotations, rotated + shift[..., None, :])

    def map(self, function: Callable[[Tensor], Tensor]) -> Rigids:
        """The same function applied to rotations and translations (indexing, casting, moving)."""
        return Rigids(function(self.rotations), function(self.translations))

    def to(self, *args: Any, **kwargs: Any) -> Rigids:
        """:meth:`torch.Tensor.to` of both parts."""
        return self.map(lambda tensor: tensor.to(*args, **kwargs))


def rigids_from_backbone(backbone: Tensor) -> Rigids:
    """Rigids from N, CA and C by Gram-Schmidt (AlphaFold 2, supplementary algorithm 21).

    Parameters
    ----------
    backbone : Tensor [..., 3, 3]
        N, CA, C (in this order) of each residue, nm.

    Returns
    -------
    Rigids
        x axis along CA→C, N in the xy plane with positive y.
    """
    n, ca, c = backbone.unbind(-2)
    x = torch.nn.functional.normalize(c - ca, dim=-1, eps=1e-12)
    toward_n = n - ca
    y = toward_n - (toward_n * x).sum(-1, keepdim=True) * x
    y = torch.nn.functional.normalize(y, dim=-1, eps=1e-12)
    z = torch.linalg.cross(x, y)
    return Rigids(torch.stack([x, y, z], dim=-1), ca)


# Ideal N, CA, C and CB in the residue's axes, nm, from bond lengths 1.459, 1.525, 1.530 Å and angles N-CA-C 111.0°,
# N-CA-CB 110.6°, C-CA-CB 110.6° (Engh and Huber 2001, averaged over residue types), L chirality.
IDEAL_BACKBONE = torch.tensor([[-0.05229, 0.13621, 0.0], [0.0, 0.0, 0.0], [0.1525, 0.0, 0.0]], dtype=torch.float64)
IDEAL_CB = torch.tensor([-0.05383, -0.07833, -0.11990], dtype=torch.float64)


@constant
def _ideal(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """N, CA, C [3, 3] and CB [3] in the residue's axes, nm."""
    return IDEAL_BACKBONE.to(device, dtype), IDEAL_CB.to(device, dtype)


def backbone_from_rigids(rigids: Rigids, local: Tensor | None = None) -> Tensor:
    """N, CA and C of each residue.

    Parameters
    ----------
    rigids : Rigids [..., N]
    local : Tensor [N, 3, 3], optional
        N, CA, C in each residue's own axes, nm; ideal geometry by default.

    Returns
    -------
    Tensor [..., N, 3, 3]
        Positions of N, CA, C, nm.
    """
    like = rigids.translations
    local = _ideal(like.device, like.dtype)[0] if local is None else local.to(like)
    return local @ rigids.rotations.transpose(-1, -2) + rigids.translations[..., None, :]


def cb_from_rigids(rigids: Rigids) -> Tensor:
    """Pseudo-Cβ positions ``[..., N, 3]`` in nm, for every residue type alike (glycine too)."""
    _, ideal = _ideal(rigids.translations.device, rigids.translations.dtype)
    return (rigids.rotations @ ideal) + rigids.translations


def superpose(mobile: Rigids, target: Tensor) -> Rigids:
    """Rigids [..., N] moved as one body onto the Cα positions `target` [..., N, 3]."""
    return mobile.moved(*superposition(mobile.translations, target))
