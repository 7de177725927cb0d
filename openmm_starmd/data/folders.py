"""Folders of training data, whatever they are: stores and ATLAS-style trees."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from openmm_starmd.data.store import is_store, open_store
from openmm_starmd.data.trajectories import ProteinData, load_protein
from openmm_starmd.model.openfold import open_openfold_files


def open_data(folders: Sequence[str | os.PathLike[str]], exclude: Sequence[str] = ()) -> list[ProteinData]:
    """All proteins of several folders; one name in two folders gets the replicas of both.

    Parameters
    ----------
    folders : sequence of path
        Each a store, as ``openmm-starmd prepare`` writes it (trajectories stay on disk), or a tree that holds
        ``NAME/NAME.pdb`` and ``NAME/NAME_prod_R1_fit.xtc`` (read into memory).
    exclude : sequence of str
        Names, or ``NAME:R`` for one replica, to leave out.

    Returns
    -------
    list of ProteinData
        Ordered by name.

    Raises
    ------
    ValueError
        If a folder does not exist, a store is damaged, one name means two proteins, or there is nothing at all.
    """
    found: dict[str, ProteinData] = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise ValueError(f"there is no folder {folder}: give a store of `prepare`, or one in ATLAS layout")
        for protein in open_store(folder, exclude) if is_store(folder) else _load_tree(folder, exclude):
            before = found.get(protein.name)
            found[protein.name] = protein if before is None else _joined(before, protein, folder)
    if not found:
        raise ValueError(
            f"no trajectories in {[str(f) for f in folders]}: expected stores of openmm-starmd prepare, or "
            "NAME/NAME_prod_R*_fit.xtc"
        )
    return [found[name] for name in sorted(found)]


def with_openfold(proteins: Sequence[ProteinData], folder: str | os.PathLike[str]) -> list[ProteinData]:
    """The same proteins with OpenFold's features, which stay on disk.

    Parameters
    ----------
    proteins : sequence of ProteinData
    folder : path
        With ``NAME_single_repr.npy`` (N x 384) and ``NAME_pair_repr.npy`` (N x N x 128) of each.

    Returns
    -------
    list of ProteinData

    Raises
    ------
    ValueError
        If a file is missing or is not an array of numbers of this shape.
    """
    for protein in proteins:
        open_openfold_files(folder, protein.name, protein.features.length)
    return [replace(protein, openfold=Path(folder)) for protein in proteins]


def _load_tree(folder: Path, exclude: Sequence[str]) -> list[ProteinData]:
    """Proteins of an ATLAS-style tree; what cannot be used is left out with a warning."""
    proteins = []
    for path in sorted(folder.iterdir()):
        name = path.name
        matches = (
            re.fullmatch(re.escape(name) + r"_prod_R(\d+)_fit\.xtc", p.name) for p in path.glob(f"{name}_prod_R*")
        )
        numbers = [int(match[1]) for match in matches if match]
        numbers = [number for number in numbers if f"{name}:{number}" not in exclude]
        if name in exclude or not numbers:
            continue
        try:
            proteins.append(load_protein(path, numbers))
        except ValueError as error:
            warnings.warn(f"left out {name}: {error}", UserWarning, stacklevel=3)
    return proteins


def _joined(first: ProteinData, second: ProteinData, folder: Path) -> ProteinData:
    """One protein with the replicas of both, and the later one's reference structure."""
    if not torch.equal(first.features.residue_types, second.features.residue_types):
        raise ValueError(
            f"{first.name} is another protein in {folder} than in a folder before it ({second.sequence}, before "
            f"{first.sequence}): rename or exclude one"
        )
    mask = first.torsion_mask & second.torsion_mask
    return replace(second, replicas=first.replicas + second.replicas, torsion_mask=mask)
