"""How features lie on the sphere: aligned views, evenly spread samples, joint entropy, tolerance."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from forecast.losses.common import Loss, empty, reduce, require, same_shape, wide
from forecast.losses.pairs import (
    NEVER,
    by_rows,
    centred,
    check_features,
    check_labels,
    kept,
    logmeanexp,
    positive,
    shares,
    spread,
    squared_distances,
)
from forecast.losses.registry import register


@wide
def alignment(
    first: Tensor,
    second: Tensor,
    *,
    tau: float = 0.5,
    normalize: bool = True,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """|x - y|^2 / (2 tau) of a sample's two views.

    Args:
        first, second: (B, D). tau: positive; 0.5 in the official code of SepCLR. normalize: to unit length first.

    Returns:
        (B,) reduced.

    Raises:
        ForecastError: shapes that differ, tau that is not positive.
    """
    positive(tau=tau)
    same_shape(first=first, second=second)
    check_features(first=first, second=second)
    first, second = kept(mask, first, second)
    if normalize:
        first, second = F.normalize(first, dim=1), F.normalize(second, dim=1)
    return reduce(spread((first - second).square().sum(1) / (2 * tau), mask), reduction, weight, mask)


@register(
    "alignment",
    formula="mean |x - y|^2 / (2 tau)",
    source="Wang and Isola 2020, arXiv:2005.10242; Louiset et al. 2024, SepCLR, official losses.py",
    use="members of one date stay together in the latent",
    status="verified",
    takes="latent",
)
class AlignmentLoss(Loss, of=alignment):
    """`alignment` with its settings fixed."""


@wide
def supervised_alignment(
    features: Tensor,
    labels: Tensor,
    *,
    tau: float = 0.025,
    normalize: bool = False,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """mean_{i < j} k(l_i, l_j) |x_i - x_j|^2, k a Gaussian of the labels with variance tau. One number for the set.

    Args:
        features: (N, D). labels: (N,) or (N, L), continuous. tau: 0.025 in the official code.
        weight, mask: (N,) of the samples; a pair counts with the product.

    Returns:
        A scalar; 0 for fewer than two samples.

    Raises:
        ForecastError: shapes that do not match, tau that is not positive.
    """
    positive(tau=tau)
    labels = labels[:, None] if labels.ndim == 1 else labels
    require(len(labels) == len(features), "labels", tuple(labels.shape), f"must have {len(features)} samples")
    share, features, labels = shares(weight, mask, features, labels.to(features.dtype))
    check_features(features=features)
    if len(features) < 2:
        return empty(features)

    def rows_value(rows: slice, x: Tensor, y: Tensor, share: Tensor) -> Tensor:
        near = (-squared_distances(y[rows], y) / (2 * tau)).exp()
        return ((near * squared_distances(x[rows], x)) @ share) * share[rows]

    (x,), (y,) = centred(F.normalize(features, dim=1) if normalize else features), centred(labels)
    return by_rows(rows_value, len(x), len(x), x, y, share).sum() / (1 - share.square().sum())


@register(
    "supervised_alignment",
    formula="mean_{i<j} exp(-|l_i - l_j|^2 / (2 tau)) |x_i - x_j|^2",
    source="Louiset et al. 2024, SepCLR, official losses.py",
    use="states with a like index (an oscillation's phase, say) lie together in the latent",
    status="verified",
    takes="latent",
)
class SupervisedAlignmentLoss(Loss, of=supervised_alignment):
    """`supervised_alignment` with its settings fixed."""


@wide
def uniformity(
    features: Tensor,
    *,
    sharpness: float = 2.0,
    normalize: bool = True,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """log mean_{i < j} exp(-t |x_i - x_j|^2): 0 where all samples are one, lower where they spread. One number.

    Args:
        features: (N, D). sharpness: t; 2 is Wang and Isola's, 1 is SepCLR's 1 / (2 tau) at tau = 0.5.
        normalize: to unit length first. weight, mask: (N,) of the samples; a pair counts with the product.

    Returns:
        A scalar; 0 for fewer than two samples.

    Raises:
        ForecastError: features that are not (N, D), a sharpness that is not positive.
    """
    positive(sharpness=sharpness)
    share, features = shares(weight, mask, features)
    check_features(features=features)
    if len(features) < 2:
        return empty(features)

    def rows_value(rows: slice, x: Tensor, log_share: Tensor) -> Tensor:
        terms = -sharpness * squared_distances(x[rows], x) + log_share
        terms.diagonal(rows.start).fill_(NEVER)
        return terms.logsumexp(1) + log_share[rows]

    (x,) = centred(F.normalize(features, dim=1) if normalize else features)
    total = by_rows(rows_value, len(x), len(x), x, share.log()).logsumexp(0)
    return total - torch.log1p(-share.square().sum())


@register(
    "uniformity",
    formula="log mean_{i<j} exp(-t |x_i - x_j|^2)",
    source="Wang and Isola 2020, arXiv:2005.10242; Louiset et al. 2024, SepCLR, official losses.py",
    use="keeps a latent from collapsing; a monitor of how evenly the archive fills it",
    status="verified",
    takes="latent",
)
class UniformityLoss(Loss, of=uniformity):
    """`uniformity` with its settings fixed."""


@wide
def joint_entropy(
    common: Tensor,
    salient: Tensor,
    *,
    tau: float = 0.5,
    normalize: bool = True,
    reduction: str = "mean",
    mask: Tensor | None = None,
) -> Tensor:
    """k-JEM: mean_i log mean_j exp(-(|c_i - c_j|^2 + |s_i - s_j|^2) / (2 tau)), j = i included; in [-log N, 0].

    Minimised, it makes the joint entropy of the two latents large. It is at most what either latent gives alone. The
    official scripts weight it by 10, and what keeps the salient latent of ordinary samples empty by 1000 or 100.

    Args:
        common, salient: (N, D) and (N, E), two latents of each sample. tau: 0.5 in the official code.
        normalize: each to unit length first. mask: (N,); a sample left out is in no mean.

    Returns:
        (N,) reduced.

    Raises:
        ForecastError: another number of samples, tau that is not positive.
    """
    positive(tau=tau)
    require(len(common) == len(salient), "salient", tuple(salient.shape), f"must have {len(common)} samples")
    common, salient = kept(mask, common, salient)
    check_features(common=common)
    check_features(salient=salient)

    def rows_value(rows: slice, x: Tensor) -> Tensor:
        return logmeanexp(-squared_distances(x[rows], x) / (2 * tau), 1)

    if normalize:
        common, salient = F.normalize(common, dim=1), F.normalize(salient, dim=1)
    (both,) = centred(torch.cat([common, salient], 1))
    return reduce(spread(by_rows(rows_value, len(both), len(both), both), mask), reduction, None, mask)


@register(
    "joint_entropy",
    formula="mean_i log mean_j exp(-(|c_i - c_j|^2 + |s_i - s_j|^2) / (2 tau))",
    source="Louiset et al. 2024, SepCLR, official losses.py",
    use="a latent split into climate and anomaly parts keeps them from saying the same",
    status="verified",
    takes="latent",
)
class JointEntropyLoss(Loss, of=joint_entropy):
    """`joint_entropy` with its settings fixed."""


@wide
def tolerance(features: Tensor, labels: Tensor) -> Tensor:
    """Mean cosine of pairs of one class (Wang and Liu 2021): a monitor of what contrast leaves of likeness, no loss.

    Args:
        features: (N, D). labels: (N,) integers.

    Returns:
        A scalar, from class sums and without pairs; 0 where no class has two samples.
    """
    check_features(features=features)
    check_labels(labels, len(features))
    if not len(features):
        return empty(features)
    _, number, count = labels.unique(return_inverse=True, return_counts=True)
    sums = features.new_zeros(len(count), features.shape[1]).index_add(0, number, F.normalize(features, dim=1))
    pairs = (count * (count - 1)).sum()
    return (sums.square().sum() - count.sum()) / pairs if pairs else empty(features)
