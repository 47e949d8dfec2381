"""CRPS whose weight on values acts on the outcome: conditional on it, or re-scaled by it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from forecast.losses.common import Loss, broadcast, check_ensemble, reduce, without_masked
from forecast.losses.crps_operators import Chain, ensemble_score
from forecast.losses.ensemble import Level, chaining
from forecast.losses.registry import register


def outcome_weighted_crps(
    members: Tensor,
    truth: Tensor,
    *,
    above: Level | None = None,
    below: Level | None = None,
    centre: Level | None = None,
    width: Level | None = None,
    ensemble_dim: int = 1,
    allow_deterministic: bool = False,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """w(y) times the CRPS of the members weighted by w(x): how good they are given that the outcome matters.

    Blind to members outside: an ensemble that says too seldom that the outcome will be there is not punished, so use it
    beside a score that sees it (Holzmann and Klar 2017). Where no member has weight, the score is 0. Arguments and
    errors as `threshold_weighted_crps`, whose weight w is; plain torch finds the gradient through a smooth weight.
    """
    x, y, ours, theirs, options = _weighed(
        members, truth, chaining(truth, above, below, centre, width), ensemble_dim, allow_deterministic, mask
    )
    return reduce(theirs * _conditional(x, y, ours, options), reduction, weight, mask)


def vertically_rescaled_crps(
    members: Tensor,
    truth: Tensor,
    *,
    above: Level | None = None,
    below: Level | None = None,
    centre: Level | None = None,
    width: Level | None = None,
    origin: float = 0.0,
    ensemble_dim: int = 1,
    allow_deterministic: bool = False,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Kernel score of |x - y| re-scaled by w(x) w(y), so that what lies where w is 0 is all one.

    mean_j |x_j - y| w_j w_y - mean_jk |x_j - x_k| w_j w_k / 2 + (mean_j |x_j - o| w_j - |y - o| w_y) (mean_j w_j - w_y)

    For a weight of 1 above a threshold and that threshold as origin o it is the threshold-weighted CRPS (Allen,
    Ginsbourger and Ziegel 2023). Arguments and errors as `threshold_weighted_crps`, whose weight w is.
    """
    x, y, ours, theirs, options = _weighed(
        members, truth, chaining(truth, above, below, centre, width), ensemble_dim, allow_deterministic, mask
    )
    mean = ours.mean(ensemble_dim)
    share = ours / ours.sum(ensemble_dim, keepdim=True).clamp_min(torch.finfo(ours.dtype).tiny)
    error = (share * (x - y.unsqueeze(ensemble_dim)).abs()).sum(ensemble_dim)
    reach = (ours * (x - origin).abs()).mean(ensemble_dim) - theirs * (y - origin).abs()
    score = mean * (theirs - mean) * error + mean.square() * _conditional(x, y, ours, options) + reach * (mean - theirs)
    return reduce(score, reduction, weight, mask)


def _weighed(
    members: Tensor, truth: Tensor, chain: Chain, dim: int, allow_deterministic: bool, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, tuple[int, bool]]:
    """Members, truth and the weight of each; zeros where masked."""
    check_ensemble(members, truth, dim, allow_deterministic)
    dim = dim % members.ndim
    wide = torch.promote_types(torch.promote_types(members.dtype, torch.float32), truth.dtype)
    y = without_masked(truth.to(wide), mask)
    kept = None if mask is None else broadcast("mask", mask, truth).unsqueeze(dim)
    x = without_masked(members.to(wide), kept)
    first, second = (None if z is None else broadcast("threshold", z.to(wide), truth) for z in chain[:2])
    of_truth = Chain(first, second, chain.smooth)
    low, high = (None if z is None else z.unsqueeze(dim) for z in (first, second))
    of_members = Chain(low, high, chain.smooth)
    return x, y, _weight_at(x, of_members), _weight_at(y, of_truth), (dim, allow_deterministic)


def _weight_at(z: Tensor, chain: Chain) -> Tensor:
    first, second, smooth = chain
    if smooth and first is not None and second is not None:
        return 0.5 * torch.erfc((first - z) / second / math.sqrt(2))
    inside = torch.ones_like(z, dtype=torch.bool)
    if first is not None:
        inside = inside & (z >= first)
    if second is not None:
        inside = inside & (z <= second)
    return inside.to(z.dtype)


def _conditional(x: Tensor, y: Tensor, weights: Tensor, options: tuple[int, bool]) -> Tensor:
    """(B, *) CRPS of the members with these weights, 0 where all are 0."""
    return ensemble_score(x, y, 0.0, *options, "none", None, None, share=weights)


@register(
    "outcome_weighted_crps",
    formula="w(y) CRPS(x weighted by w(x), y)",
    source="Holzmann and Klar 2017; scoringrules, owcrps_ensemble",
    use="quality of the ensemble on days that turn out extreme; beside a score of how often it says so",
    status="verified",
    takes="ensemble",
)
class OutcomeWeightedCRPSLoss(Loss, of=outcome_weighted_crps):
    """`outcome_weighted_crps` with its settings fixed."""


@register(
    "vertically_rescaled_crps",
    formula="mean_j |x_j - y| w_j w_y - mean_jk |x_j - x_k| w_j w_k / 2 "
    "+ (mean_j |x_j - o| w_j - |y - o| w_y) (mean_j w_j - w_y)",
    source="Allen, Ginsbourger and Ziegel 2023; scoringrules, vrcrps_ensemble",
    use="extremes by re-scaling differences in place of values",
    status="verified",
    takes="ensemble",
)
class VerticallyRescaledCRPSLoss(Loss, of=vertically_rescaled_crps):
    """`vertically_rescaled_crps` with its settings fixed."""
