"""IGSO(3), the law of Brownian motion on rotations: density, score, expected score norm, sampling.

With respect to the uniform measure, and with σ² the variance of each component of the rotation vector at small σ,

    f(ω) = Σ_l (2l + 1) e^(−l(l+1)σ²/2) sin((l + ½)ω) / sin(ω/2)

(Nikolayev and Savyolov 1997; Leach et al. 2022). The sum over l converges fast for wide densities; Poisson summation
turns it into a sum over the images ω − 2πk of a Gaussian, which converges fast for narrow ones. Both are exact, and
both are arranged so that no term is singular at ω = 0 and none cancels near ω = π, where f may be 1e-20000.
Everything is computed in float64 and handed back in the caller's dtype.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from openmm_starmd.devices import constant
from openmm_starmd.geometry.so3 import exp_map

SIGMA_SWITCH = 1.0
"""Above this σ the sum over l is used, below it the images; at it, both are exact to 1e-13."""

_TERMS = 12  # e^(−l(l+1)/2) at l = 12 is 1e-34
_IMAGES = 2  # the third image is 1e-51 at σ = 1

# Tables over ln σ: below, ω/σ follows the chi law of three degrees to 2e-5; above, rotations are uniform to 1e-6.
_TABLE_MIN, _TABLE_MAX = 0.02, 4.0
_TAIL = 9.0  # in units of σ; the chi law has 1e-17 beyond


def density(omega: Tensor, sigma: Tensor | float) -> Tensor:
    """Density over rotations with respect to the uniform measure.

    Parameters
    ----------
    omega : Tensor [...]
        Rotation angle in [0, π], radians.
    sigma : Tensor [...] or float
        Width, radians.

    Returns
    -------
    Tensor [...]
        1 everywhere for the uniform distribution.
    """
    return _log_density(omega.double(), _double(sigma, omega)).exp().to(omega.dtype)


def log_density(omega: Tensor, sigma: Tensor | float) -> Tensor:
    """Logarithm of :func:`density`, finite where the density itself underflows."""
    return _log_density(omega.double(), _double(sigma, omega)).to(omega.dtype)


def angle_density(omega: Tensor, sigma: Tensor | float) -> Tensor:
    """Density ``f(ω)(1 − cos ω)/π`` of the rotation angle on [0, π]; arguments as :func:`density`."""
    return _angle_density(omega.double(), _double(sigma, omega)).to(omega.dtype)


def score(vector: Tensor, sigma: Tensor | float) -> Tensor:
    """Gradient of ``ln f`` at a rotation, in the axes the rotation carries (``R exp(v)`` moves R by v).

    Parameters
    ----------
    vector : Tensor [..., 3]
        Rotation vector of the rotation relative to the centre, ``log(R_0ᵀ R_τ)``, radians.
    sigma : Tensor [...] or float
        Width, radians.

    Returns
    -------
    Tensor [..., 3]
        ``∂_ω ln f`` along the axis, per radian. Zero at ω = 0 and at ω = π, differentiable everywhere else too.
    """
    double = vector.double()
    # The offset keeps the gradient of the square root finite at zero and changes no angle above 1e-8.
    omega = (double.square().sum(-1) + 1e-24).sqrt()
    return (_score_over_angle(omega, _double(sigma, omega))[..., None] * double).to(vector.dtype)


def score_norm_squared(sigma: Tensor) -> Tensor:
    """Expected squared norm of the score, ``E (∂_ω ln f)²`` under IGSO(3)(σ) itself.

    Parameters
    ----------
    sigma : Tensor [...]
        Width, radians.

    Returns
    -------
    Tensor [...]
        3/σ² for small σ. Constant above σ = 4, where it is 1e-13.
    """
    table = _score_norm_table(sigma.device)
    low, weight = _row(sigma, len(table))
    scaled = torch.lerp(table[low], table[low + 1], weight).exp()
    return (scaled / sigma.double().clamp(max=_TABLE_MAX).square()).to(sigma.dtype)


def sample_angle(sigma: Tensor, uniform: Tensor) -> Tensor:
    """Rotation angles by the inverse cumulative distribution.

    Parameters
    ----------
    sigma : Tensor [...]
        Widths, radians; broadcasts with `uniform`.
    uniform : Tensor [...]
        Uniform draws in [0, 1].

    Returns
    -------
    Tensor [...]
        Angles in [0, π], radians; float64.
    """
    levels, quantiles = _quantile_table(uniform.device)
    sigma, uniform = torch.broadcast_tensors(sigma.double(), uniform.double())
    row, row_weight = _row(sigma, len(quantiles))
    uniform = uniform.clamp(0, 1).contiguous()
    column = (torch.searchsorted(levels, uniform, right=True) - 1).clamp(0, len(levels) - 2)
    column_weight = (uniform - levels[column]) / (levels[column + 1] - levels[column])
    narrow = torch.lerp(quantiles[row, column], quantiles[row, column + 1], column_weight)
    wide = torch.lerp(quantiles[row + 1, column], quantiles[row + 1, column + 1], column_weight)
    return (torch.lerp(narrow, wide, row_weight) * sigma.clamp(max=_TABLE_MAX)).clamp(max=math.pi)


def sample(sigma: Tensor, uniform: Tensor, axis: Tensor) -> Tensor:
    """Rotations from IGSO(3) around the identity; the random numbers are the caller's.

    Parameters
    ----------
    sigma : Tensor [...]
        Widths, radians; broadcasts with `uniform`.
    uniform : Tensor [...]
        Uniform draws in [0, 1], one a rotation: the angle.
    axis : Tensor [..., 3]
        Standard normal draws: their direction is the axis.

    Returns
    -------
    Tensor [..., 3, 3]
        Rotation matrices in the dtype of `axis`.
    """
    angle = sample_angle(sigma, uniform)
    direction = axis.double()
    direction = direction / direction.norm(dim=-1, keepdim=True).clamp(min=1e-30)
    return exp_map(angle[..., None] * direction).to(axis.dtype)


def flat_width(sigma: Tensor) -> Tensor:
    """Standard deviation per coordinate of the rotation vector, sqrt(E[ω²] / 3).

    Parameters
    ----------
    sigma : Tensor [...]
        Width, radians.

    Returns
    -------
    Tensor [...]
        σ while it is small, less than σ where rotations begin to wrap around (0.82 σ at 1.5).
    """
    table = _flat_width_table(sigma.device)
    low, weight = _row(sigma, len(table))
    return (torch.lerp(table[low], table[low + 1], weight) * sigma.double().clamp(max=_TABLE_MAX)).to(sigma.dtype)


def _double(sigma: Tensor | float, like: Tensor) -> Tensor:
    return torch.as_tensor(sigma, dtype=torch.float64, device=like.device)


def _log_density(omega: Tensor, sigma: Tensor) -> Tensor:
    # Each formula sees only widths it is meant for, so that neither overflows where the other is taken.
    narrow, wide = sigma.clamp(max=SIGMA_SWITCH), sigma.clamp(min=SIGMA_SWITCH)
    ratio = 2 / torch.sinc(omega / (2 * math.pi))  # ω / sin(ω/2)
    constant = 0.5 * math.log(2 * math.pi) + narrow.square() / 8 - 3 * narrow.log()
    images = constant + ratio.log() - omega.square() / (2 * narrow.square()) + _images(omega, narrow)[0].log()
    return torch.where(sigma < SIGMA_SWITCH, images, _series(omega, wide)[0].log())


def _angle_density(omega: Tensor, sigma: Tensor) -> Tensor:
    return _log_density(omega, sigma).exp() * 2 * (omega / 2).sin().square() / math.pi


def _score_over_angle(omega: Tensor, sigma: Tensor) -> Tensor:
    """∂_ω ln f / ω, a smooth function of ω², for ω > 0."""
    narrow, wide = sigma.clamp(max=SIGMA_SWITCH), sigma.clamp(min=SIGMA_SWITCH)
    total, slope = _images(omega, narrow)
    images = _log_ratio_slope(omega) - 1 / narrow.square() + slope / total
    total, slope = _series(omega, wide)
    return torch.where(sigma < SIGMA_SWITCH, images, slope / total)


def _log_ratio_slope(omega: Tensor) -> Tensor:
    """(1/ω − ½ cot(ω/2)) / ω, the slope of ln(ω / sin(ω/2)) over ω."""
    small = omega < 0.1
    safe = torch.where(small, torch.ones_like(omega), omega)
    squared = omega.square()
    series = 1 / 12 + squared / 720 * (1 + squared / 42 * (1 + squared / 40))
    return torch.where(small, series, (1 / safe - 0.5 / (safe / 2).tan()) / safe)


def _series(omega: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Give f and f′/ω by the sum over l, with sin((l + ½)ω)/sin(ω/2) = 1 + 2 Σ_{j=1..l} cos(jω)."""
    order = torch.arange(_TERMS + 1, dtype=torch.float64, device=omega.device)
    weights = (2 * order + 1) * torch.exp(-order * (order + 1) * sigma[..., None].square() / 2)
    tails = weights.flip(-1).cumsum(-1).flip(-1)  # Σ_{l >= j}
    factor = torch.where(order == 0, 1.0, 2.0)
    angle = order * omega[..., None]
    total = (factor * tails * angle.cos()).sum(-1)
    slope = -(factor * tails * order.square() * torch.sinc(angle / math.pi)).sum(-1)
    return total, slope


def _images(omega: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """S and S′/ω, where f = sqrt(2π) e^(σ²/8) σ^(−3) (ω / sin(ω/2)) e^(−ω²/2σ²) S(ω).

    The images k and −k together give (−1)^k e^(−2π²k²/σ²) (2 cosh a − 2c sinh(a)/a), a = 2πkω/σ², c = 4π²k²/σ².
    """
    total, slope = torch.ones_like(omega * sigma), torch.zeros_like(omega * sigma)
    for k in range(1, _IMAGES + 1):
        rate = 2 * math.pi * k / sigma.square()
        a, c = rate * omega, 2 * math.pi * k * rate
        # e^(−2π²k²/σ²) e^a, which never overflows, since ω <= π
        near = (-1) ** k * torch.exp(-rate * (math.pi * k - omega))
        small = a < 0.3
        safe = torch.where(small, torch.ones_like(a), a)
        far = torch.exp(-2 * a)
        cosh = near * (1 + far) / 2
        sinh_over = near * torch.where(small, (-a).exp() * _sinhc(a), (1 - far) / (2 * safe))
        # (cosh a − sinh(a)/a) / a²
        difference = torch.where(small, near * (-a).exp() * _cosh_minus_sinhc(a), (cosh - sinh_over) / safe.square())
        total = total + 2 * (cosh - c * sinh_over)
        slope = slope + 2 * rate.square() * (sinh_over - c * difference)
    return total, slope


def _sinhc(a: Tensor) -> Tensor:
    """sinh(a)/a for small a."""
    squared = a.square()
    return 1 + squared / 6 * (1 + squared / 20 * (1 + squared / 42 * (1 + squared / 72)))


def _cosh_minus_sinhc(a: Tensor) -> Tensor:
    """(cosh a − sinh(a)/a) / a² for small a: Σ_n 2n a^(2n−2) / (2n+1)!."""
    squared = a.square()
    return 1 / 3 + squared * (1 / 30 + squared * (1 / 840 + squared * (1 / 45360 + squared / 3991680)))


def _row(sigma: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Row of a table over ln σ below `sigma`, and the weight of the next one."""
    step = math.log(_TABLE_MAX / _TABLE_MIN) / (rows - 1)
    position = ((sigma.double().log() - math.log(_TABLE_MIN)) / step).clamp(0, rows - 1)
    low = position.long().clamp(max=rows - 2)
    return low, position - low


def _widths(rows: int) -> Tensor:
    """Column [rows, 1] of the widths of a table."""
    return torch.logspace(math.log(_TABLE_MIN), math.log(_TABLE_MAX), rows, base=math.e, dtype=torch.float64)[:, None]


def _angles(sigma: Tensor, points: int) -> Tensor:
    """Evenly spaced angles [rows, points] that cover the density of each width."""
    fraction = torch.linspace(0, 1, points, dtype=torch.float64)
    return fraction * (_TAIL * sigma).clamp(max=math.pi)


@constant
def _score_norm_table(device: torch.device) -> Tensor:
    """ln(σ² E|score|²) over ln σ."""
    sigma = _widths(1024)
    omega = _angles(sigma, 256)
    weight = _angle_density(omega, sigma)
    squared = (_score_over_angle(omega, sigma) * omega).square()
    mean = torch.trapezoid(weight * squared, omega) / torch.trapezoid(weight, omega)
    return (sigma[:, 0].square() * mean).log().to(device)


@constant
def _flat_width_table(device: torch.device) -> Tensor:
    """sqrt(E[ω²] / 3) over σ, over ln σ."""
    sigma = _widths(256)
    omega = _angles(sigma, 1024)
    weight = _angle_density(omega, sigma)
    mean = torch.trapezoid(weight * omega.square(), omega) / torch.trapezoid(weight, omega)
    return ((mean / 3).sqrt() / sigma[:, 0]).to(device)


@constant
def _quantile_table(device: torch.device) -> tuple[Tensor, Tensor]:
    """Levels u [columns] and the angles over σ there [rows, columns], one row a width.

    The levels are those at which the chi law of three degrees, the limit of small σ, has evenly spaced quantiles.
    """
    z = torch.linspace(0, 8, 1025, dtype=torch.float64)
    levels = torch.erf(z / math.sqrt(2)) - math.sqrt(2 / math.pi) * z * torch.exp(-z.square() / 2)
    levels[0], levels[-1] = 0.0, 1.0
    sigma = _widths(192)
    omega = _angles(sigma, 1024)
    mass = torch.cumulative_trapezoid(_angle_density(omega, sigma), dim=-1)
    mass = torch.cat([torch.zeros_like(sigma), mass / mass[:, -1:]], dim=-1)
    above = torch.searchsorted(mass, levels.expand(len(sigma), -1).contiguous(), right=True).clamp(1, 1023)
    left, right = mass.gather(1, above - 1), mass.gather(1, above)
    weight = ((levels - left) / (right - left).clamp(min=1e-300)).clamp(0, 1)
    quantiles = torch.lerp(omega.gather(1, above - 1), omega.gather(1, above), weight)
    return levels.to(device), (quantiles / sigma).to(device)
