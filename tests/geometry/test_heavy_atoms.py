"""Heavy atoms from rigids and torsions: against the numpy placement, real side chains, finite differences."""

import mdtraj
import numpy as np
import pytest
import torch

from openmm_starmd.geometry.heavy_atoms import heavy_atoms, present, symmetric_torsions
from openmm_starmd.geometry.ideal import ATOM_MASK, ATOM_NAMES, ideal_atoms
from openmm_starmd.geometry.residues import AMINO_ACIDS, CHI_ATOMS, HEAVY_ATOMS
from openmm_starmd.geometry.rigid import Rigids, backbone_from_rigids, rigids_from_backbone
from openmm_starmd.geometry.so3 import exp_map
from openmm_starmd.geometry.torsions import dihedral
from tests.proteins import VILLIN, random_rotation, villin_features

ALL_TYPES = torch.arange(21)


def poses(types: torch.Tensor, samples: int = 2) -> tuple[Rigids, torch.Tensor]:
    """Random poses [samples, N] and angles [samples, N, 5]."""
    generator = torch.Generator().manual_seed(0)
    shape = (samples, len(types))
    turn, place = torch.randn(2, *shape, 3, generator=generator, dtype=torch.float64)
    angles = 6 * torch.rand(*shape, 5, generator=generator, dtype=torch.float64)
    return Rigids(exp_map(2 * turn), place), angles


def vectors(angles: torch.Tensor) -> torch.Tensor:
    return torch.stack([angles.sin(), angles.cos()], dim=-1)


def test_equals_the_numpy_placement_for_every_residue_type():
    rigids, angles = poses(ALL_TYPES)
    built = heavy_atoms(rigids, ALL_TYPES, vectors(angles)).atoms
    expected = ideal_atoms(ALL_TYPES.numpy(), backbone_from_rigids(rigids).numpy(), angles.numpy())
    assert built.shape == (2, 21, 14, 3)
    assert np.abs(built.numpy() - expected).max() < 1e-12


def test_villins_own_side_chains_come_back():
    """From measured rigids and torsions, every heavy atom near where it lies."""
    pdb = mdtraj.load(VILLIN)
    pdb = pdb.atom_slice([a.index for a in pdb.topology.atoms if a.residue.is_protein and a.element.symbol != "H"])
    residues = list(pdb.topology.residues)
    place = [{atom.name: pdb.xyz[0, atom.index].astype(float) for atom in residue.atoms} for residue in residues]
    types = torch.tensor([AMINO_ACIDS.index(residue.name) for residue in residues])
    backbone = torch.tensor(np.array([[atoms[name] for name in ("N", "CA", "C")] for atoms in place]))
    torsions, known = (
        torch.zeros(len(residues), 5, dtype=torch.float64),
        torch.zeros(len(residues), 5, dtype=torch.bool),
    )
    for i, residue in enumerate(residues):
        quartets = [(place[i], *quartet) for quartet in CHI_ATOMS[residue.name]]
        following = {**place[i], "+N": place[i + 1]["N"]} if i + 1 < len(residues) else {}
        for k, (atoms, *quartet) in enumerate([(following, "N", "CA", "C", "+N"), *quartets]):
            if atoms:
                torsions[i, k] = float(dihedral(*(atoms[name] for name in quartet)))
                known[i, k] = True
    built = heavy_atoms(rigids_from_backbone(backbone), types, vectors(torsions)).atoms
    _, there = present(types, known)
    errors = [
        float(np.linalg.norm(built[i, k].numpy() - place[i][name]))
        for i, residue in enumerate(residues)
        for k, name in enumerate(HEAVY_ATOMS[residue.name])
        if there[i, k]
    ]
    assert len(errors) > 270
    # MD bends angles, and the errors add up along a side chain; a wrong branch or sign would be 0.2 nm off
    assert np.median(errors) < 0.015 and np.mean(errors) < 0.025 and np.max(errors) < 0.15


def test_built_torsions_are_those_asked_for():
    rigids, angles = poses(ALL_TYPES)
    built = heavy_atoms(rigids, ALL_TYPES, vectors(angles)).atoms.numpy()
    for residue, quartets in CHI_ATOMS.items():
        row = AMINO_ACIDS.index(residue)
        for k, quartet in enumerate(quartets):
            columns = [HEAVY_ATOMS[residue].index(name) for name in quartet]
            error = dihedral(*(built[:, row, column] for column in columns)) - angles[:, row, k + 1].numpy()
            assert np.abs(np.angle(np.exp(1j * error))).max() < 1e-3, (residue, quartet)


def test_gradients():
    types = torch.tensor([AMINO_ACIDS.index("ARG"), AMINO_ACIDS.index("TRP")])
    rigids, angles = poses(types, 1)

    def atoms(turn: torch.Tensor, shift: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
        moved = Rigids(rigids.rotations @ exp_map(turn), rigids.translations + shift)
        return heavy_atoms(moved, types, vectors(angle)).atoms

    zeros = [torch.zeros(1, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(atoms, (*zeros, angles.clone().requires_grad_()))


def test_rigid_motion_moves_groups_and_atoms():
    rigids, angles = poses(ALL_TYPES)
    rotation, shift = random_rotation(1).expand(2, 3, 3), torch.ones(2, 3, dtype=torch.float64)
    still = heavy_atoms(rigids, ALL_TYPES, vectors(angles))
    moved = heavy_atoms(rigids.moved(rotation, shift), ALL_TYPES, vectors(angles))
    assert torch.allclose(moved.atoms, still.atoms @ random_rotation(1).T + 1.0, atol=1e-12)
    assert torch.allclose(moved.groups.rotations, random_rotation(1) @ still.groups.rotations, atol=1e-12)


def test_groups_carry_their_atoms():
    """Axes of χ1 of phenylalanine: origin CB, x from CA to CB."""
    types = torch.tensor([AMINO_ACIDS.index("PHE")])
    rigids, angles = poses(types, 1)
    built = heavy_atoms(rigids, types, vectors(angles))
    place = dict(zip(ATOM_NAMES[int(types)], built.atoms[0, 0], strict=True))
    axis = (place["CB"] - place["CA"]) / (place["CB"] - place["CA"]).norm()
    assert torch.allclose(built.groups.translations[0, 0, 2], place["CB"], atol=1e-9)
    assert torch.allclose(built.groups.rotations[0, 0, 2, :, 0], axis, atol=1e-4)


def test_present_atoms_and_groups():
    known = torch.ones(21, 5, dtype=torch.bool)
    groups, atoms = present(ALL_TYPES, known)
    assert torch.equal(atoms, torch.from_numpy(ATOM_MASK))
    lysine, glycine = AMINO_ACIDS.index("LYS"), AMINO_ACIDS.index("GLY")
    assert groups[lysine].tolist() == [True] * 6
    assert groups[glycine].tolist() == groups[20].tolist() == [True, True, False, False, False, False]
    known[lysine, 2] = known[glycine, 0] = False
    groups, atoms = present(ALL_TYPES, known)
    assert groups[lysine].tolist() == [True, True, True, False, False, False]
    names = [ATOM_NAMES[lysine][k] for k in torch.nonzero(atoms[lysine]).flatten()]
    assert names == ["N", "CA", "C", "O", "CB", "CG"]
    assert atoms[glycine].sum() == 3, "no oxygen without psi"


def test_symmetric_torsions():
    types = villin_features(10).residue_types  # LSDEDFKAVF
    expected = [[False] * 5 for _ in range(10)]
    for residue, torsion in ((2, 2), (3, 3), (4, 2), (5, 2), (9, 2)):
        expected[residue][torsion] = True
    assert symmetric_torsions(types).tolist() == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_follows_the_rigids(dtype):
    rigids, angles = poses(ALL_TYPES)
    with torch.inference_mode():
        built = heavy_atoms(rigids.to(dtype), ALL_TYPES, vectors(angles).to(dtype))
    assert built.atoms.dtype == built.groups.rotations.dtype == dtype
    # tables first made in inference still serve training
    angle = angles.to(dtype).requires_grad_()
    heavy_atoms(rigids.to(dtype), ALL_TYPES, vectors(angle)).atoms.sum().backward()
    assert angle.grad.abs().max() > 0
