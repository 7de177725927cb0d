"""Losses: zero at the truth, blind to rigid motion where they must be, gradients right."""

import pytest
import torch

from openmm_starmd.diffusion.schedule import Schedule
from openmm_starmd.geometry.rigid import Rigids, backbone_from_rigids
from openmm_starmd.geometry.so3 import exp_map
from openmm_starmd.training import losses

from .proteins import random_rotation, villin_backbone, villin_features, wobbling_frames

SCHEDULE = Schedule()
TAU = torch.tensor([[0.1, 0.5]], dtype=torch.float64)


def pair() -> tuple[Rigids, Rigids]:
    """Truth and a wrong prediction, two frames of ten residues."""
    features = villin_features(10, torch.float64)
    return wobbling_frames(features, 2, seed=1), wobbling_frames(features, 2, seed=2)


def noisy(rigids: Rigids) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    turn = 0.4 * torch.randn(rigids.translations.shape, generator=generator, dtype=torch.float64)
    return rigids.rotations @ exp_map(turn)


def atoms(rigids: Rigids) -> torch.Tensor:
    return backbone_from_rigids(rigids)


def move(rigids: Rigids) -> Rigids:
    rotation = random_rotation(2).expand(*rigids.translations.shape[:-2], 3, 3)
    return rigids.moved(rotation, torch.ones(*rigids.translations.shape[:-2], 3, dtype=torch.float64))


CASES = {
    "standardized": lambda p, t: sum(losses.standardized_error(p, t, 0.1 * TAU, TAU)),
    "translation score": lambda p, t: losses.translation_score_loss(p.translations, t.translations, TAU, SCHEDULE),
    "rotation score": lambda p, t: losses.rotation_score_loss(noisy(t), p.rotations, t.rotations, TAU, SCHEDULE),
    "FAPE": lambda p, t: losses.frame_aligned_point_error(p, t, p.translations, t.translations),
    "coordinates": lambda p, t: losses.coordinate_loss(atoms(p), atoms(t)),
    "distance map": lambda p, t: losses.distance_map_loss(atoms(p), atoms(t)),
}


@pytest.mark.parametrize("name", CASES)
def test_zero_at_the_truth_and_not_elsewhere(name):
    truth, wrong = pair()
    at_truth = CASES[name](truth, truth)
    assert at_truth.shape == (1, 2)
    # FAPE and distances take square roots of 1e-8 nm² at zero
    assert at_truth.abs().max() < 2e-4
    assert (CASES[name](wrong, truth) > 10 * at_truth.abs() + 1e-5).all()


@pytest.mark.parametrize("name", ["FAPE", "distance map"])
def test_rigid_motion_of_the_prediction_is_not_an_error(name):
    truth, wrong = pair()
    assert torch.allclose(CASES[name](move(wrong), truth), CASES[name](wrong, truth), atol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_gradient_is_that_of_finite_differences(name):
    truth, wrong = pair()

    def loss(shift: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
        return CASES[name](Rigids(wrong.rotations @ exp_map(turn), wrong.translations + shift), truth).sum()

    zero = torch.zeros(1, 2, 10, 3, dtype=torch.float64, requires_grad=True)
    turn = torch.zeros_like(zero, requires_grad=True)
    loss(zero, turn).backward()
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        direction = [torch.randn(zero.shape, generator=generator, dtype=torch.float64) for _ in range(2)]
        with torch.no_grad():
            ahead, behind = (loss(step * direction[0], step * direction[1]) for step in (1e-6, -1e-6))
        analytic = sum((g * d).sum() for g, d in zip((zero.grad, turn.grad), direction, strict=True) if g is not None)
        assert analytic == pytest.approx(float(ahead - behind) / 2e-6, rel=1e-4, abs=1e-6)


def test_translation_score_loss_is_the_score_error_over_its_norm():
    """Against scores computed from their definition."""
    from openmm_starmd.diffusion.process import score_translation

    truth, wrong = pair()
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


def test_carbonyl_oxygen_is_where_psi_says():
    """O from rigid and ψ against villin's own O, whose ψ is measured from the next N."""
    import openmm.app
    from openmm import unit

    from .proteins import VILLIN

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
