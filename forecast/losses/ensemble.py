"""CRPS of an ensemble: standard, fair, almost fair, with weights of thresholds or of members.

On the CPU each is one pass over the points, forward and backward, from sorted members: O(M log^2 M) operations a point,
no tensor of member pairs, nothing kept for the gradient but the inputs (crps_operators.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from forecast.losses.common import Loss, broadcast, require
from forecast.losses.crps_operators import Chain, ensemble_score
from forecast.losses.registry import register

Level = float | Sequence[float] | Tensor
"""A number, or numbers that broadcast to the truth."""


def almost_fair_crps(
    members: Tensor,
    truth: Tensor,
    *,
    alpha: float = 0.95,
    ensemble_dim: int = 1,
    allow_deterministic: bool = False,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Almost fair CRPS, alpha * fair + (1 - alpha) * standard.

    mean_j |x_j - y| - (M - 1 + alpha) / (2 M^2 (M - 1)) sum_jk |x_j - x_k|      (Lang et al. 2026, eqs 1-4)

    alpha = 1 is the fair CRPS, which is 0 wherever all members but one equal the truth, however far that one lies;
    alpha = 0 the standard one, with which spread collapses where members are few. The default is the source's.
    Computed as a sum of terms of which none is negative: a float32 score is that of float64, rounded. Where members
    tie with one another or with the truth, gradients are the mean of both sides.

    Args:
        members: (B, M, *), M along `ensemble_dim`, of any strides. truth: (B, *), the same without `ensemble_dim`.
            A NaN in either propagates unless masked.
        alpha: share of the fair score. allow_deterministic: a lone member is scored by its absolute error.
        weight, mask: broadcastable to truth.

    Returns:
        (B, *) without reduction, else one number; float32 or wider.

    Raises:
        ForecastError: fewer than two members, alpha outside [0, 1], or shapes that do not match.
    """
    return ensemble_score(members, truth, alpha, ensemble_dim, allow_deterministic, reduction, weight, mask)


def fair_crps(
    members: Tensor,
    truth: Tensor,
    *,
    ensemble_dim: int = 1,
    allow_deterministic: bool = False,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Fair CRPS, mean_j |x_j - y| - 1 / (2 M (M - 1)) sum_jk |x_j - x_k| (Ferro 2014); see `almost_fair_crps`.

    Its expectation does not depend on the number of members. As a training loss it is degenerate: where all members
    but one equal the truth it is 0 wherever that one lies, with no gradient to bring it back.
    """
    return ensemble_score(members, truth, 1.0, ensemble_dim, allow_deterministic, reduction, weight, mask)


def crps(
    members: Tensor,
    truth: Tensor,
    *,
    ensemble_dim: int = 1,
    allow_deterministic: bool = False,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """CRPS of the members' empirical distribution, mean_j |x_j - y| - 1 / (2 M^2) sum_jk |x_j - x_k|.

    Of M members that follow the truth's distribution it is 1 + 1 / M times that of infinitely many, and less spread
    lowers it: in training with few members spread collapses (Gneiting and Raftery 2007). See `almost_fair_crps`.
    """
    return ensemble_score(members, truth, 0.0, ensemble_dim, allow_deterministic, reduction, weight, mask)


def weighted_crps(
    members: Tensor,
    truth: Tensor,
    *,
    member_weights: Sequence[float] | Tensor,
    alpha: float = 0.0,
    ensemble_dim: int = 1,
    allow_deterministic: bool = False,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """CRPS of members that count differently, as those of several models or of older starts do.

    sum_j w_j |x_j - y| - k / 2 sum_jk w_j w_k |x_j - x_k|, sum_j w_j = 1, k = 1 - alpha + alpha / (1 - sum_j w_j^2)

    alpha = 0 is the CRPS of the weighted distribution, alpha = 1 its fair form, which may be negative where weights
    differ. Equal weights give `almost_fair_crps`; see there for the rest.

    Args:
        member_weights: (M,), or broadcastable to members; scaled to sum to 1 at each point. They may need a gradient,
            which plain torch finds. A member of weight 0 counts for nothing, a NaN included. A lone member that has
            all the weight is scored by its absolute error.

    Raises:
        ForecastError: besides, weights that are negative, or all 0 at a point.
    """
    share = _member_weights(member_weights, members, ensemble_dim)
    options = (alpha, ensemble_dim, allow_deterministic, reduction, weight, mask)
    return ensemble_score(members, truth, *options, share=share)


def _member_weights(given: Sequence[float] | Tensor, members: Tensor, dim: int) -> Tensor:
    """Weights with the dimensions of members."""
    require(-members.ndim <= dim < members.ndim, "ensemble_dim", dim, f"members have {members.ndim} dimensions")
    share = torch.as_tensor(given, device=members.device)
    share = share.to(torch.promote_types(torch.promote_types(members.dtype, share.dtype), torch.float32))
    if share.ndim == 1:
        require(len(share) == members.shape[dim], "member_weights", tuple(share.shape), "one for each member")
        share = share.reshape([-1 if d == dim % members.ndim else 1 for d in range(members.ndim)])
    broadcast("member_weights", share, members)
    share = share.reshape([1] * (members.ndim - share.ndim) + list(share.shape))
    share = share.expand([n if d == dim % members.ndim else -1 for d, n in enumerate(members.shape)])
    require(bool((share.detach() >= 0).all()), "member_weights", "negative or NaN", "must not be negative")
    some = (share.detach().sum(dim) > 0).all()
    require(bool(some), "member_weights", "all 0", "at each point some member needs a weight")
    return share


def threshold_weighted_crps(
    members: Tensor,
    truth: Tensor,
    *,
    above: Level | None = None,
    below: Level | None = None,
    centre: Level | None = None,
    width: Level | None = None,
    alpha: float = 0.95,
    ensemble_dim: int = 1,
    allow_deterministic: bool = False,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """CRPS with a weight on the values that are forecast, as heavy rain: the score of v(x) and v(y).

    v is an antiderivative of the weight: max(z, above) for a weight of 1 above, min(z, below), both for an interval, or
    (z - centre) F + width f for the cdf F of a normal distribution (f is its density in units of `width`). Members
    beyond a threshold get no gradient, so mix it with a score of all values; a member at a threshold gets half.
    See `almost_fair_crps` for the rest (Gneiting and Ranjan 2011; Allen, Ginsbourger and Ziegel 2023).

    Args:
        above, below: thresholds in the members' units. centre, width: mean and standard deviation of the weight's
            normal distribution. Each a number, or numbers that broadcast to truth (per variable, per point); constants.

    Raises:
        ForecastError: besides, no threshold or both kinds, above that is not less than below, width not positive.
    """
    chain = chaining(truth, above, below, centre, width)
    return ensemble_score(members, truth, alpha, ensemble_dim, allow_deterministic, reduction, weight, mask, chain)


def chaining(
    truth: Tensor, above: Level | None, below: Level | None, centre: Level | None, width: Level | None
) -> Chain:
    """The weight that these thresholds describe; checks them."""
    given = {"above": above, "below": below, "centre": centre, "width": width}
    limits = {
        name: None if level is None else torch.as_tensor(level, dtype=torch.float64, device=truth.device)
        for name, level in given.items()
    }
    first, second, mean, sd = limits.values()
    clipped, smooth = first is not None or second is not None, mean is not None and sd is not None
    named = [name for name, level in limits.items() if level is not None]
    one_kind = clipped != smooth and (mean is None) == (sd is None)
    require(one_kind, "thresholds", named, "must be above, below or both, or centre and width")
    if first is not None and second is not None:
        require(bool((first < second).all()), "above", above, f"must be less than below={below}")
    require(sd is None or bool((sd > 0).all()), "width", width, "must be positive")
    return Chain(mean, sd, True) if smooth else Chain(first, second)


@register(
    "almost_fair_crps",
    formula="mean_j |x_j - y| - (M - 1 + alpha) / (2 M^2 (M - 1)) sum_jk |x_j - x_k|",
    source="Lang et al. 2026, AIFS-CRPS, eqs 1-4; anemoi-training, CRPS",
    use="what the forecaster is trained with: nearly free of the member count, without the fair score's blind spot",
    status="verified",
    takes="ensemble",
)
class AlmostFairCRPSLoss(Loss, of=almost_fair_crps):
    """`almost_fair_crps` with its settings fixed."""


@register(
    "fair_crps",
    formula="mean_j |x_j - y| - 1 / (2 M (M - 1)) sum_jk |x_j - x_k|",
    source="Ferro 2014; scoringrules, crps_ensemble(estimator='fair')",
    use="comparison of ensembles of different size; in training blind to a lone member that is off",
    status="verified",
    takes="ensemble",
)
class FairCRPSLoss(Loss, of=fair_crps):
    """`fair_crps` with its settings fixed."""


@register(
    "crps",
    formula="mean_j |x_j - y| - 1 / (2 M^2) sum_jk |x_j - x_k|",
    source="Gneiting and Raftery 2007; scoringrules, crps_ensemble(estimator='nrg')",
    use="score of the ensemble as it stands; too little spread where members are few",
    status="verified",
    takes="ensemble",
)
class CRPSLoss(Loss, of=crps):
    """`crps` with its settings fixed."""


@register(
    "weighted_crps",
    formula="sum_j w_j |x_j - y| - k / 2 sum_jk w_j w_k |x_j - x_k|, k = 1 - alpha + alpha / (1 - sum_j w_j^2)",
    source="Gneiting and Raftery 2007 for alpha = 0; the fair form derived, equal to it for equal weights",
    use="ensembles of several models, lagged starts, missing members",
    status="derived",
    takes="ensemble",
)
class WeightedCRPSLoss(Loss, of=weighted_crps):
    """`weighted_crps` with its settings fixed."""


@register(
    "threshold_weighted_crps",
    formula="almost_fair_crps(v(x), v(y)), v an antiderivative of the weight on values",
    source="Gneiting and Ranjan 2011; Allen, Ginsbourger and Ziegel 2023; scoringrules, twcrps_ensemble",
    use="skill in extremes, as heavy rain, strong wind or frost, beside a score of all values",
    status="verified",
    takes="ensemble",
)
class ThresholdWeightedCRPSLoss(Loss, of=threshold_weighted_crps):
    """`threshold_weighted_crps` with its settings fixed."""
