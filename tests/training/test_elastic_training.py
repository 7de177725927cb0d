"""Training with an elastic prior, with centred noise, and with few high diffusion times in the end."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from openmm_starmd.data.batches import Batch
from openmm_starmd.diffusion.process import centred, forward_noise
from openmm_starmd.diffusion.samplers import SamplerSettings
from openmm_starmd.geometry.rigid import Rigids, backbone_from_rigids
from openmm_starmd.model.config import ModelConfig, preset
from openmm_starmd.model.frames import Frames, with_expected
from openmm_starmd.model.network import Network
from openmm_starmd.rollout import Rollout
from openmm_starmd.training import objective as objectives
from openmm_starmd.training.losses import translation_score_loss
from openmm_starmd.training.objective import NoisedBatch, noise_batch, objective, training_draws, training_pass
from openmm_starmd.training.settings import PAPER_OBJECTIVE, ObjectiveSettings, recipe_objective
from tests.model.test_network import awake, narrow
from tests.proteins import toy_batch, villin_features

NAMES = ("axes", "mean", "variance", "turn_mean", "turn_variance")


def elastic_config(**changes) -> ModelConfig:
    return replace(narrow("mini"), prior="elastic", attention_temperature=True, **changes)


def noised(config: ModelConfig, frames: int = 4, samples: int = 2, **options) -> tuple[Network, Batch, NoisedBatch]:
    network = awake(config)
    batch = toy_batch(villin_features(10), frames, samples, **options)
    return network, batch, noise_batch(batch, network, recipe_objective("mini"))


# --- what is expected in training and in a rollout


@pytest.mark.parametrize("context_tau", [0.0, 0.02])
@pytest.mark.parametrize("gap", [False, True])
def test_a_training_pass_expects_what_a_rollout_expects(context_tau, gap):
    """Of the same history, as noised in the rollout; with a gap behind the first frame, as evictions leave it."""
    features = villin_features(8)
    network = awake(elastic_config(blocks=1))
    settings = SamplerSettings(steps=1, max_context=4, context_tau=context_tau)
    start = backbone_from_rigids(features.reference.to(torch.float64)).expand(2, -1, -1, -1)
    run = Rollout(network, features, start, stride=7.0, seeds=(1, 2), settings=settings)
    seen = []
    forward = network.forward
    network.forward = lambda condition, frames, **options: (
        seen.append((frames, options)) or forward(condition, frames, **options)
    )
    drawn = 5 if gap else 3
    for _ in range(drawn):
        run.step()
    del network.forward
    assert [kept.number for kept in run._history] == ([0, 3, 4, 5] if gap else [0, 1, 2, 3])
    wanted = run._expected(drawn + 1)

    # the same as a window whose last frame is the one to be drawn
    history = run._history
    undone = Rigids(*(torch.stack(x, 1) for x in zip(*(kept.noised for kept in history), strict=True)))
    alpha = network.config.schedule.alpha(torch.stack([kept.tau for kept in history], 1))[..., None, None]
    clean = Rigids(undone.rotations, alpha * undone.translations)
    last = clean.map(lambda x: torch.cat([x, x[:, -1:]], 1))  # the fifth clean frame is not looked at
    tau = torch.stack([kept.tau for kept in history] + [torch.zeros(2)], 1)
    gaps = [7.0 * (b.number - a.number) for a, b in itertools.pairwise(history)]
    stride = torch.tensor([7.0, *gaps, 7.0]).expand(2, -1)
    number = torch.arange(5)
    frames = Frames(
        last.map(lambda x: torch.cat([x, x[:, 1:]], 1)),
        last.map(lambda x: torch.cat([x[:, :1], x[:, :-1], x[:, :-1]], 1)),
        torch.cat([tau, torch.full((2, 4), 0.3)], 1),
        torch.zeros(2, 9),
        torch.cat([stride, stride[:, 1:]], 1),
        torch.cat([number, number[1:]]),
        torch.arange(9) >= 5,
        torch.cat([number > 0, number[1:] > 0]),
    )
    elastic = network.condition(features).elastic
    expected = with_expected(frames, elastic, network.config, 5).expected
    for name in NAMES:
        found = getattr(expected, name)
        assert found.shape[:2] == (2, 9)
        torch.testing.assert_close(found[:, 8:], getattr(wanted, name), atol=2e-6, rtol=1e-5)
        # a clean copy is expected as its noisy copy is
        assert torch.equal(found[:, 1:5], found[:, 5:])
    # frames of the history were expected alike as they came, or as it was built anew without those that were evicted
    stored = [frame.expected for frame, options in seen if options.get("store")][-4:]
    assert len(stored) == (4 if gap else 3)
    for place, one in enumerate(stored, 4 - len(stored)):
        for name in NAMES:
            torch.testing.assert_close(
                getattr(one, name), getattr(expected, name)[:, place : place + 1], atol=2e-6, rtol=1e-5
            )
    assert expected.mean[:, 1:].abs().max() > 1e-3


def test_the_first_frame_of_a_window_is_expected_where_it_is():
    network, batch, data = noised(elastic_config())
    frames = with_expected(data.frames, network.condition(batch.features).elastic, network.config, 4)
    assert (frames.expected.mean[:, 0] == 0).all() and (frames.expected.turn_mean[:, 0] == 0).all()
    assert (frames.expected.variance > 0).all()
    for name in ("tau", "stride", "index"):
        assert torch.equal(getattr(frames, name), getattr(data.frames, name))


def test_what_is_expected_does_not_look_ahead():
    network, batch, data = noised(elastic_config())
    elastic = network.condition(batch.features).elastic
    before = with_expected(data.frames, elastic, network.config, 4).expected
    rigids = data.frames.rigids.map(torch.clone)
    rigids.translations[:, 2] += 0.1 * torch.randn(10, 3)  # clean copy of frame 2
    rigids.translations[:, 4:] += 0.1  # all noisy copies
    after = with_expected(replace(data.frames, rigids=rigids), elastic, network.config, 4).expected
    for name in NAMES:
        first, second = getattr(before, name), getattr(after, name)
        for frame in (0, 1, 2, 4, 5):
            assert torch.equal(first[:, frame], second[:, frame]), name
        if name != "variance" and name != "turn_variance" and name != "turn_mean":
            assert not torch.equal(first[:, 3], second[:, 3]), name
            assert not torch.equal(first[:, 6], second[:, 6]), name


def test_an_untrained_network_gives_the_estimate_and_learns_from_it():
    config = elastic_config()
    torch.manual_seed(0)
    network = Network(config)
    batch = toy_batch(villin_features(10), 4, 2)
    data = noise_batch(batch, network, recipe_objective("mini"))
    prediction = training_pass(network, batch, data)
    torch.testing.assert_close(prediction.rigids.translations, prediction.estimate.rigids.translations)
    assert prediction.estimate.scale_residue.shape == (2, 3, 10)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(6):
        total, _ = objective(network, batch, recipe_objective("mini"))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(float(total.detach()))
    assert losses[-1] < losses[0] and all(map(math.isfinite, losses))
    # all that the prior adds is reached by gradients
    assert network.modes.single.weight.grad.abs().max() > 0 and network.modes.pair.weight.grad.abs().max() > 0
    assert network.blocks[0].attention[0].log_scale.grad is not None


def test_bf16_leaves_the_prior_alone():
    """Under autocast, as on a GPU, what is expected has single precision: positions do not fit bf16."""
    network, batch, data = noised(elastic_config())
    elastic = network.condition(batch.features).elastic
    exact = with_expected(data.frames, elastic, network.config, 4).expected
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = with_expected(data.frames, elastic, network.config, 4).expected
        total, _ = objective(network, batch, recipe_objective("mini"))
    total.backward()
    assert torch.isfinite(total)
    for name in NAMES:
        assert torch.equal(getattr(rough, name), getattr(exact, name)), name


# --- high diffusion times


def taus(step: int, settings: ObjectiveSettings, windows: int = 400) -> torch.Tensor:
    """Diffusion times of the noisy copies at a training step."""
    network = Network(narrow("mini"))
    batch = replace(toy_batch(villin_features(2), 5, windows), key=(0, step, 0))
    return noise_batch(batch, network, settings).tau


def test_few_high_diffusion_times_are_left_after_the_step():
    usual = ObjectiveSettings(log_uniform=0.4)
    settings = replace(usual, high_tau=0.05, high_steps=100, high_share=0.2)
    assert torch.equal(taus(99, settings), taus(99, usual))
    before, after = taus(100, usual), taus(100, settings)
    high = before > 0.05
    assert torch.equal(after[~high], before[~high])
    lowered = high & (after <= 0.05)
    assert torch.equal(after[high & ~lowered], before[high & ~lowered]), "those that stay are as they were"
    count = int(high.sum())
    assert count > 800
    share = 1 - float(lowered.sum()) / count
    assert abs(share - 0.2) < 4 * math.sqrt(0.2 * 0.8 / count)
    low = after[lowered]
    assert low.min() >= settings.tau_min and low.max() <= 0.05
    # log-uniform between: deciles hold a tenth each
    place = (low / settings.tau_min).log() / math.log(0.05 / settings.tau_min)
    counted = np.histogram(place.numpy(), 10, (0, 1))[0] / len(low)
    assert np.abs(counted - 0.1).max() < 5 * math.sqrt(0.09 / len(low))
    for share in (0.0, 1.0):
        found = taus(100, replace(settings, high_share=share))
        assert (found > 0.05).any() == bool(share)
        assert torch.equal(found, before) == bool(share)


def test_draws_of_before_are_as_they_were():
    """What was added is drawn after all the rest."""
    draws = training_draws(4, 6)
    assert list(draws)[-2:] == ["lowered", "lowered log_tau"]
    network, batch = Network(narrow("mini")), toy_batch(villin_features(6), 4, 2)
    found = noise_batch(batch, network, ObjectiveSettings())
    original = objectives.training_draws
    try:
        objectives.training_draws = lambda length, residues: {
            name: draw for name, draw in original(length, residues).items() if not name.startswith("lowered")
        }
        former = noise_batch(batch, network, ObjectiveSettings())
    finally:
        objectives.training_draws = original
    assert torch.equal(found.tau, former.tau)
    for name in ("rigids", "anchor"):
        for a, b in zip(getattr(found.frames, name), getattr(former.frames, name), strict=True):
            assert torch.equal(a, b)


def test_settings_of_high_diffusion_times():
    for changes in ({"high_tau": 1e-4}, {"high_tau": 1.0}, {"high_share": 1.5}, {"high_steps": -1}):
        with pytest.raises(ValueError, match="high_tau is"):
            replace(ObjectiveSettings(high_steps=10), **changes)
    # runs that know nothing of it may have any smallest tau
    assert ObjectiveSettings(tau_min=0.1).tau_min == 0.1
    with pytest.raises(ValueError, match="tau_min is 2.0; it must lie between 0 and 1"):
        ObjectiveSettings(tau_min=2.0)


# --- centred noise


def centre(rigids: Rigids) -> float:
    return float(rigids.translations.mean(-2).abs().max())


@pytest.mark.parametrize("form", ["mini", "paper"])
def test_centred_noise_leaves_centres_alone(form):
    settings = replace(recipe_objective(form), jitter_probability=0.0)
    batch = toy_batch(villin_features(10), 4, 2)
    plain, still = (
        noise_batch(batch, Network(replace(narrow(form), centred_noise=flag)), settings) for flag in (False, True)
    )
    assert centre(plain.frames.rigids) > 1e-2
    assert centre(still.frames.rigids) < 1e-5 and centre(still.frames.anchor) < 1e-5
    # nothing but the mean is gone
    torch.testing.assert_close(
        still.frames.rigids.translations, centred(plain.frames.rigids.translations), atol=2e-6, rtol=0
    )
    assert torch.equal(still.frames.rigids.rotations, plain.frames.rigids.rotations)
    assert torch.equal(still.tau, plain.tau)


def test_the_score_of_a_network_that_sees_invariants_has_no_floor():
    """The truth's shape where the noisy frame's centre is: the best that such a network can do of a centred protein.

    The centre's noise, σ²/N a coordinate, is then left as α²/N of the loss; none is without it.
    """
    config, residues = narrow("paper"), 6
    batch = toy_batch(villin_features(residues), 4, 300)
    for flag in (False, True):
        data = noise_batch(batch, Network(replace(config, centred_noise=flag)), PAPER_OBJECTIVE)
        noisy = data.frames.rigids.translations[:, 4:]
        alpha = config.schedule.alpha(data.tau)
        truth = data.truth.translations
        best = truth + (noisy.mean(-2, keepdim=True) / alpha[..., None, None] - truth.mean(-2, keepdim=True))
        loss = translation_score_loss(best, truth, data.tau, config.schedule)
        assert translation_score_loss(truth, truth, data.tau, config.schedule).max() == 0
        if flag:
            assert loss.max() < 1e-6
        else:
            # mean of (α ε/σ)² σ²/α², a chi-square of 3 degrees a frame
            assert float(loss.mean()) == pytest.approx(1 / residues, rel=0.1)


@pytest.mark.parametrize("sampler", ["euler-maruyama", "multistep", "posterior"])
def test_noisy_frames_of_a_rollout_stay_centred(sampler):
    """With a network that leaves them where they are, as one that sees invariants alone has learned to."""
    seen = []
    settings = SamplerSettings(sampler, steps=4, tau_end=0.01, context_tau=0.1, max_context=4)
    start = backbone_from_rigids(villin_features(8).reference.to(torch.float64))[None] + 3.0
    for flag in (True, False):
        torch.manual_seed(0)
        network = Network(replace(narrow("paper"), centred_noise=flag, blocks=1))
        run = Rollout(network, villin_features(8), start, stride=1200.0, seeds=(0,), settings=settings)
        forward = network.forward
        network.forward = lambda condition, frames, forward=forward, **options: (
            seen.append(frames) or forward(condition, frames, **options)
        )
        seen.clear()
        for _ in range(2):
            run.step()
        assert len(seen) == 2 * (4 + 1)
        off = max(centre(frames.rigids) for frames in seen)
        assert off < 1e-5 if flag else off > 1e-2


def test_centred_draws_lose_their_mean_alone():
    noise = torch.randn(3, 5, 7, 3, generator=torch.Generator().manual_seed(0))
    found = centred(noise)
    assert found.mean(-2).abs().max() < 1e-6
    differences = noise - found
    torch.testing.assert_close(differences, differences[..., :1, :].expand_as(noise))
    rigids = Rigids(torch.eye(3).expand(5, 7, 3, 3), torch.randn(5, 7, 3))
    schedule = preset("paper").schedule
    moved = forward_noise(rigids, torch.full((5,), 0.4), found[0], torch.eye(3).expand(5, 7, 3, 3), schedule)
    alpha = schedule.alpha(torch.tensor(0.4))
    torch.testing.assert_close(moved.translations.mean(-2), alpha * rigids.translations.mean(-2), atol=1e-6, rtol=0)
