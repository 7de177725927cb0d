"""Wells of side-chain torsions about bonds between two sp3 atoms."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from openmm_starmd.geometry.residues import AMINO_ACIDS

# residues whose χ1, χ2, χ3, χ4 has three staggered wells; what turns about a bond to an sp2 atom, the broad χ3 of Met
# and the ring of Pro have none
_STAGGERED = (
    "CYS SER THR VAL ILE LEU MET LYS ARG GLU GLN ASP ASN HIS TRP PHE TYR".split(),
    "ILE LEU MET LYS ARG GLU GLN".split(),
    "LYS ARG".split(),
    ["LYS"],
)
WIDTH = math.radians(30.0)


def staggered(types: Tensor) -> Tensor:
    """Which of ψ, χ1..4 have staggered wells, for residue types [...] (20 for unknown): [..., 5], bool."""
    table = torch.zeros(len(AMINO_ACIDS) + 1, 5, dtype=torch.bool)
    for chi, names in enumerate(_STAGGERED, start=1):
        table[[AMINO_ACIDS.index(name) for name in names], chi] = True
    return table.to(types.device)[types]


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
