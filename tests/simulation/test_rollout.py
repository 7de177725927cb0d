"""The autoregressive loop: history, seeds, exact resumption, rigid motion of the input."""

from dataclasses import replace

import pytest
import torch

from openmm_starmd.diffusion.samplers import SamplerSettings
from openmm_starmd.geometry.rigid import rigids_from_backbone
from openmm_starmd.geometry.so3 import log_map
from openmm_starmd.geometry.superposition import superposition
from openmm_starmd.model.config import preset
from openmm_starmd.model.frames import displacement_spread
from openmm_starmd.model.network import Network
from openmm_starmd.rollout import Rollout, kept_frames
from tests.model.test_network import NARROW, awake, narrow
from tests.proteins import random_rotation, villin_backbone, villin_features

SETTINGS = SamplerSettings("multistep", steps=4, max_context=5)


def rollout(seeds=(0,), dtype=torch.float32, start=None, settings=SETTINGS, form="mini", length=12, network=None):
    network = network or awake(narrow(form), dtype)
    if start is None:
        start = villin_backbone()[0][:length].expand(len(seeds), -1, -1, -1)
    return Rollout(
        network, villin_features(length, dtype), start, stride=10.0, seeds=seeds, settings=settings, dtype=dtype
    )


def draw(run: Rollout, count: int) -> torch.Tensor:
    return torch.stack([run.step().backbone for _ in range(count)])


@pytest.mark.parametrize("max_context", [3, 4, 5, 8, 13])
def test_kept_frames_are_the_start_and_the_newest(max_context):
    evicted: set[int] = set()
    for count in range(60):
        kept = kept_frames(count, max_context)
        assert kept[0] == 0 and kept[-1] == count and len(kept) <= max_context
        assert kept[1:] == list(range(count - len(kept) + 2, count + 1))
        assert not evicted & set(kept), "an evicted frame came back"
        evicted |= set(range(1, count)) - set(kept)
        # a ring of max_context - 1 slots holds them
        assert len({(number - 1) % (max_context - 1) for number in kept[1:]}) == len(kept) - 1


def test_same_seed_same_bits_and_other_seed_other_frames():
    first, second = draw(rollout(), 6), draw(rollout(), 6)
    assert torch.equal(first, second)
    assert (draw(rollout((1,)), 6) - first).abs().max() > 1e-3


def test_replica_of_a_batch_is_the_replica_alone():
    batch = draw(rollout((3, 7)), 7)
    for index, seed in enumerate((3, 7)):
        assert (draw(rollout((seed,)), 7)[:, 0] - batch[:, index]).abs().max() < 1e-4


def test_frames_are_superposed_on_the_one_before():
    run = rollout()
    frames = torch.cat([run.frames()[0][None], draw(run, 5)])[:, 0, :, 1]
    rotation, shift = superposition(frames[1:], frames[:-1])
    assert (rotation - torch.eye(3, dtype=torch.float64)).abs().max() < 1e-9
    assert shift.abs().max() < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("split", [1, 4, 5, 6, 8, 15])
def test_restored_run_equals_the_unbroken_one(split):
    """Up to three times max_context frames, split before, at and after evictions."""
    unbroken = draw(rollout(), 15)
    run = rollout()
    draw(run, split)
    fresh = rollout((0,), start=villin_backbone()[0][:12].flip(0)[None])
    fresh.restore(run.frames(), run.count, run.offset)
    if split < 15:
        assert torch.equal(draw(fresh, 15 - split), unbroken[split:])
    assert fresh.count == 15


def test_untrained_network_draws_the_spread_it_assumes():
    """Its clean-frame estimate is the exact posterior mean of a Gaussian about the last frame: nothing may be lost."""
    torch.manual_seed(0)
    config = replace(narrow("mini"), prior="isotropic", excluded_volume=False)
    settings = SamplerSettings("multistep", steps=10, context_tau=0.0, max_context=3)
    run = rollout(seeds=range(48), settings=settings, length=30, network=Network(config))
    before = rigids_from_backbone(run.frames()[0])
    after = rigids_from_backbone(run.step().backbone)
    spread, turn = displacement_spread(torch.tensor(10.0), config)
    shift = (after.translations - before.translations).std() / spread
    # superposition takes away six of the ninety coordinates
    assert shift / (84 / 90) ** 0.5 == pytest.approx(1, abs=0.05)
    angle = log_map(before.rotations.mT @ after.rotations)
    assert angle.std() / turn == pytest.approx(1, abs=0.05)


def test_new_history_does_not_repeat_random_numbers():
    run = rollout()
    first = draw(run, 3)
    run.begin(villin_backbone()[0][None, :12], offset=run.offset + run.count)
    assert (draw(run, 3) - first).abs().max() > 1e-4
    run.begin(villin_backbone()[0][None, :12], offset=0)
    assert torch.equal(draw(run, 3), first)


def test_history_matters():
    """Same newest frame, other earlier frames: another next frame."""
    run = rollout()
    draw(run, 3)
    frames = run.frames()
    changed = {**frames, 1: frames[1] + 0.1 * torch.randn(12, 1, 3, generator=torch.Generator().manual_seed(0))}
    other = rollout()
    other.restore(changed, 3, 0)
    assert (other.step().backbone - run.step().backbone).abs().max() > 1e-4


def test_context_noise_changes_the_trajectory_and_can_be_switched_off():
    noisy, clean = draw(rollout(), 3), draw(rollout(settings=replace(SETTINGS, context_tau=0.0)), 3)
    assert torch.isfinite(clean).all() and (noisy - clean).abs().max() > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "count", "tolerance"), [(torch.float32, 1, 1e-3), (torch.float64, 200, 1e-6)])
def test_rotated_start_gives_the_rotated_trajectory(dtype, count, tolerance):
    start = villin_backbone()[0][:12]
    rotation, shift = random_rotation(11), torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    plain = draw(rollout(dtype=dtype), count)
    turned = draw(rollout(dtype=dtype, start=(start @ rotation.T + shift)[None]), count)
    assert (plain[-1] - start).norm(dim=-1).mean() > 0.01, "nothing moved"
    assert (turned - (plain @ rotation.T + shift)).abs().max() < tolerance


def test_paper_preset_takes_one_cached_step():
    torch.manual_seed(0)
    network = Network(preset("paper"))
    settings = SamplerSettings("euler-maruyama", steps=2, tau_end=0.01, context_tau=0.1, max_context=32)
    run = rollout(settings=settings, network=network)
    frame = run.step()
    assert torch.isfinite(frame.backbone).all() and torch.isfinite(frame.torsions).all()
    layers = preset("paper").blocks * preset("paper").attention_layers
    assert len(run._cache.keys) == layers
    # singles only: two frames of twelve residues
    assert run._cache.keys[0].shape == (1, 8, 2 * 12, 32)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="shape"):
        rollout(start=villin_backbone()[0][None, :10])
    with pytest.raises(ValueError, match=r"frames \[1\] of the history are missing"):
        run = rollout()
        run.restore({0: run.frames()[0]}, 1, 0)
    with pytest.raises(ValueError, match="max_context"):
        SamplerSettings(max_context=2)
    with pytest.raises(ValueError, match="sampler"):
        SamplerSettings("heun")
    assert set(NARROW) <= set(preset("mini").to_dict())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_draws_the_frames_of_the_cpu():
    start = villin_backbone()[0][None, :12]
    features = villin_features(12)
    runs = [
        Rollout(awake(narrow("mini")), features, start, stride=10.0, seeds=(0,), settings=SETTINGS, device=device)
        for device in ("cpu", "cuda")
    ]
    assert (draw(runs[0], 3) - draw(runs[1], 3)).abs().max() < 1e-3
