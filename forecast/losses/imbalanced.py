"""Overlap losses for rare events: Dice and Tversky over sets of points, with area weights.

A set is a sample's map, or the whole batch (`batch=True`); along `event_dim`, if given, each event or class has sets
of its own, numerator and denominator alike. `weight` (areas) and `mask` act inside the sums: areas are scaled to mean
one over each set, so that `smooth` counts points and the scale of the areas does not matter. `reduction` is over sets.
For softmax bins give probabilities, one-hot labels, from_logits=False and event_dim=1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from forecast.losses.common import Loss, reduce, require, wide
from forecast.losses.registry import register
from forecast.losses.targets import TINY, counting, events, probability, set_dims, total


@wide
def dice(
    logits: Tensor,
    labels: Tensor,
    *,
    smooth: float = 1.0,
    decay: float = 0.0,
    squared: bool = False,
    batch: bool = False,
    event_dim: int | None = None,
    ignore_empty: bool = False,
    from_logits: bool = True,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Dice loss of each set, 1 - (2 sum w q y + g) / (sum w q + sum w y + g), q = (1 - p)^decay p.

    For p of 0 or 1, and g = 0, it is 1 - F1. A set with neither events nor probability has loss 0.

    Args:
        logits: (B, *). labels: (B, *) in [0, 1].
        smooth: g, in points; it decides what a set without events asks for: g = 0 asks for nothing, any other pushes
            the probabilities down. decay: in [0, 1]; makes easy events count less (self-adjusting).
        squared: squares in the denominator.
        batch, event_dim: which elements form a set. ignore_empty: leave sets without events out of the mean.

    Returns:
        The mean over sets; reduction="none" gives (B,), (B, E), (E,) or a number.

    Raises:
        ForecastError: shapes that do not match, labels outside [0, 1], a negative smooth, a decay outside [0, 1].
    """
    require(smooth >= 0, "smooth", smooth, "must not be negative")
    require(0 <= decay <= 1, "decay", decay, "must lie in [0, 1]")
    f, y, mask = events(logits, labels, mask)
    dims = set_dims(f, batch, event_dim)
    w = counting(f, weight, mask, dims)
    q = _decayed(probability(f, from_logits), decay)
    below = q.square() + y.square() if squared else q + y
    ratio = _ratio(2 * total(w * q * y, dims), total(w * below, dims), smooth)
    return reduce(1 - ratio, reduction, mask=_counted(w, y, dims, ignore_empty))


def _decayed(p: Tensor, decay: float) -> Tensor:
    return (1 - p).clamp_min(TINY) ** decay * p if decay else p


def _ratio(overlap: Tensor, size: Tensor, smooth: float) -> Tensor:
    """(overlap + smooth) / (size + smooth), 1 for 0 / 0."""
    nothing = (size + smooth) <= 0
    return torch.where(nothing, torch.ones_like(size), (overlap + smooth) / (size + smooth + nothing))


def _counted(w: Tensor, y: Tensor, dims: list[int], ignore_empty: bool) -> Tensor:
    """Sets that count: those with an element, and on request with an event."""
    return total(w * y if ignore_empty else w, dims) > 0


@wide
def self_adjusting_dice(
    logits: Tensor,
    labels: Tensor,
    *,
    decay: float = 1.0,
    smooth: float = 1.0,
    hard_negatives: float | None = None,
    from_logits: bool = True,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Dice coefficient of every element on its own, 1 - (2 q y + g) / (q + y + g), q = (1 - p)^decay p.

    Args:
        logits: (B, *). labels: (B, *) in [0, 1]. decay: in [0, 1]. smooth: g > 0; small values make non-events cost 1.
        hard_negatives: of the elements that are no event (label below one half) only the most probable count, this
            many for each event; None: all.

    Raises:
        ForecastError: shapes that do not match, labels outside [0, 1], smooth or hard_negatives not positive, a decay
            outside [0, 1].
    """
    require(smooth > 0, "smooth", smooth, "must be positive")
    require(0 <= decay <= 1, "decay", decay, "must lie in [0, 1]")
    f, y, mask = events(logits, labels, mask)
    p = probability(f, from_logits)
    if hard_negatives is not None:
        require(hard_negatives > 0, "hard_negatives", hard_negatives, "must be positive or None")
        mask = _hardest(p.detach(), y, mask, hard_negatives)
    q = _decayed(p, decay)
    return reduce(1 - (2 * q * y + smooth) / (q + y + smooth), reduction, weight, mask)


def _hardest(p: Tensor, y: Tensor, mask: Tensor | None, ratio: float) -> Tensor:
    """Events, and the most probable non-events, `ratio` for each event; all if there is no event."""
    kept = torch.ones_like(y, dtype=torch.bool) if mask is None else mask
    positive, negative = kept & (y >= 0.5), kept & (y < 0.5)
    many = int(positive.sum()) * ratio
    if many == 0 or many >= int(negative.sum()):
        return kept
    threshold = p[negative].topk(max(1, round(many))).values[-1]
    return positive | (negative & (p >= threshold))


@wide
def focal_tversky(
    logits: Tensor,
    labels: Tensor,
    *,
    miss: float = 0.7,
    exponent: float = 0.75,
    smooth: float = 1.0,
    batch: bool = False,
    event_dim: int | None = None,
    ignore_empty: bool = False,
    from_logits: bool = True,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Focal Tversky loss of each set, (1 - T)^exponent, T = (TP + g) / (TP + a FN + (1 - a) FP + g).

    TP, FN, FP are weighted sums of p y, (1 - p) y and p (1 - y). a = 1/2 and exponent 1 is Dice with g / 2 for its g.

    Args:
        logits: (B, *). labels: (B, *) in [0, 1].
        miss: a in [0, 1], the cost of misses; false alarms cost 1 - a. exponent: positive; below 1, sets that are
            nearly right keep a gradient. smooth, batch, event_dim, ignore_empty: as in `dice`.

    Raises:
        ForecastError: shapes that do not match, labels outside [0, 1], a setting out of range.
    """
    require(0 <= miss <= 1, "miss", miss, "must lie in [0, 1]")
    require(exponent > 0, "exponent", exponent, "must be positive")
    require(smooth >= 0, "smooth", smooth, "must not be negative")
    f, y, mask = events(logits, labels, mask)
    dims = set_dims(f, batch, event_dim)
    w = counting(f, weight, mask, dims)
    p = probability(f, from_logits)
    hits, misses, alarms = (total(w * part, dims) for part in (p * y, (1 - p) * y, p * (1 - y)))
    value = 1 - _ratio(hits, hits + miss * misses + (1 - miss) * alarms, smooth)
    if exponent != 1:  # the slope at 0 is infinite below exponent 1
        value = torch.where(value > TINY, value.clamp_min(TINY) ** exponent, value)
    return reduce(value, reduction, mask=_counted(w, y, dims, ignore_empty))


@wide
def tversky(
    logits: Tensor,
    labels: Tensor,
    *,
    miss: float = 0.7,
    smooth: float = 1.0,
    batch: bool = False,
    event_dim: int | None = None,
    ignore_empty: bool = False,
    from_logits: bool = True,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Tversky loss of each set, 1 - (TP + g) / (TP + a FN + (1 - a) FP + g): `focal_tversky` with exponent 1."""
    return focal_tversky(
        logits,
        labels,
        miss=miss,
        exponent=1.0,
        smooth=smooth,
        batch=batch,
        event_dim=event_dim,
        ignore_empty=ignore_empty,
        from_logits=from_logits,
        reduction=reduction,
        weight=weight,
        mask=mask,
    )


@register(
    "dice",
    formula="1 - (2 sum w q y + g) / (sum w q + sum w y + g), q = (1 - p)^decay p",
    source="Li et al. 2020, Dice Loss for Data-imbalanced NLP Tasks; SeaBird; official code",
    use="masks of rare exceedances: overlap of forecast and observed area, each cell with its own area",
    status="verified",
    takes="event",
)
class DiceLoss(Loss, of=dice):
    """`dice` with its settings fixed."""


@register(
    "self_adjusting_dice",
    formula="1 - (2 q y + g) / (q + y + g), q = (1 - p)^decay p, each element",
    source="Li et al. 2020, Dice Loss for Data-imbalanced NLP Tasks; official code",
    use="rare exceedances point by point, easy points counting less",
    status="verified",
    takes="event",
)
class SelfAdjustingDiceLoss(Loss, of=self_adjusting_dice):
    """`self_adjusting_dice` with its settings fixed."""


@register(
    "tversky",
    formula="1 - (TP + g) / (TP + a FN + (1 - a) FP + g)",
    source="SPOCKMIP: Segmentation of Vessels in MRAs with Enhanced Continuity; official code",
    use="event masks where a miss costs more than a false alarm",
    status="verified",
    takes="event",
)
class TverskyLoss(Loss, of=tversky):
    """`tversky` with its settings fixed."""


@register(
    "focal_tversky",
    formula="(1 - (TP + g) / (TP + a FN + (1 - a) FP + g))^exponent",
    source="SPOCKMIP: Segmentation of Vessels in MRAs with Enhanced Continuity; official code",
    use="event masks where misses cost more and nearly right maps should still improve",
    status="verified",
    takes="event",
)
class FocalTverskyLoss(Loss, of=focal_tversky):
    """`focal_tversky` with its settings fixed."""
