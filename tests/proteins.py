"""Small real inputs for tests: villin from the openmm package, as features and backbones."""

from __future__ import annotations

import functools
import os

import openmm.app
import torch
from openmm import unit

from openmm_starmd.data.batches import Batch, chained
from openmm_starmd.geometry.residues import AMINO_ACIDS
from openmm_starmd.geometry.rigid import Rigids, rigids_from_backbone
from openmm_starmd.geometry.so3 import exp_map
from openmm_starmd.model.features import Features

VILLIN = os.path.join(os.path.dirname(openmm.app.__file__), "data", "test.pdb")


@functools.cache
def villin_backbone() -> tuple[torch.Tensor, tuple[str, ...]]:
    """N, CA, C [N, 3, 3] in nm, float64, and residue names."""
    pdb = openmm.app.PDBFile(VILLIN)
    positions = torch.tensor(pdb.positions.value_in_unit(unit.nanometer), dtype=torch.float64)
    rows, names = [], []
    for residue in pdb.topology.residues():
        atoms = {atom.name: atom.index for atom in residue.atoms()}
        if "CA" in atoms and "C" in atoms:
            rows.append([atoms["N"], atoms["CA"], atoms["C"]])
            names.append(residue.name)
    return positions[torch.tensor(rows)], tuple(names)


def villin_features(length: int | None = None, dtype: torch.dtype = torch.float32) -> Features:
    """Features of the first `length` residues of villin."""
    backbone, names = villin_backbone()
    length = length or len(names)
    types = torch.tensor([AMINO_ACIDS.index(name) if name in AMINO_ACIDS else 20 for name in names[:length]])
    return Features(
        types,
        torch.arange(length),
        torch.zeros(length, dtype=torch.long),
        torch.ones(length - 1, dtype=torch.bool),
        rigids_from_backbone(backbone[:length]).to(dtype),
    )


def random_rotation(seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """One rotation matrix [3, 3]."""
    generator = torch.Generator().manual_seed(seed)
    return exp_map(2 * torch.randn(3, generator=generator, dtype=torch.float64)).to(dtype)


def wobbling_frames(features: Features, frames: int, samples: int = 1, seed: int = 0, size: float = 0.05) -> Rigids:
    """Frames [B, L, N] that wobble about the reference: a smooth random walk per residue."""
    generator = torch.Generator().manual_seed(seed)
    reference = features.reference.to(torch.float64)
    n = features.length
    walk = torch.randn(samples, frames, n, 6, generator=generator, dtype=torch.float64).cumsum(1) * size / 2
    walk = (walk + walk.roll(1, 2) + walk.roll(-1, 2)) / 3
    rigids = Rigids(reference.rotations @ exp_map(2 * walk[..., 3:]), reference.translations + walk[..., :3])
    return chained(rigids).to(features.reference.translations.dtype)


def toy_batch(features: Features, frames: int = 4, samples: int = 1, stride: float = 10.0, seed: int = 0) -> Batch:
    """A training batch of wobbling frames."""
    rigids = wobbling_frames(features, frames, samples, seed)
    target = torch.ones(samples, frames, dtype=torch.bool)
    target[:, 0] = False
    generator = torch.Generator().manual_seed(seed + 1)
    torsions = torch.randn(samples, frames, features.length, 5, generator=generator).to(rigids.translations.dtype)
    shape = (features.length, 5)
    return Batch(
        features,
        rigids,
        torsions,
        torch.ones(shape, dtype=torch.bool),
        torch.zeros(shape, dtype=torch.bool),
        torch.full((samples, frames), stride, dtype=rigids.translations.dtype),
        target,
        (seed, 0),
    )
