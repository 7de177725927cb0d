"""The elastic prior against dense Gaussians computed in numpy, and networks and rollouts that start from it."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from openmm_starmd.analysis.network_models import neighbourhoods, smooth_hessian
from openmm_starmd.diffusion.samplers import SamplerSettings
from openmm_starmd.diffusion.schedule import Schedule
from openmm_starmd.geometry.rigid import Rigids, backbone_from_rigids
from openmm_starmd.geometry.so3 import exp_map, log_map
from openmm_starmd.model.attention import USUAL_TOKENS, KVCache, RotaryAngles, SpaceTimeAttention, sharpness
from openmm_starmd.model.config import ModelConfig, preset
from openmm_starmd.model.elastic import (
    CONDITIONING,
    FRAME_NOISE,
    FRAME_TURN_NOISE,
    LEFT_OVER,
    ElasticModel,
    Expected,
    looseness,
    reference_modes,
)
from openmm_starmd.model.elastic_settings import ElasticSettings
from openmm_starmd.model.features import Features
from openmm_starmd.model.frames import Frames, elastic_estimate, with_expected
from openmm_starmd.model.masks import block_causal_mask
from openmm_starmd.model.network import Condition, ModeFeatures, Network, Prediction, kept_correction
from openmm_starmd.rollout import Rollout
from openmm_starmd.training.objective import noise_batch, training_pass
from openmm_starmd.training.settings import Recipe, recipe_from_dict, recipe_objective
from tests.model.test_network import awake, narrow, part
from tests.proteins import random_rotation, toy_batch, villin_features, wobbling_frames

DOUBLE = torch.float64
AGES = (57.0, 30.0, 12.0, 9.0, 5.0, 2.0)
"""Of the frames of a history, ps: no two gaps are the same."""
SAMPLING = SamplerSettings("multistep", steps=2, max_context=4)


def some(expected: Expected, begin: int, end: int | None) -> Expected:
    """Frames `begin` to `end`."""
    return Expected(*(value[:, begin:end] for value in vars(expected).values()))


def elastic_config(**changes) -> ModelConfig:
    return replace(narrow("mini"), prior="elastic", **changes)


def joined(*parts: Features, apart: float = 1.5) -> Features:
    """Chains side by side, `apart` nm from one to the next."""
    shifts = [
        torch.tensor([apart * place, 0.0, 0.0]).to(parts[0].reference.translations) for place in range(len(parts))
    ]
    bonded = torch.cat([torch.cat([p.bonded, torch.tensor([False])]) for p in parts])[:-1]
    return Features(
        torch.cat([p.residue_types for p in parts]),
        torch.cat([p.residue_index for p in parts]),
        torch.cat([torch.full((p.length,), place) for place, p in enumerate(parts)]),
        bonded,
        Rigids(
            torch.cat([p.reference.rotations for p in parts]),
            torch.cat([p.reference.translations + shift for p, shift in zip(parts, shifts, strict=True)]),
        ),
    )


# --- the same quantities by plain loops in numpy, float64


def modes_of(features: Features, settings: ElasticSettings) -> tuple[np.ndarray, np.ndarray, list[tuple[float, ...]]]:
    """Stiffness [K], vectors [3N, K], and (Vf, rf, Vs, rs, Vc) of each mode and at last of a rotation's coordinate."""
    alphas = features.reference.translations.double().numpy()
    values, vectors = np.linalg.eigh(smooth_hessian(alphas, features.bonded.numpy()))
    stiffness = [max(value, settings.stiffness_min) for value in values[6:]]
    log = features.amplitude
    if settings.amplitude:
        loose = math.log(sum(1 / value for value in stiffness) / len(alphas)) - 3.5
        log += settings.amplitude[0] + settings.amplitude[1] * min(
            max(loose, settings.looseness[0]), settings.looseness[1]
        )
    grown, s, numbers = math.exp(log) ** 2, settings, []
    for value in stiffness:
        fast = s.fast / value**s.fast_power + s.fast_floor
        slow = s.slow / value**s.slow_power / (1 + (value / s.slow_limit) ** 2)
        rates = s.fast_rate * value**s.fast_rate_power, s.slow_rate * value**s.slow_rate_power
        numbers.append((grown * fast, rates[0], grown * slow, rates[1], grown * s.constant * (fast + slow)))
    turn = s.turn_constant * (s.turn_fast + s.turn_slow)
    numbers.append((grown * s.turn_fast, s.turn_fast_rate, grown * s.turn_slow, s.turn_slow_rate, grown * turn))
    return np.array(stiffness), vectors[:, 6:], numbers


def kriged(numbers: tuple[float, ...], ages: list[float], nugget: list[float], own: float) -> tuple[np.ndarray, float]:
    """Weights and variance of a Gaussian of value 0 at time 0, given n noisy ones: a dense covariance, conditioned."""
    fast, fast_rate, slow, slow_rate, constant = numbers
    times = np.array([0.0, *ages])
    covariance = np.array(
        [
            [
                fast * math.exp(-fast_rate * abs(a - b)) + slow * math.exp(-slow_rate * abs(a - b)) + constant
                for b in times
            ]
            for a in times
        ]
    )
    total = fast + slow + constant
    seen = covariance[1:, 1:] + np.diag([v + own**2 + CONDITIONING * total for v in nugget])
    weights = covariance[0, 1:] @ np.linalg.inv(seen)
    return weights, covariance[0, 0] - weights @ covariance[1:, 0]


def fit(mobile: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Rotation that lays centred points on others."""
    return Rotation.align_vectors(target - target.mean(0), mobile - mobile.mean(0))[0].as_matrix()


def expected_by_hand(
    features: Features, settings: ElasticSettings, history: Rigids, ages: list[float], nugget, turn_nugget
) -> tuple[np.ndarray, ...]:
    """Axes, mean, variance, turn mean and turn variance of one sample, history [n, N]."""
    _, vectors, numbers = modes_of(features, settings)
    positions, turns = history.translations.numpy(), history.rotations.numpy()
    there, there_turns = (x.double().numpy() for x in (features.reference.translations, features.reference.rotations))
    n, last = len(there), positions[-1]
    around = neighbourhoods(there, features.bonded.numpy(), 4)
    axes = np.array([fit(there[around[i]], last[around[i]]) for i in range(n)])
    whole = fit(there, last)
    placed, placed_turns = (there - there.mean(0)) @ whole.T + last.mean(0), whole @ there_turns

    def along(shift: np.ndarray) -> np.ndarray:
        return np.concatenate([axes[i].T @ shift[i] for i in range(n)]) @ vectors

    away = np.array([along(frame - placed) for frame in positions])  # [n, K]
    mean, variance = np.zeros(len(numbers) - 1), np.zeros(len(numbers) - 1)
    for k, values in enumerate(numbers[:-1]):
        weights, variance[k] = kriged(values, ages, nugget, FRAME_NOISE)
        mean[k] = weights @ away[:, k] - away[-1, k]
    weights, turn_variance = kriged(numbers[-1], ages, turn_nugget, FRAME_TURN_NOISE)
    turn_mean = np.zeros((n, 3))
    for i in range(n):
        seen = [Rotation.from_matrix(turns[-1, i].T @ frame[i]).as_rotvec() for frame in turns]
        home = Rotation.from_matrix(turns[-1, i].T @ placed_turns[i]).as_rotvec()
        turn_mean[i] = home + sum(w * (turn - home) for w, turn in zip(weights, seen, strict=True))
    return axes, (vectors @ mean).reshape(n, 3), variance, turn_mean, turn_variance


def nuggets(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(size * torch.rand(1, n, generator=generator, dtype=DOUBLE) for size in (4e-3, 2e-2))


# --- modes in time


def test_numbers_of_modes_are_those_of_their_stiffness():
    features, settings = replace(villin_features(10, DOUBLE), amplitude=0.3), ElasticSettings()
    _, vectors, numbers = modes_of(features, settings)
    model = ElasticModel.of(features, settings, features.amplitude)
    found = torch.stack([model.fast, model.fast_rate, model.slow, model.slow_rate, model.constant], -1)[0].numpy()
    np.testing.assert_allclose(found, numbers, rtol=1e-9)
    projector = model.vectors[0].numpy() @ model.vectors[0].numpy().T
    np.testing.assert_allclose(projector, vectors @ vectors.T, atol=1e-9)
    np.testing.assert_allclose(model.squares[0].sum(0), 1, atol=1e-12)
    # drawn wider than fitted: rates stay
    wide = ElasticModel.of(features, replace(settings, widening=0.2), features.amplitude)
    np.testing.assert_allclose(wide.slow, math.exp(0.4) * model.slow)
    np.testing.assert_allclose(wide.slow_rate, model.slow_rate)
    # without numbers for it a protein's amplitude is one
    plain = ElasticModel.of(features, replace(settings, amplitude=()))
    np.testing.assert_allclose(plain.fast_rate, model.fast_rate)
    assert not torch.allclose(plain.fast, model.fast)
    amplitude = torch.log(model.fast / plain.fast) / 2
    torch.testing.assert_close(amplitude, amplitude[:, :1].expand_as(amplitude))


def test_loose_proteins_are_expected_to_move_more():
    """And no more than the loosest, and no less than the tightest, that the numbers were fitted to."""
    whole, settings = villin_features(None, DOUBLE), ElasticSettings(amplitude=(-0.2, 0.5), looseness=(-0.6, 1.0))

    def log_amplitude(scale: float) -> float:
        drawn_out = replace(whole, reference=whole.reference.map(lambda x: x if x.shape[-2:] == (3, 3) else scale * x))
        model = ElasticModel.of(drawn_out, settings)
        plain = ElasticModel.of(drawn_out, replace(settings, amplitude=()))
        return float((model.fast / plain.fast).log()[0, 0] / 2)

    stiffness = reference_modes(whole).stiffness.clamp(min=settings.stiffness_min)
    seen = float(looseness(stiffness, whole.length))
    assert -0.6 < seen < 1.0 and log_amplitude(1.0) == pytest.approx(-0.2 + 0.5 * seen, abs=1e-9)
    # springs fall with the sixth power of the distance
    assert float(looseness(stiffness / 2, whole.length)) == pytest.approx(seen + math.log(2), abs=1e-9)
    assert log_amplitude(0.6) == pytest.approx(-0.2 - 0.3, abs=1e-9)
    assert log_amplitude(1.0) < log_amplitude(1.05) < log_amplitude(3.0)
    assert log_amplitude(3.0) == pytest.approx(-0.2 + 0.5, abs=1e-9)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6])
def test_weights_are_those_of_a_dense_gaussian(n):
    features, settings = villin_features(7, DOUBLE), ElasticSettings()
    _, _, numbers = modes_of(features, settings)
    ages, (nugget, turn_nugget) = AGES[-n:], nuggets(n)
    model = ElasticModel.of(features, settings)
    weights, variance = model.weights(torch.tensor(ages, dtype=DOUBLE)[None], nugget, turn_nugget)
    assert weights.shape == (1, n, 16) and variance.shape == (1, 16)
    for k, values in enumerate(numbers):
        turn = k == len(numbers) - 1
        own = FRAME_TURN_NOISE if turn else FRAME_NOISE
        wanted, left = kriged(values, ages, (turn_nugget if turn else nugget)[0].tolist(), own)
        np.testing.assert_allclose(weights[0, :, k], wanted, atol=1e-9)
        assert variance[0, k] == pytest.approx(left, rel=1e-9)
    # single precision is enough
    rough = ElasticModel.of(villin_features(7), settings)
    found = rough.weights(torch.tensor(ages)[None], nugget.float(), turn_nugget.float())
    torch.testing.assert_close(found[0].double(), weights, atol=2e-5, rtol=0)
    torch.testing.assert_close(found[1].double(), variance, atol=0, rtol=1e-4)


@pytest.mark.parametrize("n", [1, 3, 6])
def test_the_expected_frame_is_that_of_a_dense_gaussian(n):
    features, settings = villin_features(9, DOUBLE), ElasticSettings()
    history = wobbling_frames(features, n, samples=2, seed=4, size=0.08)
    ages, (nugget, turn_nugget) = torch.tensor(AGES[-n:], dtype=DOUBLE).expand(2, -1), nuggets(n)
    nugget, turn_nugget = torch.cat([nugget, 2 * nugget]), torch.cat([turn_nugget, 0 * turn_nugget])
    found = ElasticModel.of(features, settings).expected(history, ages, nugget, turn_nugget)
    for sample in range(2):
        one = history.map(lambda x: x[sample])  # noqa: B023
        wanted = expected_by_hand(
            features, settings, one, ages[sample].tolist(), nugget[sample].tolist(), turn_nugget[sample].tolist()
        )
        for name, value in zip(("axes", "mean", "variance", "turn_mean", "turn_variance"), wanted, strict=True):
            np.testing.assert_allclose(getattr(found, name)[sample, 0], value, atol=1e-8, err_msg=name)
    assert found.mean.abs().max() > 0.01, "nothing is expected of the frame"


def test_a_frame_without_history_spreads_as_far_as_modes_go_in_its_stride():
    features, settings = villin_features(6, DOUBLE), ElasticSettings()
    model = ElasticModel.of(features, settings)
    alone = wobbling_frames(features, 1, samples=2)
    stride = torch.tensor([[3.0], [40.0]], dtype=DOUBLE)
    found = model.without_history(alone, stride)
    for sample, time in enumerate((3.0, 40.0)):
        for k, (fast, fast_rate, slow, slow_rate, _) in enumerate(modes_of(features, settings)[2]):
            # variance of a difference: twice what is no longer shared
            grown = 2 * (fast + slow) - 2 * (fast * math.exp(-fast_rate * time) + slow * math.exp(-slow_rate * time))
            values = [*found.variance[sample, 0].tolist(), float(found.turn_variance[sample, 0])]
            assert values[k] == pytest.approx(grown, rel=1e-9)
        torch.testing.assert_close(model.spread(time)[0], found.variance[sample, 0], rtol=1e-9, atol=0)
    assert (found.mean == 0).all() and (found.turn_mean == 0).all()


# --- the posterior given a noisy frame


def one_frame(
    features: Features,
    tau: tuple[float, ...] = (0.004, 0.15),
    seed: int = 0,
    frames: int = 3,
    schedule: Schedule | None = None,
    settings: ElasticSettings | None = None,
) -> tuple[ElasticModel, Frames, ModelConfig]:
    """A noisy frame of B samples behind a history, with what is expected of it."""
    schedule = schedule or Schedule(sigma_min=0.02)
    config = elastic_config(schedule=schedule, elastic=settings or ElasticSettings())
    dtype = features.reference.translations.dtype
    samples = len(tau)
    walk = wobbling_frames(features, frames + 1, samples, seed, 0.08)
    history = walk.map(lambda x: x[:, :frames])
    ages = torch.tensor(AGES[-frames:], dtype=dtype).expand(samples, -1)
    model = ElasticModel.of(features, config.elastic, features.amplitude)
    nothing = torch.zeros(samples, frames, dtype=dtype)
    expected = model.expected(history, ages, nothing, nothing)
    generator = torch.Generator().manual_seed(seed + 1)
    now = torch.tensor(tau, dtype=dtype)[:, None]
    truth = walk.map(lambda x: x[:, frames:])
    noise = torch.randn(2, samples, 1, features.length, 3, generator=generator, dtype=torch.float64).to(dtype)
    size = (schedule.sigma_translation(now) / schedule.alpha(now)).clamp(max=0.5)[..., None, None]
    alpha = schedule.alpha(now)[..., None, None]
    rigids = Rigids(truth.rotations @ exp_map(0.3 * noise[0]), alpha * (truth.translations + size * noise[1]))
    frame = Frames(
        rigids,
        history.map(lambda x: x[:, -1:]),
        now,
        torch.zeros_like(now),
        torch.full_like(now, AGES[-1]),
        torch.tensor([frames]),
        torch.tensor([True]),
        torch.tensor([True]),
        expected,
    )
    return model, frame, config


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_estimate_is_the_posterior_mean_of_a_dense_gaussian(dtype):
    model, frames, config = one_frame(villin_features(8, dtype))
    found = elastic_estimate(frames, model, config)
    close = 1e-10 if dtype == DOUBLE else 2e-5
    expected, schedule, size = frames.expected, config.schedule, 24
    u = model.vectors[0].double().numpy()
    for b in range(2):
        tau = frames.tau[b, 0].double()
        alpha, sigma = float(schedule.alpha(tau)), float(schedule.sigma_translation(tau))
        noise = (sigma / alpha) ** 2
        variance, mean, axes, anchor = (
            x.double().numpy()
            for x in (
                expected.variance[b, 0],
                expected.mean[b, 0],
                expected.axes[b, 0],
                frames.anchor.translations[b, 0],
            )
        )
        rest = LEFT_OVER * variance[:6].mean()
        prior = u @ np.diag(variance) @ u.T + rest * (np.eye(size) - u @ u.T)
        seen = frames.rigids.translations[b, 0].double().numpy() / alpha - anchor
        seen = np.einsum("nab,na->nb", axes, seen).ravel()
        gain = prior @ np.linalg.inv(prior + noise * np.eye(size))
        mean = mean.ravel() + gain @ (seen - mean.ravel())
        wanted = anchor + np.einsum("nab,nb->na", axes, mean.reshape(-1, 3))
        assert np.abs(found.rigids.translations[b, 0].double().numpy() - wanted).max() < close
        assert np.abs(wanted - anchor - seen.reshape(-1, 3)).max() > 0.01, "the noise was left in"

        left = np.diag(noise * gain).reshape(-1, 3).mean(1)
        assert float(found.scale_translation[b, 0]) == pytest.approx(math.sqrt(left.mean()), rel=1e-4)
        # what modes leave over is shared out evenly, the rest is each residue's own
        six = rest * noise / (rest + noise) * np.diag(np.eye(size) - u @ u.T).reshape(-1, 3).mean(1)
        per_residue = np.sqrt(left - six + six.mean())
        np.testing.assert_allclose(found.scale_residue[b, 0].double(), per_residue, rtol=1e-4)
        assert per_residue.max() > 1.05 * per_residue.min()

        turn_noise = float(schedule.sigma_rotation(tau)) ** 2
        turn_variance = float(expected.turn_variance[b, 0])
        share = turn_variance / (turn_variance + turn_noise)
        before = frames.anchor.rotations[b, 0].double().numpy()
        for i in range(8):
            turn = Rotation.from_matrix(before[i].T @ frames.rigids.rotations[b, 0, i].double().numpy()).as_rotvec()
            middle = expected.turn_mean[b, 0, i].double().numpy()
            wanted = before[i] @ Rotation.from_rotvec(middle + share * (turn - middle)).as_matrix()
            assert np.abs(found.rigids.rotations[b, 0, i].double().numpy() - wanted).max() < 5 * close
        assert float(found.scale_rotation[b, 0]) == pytest.approx(math.sqrt(share * turn_noise), rel=1e-4)


def test_without_noise_the_estimate_is_the_noisy_frame_and_with_nothing_else_the_mean():
    features = villin_features(8, DOUBLE)
    model, frames, config = one_frame(features, tau=(0.0, 0.0))
    found = elastic_estimate(frames, model, config)
    torch.testing.assert_close(found.rigids.translations, frames.rigids.translations, atol=1e-12, rtol=0)
    torch.testing.assert_close(found.rigids.rotations, frames.rigids.rotations, atol=1e-7, rtol=0)
    # updates of frames of the history stay finite
    assert float(found.scale_translation.min()) == 1e-3 and float(found.scale_rotation.min()) == 1e-2
    assert torch.isfinite(found.pose).all()

    model, frames, config = one_frame(features, tau=(1.0, 1.0), schedule=Schedule(0.1, 80.0, 0.02, 1.5))
    found, expected = elastic_estimate(frames, model, config), frames.expected
    mean = frames.anchor.translations + (expected.axes @ expected.mean[..., None]).squeeze(-1)
    torch.testing.assert_close(found.rigids.translations, mean, atol=1e-12, rtol=0)
    prior = (expected.variance @ model.squares.transpose(-1, -2)) / 3
    prior = prior + 2 * LEFT_OVER * expected.variance[..., :6].mean(-1)[..., None] / 8
    torch.testing.assert_close(found.scale_residue, prior.sqrt(), atol=0, rtol=1e-9)


def test_a_pose_tells_what_its_numbers_are():
    """Each of the seventeen, from its definition; nothing of a frame without one before it."""
    model, frames, config = one_frame(villin_features(8, DOUBLE))
    found, expected = elastic_estimate(frames, model, config), frames.expected
    tau = frames.tau
    noise = (config.schedule.sigma_translation(tau) / config.schedule.alpha(tau)).square()[..., None, None]
    turn_noise = config.schedule.sigma_rotation(tau).square()[..., None, None]
    prior = (expected.variance @ model.squares.transpose(-1, -2)) / 3
    prior = (prior + 2 * LEFT_OVER * expected.variance[..., :6].mean(-1)[..., None] / 8)[..., None]
    turn_prior = expected.turn_variance[..., None, None]
    noisy = Rigids(
        frames.rigids.rotations, frames.rigids.translations / config.schedule.alpha(tau)[..., None, None]
    ).relative_to(frames.anchor)
    moved = found.rigids.relative_to(frames.anchor).translations
    mean = Rigids(
        frames.anchor.rotations, frames.anchor.translations + (expected.axes @ expected.mean[..., None]).squeeze(-1)
    ).relative_to(frames.anchor)
    wanted = torch.cat(
        [
            noisy.translations / (prior + noise).sqrt(),
            log_map(noisy.rotations) / (turn_prior + turn_noise).sqrt(),
            moved / prior.sqrt(),
            mean.translations / prior.sqrt(),
            expected.turn_mean / turn_prior.sqrt(),
            (prior.sqrt() / 0.05).log(),
            (found.scale_residue / found.scale_translation[..., None]).log()[..., None],
        ],
        -1,
    )
    torch.testing.assert_close(found.pose, 5 * torch.tanh(wanted / 5), atol=1e-9, rtol=0)
    assert (elastic_estimate(replace(frames, anchored=torch.tensor([False])), model, config).pose == 0).all()
    with pytest.raises(ValueError, match="without what is expected of them"):
        elastic_estimate(replace(frames, expected=None), model, config)


@pytest.mark.parametrize("of_reference", [False, True])
def test_rigid_motions_turn_the_estimate_alike(of_reference):
    """Of all frames, the reference left where it is; and of the reference alone, which changes nothing."""
    features = villin_features(9, DOUBLE)
    rotation, shift = random_rotation(4), torch.tensor([0.3, -1.0, 2.0], dtype=DOUBLE)

    def moved(rigids: Rigids) -> Rigids:
        shape = rigids.translations.shape[:-2]
        return rigids.moved(rotation.expand(*shape, 3, 3), shift.expand(*shape, 3))

    model, frames, config = one_frame(features)
    found = elastic_estimate(frames, model, config)
    history = wobbling_frames(features, 4, 2, 0, 0.08).map(lambda x: x[:, :3])
    ages, none = torch.tensor(AGES[-3:], dtype=DOUBLE).expand(2, -1), torch.zeros(2, 3, dtype=DOUBLE)
    if of_reference:
        turned = ElasticModel.of(features.with_reference(moved(features.reference)), config.elastic)
        again = elastic_estimate(replace(frames, expected=turned.expected(history, ages, none, none)), turned, config)
        wanted = found.rigids
    else:
        alpha = config.schedule.alpha(frames.tau)[..., None, None]
        clean = moved(Rigids(frames.rigids.rotations, frames.rigids.translations / alpha))
        turned = replace(
            frames,
            rigids=Rigids(clean.rotations, alpha * clean.translations),
            anchor=moved(frames.anchor),
            expected=model.expected(moved(history), ages, none, none),
        )
        again, wanted = elastic_estimate(turned, model, config), moved(found.rigids)
    torch.testing.assert_close(again.rigids.translations, wanted.translations, atol=1e-9, rtol=0)
    torch.testing.assert_close(again.rigids.rotations, wanted.rotations, atol=1e-8, rtol=0)
    torch.testing.assert_close(again.pose, found.pose, atol=1e-7, rtol=0)
    torch.testing.assert_close(again.scale_residue, found.scale_residue, atol=1e-10, rtol=0)


def test_which_vectors_span_a_stiffness_does_not_matter():
    """Signs, and rotations among modes that count as equally stiff: the estimate and the features are the same."""
    features = villin_features(8, DOUBLE)
    settings = ElasticSettings(stiffness_min=0.3)
    model, frames, config = one_frame(features, settings=settings)
    stiffness, _, _ = modes_of(features, settings)
    alike = int((stiffness == 0.3).sum())
    assert 3 < alike < len(stiffness) - 3
    mixing = torch.diag(torch.tensor([-1.0, 1.0]).to(DOUBLE).repeat(9))
    generator = torch.Generator().manual_seed(0)
    mixing[:alike, :alike] = torch.linalg.qr(torch.randn(alike, alike, generator=generator, dtype=DOUBLE))[0]
    vectors = model.vectors @ mixing
    other = replace(model, vectors=vectors, squares=vectors.unflatten(1, (8, 3)).square().sum(2))
    history = wobbling_frames(features, 4, 2, 0, 0.08).map(lambda x: x[:, :3])
    ages, none = torch.tensor(AGES[-3:], dtype=DOUBLE).expand(2, -1), torch.zeros(2, 3, dtype=DOUBLE)
    again = elastic_estimate(replace(frames, expected=other.expected(history, ages, none, none)), other, config)
    found = elastic_estimate(frames, model, config)
    for name in ("translations", "rotations"):
        torch.testing.assert_close(getattr(again.rigids, name), getattr(found.rigids, name), atol=1e-10, rtol=0)
    for name in ("scale_translation", "scale_rotation", "pose", "scale_residue"):
        torch.testing.assert_close(getattr(again, name), getattr(found, name), atol=1e-9, rtol=0)
    torch.manual_seed(0)
    told = ModeFeatures(config).double()
    with torch.no_grad():
        for parameter in told.parameters():
            parameter.normal_()
        for first, second in zip(told(model), told(other), strict=True):
            torch.testing.assert_close(first, second, atol=1e-9, rtol=0)


def test_mode_features_are_widths_and_correlations():
    features = villin_features(7, DOUBLE)
    model, config = ElasticModel.of(features, ElasticSettings()), elastic_config()
    told = ModeFeatures(config).double()
    assert all((x == 0).all() for x in told(model)), "a fresh network is told nothing"
    with torch.no_grad():
        told.single.weight[:3], told.pair.weight[:2] = torch.eye(3), torch.eye(2)
    single, pair = told(model)
    _, u, numbers = modes_of(features, ElasticSettings())

    def covariance(variances: list[float]) -> np.ndarray:
        blocks = (u @ np.diag(variances) @ u.T).reshape(7, 3, 7, 3)
        return np.trace(blocks, axis1=1, axis2=3)

    def grown(time: float) -> list[float]:
        return [
            2 * f * (1 - math.exp(-rf * time)) + 2 * s * (1 - math.exp(-rs * time)) for f, rf, s, rs, _ in numbers[:-1]
        ]

    for place, (time, usual) in enumerate(((1.0, 0.03), (10.0, 0.06), (100.0, 0.09))):
        width = np.sqrt(np.diag(covariance(grown(time))) / 3)
        np.testing.assert_allclose(single[:, place].detach(), 2 * np.log(width / usual), atol=1e-9)
    for place, variances in enumerate((grown(10.0), [numbers_of[2] for numbers_of in numbers[:-1]])):
        whole = covariance(variances)
        size = np.sqrt(np.diag(whole))
        np.testing.assert_allclose(pair[..., place].detach(), whole / np.outer(size, size), atol=1e-9)


# --- proteins of all kinds


KINDS = {
    "two": lambda: villin_features(2),
    "three": lambda: villin_features(3),
    "four": lambda: villin_features(4),
    "two chains": lambda: joined(villin_features(7), villin_features(6)),
    "two chains far apart": lambda: joined(villin_features(6), villin_features(5), apart=12.0),
    "a pair and a single one beside a chain": lambda: joined(
        villin_features(6), villin_features(2), villin_features(1)
    ),
    "singles": lambda: joined(*[villin_features(1)] * 4, apart=0.8),
    "a gap": lambda: replace(
        villin_features(9),
        bonded=torch.tensor([True] * 3 + [False] + [True] * 4),
        residue_index=torch.tensor([0, 1, 2, 3, 9, 10, 11, 12, 13]),
    ),
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_protein_can_be_trained_on_and_rolled_out(kind):
    features = KINDS[kind]()
    config = elastic_config(attention_temperature=True, blocks=1)
    model = ElasticModel.of(features, config.elastic)
    for name in ("fast", "slow", "constant"):
        assert torch.isfinite(getattr(model, name)).all() and (getattr(model, name) > 0).all()

    network = awake(config)
    batch = toy_batch(features, frames=3)
    prediction = training_pass(network, batch, noise_batch(batch, network, recipe_objective("mini")))
    loss = prediction.rigids.translations.square().sum() + prediction.torsions.sum()
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)
    assert all(torch.isfinite(x).all() for x in (*prediction.rigids, prediction.torsions, prediction.estimate.pose))

    run = rolled(features, network=network)
    frames = [run.step() for _ in range(3)]
    assert all(torch.isfinite(f.backbone).all() and torch.isfinite(f.torsions).all() for f in frames)


@pytest.mark.parametrize("length", [1, 2])
def test_without_modes_all_directions_are_alike(length):
    """What is left over has a variance of its own, so that even these frames have an estimate."""
    features = villin_features(length, DOUBLE)
    model = ElasticModel.of(features, ElasticSettings())
    assert model.vectors.shape == (1, 3 * length, 0) and model.around is None
    anchor = wobbling_frames(features, 2)
    ages, none = torch.tensor([[12.0, 2.0]], dtype=DOUBLE), torch.zeros(1, 2, dtype=DOUBLE)
    expected = model.expected(anchor, ages, none, none)
    assert (expected.mean == 0).all() and expected.variance.shape == (1, 1, 0)
    one = torch.ones(1, 1, dtype=DOUBLE)
    config = elastic_config()
    rigids, last = wobbling_frames(features, 3).map(lambda x: x[:, 2:]), anchor.map(lambda x: x[:, 1:])
    true = torch.tensor([True])
    frames = Frames(rigids, last, 0.1 * one, 0 * one, 2 * one, torch.tensor([2]), true, true, expected)
    found = elastic_estimate(frames, model, config)
    alpha, sigma = (
        float(f(torch.tensor(0.1, dtype=DOUBLE))) for f in (config.schedule.alpha, config.schedule.sigma_translation)
    )
    rest = LEFT_OVER * expected.turn_variance
    kept = rest / (rest + (sigma / alpha) ** 2)
    wanted = last.translations + kept * (rigids.translations / alpha - last.translations)
    torch.testing.assert_close(found.rigids.translations, wanted, atol=1e-12, rtol=0)
    assert all(
        torch.isfinite(x).all() for x in (*found.rigids, found.scale_translation, found.scale_residue, found.pose)
    )


def test_chains_far_apart_move_on_their_own_within_bounds():
    """The soft modes between two chains are as wide as the softest that the numbers are fitted to, not wider."""
    features = joined(villin_features(6, DOUBLE), villin_features(5, DOUBLE), apart=12.0)
    settings = ElasticSettings()
    alphas = features.reference.translations.numpy()
    values = np.linalg.eigvalsh(smooth_hessian(alphas, features.bonded.numpy()))[6:]
    assert values[0] < settings.stiffness_min, "too near to each other to test anything"
    model = ElasticModel.of(features, settings)
    numbers = modes_of(features, settings)[2]
    assert (values < settings.stiffness_min).sum() == 6, "one rigid body beside another"
    np.testing.assert_allclose(model.fast[0, :6], numbers[0][0], rtol=1e-9)
    assert float(model.fast[0, 6]) < float(model.fast[0, 5])


# --- the network and rollouts


def start_of(features: Features) -> torch.Tensor:
    return backbone_from_rigids(features.reference.to(DOUBLE))


def rolled(
    features: Features,
    seeds: tuple[int, ...] = (0,),
    network: Network | None = None,
    start: torch.Tensor | None = None,
    settings: SamplerSettings = SAMPLING,
) -> Rollout:
    network = network or awake(elastic_config(attention_temperature=True, blocks=1))
    start = start_of(features) if start is None else start
    start = start.expand(len(seeds), -1, -1, -1)
    dtype = next(network.parameters()).dtype
    return Rollout(network, features, start, stride=10.0, seeds=seeds, settings=settings, dtype=dtype)


def draw(run: Rollout, count: int) -> torch.Tensor:
    return torch.stack([run.step().backbone for _ in range(count)])


def test_an_untrained_network_draws_the_spread_of_each_mode():
    """Its clean-frame estimate is the exact posterior mean of the expected Gaussian: nothing may be lost."""
    torch.manual_seed(0)
    features, count = villin_features(8), 160
    settings = SamplerSettings("multistep", steps=10, context_tau=0.0, max_context=3)
    # overlaps, and turns that are no longer small, would be something else
    network = Network(elastic_config(blocks=1, excluded_volume=False, elastic=ElasticSettings(amplitude=(-0.4, 0.0))))
    run = rolled(features, tuple(range(count)), network, settings=settings)
    elastic, expected = run._conditions.elastic, run._expected(1)
    # the only frame before is the reference, which nothing leads away from
    assert expected.mean.abs().max() < 1e-4 and expected.turn_mean.abs().max() < 1e-3
    before = run.frames()[0]
    shift = (run.step().backbone - before)[:, :, 1].float()
    ratio = (shift.flatten(1) @ elastic.vectors[0]).square() / expected.variance[0, 0]  # [replicas, modes]
    assert float(ratio.mean()) == pytest.approx(1, abs=0.1)
    # soft and stiff alike, which differ in width by far
    assert float((expected.variance[0, 0, 0] / expected.variance[0, 0, -1]).sqrt()) > 3
    for part_of in ratio.chunk(3, dim=1):
        assert float(part_of.mean()) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("context_tau", [0.0, 0.005])
def test_restored_rollout_equals_the_unbroken_one_across_evictions(context_tau):
    features, settings = villin_features(8), replace(SAMPLING, context_tau=context_tau)
    unbroken = draw(rolled(features, (0, 5), settings=settings), 6)
    assert len(set(map(float, unbroken[:, 0, 0, 0, 0]))) == 6 and (unbroken[:, 0] != unbroken[:, 1]).any()
    # of another start, so that nothing of the run itself is left
    fresh = rolled(features, (0, 5), start=start_of(features).flip(0)[None], settings=settings)
    run = rolled(features, (0, 5), settings=settings)
    for count in range(5):
        if count in (2, 4):
            fresh.restore(run.frames(), run.count, run.offset)
            assert torch.equal(draw(fresh, 6 - count), unbroken[count:]), count
        run.step()
    assert sorted(run.frames()) == [0, 3, 4, 5], "nothing was evicted"


def test_replicas_of_a_batch_are_those_alone():
    features = villin_features(10)
    batch = draw(rolled(features, (3, 7)), 2)
    for place, seed in enumerate((3, 7)):
        assert (draw(rolled(features, (seed,)), 2)[:, 0] - batch[:, place]).abs().max() < 1e-5


def test_replicas_with_starts_of_their_own_have_references_of_their_own():
    features = villin_features(10)
    other = backbone_from_rigids(wobbling_frames(features, 2, seed=3, size=0.1).map(lambda x: x[0, 1]).to(DOUBLE))
    starts = torch.stack([start_of(features), other])
    batch = rolled(features, (3, 7), start=starts)
    assert batch._conditions.elastic.vectors.shape[0] == 2
    frames = draw(batch, 2)
    for place, seed in enumerate((3, 7)):
        assert (draw(rolled(features, (seed,), start=starts[place]), 2)[:, 0] - frames[:, place]).abs().max() < 1e-5


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
def test_rotated_start_gives_the_rotated_trajectory(dtype, tolerance):
    features = villin_features(10, dtype)
    network = awake(elastic_config(attention_temperature=True, blocks=1), dtype)
    rotation, shift = random_rotation(11), torch.tensor([1.0, -2.0, 3.0], dtype=DOUBLE)
    start = start_of(features)
    plain = draw(rolled(features, network=network, start=start), 2)
    turned = draw(rolled(features, network=network, start=start @ rotation.T + shift), 2)
    assert (plain[-1] - start).norm(dim=-1).mean() > 0.01, "nothing moved"
    assert (turned - (plain @ rotation.T + shift)).abs().max() < tolerance


def test_a_reference_can_outlast_a_new_start():
    """`begin` with the first start as reference expects frames by its modes; without, by those of the new one."""
    features = villin_features(8)
    other = backbone_from_rigids(wobbling_frames(features, 2, seed=3, size=0.1).map(lambda x: x[0, 1]).to(DOUBLE))[None]
    run = rolled(features)
    first = run._conditions.elastic.vectors.clone()
    run.begin(other, 0, reference=start_of(features)[None])
    assert torch.equal(run._conditions.elastic.vectors, first)
    kept = draw(run, 2)
    run.begin(other, 0)
    assert not torch.equal(run._conditions.elastic.vectors, first)
    assert not torch.equal(draw(run, 2), kept)
    stored, count = run.frames(), run.count
    run.begin(other, 0, reference=start_of(features)[None])
    draw(run, 2)
    stored = run.frames()
    after = draw(run, 1)
    run.restore(stored, count, 0, reference=start_of(features)[None])
    assert torch.equal(draw(run, 1), after)


@pytest.mark.parametrize("stride", [10.0, 500.0])
@torch.inference_mode()
def test_training_pass_equals_cached_inference(stride):
    """With a temperature, and modes that see strides longer than the network does."""
    network = awake(elastic_config(attention_temperature=True))
    batch = toy_batch(villin_features(12), 5, 2, stride=stride)
    noised = noise_batch(batch, network, recipe_objective("mini"))
    expected = training_pass(network, batch, noised)
    condition, cache = network.condition(batch.features), KVCache()
    frames = with_expected(noised.frames, condition.elastic, network.config, 5)
    assert frames.stride.max() == stride

    def alone(number: int) -> Frames:
        return replace(part(frames, [number]), expected=some(frames.expected, number, number + 1))

    for number in range(1, 5):
        network(condition, alone(number - 1), cache=cache, store=True)
        drawn = network(condition, alone(4 + number), cache=cache)
        for a, b in zip(drawn.rigids, expected.rigids, strict=True):
            assert (a[:, 0] - b[:, number - 1]).abs().max() < 1e-4
        assert (drawn.torsions[:, 0] - expected.torsions[:, number - 1]).abs().max() < 1e-4


@torch.inference_mode()
def test_replicas_with_references_of_their_own_are_those_alone():
    network = awake(elastic_config(attention_temperature=True))
    features, others = villin_features(10), wobbling_frames(villin_features(10), 3, seed=3, size=0.1)
    proteins = [features, features.with_reference(others.map(lambda x: x[0, 2]))]
    check_replicas(network, proteins)


@torch.inference_mode()
def test_short_pieces_of_replicas_have_neighbours_of_their_own():
    """The surroundings of a piece of one or two residues are the nearest in space, which differ between references."""
    network = awake(elastic_config())
    first = joined(villin_features(8), villin_features(2))
    away = first.reference.translations.clone()
    away[8:] -= torch.tensor([3.0, 0.3, 0.2])  # the pair on the chain's other side
    second = first.with_reference(Rigids(first.reference.rotations, away))
    around = [neighbourhoods(f.reference.translations.numpy(), f.bonded.numpy(), 4) for f in (first, second)]
    assert {*around[0][9]} != {*around[1][9]}
    check_replicas(network, [first, second])


def check_replicas(network: Network, proteins: list[Features]) -> None:
    """A pass of replicas with references of their own equals each one's alone."""
    alone = [network.condition(features) for features in proteins]
    batch = toy_batch(proteins[0], 3, len(proteins))
    noised = noise_batch(batch, network, recipe_objective("mini"))
    together = Condition.of_replicas(alone)
    mask = block_causal_mask(3, proteins[0].length)

    def run(condition: Condition, frames: Frames) -> Prediction:
        return network(condition, with_expected(frames, condition.elastic, network.config, 3), mask)

    both = run(together, noised.frames)
    for place, condition in enumerate(alone):

        def own(x: torch.Tensor) -> torch.Tensor:
            return x[place : place + 1]  # noqa: B023

        frames = replace(
            noised.frames,
            **{name: own(getattr(noised.frames, name)) for name in ("tau", "anchor_tau", "stride")},
            **{name: getattr(noised.frames, name).map(own) for name in ("rigids", "anchor")},
        )
        single = run(condition, frames)
        for a, b in zip(both.rigids, single.rigids, strict=True):
            assert (a[place] - b[0]).abs().max() < 1e-5
        assert (both.torsions[place] - single.torsions[0]).abs().max() < 1e-4
        other = run(alone[1 - place], frames)
        assert (other.rigids.translations - single.rigids.translations).abs().max() > 1e-3, "references do not matter"


@torch.inference_mode()
def test_updates_reach_as_far_as_each_residue_is_unknown():
    torch.manual_seed(0)
    network = Network(elastic_config(blocks=1)).eval()
    network.blocks[0].update.bias.copy_(torch.tensor([1.0, 0.0, -2.0, 0.0, 0.5, 0.0]))
    batch = toy_batch(villin_features(10), 3)
    found = training_pass(network, batch, noise_batch(batch, network, recipe_objective("mini")))
    start, reach = found.estimate.rigids, found.estimate.scale_residue[..., None]
    shift = start.to_local(found.rigids.translations)
    torch.testing.assert_close(shift, reach * torch.tensor([1.0, 0.0, -2.0]), atol=1e-5, rtol=0)
    turn = log_map(start.rotations.mT @ found.rigids.rotations)
    wanted = found.estimate.scale_rotation[..., None, None] * torch.tensor([0.0, 0.5, 0.0])
    torch.testing.assert_close(turn, wanted.expand_as(turn), atol=1e-5, rtol=0)
    assert reach.max() > 1.2 * reach.min()


def test_frames_of_what_is_expected_join_again():
    _, frames, _ = one_frame(villin_features(6))
    whole = Expected.joined([frames.expected] * 3)
    assert whole.mean.shape == (2, 3, 6, 3) and whole.turn_variance.shape == (2, 3)
    again = Expected.joined([some(whole, 0, 2), some(whole, 2, None)])
    for name in ("axes", "mean", "variance", "turn_mean", "turn_variance"):
        assert torch.equal(getattr(again, name), getattr(whole, name))


# --- attention with a temperature


def test_sharpness_grows_with_the_tokens_that_are_seen():
    found = sharpness(torch.tensor([0, 3, 24, 1]), 8)
    wanted = [math.log(tokens) / math.log(USUAL_TOKENS) for tokens in (8, 32, 200, 16)]
    np.testing.assert_allclose(found, np.repeat(wanted, 8), rtol=1e-6)
    assert found[16] == pytest.approx(1, abs=1e-6)


@torch.inference_mode()
def test_a_temperature_changes_nothing_at_the_usual_number_of_tokens():
    plain = narrow("mini")
    torch.manual_seed(0)
    layers = SpaceTimeAttention(plain, 0), SpaceTimeAttention(replace(plain, attention_temperature=True), 0)
    missing = layers[1].load_state_dict(layers[0].state_dict(), strict=False).missing_keys
    assert missing == ["log_scale"] and (layers[1].log_scale == 0).all()
    for layer in layers:
        layer.modulation.weight.fill_(0.05)
    s, condition = torch.randn(1, 1, 8, 32), torch.ones(1, 1, 32)
    rotary = RotaryAngles(torch.arange(8), torch.full((8,), 24), 16, torch.float32)
    without = layers[0](s, condition, rotary)
    rotary.sharpness = sharpness(torch.tensor([24]), 8)
    assert torch.equal(layers[0](s, condition, rotary), without)
    assert (layers[1](s, condition, rotary) - without).abs().max() < 1e-6
    rotary.sharpness = sharpness(torch.tensor([0]), 8)
    assert (layers[1](s, condition, rotary) - without).abs().max() > 1e-4
    # logits twice as large by the sharpness or by the learned scale are the same
    rotary.sharpness = torch.full((8,), 2.0)
    twice = layers[1](s, condition, rotary)
    rotary.sharpness = torch.ones(8)
    layers[1].log_scale.fill_(math.log(2))
    assert (layers[1](s, condition, rotary) - twice).abs().max() < 1e-6


# --- the share of the correction


def test_kept_correction_is_linear_in_the_logarithm():
    pairs = ((0.001, 1.0), (0.1, 0.4), (0.4, 0.2))
    tau = torch.tensor([0.0, 1e-6, 0.001, 0.01, 0.1, 0.2, 0.4, 1.0])
    found = kept_correction(tau, pairs)
    wanted = np.interp(np.log(np.maximum(tau.numpy(), 1e-12)), np.log([t for t, _ in pairs]), [s for _, s in pairs])
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert kept_correction(tau, ((0.1, 0.7),)).tolist() == pytest.approx([0.7] * 8)


@pytest.mark.parametrize("prior", ["elastic", "isotropic"])
def test_a_share_of_the_correction_is_kept_in_evaluation_alone(prior):
    config = replace(narrow("mini"), prior=prior)
    network = awake(config)
    batch = toy_batch(villin_features(8), 4, 2)
    noised = noise_batch(batch, network, recipe_objective("mini"))

    @torch.no_grad()
    def predicted(correction, training: bool = False) -> Prediction:
        network.config = replace(config, correction=correction)
        return training_pass(network.train(training), batch, noised)

    plain = predicted(())
    start = plain.estimate.rigids
    assert (plain.rigids.translations - start.translations).abs().max() > 1e-3
    whole, nothing, half = (predicted(((0.01, share),)) for share in (1.0, 0.0, 0.5))
    for name, close in (("translations", 1e-6), ("rotations", 1e-5)):
        torch.testing.assert_close(getattr(whole.rigids, name), getattr(plain.rigids, name), atol=close, rtol=0)
        torch.testing.assert_close(getattr(nothing.rigids, name), getattr(start, name), atol=close, rtol=0)
    middle = (start.translations + plain.rigids.translations) / 2
    torch.testing.assert_close(half.rigids.translations, middle, atol=1e-6, rtol=0)
    turned = (start.rotations.mT @ half.rigids.rotations, half.rigids.rotations.mT @ plain.rigids.rotations)
    torch.testing.assert_close(log_map(turned[0]), log_map(turned[1]), atol=1e-5, rtol=0)
    assert torch.equal(half.torsions, plain.torsions)
    # each frame by its own tau
    mixed = predicted(((1e-4, 1.0), (1.0, 0.0)))
    share = 1 - (noised.tau / 1e-4).log().clamp(min=0)[..., None, None] / math.log(1e4)
    wanted = start.translations + share * (plain.rigids.translations - start.translations)
    torch.testing.assert_close(mixed.rigids.translations, wanted, atol=1e-5, rtol=0)
    assert torch.equal(
        predicted(((0.01, 0.0),), training=True).rigids.translations, predicted((), True).rigids.translations
    )
    network.eval()


# --- the configuration


FORMER = (
    "ModelConfig(anchored=True, c_s=128, c_z=32, blocks=3, conditioner_layers=2, reference_torsions=False, "
    "conditioner_s=128, conditioner_z=32, ipa_heads=4, ipa_hidden=16, ipa_query_points=4, ipa_value_points=8, "
    "attention_layers=1, attention_heads=4, attention_hidden=128, mlp_ratio=2, schedule=Schedule(beta_min=0.1, "
    "beta_max=20.0, sigma_min=0.02, sigma_max=1.5), sampler='multistep', steps=20, tau_end=0.0005, context_tau=0.005, "
    "noise_scale=1.0, max_context=7, displacement=0.043, displacement_exponent=0.22, displacement_max=0.2, turn=0.16, "
    "turn_max=0.6, stride_min=1.0, stride_max=20.0, stride_default=10.0, temperature=300.0, max_length=0, "
    "torsions_trained=False, name='', attention='joint', conditioner='reference')"
)
"""As `repr` gave it before there was an elastic prior; digests of weights hold it."""


def test_configurations_from_before_look_as_they_did():
    assert repr(ModelConfig()) == FORMER
    old = {name: value for name, value in ModelConfig().to_dict().items() if f"{name}=" in FORMER}
    assert repr(ModelConfig.from_dict(json.loads(json.dumps(old)))) == FORMER
    changed = {
        "prior": "elastic",
        "elastic": ElasticSettings(fast=0.001),
        "attention_temperature": True,
        "centred_noise": True,
        "lasting_reference": True,
        "correction": ((0.1, 0.5),),
        "excluded_volume": True,
    }
    for name, value in changed.items():
        if name != "prior":  # with one, its numbers are shown, whatever the defaults of the day
            shown = "" if name == "elastic" else f", {name}={value!r}"
            assert repr(replace(ModelConfig(), **{name: value})) == f"{FORMER[:-1]}{shown})"
    with_prior = replace(ModelConfig(), prior="elastic")
    assert repr(with_prior) == f"{FORMER[:-1]}, prior='elastic', elastic={ElasticSettings()!r})"
    # numbers that a configuration without that prior was written with, in whatever form, are nothing to it
    values = ModelConfig().to_dict()
    values["elastic"] = {"amplitude": [0.1, 0.2, 0.3, 0.4, 0.5]}
    assert ModelConfig.from_dict(values) == ModelConfig()
    assert recipe_from_dict({"model": values}, Recipe(model=ModelConfig())).model == ModelConfig()


def test_training_goes_without_widening():
    network = Network(elastic_config(blocks=1, elastic=ElasticSettings(widening=0.3)))
    plain = Network(elastic_config(blocks=1))
    features = villin_features(8)
    widths = [network.train(mode).condition(features).elastic.slow for mode in (True, False)]
    torch.testing.assert_close(widths[0], plain.condition(features).elastic.slow)
    torch.testing.assert_close(widths[1], math.exp(0.6) * widths[0])


def test_configurations_survive_json():
    config = elastic_config(
        elastic=ElasticSettings(slow_rate=0.01, amplitude=(0.1, 0.2), looseness=(-0.5, 1.5), widening=-0.1),
        correction=((0.05, 1.0), (0.3, 0.25)),
        attention_temperature=True,
        centred_noise=True,
        lasting_reference=True,
        excluded_volume=True,
    )
    again = ModelConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config and repr(again) == repr(config) and hash(again) == hash(config)
    assert isinstance(again.elastic, ElasticSettings) and again.correction[1] == (0.3, 0.25)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prior": "gaussian"}, "choose 'isotropic' or 'elastic'"),
        ({"prior": "elastic", "anchored": False}, "set anchored to true"),
        ({"attention_temperature": True, "attention": "separable"}, "attention_temperature is for joint attention"),
        ({"correction": ((0.3, 1.0), (0.1, 0.5))}, "a rising"),
        ({"correction": ((0.1, 1.0), (0.1, 0.5))}, "a rising"),
        ({"correction": ((0.0, 1.0),)}, "above 0"),
    ],
)
def test_configurations_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(preset("mini"), **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fast": -1.0}, "fast of the elastic prior is -1.0"),
        ({"slow_rate": math.nan}, "slow_rate of the elastic prior is nan"),
        ({"amplitude": (0.1, 0.2, 0.3)}, "has 3 numbers; give an intercept and a slope, or none"),
        ({"looseness": (1.0, 0.5)}, "give the lowest and the highest"),
    ],
)
def test_numbers_of_the_prior_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ElasticSettings(**changes)
