"""Losses on the Poincare ball of curvature -c, where distances grow towards the edge as the branches of a tree."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from forecast.losses.common import Loss, reduce, require, same_shape, wide
from forecast.losses.pairs import check_features, check_labels, kept, positive, spread
from forecast.losses.registry import register

_EDGE = 1e-5  # artanh stays this far from 1
_TINY = 1e-15


def to_ball(features: Tensor, *, curvature: float = 0.1, clip: float | None = 2.0) -> Tensor:
    """The exponential map at the origin, after norms are clipped: tanh(sqrt(c) |v|) v / (sqrt(c) |v|).

    Args:
        features: (..., D). curvature: c, positive. clip: largest norm before the map; None for any.
    """
    positive(curvature=curvature)
    norm = features.norm(dim=-1, keepdim=True).clamp_min(_TINY)
    if clip is not None:
        features = features * (clip / norm).clamp_max(1.0)
        norm = norm.clamp_max(clip)
    root = math.sqrt(curvature)
    return torch.tanh(root * norm) / (root * norm) * features


def mobius_add(x: Tensor, y: Tensor, *, curvature: float = 0.1) -> Tensor:
    """x + y on the ball: (..., D) that broadcast."""
    inner = (x * y).sum(-1, keepdim=True)
    xx, yy = x.square().sum(-1, keepdim=True), y.square().sum(-1, keepdim=True)
    top = (1 + 2 * curvature * inner + curvature * yy) * x + (1 - curvature * xx) * y
    return top / (1 + 2 * curvature * inner + curvature**2 * xx * yy).clamp_min(_TINY)


def poincare_distance(x: Tensor, y: Tensor, *, curvature: float = 0.1) -> Tensor:
    """(2 / sqrt(c)) artanh(sqrt(c) |-x + y|) of points on the ball; c -> 0: 2 |x - y|. (..., D) that broadcast."""
    positive(curvature=curvature)
    root = math.sqrt(curvature)
    length = mobius_add(-x, y, curvature=curvature).norm(dim=-1)
    return 2 / root * torch.atanh((root * length).clamp_max(1 - _EDGE))


@wide
def hyperbolic_pairwise_confusion(
    first: Tensor,
    second: Tensor,
    *,
    curvature: float = 0.1,
    clip: float | None = 2.0,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Hyp-PC: mean distance on the ball of pairs of one class, which so becomes compact.

    The official code takes the two halves of a batch as pairs; it has arctan for artanh, and divides by the batch and
    not by the pairs. Both are put right here. Curvature and clip are its defaults.

    Args:
        first, second: (P, D) Euclidean features of the pairs. weight, mask: (P,).

    Returns:
        (P,) reduced.

    Raises:
        ForecastError: shapes that differ, a curvature that is not positive.
    """
    same_shape(first=first, second=second)
    check_features(first=first, second=second)
    x, y = (to_ball(part, curvature=curvature, clip=clip) for part in kept(mask, first, second))
    return reduce(spread(poincare_distance(x, y, curvature=curvature), mask), reduction, weight, mask)


@register(
    "hyperbolic_pairwise_confusion",
    formula="mean (2 / sqrt(c)) artanh(sqrt(c) |-x (+) y|), (+) the Mobius addition",
    source="Narayan and Patel 2024, Hyp-OC; corrected form of the official loss.py",
    use="one-class embedding of ordinary weather, so that what is rare lies outside",
    status="verified",
    takes="latent",
)
class HyperbolicPairwiseConfusionLoss(Loss, of=hyperbolic_pairwise_confusion):
    """`hyperbolic_pairwise_confusion` with its settings fixed."""


def hyperbolic_logits(points: Tensor, offsets: Tensor, normals: Tensor, *, curvature: float = 0.1) -> Tensor:
    """Signed distances of points to K hyperplanes of the ball, scaled as logits.

    (l_p |a| / sqrt(c)) asinh(2 sqrt(c) <-p (+) x, a> / ((1 - c |-p (+) x|^2) |a|)), l_p = 2 / (1 - c |p|^2); c -> 0:
    4 <x - p, a>.

    Args:
        points: (B, D) on the ball. offsets: (K, D) on the ball, p. normals: (K, D), a.

    Returns:
        (B, K).
    """
    positive(curvature=curvature)
    root = math.sqrt(curvature)
    length = normals.norm(dim=-1).clamp_min(_TINY)
    away = mobius_add(-offsets, points[:, None], curvature=curvature)
    side = 2 * root * (away * normals).sum(-1)
    scale = (1 - curvature * away.square().sum(-1)).clamp_min(_EDGE) * length
    conformal = 2 / (1 - curvature * offsets.square().sum(-1)).clamp_min(_EDGE)
    return conformal * length / root * torch.asinh(side / scale)


@wide
def hyperbolic_cross_entropy(
    features: Tensor,
    labels: Tensor,
    offsets: Tensor,
    normals: Tensor,
    *,
    curvature: float = 0.1,
    clip: float | None = 2.0,
    ignore_index: int = -100,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Hyp-CE: cross entropy of `hyperbolic_logits`; features and offsets are mapped to the ball first.

    One-class use: label 0 for the features, 1 for draws of `PseudoNegatives`.

    Args:
        features: (B, D). labels: (B,) in 0 .. K - 1 or ignore_index. offsets, normals: (K, D), learnt.

    Returns:
        (B,) reduced.

    Raises:
        ForecastError: shapes that do not match, a label out of range, a curvature that is not positive.
    """
    check_features(features=features, offsets=offsets, normals=normals)
    same_shape(offsets=offsets, normals=normals)
    check_labels(labels, len(features))
    wrong = labels[(labels != ignore_index) & ((labels < 0) | (labels >= len(normals)))]
    require(not len(wrong), "labels", wrong[:1].tolist(), f"must lie in 0 .. {len(normals) - 1}")
    mask = labels != ignore_index if mask is None else mask.bool() & (labels != ignore_index)
    features, labels = kept(mask, features, labels)
    x, p = (to_ball(part, curvature=curvature, clip=clip) for part in (features, offsets))
    value = F.cross_entropy(hyperbolic_logits(x, p, normals, curvature=curvature), labels, reduction="none")
    return reduce(spread(value, mask), reduction, weight, mask)


@register(
    "hyperbolic_cross_entropy",
    formula="cross entropy of logits (l_p |a| / sqrt(c)) asinh(2 sqrt(c) <-p (+) x, a> / ((1 - c |-p (+) x|^2) |a|))",
    source="Ganea et al. 2018, Hyperbolic neural networks, arXiv:1805.09112; Narayan and Patel 2024, Hyp-OC, "
    "official code",
    use="regimes that split into sub-regimes; anomalies against ordinary weather",
    status="verified",
    takes="latent",
)
class HyperbolicCrossEntropyLoss(Loss, of=hyperbolic_cross_entropy):
    """`hyperbolic_cross_entropy` with its settings fixed."""


class PseudoNegatives(nn.Module):
    """Draws normal samples around the running mean of the features: the negatives of a one-class problem.

    The mean is an exponential one; the official code forgets all but the last two batches, and its `std_dev` is a
    variance. `reset_state` forgets it.
    """

    stateful = True

    def __init__(self, width: int, momentum: float = 0.8, variance: float = 1.0) -> None:
        super().__init__()
        positive(width=width, variance=variance)
        require(0 <= momentum < 1, "momentum", momentum, "must lie in [0, 1)")
        self.momentum, self.variance = momentum, variance
        self.mean: Tensor
        self.register_buffer("mean", torch.zeros(width))

    def reset_state(self) -> None:
        """Back to a mean of zero, where the official code starts."""
        self.mean.zero_()

    @torch.no_grad()
    def forward(self, features: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(B, D) draws for (B, D) features, which join the mean in training mode."""
        check_features(features=features)
        if self.training and len(features):
            self.mean.lerp_(features.detach().to(self.mean.dtype).mean(0), 1 - self.momentum)
        noise = torch.empty_like(features).normal_(generator=generator)
        return self.mean.to(features.dtype) + math.sqrt(self.variance) * noise
