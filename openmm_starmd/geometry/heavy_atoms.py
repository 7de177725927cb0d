"""Heavy atoms of residues of ideal geometry, with gradients: rigids and torsions to rigid groups and atoms.

The geometry is the table of :mod:`openmm_starmd.geometry.ideal`, which says what the rigid groups of a residue are.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from openmm_starmd.devices import constant
from openmm_starmd.geometry import ideal
from openmm_starmd.geometry.residues import AMINO_ACIDS, STAGGERED_CHI
from openmm_starmd.geometry.rigid import Rigids

# torsion (ψ, χ1..4) that moves each group, itself or through the groups it hangs on; group 0 is moved by none
_CHAINS: tuple[tuple[int, ...], ...] = ((), (0,), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4))
_MOVED_BY = np.array([[torsion in chain for torsion in range(5)] for chain in _CHAINS])


class HeavyAtoms(NamedTuple):
    """Rigid groups and atoms of each residue.

    Attributes
    ----------
    groups : Rigids [..., N, 6]
        Axes and origin of the groups moved by nothing, ψ, χ1, ..., χ4; nm.
    atoms : Tensor [..., N, 14, 3]
        nm, in the order of :data:`openmm_starmd.geometry.ideal.ATOM_NAMES`. Where a residue type has no such atom (see
        :func:`present`) the residue's origin.
    """

    groups: Rigids
    atoms: Tensor


class _Tables(NamedTuple):
    """The arrays of :mod:`openmm_starmd.geometry.ideal` of the same names, by residue type."""

    group: Tensor  # [21, 14]
    local: Tensor  # [21, 14, 3]
    rotation: Tensor  # [21, 6, 3, 3]
    origin: Tensor  # [21, 6, 3]
    atoms: Tensor  # [21, 14], bool
    torsions: Tensor  # [21, 5], bool, which torsions a type has
    symmetric: Tensor  # [21, 5], bool
    moved_by: Tensor  # [6, 5], bool
    staggered: Tensor  # [21, 5], bool, which torsions have staggered wells


@constant
def _tables(device: torch.device, dtype: torch.dtype) -> _Tables:
    psi = np.ones_like(ideal.CHI_MASK[:, :1])
    torsions = np.concatenate([psi, ideal.CHI_MASK], axis=1)
    symmetric = np.concatenate([~psi, ideal.CHI_SYMMETRIC], axis=1)
    wells = np.zeros_like(symmetric)
    for chi, names in enumerate(STAGGERED_CHI, start=1):
        wells[[AMINO_ACIDS.index(name) for name in names], chi] = True
    numbers = [
        torch.from_numpy(x).to(device, dtype) for x in (ideal.ATOM_LOCAL, ideal.GROUP_ROTATION, ideal.GROUP_ORIGIN)
    ]
    flags = [torch.from_numpy(x).to(device) for x in (ideal.ATOM_MASK, torsions, symmetric, _MOVED_BY, wells)]
    return _Tables(torch.from_numpy(ideal.ATOM_GROUP).to(device), *numbers, *flags)


def heavy_atoms(rigids: Rigids, types: Tensor, torsions: Tensor) -> HeavyAtoms:
    """Build all heavy atoms.

    Parameters
    ----------
    rigids : Rigids [..., N]
        nm.
    types : Tensor [N], int64
        0 to 19, 20 for unknown, which has a backbone only.
    torsions : Tensor [..., N, 5, 2]
        Sine and cosine of ψ and χ1..4, unit length.

    Returns
    -------
    HeavyAtoms
    """
    tables = _tables(rigids.translations.device, rigids.translations.dtype)
    sine, cosine = torsions.unbind(-1)
    zero, one = torch.zeros_like(sine), torch.ones_like(sine)
    turns = torch.stack([one, zero, zero, zero, cosine, -sine, zero, sine, cosine], dim=-1)
    turns = torch.unflatten(turns, -1, (3, 3))  # [..., N, 5, 3, 3], about x
    built = [rigids]
    for group in range(1, ideal.GROUPS):
        step = Rigids(tables.rotation[types, group] @ turns[..., group - 1, :, :], tables.origin[types, group])
        built.append(built[ideal.GROUP_PARENT[group]].compose(step))
    groups = Rigids(
        torch.stack([group.rotations for group in built], dim=-3),
        torch.stack([group.translations for group in built], dim=-2),
    )
    residue, chosen = torch.arange(types.shape[0], device=types.device)[:, None], tables.group[types]
    carriers = Rigids(groups.rotations[..., residue, chosen, :, :], groups.translations[..., residue, chosen, :])
    return HeavyAtoms(groups, carriers.apply(tables.local[types]))


def present(types: Tensor, torsion_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Which groups and atoms residues have and know.

    Parameters
    ----------
    types : Tensor [N], int64
    torsion_mask : Tensor [N, 5], bool
        Torsions that are known. What hangs on an unknown one is left out.

    Returns
    -------
    groups : Tensor [N, 6], bool
    atoms : Tensor [N, 14], bool
    """
    tables = _tables(types.device, torch.get_default_dtype())
    known = torsion_mask & tables.torsions[types]
    groups = (known[:, None] | ~tables.moved_by).all(-1)
    return groups, tables.atoms[types] & groups.gather(1, tables.group[types])


def present_index(types: Tensor, torsion_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of the groups and atoms of :func:`present`, counted over all residues.

    How many there are has to be known on the CPU: of tensors on a GPU it is waited for.

    Parameters
    ----------
    types, torsion_mask
        As for :func:`present`.

    Returns
    -------
    groups, atoms : Tensor [G], [A], int64
        Among the 6 N groups and the 14 N atoms, rising.
    """
    groups, atoms = present(types, torsion_mask)
    return groups.flatten().nonzero()[:, 0], atoms.flatten().nonzero()[:, 0]


def symmetric_torsions(types: Tensor) -> Tensor:
    """ψ and χ1..4 that a turn by π changes in nothing but names, [N, 5], bool, of residue types [N]."""
    return _tables(types.device, torch.get_default_dtype()).symmetric[types]


WIDTH = math.radians(30.0)


def staggered(types: Tensor) -> Tensor:
    """Which of ψ, χ1..4 have staggered wells, for residue types [...] (20 for unknown): [..., 5], bool."""
    return _tables(types.device, torch.get_default_dtype()).staggered[types]


def keep_to_wells(torsions: Tensor, types: Tensor, width: float = WIDTH) -> Tensor:
    """Move staggered torsions that lie between two wells to the rim of the nearer one.

    A regression whose answer may lie in either of two wells gives their mean, which is a conformation of neither.

    Parameters
    ----------
    torsions : Tensor [..., N, 5]
        ψ and χ1..4, radians.
    types : Tensor [N], int64
    width : float
        Radians around -60, 60 and 180 degrees that stay as they are.

    Returns
    -------
    Tensor [..., N, 5]
    """
    third, first = 2 * math.pi / 3, math.pi / 3
    well = ((torsions - first) / third).round() * third + first
    kept = well + (torsions - well).clamp(-width, width)
    return torch.where(staggered(types).to(torsions.device), kept, torsions)
