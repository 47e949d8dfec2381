"""Cross entropy of many events with terms for how they go together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

from forecast.core.errors import ForecastError
from forecast.losses.common import Loss, empty, from_memory, reduce, require, wide
from forecast.losses.registry import register
from forecast.losses.targets import TINY, events


@from_memory
@wide
def hybrid_multilabel(
    logits: Tensor,
    labels: Tensor,
    features: Tensor | None = None,
    *,
    pos_weights: Sequence[float] | None = None,
    correlation: float = 0.1,
    contrast: float = 0.1,
    temperature: float = 0.1,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Weighted binary cross entropy + label correlation + multi-label contrast, the last two of our own design.

    correlation: mean over pairs of events a < b of max(C_ab, 0) (p_a - p_b)^2 over the samples, C the correlation of
    the batch's labels: events that come together get probabilities that do. contrast: supervised contrast of the
    features, pairs counting by the Jaccard likeness of their labels. Both are one number, added to each element.

    Args:
        logits, labels: (B, K), labels in [0, 1]. features: (B, D), or None for no contrast.
        pos_weights: (K,) cost of a missed event, 1 by default. correlation, contrast: factors. temperature: positive.

    Raises:
        ForecastError: shapes that do not match, labels outside [0, 1], settings out of range.
    """
    require(logits.ndim == 2, "logits", tuple(logits.shape), "must be (B, K)")
    require(temperature > 0, "temperature", temperature, "must be positive")
    f, y, mask = events(logits, labels, mask)
    factor = torch.ones(f.shape[1], dtype=f.dtype, device=f.device)
    if pos_weights is not None:
        require(len(pos_weights) == f.shape[1], "pos_weights", list(pos_weights), f"one for each of {f.shape[1]}")
        factor = torch.as_tensor(pos_weights, dtype=f.dtype, device=f.device)
    entropy = -factor * y * logsigmoid(f) - (1 - y) * logsigmoid(-f)
    extra = correlation * _together(f.sigmoid(), y)
    if features is not None:
        if features.ndim != 2 or len(features) != len(f):
            raise ForecastError(f"features of shape {tuple(features.shape)}: must be (B, D) with B = {len(f)}")
        extra = extra + contrast * _contrast(features, y, temperature)
    return reduce(entropy + extra, reduction, weight, mask)


def _together(p: Tensor, y: Tensor) -> Tensor:
    count, many = p.shape
    if many < 2 or count == 0:
        return empty(p)
    centred = y - y.mean(0)
    scaled = centred / centred.square().sum(0).clamp_min(TINY).sqrt()
    alike = (scaled.T @ scaled).clamp_min(0.0).triu(1)
    gram = p.T @ p / count  # mean (p_a - p_b)^2 = g_aa + g_bb - 2 g_ab
    return (alike * (gram.diagonal()[:, None] + gram.diagonal() - 2 * gram)).sum() / (many * (many - 1) / 2)


def _contrast(features: Tensor, y: Tensor, temperature: float) -> Tensor:
    if len(y) < 2:
        return empty(features)
    z = normalize(features, eps=TINY)
    own = torch.eye(len(y), dtype=torch.bool, device=y.device)
    similar = ((z @ z.T) / temperature).masked_fill(own, -1e30).log_softmax(1)
    both = y @ y.T
    alike = (both / (y.sum(1)[:, None] + y.sum(1) - both).clamp_min(TINY)).masked_fill(own, 0.0)
    share = alike / alike.sum(1, keepdim=True).clamp_min(TINY)
    return -(share * similar.masked_fill(own, 0.0)).sum(1).mean()


@register(
    "hybrid_multilabel",
    formula="weighted BCE + a sum_ab max(C_ab, 0) (p_a - p_b)^2 + b multi-label contrast",
    source="Improving Arabic Multi-Label Emotion Classification using Stacked Embeddings and Hybrid Loss Function",
    use="hazards that come together: wind, rain and thunder",
    status="from memory",
    takes="rows",
)
class HybridMultilabelLoss(Loss, of=hybrid_multilabel):
    """`hybrid_multilabel` with its settings fixed."""
