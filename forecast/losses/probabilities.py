"""Scores of probabilities: Brier, ranked probability, and the Brier score of members that pass a threshold."""

from __future__ import annotations

import torch
from torch import Tensor

from forecast.core.errors import ForecastError
from forecast.losses.common import Loss, check_ensemble, reduce, require, same_shape, wide, without_masked
from forecast.losses.registry import register


@wide
def brier(
    logits: Tensor,
    outcome: Tensor,
    *,
    from_logits: bool = True,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """(p - o)^2.

    Args:
        logits: (B, *), or probabilities with from_logits=False. outcome: (B, *), 0 or 1, or a probability.

    Raises:
        ForecastError: shapes that differ, outcomes outside [0, 1] or NaN where `mask` does not leave them out.
    """
    same_shape(logits=logits, outcome=outcome)
    outcome = without_masked(outcome, mask)
    require(bool(((outcome >= 0) & (outcome <= 1)).all()), "outcome", "outside [0, 1]", "must be 0, 1 or between")
    probability = torch.sigmoid(logits) if from_logits else logits
    return reduce((probability - outcome.to(probability.dtype)).square(), reduction, weight, mask)


@register(
    "brier",
    formula="(p - o)^2",
    source="Brier 1950; scoringrules, brier_score",
    use="chance of an event: rain, frost, gale; bounded, so mild to surprises",
    status="verified",
    takes="event",
)
class BrierLoss(Loss, of=brier):
    """`brier` with its settings fixed."""


@wide
def ranked_probability(
    logits: Tensor,
    label: Tensor,
    *,
    from_logits: bool = True,
    ignore_index: int = -100,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Sum over the K - 1 inner bounds of ordered classes of (P_k - O_k)^2, P and O cumulative; for K = 2 Brier.

    Args:
        logits: (B, K, *), or probabilities with from_logits=False. label: (B, *) class numbers, or (B, K, *)
            probabilities of classes. weight, mask: broadcastable to (B, *).
        ignore_index: class number of elements that do not count.

    Raises:
        ForecastError: shapes that do not match, one class only, a label out of range.
    """
    classes = logits.shape[1]
    require(classes >= 2, "logits", tuple(logits.shape), "at least two classes are needed along dimension 1")
    probabilities = torch.softmax(logits, 1) if from_logits else logits
    if label.is_floating_point():
        same_shape(logits=logits, label=label)
        observed = label.cumsum(1)
    else:
        check_ensemble(logits, label, 1, allow_deterministic=True)
        counts = label != ignore_index
        mask = counts if mask is None else counts & mask.bool()
        label = torch.where(mask, label, 0)
        if bool(((label < 0) | (label >= classes)).any()):
            raise ForecastError(f"label={label.min().item()}..{label.max().item()}: must lie in 0..{classes - 1}")
        bounds = torch.arange(classes, device=label.device).reshape(-1, *[1] * (label.ndim - 1))
        observed = (bounds >= label.unsqueeze(1)).to(probabilities.dtype)
    gap = (probabilities.cumsum(1) - observed).narrow(1, 0, classes - 1)
    return reduce(gap.square().sum(1), reduction, weight, mask)


@register(
    "ranked_probability",
    formula="sum_k (P_k - O_k)^2 over the inner bounds of ordered classes, P and O cumulative",
    source="Epstein 1969; scoringrules, rps_score",
    use="binned rain or wind: near misses cost less than far ones",
    status="verified",
    takes="classes",
)
class RankedProbabilityLoss(Loss, of=ranked_probability):
    """`ranked_probability` with its settings fixed."""


def exceedance(members: Tensor, threshold: float | Tensor, width: float | Tensor) -> Tensor:
    """sigmoid((x - threshold) / width): a soft x > threshold, whose gradient reaches some widths to both sides.

    Args:
        threshold: broadcastable to members. width: a fraction of the local standard deviation, say; positive.
    """
    return torch.sigmoid((members - threshold) / width)


@wide
def ensemble_brier(
    members: Tensor,
    truth: Tensor,
    *,
    threshold: float | Tensor,
    width: float | Tensor = 0.1,
    fair: bool = True,
    ensemble_dim: int = 1,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """(mean_i e_i - o)^2 [- s^2 / M], e_i = sigmoid((x_i - threshold) / width), o = 1 where truth >= threshold.

    The subtracted unbiased variance of e, divided by M, makes the expectation independent of M. With width = 0 members
    count as 0 or 1 (x >= threshold) and the term is k (M - k) / (M^2 (M - 1)); there is no gradient then. Integrated
    over all thresholds (width 0, fair or not) it is the (fair or standard) CRPS.

    Args:
        members: (B, M, *). truth: (B, *). A NaN in truth propagates unless masked.
        threshold, width: numbers, or broadcastable to truth (a climatological quantile, a local spread).

    Raises:
        ForecastError: fewer than two members, shapes that do not match, negative width.
    """
    count = check_ensemble(members, truth, ensemble_dim)
    edge, blur = (torch.as_tensor(x, dtype=members.dtype, device=members.device) for x in (threshold, width))
    require(bool((blur >= 0).all()), "width", width, "must not be negative")
    edge, blur = (x.broadcast_to(truth.shape).unsqueeze(ensemble_dim) for x in (edge, blur))
    hard = (members >= edge).to(members.dtype)
    soft = exceedance(members, edge, torch.where(blur > 0, blur, 1.0))
    variance, mean = torch.var_mean(torch.where(blur > 0, soft, hard), dim=ensemble_dim)
    truth = without_masked(truth, mask)
    event = (truth >= edge.squeeze(ensemble_dim)).to(members.dtype) + 0 * truth  # which keeps a NaN
    score = (mean - event).square()
    return reduce(score - variance / count if fair else score, reduction, weight, mask)


@register(
    "ensemble_brier",
    formula="(mean_i e_i - o)^2 - s_e^2 / M, e_i = sigmoid((x_i - t) / width)",
    source="Ferro 2014, fair Brier score; the soft threshold is derived",
    use="trains members towards the right chance of passing a threshold",
    status="derived",
    takes="ensemble",
)
class EnsembleBrierLoss(Loss, of=ensemble_brier):
    """`ensemble_brier` with its settings fixed."""
