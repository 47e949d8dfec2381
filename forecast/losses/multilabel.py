"""Losses with several true classes at once: softmax without rivalry among them, and a differentiable top k."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

from forecast.losses.common import Loss, reduce, require, wide
from forecast.losses.registry import register
from forecast.losses.targets import TINY, broadcast, events

_ABSENT = -1e30  # score of a class that is not there: finite, so that its gradient is 0 and not NaN
_HALVINGS = 60


@wide
def decoupled_softmax(
    logits: Tensor,
    labels: Tensor,
    *,
    class_dim: int = 1,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Mean over true classes p of -log(e^(s_p) / (e^(s_p) + sum over false classes of e^(s_n))).

    True classes do not push each other down. With one true class: cross entropy; with none, or no false one: 0.

    Args:
        logits: (B, K, *). labels: (B, K, *), 0 or 1. weight, mask: broadcastable to (B, *).

    Raises:
        ForecastError: shapes that do not match, labels other than 0 and 1.
    """
    f, y, mask = _multi_hot(logits, labels, class_dim, mask)
    rivals = f.masked_fill(y > 0, _ABSENT).logsumexp(-1, keepdim=True)
    return reduce(_mean_over_true(softplus(rivals - f), y), reduction, weight, mask)


def _multi_hot(
    logits: Tensor, labels: Tensor, class_dim: int, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Logits and 0 or 1 labels, both (B, *, K), and the (B, *) mask."""
    require(-logits.ndim <= class_dim < logits.ndim, "class_dim", class_dim, f"logits have {logits.ndim} dimensions")
    if mask is not None:
        mask = broadcast(mask, "mask", logits.select(class_dim, 0).shape).bool()
    f, y, _ = events(logits, labels, None if mask is None else mask.unsqueeze(class_dim), binary=True)
    return f.movedim(class_dim, -1), y.movedim(class_dim, -1), mask


def _mean_over_true(value: Tensor, y: Tensor) -> Tensor:
    return (value * y).sum(-1) / y.sum(-1).clamp_min(1.0)


@wide
def soft_top_k(
    logits: Tensor,
    labels: Tensor,
    *,
    k: float = 5,
    steepness: float = 1.0,
    class_dim: int = 1,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Mean over true classes of -log q, q the soft membership in the k largest; see `soft_top_k_membership`.

    Without a true class, or with k of at least the number of classes, it is 0.

    Args:
        logits: (B, K, *). labels: (B, K, *), 0 or 1. weight, mask: broadcastable to (B, *).
        k: 5 and 100 in the paper; need not be whole. steepness: a; the default is ours.

    Raises:
        ForecastError: shapes that do not match, labels other than 0 and 1, k or steepness not positive.
    """
    f, y, mask = _multi_hot(logits, labels, class_dim, mask)
    shifted = steepness * (f + _threshold(f, k, steepness)) if k < f.shape[-1] else f * 0.0 - _ABSENT
    return reduce(_mean_over_true(softplus(-shifted), y), reduction, weight, mask)


def soft_top_k_membership(scores: Tensor, k: float, steepness: float = 1.0) -> Tensor:
    """(..., K) q_i = sigmoid(a (s_i + t)) with t such that sum q = k; all 1 if k >= K.

    As a grows, q becomes 1 for the k largest and 0 for the others. Its Jacobian is a (diag d - d d^T / sum d) with
    d = q (1 - q); only first derivatives are right.

    Raises:
        ForecastError: k or a not positive.
    """
    if k >= scores.shape[-1]:
        return torch.ones_like(scores) + scores * 0.0
    return (steepness * (scores + _threshold(scores, k, steepness))).sigmoid()


def _threshold(scores: Tensor, k: float, steepness: float) -> Tensor:
    """t by bisection; one Newton step from there has the derivative of t."""
    require(k > 0, "k", k, "must be positive")
    require(steepness > 0, "steepness", steepness, "must be positive")
    s, share = scores.detach(), k / scores.shape[-1]
    level = math.log(share / (1 - share)) / steepness
    low, high = level - s.amax(-1, keepdim=True), level - s.amin(-1, keepdim=True)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        over = (steepness * (s + middle)).sigmoid().sum(-1, keepdim=True) > k
        low, high = torch.where(over, low, middle), torch.where(over, middle, high)
    t = (low + high) / 2
    q = (steepness * (scores + t)).sigmoid()
    slope = (steepness * (q * (1 - q)).sum(-1, keepdim=True)).detach()
    return t - (q.sum(-1, keepdim=True) - k) / slope.clamp_min(TINY)


@register(
    "decoupled_softmax",
    formula="mean over true p of -log(e^(s_p) / (e^(s_p) + sum_n e^(s_n))), n false",
    source="Dual-Encoders for Extreme Multi-Label Classification; official code",
    use="retrieval of analogues: all past states that are alike may score high together",
    status="verified",
    takes="event",
)
class DecoupledSoftmaxLoss(Loss, of=decoupled_softmax):
    """`decoupled_softmax` with its settings fixed."""


@register(
    "soft_top_k",
    formula="mean over true p of -log q_p, q = sigmoid(a (s + t)), sum q = k",
    source="Dual-Encoders for Extreme Multi-Label Classification; official code",
    use="heads that name the k worst members or regions",
    status="verified",
    takes="event",
)
class SoftTopKLoss(Loss, of=soft_top_k):
    """`soft_top_k` with its settings fixed."""
