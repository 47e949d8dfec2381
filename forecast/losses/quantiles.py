"""Predicted quantiles and intervals: pinball loss, interval score, quantiles that can't cross."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import softplus

from forecast.losses.common import Loss, check_ensemble, reduce, require, same_shape, wide, without_masked
from forecast.losses.registry import register


@wide
def pinball(
    quantiles: Tensor,
    truth: Tensor,
    *,
    levels: Sequence[float] | Tensor,
    huber: float = 0.0,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Mean over levels t of max(t u, (t - 1) u), u = truth - quantile: for 0.5 half the absolute error.

    Twice its mean over a fine, even set of levels is the CRPS. With `huber` > 0, |u| becomes u^2 / (2 huber) up to
    huber and |u| - huber / 2 beyond, so that the gradient has no jump.

    Args:
        quantiles: (B, Q, *). truth: (B, *). A NaN in truth propagates unless masked.
        levels: (Q,), each within (0, 1).

    Raises:
        ForecastError: shapes that do not match, levels not of length Q or outside (0, 1), negative huber.
    """
    at = torch.as_tensor(levels, dtype=quantiles.dtype, device=quantiles.device)
    check_ensemble(quantiles, truth, 1, allow_deterministic=True)
    require(at.shape == quantiles.shape[1:2], "levels", tuple(at.shape), f"must be ({quantiles.shape[1]},)")
    require(bool(((at > 0) & (at < 1)).all()), "levels", at.tolist(), "must lie within (0, 1)")
    require(huber >= 0, "huber", huber, "must not be negative")
    error = without_masked(truth, mask).unsqueeze(1) - quantiles
    size = error.abs()
    if huber > 0:
        size = torch.where(size <= huber, error.square() / (2 * huber), size - huber / 2)
    at = at.reshape(-1, *[1] * (truth.ndim - 1))
    return reduce((torch.where(error >= 0, at, 1 - at) * size).mean(1), reduction, weight, mask)


@register(
    "pinball",
    formula="mean_t max(t u, (t - 1) u), u = y - q_t; optionally Huberised",
    source="Koenker and Bassett 1978; scoringrules, quantile_score; Dabney et al. 2018 for the Huberised form",
    use="a head of quantiles for users' thresholds of risk: wind power, rain",
    status="verified",
    takes="other",
)
class PinballLoss(Loss, of=pinball):
    """`pinball` with its settings fixed."""


@wide
def interval_score(
    lower: Tensor,
    upper: Tensor,
    truth: Tensor,
    *,
    alpha: float = 0.1,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """(upper - lower) + 2 / alpha ((lower - truth)_+ + (truth - upper)_+) of the central 1 - alpha interval.

    Equal to 2 / alpha times the sum of the pinball losses at alpha / 2 and 1 - alpha / 2.

    Args:
        lower, upper, truth: (B, *). A NaN in truth propagates unless masked.
        alpha: nominal chance that the truth lies outside, within (0, 1).

    Raises:
        ForecastError: shapes that differ, alpha outside (0, 1).
    """
    same_shape(lower=lower, upper=upper, truth=truth)
    require(0 < alpha < 1, "alpha", alpha, "must lie within (0, 1)")
    truth = without_masked(truth, mask)
    outside = (lower - truth).clamp_min(0.0) + (truth - upper).clamp_min(0.0)
    return reduce(upper - lower + 2 / alpha * outside, reduction, weight, mask)


@register(
    "interval_score",
    formula="(u - l) + 2/alpha ((l - y)_+ + (y - u)_+)",
    source="Gneiting and Raftery 2007; scoringrules, interval_score",
    use="narrow ranges that hold the truth as often as they say",
    status="verified",
    takes="other",
)
class IntervalScoreLoss(Loss, of=interval_score):
    """`interval_score` with its settings fixed."""


def rising_quantiles(raw: Tensor, *, dim: int = 1) -> Tensor:
    """Quantiles that cannot cross: the first as given, then steps softplus(raw) above it, along `dim`."""
    first, steps = raw.narrow(dim, 0, 1), raw.narrow(dim, 1, raw.shape[dim] - 1)
    return torch.cat([first, first + softplus(steps).cumsum(dim)], dim=dim)
