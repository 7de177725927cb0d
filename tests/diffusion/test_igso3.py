"""IGSO(3) against its definition, its own derivative, and the statistics of its draws."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from openmm_starmd.diffusion import igso3
from openmm_starmd.geometry.so3 import angle_of, exp_map, log_map

EDGE = igso3.SIGMA_SWITCH
# The range of the schedules, the switch of formulas from both sides, and the ends of the sampling table (0.02, 4).
SIGMAS = [0.01, 0.0199, 0.02, 0.03, 0.1, 0.3, 0.5, 0.8, EDGE - 1e-9, EDGE, EDGE + 1e-9, 1.2, 1.5, 1.6]


def angle_grid(points: int = 200_001) -> torch.Tensor:
    return torch.linspace(0, math.pi, points, dtype=torch.float64)


def definition(omega: torch.Tensor, sigma: float, terms: int = 400) -> torch.Tensor:
    order = torch.arange(terms + 1, dtype=torch.float64)
    weight = (2 * order + 1) * torch.exp(-order * (order + 1) * sigma**2 / 2)
    return (weight * torch.sin((order + 0.5) * omega[:, None])).sum(-1) / torch.sin(omega / 2)


def numbers(seed: int, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(*shape, generator=generator, dtype=torch.float64)
    return uniform, torch.randn(*shape, 3, generator=generator, dtype=torch.float64)


def cumulative(sigma: float):
    omega = angle_grid()
    mass = torch.cumulative_trapezoid(igso3.angle_density(omega, sigma), omega)
    mass = np.concatenate([[0.0], mass.numpy()])
    return lambda angle: np.interp(angle, omega.numpy(), mass)


@pytest.mark.slow
@pytest.mark.parametrize("sigma", SIGMAS)
def test_density_integrates_to_one(sigma):
    omega = angle_grid()
    assert torch.trapezoid(igso3.angle_density(omega, sigma), omega).item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("sigma", [0.5, 0.8, EDGE - 1e-9, EDGE, EDGE + 1e-9, 1.6, 3.0])
def test_density_is_the_sum_of_characters(sigma):
    omega = angle_grid(2001)[1:]
    expected = definition(omega, sigma)
    # The definition's own rounding is of its largest terms, not of its sum.
    torch.testing.assert_close(igso3.density(omega, sigma), expected, rtol=1e-12, atol=1e-13 * expected[0].item())


@pytest.mark.parametrize(
    ("sigma", "omega"), [(0.1, 0.5), (0.1, 3.0), (0.1, math.pi), (0.3, 3.1), (0.99, math.pi), (0.7, 1e-3)]
)
def test_log_density_keeps_its_digits_where_the_sum_loses_them(sigma, omega):
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(300):
        exact = mpmath.fsum(
            (2 * k + 1)
            * mpmath.exp(-k * (k + 1) * mpmath.mpf(sigma) ** 2 / 2)
            * mpmath.sin((k + 0.5) * mpmath.mpf(omega))
            for k in range(420)
        )
        exact = float(mpmath.log(exact / mpmath.sin(mpmath.mpf(omega) / 2)))
    value = igso3.log_density(torch.tensor(omega, dtype=torch.float64), sigma).item()
    assert value == pytest.approx(exact, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("sigma", [0.01, 0.05])
def test_narrow_density_is_a_gaussian_of_the_rotation_vector(sigma):
    omega = torch.linspace(0, 3 * sigma, 50, dtype=torch.float64)
    # All rotations have the volume 8π² in rotation vectors; the uniform density spreads one over it.
    flat = 8 * math.pi**2 * torch.exp(-(omega**2) / (2 * sigma**2)) / (2 * math.pi * sigma**2) ** 1.5
    torch.testing.assert_close(igso3.density(omega, sigma), flat, rtol=sigma**2, atol=0)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_score_is_the_derivative_of_the_log_density(sigma):
    omega = torch.cat([angle_grid(2001)[1:-1], torch.linspace(0.05, 6, 500, dtype=torch.float64) * sigma])
    omega = omega[omega < math.pi - 1e-3]
    step = 3e-4 * sigma**2  # near π the slope turns over within σ²
    numerical = (igso3.log_density(omega + step, sigma) - igso3.log_density(omega - step, sigma)) / (2 * step)
    axis = torch.tensor([2.0, -1.0, 2.0], dtype=torch.float64) / 3
    vector = igso3.score(omega[:, None] * axis, sigma)
    along = (vector * axis).sum(-1)
    torch.testing.assert_close(along, numerical, rtol=1e-6, atol=1e-6 / sigma)
    torch.testing.assert_close(vector, along[:, None] * axis, rtol=1e-9, atol=1e-9)


def test_formulas_meet_at_the_switch():
    omega = angle_grid(1001)
    below, above = (torch.full_like(omega, EDGE + shift) for shift in (-1e-12, 1e-12))
    torch.testing.assert_close(igso3.log_density(omega, below), igso3.log_density(omega, above), rtol=1e-10, atol=1e-10)
    vectors = omega[:, None] * torch.tensor([0.0, 0.6, 0.8], dtype=torch.float64)
    torch.testing.assert_close(igso3.score(vectors, below), igso3.score(vectors, above), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sigma", SIGMAS)
def test_finite_with_finite_gradients_at_the_ends(sigma, dtype):
    axis = torch.tensor([0.36, 0.48, 0.8], dtype=dtype)
    lengths = torch.tensor([0, 1e-20, 1e-12, 1e-8, 1e-4, 0.0999, 0.1001, math.pi - 1e-5, math.pi], dtype=dtype)
    vectors = (lengths[:, None] * axis).requires_grad_()
    value = igso3.score(vectors, sigma)
    assert value.dtype == dtype
    (gradient,) = torch.autograd.grad(value.square().sum() + value.sum(), vectors)
    assert value.isfinite().all() and gradient.isfinite().all()
    assert value[0].abs().max() == 0
    assert value[-1].abs().max() < (1e-7 if dtype == torch.float64 else 1e-6) / sigma**2 / min(1.0, sigma**2)
    for function in (igso3.log_density, igso3.density, igso3.angle_density):
        assert function(lengths, sigma).dtype == dtype
        assert function(lengths, sigma).isfinite().all()


def test_many_widths_at_once_equal_one_at_a_time():
    sigma = torch.tensor(SIGMAS, dtype=torch.float64)
    vectors = log_map(exp_map(2 * numbers(0, 5, len(SIGMAS))[1]))
    together = igso3.score(vectors, sigma)
    for i, width in enumerate(SIGMAS):
        torch.testing.assert_close(together[:, i], igso3.score(vectors[:, i], width), rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [*SIGMAS, 4.5])
def test_sampled_angles_pass_kolmogorov_smirnov(sigma):
    uniform, axis = numbers(1, 100_000)
    angles = angle_of(igso3.sample(torch.tensor(sigma), uniform, axis)).numpy()
    assert kstest(angles, cumulative(sigma)).pvalue > 0.01
    # The draws' own error, without chance: each angle's cumulative probability is the number it was made from.
    exact = cumulative(sigma)(igso3.sample_angle(torch.tensor(sigma), uniform).numpy())
    assert np.abs(exact - uniform.numpy()).max() < 5e-4


def test_mixed_widths_in_one_call():
    uniform, axis = numbers(2, 60_000)
    sigma = torch.tensor([0.02, 0.4, 1.55], dtype=torch.float32).repeat(20_000)
    rotations = igso3.sample(sigma, uniform.float(), axis.float())
    assert rotations.dtype == torch.float32
    for i, width in enumerate([0.02, 0.4, 1.55]):
        assert kstest(angle_of(rotations[i::3].double()).numpy(), cumulative(width)).pvalue > 0.01


def test_axes_are_isotropic_and_draws_are_proper_and_reproducible():
    uniform, axis = numbers(3, 50_000)
    uniform[:4] = torch.tensor([0.0, 1.0, 1e-17, 1 - 1e-16], dtype=torch.float64)
    axis[4] = 0
    sigma = torch.tensor(0.7, dtype=torch.float64)
    rotations = igso3.sample(sigma, uniform, axis)
    assert rotations.isfinite().all()
    identity = torch.eye(3, dtype=torch.float64).expand_as(rotations)
    torch.testing.assert_close(rotations @ rotations.transpose(-1, -2), identity, rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.linalg.det(rotations), torch.ones_like(uniform), rtol=0, atol=1e-12)
    direction = torch.nn.functional.normalize(log_map(rotations[5:]), dim=-1)
    moment = direction.T @ direction / len(direction)
    torch.testing.assert_close(direction.mean(0), torch.zeros(3, dtype=torch.float64), rtol=0, atol=0.01)
    torch.testing.assert_close(moment, torch.eye(3, dtype=torch.float64) / 3, rtol=0, atol=0.01)
    assert torch.equal(rotations, igso3.sample(sigma, uniform, axis))


@pytest.mark.parametrize(("first", "second"), [(0.1, 0.2), (0.6, 0.9), (1.0, 1.2)])
def test_draws_compose_as_brownian_motion(first, second):
    one = igso3.sample(torch.tensor(first), *numbers(4, 50_000))
    two = igso3.sample(torch.tensor(second), *numbers(5, 50_000))
    assert kstest(angle_of(one @ two).numpy(), cumulative(math.hypot(first, second))).pvalue > 0.01


def test_many_small_steps_of_variance_sigma_squared_give_the_density():
    noise = torch.randn(64, 20_000, 3, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    rotation = torch.eye(3, dtype=torch.float64)
    for step in noise:
        rotation = rotation @ exp_map(1.2 / 8 * step)
    assert kstest(angle_of(rotation).numpy(), cumulative(1.2)).pvalue > 0.01


@pytest.mark.parametrize("sigma", SIGMAS)
def test_score_norm_is_the_expectation(sigma):
    omega = angle_grid(20_001)
    length = igso3.score(omega[:, None] * torch.tensor([1.0, 0, 0], dtype=torch.float64), sigma)[:, 0]
    exact = torch.trapezoid(igso3.angle_density(omega, sigma) * length**2, omega).item()
    assert igso3.score_norm_squared(torch.tensor(sigma, dtype=torch.float64)).item() == pytest.approx(exact, rel=1e-3)
    assert igso3.score_norm_squared(torch.tensor([sigma])).dtype == torch.float32


@pytest.mark.parametrize("sigma", [0.005, 0.05, 0.5, 0.92, 1.5, 4.5])
def test_flat_width_is_that_of_drawn_rotation_vectors(sigma):
    generator = torch.Generator().manual_seed(5)
    uniform = torch.rand(40_000, generator=generator, dtype=torch.float64)
    axis = torch.randn(40_000, 3, generator=generator, dtype=torch.float64)
    drawn = log_map(igso3.sample(torch.tensor(sigma, dtype=torch.float64), uniform, axis))
    expected = igso3.flat_width(torch.tensor(sigma, dtype=torch.float64)).item()
    assert drawn.square().mean().sqrt().item() == pytest.approx(expected, rel=0.01)
