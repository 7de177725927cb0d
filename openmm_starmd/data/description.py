"""Residues of a topology that mdtraj has read, by the very rules of :class:`openmm_starmd.protein.Protein`."""

from __future__ import annotations

from dataclasses import dataclass

import mdtraj
import numpy as np

from openmm_starmd.geometry.residues import COLLAPSED_BOND, FARTHEST_ATOM, PEPTIDE_BOND, SYMMETRIC_CHI, TORN_BOND
from openmm_starmd.model.features import Features
from openmm_starmd.protein.periodic import NARROWEST_BOX, make_whole
from openmm_starmd.protein.residues import PSI_AND_CHI, Residues, one_letter, read_residues
from openmm_starmd.protein.views import View

_TORN = (
    "check that the topology is that of the trajectory, and if the molecule is split across the periodic box, make it "
    "whole (gmx trjconv -pbc whole, cpptraj autoimage)"
)


@dataclass(frozen=True, eq=False)
class Description:
    """The protein of a topology, and where its frames hold what is kept of them.

    Attributes
    ----------
    residues : Residues
        N residues, read from the reference: the positions handed in.
    features : Features
        With the same reference.
    quartets : np.ndarray [Q, 4], int
        Atoms of each torsion that exists, among ``residues.atoms``, in the order of `torsion_mask`'s true entries.
    torsion_mask : np.ndarray [N, 5], bool
        Which of ψ, χ1..4 exist.
    structure : np.ndarray [N, 3, 3], float32
        N, CA, C of the reference, nm.
    torsions : np.ndarray [N, 5], float32
        ψ and χ1..4 of the reference, radians; 0 where there is none.
    """

    residues: Residues
    features: Features
    quartets: np.ndarray
    torsion_mask: np.ndarray
    structure: np.ndarray
    torsions: np.ndarray

    @property
    def sequence(self) -> str:
        """One-letter codes, X for unknown, without a sign between chains."""
        return one_letter(self.residues.names)

    @property
    def bonds(self) -> np.ndarray:
        """C and N of each peptide bond, [B, 2], among ``residues.atoms``."""
        atoms, bonded = self.residues.backbone_atoms, self.residues.bonded
        return np.stack([atoms[:-1, 2][bonded], atoms[1:, 0][bonded]], axis=-1)


def symmetric_torsions(names: tuple[str, ...]) -> np.ndarray:
    """Which of ψ, χ1..4 look the same after half a turn, [N, 5], bool."""
    return np.array([[k > 0 and (name, k - 1) in SYMMETRIC_CHI for k in range(5)] for name in names])


def describe(start: mdtraj.Trajectory) -> Description:
    """Find the protein in a topology, with its first frame as the reference structure.

    Parameters
    ----------
    start : mdtraj.Trajectory
        One frame with all atoms of the trajectories to come; solvent, ions and ligands are left out.

    Returns
    -------
    Description

    Raises
    ------
    ValueError
        If there are fewer than three protein residues, one cannot be a rigid, or a position is not finite; names
        chain, residue and atom.
    """
    vectors = box_of(start)
    residues = read_residues(
        View(start.topology), start.xyz[0].astype(np.float64), None if vectors is None else vectors[0]
    )
    mask = residues.torsion_mask[:, PSI_AND_CHI]
    quartets = residues.torsion_atoms[:, PSI_AND_CHI][mask]
    structure = residues.backbone.astype(np.float32)
    torsions = _torsions(residues.positions[None], quartets, mask)[0]
    return Description(
        residues=residues,
        features=Features.of(residues, structure, torsions, mask),
        quartets=quartets,
        torsion_mask=mask,
        structure=structure,
        torsions=torsions,
    )


def coarse_frames(
    trajectory: mdtraj.Trajectory, description: Description, numbers: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Backbones and torsions of frames.

    Parameters
    ----------
    trajectory : mdtraj.Trajectory
        T frames with all atoms of the described topology.
    description : Description
    numbers : np.ndarray [T], int, optional
        What messages call the frames; counted from 0 by default.

    Returns
    -------
    backbone : np.ndarray [T, N, 3, 3], float32
        N, CA, C, nm; molecules that cross the periodic box are made whole.
    torsions : np.ndarray [T, N, 5], float32
        ψ and χ1..4, radians; 0 where there is none.

    Raises
    ------
    ValueError
        If a residue of some frame cannot be a rigid or a bond is torn; names frame, chain, residue and atom.
    """
    residues = description.residues
    xyz = trajectory.xyz[:, residues.atoms]
    vectors = box_of(trajectory)
    if vectors is not None:
        xyz = _whole(xyz, vectors, description)
    backbone = xyz[:, residues.backbone_atoms]
    _check_frames(xyz, backbone, residues, np.arange(len(xyz)) if numbers is None else numbers)
    return backbone, _torsions(xyz, description.quartets, description.torsion_mask)


def _torsions(xyz: np.ndarray, quartets: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Torsions [T, N, 5] of frames [T, atoms, 3], radians; 0 where `mask` has none."""
    torsions = np.zeros((len(xyz), *mask.shape), dtype=np.float32)
    if len(quartets):
        torsions[:, mask] = mdtraj.compute_dihedrals(mdtraj.Trajectory(xyz, None), quartets, periodic=False)
    return torsions


def box_of(trajectory: mdtraj.Trajectory) -> np.ndarray | None:
    """Box vectors in rows, [T, 3, 3], nm; None where there is no box that could hold a protein."""
    vectors = trajectory.unitcell_vectors
    if vectors is None or not np.isfinite(vectors).all():
        return None
    if np.diagonal(vectors, axis1=1, axis2=2).min() < NARROWEST_BOX:
        return None
    return vectors.astype(np.float64)


def _whole(xyz: np.ndarray, vectors: np.ndarray, description: Description) -> np.ndarray:
    """Frames [T, A, 3] with molecules made whole; those that are whole come back to the bit."""
    residues, bonds = description.residues, description.bonds
    arms = np.abs(xyz - xyz[:, residues.backbone_atoms[residues.owner, 1]]).max((1, 2))
    gaps = np.abs(xyz[:, bonds[:, 1]] - xyz[:, bonds[:, 0]]).max((1, 2), initial=0.0)
    split = (arms > FARTHEST_ATOM) | (gaps > PEPTIDE_BOND)
    if not residues.bonded.all():
        # pieces without a bond between them can be wrapped one by one, which no bond shows
        split[:] = True
    if split.any():
        xyz = xyz.copy()
    chain = residues.chain_index
    for t in np.flatnonzero(split):
        frame = xyz[t].astype(np.float64)
        xyz[t] = make_whole(frame, residues.owner, residues.backbone_atoms, chain, vectors[t], PEPTIDE_BOND)
    return xyz


def _check_frames(xyz: np.ndarray, backbone: np.ndarray, residues: Residues, numbers: np.ndarray) -> None:
    """Raise a ValueError for the first frame that is no protein any more."""

    def place(t: int, residue: int) -> str:
        return f"frame {numbers[t]}: {residues.labels[residue]}"

    finite = np.isfinite(xyz).all(-1)
    for t, atom in np.argwhere(~finite):
        raise ValueError(
            f"{place(t, residues.owner[atom])} atom {residues.atom_names[atom]} has no finite position: cut the "
            "trajectory before this frame"
        )
    to_n, to_c = backbone[:, :, 0] - backbone[:, :, 1], backbone[:, :, 2] - backbone[:, :, 1]
    for other, arm in (("N", to_n), ("C", to_c)):
        length = np.linalg.norm(arm, axis=-1)
        for t, i in np.argwhere((length < COLLAPSED_BOND) | (length > TORN_BOND)):
            raise ValueError(
                f"{place(t, i)}: atoms {other} and CA are {length[t, i]:.3g} nm apart (0.15 is normal); {_TORN}"
            )
    sine = np.linalg.norm(np.cross(to_n, to_c), axis=-1)
    sine /= np.linalg.norm(to_n, axis=-1) * np.linalg.norm(to_c, axis=-1)
    for t, i in np.argwhere(sine < 1e-3):
        raise ValueError(
            f"{place(t, i)}: atoms N, CA and C lie in one line, so that the residue has no orientation; {_TORN}"
        )
    bonded = np.flatnonzero(residues.bonded)
    gaps = np.linalg.norm(backbone[:, bonded + 1, 0] - backbone[:, bonded, 2], axis=-1)
    for t, k in np.argwhere(gaps > TORN_BOND):
        raise ValueError(
            f"{place(t, bonded[k])} atom C and {residues.labels[bonded[k] + 1]} atom N are {gaps[t, k]:.3g} "
            f"nm apart, though bonded in the topology; {_TORN}"
        )
