"""Deformed references look like proteins, follow from their key alone, and are as far from the start as was asked."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from openmm_starmd.data.augmentation import ReferenceDeformer, deformed, soft_modes
from openmm_starmd.geometry.rigid import Rigids, backbone_from_rigids
from openmm_starmd.geometry.superposition import superposition
from openmm_starmd.geometry.torsions import dihedral
from openmm_starmd.model.config import preset
from openmm_starmd.model.features import Features
from openmm_starmd.model.network import Network
from openmm_starmd.training.objective import noise_batch, training_pass
from openmm_starmd.training.settings import ObjectiveSettings
from tests.proteins import random_rotation, toy_batch, villin_features


def psi_of(features: Features) -> np.ndarray:
    n, alpha, c = backbone_from_rigids(features.reference.to(torch.float64)).numpy().swapaxes(0, 1)
    return dihedral(n[:-1], alpha[:-1], c[:-1], n[1:])


def with_torsions(features: Features) -> Features:
    """ψ of its own backbone where there is one, χ1 of 1 rad for even residues."""
    angles = torch.zeros(features.length, 5)
    angles[:-1, 0] = torch.from_numpy(psi_of(features))
    angles[::2, 1] = 1.0
    known = torch.zeros(features.length, 5, dtype=torch.bool)
    known[:-1, 0], known[::2, 1] = True, True
    return replace(features, torsions=torch.stack([angles.sin(), angles.cos()], -1) * known[..., None])


def joined(*parts: Features, apart: float = 1.2) -> Features:
    """Chains side by side, `apart` nm from one to the next."""
    shifts = [torch.tensor([apart * place, 0.0, 0.0]) for place in range(len(parts))]
    bonded = torch.cat([torch.cat([part.bonded, torch.tensor([False])]) for part in parts])[:-1]
    return Features(
        torch.cat([part.residue_types for part in parts]),
        torch.cat([part.residue_index for part in parts]),
        torch.cat([torch.full((part.length,), place) for place, part in enumerate(parts)]),
        bonded,
        Rigids(
            torch.cat([part.reference.rotations for part in parts]),
            torch.cat([part.reference.translations + shift for part, shift in zip(parts, shifts, strict=True)]),
        ),
    )


def chain_distances(features: Features, step: int) -> np.ndarray:
    alphas = features.reference.translations.double().numpy()
    tied = features.bonded.numpy() if step == 1 else (features.bonded[:-1] & features.bonded[1:]).numpy()
    return np.linalg.norm(alphas[step:] - alphas[:-step], axis=-1)[tied]


def displacement(features: Features, other: Features) -> float:
    """Root mean square distance of Cα after superposition, nm."""
    mobile, target = (f.reference.translations.double() for f in (other, features))
    rotation, shift = superposition(mobile, target)
    return float((mobile @ rotation.T + shift - target).square().sum(-1).mean().sqrt())


def test_soft_modes_move_residues_by_one_in_all_and_not_as_a_whole():
    features = villin_features()
    alphas = features.reference.translations.double().numpy()
    modes = soft_modes(alphas, features.bonded.numpy())
    n, count = features.length, len(modes.amplitudes)
    assert modes.vectors.shape == (n, 3, count) and count == -(-(3 * n - 6) // 4)
    flat = modes.vectors.reshape(3 * n, count)
    assert np.allclose(flat.T @ flat, np.eye(count), atol=1e-10)
    assert np.isclose(((modes.vectors * modes.amplitudes) ** 2).sum() / n, 1.0)
    assert (np.diff(modes.amplitudes) <= 0).all()
    centred = alphas - alphas.mean(0)
    assert np.abs(modes.vectors.sum(0)).max() < 1e-8, "no translation"
    assert np.abs(np.cross(centred[:, :, None], modes.vectors, axis=1).sum(0)).max() < 1e-8, "no rotation"


def test_deformed_references_are_proteins_as_far_away_as_asked():
    features = with_torsions(villin_features())
    found = [ReferenceDeformer(0.25)(features, 0, step) for step in range(60)]
    sizes = np.array([displacement(features, other) for other in found])
    # amplitudes are uniform up to 0.25 nm: the mean square is a third of its square, less what the chain does not allow
    assert 0.11 < np.sqrt((sizes**2).mean()) < 0.16 and sizes.max() > 0.2 and sizes.min() < 0.03
    for step, most in ((1, 0.03), (2, 0.05)):
        before = chain_distances(features, step)
        assert max(np.abs(chain_distances(other, step) - before).max() for other in found) < most
    for other in found[:10]:
        rotations = other.reference.rotations.double()
        assert torch.allclose(rotations @ rotations.transpose(-1, -2), torch.eye(3, dtype=torch.float64), atol=1e-5)
        # peptide bonds hold: rigids turn as the chain does
        backbone = backbone_from_rigids(other.reference.to(torch.float64))
        bonds = (backbone[1:, 0] - backbone[:-1, 2]).norm(dim=-1)
        assert float((bonds - 0.133).square().mean().sqrt()) < 0.05
        # ψ is the deformed backbone's, χ stays, and what was unknown stays unknown
        psi = torch.atan2(other.torsions[:-1, 0, 0], other.torsions[:-1, 0, 1]).numpy()
        assert np.abs(np.angle(np.exp(1j * (psi - psi_of(other))))).max() < 1e-3
        assert np.abs(np.angle(np.exp(1j * (psi - psi_of(features))))).max() > 0.02
        assert torch.equal(other.torsions[:, 1:], features.torsions[:, 1:]) and (other.torsions[-1, 0] == 0).all()
    assert torch.equal(features.reference.translations, villin_features().reference.translations), "the input is left"


def test_a_small_deformation_turns_residues_with_their_surroundings():
    """Along a mode that is a rigid motion of all, rotations are that motion's."""
    features = villin_features(12, torch.float64)
    alphas = features.reference.translations.numpy()
    modes = soft_modes(alphas, features.bonded.numpy())
    axis = np.array([0.0, 0.0, 1.0])
    turn = np.cross(axis, alphas - alphas.mean(0))
    size = np.linalg.norm(turn)
    rotation = replace(modes, vectors=(turn / size)[:, :, None], amplitudes=np.ones(1))
    other = deformed(features, rotation, np.array([1e-4 * size]))
    relative = other.reference.rotations @ features.reference.rotations.transpose(-1, -2)
    expected = torch.tensor([[1, -1e-4, 0], [1e-4, 1, 0], [0, 0, 1]], dtype=torch.float64)
    assert torch.allclose(relative, expected.expand_as(relative), atol=1e-7)
    assert displacement(features, other) < 1e-6


def test_the_deformation_does_not_depend_on_how_the_reference_lies():
    features = villin_features(20, torch.float64)
    rotation = random_rotation(3)
    turned = features.with_reference(
        features.reference.moved(rotation, torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
    )
    modes = soft_modes(features.reference.translations.numpy(), features.bonded.numpy())
    same = replace(modes, vectors=np.einsum("ab,nbm->nam", rotation.numpy(), modes.vectors))
    size = 0.1 * modes.amplitudes
    first, second = deformed(features, modes, size), deformed(turned, same, size)
    assert torch.allclose(
        first.reference.moved(rotation, torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)).translations,
        second.reference.translations,
        atol=1e-9,
    )
    assert torch.allclose(rotation @ first.reference.rotations, second.reference.rotations, atol=1e-7)


def test_chains_are_not_tied_and_turn_on_their_own():
    features = joined(villin_features(15), villin_features(12), villin_features(2))
    other = ReferenceDeformer(0.3)(features, 5)
    assert np.isfinite(other.reference.rotations.numpy()).all() and displacement(features, other) > 0.01
    before = chain_distances(features, 1)
    assert np.abs(chain_distances(other, 1) - before).max() < 0.03
    gap = [f.reference.translations[14] - f.reference.translations[15] for f in (features, other)]
    assert abs(float(gap[0].norm() - gap[1].norm())) > 1e-3, "the gap between chains is no bond"


@pytest.mark.parametrize("length", [1, 2])
def test_what_has_no_modes_stays(length):
    features = villin_features(length)
    assert ReferenceDeformer(0.3)(features, 1) is features


def test_a_key_decides_and_the_store_of_modes_does_not(monkeypatch):
    monkeypatch.setattr("openmm_starmd.data.augmentation.KEPT", 1)
    features, others = villin_features(20), villin_features(16)
    deformer = ReferenceDeformer(0.2)
    first = deformer(features, 1, 2)
    deformer(others, 1, 2)
    again, different = deformer(features, 1, 2), deformer(features, 1, 3)
    assert torch.equal(first.reference.translations, again.reference.translations)
    assert torch.equal(first.reference.rotations, again.reference.rotations)
    assert not torch.equal(first.reference.translations, different.reference.translations)


def test_a_hidden_deviation_tells_nothing_of_the_reference():
    """The conditioner aside, which is given the same here."""
    torch.manual_seed(0)
    network = Network(preset("mini")).eval()
    batch = toy_batch(villin_features(10), frames=3)
    network.load_state_dict(
        {name: value + 0.02 * torch.randn_like(value) for name, value in network.state_dict().items()}
    )
    noised = noise_batch(batch, network, ObjectiveSettings())

    def predicted(hidden: bool, moved: bool) -> torch.Tensor:
        features = replace(batch.features, hide_deviation=hidden)
        condition = network.condition(features)
        if moved:
            away = batch.features.reference.translations + 0.1 * torch.arange(10)[:, None]
            condition = replace(condition, reference=Rigids(features.reference.rotations, away))
        network.condition, original = (lambda _: condition), network.condition
        try:
            with torch.no_grad():
                return training_pass(network, batch, noised).rigids.translations
        finally:
            network.condition = original

    assert torch.equal(predicted(True, False), predicted(True, True))
    assert not torch.equal(predicted(False, False), predicted(False, True))
    assert not torch.equal(predicted(True, False), predicted(False, False))
    assert (
        batch.features.to("cpu").hide_deviation is False
        and replace(batch.features, hide_deviation=True).to("cpu").hide_deviation
    )
