"""CRPS of skewed distributions in closed form: gamma, censored shifted gamma (rain), generalised extreme value."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from forecast.losses.common import Loss, reduce, require, same_shape, wide, without_masked
from forecast.losses.registry import register

_NEAR_ZERO = 1e-4  # shape of a GEV below which its score is interpolated


class _IncompleteGamma(torch.autograd.Function):
    """Regularised lower incomplete gamma function P(a, x) in float64; torch lacks its derivative in a.

    That one is a difference over five points: exact to about 1e-10.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(a, x)
        return torch.special.gammainc(a, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        a, x = ctx.saved_tensors
        near, far = ((torch.special.gammainc(a + h, x) - torch.special.gammainc(a - h, x)) for h in _steps(a))
        to_a = (8 * near - far) / (12 * _steps(a)[0])
        density = torch.exp(torch.xlogy(a - 1, x) - x - torch.lgamma(a))
        return to_a * grads[0], torch.where(x > 0, density, 0.0) * grads[0]


def _steps(a: Tensor) -> tuple[Tensor, Tensor]:
    step = 1e-3 * a / (1 + a.sqrt())
    return step, 2 * step


def _cdf(a: Tensor, x: Tensor) -> Tensor:
    """P(a, x), zero for negative x."""
    return _IncompleteGamma.apply(*torch.broadcast_tensors(a, x.clamp_min(0.0)))


def _half_gini(shape: Tensor, rate: Tensor) -> Tensor:
    """Half the mean distance of two draws from a gamma distribution, 1 / (rate Beta(1/2, shape))."""
    return torch.exp(torch.lgamma(shape + 0.5) - torch.lgamma(shape)) / (rate * math.sqrt(math.pi))


def _gamma(shape: Tensor, rate: Tensor, y: Tensor) -> Tensor:
    here, next_ = _cdf(shape, rate * y), _cdf(shape + 1, rate * y)
    return y * (2 * here - 1) - shape / rate * (2 * next_ - 1) - _half_gini(shape, rate)


def _positive(**values: Tensor) -> None:
    for name, value in values.items():
        require(bool((value > 0).all()), name, f"{value.min().item():g}" if value.numel() else "", "must be positive")


@wide
def gamma_crps(
    shape: Tensor,
    rate: Tensor,
    truth: Tensor,
    *,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """CRPS of a gamma distribution with mean shape / rate; computed in float64.

    y (2 F_k(y) - 1) - k / rate (2 F_{k+1}(y) - 1) - 1 / (rate Beta(1/2, k)), F_k its distribution function for shape k.

    Args:
        shape, rate, truth: (B, *). A NaN in truth propagates unless masked.

    Raises:
        ForecastError: shapes that differ, shape or rate not positive.
    """
    same_shape(shape=shape, rate=rate, truth=truth)
    _positive(shape=shape, rate=rate)
    score = _gamma(shape.double(), rate.double(), without_masked(truth, mask).double())
    return reduce(score.to(shape.dtype), reduction, weight, mask)


@register(
    "gamma_crps",
    formula="y (2 F_k(y) - 1) - k/b (2 F_{k+1}(y) - 1) - 1 / (b Beta(1/2, k)), k shape, b rate",
    source="Moeller and Scheuerer 2015; scoringrules, crps_gamma",
    use="amounts that are positive and skewed: rain where it rains, wind speed",
    status="verified",
    takes="other",
)
class GammaCRPSLoss(Loss, of=gamma_crps):
    """`gamma_crps` with its settings fixed."""


@wide
def censored_shifted_gamma_crps(
    shape: Tensor,
    rate: Tensor,
    shift: Tensor,
    truth: Tensor,
    *,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """CRPS of max(G - shift, 0), G gamma distributed: dry with probability F(shift), else skewed; in float64.

    It is the score of G for y + shift less the integral of F^2 up to the shift d, which is
    d F_k(d)^2 - k / rate F_{k+1}(d)^2 - P(2 k + 1, 2 rate d) / (rate Beta(1/2, k)).

    Args:
        shape, rate, shift, truth: (B, *), truth not negative. A NaN in truth propagates unless masked.

    Raises:
        ForecastError: shapes that differ, shape or rate not positive, shift negative.
    """
    same_shape(shape=shape, rate=rate, shift=shift, truth=truth)
    _positive(shape=shape, rate=rate)
    require(bool((shift >= 0).all()), "shift", "below 0", "must not be negative")
    wanted, y = shape.dtype, without_masked(truth, mask).double()
    k, b, d = shape.double(), rate.double(), shift.double()
    inside = y.clamp_min(0.0)
    dry = d * _cdf(k, b * d) ** 2 - k / b * _cdf(k + 1, b * d) ** 2 - _half_gini(k, b) * _cdf(2 * k + 1, 2 * b * d)
    score = _gamma(k, b, inside + d) - dry + (inside - y)
    return reduce(score.to(wanted), reduction, weight, mask)


@register(
    "censored_shifted_gamma_crps",
    formula="CRPS of a gamma distribution at y + d less the integral of its F^2 from 0 to the shift d",
    source="Scheuerer and Hamill 2015; scoringrules, crps_csg0",
    use="rain: one head for the chance of none and for the amount",
    status="verified",
    takes="other",
)
class CensoredShiftedGammaCRPSLoss(Loss, of=censored_shifted_gamma_crps):
    """`censored_shifted_gamma_crps` with its settings fixed."""


def _gev(z: Tensor, xi: Tensor) -> Tensor:
    """Of a standardised GEV with shape xi != 0."""
    log_base = (1 + xi * z).clamp_min(1e-300).log()
    t = torch.exp((-log_base / xi).clamp_max(9.0))  # minus log F; beyond, F is 0 to the last digit
    lower = torch.exp(torch.lgamma(1 - xi)) * _cdf(1 - xi, t)
    gini = 2**xi * torch.exp(torch.lgamma(1 - xi))
    return -(z + 1 / xi) * (1 - 2 * torch.exp(-t)) - (gini - 2 * lower) / xi


@wide
def gev_crps(
    location: Tensor,
    scale: Tensor,
    shape: Tensor,
    truth: Tensor,
    *,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """CRPS of a generalised extreme value distribution; computed in float64.

    (location - y - scale / xi) (1 - 2 F(y)) - scale / xi (2^xi G(1 - xi) - 2 g(1 - xi, -log F(y))), G and g the gamma
    and lower incomplete gamma function; near xi = 0 (Gumbel) interpolated between -1e-4 and 1e-4, exact to 1e-8.

    Args:
        location, scale, shape (xi, below 1, else the score is infinite), truth: (B, *). A NaN in truth propagates
            unless masked.

    Raises:
        ForecastError: shapes that differ, scale not positive, xi not below 1.
    """
    same_shape(location=location, scale=scale, shape=shape, truth=truth)
    _positive(scale=scale)
    require(bool((shape < 1).all()), "shape", f"{shape.max().item():g}" if shape.numel() else "", "must be below 1")
    wanted, spread, xi = location.dtype, scale.double(), shape.double()
    z = (without_masked(truth, mask).double() - location.double()) / spread
    flat = xi.abs() < _NEAR_ZERO
    low, high = (_gev(z, torch.full_like(xi, end)) for end in (-_NEAR_ZERO, _NEAR_ZERO))
    between = low + (xi + _NEAR_ZERO) * (high - low) / (2 * _NEAR_ZERO)
    score = torch.where(flat, between, _gev(z, torch.where(flat, torch.full_like(xi, 0.1), xi)))
    return reduce((spread * score).to(wanted), reduction, weight, mask)


@register(
    "gev_crps",
    formula="(mu - y - s/xi)(1 - 2 F(y)) - s/xi (2^xi Gamma(1 - xi) - 2 gamma(1 - xi, -log F(y)))",
    source="Friederichs and Thorarinsdottir 2012; scoringrules, crps_gev",
    use="extremes of a day or season: gusts, heaviest rain, highest temperature",
    status="verified",
    takes="other",
)
class GEVCRPSLoss(Loss, of=gev_crps):
    """`gev_crps` with its settings fixed."""
