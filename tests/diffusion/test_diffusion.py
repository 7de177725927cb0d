"""Schedules, forward noise, scores, and the samplers on a mixture whose exact score is known."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from openmm_starmd.diffusion import igso3
from openmm_starmd.diffusion.process import forward_noise, score_rotation, score_translation
from openmm_starmd.diffusion.samplers import EulerMaruyama, Multistep, Posterior, prior
from openmm_starmd.diffusion.schedule import Schedule
from openmm_starmd.geometry.rigid import Rigids
from openmm_starmd.geometry.so3 import angle_of, exp_map, log_map, rotation_from_gaussian

DOUBLE = torch.float64
PAPER, NARROW = Schedule(), Schedule(sigma_min=0.02)
SAMPLERS = [EulerMaruyama, Posterior]


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def random_rigids(seed: int, *shape: int) -> Rigids:
    return Rigids(rotation_from_gaussian(normal(seed, *shape, 4)), normal(seed + 1, *shape, 3))


def igso3_noise(seed: int, sigma: torch.Tensor, *shape: int) -> torch.Tensor:
    uniform = torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
    return igso3.sample(sigma, uniform, normal(seed + 1, *shape, 3))


def cumulative(sigma: float):
    omega = torch.linspace(0, math.pi, 100_001, dtype=DOUBLE)
    mass = torch.cumulative_trapezoid(igso3.angle_density(omega, sigma), omega)
    return lambda angle: np.interp(angle, omega.numpy(), np.concatenate([[0.0], mass.numpy()]))


# Schedules


@pytest.mark.parametrize("schedule", [PAPER, NARROW])
def test_schedule_derivatives_and_ends(schedule):
    tau = torch.linspace(0.001, 0.999, 500, dtype=DOUBLE)
    h = 1e-5

    def slope(function):
        return (function(tau + h) - function(tau - h)) / (2 * h)

    torch.testing.assert_close(
        slope(lambda t: schedule.sigma_rotation(t) ** 2), schedule.diffusion_rotation_squared(tau)
    )
    torch.testing.assert_close(slope(schedule.B), schedule.beta(tau))
    torch.testing.assert_close(schedule.alpha(tau) ** 2 + schedule.sigma_translation(tau) ** 2, torch.ones_like(tau))
    ends = schedule.sigma_rotation(torch.tensor([0.0, 1.0], dtype=DOUBLE))
    torch.testing.assert_close(ends, torch.tensor([schedule.sigma_min, schedule.sigma_max], dtype=DOUBLE))
    assert schedule.alpha(torch.tensor(1.0)) < 0.01


def test_schedule_refuses_bad_numbers():
    for bad in ({"sigma_min": 0.0}, {"sigma_max": 0.05}, {"beta_min": -1.0}, {"beta_max": 0.01}):
        with pytest.raises(ValueError, match="need 0 <"):
            Schedule(**bad)


# Forward noise and scores


@pytest.mark.parametrize("tau", [0.001, 0.1, 0.5, 1.0])
def test_forward_noise_moments(tau):
    count = 20_000
    clean = random_rigids(0, 3)
    tau = torch.full((count,), tau, dtype=DOUBLE)
    noise = igso3_noise(1, PAPER.sigma_rotation(tau)[:, None], count, 3)
    many = clean.map(lambda tensor: tensor.expand(count, *tensor.shape))
    noisy = forward_noise(many, tau, normal(2, count, 3, 3), noise, PAPER)
    alpha, sigma = PAPER.alpha(tau[0]).item(), PAPER.sigma_translation(tau[0]).item()
    five = 5 * sigma / count**0.5
    torch.testing.assert_close(noisy.translations.mean(0), alpha * clean.translations, rtol=0, atol=five)
    torch.testing.assert_close(noisy.translations.std(0), torch.full((3, 3), sigma, dtype=DOUBLE), rtol=0.03, atol=0)
    angles = angle_of(clean.rotations.transpose(-1, -2) @ noisy.rotations)
    for i in range(3):
        assert kstest(angles[:, i].numpy(), cumulative(PAPER.sigma_rotation(tau[0]).item())).pvalue > 0.01


def test_each_frame_has_its_own_time():
    clean, tau = random_rigids(3, 2, 4, 5), torch.rand(2, 4, dtype=DOUBLE)
    eps, turn = normal(4, 2, 4, 5, 3), igso3_noise(5, PAPER.sigma_rotation(tau)[..., None], 2, 4, 5)
    together = forward_noise(clean, tau, eps, turn, PAPER)
    scores = (
        score_translation(together.translations, clean.translations, tau, PAPER),
        score_rotation(together.rotations, clean.rotations, tau, PAPER),
    )
    one = forward_noise(clean.map(lambda t: t[1, 2]), tau[1, 2], eps[1, 2], turn[1, 2], PAPER)
    torch.testing.assert_close(together.map(lambda t: t[1, 2]), one)
    clean = clean.map(lambda t: t[1, 2])
    torch.testing.assert_close(
        scores[0][1, 2], score_translation(one.translations, clean.translations, tau[1, 2], PAPER)
    )
    torch.testing.assert_close(scores[1][1, 2], score_rotation(one.rotations, clean.rotations, tau[1, 2], PAPER))


@pytest.mark.parametrize("tau", [0.01, 0.4, 0.56, 0.57, 1.0])
def test_scores_are_gradients_of_the_log_density(tau):
    tau = torch.tensor(tau, dtype=DOUBLE)
    clean = random_rigids(6, 40)
    noisy = forward_noise(clean, tau, normal(7, 40, 3), igso3_noise(8, PAPER.sigma_rotation(tau), 40), PAPER)
    alpha, sigma = PAPER.alpha(tau), PAPER.sigma_translation(tau)
    x = noisy.translations.clone().requires_grad_()
    (expected,) = torch.autograd.grad(-((x - alpha * clean.translations) ** 2).sum() / (2 * sigma**2), x)
    torch.testing.assert_close(score_translation(noisy.translations, clean.translations, tau, PAPER), expected)

    score, h = score_rotation(noisy.rotations, clean.rotations, tau, PAPER), 1e-5
    for axis in range(3):
        push = exp_map(h * torch.eye(3, dtype=DOUBLE)[axis])
        values = [
            igso3.log_density(angle_of(clean.rotations.mT @ noisy.rotations @ turn), PAPER.sigma_rotation(tau))
            for turn in (push, push.mT)
        ]
        torch.testing.assert_close(score[:, axis], (values[0] - values[1]) / (2 * h), rtol=1e-5, atol=1e-5)


def test_rotation_score_has_the_expected_norm():
    tau = torch.tensor([0.01, 0.3, 1.0], dtype=DOUBLE)
    sigma = PAPER.sigma_rotation(tau)
    clean = random_rigids(9, 3, 50_000)
    noisy = clean.rotations @ igso3_noise(10, sigma[:, None], 3, 50_000)
    squared = score_rotation(noisy, clean.rotations, tau, PAPER).square().sum(-1).mean(-1)
    torch.testing.assert_close(squared, igso3.score_norm_squared(sigma), rtol=0.02, atol=0)


def test_scores_keep_dtype_and_have_finite_gradients_at_the_clean_frame():
    for dtype in (torch.float32, torch.float64):
        clean, tau = random_rigids(11, 2, 5).to(dtype), torch.tensor([0.001, 1.0], dtype=dtype)
        clean.rotations.requires_grad_()
        score = score_rotation(clean.rotations.detach(), clean.rotations, tau, PAPER)
        assert score.dtype == score_translation(clean.translations, clean.translations, tau, PAPER).dtype == dtype
        (gradient,) = torch.autograd.grad(score.sum(), clean.rotations)
        assert gradient.isfinite().all()


# Samplers


@pytest.mark.parametrize("cls", SAMPLERS)
def test_timesteps_fall_from_one_to_the_end(cls):
    sampler = cls(PAPER)
    grid = sampler.timesteps(20)
    assert grid.shape == (20,) and grid[0] == 1 and (grid.diff() < 0).all()
    assert grid[-1].item() == pytest.approx(sampler.tau_end)
    assert sampler.timesteps(1).tolist() == [1.0]
    spacing = grid.diff() if cls is EulerMaruyama else grid.log().diff()
    torch.testing.assert_close(spacing, spacing.mean().expand(19))
    with pytest.raises(ValueError, match="at least one"):
        sampler.timesteps(0)
    with pytest.raises(ValueError, match="tau_end"):
        cls(PAPER, tau_end=0.0).timesteps(5)


@pytest.mark.parametrize("cls", SAMPLERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_keep_dtype_shape_and_rotations(cls, dtype):
    sampler = cls(PAPER)
    x = prior(normal(12, 2, 3, 5, 7).to(dtype))
    clean = random_rigids(13, 2, 3, 5).to(dtype)
    grid = sampler.timesteps(20)
    for k in range(19):
        x = sampler.step(x, clean, grid[k], grid[k + 1], normal(14 + k, 2, 3, 5, 6).to(dtype))
    assert x.rotations.dtype == x.translations.dtype == dtype
    assert x.rotations.shape == (2, 3, 5, 3, 3) and x.translations.shape == (2, 3, 5, 3)
    identity = torch.eye(3, dtype=dtype).expand_as(x.rotations)
    torch.testing.assert_close(x.rotations @ x.rotations.mT, identity, rtol=0, atol=1e-12 if dtype == DOUBLE else 1e-5)


@pytest.mark.parametrize("cls", SAMPLERS)
def test_times_may_differ_between_frames(cls):
    sampler, x, clean, noise = cls(PAPER), random_rigids(15, 3, 5), random_rigids(17, 3, 5), normal(19, 3, 5, 6)
    tau, later = torch.tensor([1.0, 0.5, 0.1], dtype=DOUBLE), torch.tensor([0.9, 0.3, 0.01], dtype=DOUBLE)
    together = sampler.step(x, clean, tau, later, noise)
    for i in range(3):
        alone = sampler.step(x.map(lambda t: t[i]), clean.map(lambda t: t[i]), tau[i], later[i], noise[i])  # noqa: B023
        torch.testing.assert_close(together.map(lambda t: t[i]), alone)  # noqa: B023


@pytest.mark.parametrize("cls", SAMPLERS)
def test_a_turned_frame_with_turned_noise_gives_the_turned_step(cls):
    sampler, x, clean, noise = cls(PAPER), random_rigids(20, 5), random_rigids(22, 5), normal(24, 5, 6)
    turn, still = rotation_from_gaussian(normal(25, 4)), torch.zeros(3, dtype=DOUBLE)
    tau, later = torch.tensor(0.4, dtype=DOUBLE), torch.tensor(0.3, dtype=DOUBLE)
    expected = sampler.step(x, clean, tau, later, noise).moved(turn, still)
    # The rotation noise lives in each residue's own axes and does not turn.
    turned_noise = torch.cat([noise[:, :3] @ turn.mT, noise[:, 3:]], dim=-1)
    found = sampler.step(x.moved(turn, still), clean.moved(turn, still), tau, later, turned_noise)
    torch.testing.assert_close(found, expected)


def test_prior_is_gaussian_and_uniform():
    x = prior(normal(26, 40_000, 1, 7))
    assert kstest(x.translations[:, 0, 1].numpy(), "norm").pvalue > 0.01
    assert kstest(angle_of(x.rotations[:, 0]).numpy(), lambda w: (w - np.sin(w)) / math.pi).pvalue > 0.01


@pytest.mark.parametrize(("tau", "later"), [(1.0, 0.3), (0.5, 0.01), (0.01, 0.001)])
def test_one_posterior_step_maps_marginal_to_marginal(tau, later):
    """∫ q(x_s | x_t, x_0) q(x_t | x_0) = q(x_s | x_0): translations at any step, rotations while σ_t is small."""
    tau, later = torch.tensor(tau, dtype=DOUBLE), torch.tensor(later, dtype=DOUBLE)
    clean = random_rigids(27, 1).map(lambda t: t.expand(40_000, *t.shape))
    noisy = forward_noise(
        clean, tau, normal(29, 40_000, 1, 3), igso3_noise(30, NARROW.sigma_rotation(tau), 40_000, 1), NARROW
    )
    x = Posterior(NARROW).step(noisy, clean, tau, later, normal(32, 40_000, 1, 6))
    scaled = (x.translations - NARROW.alpha(later) * clean.translations) / NARROW.sigma_translation(later)
    for i in range(3):
        assert kstest(scaled[:, 0, i].numpy(), "norm").pvalue > 0.01
    if NARROW.sigma_rotation(tau) < 0.3:
        angles = angle_of(clean.rotations.mT @ x.rotations)[:, 0]
        assert kstest(angles.numpy(), cumulative(NARROW.sigma_rotation(later).item())).pvalue > 0.01


class Mixture:
    """Two narrow modes of one rigid, Gaussian on translations times IGSO(3) on rotations, and their exact denoiser.

    Noise of IGSO(3)(σ) on a mode of IGSO(3)(s) gives IGSO(3)(sqrt(s² + σ²)), so that the noised density is known too.
    """

    weights = torch.tensor([0.3, 0.7], dtype=DOUBLE)
    translations = torch.tensor([[-0.4, 0.1, 0.3], [0.5, 0.2, -0.2]], dtype=DOUBLE)
    rotations = exp_map(torch.tensor([[0.9, 0.2, -0.3], [-0.8, 0.7, 0.4]], dtype=DOUBLE))
    spread_translation, spread_rotation = 0.06, 0.12

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def widths(self, tau: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        alpha, sigma = self.schedule.alpha(tau), self.schedule.sigma_translation(tau)
        variance = (alpha * self.spread_translation) ** 2 + sigma**2
        return alpha, variance, (self.spread_rotation**2 + self.schedule.sigma_rotation(tau) ** 2).sqrt()

    def modes(self, x: Rigids, tau: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Probability [S, 2] of each mode, shifts [S, 2, 3] and rotation vectors [S, 2, 3] from their centres."""
        alpha, variance, width = self.widths(tau)
        shift = x.translations - alpha * self.translations  # [S, 1, 3] - [2, 3]
        turn = log_map(self.rotations.mT @ x.rotations)
        log = self.weights.log() - shift.square().sum(-1) / (2 * variance) + igso3.log_density(turn.norm(dim=-1), width)
        return log.softmax(-1), shift, turn

    def clean_translations(self, x: Rigids, tau: torch.Tensor) -> torch.Tensor:
        """Their conditional mean [S, 1, 3], from which the exact score follows."""
        alpha, variance, _ = self.widths(tau)
        weight, shift, _ = self.modes(x, tau)
        score = -(weight[..., None] * shift).sum(1, keepdim=True) / variance
        return (x.translations + self.schedule.sigma_translation(tau) ** 2 * score) / alpha

    def by_score(self, x: Rigids, tau: torch.Tensor) -> Rigids:
        """The clean rigids [S, 1] from which EulerMaruyama derives the exact score."""
        weight, _, turn = self.modes(x, tau)
        score = (weight[..., None] * igso3.score(turn, self.widths(tau)[2])).sum(1, keepdim=True)
        omega = torch.linspace(0, math.pi, 4001, dtype=DOUBLE)
        unit = omega[:, None] * torch.tensor([1.0, 0, 0], dtype=DOUBLE)
        length = -igso3.score(unit, self.schedule.sigma_rotation(tau))[:, 0]
        rising = int(length.argmax()) + 1
        norm = score.norm(dim=-1, keepdim=True)
        angle = torch.from_numpy(np.interp(norm.numpy(), length[:rising].numpy(), omega[:rising].numpy()))
        return Rigids(x.rotations @ exp_map(score / norm * angle), self.clean_translations(x, tau))

    def by_mean(self, x: Rigids, tau: torch.Tensor) -> Rigids:
        """The conditional means [S, 1], which a network learns; rotations to first order in the spread."""
        weight, _, turn = self.modes(x, tau)
        near = self.rotations @ exp_map(-(self.spread_rotation**2) * igso3.score(turn, self.widths(tau)[2]))
        first = near[:, :1]
        between = (weight[..., None] * log_map(first.mT @ near)).sum(1, keepdim=True)
        return Rigids(first @ exp_map(between), self.clean_translations(x, tau))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cls", "steps"),
    [(EulerMaruyama, 200), (Posterior, 100), (Multistep, 20), (partial(Multistep, stochasticity=0.0), 20)],
)
@pytest.mark.parametrize("schedule", [PAPER, NARROW])
def test_sampler_recovers_a_mixture_from_its_exact_score(cls, steps, schedule):
    count = 4000
    sampler, mixture = cls(schedule), Mixture(schedule)
    denoise = mixture.by_score if cls is EulerMaruyama else mixture.by_mean
    grid = sampler.timesteps(steps)
    x, previous = prior(normal(33, count, 1, 7)), None
    for k in range(steps):
        clean = denoise(x, grid[k])
        if k + 1 < steps:
            x = sampler.step(x, clean, grid[k], grid[k + 1], normal(100 + k, count, 1, 6), previous)
            previous = (clean, grid[k])

    weight, shift, turn = mixture.modes(x, grid[-1])
    _, variance, width = mixture.widths(grid[-1])
    mode = weight.argmax(-1)
    # The standard error of the share is 0.007; the prior is uniform, where IGSO(3)(1.5) would be exact.
    assert mode.double().mean().item() == pytest.approx(mixture.weights[1].item(), abs=0.025)
    # Euler's step at τ = 0.01 is 0.2 of the remaining variance of the translations, hence 8 % of spread at 200 steps.
    spread = 0.12 if cls is EulerMaruyama else 0.05
    # the ODE keeps what the uniform prior and the flat treatment of wide rotations get wrong
    turn_spread, distance = (0.05, 0.06) if cls in (EulerMaruyama, Posterior, Multistep) else (0.1, 0.14)
    for i in range(2):
        moved, turned = shift[mode == i, i], turn[mode == i, i]
        assert moved.mean(0).norm() < 0.01 and turned.mean(0).norm() < 0.02
        assert (moved.square().mean() / variance).sqrt().item() == pytest.approx(1, abs=spread)
        assert (turned.square().mean().sqrt() / width).item() == pytest.approx(1, abs=turn_spread)
        assert kstest(turned.norm(dim=-1).numpy(), cumulative(width.item())).statistic < distance
        # The clean estimates lie on the mode, closer together than its noisy rigids.
        centred = clean.translations[mode == i, 0] - mixture.translations[i]
        assert centred.square().mean().sqrt() < 1.05 * mixture.spread_translation


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.03, 0.075, 0.2])
def test_multistep_is_as_wide_as_a_gaussian_in_ten_steps(spread):
    """The anchored form's own case; the posterior sampler ends more than 20 % too narrow."""
    widths = []
    for cls in (Multistep, Posterior):
        sampler = cls(NARROW, tau_end=5e-4)
        grid = sampler.timesteps(10)
        x, previous = prior(normal(40, 20_000, 1, 7)), None
        for k in range(10):
            alpha, sigma = NARROW.alpha(grid[k]), NARROW.sigma_translation(grid[k])
            gain = alpha * spread**2 / ((alpha * spread) ** 2 + sigma**2)
            clean = Rigids(x.rotations, gain * x.translations)
            if k < 9:
                x = sampler.step(x, clean, grid[k], grid[k + 1], normal(50 + k, 20_000, 1, 6), previous)
                previous = (clean, grid[k])
        widths.append(clean.translations.std().item() / spread)
    assert widths[0] == pytest.approx(1, abs=0.06)
    assert widths[1] < 0.8
