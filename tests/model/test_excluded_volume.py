"""Overlaps of Cα are moved apart at low noise, and nothing else is moved."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from openmm_starmd.analysis.validity import judge
from openmm_starmd.diffusion.samplers import SamplerSettings
from openmm_starmd.geometry.rigid import backbone_from_rigids
from openmm_starmd.model.excluded_volume import CLOSEST, LINK, TAU, apart
from openmm_starmd.model.network import Network
from openmm_starmd.rollout import Rollout
from tests.model.test_network import narrow
from tests.proteins import villin_features

DOUBLE = torch.float64


def hairpin(gap: float, length: int = 16) -> torch.Tensor:
    """A chain of `length` + 1 residues that comes back at a distance of `gap` nm, its links 0.38 nm."""
    half = length // 2
    there = torch.stack([0.38 * torch.arange(half, dtype=DOUBLE), *torch.zeros(2, half, dtype=DOUBLE)], -1)
    turn = there[-1:] + torch.tensor([[(0.38**2 - gap**2 / 4) ** 0.5, gap / 2, 0.0]], dtype=DOUBLE)
    back = there.flip(0) + torch.tensor([0.0, gap, 0.0], dtype=DOUBLE)
    return torch.cat([there, turn, back])


def closest(alphas: torch.Tensor, bonded: torch.Tensor) -> float:
    distance = torch.cdist(alphas, alphas) + 9 * torch.eye(len(alphas), dtype=alphas.dtype)
    links = torch.arange(len(bonded))[bonded]
    distance[links, links + 1] = distance[links + 1, links] = 9.0
    return float(distance.min())


def test_what_does_not_overlap_stays_to_the_bit():
    alphas = villin_features(None, DOUBLE).reference.translations
    bonded = torch.ones(len(alphas) - 1, dtype=torch.bool)
    assert torch.equal(apart(alphas, bonded), alphas)
    assert torch.equal(apart(alphas[:1], bonded[:0]), alphas[:1])


@pytest.mark.parametrize("gap", [0.34, 0.25, 0.1])
def test_overlaps_are_moved_apart(gap):
    alphas = hairpin(gap)
    bonded = torch.ones(len(alphas) - 1, dtype=torch.bool)
    assert closest(alphas, bonded) < CLOSEST - 0.01
    frames = torch.stack([alphas, alphas + 1.0])[:, None]
    moved = apart(frames, bonded)
    assert moved.shape == frames.shape
    found = moved[0, 0]
    assert closest(found, bonded) > 0.3
    before, after = (judge(x[None].numpy(), bonded.numpy()) for x in (alphas, found))
    assert after.clashes[0] == 0 and after.broken[0] <= before.broken[0]
    # the centre stays, a turned frame is moved alike, and no residue is moved far beyond what overlapped
    torch.testing.assert_close(found.mean(0), alphas.mean(0))
    torch.testing.assert_close(moved[1, 0], found + 1.0)
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(1)))[0]
    torch.testing.assert_close(apart(alphas @ rotation.T, bonded), found @ rotation.T)
    assert float((found - alphas).norm(dim=-1).max()) < 3 * (CLOSEST - gap)


def test_neighbours_along_the_chain_go_with_a_residue_and_other_chains_do_not():
    """A lone atom that overlaps with the middle of a straight chain, and one that ends another chain close by."""
    chain = torch.stack([0.38 * torch.arange(7, dtype=DOUBLE), *torch.zeros(2, 7, dtype=DOUBLE)], -1)
    other = torch.tensor([[1.14, 0.2, 0.0]], dtype=DOUBLE)
    alphas = torch.cat([chain, other])
    bonded = torch.tensor([True] * 6 + [False])
    shift = apart(alphas, bonded) - alphas
    down = -shift[:, 1]
    # 2^-links of the middle's way
    np.testing.assert_allclose(down[:7] / down[3], [0, 0.25, 0.5, 1, 0.5, 0.25, 0], atol=1e-12)
    assert shift[7, 1] == pytest.approx(float(down[3]))
    assert closest(apart(alphas, bonded), bonded) == pytest.approx(CLOSEST, abs=1e-6)
    # residues next to each other across a break are judged as any others
    broken = torch.tensor([[0.0, 0.0, 0.0], [0.3, 0.0, 0.0]], dtype=DOUBLE)
    assert closest(apart(broken, torch.tensor([False])), torch.tensor([False])) == pytest.approx(CLOSEST, abs=1e-6)
    assert torch.equal(apart(broken, torch.tensor([True])), broken)


@pytest.mark.parametrize(("place", "length"), [(0, 0.45), (0, 0.2), (6, 0.45), (6, 0.2), (11, 0.48)])
def test_links_out_of_shape_are_mended(place, length):
    steps = torch.full((12, 1), 0.38, dtype=DOUBLE)
    steps[place] = length
    alphas = torch.cat([torch.zeros(1, 1, dtype=DOUBLE), steps.cumsum(0)]) * torch.tensor(
        [[0.6, 0.8, 0.0]], dtype=DOUBLE
    )
    moved = apart(alphas, torch.ones(12, dtype=torch.bool))
    found = (moved[1:] - moved[:-1]).norm(dim=-1)
    assert LINK[0] - 0.01 < float(found.min()) and float(found.max()) < LINK[1] + 0.01
    # no link is wanted where the chain is broken
    bonded = torch.arange(12) != place
    unlinked = apart(alphas, bonded)
    assert torch.equal(unlinked, alphas) if length > CLOSEST else float((unlinked - alphas).abs().max()) > 0.01


def network_of(**changes) -> Network:
    torch.manual_seed(0)
    return Network(replace(narrow("mini"), excluded_volume=True, **changes)).eval()


def test_estimates_at_low_noise_alone_are_mended(monkeypatch):
    calls = []
    monkeypatch.setattr("openmm_starmd.rollout.apart", lambda alphas, bonded: calls.append(len(bonded)) or alphas)
    features = villin_features(20)
    start = backbone_from_rigids(features.reference.to(DOUBLE))[None]
    for on in (True, False):
        network = network_of()
        network.config = replace(network.config, excluded_volume=on)
        run = Rollout(network, features, start, stride=10.0, seeds=[1], settings=SamplerSettings(steps=10))
        run.step()
        low = int((run.timesteps <= TAU).sum())
        assert 0 < low < 10 and calls == [19] * (low if on else 0)
        calls.clear()


def test_a_rollout_from_a_start_that_overlaps_draws_frames_that_do_not():
    features = villin_features(20)
    start = torch.empty(1, 20, 3, 3, dtype=DOUBLE)
    for number in range(20):  # ideal residues whose Cα lie on a chain that overlaps with itself
        start[0, number] = torch.tensor([[0.0, 0.14, 0.0], [0.0, 0.0, 0.0], [0.15, 0.0, 0.0]], dtype=DOUBLE)
        start[0, number] += hairpin(0.25, 20)[number]

    def drawn(on: bool) -> torch.Tensor:
        network = network_of(prior="isotropic", displacement=0.002, displacement_max=0.002)
        network.config = replace(network.config, excluded_volume=on)
        settings = SamplerSettings(steps=3, max_context=3, context_tau=0.0)
        return Rollout(network, features, start, stride=10.0, seeds=[1], settings=settings).step().backbone[0, :, 1]

    bonded = torch.ones(19, dtype=torch.bool)
    assert closest(drawn(False), bonded) < 0.28 < 0.34 < closest(drawn(True), bonded)


def test_replicas_are_mended_as_each_alone():
    features = villin_features(20)
    torch.manual_seed(0)
    starts = features.reference.translations[None] + 0.03 * torch.randn(2, 20, 3)
    starts = torch.stack([starts - 0.05, starts, starts + 0.1], dim=2).double()
    network = network_of(lasting_reference=True)
    settings = SamplerSettings(steps=2, max_context=3)

    def drawn(places: list[int]) -> torch.Tensor:
        run = Rollout(network, features, starts[places], stride=10.0, seeds=places, settings=settings)
        return run.step().backbone

    together = drawn([0, 1])
    for place in (0, 1):
        torch.testing.assert_close(together[place], drawn([place])[0], atol=2e-4, rtol=0)
