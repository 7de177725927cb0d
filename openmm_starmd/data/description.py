"""Residues of a topology that mdtraj has read, by the very rules of :class:`openmm_starmd.protein.Protein`."""

from __future__ import annotations

from dataclasses import dataclass

import mdtraj
import numpy as np
import torch

from openmm_starmd.geometry.residues import CHI_ATOMS, THREE_TO_ONE
from openmm_starmd.geometry.rigid import rigids_from_backbone
from openmm_starmd.model.features import Features, torsion_features
from openmm_starmd.protein.chains import check_backbone, number_residues, split_chains
from openmm_starmd.protein.periodic import NARROWEST_BOX, make_whole
from openmm_starmd.protein.residues import View
from openmm_starmd.protein.selection import PEPTIDE_BOND, Selected, label, select_protein

# χ angles that a rotation by 180° maps onto a chemically identical side chain, by (residue, index of χ from 0)
SYMMETRIC_CHI = {("ASP", 1), ("PHE", 1), ("TYR", 1), ("GLU", 2)}
TORN_BOND = 0.5
"""nm between bonded atoms of a frame, beyond which it is no protein: force fields stretch bonds, never break them."""
COINCIDENT = 1e-3
"""nm between bonded atoms of a frame, within which they lie on one another."""
FARTHEST_ATOM = 1.0
"""nm from CA to an atom of the same residue, beyond which it is split across the box; arginine reaches 0.8."""

_TORN = (
    "check that the topology is that of the trajectory, and if the molecule is split across the periodic box, make it "
    "whole (gmx trjconv -pbc whole, cpptraj autoimage)"
)


@dataclass(frozen=True, eq=False)
class Description:
    """The protein of a topology, and where its frames hold what is kept of them.

    Attributes
    ----------
    atoms : np.ndarray [A], int
        Heavy protein atoms among those of the topology.
    owner : np.ndarray [A], int
        Residue of each.
    backbone : np.ndarray [N, 3], int
        N, CA, C of each residue, among `atoms`.
    quartets : np.ndarray [Q, 4], int
        Atoms of each torsion that exists, among `atoms`, in the order of `torsion_mask`'s true entries.
    torsion_mask : np.ndarray [N, 5], bool
        Which of ψ, χ1..4 exist.
    features : Features
        Reference: the positions handed in.
    structure : np.ndarray [N, 3, 3], float32
        N, CA, C of the reference, nm.
    torsions : np.ndarray [N, 5], float32
        ψ and χ1..4 of the reference, radians; 0 where there is none.
    names, numbers : tuple of str
        Standard residue names (an unknown amino acid keeps its own), and the input's residue numbers.
    dropped : tuple of str
        What was left out, "HOH x 8000" and the like.
    kept : list of Selected
        For messages.
    """

    atoms: np.ndarray
    owner: np.ndarray
    backbone: np.ndarray
    quartets: np.ndarray
    torsion_mask: np.ndarray
    features: Features
    structure: np.ndarray
    torsions: np.ndarray
    names: tuple[str, ...]
    numbers: tuple[str, ...]
    dropped: tuple[str, ...]
    kept: list[Selected]

    @property
    def sequence(self) -> str:
        """One-letter codes, X for unknown."""
        return one_letter(self.names)

    @property
    def bonds(self) -> np.ndarray:
        """C and N of each peptide bond, [B, 2], among `atoms`."""
        bonded = self.features.bonded.numpy()
        return np.stack([self.backbone[:-1, 2][bonded], self.backbone[1:, 0][bonded]], axis=-1)


def one_letter(names: tuple[str, ...]) -> str:
    """Sequence of standard residue names; X for unknown ones."""
    return "".join(THREE_TO_ONE.get(name, "X") for name in names)


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
        If there are fewer than three protein residues, or one cannot be a rigid; names chain, residue and atom.
    """
    xyz, vectors = start.xyz[0].astype(np.float64), box_of(start)
    selection = select_protein(View(start.topology), xyz, None if vectors is None else vectors[0])  # type: ignore[arg-type]
    kept = selection.kept
    atoms = np.array([atom.index for selected in kept for atom in selected.atoms.values()])
    owner = np.repeat(np.arange(len(kept)), [len(selected.atoms) for selected in kept])
    offsets = np.searchsorted(owner, np.arange(len(kept)))
    places = [{name: int(offsets[i]) + k for k, name in enumerate(s.atoms)} for i, s in enumerate(kept)]
    quartet = np.array([[place["N"], place["CA"], place["C"]] for place in places])
    input_chain = np.array([selected.residue.chain.index for selected in kept])
    xyz = xyz[atoms]
    if vectors is not None:
        xyz = make_whole(xyz, owner, quartet, input_chain, vectors[0], PEPTIDE_BOND)

    backbone = xyz[quartet]
    check_backbone(backbone, kept)
    near = np.linalg.norm(backbone[1:, 0] - backbone[:-1, 2], axis=-1) < PEPTIDE_BOND
    bonded = near & (input_chain[1:] == input_chain[:-1])
    chain = split_chains(kept, input_chain, bonded)
    index = number_residues(kept, chain, bonded, backbone)
    quartets, mask = _torsion_quartets(kept, places, bonded)
    structure = backbone.astype(np.float32)
    torsions = _torsions(xyz[None], quartets, mask)[0]
    features = Features(
        torch.tensor([selected.type for selected in kept]),
        torch.from_numpy(index),
        torch.from_numpy(chain),
        torch.from_numpy(bonded),
        rigids_from_backbone(torch.from_numpy(structure)),
        torsions=torsion_features(torch.from_numpy(torsions), torch.from_numpy(mask)),
    )
    return Description(
        atoms=atoms,
        owner=owner,
        backbone=quartet,
        quartets=quartets,
        torsion_mask=mask,
        features=features,
        structure=structure,
        torsions=torsions,
        names=tuple(selected.name for selected in kept),
        numbers=tuple(f"{selected.residue.id}{selected.residue.insertionCode}" for selected in kept),
        dropped=selection.dropped,
        kept=kept,
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
    xyz = trajectory.xyz[:, description.atoms]
    vectors = box_of(trajectory)
    if vectors is not None:
        xyz = _whole(xyz, vectors, description)
    backbone = xyz[:, description.backbone]
    _check_frames(xyz, backbone, description, np.arange(len(xyz)) if numbers is None else numbers)
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


def _torsion_quartets(kept: list[Selected], places: list[dict[str, int]], bonded: np.ndarray):
    """Atoms of each torsion that exists, [Q, 4], residue by residue, and which those are, [N, 5]."""
    quartets, mask = [], np.zeros((len(kept), 5), dtype=bool)
    for i, (selected, place) in enumerate(zip(kept, places, strict=True)):
        if i < len(bonded) and bonded[i]:
            quartets.append([place["N"], place["CA"], place["C"], places[i + 1]["N"]])
            mask[i, 0] = True
        for k, names in enumerate(CHI_ATOMS.get(selected.name, ())):
            if all(name in place for name in names):
                quartets.append([place[name] for name in names])
                mask[i, 1 + k] = True
    return np.array(quartets, dtype=np.int64).reshape(-1, 4), mask


def _whole(xyz: np.ndarray, vectors: np.ndarray, description: Description) -> np.ndarray:
    """Frames [T, A, 3] with molecules made whole; those that are whole come back to the bit."""
    arms = np.abs(xyz - xyz[:, description.backbone[description.owner, 1]]).max((1, 2))
    bonds = description.bonds
    gaps = np.abs(xyz[:, bonds[:, 1]] - xyz[:, bonds[:, 0]]).max((1, 2), initial=0.0)
    split = (arms > FARTHEST_ATOM) | (gaps > PEPTIDE_BOND)
    if not bool(description.features.bonded.all()):
        # pieces without a bond between them may change sides one by one
        split[:] = True
    if split.any():
        xyz = xyz.copy()
    chain = description.features.chain_index.numpy()
    for t in np.flatnonzero(split):
        xyz[t] = make_whole(
            xyz[t].astype(np.float64), description.owner, description.backbone, chain, vectors[t], PEPTIDE_BOND
        )
    return xyz


def _check_frames(xyz: np.ndarray, backbone: np.ndarray, description: Description, numbers: np.ndarray) -> None:
    """Raise a ValueError for the first frame that is no protein any more."""

    def place(t: int, residue: int) -> str:
        return f"frame {numbers[t]}: {_label(description.kept[residue])}"

    finite = np.isfinite(xyz).all(-1)
    for t, atom in np.argwhere(~finite):
        residue = description.owner[atom]
        name = list(description.kept[residue].atoms)[atom - np.searchsorted(description.owner, residue)]
        raise ValueError(
            f"{place(t, residue)} atom {name} has no finite position: cut the trajectory before this frame"
        )
    to_n, to_c = backbone[:, :, 0] - backbone[:, :, 1], backbone[:, :, 2] - backbone[:, :, 1]
    for other, arm in (("N", to_n), ("C", to_c)):
        length = np.linalg.norm(arm, axis=-1)
        for t, i in np.argwhere((length < COINCIDENT) | (length > TORN_BOND)):
            raise ValueError(
                f"{place(t, i)}: atoms {other} and CA are {length[t, i]:.3g} nm apart (0.15 is normal); {_TORN}"
            )
    sine = np.linalg.norm(np.cross(to_n, to_c), axis=-1)
    sine /= np.linalg.norm(to_n, axis=-1) * np.linalg.norm(to_c, axis=-1)
    for t, i in np.argwhere(sine < 1e-3):
        raise ValueError(
            f"{place(t, i)}: atoms N, CA and C lie in one line, so that the residue has no orientation; {_TORN}"
        )
    bonded = np.flatnonzero(description.features.bonded.numpy())
    gaps = np.linalg.norm(backbone[:, bonded + 1, 0] - backbone[:, bonded, 2], axis=-1)
    for t, k in np.argwhere(gaps > TORN_BOND):
        raise ValueError(
            f"{place(t, bonded[k])} atom C and {_label(description.kept[bonded[k] + 1])} atom N are {gaps[t, k]:.3g} "
            f"nm apart, though bonded in the topology; {_TORN}"
        )


def _label(selected: Selected) -> str:
    return label(selected.residue, selected.name)
