"""Class separation by distances: to prototypes, and among a sample's neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

from forecast.losses.common import Loss, from_memory, reduce, require, wide
from forecast.losses.pairs import (
    by_rows,
    centred,
    check_features,
    check_labels,
    kept,
    positive,
    spread,
    squared_distances,
)
from forecast.losses.registry import register

_EPS = 1e-12  # under the root of a squared distance
_LEAST = 1e-6  # score whose logarithm is taken


@from_memory
@wide
def proto_triplet(
    features: Tensor,
    labels: Tensor,
    prototypes: Tensor,
    *,
    margin: float = 1.0,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Mean over the other classes n of max(d(x, c_y) - d(x, c_n) + m, 0), Euclidean.

    Rebuilt from reviews: the paper's code is not to be had, and the margin is no default of its.

    Args:
        features: (B, D). labels: (B,). prototypes: (K, D) class means of a support set, see `class_means`.

    Returns:
        (B,) reduced; 0 for a single prototype.

    Raises:
        ForecastError: shapes that do not match, a label out of range, a negative margin.
    """
    require(margin >= 0, "margin", margin, "must not be negative")
    check_features(features=features, prototypes=prototypes)
    check_labels(labels, len(features))
    features, labels = kept(mask, features, labels)
    wrong = labels[(labels < 0) | (labels >= len(prototypes))]
    require(not len(wrong), "labels", wrong[:1].tolist(), f"must lie in 0 .. {len(prototypes) - 1}")
    away = (features[:, None] - prototypes).norm(dim=2)
    own = away.gather(1, labels[:, None])
    short = (own - away + margin).clamp_min(0).scatter(1, labels[:, None], 0.0)
    return reduce(spread(short.sum(1) / max(len(prototypes) - 1, 1), mask), reduction, weight, mask)


def class_means(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """(K, D) means of the features (N, D) of each class; zero for a class without samples."""
    check_labels(labels, len(features))
    sums = features.new_zeros(classes, features.shape[1]).index_add(0, labels, features)
    return sums / torch.bincount(labels, minlength=classes).clamp_min(1)[:, None]


@register(
    "proto_triplet",
    formula="mean_{n != y} max(d(x, c_y) - d(x, c_n) + m, 0)",
    source="Mendez-Ruiz et al. 2023, SuSana Distancia is all you need; read in reviews",
    use="an embedding in which regimes keep their distance from each other's centres",
    status="third-party",
    takes="latent",
)
class ProtoTripletLoss(Loss, of=proto_triplet):
    """`proto_triplet` with its settings fixed."""


@from_memory
@wide
def icnn(
    features: Tensor,
    labels: Tensor,
    *,
    neighbours: int = 5,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """-log of how well a sample's nearest neighbours separate its class from the others, a score in (0, 1].

    score = (l + g) / 2, l = (s + d) / 2, s = 1 - mean distance of the own class / nearest of another, d = mean distance
    of other classes / largest, g = share of the own class, all among the neighbours. Rebuilt from reviews: with no
    neighbour of another class s = d = 1, with none of the own s = 0. Who is a neighbour has no gradient.

    Args:
        features: (B, D), B of at least 2. labels: (B,). neighbours: at most B - 1 are taken.

    Returns:
        (B,) reduced; memory is linear in B.

    Raises:
        ForecastError: shapes that do not match, one sample, neighbours below 1.
    """
    positive(neighbours=neighbours)
    check_labels(labels, len(features))
    features, labels = kept(mask, features, labels)
    check_features(2, features=features)
    number = min(neighbours, max(len(features) - 1, 0))

    def rows_value(rows: slice, x: Tensor) -> Tensor:
        apart = squared_distances(x[rows], x)
        apart.diagonal(rows.start).fill_(torch.inf)
        near = apart.topk(number, dim=1, largest=False)
        own = labels[near.indices] == labels[rows, None]
        return -_separation((near.values + _EPS).sqrt(), own).clamp_min(_LEAST).log()

    value = by_rows(rows_value, len(features), len(features), *centred(features)) if number else features.sum(1) * 0
    return reduce(spread(value, mask), reduction, weight, mask)


def _separation(away: Tensor, own: Tensor) -> Tensor:
    """(B,) scores of (B, k) distances and who is of the own class."""
    own_count, other_count = own.sum(1), (~own).sum(1)
    own_mean = (away * own).sum(1) / own_count.clamp_min(1)
    nearest = away.masked_fill(own, torch.inf).amin(1)
    farness = (away * ~own).sum(1) / other_count.clamp_min(1) / away.amax(1)
    closeness = 1 - own_mean / torch.where(other_count > 0, nearest, torch.ones_like(nearest))
    ones = torch.ones_like(own_mean)
    closeness = torch.where(own_count > 0, closeness, 0 * ones)
    closeness = torch.where(other_count > 0, closeness, ones)
    farness = torch.where(other_count > 0, farness, ones)
    return ((closeness + farness) / 2 + own_count / away.shape[1]) / 2


@register(
    "icnn",
    formula="-log of ((1 - d_own / d_other + mean d_other / max d) / 2 + share of the own class) / 2, k neighbours",
    source="Mendez-Ruiz et al. 2023, SuSana Distancia is all you need; read in reviews",
    use="neighbours in the embedding are of one regime: analogues that can be trusted",
    status="third-party",
    takes="latent",
)
class ICNNLoss(Loss, of=icnn):
    """`icnn` with its settings fixed."""
