"""What a GPU would be asked for, seen on a pretended one: every tensor's device, copies, and what the CPU waits for."""

import warnings
from dataclasses import replace

import pytest
import torch

from openmm_starmd import devices
from openmm_starmd.data.batches import Batch
from openmm_starmd.devices import constant, moved_together, room
from openmm_starmd.diffusion.samplers import SamplerSettings
from openmm_starmd.geometry.rigid import cb_from_rigids
from openmm_starmd.model.elastic import reference_modes
from openmm_starmd.model.features import Features
from openmm_starmd.model.network import Network
from openmm_starmd.randomness import draw_together, keyed_generator, normal, uniform
from openmm_starmd.rollout import Rollout
from openmm_starmd.training.objective import noise_batch, objective, training_draws
from openmm_starmd.training.settings import recipe_objective
from tests.accelerator import DEVICE, Accelerator, Remote, pretended_accelerator
from tests.model.test_network import awake, narrow
from tests.proteins import toy_batch, villin_backbone, villin_features

LENGTH = 9


def batch_of(frames: int = 3, samples: int = 2) -> Batch:
    """Windows of villin with χ angles that some residues lack."""
    features = replace(villin_features(LENGTH), torsions=torch.zeros(LENGTH, 5, 2))
    batch = toy_batch(replace(features, modes=reference_modes(features)), frames, samples)
    known = batch.torsion_mask.clone()
    known[::2, 2:] = False
    return replace(batch, torsion_mask=known)


def here(tensor: torch.Tensor) -> torch.Tensor:
    """Numbers of a tensor of the pretended accelerator."""
    assert isinstance(tensor, Remote), f"this lies on {tensor.device}"
    return tensor.held


FORMS = ["mini", pytest.param("paper", marks=pytest.mark.slow)]


@pytest.mark.parametrize("form", FORMS)
def test_training_step_copies_its_noise_and_waits_for_nothing(form):
    batch, settings = batch_of(), recipe_objective(form)
    network = awake(narrow(form)).train()
    expected, _ = objective(network, batch, settings)
    expected.backward()
    gradients = [None if p.grad is None else p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    with pretended_accelerator() as accelerator:
        network = network.to(DEVICE)
        for first in (True, False):
            network.zero_grad()
            moved = batch.to(DEVICE)
            accelerator.clear()
            total, _ = objective(network, moved, settings)
            total.backward()
            if not first:  # which fills the tables
                assert accelerator.figures | {"launches": 0} == {
                    "launches": 0,
                    "uploads": 1,
                    "downloads": 0,
                    "waits": 0,
                }
                assert "randomness.py" in str(accelerator.uploads)
        assert (here(total) - expected).abs() < 1e-4 * expected.abs()
        for parameter, gradient in zip(network.parameters(), gradients, strict=True):
            assert (parameter.grad is None) == (gradient is None)
            if gradient is not None:
                assert (here(parameter.grad) - gradient).norm() < 1e-3 * gradient.norm() + 1e-6


def rollout(steps: int, device: torch.device | str, form: str, seeds: tuple[int, ...] = (0, 1)) -> Rollout:
    config = narrow(form)
    settings = SamplerSettings(config.sampler, steps, 0.01, config.context_tau, max_context=3)
    start = villin_backbone()[0][:LENGTH].expand(len(seeds), -1, -1, -1)
    return Rollout(
        awake(config), villin_features(LENGTH), start, stride=10.0, seeds=seeds, settings=settings, device=device
    )


@pytest.mark.parametrize("form", FORMS)
def test_frame_copies_noise_there_and_frames_to_and_fro(form):
    """However many denoising steps it takes; the fifth is one at which frames leave the history."""
    expected = [rollout(2, "cpu", form).step()]
    per_frame = {"uploads": 2, "downloads": 1, "waits": 0}
    launches = []
    for steps in (2, 3):
        with pretended_accelerator() as accelerator, torch.inference_mode():
            run = rollout(steps, DEVICE, form)
            frame = run.step()
            assert frame.backbone.device == frame.torsions.device == torch.device("cpu")
            if steps == 2:
                assert (frame.backbone - expected[0].backbone).abs().max() < 1e-4
            run.begin(villin_backbone()[0][:LENGTH].expand(2, -1, -1, -1), 0)
            for number in range(1, 4):
                accelerator.clear()
                run.step()
                # cutting back the history takes the noise of all that is kept along: one copy more
                evicted = {"uploads": 3} if number > 2 else {}
                assert accelerator.figures | {"launches": 0} == {"launches": 0} | per_frame | evicted, number
                if number == 1:
                    launches.append(accelerator.launches)
    assert launches[1] > launches[0]


def test_pretended_accelerator_sees_what_it_is_there_to_see():
    """A check that could not fail would tell nothing."""

    def seen(work) -> dict[str, int]:
        with pretended_accelerator() as accelerator:
            x = torch.arange(6.0).to(DEVICE)
            accelerator.clear()
            work(x)
            return accelerator.figures

    nothing = {"launches": 0, "uploads": 0, "downloads": 0, "waits": 0}
    assert seen(lambda x: x[2:].view(2, 2)) == nothing
    assert seen(lambda x: x * 2 + x.sin()) == nothing | {"launches": 3}
    for waits in (
        lambda x: float(x[0]),
        lambda x: bool((x > 1).any()),
        lambda x: x[x > 1],
        lambda x: (x > 1).nonzero(),
        lambda x: torch.linalg.svd(x.view(2, 3)),
    ):
        assert seen(waits)["waits"] == 1
    for copies in (
        lambda x: torch.tensor([1.0], device=DEVICE),
        lambda x: x.new_tensor([1.0]),
        lambda x: x.copy_(torch.ones(6)),
        lambda x: x[torch.tensor([0, 2])],
        lambda x: torch.ones(3).to(x),
    ):
        assert seen(copies)["uploads"] == 1
    assert seen(lambda x: x.cpu())["downloads"] == seen(lambda x: x.tolist())["downloads"] == 1
    with pytest.raises(RuntimeError, match="two devices"):
        seen(lambda x: x + torch.ones(6))


def test_draws_are_those_of_one_generator_after_the_other():
    """The numbers that trainings and fixtures of all versions rest on: drawn one tensor at a time, in this order."""
    draws = training_draws(4, 5)
    keys = [("training noise", 3, 1, window) for window in range(3)]
    found = draw_together([keyed_generator(*key) for key in keys], draws, torch.device("cpu"))
    generators = [keyed_generator(*key) for key in keys]
    for name, draw in draws.items():
        one = torch.randn if draw.normal else torch.rand
        expected = torch.stack([one(*draw.shape, generator=generator) for generator in generators])
        assert torch.equal(found[name], expected) and found[name].is_contiguous(), name
    double = draw_together([keyed_generator(1)], {"x": uniform(2), "y": normal(20)}, torch.device("cpu"), torch.float64)
    assert double["y"].dtype == torch.float64
    assert torch.equal(double["x"].float(), torch.rand(1, 2, generator=keyed_generator(1)))


def test_noise_of_a_batch_is_that_of_its_parts():
    """Equal on the pretended accelerator and on the CPU, number by number."""
    batch, settings = batch_of(), recipe_objective("mini")
    network = Network(narrow("mini"))
    expected = noise_batch(batch, network, settings)
    with pretended_accelerator():
        found = noise_batch(batch.to(DEVICE), network, settings)
        for a, b in zip(found.frames.rigids, expected.frames.rigids, strict=True):
            assert torch.equal(here(a), b)
        assert torch.equal(here(found.tau), expected.tau)


def test_together_is_one_by_one():
    tensors = [torch.randn(2, 3, dtype=torch.float64), torch.randn(()), torch.randn(4, 0), torch.randn(5)]
    with pretended_accelerator() as accelerator:
        there = moved_together(tensors, DEVICE)
        assert accelerator.figures["uploads"] == 1
        back = moved_together(there, "cpu", torch.float64)
        assert accelerator.figures["downloads"] == 1
        for before, away, after in zip(tensors, there, back, strict=True):
            assert torch.equal(here(away), before.float()) and torch.equal(after, before.float().double())
    assert moved_together(tensors[3:], "cpu")[0] is tensors[3]
    assert moved_together([], "cpu") == []


def test_only_what_a_gpu_reads_is_page_locked(monkeypatch):
    asked = []
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, pin_memory=False, **k: asked.append(pin_memory) or empty(*a, **k))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    room(3, torch.device("cuda"))
    room(3, torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    room(3, torch.device("cuda"))
    assert asked == [True, False, False]


def test_constants_are_made_once_and_serve_training():
    made = []

    @constant
    def table(device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        made.append((device, dtype))
        return torch.ones(3, device=device, dtype=dtype)

    with torch.inference_mode():
        first = table(torch.device("cpu"), torch.float32)
    weight = torch.ones(3, requires_grad=True)
    (weight * table(torch.device("cpu"), torch.float32)).sum().backward()
    assert table(torch.device("cpu"), torch.float32) is first and len(made) == 1
    with pretended_accelerator() as accelerator:
        reference = villin_features(LENGTH).reference.to(DEVICE)
        cb_from_rigids(reference)
        accelerator.clear()
        cb_from_rigids(reference)
        assert accelerator.figures["uploads"] == 0


def test_batch_takes_along_what_a_gpu_would_wait_for():
    batch = batch_of()
    with pretended_accelerator() as accelerator:
        moved = batch.to(DEVICE)
        assert accelerator.figures["waits"] == 0
        groups, atoms = (here(index) for index in moved.present)
        assert len(groups) < 6 * LENGTH and len(atoms) < 14 * LENGTH
        back = moved.to("cpu")
        assert torch.equal(back.rigids.rotations, batch.rigids.rotations) and torch.equal(back.present[0], groups)
    double = replace(batch, features=villin_features(LENGTH, torch.float64))
    assert double.to("cpu").features.reference.translations.dtype == torch.float32
    assert batch.to("cpu").present is None


def test_positions_of_chains_lie_apart():
    """Residue numbers with a gap, chains that start anew, one of a single residue."""
    features = Features(
        torch.zeros(8, dtype=torch.long),
        torch.tensor([5, 6, 9, 1, 2, 40, 2, 3]),
        torch.tensor([0, 0, 0, 1, 1, 2, 3, 3]),
        torch.ones(7, dtype=torch.bool),
        villin_features(8).reference,
    )
    assert features.positions().tolist() == [4, 5, 8, 72, 73, 137, 201, 202]
    with pretended_accelerator() as accelerator:
        moved = features.to(DEVICE)
        accelerator.clear()
        assert torch.equal(here(moved.positions()), features.positions())
        assert accelerator.figures["waits"] == accelerator.figures["downloads"] == 0


def test_tf32_is_warned_of(monkeypatch):
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    devices.warn_of_tf32.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="TF32 is on"):
            devices.warn_of_tf32()
        devices.warn_of_tf32()  # once
    finally:
        devices.warn_of_tf32.cache_clear()


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="torch before 2.9 has one way to set it")
@pytest.mark.parametrize("place", ["torch.backends", "torch.backends.cuda.matmul"])
def test_tf32_set_the_newer_way_is_warned_of(monkeypatch, place):
    """torch then raises an error when asked the older way."""
    settings = torch.backends if place == "torch.backends" else torch.backends.cuda.matmul
    before = settings.fp32_precision
    devices.warn_of_tf32.cache_clear()
    try:
        settings.fp32_precision = "tf32"
        with pytest.raises(RuntimeError, match="legacy"):
            torch.get_float32_matmul_precision()
        with pytest.warns(RuntimeWarning, match="TF32 is on"):
            devices.warn_of_tf32()
    finally:
        settings.fp32_precision = before
        devices.warn_of_tf32.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        devices.warn_of_tf32()
    devices.warn_of_tf32.cache_clear()


def test_nothing_pretended_outlives_the_pretence():
    with pretended_accelerator() as accelerator:
        assert isinstance(accelerator, Accelerator)
        cb_from_rigids(villin_features(LENGTH).reference.to(DEVICE))
        x = torch.ones(2).to(DEVICE)
    with pytest.raises(RuntimeError, match="outside of"):
        x + 1
    assert torch.isfinite(cb_from_rigids(villin_features(LENGTH).reference)).all()


cuda = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture
def no_waiting():
    """Operations that the CPU waits for are errors, by torch's own account."""
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


class TestOnCuda:
    pytestmark = cuda

    @pytest.mark.parametrize("form", ["mini", "paper"])
    def test_training_step_is_that_of_the_cpu(self, form):
        batch, settings = batch_of(), recipe_objective(form)
        network = awake(narrow(form)).train()
        expected, _ = objective(network, batch, settings)
        expected.backward()
        gradient = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
        network.zero_grad()
        network.to("cuda")
        total, _ = objective(network, batch.to("cuda"), settings)
        total.backward()
        found = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]).cpu()
        assert (total.cpu() - expected).abs() < 1e-3 * expected.abs()
        assert (found - gradient).norm() < 1e-2 * gradient.norm()

    @pytest.mark.parametrize("form", ["mini", "paper"])
    def test_training_step_waits_for_nothing(self, form, request):
        batch, settings = batch_of().to("cuda"), recipe_objective(form)
        network = awake(narrow(form)).train().to("cuda")
        objective(network, batch, settings)[0].backward()  # fills the tables
        torch.cuda.synchronize()
        request.getfixturevalue("no_waiting")
        objective(network, batch, settings)[0].backward()

    @pytest.mark.parametrize("form", ["mini", "paper"])
    def test_frame_is_that_of_the_cpu(self, form):
        frames = [rollout(4, device, form).step() for device in ("cpu", "cuda")]
        assert (frames[0].backbone - frames[1].backbone).abs().max() < 1e-3

    def test_wait_is_an_error_here(self, no_waiting):
        x = torch.ones(3, device="cuda")
        with pytest.raises(RuntimeError, match="synchroniz"):
            x.sum().item()
