"""Losses: zero at the truth, blind to rigid motion where they must be, gradients right, values computed by hand."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from openmm_starmd.diffusion import igso3
from openmm_starmd.diffusion.schedule import Schedule
from openmm_starmd.geometry.ideal import ATOM_NAMES, ideal_atoms
from openmm_starmd.geometry.residues import AMINO_ACIDS
from openmm_starmd.geometry.rigid import Rigids, backbone_from_rigids
from openmm_starmd.geometry.so3 import exp_map
from openmm_starmd.model.network import Network
from openmm_starmd.training import losses
from openmm_starmd.training.objective import loss_terms, noise_batch, training_pass
from openmm_starmd.training.settings import ObjectiveSettings
from tests.model.test_network import narrow
from tests.proteins import random_rotation, toy_batch, villin_backbone, villin_features, wobbling_frames

SCHEDULE = Schedule()
TAU = torch.tensor([[0.1, 0.5]], dtype=torch.float64)
LENGTH = 10  # LSDEDFKAVF: symmetric side chains among them
TYPES = villin_features(LENGTH).residue_types
KNOWN = torch.ones(LENGTH, 5, dtype=torch.bool)


class Pose(NamedTuple):
    """Two frames: rigids [1, 2, N] and angles [1, 2, N, 5]."""

    rigids: Rigids
    angles: Tensor

    @property
    def vectors(self) -> Tensor:
        return torch.stack([self.angles.sin(), self.angles.cos()], dim=-1)

    @property
    def backbone(self) -> Tensor:
        return losses.backbone_atoms(self.rigids, self.vectors[..., 0, :])


def pair() -> tuple[Pose, Pose]:
    """Truth and a wrong prediction."""
    features = villin_features(LENGTH, torch.float64)
    generator = torch.Generator().manual_seed(3)
    angles = torch.rand(1, 2, LENGTH, 5, generator=generator, dtype=torch.float64) * 6
    turned = angles + 0.5 * torch.randn(angles.shape, generator=generator, dtype=torch.float64)
    return (
        Pose(wobbling_frames(features, 2, seed=1), angles),
        Pose(wobbling_frames(features, 2, seed=2), turned),
    )


def noisy(rigids: Rigids) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    turn = 0.4 * torch.randn(rigids.translations.shape, generator=generator, dtype=torch.float64)
    return rigids.rotations @ exp_map(turn)


def move(pose: Pose) -> Pose:
    rotation = random_rotation(2).expand(*pose.rigids.translations.shape[:-2], 3, 3)
    shift = torch.ones(*pose.rigids.translations.shape[:-2], 3, dtype=torch.float64)
    return Pose(pose.rigids.moved(rotation, shift), pose.angles)


def torsion(p: Pose, t: Pose) -> Tensor:
    ones, symmetric = torch.ones_like(t.angles), torch.zeros_like(KNOWN)
    return losses.torsion_loss(p.vectors, ones, t.angles, KNOWN, symmetric)


def sidechain_fape(p: Pose, t: Pose) -> Tensor:
    return losses.sidechain_fape(p.rigids, t.rigids, p.vectors, t.angles, TYPES[: t.angles.shape[-2]], KNOWN)


CASES: dict[str, Callable[[Pose, Pose], Tensor]] = {
    "standardized": lambda p, t: sum(losses.standardized_error(p.rigids, t.rigids, 0.1 * TAU, TAU)),
    "translation score": lambda p, t: losses.translation_score_loss(
        p.rigids.translations, t.rigids.translations, TAU, SCHEDULE
    ),
    "rotation score": lambda p, t: losses.rotation_score_loss(
        noisy(t.rigids), p.rigids.rotations, t.rigids.rotations, TAU, SCHEDULE
    ),
    "torsion": torsion,
    "FAPE": lambda p, t: losses.frame_aligned_point_error(
        p.rigids, t.rigids, p.backbone.flatten(-3, -2), t.backbone.flatten(-3, -2)
    ),
    "side-chain FAPE": sidechain_fape,
    "coordinates": lambda p, t: losses.coordinate_loss(p.backbone, t.backbone),
    "distance map": lambda p, t: losses.distance_map_loss(p.backbone, t.backbone),
}
INTERNAL = ["torsion", "FAPE", "side-chain FAPE", "distance map"]


@pytest.mark.parametrize("name", CASES)
def test_zero_at_the_truth_and_not_elsewhere(name):
    truth, wrong = pair()
    at_truth = CASES[name](truth, truth)
    assert at_truth.shape == (1, 2)
    assert at_truth.abs().max() < 1e-12
    assert (CASES[name](wrong, truth) > 1e-5).all()


@pytest.mark.parametrize("name", CASES)
def test_rigid_motion_of_the_prediction_is_an_error_only_where_poses_are_compared(name):
    truth, wrong = pair()
    still, moved = CASES[name](wrong, truth), CASES[name](move(wrong), truth)
    if name in INTERNAL:
        assert torch.allclose(moved, still, atol=1e-9)
    else:
        assert (moved - still).abs().min() > 1e-2


@pytest.mark.parametrize("name", CASES)
def test_rigid_motion_of_both_is_never_an_error(name):
    truth, wrong = pair()
    assert torch.allclose(CASES[name](move(wrong), move(truth)), CASES[name](wrong, truth), rtol=1e-8)


@pytest.mark.parametrize("name", ["FAPE", "side-chain FAPE"])
def test_mirror_images_are_errors_that_distances_do_not_see(name):
    truth, _ = pair()
    flip = torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
    # the rigid of mirrored atoms: x and y are mirrored, z is their cross product
    mirrored = Pose(
        Rigids(flip[:, None] * truth.rigids.rotations * flip, truth.rigids.translations * flip), -truth.angles
    )
    assert losses.distance_map_loss(mirrored.backbone, truth.backbone).max() < 1e-10
    assert (CASES[name](mirrored, truth) > 0.1).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_gradient_is_that_of_finite_differences(name, monkeypatch):
    truth, wrong = pair()
    count = 4
    monkeypatch.setitem(globals(), "KNOWN", KNOWN[:count])
    truth, wrong = (Pose(x.rigids.map(lambda y: y[:, :, :count]), x.angles[:, :, :count]) for x in (truth, wrong))

    def loss(shift: Tensor, turn: Tensor, angle: Tensor) -> Tensor:
        rigids = Rigids(wrong.rigids.rotations @ exp_map(turn), wrong.rigids.translations + shift)
        return CASES[name](Pose(rigids, wrong.angles + angle), truth)

    zeros = [torch.zeros(1, 2, count, width, dtype=torch.float64, requires_grad=True) for width in (3, 3, 5)]
    assert torch.autograd.gradcheck(loss, zeros)


@pytest.mark.parametrize("name", CASES)
def test_gradient_is_finite_at_the_truth(name):
    truth, _ = pair()
    shift = torch.zeros_like(truth.rigids.translations, requires_grad=True)
    turn = torch.zeros_like(shift, requires_grad=True)
    angles = truth.angles.clone().requires_grad_()
    rigids = Rigids(truth.rigids.rotations @ exp_map(turn), truth.rigids.translations + shift)
    CASES[name](Pose(rigids, angles), truth).sum().backward()
    for gradient in (shift.grad, turn.grad, angles.grad):
        assert gradient is None or torch.isfinite(gradient).all()


def test_standardized_error_by_hand():
    truth, _ = pair()
    turn = torch.tensor([0.0, 0.0, 0.3], dtype=torch.float64)
    moved = Rigids(truth.rigids.rotations @ exp_map(turn), truth.rigids.translations + torch.tensor([0.03, 0.0, 0.04]))
    half, tenth = torch.full_like(TAU, 0.5), torch.full_like(TAU, 0.1)
    shift, rotation = losses.standardized_error(moved, truth.rigids, tenth, half)
    assert torch.allclose(shift, torch.full_like(TAU, 0.05**2 / 3 / 0.1**2))
    assert torch.allclose(rotation, torch.full_like(TAU, 0.3**2 / 3 / 0.5**2))


def test_rotation_score_loss_by_hand():
    """Noisy rotations 0.5 rad from the truth; a prediction wrong in the angle, and one wrong in the axis."""
    identity = torch.eye(3, dtype=torch.float64).expand(1, 2, 1, 3, 3)
    noise = exp_map(torch.tensor([0.5, 0.0, 0.0], dtype=torch.float64)).expand(1, 2, 1, 3, 3)
    sigma = SCHEDULE.sigma_rotation(TAU)[..., None]
    norm = igso3.score_norm_squared(sigma)[..., 0]

    def score(angle: float) -> Tensor:
        vector = torch.tensor([angle, 0.0, 0.0], dtype=torch.float64).expand(1, 2, 1, 3)
        return igso3.score(vector, sigma)[..., 0, 0]

    # seen from the prediction the noise is 0.3 rad about the same axis: an error of the angle, counted at τ 0.5 only
    turned = exp_map(torch.tensor([0.2, 0.0, 0.0], dtype=torch.float64)).expand(1, 2, 1, 3, 3)
    expected = (score(0.3) - score(0.5)).square() / norm * torch.tensor([0.0, 1.0])
    assert torch.allclose(losses.rotation_score_loss(noise, turned, identity, TAU, SCHEDULE), expected)
    # 0.5 rad about an axis at right angles: two unit vectors, √2 apart, of the true score's length
    across = noise @ exp_map(torch.tensor([0.0, -0.5, 0.0], dtype=torch.float64))
    expected = 2 * score(0.5).square() / norm
    assert torch.allclose(losses.rotation_score_loss(noise, across, identity, TAU, SCHEDULE), expected)


def test_fape_by_hand():
    truth, _ = pair()
    points = truth.rigids.translations
    for far, expected in ((0.3, 0.3), (5.0, 1.0)):  # clamped at 1 nm
        moved = points.clone()
        moved[:, :, 0, 1] += far
        error = losses.frame_aligned_point_error(truth.rigids, truth.rigids, moved, points)
        assert torch.allclose(error, torch.full_like(TAU, expected / LENGTH), rtol=1e-3)


def test_fape_in_single_precision_far_from_the_origin():
    truth, wrong = pair()
    expected = CASES["FAPE"](wrong, truth)
    far = [Pose(x.rigids.map(torch.Tensor.float), x.angles.float()) for x in (wrong, truth)]
    shifted = [Pose(Rigids(x.rigids.rotations, x.rigids.translations + 10.0), x.angles) for x in far]
    assert (CASES["FAPE"](*shifted) - expected).abs().max() < 1e-5


def test_coordinates_and_distances_by_hand():
    truth, _ = pair()
    atoms = backbone_from_rigids(truth.rigids)
    shift = torch.tensor([0.06, 0.0, 0.08], dtype=torch.float64)
    assert torch.allclose(losses.coordinate_loss(atoms + shift, atoms), torch.ones_like(TAU))
    # three atoms in a row, 3 Å apart and 7 Å apart; the second moves 1 Å: only the near pair counts, by 1 Å²
    row = torch.tensor([0.0, 0.3, 1.0])[:, None, None] * torch.tensor([1.0, 0.0, 0.0])
    moved = row.clone()
    moved[1, 0, 0] += 0.1
    assert losses.distance_map_loss(moved, row) == pytest.approx(1.0, rel=1e-5)
    assert losses.distance_map_loss(moved, row, contact=0.8) == pytest.approx(1.0, rel=1e-5)
    moved[2, 0, 0] += 0.3  # distances 4, 9 and 13 Å for 3, 7 and 10
    assert losses.distance_map_loss(moved, row, contact=2.0) == pytest.approx((1 + 4 + 9) / 3, rel=1e-5)


def test_sidechain_fape_by_hand():
    """A serine whose χ1 is wrong by half a turn: what is seen turned lies twice its distance from the axis off."""
    types = torch.tensor([AMINO_ACIDS.index("SER")])
    rigids = Rigids(torch.eye(3, dtype=torch.float64)[None], torch.zeros(1, 3, dtype=torch.float64))
    true = torch.tensor([[0.7, 0.4, 0.0, 0.0, 0.0]], dtype=torch.float64)
    wrong = true + torch.tensor([0.0, torch.pi, 0.0, 0.0, 0.0])
    error = losses.sidechain_fape(rigids, rigids, torch.stack([wrong.sin(), wrong.cos()], -1), true, types, KNOWN[:1])

    backbone = backbone_from_rigids(rigids).numpy()
    atoms = ideal_atoms(types.numpy(), backbone, true.numpy())[0]
    place = dict(zip(ATOM_NAMES[int(types)], atoms, strict=True))
    axis = (place["CB"] - place["CA"]) / np.linalg.norm(place["CB"] - place["CA"])
    radius = {name: np.linalg.norm(np.cross(axis, place[name] - place["CA"])) for name in ("N", "C", "O", "OG")}
    # OG from the groups of backbone and ψ; N, C and O from the group of χ1, whose axis holds CA and CB
    expected = (2 * 2 * radius["OG"] + 2 * (radius["N"] + radius["C"] + radius["O"])) / (3 * 6)
    assert float(error) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("residue", "chi", "symmetric"), [
    ("PHE", 2, True), ("TYR", 2, True), ("ASP", 2, True), ("GLU", 3, True), ("ASN", 2, False), ("LEU", 2, False),
])  # fmt: skip
def test_sidechain_fape_knows_exchanged_names(residue, chi, symmetric):
    types = torch.tensor([AMINO_ACIDS.index(residue)] * 3)
    rigids = wobbling_frames(villin_features(3, torch.float64), 1)
    true = torch.full((1, 1, 3, 5), 0.8, dtype=torch.float64)
    turned = true.clone()
    turned[..., 1, chi] += torch.pi
    vectors = torch.stack([turned.sin(), turned.cos()], -1)
    error = losses.sidechain_fape(rigids, rigids, vectors, true, types, KNOWN[:3])
    assert error < 1e-12 if symmetric else error > 0.005


def test_sidechain_fape_leaves_out_what_hangs_on_unknown_torsions():
    truth, _ = pair()
    angles = truth.angles.clone()
    lysine = 6
    angles[:, :, lysine, 2] += 1.0  # χ2, on which CD, CE and NZ hang
    mask = KNOWN.clone()
    mask[lysine, 2] = False
    args = (truth.rigids, truth.rigids, Pose(truth.rigids, angles).vectors, truth.angles, TYPES)
    assert losses.sidechain_fape(*args, mask).max() < 1e-12
    assert losses.sidechain_fape(*args, KNOWN).min() > 1e-3


def test_translation_score_loss_is_the_score_error_over_its_norm():
    """Against scores computed from their definition."""
    from openmm_starmd.diffusion.process import score_translation

    truth, wrong = (pose.rigids for pose in pair())
    noise = torch.randn(truth.translations.shape, dtype=torch.float64)
    x = SCHEDULE.alpha(TAU)[..., None, None] * truth.translations + noise
    scores = [score_translation(x, r.translations, TAU, SCHEDULE) for r in (wrong, truth)]
    error = (scores[0] - scores[1]).square().sum(-1).mean(-1)
    expected = error * SCHEDULE.sigma_translation(TAU) ** 2 / 3
    assert torch.allclose(
        losses.translation_score_loss(wrong.translations, truth.translations, TAU, SCHEDULE), expected
    )


def test_torsion_loss_knows_symmetric_side_chains():
    truth = torch.tensor([[[0.3, 1.0]]])
    mask, symmetric = torch.tensor([[True, True]]), torch.tensor([[False, True]])
    flipped = truth + torch.tensor([0.0, torch.pi])
    predicted = torch.stack([flipped.sin(), flipped.cos()], -1)
    ones = torch.ones(1, 1, 2)
    assert losses.torsion_loss(predicted, ones, truth, mask, symmetric) < 1e-10
    assert losses.torsion_loss(predicted, ones, truth, mask, torch.zeros_like(symmetric)) > 1.9
    assert losses.torsion_loss(predicted, 0.5 * ones, truth, mask, symmetric) == pytest.approx(0.01)
    assert losses.torsion_loss(predicted, ones, truth, torch.zeros_like(mask), symmetric) == 0


def test_clash_loss_counts_overlaps_only():
    line = torch.arange(6, dtype=torch.float64)[:, None] * torch.tensor([0.38, 0.0, 0.0], dtype=torch.float64)
    assert losses.clash_loss(line) == 0
    bent = line.clone()
    bent[5] = line[1] + torch.tensor([0.0, 0.26, 0.0])
    # 0.26 nm is 1 Å inside the 3.6 Å limit; the pair counts twice, over six residues. 5-2 and 5-0 are further off.
    near = [(0.36 - float((bent[5] - bent[k]).norm())) for k in range(3)]
    expected = 2 * sum(max(0.0, 10 * x) ** 2 for x in near) / 6
    assert losses.clash_loss(bent) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["coordinates", "distance_low"])
def test_an_oxygen_without_psi_teaches_nothing(name):
    """The last residue of a chain has no ψ; what the network says of it is no error."""
    network = Network(narrow("paper"))
    batch = toy_batch(villin_features(LENGTH))
    mask = batch.torsion_mask.clone()
    mask[-1, 0] = False
    batch = replace(batch, torsion_mask=mask)
    settings = ObjectiveSettings(tau_min=0.01, log_uniform=1.0, weights=((name, 1.0),))
    noised = noise_batch(batch, network, settings)
    assert (noised.tau <= 0.25).any()
    prediction = training_pass(network, batch, noised)
    error = loss_terms(network, batch, noised, prediction, settings)[name]
    for residue, changes in ((-1, False), (3, True)):
        torsions = prediction.torsions.clone()
        torsions[:, :, residue, 0] *= -1
        other = loss_terms(network, batch, noised, replace(prediction, torsions=torsions), settings)[name]
        assert torch.equal(error, other) != changes


def test_carbonyl_oxygen_is_where_psi_says():
    """O from rigid and ψ against villin's own O, whose ψ is measured from the next N."""
    import openmm.app
    from openmm import unit

    from tests.proteins import VILLIN

    pdb = openmm.app.PDBFile(VILLIN)
    positions = torch.tensor(pdb.positions.value_in_unit(unit.nanometer), dtype=torch.float64)
    oxygen = torch.stack(
        [
            positions[atom.index]
            for residue in pdb.topology.residues()
            if "CA" in {a.name for a in residue.atoms()}
            for atom in residue.atoms()
            if atom.name == "O"
        ]
    )
    backbone = villin_backbone()[0]
    n, ca, c, following = backbone[:-1, 0], backbone[:-1, 1], backbone[:-1, 2], backbone[1:, 0]
    b0, b1, b2 = n - ca, c - ca, following - c
    axis = b1 / b1.norm(dim=-1, keepdim=True)
    v, w = b0 - (b0 * axis).sum(-1, keepdim=True) * axis, b2 - (b2 * axis).sum(-1, keepdim=True) * axis
    psi = torch.atan2((torch.linalg.cross(axis, v) * w).sum(-1), (v * w).sum(-1))
    rigids = villin_features(dtype=torch.float64).reference.map(lambda x: x[:-1])
    built = losses.backbone_atoms(rigids, torch.stack([psi.sin(), psi.cos()], -1))[:, 3]
    error = (built - oxygen[:-1]).norm(dim=-1)
    # the wrong side of the peptide plane would be 0.2 nm off; MD bends planes by a few hundredths
    assert error.mean() < 0.02 and error.max() < 0.05
