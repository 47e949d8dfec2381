"""Sorting by soft swaps, and the loss that wants all positives sorted above all negatives."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from forecast.losses.common import Loss, reduce, require, wide
from forecast.losses.pairs import by_rows, kept, positive, spread
from forecast.losses.registry import register


def soft_sort(scores: Tensor, *, steepness: float = 10.0) -> tuple[Tensor, Tensor]:
    """Ascending order of scores by the odd-even network of soft swaps.

    n layers compare neighbours a, b; both become mixes, with p = 1/2 + atan(steepness (b - a)) / pi that they are in
    order already (the Cauchy distribution). Steep: the sorted scores.

    Args:
        scores: (..., n). steepness: positive.

    Returns:
        (..., n) sorted scores and (..., n, n) probabilities that item i (first) has rank r (last); rows and columns
        sum to 1.
    """
    positive(steepness=steepness)
    probability = torch.eye(scores.shape[-1], dtype=scores.dtype, device=scores.device).expand(*scores.shape, -1)
    for layer in range(scores.shape[-1]):
        order = _in_order(scores, layer, steepness)
        scores = _swapped(scores, order, layer)
        probability = _swapped(probability, order[..., None, :], layer)
    return scores, probability


def _in_order(scores: Tensor, layer: int, steepness: float) -> Tensor:
    """(..., pairs) probability that the neighbours that this layer compares are in order."""
    low, high = scores[..., layer % 2 : -1 : 2], scores[..., layer % 2 + 1 :: 2]
    return 0.5 + torch.atan(steepness * (high - low)) / math.pi


def _swapped(values: Tensor, order: Tensor, layer: int) -> Tensor:
    first = layer % 2
    low, high = values[..., first:-1:2], values[..., first + 1 :: 2]
    both = torch.stack([order * low + (1 - order) * high, (1 - order) * low + order * high], -1).flatten(-2)
    return torch.cat([values[..., :first], both, values[..., first + both.shape[-1] :]], -1)


def upper_mass(scores: Tensor, ranks: int, *, steepness: float = 10.0) -> Tensor:
    """(..., n) probability that an item has one of the upper `ranks` ranks: sums of `soft_sort`, without its matrix."""
    orders, size = [], scores.shape[-1]
    for layer in range(size):
        orders.append(_in_order(scores, layer, steepness))
        scores = _swapped(scores, orders[-1], layer)
    mass = (torch.arange(size, device=scores.device) >= size - ranks).to(scores.dtype).expand_as(scores)
    for layer in reversed(range(size)):  # each layer is its own transpose
        mass = _swapped(mass, orders[layer], layer)
    return mass


@wide
def group_ordering(
    views: Tensor,
    *,
    negatives: int = 10,
    steepness: float = 1.0,
    stop_gradient: bool = True,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """GroCo: each view's other views should be more like it than the nearest views of other samples.

    For each anchor, the cosines of the `negatives` nearest others (of the same view) and of its positives go, in
    ascending order within each group, through a differentiable sorting network; the loss is the binary cross entropy
    of the probability that an item ends among the positives' ranks. Defaults are those of the official code, whose
    `art_lambda` has no effect on the Cauchy network; at its steepness of 1 the loss does not reach 0.

    Args:
        views: (B, V, D) features of V of at least 2 views; B more than `negatives`.
        stop_gradient: the anchor alone gets a gradient, not what it is compared with.
        weight, mask: (B,); what the mask leaves out is no negative either.

    Returns:
        (B,) reduced: the mean over anchors and items. Memory is linear in B.

    Raises:
        ForecastError: views of another shape, one view, too few samples, settings that are not positive.
    """
    require(views.ndim == 3 and views.shape[1] >= 2, "views", tuple(views.shape), "must be (B, V, D), V at least 2")
    positive(negatives=negatives, steepness=steepness)
    (views,) = kept(mask, views)
    count = len(views)
    require(not count or count > negatives, "negatives", negatives, f"must be fewer than the {count} samples")
    views = F.normalize(views, dim=2)

    def rows_value(rows: slice, anchors: Tensor, others: Tensor) -> Tensor:
        total = anchors.new_zeros(len(anchors[rows]))
        for v in range(anchors.shape[1]):
            cosine = anchors[rows, v] @ others[:, v].T
            cosine.diagonal(rows.start).fill_(-math.inf)
            far = cosine.topk(min(negatives, len(others)), dim=1).values.flip(1)
            rest = [u for u in range(anchors.shape[1]) if u != v]
            near = torch.einsum("bd,bud->bu", anchors[rows, v], others[rows][:, rest]).sort(1).values
            total = total + _misplaced(torch.cat([far, near], 1), len(rest), steepness)
        return total / anchors.shape[1]

    others = views.detach() if stop_gradient else views
    value = by_rows(rows_value, count, count, views, others)
    return reduce(spread(value, mask), reduction, weight, mask)


def _misplaced(scores: Tensor, positives: int, steepness: float) -> Tensor:
    """(B,) mean cross entropy of items ordered negatives first."""
    mass = upper_mass(scores, positives, steepness=steepness).clamp(0, 1)
    wanted = torch.zeros_like(mass)
    wanted[..., -positives:] = 1
    return F.binary_cross_entropy(mass, wanted, reduction="none").mean(1)


@register(
    "group_ordering",
    formula="mean over items of BCE(probability of a positive's rank after a soft odd-even sort, is a positive)",
    source="Shvetsova et al. 2023, Learning by Sorting, arXiv:2301.02009, official groco.py; Petersen et al. 2022, "
    "Monotonic Differentiable Sorting Networks, arXiv:2203.09630",
    use="ranks analogues of a date above dates that are none, without a distance of its own",
    status="verified",
    takes="latent",
)
class GroupOrderingLoss(Loss, of=group_ordering):
    """`group_ordering` with its settings fixed."""
