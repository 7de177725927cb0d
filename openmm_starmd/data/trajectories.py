"""Trajectories in ATLAS layout as arrays of backbones and torsions."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import mdtraj
import numpy as np
import torch

from openmm_starmd.geometry.residues import AMINO_ACIDS, THREE_TO_ONE
from openmm_starmd.geometry.rigid import Rigids, rigids_from_backbone
from openmm_starmd.model.features import Features

# χ angles that a rotation by 180° maps onto a chemically identical side chain, by (residue, index of χ from 0)
SYMMETRIC_CHI = {("ASP", 1), ("PHE", 1), ("TYR", 1), ("GLU", 2)}


class Replica(Protocol):
    """One trajectory of one protein, in memory (:class:`LoadedReplica`) or on disk.

    Attributes
    ----------
    interval : float
        Time between frames, ps.
    """

    @property
    def interval(self) -> float:
        """Time between frames, ps."""

    def __len__(self) -> int:
        """Number of frames."""

    def rigids(self, index: np.ndarray) -> Rigids:
        """Poses of the frames `index` [...]: Rigids [..., N], float32, nm. No other frame is read."""

    def torsions_at(self, index: np.ndarray) -> np.ndarray:
        """Torsions of the frames `index` [...]: [..., N, 5], float32: ψ and χ1..4, radians; 0 where there is none."""


@dataclass(frozen=True)
class LoadedReplica:
    """A :class:`Replica` in memory.

    Attributes
    ----------
    backbone : np.ndarray [T, N, 3, 3], float32
        N, CA, C, nm.
    torsions : np.ndarray [T, N, 5], float32
        ψ and χ1..4, radians; 0 where there is none.
    interval : float
        Time between frames, ps.
    """

    backbone: np.ndarray
    torsions: np.ndarray
    interval: float

    def __len__(self) -> int:
        return len(self.backbone)

    def rigids(self, index: np.ndarray) -> Rigids:
        """See :class:`Replica`."""
        return rigids_from_backbone(torch.from_numpy(self.backbone[index]))

    def torsions_at(self, index: np.ndarray) -> np.ndarray:
        """See :class:`Replica`."""
        return self.torsions[index]


@dataclass(frozen=True)
class ProteinData:
    """A protein with its trajectories.

    Attributes
    ----------
    name : str
    sequence : str
        One-letter codes.
    features : Features
        With the PDB file's structure as reference.
    replicas : tuple of Replica
    torsion_mask : np.ndarray [N, 5], bool
    torsion_symmetric : np.ndarray [N, 5], bool
    """

    name: str
    sequence: str
    features: Features
    replicas: tuple[Replica, ...]
    torsion_mask: np.ndarray
    torsion_symmetric: np.ndarray


def load_protein(folder: str | os.PathLike[str], replicas: list[int] | None = None) -> ProteinData:
    """Read ``NAME/NAME.pdb`` and ``NAME/NAME_prod_R*_fit.xtc``.

    Parameters
    ----------
    folder : path
        The folder ``NAME``.
    replicas : list of int, optional
        Numbers of the replicas to read; all by default.

    Returns
    -------
    ProteinData

    Raises
    ------
    ValueError
        If the PDB file is missing, a residue lacks a backbone atom, or there is no trajectory.
    """
    folder = Path(folder)
    name = folder.name
    pdb = folder / f"{name}.pdb"
    if not pdb.exists():
        raise ValueError(f"{pdb} is missing: a protein's folder holds NAME.pdb and NAME_prod_R*_fit.xtc")
    start = mdtraj.load(str(pdb))
    topology = start.topology
    residues = list(topology.residues)
    backbone = np.empty((len(residues), 3), dtype=int)
    for i, residue in enumerate(residues):
        found = {atom.name: atom.index for atom in residue.atoms}
        for k, atom in enumerate(("N", "CA", "C")):
            if atom not in found:
                raise ValueError(f"{pdb}: residue {residue} has no atom {atom}; complete it with PDBFixer first")
            backbone[i, k] = found[atom]

    paths = sorted(folder.glob(f"{name}_prod_R*_fit.xtc"))
    if replicas is not None:
        paths = [path for path in paths if int(path.stem.split("_prod_R")[1].split("_")[0]) in replicas]
    if not paths:
        raise ValueError(f"{folder} holds no trajectory {name}_prod_R*_fit.xtc")
    loaded = []
    for path in paths:
        trajectory = mdtraj.load(str(path), top=topology)
        if trajectory.n_frames < 2:
            continue
        interval = float(np.diff(trajectory.time).mean())
        loaded.append(LoadedReplica(trajectory.xyz[:, backbone], measure_torsions(trajectory)[0], interval))
    if not loaded:
        raise ValueError(f"{folder}: every trajectory has fewer than two frames")

    structure = torch.from_numpy(start.xyz[0][backbone])
    chain = torch.tensor([residue.chain.index for residue in residues])
    number = torch.tensor([residue.resSeq for residue in residues])
    bonded = (structure[:-1, 2] - structure[1:, 0]).norm(dim=-1) < 0.2
    if not bool(((number[1:] > number[:-1]) | (chain[1:] != chain[:-1])).all()):
        number = torch.arange(len(residues))
    types = torch.tensor([AMINO_ACIDS.index(r.name) if r.name in AMINO_ACIDS else 20 for r in residues])
    mask = measure_torsions(start)[1]
    symmetric = np.array([[k > 0 and (r.name, k - 1) in SYMMETRIC_CHI for k in range(5)] for r in residues])
    features = Features(types, number, chain, bonded & (chain[1:] == chain[:-1]), rigids_from_backbone(structure))
    sequence = "".join(THREE_TO_ONE.get(r.name, "X") for r in residues)
    return ProteinData(name, sequence, features, tuple(loaded), mask, symmetric)


def measure_torsions(trajectory: mdtraj.Trajectory) -> tuple[np.ndarray, np.ndarray]:
    """ψ and χ1..4 of every residue.

    Parameters
    ----------
    trajectory : mdtraj.Trajectory
        T frames of N residues, heavy atoms.

    Returns
    -------
    torsions : np.ndarray [T, N, 5], float32
        Radians; 0 where there is none.
    mask : np.ndarray [N, 5], bool
        Where there is one.
    """
    topology = trajectory.topology
    torsions = np.zeros((trajectory.n_frames, topology.n_residues, 5), dtype=np.float32)
    mask = np.zeros((topology.n_residues, 5), dtype=bool)
    functions = (mdtraj.compute_psi, mdtraj.compute_chi1, mdtraj.compute_chi2, mdtraj.compute_chi3, mdtraj.compute_chi4)
    for k, compute in enumerate(functions):
        quartets, values = compute(trajectory)
        if len(quartets) == 0:
            continue
        # the second atom of ψ (CA) and of χ1 (CA), χ2 (CB), ... lies in the residue itself
        owner = [topology.atom(quartet[1]).residue.index for quartet in quartets]
        torsions[:, owner, k] = values
        mask[owner, k] = True
    return torsions, mask
