"""Losses that teach distances from triplets and classes: mixed pairs, margins that adapt, pairs as extra negatives."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from forecast.losses.common import Loss, empty, reduce, require, same_shape, wide
from forecast.losses.pairs import NEVER, by_rows, check_features, check_labels, kept, positive, shares, spread
from forecast.losses.registry import register
from forecast.losses.selfsupervised import beta

_MOST = 30.0  # exponents of the adaptive margin: beyond, the margin is 1 to seven digits
_BINS = 2**20  # of the cosines, for their quartiles


@wide
def metrix(
    anchor: Tensor,
    positive_pair: Tensor,
    negative_pair: Tensor,
    share: Tensor | None = None,
    *,
    mix: str = "positive_negative",
    concentration: float = 2.0,
    near: float = 0.0,
    far: float = 0.5,
    normalize: bool = True,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Metrix: contrastive loss on the distance d to a mixture that is `share` positive and the rest negative.

    share max(d - near, 0) + (1 - share) max(far - d, 0), d = |anchor - mixture|; share 1 and 0 are the plain terms of
    a positive and a negative pair. Mixes of features (or of inputs, passed through the network) go the same way.

    Args:
        anchor, positive_pair, negative_pair: (B, D). share: (B,) in [0, 1]; drawn from Beta(concentration) by default.
        mix: positive_negative, or anchor_negative: the anchor itself is the positive part.
        near, far: margins of a positive and a negative pair. normalize: to unit length, the mixture too.

    Returns:
        (B,) reduced.

    Raises:
        ForecastError: shapes that differ, an unknown mix, a concentration that is not positive, a share out of range.
    """
    positive(concentration=concentration)
    require(mix in ("positive_negative", "anchor_negative"), "mix", mix, "is positive_negative or anchor_negative")
    same_shape(anchor=anchor, positive_pair=positive_pair, negative_pair=negative_pair)
    check_features(anchor=anchor)
    if share is None:
        share = beta(concentration, anchor.new_empty(len(anchor)), generator)
    require(share.shape == anchor.shape[:1], "share", tuple(share.shape), f"must be ({len(anchor)},)")
    share, anchor, near_one, far_one = kept(mask, share, anchor, positive_pair, negative_pair)
    require(bool(((share >= 0) & (share <= 1)).all()), "share", share, "must lie in [0, 1]")
    if normalize:
        anchor, near_one, far_one = (F.normalize(x, dim=1) for x in (anchor, near_one, far_one))
    near_one = near_one if mix == "positive_negative" else anchor
    mixture = share[:, None] * near_one + (1 - share[:, None]) * far_one
    away = (anchor - (F.normalize(mixture, dim=1) if normalize else mixture)).norm(dim=1)
    value = share * (away - near).clamp_min(0) + (1 - share) * (far - away).clamp_min(0)
    return reduce(spread(value, mask), reduction, weight, mask)


@register(
    "metrix",
    formula="a max(d - near, 0) + (1 - a) max(far - d, 0), d the distance to a p + (1 - a) n, a ~ Beta(2, 2)",
    source="Venkataramanan et al. 2022, It Takes Two to Tango: mixup for deep metric learning, arXiv:2106.04990; "
    "the contrastive loss of pytorch-metric-learning",
    use="an embedding of analogues that is smooth between regimes",
    status="third-party",
    takes="latent",
)
class MetrixLoss(Loss, of=metrix):
    """`metrix` with its settings fixed."""


@wide
def adaptive_margin_triplet(
    anchor: Tensor,
    positive_pair: Tensor,
    negative_pair: Tensor,
    *,
    hinge: bool = False,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """d_ap - (d_an + d_pn) / 2 + m, m = [1 + 2 / (exp(4 d_ap) + e)] + [1 + 2 / (exp(4 - 4 d_an) + e)], e = 1e-6.

    Euclidean distances. The paper has the hinge, the code that was read has not. The paper's covariance terms are
    `covariance` of each of the three.

    Args:
        anchor, positive_pair, negative_pair: (B, D). hinge: nothing below 0.

    Returns:
        (B,) reduced.

    Raises:
        ForecastError: shapes that differ.
    """
    same_shape(anchor=anchor, positive_pair=positive_pair, negative_pair=negative_pair)
    check_features(anchor=anchor)
    a, p, n = kept(mask, anchor, positive_pair, negative_pair)
    d_ap, d_an, d_pn = ((x - y).norm(dim=1) for x, y in ((a, p), (a, n), (p, n)))
    near, far = ((4 * d_ap).clamp_max(_MOST), (4 - 4 * d_an).clamp_max(_MOST))
    margin = 2 + 2 / (near.exp() + 1e-6) + 2 / (far.exp() + 1e-6)
    value = d_ap - (d_an + d_pn) / 2 + margin
    return reduce(spread(value.clamp_min(0) if hinge else value, mask), reduction, weight, mask)


@register(
    "adaptive_margin_triplet",
    formula="d_ap - (d_an + d_pn) / 2 + 2 + 2 / (exp(4 d_ap) + e) + 2 / (exp(4 - 4 d_an) + e)",
    source="Chudasama et al. 2022, M2FNet, arXiv:2206.02187; read in others' code",
    use="an embedding of analogues whose margin follows how hard a triplet is",
    status="third-party",
    takes="latent",
)
class AdaptiveMarginTripletLoss(Loss, of=adaptive_margin_triplet):
    """`adaptive_margin_triplet` with its settings fixed."""


@wide
def covariance(features: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    """sum_{i != j} Cov_ij^2 / D of the features over the samples (unbiased). One number for the set.

    Args:
        features: (N, D). weight, mask: (N,) of the samples.

    Returns:
        A scalar; 0 for fewer than two samples.

    Raises:
        ForecastError: features that are not (N, D).
    """
    check_features(features=features)
    share, x = shares(weight, mask, features)
    if len(x) < 2:
        return empty(x)
    away = x - share @ x
    cov = (away * share[:, None]).T @ away / (1 - share.square().sum())
    return (cov.square().sum() - cov.diagonal().square().sum()) / x.shape[1]


@register(
    "covariance",
    formula="sum_{i != j} Cov_ij^2 / D",
    source="Bardes et al. 2022, VICReg, arXiv:2105.04906; lightly",
    use="latent features that do not repeat each other",
    status="third-party",
    takes="latent",
)
class CovarianceLoss(Loss, of=covariance):
    """`covariance` with its settings fixed."""


@wide
def unified_negative_pairs(
    features: Tensor,
    labels: Tensor,
    prototypes: Tensor,
    *,
    margin: float = 0.4,
    scale: float = 64.0,
    whisker: float = 1.0,
    ignore_index: int = -100,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """UNPG: margin softmax (CosFace) whose denominator gains the cosines of the batch's pairs of different classes.

    Each pair counts once, unless it lies beyond the quartiles by more than `whisker` times their distance (Tukey).
    Without such pairs it is the margin softmax. Margin and scale are those of CosFace in the paper.

    Args:
        features: (B, D). labels: (B,) in 0 .. K - 1 or ignore_index. prototypes: (K, D), learnt.
        whisker: 1.0 or 1.5 in the paper. mask: (B,); what it leaves out is in no pair.

    Returns:
        (B,) reduced; memory is linear in B (times K).

    Raises:
        ForecastError: shapes that do not match, a label out of range, a scale that is not positive.
    """
    positive(scale=scale)
    require(whisker >= 0, "whisker", whisker, "must not be negative")
    check_features(features=features, prototypes=prototypes)
    check_labels(labels, len(features))
    wrong = labels[(labels != ignore_index) & ((labels < 0) | (labels >= len(prototypes)))]
    require(not len(wrong), "labels", wrong[:1].tolist(), f"must lie in 0 .. {len(prototypes) - 1}")
    mask = labels != ignore_index if mask is None else mask.bool() & (labels != ignore_index)
    features, labels = kept(mask, features, labels)
    features = F.normalize(features, dim=1)
    own = F.one_hot(labels, len(prototypes)).to(features.dtype)
    logits = scale * (features @ F.normalize(prototypes, dim=1).T - margin * own)
    value = torch.logaddexp(logits.logsumexp(1), _pair_term(features, labels, scale, whisker)) - (logits * own).sum(1)
    return reduce(spread(value, mask), reduction, weight, mask)


def _pair_term(unit: Tensor, labels: Tensor, scale: float, whisker: float) -> Tensor:
    """log of the sum over kept pairs of exp(scale cosine)."""
    low, high = _whiskers(unit.detach(), labels, whisker)

    def rows_value(rows: slice, unit: Tensor) -> Tensor:
        cosine = unit[rows] @ unit.T
        counts = _new_pairs(rows, labels) & (cosine >= low) & (cosine <= high)
        return (scale * cosine).masked_fill(~counts, NEVER).logsumexp(1)

    return by_rows(rows_value, len(unit), len(unit), unit).logsumexp(0) if len(unit) else unit.new_tensor(NEVER)


def _new_pairs(rows: slice, labels: Tensor) -> Tensor:
    """(rows, B) True for pairs i < j of different classes."""
    place = torch.arange(len(labels), device=labels.device)
    return (labels[rows, None] != labels) & (place[rows, None] < place)


@torch.no_grad()
def _whiskers(unit: Tensor, labels: Tensor, whisker: float) -> tuple[float, float]:
    """Bounds of the pairs that count, from a histogram: quartiles to 2e-6, outwards."""

    def rows_value(rows: slice, unit: Tensor) -> Tensor:
        cosine = (unit[rows] @ unit.T)[_new_pairs(rows, labels)]
        counts.add_(torch.bincount(((cosine + 1) * (_BINS / 2)).long().clamp(0, _BINS - 1), minlength=_BINS))
        return unit[rows, 0]

    counts = torch.zeros(_BINS, dtype=torch.long, device=unit.device)
    by_rows(rows_value, len(unit), len(unit), unit)
    total = counts.cumsum(0)
    number = int(total[-1])
    first, third = (int(torch.searchsorted(total, int(part * number) + 1)) for part in (0.25, 0.75))
    lower, upper = first * 2 / _BINS - 1, (third + 1) * 2 / _BINS - 1
    reach = whisker * (upper - lower) + 1e-6
    return lower - reach, upper + reach


@register(
    "unified_negative_pairs",
    formula="-s (cos_y - m) + log(sum_k exp(s (cos_k - m [k = y])) + sum over filtered pairs i < j of exp(s cos_ij))",
    source="Jung et al. 2022, Unified Negative Pair Generation toward Well-discriminative Feature Space, "
    "official head.py and build.py",
    use="embedding of regimes that separates states as well as class centres",
    status="verified",
    takes="latent",
)
class UnifiedNegativePairLoss(Loss, of=unified_negative_pairs):
    """`unified_negative_pairs` with its settings fixed."""
