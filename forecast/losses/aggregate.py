"""Learning from aggregates: fine predictions scored by their mean or sum over bags: a catchment, six hours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from forecast.core.errors import ForecastError
from forecast.losses.common import Loss, reduce, require, wide
from forecast.losses.registry import register
from forecast.losses.targets import TINY, broadcast

Pointwise = Callable[[Tensor, Tensor], Tensor]
POINTWISE: dict[str, Pointwise] = {
    "squared": lambda x, y: (x - y).square(),
    "absolute": lambda x, y: (x - y).abs(),
    "huber": lambda x, y: torch.nn.functional.huber_loss(x, y, reduction="none"),
}


@wide
def aggregate(
    prediction: Tensor,
    target: Tensor,
    *,
    instance_part: float = 0.0,
    pointwise: str | Pointwise = "squared",
    aggregator: Literal["mean", "sum"] = "mean",
    bag_dim: int = 1,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    index: Tensor | None = None,
) -> Tensor:
    """(1 - r) l(mean_i f_i, y) + r mean_i l(f_i, y) of each bag; for squares: bag loss + r * variance within the bag.

    Args:
        prediction: (B, n, *) with a bag's instances along `bag_dim`; or (N, *) with `index`.
        target: (B, *), a value for each bag.
        instance_part: r in [0, 1]; 0 asks for the aggregate only, 1 wants every instance to equal it.
        pointwise: squared, absolute, huber, or a convex function of two tensors, element by element.
        aggregator: mean: the target is the bag's weighted mean; sum: its weighted sum (accumulations), to which an
            instance is compared times the bag's weight.
        weight: of the instances within their bag (areas, durations), broadcastable to prediction. mask: the same.
        index: (N,) number of each instance's bag.

    Returns:
        The mean over bags and *; (B, *) with reduction="none". Bags without an instance are left out.

    Raises:
        ForecastError: shapes that do not match, a bag number out of range, instance_part outside [0, 1].
    """
    require(0 <= instance_part <= 1, "instance_part", instance_part, "must lie in [0, 1]")
    require(aggregator in ("mean", "sum"), "aggregator", repr(aggregator), "must be mean or sum")
    loss = _pointwise(pointwise)
    w = torch.ones_like(prediction) if weight is None else broadcast(weight, "weight", prediction.shape)
    if mask is not None:
        mask = broadcast(mask, "mask", prediction.shape).bool()
        prediction, w = prediction.masked_fill(~mask, 0.0), w * mask
    bags = _Bags(prediction, target, bag_dim, index)
    size = bags.total(w)
    share = w / bags.spread(size).clamp_min(TINY)
    f = prediction * bags.spread(size) if aggregator == "sum" else prediction
    value = (1 - instance_part) * loss(bags.total(share * f), target)
    if instance_part:
        value = value + instance_part * bags.total(share * loss(f, bags.spread(target)))
    return reduce(value, reduction, mask=size > 0)


def _pointwise(of: str | Pointwise) -> Pointwise:
    if isinstance(of, str):
        require(of in POINTWISE, "pointwise", repr(of), f"must be one of {', '.join(POINTWISE)}, or a function")
        return POINTWISE[of]
    return of


class _Bags:
    """Sums over bags and values brought back to instances, for bags along a dimension or given by number."""

    def __init__(self, prediction: Tensor, target: Tensor, bag_dim: int, index: Tensor | None) -> None:
        self.dim, self.index, self.shape = bag_dim, index, target.shape
        if index is None:
            inside = -prediction.ndim <= bag_dim < prediction.ndim
            require(inside, "bag_dim", bag_dim, f"prediction has {prediction.ndim} dimensions")
            expected = list(prediction.shape)
            del expected[bag_dim]
        else:
            expected = [len(target) if target.ndim else 0, *prediction.shape[1:]]
            good = index.shape == prediction.shape[:1] and not index.is_floating_point()
            require(good, "index", tuple(index.shape), f"must be ({len(prediction)},) integers")
            if len(index):
                low, high = int(index.min()), int(index.max())
                require(low >= 0 and high < expected[0], "index", f"{low} to {high}", f"{expected[0]} bags from 0")
        if list(target.shape) != expected:
            raise ForecastError(f"target of shape {tuple(target.shape)}: must be {tuple(expected)}, a value a bag")

    def total(self, values: Tensor) -> Tensor:
        if self.index is None:
            return values.sum(self.dim)
        return values.new_zeros(self.shape).index_add(0, self.index, values)

    def spread(self, values: Tensor) -> Tensor:
        return values.unsqueeze(self.dim) if self.index is None else values[self.index]


@register(
    "aggregate",
    formula="(1 - r) l(mean_i f_i, y) + r mean_i l(f_i, y)",
    source="Learning from Aggregate responses: Instance Level versus Bag Level Loss Functions",
    use="fine rain supervised by six-hour sums, catchment means or a coarse analysis",
    status="derived",
    takes="other",
)
class AggregateLoss(Loss, of=aggregate):
    """`aggregate` with its settings fixed."""
