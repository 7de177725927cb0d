"""Rotations and rigids: inverses, gradients at the singular points, superposition, chirality."""

import math

import pytest
import torch

from openmm_starmd.geometry.rigid import (
    IDEAL_BACKBONE,
    Rigids,
    backbone_from_rigids,
    cb_from_rigids,
    rigids_from_backbone,
    superpose,
)
from openmm_starmd.geometry.so3 import (
    UNIFORM_MEAN_ANGLE,
    angle_of,
    exp_map,
    hat,
    log_map,
    matrix_to_quaternion,
    quaternion_to_matrix,
    rotation_from_gaussian,
)
from openmm_starmd.geometry.superposition import superposition

DOUBLE = torch.float64
# Zero, both sides of the switches between series and closed form (angles 1e-2 and 1e-1 in exp, 2e-4 in log), and π.
LENGTHS = [
    0.0,
    1e-30,
    1e-9,
    1e-5,
    1.9e-4,
    2.1e-4,
    0.00999,
    0.01001,
    0.0999,
    0.1001,
    1.0,
    2.0,
    3.0,
    3.14,
    math.pi - 1e-7,
]
DTYPES = [torch.float32, torch.float64]


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def directions(count: int = 50) -> torch.Tensor:
    axes = torch.eye(3, dtype=DOUBLE)
    return torch.cat([axes, -axes, torch.nn.functional.normalize(normal(0, count, 3), dim=-1)])


def rotation(seed: int, *shape: int) -> torch.Tensor:
    return rotation_from_gaussian(normal(seed, *shape, 4))


def test_hat_is_the_cross_product():
    u, v = normal(1, 7, 3), normal(2, 7, 3)
    torch.testing.assert_close((hat(u) @ v[..., None]).squeeze(-1), torch.linalg.cross(u, v))


@pytest.mark.parametrize("length", LENGTHS)
def test_exp_is_the_matrix_exponential(length):
    vector = length * directions()
    torch.testing.assert_close(exp_map(vector), torch.linalg.matrix_exp(hat(vector)), rtol=0, atol=2e-14)
    assert (exp_map(vector.float()).double() - exp_map(vector)).abs().max() < 1e-6


@pytest.mark.parametrize("length", LENGTHS)
def test_log_inverts_exp(length):
    vector = length * directions()
    torch.testing.assert_close(log_map(exp_map(vector)), vector, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(angle_of(exp_map(vector)), vector.norm(dim=-1), rtol=1e-12, atol=1e-13)
    single = log_map(exp_map(vector.float()))
    # Within rounding of π the sign of the axis is undetermined in float32.
    torch.testing.assert_close(exp_map(single), exp_map(vector.float()), rtol=0, atol=2e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp_inverts_log_also_at_half_turns(dtype):
    half_turns = 2 * directions()[:, :, None] * directions()[:, None, :] - torch.eye(3, dtype=DOUBLE)
    matrices = torch.cat([half_turns, rotation(3, 500)]).to(dtype)
    vectors = log_map(matrices)
    assert vectors.dtype == dtype
    assert vectors.norm(dim=-1).max() <= math.pi + 1e-6
    torch.testing.assert_close(exp_map(vectors), matrices, rtol=0, atol=1e-13 if dtype == DOUBLE else 2e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [*LENGTHS, math.pi])
def test_gradients_are_finite(length, dtype):
    vector = (length * directions()).to(dtype).requires_grad_()
    weights = normal(4, 3, 3).to(dtype)
    (gradient,) = torch.autograd.grad((exp_map(vector) * weights).sum(), vector)
    assert gradient.isfinite().all()
    matrix = exp_map(vector.detach()).requires_grad_()
    for function in (log_map, angle_of) if length > 1e-5 else (log_map,):
        (gradient,) = torch.autograd.grad(function(matrix).sum(), matrix)
        assert gradient.isfinite().all()
        assert gradient.abs().max() < 1e3 / min(1.0, length or 1.0)
    (gradient,) = torch.autograd.grad(log_map(exp_map(vector)).sum(), vector)
    assert gradient.isfinite().all()
    if length < 3.14:
        # exp and log are inverse, so their product has the identity for a derivative.
        torch.testing.assert_close(gradient, torch.ones_like(vector), rtol=0, atol=1e-9 if dtype == DOUBLE else 2e-3)


def test_quaternions_go_round():
    quaternion = torch.nn.functional.normalize(normal(5, 300, 4), dim=-1)
    quaternion = torch.cat([quaternion, torch.eye(4, dtype=DOUBLE), -torch.eye(4, dtype=DOUBLE)])
    matrix = quaternion_to_matrix(3 * quaternion)
    back = matrix_to_quaternion(matrix)
    assert (back[:, 0] >= 0).all()
    torch.testing.assert_close((back * quaternion).sum(-1).abs(), torch.ones(len(quaternion), dtype=DOUBLE))
    torch.testing.assert_close(torch.linalg.det(matrix), torch.ones(len(quaternion), dtype=DOUBLE))


def test_gaussian_quaternions_are_uniform_rotations():
    drawn = rotation(6, 100_000)
    assert angle_of(drawn).mean().item() == pytest.approx(UNIFORM_MEAN_ANGLE, abs=0.01)
    torch.testing.assert_close(drawn.mean(0), torch.zeros(3, 3, dtype=DOUBLE), rtol=0, atol=0.01)
    turned = rotation(7) @ drawn
    assert angle_of(turned).mean().item() == pytest.approx(UNIFORM_MEAN_ANGLE, abs=0.01)


@pytest.mark.parametrize("dtype", DTYPES)
def test_backbone_and_rigids_go_round(dtype):
    rigids = Rigids(rotation(8, 4, 9), normal(9, 4, 9, 3)).to(dtype)
    tolerance = 1e-12 if dtype == DOUBLE else 3e-6
    backbone = backbone_from_rigids(rigids)
    assert backbone.shape == (4, 9, 3, 3) and backbone.dtype == dtype
    back = rigids_from_backbone(backbone)
    torch.testing.assert_close(back.rotations, rigids.rotations, rtol=0, atol=tolerance)
    torch.testing.assert_close(back.translations, rigids.translations, rtol=0, atol=0)
    # The residues' own local atoms are carried exactly.
    atoms = (IDEAL_BACKBONE + 0.01 * normal(10, 4, 9, 3, 3)).to(dtype)
    own = rigids_from_backbone(atoms)
    local = torch.stack([own.to_local(atoms[..., i, :]) for i in range(3)], dim=-2)
    torch.testing.assert_close(backbone_from_rigids(own, local), atoms, rtol=0, atol=tolerance)


def test_axes_of_a_rigid():
    backbone = normal(11, 20, 3, 3)
    rigids = rigids_from_backbone(backbone)
    torch.testing.assert_close(torch.linalg.det(rigids.rotations), torch.ones(20, dtype=DOUBLE))
    n, c = rigids.to_local(backbone[:, 0]), rigids.to_local(backbone[:, 2])
    assert (c[:, 0] > 0).all() and c[:, 1:].abs().max() < 1e-12
    assert (n[:, 1] > 0).all() and n[:, 2].abs().max() < 1e-12


def test_rigid_algebra():
    a = Rigids(rotation(12, 5), normal(13, 5, 3))
    b = Rigids(rotation(14, 5), normal(15, 5, 3))
    points = normal(16, 5, 3)
    torch.testing.assert_close(a.compose(b).apply(points), a.apply(b.apply(points)))
    torch.testing.assert_close(a.to_local(a.apply(points)), points)
    again = a.compose(b.relative_to(a))
    torch.testing.assert_close(again.rotations, b.rotations)
    torch.testing.assert_close(again.translations, b.translations)
    turn, shift = rotation(17), normal(18, 3)
    seen, moved = b.relative_to(a), b.moved(turn, shift).relative_to(a.moved(turn, shift))
    torch.testing.assert_close(moved.rotations, seen.rotations)
    torch.testing.assert_close(moved.translations, seen.translations)


def test_moving_the_backbone_moves_the_rigids():
    backbone, turn, shift = normal(19, 6, 8, 3, 3), rotation(20, 6), normal(21, 6, 3)
    moved = backbone @ turn[:, None].transpose(-1, -2) + shift[:, None, None]
    expected, found = rigids_from_backbone(backbone).moved(turn, shift), rigids_from_backbone(moved)
    torch.testing.assert_close(found.rotations, expected.rotations)
    torch.testing.assert_close(found.translations, expected.translations)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", ["solid", "planar", "collinear"])
def test_superposition_undoes_a_motion(shape, dtype):
    points, turn, shift = normal(22, 6, 12, 3), rotation(23, 6), normal(24, 6, 3)
    flat = {"solid": [1.0, 1.0, 1.0], "planar": [1.0, 1.0, 0.0], "collinear": [1.0, 0.0, 0.0]}[shape]
    points = points * torch.tensor(flat, dtype=DOUBLE)
    target = points @ turn.transpose(-1, -2) + shift[:, None]
    found, moved = superposition(points.to(dtype), target.to(dtype))
    tolerance = 1e-10 if dtype == DOUBLE else 1e-5
    torch.testing.assert_close(torch.linalg.det(found), torch.ones(6, dtype=dtype), rtol=0, atol=tolerance)
    torch.testing.assert_close(
        points.to(dtype) @ found.transpose(-1, -2) + moved[:, None], target.to(dtype), rtol=0, atol=tolerance
    )
    if shape != "collinear":
        torch.testing.assert_close(found, turn.to(dtype), rtol=0, atol=tolerance)


def test_superposition_on_a_mirror_image_is_proper_and_optimal():
    points = normal(25, 12, 3)
    mirror = points * torch.tensor([1.0, 1.0, -1.0], dtype=DOUBLE)
    found, shift = superposition(points, mirror)
    assert torch.linalg.det(found).item() == pytest.approx(1)

    def deviation(turn: torch.Tensor) -> torch.Tensor:
        centred = (points - points.mean(0)) @ turn.transpose(-1, -2)
        return (centred - (mirror - mirror.mean(0))).square().sum((-1, -2))

    best = (points @ found.T + shift - mirror).square().sum()
    torch.testing.assert_close(deviation(found), best)
    assert (deviation(rotation(26, 20_000)) >= best).all()
    assert (deviation(exp_map(0.05 * normal(27, 2_000, 3)) @ found) >= best - 1e-12).all()


def test_superpose_moves_rigids_as_one_body():
    rigids = Rigids(rotation(28, 3, 9), normal(29, 3, 9, 3))
    moved = rigids.moved(rotation(30, 3), normal(31, 3, 3))
    back = superpose(moved, rigids.translations)
    torch.testing.assert_close(back.rotations, rigids.rotations)
    torch.testing.assert_close(back.translations, rigids.translations)


def test_superposition_has_gradients():
    points, target = normal(32, 5, 10, 3).requires_grad_(), normal(33, 5, 10, 3)
    turn, shift = superposition(points, target)
    (gradient,) = torch.autograd.grad(
        (points @ turn.transpose(-1, -2) + shift[:, None] - target).square().sum(), points
    )
    assert gradient.isfinite().all()


def test_ideal_geometry_is_an_l_amino_acid():
    rigids = Rigids(rotation(34, 6), normal(35, 6, 3))
    n, ca, c = backbone_from_rigids(rigids).unbind(-2)
    cb = cb_from_rigids(rigids)

    def angle(a, b):
        return torch.rad2deg(torch.acos(torch.nn.functional.cosine_similarity(a - ca, b - ca, dim=-1)))

    for distance, atoms in [(0.1459, n), (0.1525, c), (0.1530, cb)]:
        torch.testing.assert_close(
            (atoms - ca).norm(dim=-1), torch.full((6,), distance, dtype=DOUBLE), rtol=0, atol=1e-4
        )
    for degrees, pair in [(111.0, (n, c)), (110.6, (n, cb)), (110.6, (c, cb))]:
        torch.testing.assert_close(angle(*pair), torch.full((6,), degrees, dtype=DOUBLE), rtol=0, atol=0.1)
    # L: the triple product of N, C and CB about CA is positive (the "CORN" rule, seen from the hydrogen).
    assert ((torch.linalg.cross(n - ca, c - ca) * (cb - ca)).sum(-1) > 0).all()


def test_pseudo_cb_lies_on_the_cb_of_a_real_protein():
    app = pytest.importorskip("openmm.app")
    from pathlib import Path

    pdb = app.PDBFile(str(Path(app.__file__).parent / "data" / "test.pdb"))
    positions = torch.tensor(pdb.getPositions(asNumpy=True)._value, dtype=DOUBLE)
    backbone, cb = [], []
    for residue in pdb.topology.residues():
        index = {atom.name: atom.index for atom in residue.atoms()}
        if {"N", "CA", "C", "CB"} <= index.keys():
            backbone.append(positions[[index["N"], index["CA"], index["C"]]])
            cb.append(positions[index["CB"]])
    assert len(cb) > 20
    error = cb_from_rigids(rigids_from_backbone(torch.stack(backbone))) - torch.stack(cb)
    assert error.norm(dim=-1).max() < 0.03
