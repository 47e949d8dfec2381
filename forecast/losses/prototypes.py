"""Losses between features and a few prototypes: deviation from climatology, contrast, k-means."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from forecast.losses.common import Loss, empty, reduce, require, same_shape, wide, without_masked
from forecast.losses.pairs import check_features, kept, positive, spread
from forecast.losses.registry import register

_DISTANCE_EPS = 1e-6  # torch's triplet margin loss adds it to each difference


@wide
def deviation(
    query: Tensor,
    reference: Tensor,
    query_prototype: Tensor,
    reference_prototype: Tensor,
    *,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """ST-SSDL: | |q_t - q_a|_1 - |p_t - p_a|_1 |; prototypes should be as far apart as the queries they stand for.

    The queries' distance has no gradient, as in the official code, whose weight of this term is 0.01 or 1.

    Args:
        query, reference: (B, *, D) features of the state and of its climatology (the mean at that hour and season).
        query_prototype, reference_prototype: (B, *, D) the prototype nearest to each; see `nearest_prototypes`.
        weight, mask: broadcastable to (B, *).

    Returns:
        (B, *) reduced.

    Raises:
        ForecastError: shapes that differ.
    """
    same_shape(
        query=query, reference=reference, query_prototype=query_prototype, reference_prototype=reference_prototype
    )
    wanted = without_masked((query - reference).abs().sum(-1).detach(), mask)
    apart = without_masked((query_prototype - reference_prototype).abs().sum(-1), mask)
    return reduce((wanted - apart).abs(), reduction, weight, mask)


@register(
    "deviation",
    formula="| |q_t - q_a|_1 - |p_t - p_a|_1 |, q detached",
    source="Gao et al. 2025, How Different from the Past? ST-SSDL, arXiv:2510.04908, official train_STSSDL.py",
    use="the latent keeps how far a state is from its climatology",
    status="verified",
    takes="latent",
)
class DeviationLoss(Loss, of=deviation):
    """`deviation` with its settings fixed."""


def nearest_prototypes(query: Tensor, prototypes: Tensor) -> tuple[Tensor, Tensor]:
    """The two prototypes with the largest inner product: the query's own and the next.

    Args:
        query: (B, *, D). prototypes: (K, D), K of at least 2.

    Returns:
        Two (B, *, D) tensors.
    """
    require(
        prototypes.ndim == 2 and len(prototypes) >= 2, "prototypes", tuple(prototypes.shape), "must be (2 or more, D)"
    )
    own, next_ = (query @ prototypes.T).topk(2, dim=-1).indices.unbind(-1)
    return prototypes[own], prototypes[next_]


@wide
def prototype_contrast(
    query: Tensor,
    prototypes: Tensor,
    *,
    margin: float = 0.5,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """ST-SSDL: max(|q - p_own| - |q - p_next| + m, 0) of the two prototypes nearest to a query, which is detached.

    The official weight of this term is 0.01 to 0.1. With fewer than two prototypes there is nothing to contrast: 0.

    Args:
        query: (B, *, D). prototypes: (K, D), learnt. weight, mask: broadcastable to (B, *).

    Returns:
        (B, *) reduced.

    Raises:
        ForecastError: prototypes that are not (K, D), a negative margin.
    """
    require(margin >= 0, "margin", margin, "must not be negative")
    require(
        prototypes.ndim == 2 and prototypes.shape[1] == query.shape[-1],
        "prototypes",
        tuple(prototypes.shape),
        f"must be (K, {query.shape[-1]})",
    )
    query = without_masked(query.detach(), None if mask is None else mask[..., None])
    if len(prototypes) < 2:
        return reduce(query.sum(-1) * 0.0, reduction, weight, mask) + empty(prototypes)
    own, other = nearest_prototypes(query, prototypes)
    near, far = ((query - p + _DISTANCE_EPS).norm(dim=-1) for p in (own, other))
    return reduce((near - far + margin).clamp_min(0), reduction, weight, mask)


@register(
    "prototype_contrast",
    formula="max(|q - p_1| - |q - p_2| + m, 0), q detached",
    source="Gao et al. 2025, How Different from the Past? ST-SSDL, arXiv:2510.04908, official train_STSSDL.py",
    use="prototypes of weather regimes that states are told apart by",
    status="verified",
    takes="latent",
)
class PrototypeContrastiveLoss(nn.Module):
    """`prototype_contrast` with `count` learnt prototypes of `width` features."""

    def __init__(self, width: int, count: int = 20, margin: float = 0.5, reduction: str = "mean") -> None:
        super().__init__()
        positive(width=width, count=count)
        self.margin, self.reduction = margin, reduction
        self.prototypes = nn.Parameter(nn.init.xavier_normal_(torch.empty(count, width)))

    def forward(self, features: Tensor, **at_call: Tensor | None) -> Tensor:
        """The loss of (B, *, D) queries, whose prototypes learn; the features do not."""
        settings: Any = {"margin": self.margin, "reduction": self.reduction} | at_call
        return prototype_contrast(features, self.prototypes, **settings)


@wide
def kmeans_layer(
    features: Tensor,
    centroids: Tensor,
    *,
    strength: float = 0.01,
    temperature: float = 0.001,
    straight_through: bool = True,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """TELL: strength |z - w_c|^2 = 2 strength (1 - <z, w_c>), z and w of unit length, w_c the nearest centroid.

    The choice is hard; its gradient, if asked for, is that of softmax(<z, w> / temperature). The official total adds
    the mean squared error of a reconstruction; its alpha is the temperature here, and 0.01 / alpha times alpha the
    strength.

    Args:
        features: (N, D). centroids: (K, D), learnt. straight_through: let the choice have a gradient.
        weight, mask: (N,).

    Returns:
        (N,) reduced.

    Raises:
        ForecastError: shapes that do not match, no centroid, a temperature that is not positive.
    """
    positive(temperature=temperature)
    check_features(features=features, centroids=centroids)
    require(len(centroids) > 0, "centroids", tuple(centroids.shape), "needs at least one")
    (features,) = kept(mask, features)
    cosine = F.normalize(features, dim=1) @ F.normalize(centroids, dim=1).T
    choice = F.one_hot(cosine.argmax(1), len(centroids)).to(cosine.dtype)
    if straight_through:
        soft = torch.softmax(cosine / temperature, 1)
        choice = choice + soft - soft.detach()
    value = strength * (choice * (2 - 2 * cosine)).sum(1)
    return reduce(spread(value, mask), reduction, weight, mask)


@register(
    "kmeans_layer",
    formula="strength |z - w_c|^2, c = argmax_k <z, w_k> on the unit sphere",
    source="Peng et al. 2022, XAI beyond classification (TELL), arXiv:1808.07292, official code",
    use="weather regimes found while the encoder learns",
    status="verified",
    takes="latent",
)
class KMeansLayerLoss(nn.Module):
    """`kmeans_layer` with `clusters` learnt centroids of `width` features; `reseed_empty` now and then helps them."""

    def __init__(
        self,
        width: int,
        clusters: int,
        strength: float = 0.01,
        temperature: float = 0.001,
        straight_through: bool = True,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        positive(width=width, clusters=clusters, temperature=temperature)
        self.settings: dict[str, Any] = {"strength": strength, "temperature": temperature, "reduction": reduction}
        self.settings |= {"straight_through": straight_through}
        self.centroids = nn.Parameter(nn.init.xavier_normal_(torch.empty(clusters, width)))

    def forward(self, features: Tensor, **at_call: Tensor | None) -> Tensor:
        """The loss of (N, D) features."""
        return kmeans_layer(features, self.centroids, **self.settings, **at_call)


@torch.no_grad()
def reseed_empty(centroids: Tensor, features: Tensor) -> Tensor:
    """Centroids of unit length; those that no feature is nearest to are moved to the features that fit worst.

    Args:
        centroids: (K, D). features: (N, D), N of at least K.
    """
    check_features(features=features, centroids=centroids)
    require(len(features) >= len(centroids), "features", tuple(features.shape), f"needs {len(centroids)} samples")
    unit, moved = F.normalize(features, dim=1), F.normalize(centroids, dim=1)
    best, nearest = (unit @ moved.T).max(1)
    unused = torch.bincount(nearest, minlength=len(centroids)) == 0
    moved[unused] = unit[best.argsort()[: int(unused.sum())]]
    return moved
