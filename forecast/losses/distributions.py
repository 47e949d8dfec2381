"""CRPS of predicted distributions in closed form: normal (whole, censored, truncated), logistic, lognormal."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from forecast.losses.common import Loss, reduce, require, same_shape, wide, without_masked
from forecast.losses.registry import register

Parametrisation = Literal["sigma", "log", "softplus"]
SQRT_PI = math.pi**0.5
_FAR = -25.0  # standard deviations; the square of the normal distribution function is still a double there


def scale_of(raw: Tensor, parametrisation: str = "sigma", floor: float = 1e-6) -> Tensor:
    """A scale above `floor` made of a network's output.

    Args:
        raw: the scale itself (sigma), its logarithm (log), or any number that softplus makes positive.

    Raises:
        ForecastError: an unknown parametrisation, or negative values where the scale itself is given.
    """
    if parametrisation == "log":
        return raw.exp().clamp_min(floor)
    if parametrisation == "softplus":
        return softplus(raw) + floor
    require(parametrisation == "sigma", "parametrisation", parametrisation, "must be sigma, log or softplus")
    require(not bool((raw < 0).any()), "sigma", f"{raw.min().item():g}" if raw.numel() else "", "must not be negative")
    return raw.clamp_min(floor)


def _density(z: Tensor) -> Tensor:
    return torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)


def _cdf(z: Tensor) -> Tensor:
    """Of the standard normal distribution, with all digits in the lower tail."""
    return 0.5 * torch.erfc(-z / math.sqrt(2))


def _standardised(bound: float | Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """(bound - mean) / scale; for an infinite bound a huge number, whose gradient is zero and not NaN."""
    if not isinstance(bound, Tensor) and math.isinf(bound):
        return torch.full_like(mean, math.copysign(1e300, bound))
    return (bound - mean) / scale


def _squared_cdf(z: Tensor) -> Tensor:
    """Integral of the squared standard normal distribution function from minus infinity to z."""
    cdf = _cdf(z)
    return z * cdf * cdf + 2 * _density(z) * cdf - _cdf(math.sqrt(2) * z) / SQRT_PI


@wide
def gaussian_crps(
    mean: Tensor,
    sigma: Tensor,
    truth: Tensor,
    *,
    parametrisation: Parametrisation = "sigma",
    floor: float = 1e-6,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """CRPS of a normal distribution, sigma (z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt(pi)), z = (truth - mean) / sigma.

    Unlike the log score its gradient stays bounded for small sigma; for sigma -> 0 it is the absolute error.

    Args:
        mean, sigma, truth: (B, *). A NaN in truth propagates unless masked.
        parametrisation: what `sigma` holds: the standard deviation, its logarithm, or the argument of a softplus.
        floor: smallest standard deviation.

    Raises:
        ForecastError: shapes that differ, negative sigma, unknown parametrisation.
    """
    same_shape(mean=mean, sigma=sigma, truth=truth)
    scale = scale_of(sigma, parametrisation, floor)
    z = (without_masked(truth, mask) - mean) / scale
    score = scale * (z * torch.erf(z / math.sqrt(2)) + 2 * _density(z) - 1 / SQRT_PI)
    return reduce(score, reduction, weight, mask)


@register(
    "gaussian_crps",
    formula="sigma (z (2 Phi(z) - 1) + 2 phi(z) - 1/sqrt(pi)), z = (y - mu) / sigma",
    source="Gneiting et al. 2005, EMOS; scoringrules",
    use="heads that predict mean and spread of temperature, pressure or height in place of members",
    status="verified",
    takes="other",
)
class GaussianCRPSLoss(Loss, of=gaussian_crps):
    """`gaussian_crps` with its settings fixed."""


@wide
def censored_gaussian_crps(
    mean: Tensor,
    sigma: Tensor,
    truth: Tensor,
    *,
    lower: float = 0.0,
    upper: float = math.inf,
    parametrisation: Parametrisation = "sigma",
    floor: float = 1e-6,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """CRPS of a normal variable that is set to `lower` where below it and to `upper` where above (point masses there).

    With z, l, u standardised, z clipped to [l, u], and A the integral of Phi^2:
    sigma (|y - clip(y)| / sigma + A(z) - A(l) + A(-z) - A(-u)). Shapes and errors as `gaussian_crps`.
    """
    same_shape(mean=mean, sigma=sigma, truth=truth)
    require(lower < upper, "lower", lower, f"must lie below upper={upper}")
    scale = scale_of(sigma, parametrisation, floor)
    truth = without_masked(truth, mask)
    inside = truth.clamp(lower, upper)
    z = (inside - mean) / scale
    area = _squared_cdf(z) + _squared_cdf(-z)
    if lower > -math.inf:
        area = area - _squared_cdf((lower - mean) / scale)
    if upper < math.inf:
        area = area - _squared_cdf((mean - upper) / scale)
    return reduce((truth - inside).abs() + scale * area, reduction, weight, mask)


@register(
    "censored_gaussian_crps",
    formula="|y - y'| + sigma (A(z) - A(l) + A(-z) - A(-u)), A the integral of Phi^2, y' = clip(y, l, u)",
    source="Thorarinsdottir and Gneiting 2010; scoringrules, crps_cnormal",
    use="variables with a mass at a bound: rain or cloud cover of none, relative humidity at 100 %",
    status="verified",
    takes="other",
)
class CensoredGaussianCRPSLoss(Loss, of=censored_gaussian_crps):
    """`censored_gaussian_crps` with its settings fixed."""


@wide
def truncated_gaussian_crps(
    mean: Tensor,
    sigma: Tensor,
    truth: Tensor,
    *,
    lower: float = 0.0,
    upper: float = math.inf,
    parametrisation: Parametrisation = "sigma",
    floor: float = 1e-6,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """CRPS of a normal distribution cut to [lower, upper] and normalised.

    With D = Phi(u) - Phi(l) and z clipped: |y - clip(y)| + sigma / D^2 (D (z (2 Phi(z) - Phi(u) - Phi(l)) + 2 phi(z))
    - (Phi(sqrt(2) u) - Phi(sqrt(2) l)) / sqrt(pi)). An interval in a tail is moved to the lower one, where no digits
    are lost; from 25 sigma on the mean is taken to be 25 sigma away. Shapes and errors as `gaussian_crps`.
    """
    same_shape(mean=mean, sigma=sigma, truth=truth)
    require(lower < upper, "lower", lower, f"must lie below upper={upper}")
    wanted, (mean, sigma, truth) = mean.dtype, (x.double() for x in (mean, sigma, truth))
    scale = scale_of(sigma, parametrisation, floor)
    truth = without_masked(truth, mask)
    inside = truth.clamp(lower, upper)
    low, z, high = (_standardised(bound, mean, scale) for bound in (lower, inside, upper))
    low, z, high = (torch.where(low + high > 0, a, b) for a, b in ((-high, low), (-z, z), (-low, high)))
    low, z, high = (bound + (_FAR - high).clamp_min(0.0) for bound in (low, z, high))
    below, above = _cdf(low), _cdf(high)
    held = above - below
    both = _cdf(math.sqrt(2) * high) - _cdf(math.sqrt(2) * low)
    area = held * (z * (2 * _cdf(z) - above - below) + 2 * _density(z)) - both / SQRT_PI
    score = (truth - inside).abs() + scale * area / held**2
    return reduce(score.to(wanted), reduction, weight, mask)


@register(
    "truncated_gaussian_crps",
    formula="sigma / D^2 (D (z (2 Phi(z) - Phi(u) - Phi(l)) + 2 phi(z)) - (Phi(sqrt2 u) - Phi(sqrt2 l)) / sqrt(pi))",
    source="Thorarinsdottir and Gneiting 2010; scoringrules, crps_tnormal",
    use="positive variables without a mass at zero: wind speed",
    status="verified",
    takes="other",
)
class TruncatedGaussianCRPSLoss(Loss, of=truncated_gaussian_crps):
    """`truncated_gaussian_crps` with its settings fixed."""


@wide
def logistic_crps(
    mean: Tensor,
    sigma: Tensor,
    truth: Tensor,
    *,
    parametrisation: Parametrisation = "sigma",
    floor: float = 1e-6,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """CRPS of a logistic distribution with scale sigma, sigma (z - 2 log F(z) - 1); shapes as `gaussian_crps`."""
    same_shape(mean=mean, sigma=sigma, truth=truth)
    scale = scale_of(sigma, parametrisation, floor)
    z = (without_masked(truth, mask) - mean) / scale
    return reduce(scale * (z - 2 * logsigmoid(z) - 1), reduction, weight, mask)


@register(
    "logistic_crps",
    formula="sigma (z - 2 log F(z) - 1), F the logistic function",
    source="Taillardat et al. 2016; scoringrules, crps_logistic",
    use="heads with heavier tails than the normal distribution",
    status="verified",
    takes="other",
)
class LogisticCRPSLoss(Loss, of=logistic_crps):
    """`logistic_crps` with its settings fixed."""


@wide
def lognormal_crps(
    mean: Tensor,
    sigma: Tensor,
    truth: Tensor,
    *,
    parametrisation: Parametrisation = "sigma",
    floor: float = 1e-6,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """CRPS of exp(N(mean, sigma^2)); shapes as `gaussian_crps`.

    y (2 Phi(w) - 1) - 2 exp(mean + sigma^2 / 2) (Phi(w - sigma) + Phi(sigma / sqrt(2)) - 1), w = (log y - mean)/sigma,
    Phi(w) = 0 for y <= 0.
    """
    same_shape(mean=mean, sigma=sigma, truth=truth)
    scale = scale_of(sigma, parametrisation, floor)
    truth = without_masked(truth, mask)
    w = (truth.clamp_min(torch.finfo(truth.dtype).tiny).log() - mean) / scale
    tail = _cdf(w - scale) + _cdf(scale / math.sqrt(2)) - 1
    score = truth * (2 * _cdf(w) - 1) - 2 * torch.exp(mean + scale * scale / 2) * tail
    return reduce(score, reduction, weight, mask)


@register(
    "lognormal_crps",
    formula="y (2 Phi(w) - 1) - 2 exp(mu + sigma^2/2) (Phi(w - sigma) + Phi(sigma/sqrt2) - 1), w = (log y - mu)/sigma",
    source="Baran and Lerch 2015; scoringrules, crps_lognormal",
    use="wind speed, aerosol and other positive, skewed variables",
    status="verified",
    takes="other",
)
class LognormalCRPSLoss(Loss, of=lognormal_crps):
    """`lognormal_crps` with its settings fixed."""
