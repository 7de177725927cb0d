"""The network alone: invariance, causality, cached against uncached, the two presets."""

from dataclasses import replace

import pytest
import torch

from openmm_starmd.data.batches import Batch
from openmm_starmd.geometry.rigid import Rigids
from openmm_starmd.model.attention import KVCache
from openmm_starmd.model.config import ModelConfig, preset
from openmm_starmd.model.elastic import Expected
from openmm_starmd.model.frames import Frames, with_expected
from openmm_starmd.model.masks import block_causal_mask
from openmm_starmd.model.network import Condition, Network
from openmm_starmd.training.objective import NoisedBatch, noise_batch, objective, training_pass
from openmm_starmd.training.settings import ObjectiveSettings, recipe_objective
from tests.proteins import random_rotation, toy_batch, villin_features

NARROW = {
    "c_s": 32, "c_z": 16, "blocks": 2, "conditioner_layers": 1, "conditioner_s": 32, "conditioner_z": 16,
    "ipa_heads": 2, "ipa_hidden": 8, "ipa_query_points": 2, "ipa_value_points": 4, "attention_heads": 2,
    "attention_hidden": 32,
}  # fmt: skip


def narrow(form: str) -> ModelConfig:
    return replace(preset(form), **NARROW)


def awake(config: ModelConfig, dtype: torch.dtype = torch.float32, seed: int = 0) -> Network:
    """A network whose zero-initialised branches are open, or nothing would depend on anything."""
    torch.manual_seed(seed)
    network = Network(config)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return network.to(dtype).eval()


def part(frames: Frames, index: list[int]) -> Frames:
    """The frames of these numbers only."""
    pick = torch.tensor(index)
    return Frames(
        frames.rigids.map(lambda x: x[:, pick]),
        frames.anchor.map(lambda x: x[:, pick]),
        frames.tau[:, pick],
        frames.anchor_tau[:, pick],
        frames.stride[:, pick],
        frames.index[pick],
        frames.noisy[pick],
        frames.anchored[pick],
        None if frames.expected is None else Expected(*(x[:, pick] for x in vars(frames.expected).values())),
    )


def told(network: Network, condition: Condition, frames: Frames) -> Frames:
    """Frames of a training pass with what an elastic prior expects of them."""
    if condition.elastic is None:
        return frames
    return with_expected(frames, condition.elastic, network.config, (len(frames.index) + 1) // 2)


def noised(
    form: str, frames: int = 4, samples: int = 2, dtype: torch.dtype = torch.float32, attention: str = "joint"
) -> tuple[Network, Batch, NoisedBatch]:
    network = awake(replace(narrow(form), attention=attention), dtype)
    batch = toy_batch(villin_features(12, dtype), frames, samples)
    settings = recipe_objective(form)
    return network, batch, noise_batch(batch, network, settings)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("form", ["mini", "paper"])
def test_rotating_every_frame_rotates_the_prediction(form, dtype, tolerance):
    network, batch, data = noised(form, dtype=dtype)
    rotation = random_rotation(3, dtype)
    shift = torch.zeros(3, dtype=dtype)

    def moved(rigids: Rigids) -> Rigids:
        shape = rigids.translations.shape[:-2]
        return rigids.moved(rotation.expand(*shape, 3, 3), shift.expand(*shape, 3))

    frames = replace(data.frames, rigids=moved(data.frames.rigids), anchor=moved(data.frames.anchor))
    mask = block_causal_mask(4, 12)
    condition = network.condition(batch.features)
    plain, turned = (network(condition, told(network, condition, x), mask) for x in (data.frames, frames))
    expected = moved(plain.rigids)
    assert (plain.rigids.translations - data.frames.rigids.translations).abs().max() > 1e-3, "the network does nothing"
    assert (turned.rigids.translations - expected.translations).abs().max() < tolerance
    assert (turned.rigids.rotations - expected.rotations).abs().max() < tolerance
    # before the head divides by their lengths, which may be short
    first, second = (x.torsions * x.torsion_norms[..., None] for x in (plain, turned))
    assert (first - second).abs().max() < tolerance


@pytest.mark.parametrize("form", ["mini", "paper"])
def test_reference_pose_does_not_matter(form):
    network, batch, data = noised(form)
    turned = batch.features.with_reference(
        batch.features.reference.moved(random_rotation(5, torch.float32), torch.ones(3))
    )
    mask = block_causal_mask(4, 12)
    conditions = network.condition(batch.features), network.condition(turned)
    first, second = (network(condition, told(network, condition, data.frames), mask) for condition in conditions)
    assert (first.rigids.translations - second.rigids.translations).abs().max() < 2e-5


@pytest.mark.parametrize("attention", ["joint", "separable"])
@pytest.mark.parametrize("form", ["mini", "paper"])
def test_later_copies_change_nothing_at_or_before(form, attention):
    network, batch, data = noised(form, frames=4, attention=attention)
    before = training_pass(network, batch, data)
    for level in range(1, 4):
        # every copy of frames after `level`, and the clean copy of `level` itself, replaced
        changed = [level, *range(level + 1, 4), *range(4 + level, 7)]
        rigids = data.frames.rigids.map(torch.clone)
        rigids.translations[:, changed] += 0.3
        anchor = data.frames.anchor.map(torch.clone)
        # anchors of the frames after, in both copies
        anchor.translations[:, [*range(level + 1, 4), *range(4 + level, 7)]] += 0.3
        frames = replace(data.frames, rigids=rigids, anchor=anchor)
        after = training_pass(network, batch, replace(data, frames=frames))
        assert torch.equal(after.rigids.translations[:, :level], before.rigids.translations[:, :level])
        assert torch.equal(after.torsions[:, :level], before.torsions[:, :level])
        if level < 3:
            assert not torch.equal(after.rigids.translations[:, level], before.rigids.translations[:, level])


@pytest.mark.parametrize("attention", ["joint", "separable"])
@pytest.mark.parametrize("form", ["mini", "paper"])
def test_noisy_copies_do_not_see_each_other(form, attention):
    network, batch, data = noised(form, frames=4, attention=attention)
    before = training_pass(network, batch, data)
    rigids = data.frames.rigids.map(torch.clone)
    rigids.translations[:, 5] += 0.3  # noisy copy of frame 2
    after = training_pass(network, batch, replace(data, frames=replace(data.frames, rigids=rigids)))
    for frame in (0, 2):
        assert torch.equal(after.rigids.translations[:, frame], before.rigids.translations[:, frame])
    assert not torch.equal(after.rigids.translations[:, 1], before.rigids.translations[:, 1])


@pytest.mark.parametrize("attention", ["joint", "separable"])
@pytest.mark.parametrize("form", ["mini", "paper"])
@torch.inference_mode()
def test_training_pass_equals_cached_inference(form, attention):
    network, batch, data = noised(form, frames=5, attention=attention)
    expected = training_pass(network, batch, data)
    condition, cache = network.condition(batch.features), KVCache()
    frames = told(network, condition, data.frames)
    for frame in range(1, 5):
        network(condition, part(frames, [frame - 1]), cache=cache, store=True)
        drawn = network(condition, part(frames, [4 + frame]), cache=cache)
        for a, b in zip(drawn.rigids, expected.rigids, strict=True):
            assert (a[:, 0] - b[:, frame - 1]).abs().max() < 1e-4
        assert (drawn.torsions[:, 0] - expected.torsions[:, frame - 1]).abs().max() < 1e-4


@pytest.mark.parametrize("form", ["mini", "paper"])
def test_bf16_leaves_geometry_alone(form):
    """Under autocast the pass stays near single precision, wherever the protein is."""
    network, batch, data = noised(form)
    exact = training_pass(network, batch, data)

    def shifted(rigids: Rigids) -> Rigids:
        return Rigids(rigids.rotations, rigids.translations + 2.0)

    far = replace(
        data.frames, rigids=shifted(data.frames.rigids), anchor=shifted(data.frames.anchor), tau=data.frames.tau * 0
    )
    near = replace(data.frames, tau=data.frames.tau * 0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = training_pass(network, batch, data)
        both = [training_pass(network, batch, replace(data, frames=frames)).rigids for frames in (near, far)]
        total, _ = objective(network, batch, recipe_objective(form))
    assert rough.rigids.translations.dtype == torch.float32
    moved = (exact.rigids.translations - exact.estimate.rigids.translations).abs().max()
    assert 0 < (rough.rigids.translations - exact.rigids.translations).abs().max() < 0.1 * moved + 0.01
    assert (both[1].translations - 2.0 - both[0].translations).abs().max() < 2e-3
    total.backward()
    assert torch.isfinite(total)


@pytest.mark.parametrize("attention", ["joint", "separable"])
def test_history_beyond_the_last_frame_matters(attention):
    """The model is not Markovian: an older clean frame changes the prediction."""
    network, batch, data = noised("mini", frames=4, attention=attention)
    before = training_pass(network, batch, data)
    rigids = data.frames.rigids.map(torch.clone)
    rigids.translations[:, 0] += 0.2 * torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
    after = training_pass(network, batch, replace(data, frames=replace(data.frames, rigids=rigids)))
    assert (after.rigids.translations[:, -1] - before.rigids.translations[:, -1]).abs().max() > 1e-4


def test_paper_preset_has_the_papers_dimensions_and_trains_one_step():
    config = preset("paper")
    assert (config.c_s, config.c_z, config.blocks) == (256, 128, 4)
    assert (config.conditioner_s, config.conditioner_z) == (384, 128)
    assert (config.ipa_heads, config.ipa_hidden, config.ipa_query_points, config.ipa_value_points) == (4, 256, 8, 12)
    assert (config.attention_layers, config.attention_heads, config.attention_hidden) == (2, 8, 256)
    assert (config.sampler, config.steps, config.schedule.sigma_min) == ("euler-maruyama", 200, 0.1)
    torch.manual_seed(0)
    network = Network(config)
    batch = toy_batch(villin_features(12), frames=8, stride=1200.0)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-4)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    total, terms = objective(network, batch, recipe_objective("paper"))
    total.backward()
    optimizer.step()
    assert torch.isfinite(total) and set(terms) >= {"translation_score", "rotation_score", "coordinates"}
    moved = sum(not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert moved > 0.5 * len(before)


@pytest.mark.slow
def test_narrow_paper_form_overfits_one_window():
    """One window at fixed noise: every loss falls to a fraction, FAPE (an unsquared one) more slowly."""
    torch.manual_seed(0)
    network = Network(narrow("paper"))
    batch = toy_batch(villin_features(8), frames=8, stride=1200.0)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    first = last = None
    for _ in range(120):
        total, last = objective(network, batch, recipe_objective("paper"))
        first = first or last
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    for name in ("translation_score", "rotation_score", "torsion", "coordinates", "distance_low"):
        assert last[name] < 0.15 * first[name], name
    assert last["fape"] < 0.85 * first["fape"]


def test_config_refuses_nonsense():
    with pytest.raises(ValueError, match="sampler"):
        replace(preset("mini"), sampler="heun")
    with pytest.raises(ValueError, match="attention is 'split'; choose 'joint' or 'separable'"):
        replace(preset("mini"), attention="split")
    with pytest.raises(ValueError, match="needs an even number"):
        replace(preset("mini"), attention="separable", attention_heads=1)
    with pytest.raises(ValueError, match="conditioner is 'esm'; choose 'reference' or 'openfold'"):
        replace(preset("mini"), conditioner="esm")
    with pytest.raises(ValueError, match="max_context"):
        replace(preset("mini"), max_context=2)
    with pytest.raises(ValueError, match="unknown configuration keys"):
        ModelConfig.from_dict({**preset("mini").to_dict(), "surprise": 1})
    assert ModelConfig.from_dict(preset("paper").to_dict()) == preset("paper")
    assert isinstance(recipe_objective("mini"), ObjectiveSettings)


@pytest.mark.parametrize("form", ["mini", "paper"])
def test_recomputed_blocks_give_the_same_gradients(form, monkeypatch):
    network, batch, _ = noised(form)
    network.train()
    calls = []
    inside = type(network.blocks[0]).forward
    monkeypatch.setattr(type(network.blocks[0]), "forward", lambda *a: calls.append(1) or inside(*a))
    gradients = []
    for network.checkpoint_blocks in (False, True):
        network.zero_grad()
        calls.clear()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            total, _ = objective(network, batch, recipe_objective(form))
        total.backward()
        assert len(calls) == (4 if network.checkpoint_blocks else 2), "two blocks, each once more for the gradient"
        gradients.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    # neither inference nor a pass with a cache recomputes
    with torch.no_grad():
        calls.clear()
        training_pass(network, batch, noise_batch(batch, network, recipe_objective(form)))
    assert len(calls) == 2
