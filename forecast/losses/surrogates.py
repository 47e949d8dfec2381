"""Verification scores of yes-or-no forecasts, differentiable: any function of soft hits, misses, false alarms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from forecast.losses.common import Loss, reduce, require, wide
from forecast.losses.registry import register
from forecast.losses.targets import TINY, counting, events, probability, set_dims, total

Metric = Callable[..., Tensor]
"""of hits, misses, false alarms and correct rejections"""
_FLAT = 1e-8  # least square of the G-mean, whose slope at zero is infinite
Needs = Literal["nothing", "events", "both"]


def accuracy(tp: Tensor, fn: Tensor, fp: Tensor, tn: Tensor) -> Tensor:
    """Fraction that is right."""
    return (tp + tn) / (tp + fn + fp + tn).clamp_min(TINY)


def f_beta(tp: Tensor, fn: Tensor, fp: Tensor, tn: Tensor, beta: float = 1.0) -> Tensor:
    """F score; beta is how many times hit rate matters more than success ratio."""
    return (1 + beta**2) * tp / ((1 + beta**2) * tp + beta**2 * fn + fp).clamp_min(TINY)


def g_mean(tp: Tensor, fn: Tensor, fp: Tensor, tn: Tensor) -> Tensor:
    """Geometric mean of the rates of right yes and right no, flat below 1e-4."""
    product = tp / (tp + fn).clamp_min(TINY) * (tn / (tn + fp).clamp_min(TINY))
    return product.clamp_min(_FLAT).sqrt()


def balanced_accuracy(tp: Tensor, fn: Tensor, fp: Tensor, tn: Tensor) -> Tensor:
    """Mean of the rates of right yes and right no."""
    return (tp / (tp + fn).clamp_min(TINY) + tn / (tn + fp).clamp_min(TINY)) / 2


def csi(tp: Tensor, fn: Tensor, fp: Tensor, tn: Tensor) -> Tensor:
    """Critical success index, or threat score."""
    return tp / (tp + fn + fp).clamp_min(TINY)


def ets(tp: Tensor, fn: Tensor, fp: Tensor, tn: Tensor) -> Tensor:
    """Equitable threat score (Gilbert): CSI without the hits of chance; at least -1/3."""
    chance = (tp + fn) * (tp + fp) / (tp + fn + fp + tn).clamp_min(TINY)
    return (tp - chance) / _away_from_zero(tp + fn + fp - chance)


def hss(tp: Tensor, fn: Tensor, fp: Tensor, tn: Tensor) -> Tensor:
    """Heidke skill score: fraction right beyond chance; at least -1."""
    return 2 * (tp * tn - fn * fp) / _away_from_zero((tp + fn) * (fn + tn) + (tp + fp) * (fp + tn))


def pss(tp: Tensor, fn: Tensor, fp: Tensor, tn: Tensor) -> Tensor:
    """Peirce skill score: hit rate less false alarm rate; at least -1."""
    return tp / (tp + fn).clamp_min(TINY) - fp / (tn + fp).clamp_min(TINY)


def _away_from_zero(x: Tensor) -> Tensor:
    return torch.where(x.abs() < TINY, torch.full_like(x, TINY), x)


class _Known(NamedTuple):
    metric: Metric
    needs: Needs


METRICS = {
    "accuracy": _Known(accuracy, "nothing"),
    "f_beta": _Known(f_beta, "events"),
    "g_mean": _Known(g_mean, "both"),
    "balanced_accuracy": _Known(balanced_accuracy, "both"),
    "csi": _Known(csi, "events"),
    "ets": _Known(ets, "both"),
    "hss": _Known(hss, "both"),
    "pss": _Known(pss, "both"),
}


@wide
def any_metric(
    logits: Tensor,
    labels: Tensor,
    *,
    metric: str | Metric = "csi",
    beta: float = 1.0,
    steepness: float = 73.0,
    smooth: float = 0.0,
    needs: Needs | None = None,
    batch: bool = True,
    event_dim: int | None = None,
    from_logits: bool = True,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """1 - metric of soft counts: TP = sum w A y, FN = sum w (1 - A) y and so on, A = sigmoid(L (p - 1/2)).

    As L grows, A becomes the decision p > 1/2 and the metric the usual one. At L = 73 (the paper's) its slope is
    gone for p below 0.4 or above 0.6: start from a head trained with cross entropy, or let L grow.
    For batches that are added up, `soft_counts` can be summed before the metric is taken.

    Args:
        logits: (B, *). labels: (B, *) in [0, 1].
        metric: accuracy, f_beta (with `beta`), g_mean, balanced_accuracy, csi, ets, hss, pss, or a function of the
            four counts TP, FN, FP, TN. Areas are scaled to mean one, so that counts are numbers of points.
        steepness: L, positive. smooth: added to each count.
        needs: sets without events (events), or without both events and non-events (both), are left out. None: what
            the metric needs to be defined; nothing for a function of one's own.
        batch: one set over the batch, else one for each sample. event_dim: each index along it has sets of its own.

    Raises:
        ForecastError: shapes that do not match, labels outside [0, 1], an unknown metric, L not positive.
    """
    require(steepness > 0, "steepness", steepness, "must be positive")
    require(beta > 0, "beta", beta, "must be positive")
    require(smooth >= 0, "smooth", smooth, "must not be negative")
    if isinstance(metric, str):
        require(metric in METRICS, "metric", repr(metric), f"must be one of {', '.join(METRICS)}, or a function")
        needs = METRICS[metric].needs if needs is None else needs
    counts = soft_counts(
        logits,
        labels,
        steepness=steepness,
        batch=batch,
        event_dim=event_dim,
        from_logits=from_logits,
        weight=weight,
        mask=mask,
    )
    score = METRICS[metric].metric if isinstance(metric, str) else metric
    value = 1 - score(*(count + smooth for count in counts), **({"beta": beta} if metric == "f_beta" else {}))
    yes, no = counts[0] + counts[1] > TINY, counts[2] + counts[3] > TINY
    kept = {"events": yes, "both": yes & no}.get(needs or "nothing", yes | no)
    return reduce(torch.where(kept, value, counts[0] * 0.0), reduction, mask=kept)


def soft_counts(
    logits: Tensor,
    labels: Tensor,
    *,
    steepness: float = 73.0,
    batch: bool = True,
    event_dim: int | None = None,
    from_logits: bool = True,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Soft hits, misses, false alarms and correct rejections of each set; see `any_metric`."""
    f, y, mask = events(logits, labels, mask)
    dims = set_dims(f, batch, event_dim)
    w = counting(f, weight, mask, dims)
    steep = steepness * (probability(f, from_logits) - 0.5)
    yes, no = w * steep.sigmoid(), w * (-steep).sigmoid()
    return total(yes * y, dims), total(no * y, dims), total(yes * (1 - y), dims), total(no * (1 - y), dims)


@register(
    "any_metric",
    formula="1 - metric(TP, FN, FP, TN), TP = sum w A y, A = sigmoid(L (p - 1/2))",
    source="AnyLoss: Transforming Classification Metrics into Loss Functions; official code (CSI to PSS: derived)",
    use="trains an exceedance head for the very score it is verified with: CSI, ETS, HSS, PSS, F, by area",
    status="verified",
    takes="event",
)
class AnyMetricLoss(Loss, of=any_metric):
    """`any_metric` with its settings fixed."""
