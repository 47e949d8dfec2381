"""Losses of pairs: area under the ROC curve, and the order of hard patches. Memory grows with the sample."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from forecast.losses.common import Loss, empty, reduce, require, same_shape, wide
from forecast.losses.registry import register
from forecast.losses.targets import TINY, broadcast, events

_PAIRS = 2**20  # of one chunk


class _PairSum(torch.autograd.Function):
    """sum_ij w_i v_j [a_i > b_j] softplus(-(x_i - z_j) / t) and the same without softplus, in chunks of pairs.

    Without ranks a, b all pairs count. The gradient is taken in the same pass and kept, two vectors.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        z: Tensor,
        w: Tensor,
        v: Tensor,
        temperature: float,
        ranks: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor]:
        value, mass = x.new_zeros(()), x.new_zeros(())
        to_x, to_z = torch.zeros_like(x), torch.zeros_like(z)
        rows = max(1, _PAIRS // max(1, len(z)))
        for start in range(0, len(x), rows):
            part = slice(start, start + rows)
            gap = (z - x[part, None]).div_(temperature)
            weight = w[part, None] * v
            if ranks is not None:
                weight *= ranks[0][part, None] > ranks[1]
            mass += weight.sum()
            value += (torch.nn.functional.softplus(gap, threshold=50.0).mul_(weight)).sum()
            slope = gap.sigmoid_().mul_(weight)
            to_x[part] -= slope.sum(1)
            to_z += slope.sum(0)
        ctx.save_for_backward(to_x / temperature, to_z / temperature)
        ctx.mark_non_differentiable(mass)
        return value, mass

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        to_x, to_z = ctx.saved_tensors
        return grads[0] * to_x, grads[0] * to_z, None, None, None, None


@wide
def mann_whitney(
    scores: Tensor,
    labels: Tensor,
    *,
    temperature: float = 0.01,
    normalize: Literal["pairs", "events"] = "pairs",
    negatives: int | None = None,
    batch: bool = True,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Mann-Whitney loss: mean over pairs of an event i and a non-event j of softplus(-(s_i - s_j) / t).

    1 - AUC is at most the loss / log 2. A label between 0 and 1 counts as an event by its part. Time grows with the
    number of pairs; memory, also of the gradient, with the number of elements. No second derivatives.

    Args:
        scores: (B, *) logits or any score. labels: (B, *) in [0, 1]. temperature: t, positive.
        normalize: pairs: weighted mean over pairs; events: the sum over non-events, mean over events.
        negatives: draw so many non-events, with replacement and in proportion to their weight, for an unbiased
            estimate of the mean over pairs at less cost; None: take all.
        batch: pairs across the whole batch, else within each sample.
        weight: areas; a pair's weight is the product.
        generator: of the draws; None takes torch's own.

    Returns:
        A number, or (B,) with batch=False and reduction="none". Sets without both kinds give 0 and are left out.

    Raises:
        ForecastError: shapes that do not match, labels outside [0, 1], a temperature or a number that is not positive,
            negatives together with normalize="events".
    """
    require(temperature > 0, "temperature", temperature, "must be positive")
    require(normalize in ("pairs", "events"), "normalize", repr(normalize), "must be pairs or events")
    require(negatives is None or negatives > 0, "negatives", negatives, "must be positive or None")
    require(negatives is None or normalize == "pairs", "normalize", repr(normalize), "must be pairs with `negatives`")
    s, y, mask = events(scores, labels, mask)
    w = _weights(s, weight, mask)
    rows = [(s.reshape(-1), y.reshape(-1), w.reshape(-1))] if batch else _samples(s, y, w)
    value, kept = [], []
    for s_row, y_row, w_row in rows:
        yes, no = (w_row * y_row).nonzero()[:, 0], (w_row * (1 - y_row)).nonzero()[:, 0]
        w_yes, w_no = (w_row * y_row)[yes], (w_row * (1 - y_row))[no]
        if negatives is not None and len(no):
            no, w_no = _drawn(no, w_no, negatives, generator)
        sum_, mass = _PairSum.apply(s_row[yes], s_row[no], w_yes, w_no, temperature, None)
        size = mass if normalize == "pairs" else w_yes.sum()
        value.append(sum_ / size.clamp_min(TINY) if len(yes) and len(no) else empty(s_row))
        kept.append(len(yes) > 0 and len(no) > 0)
    if batch:
        return reduce(value[0], reduction)
    if not value:
        return reduce(s.flatten(1).sum(1), reduction)
    return reduce(torch.stack(value), reduction, mask=torch.tensor(kept, device=s.device))


def _weights(like: Tensor, weight: Tensor | None, mask: Tensor | None) -> Tensor:
    """Weights of the elements, zero where masked, scaled to mean one."""
    w = torch.ones_like(like) if weight is None else broadcast(weight, "weight", like.shape).to(like.dtype)
    w = w if mask is None else w * mask
    return (w / w.mean().clamp_min(TINY)).detach()


def _samples(*tensors: Tensor) -> list[tuple[Tensor, ...]]:
    return list(zip(*(tensor.flatten(1).unbind() for tensor in tensors), strict=True))


def _drawn(place: Tensor, weight: Tensor, count: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """`count` of the places, drawn in proportion to weight, each of weight one."""
    upper = weight.double().cumsum(0)
    level = torch.empty(count, dtype=upper.dtype, device=upper.device).uniform_(generator=generator) * upper[-1]
    chosen = torch.searchsorted(upper, level, right=True).clamp(max=len(place) - 1)
    return place[chosen], torch.ones(count, dtype=weight.dtype, device=weight.device)


@wide
def pair_ranking(
    prediction: Tensor,
    target: Tensor,
    *,
    form: Literal["pairs", "standardized"] = "pairs",
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """How well predicted losses of a sample's patches follow the true ones.

    pairs: mean over the sample's pairs with target_i > target_j of -log sigmoid(p_i - p_j); ties are left out, and
    the same pairs seen from the other side add nothing. standardized: mean squared difference to the target
    brought to mean 0 and variance 1 within the sample.

    Args:
        prediction, target: (B, *), patches or points along all but the first dimension.
        weight: of the elements; a pair's weight is the product.

    Returns:
        The mean over samples; (B,) with reduction="none". A sample without a pair gives 0 and is left out.

    Raises:
        ForecastError: shapes that do not match, fewer than two dimensions, an unknown form.
    """
    require(form in ("pairs", "standardized"), "form", repr(form), "must be pairs or standardized")
    same_shape(prediction=prediction, target=target)
    require(prediction.ndim >= 2, "prediction", tuple(prediction.shape), "must be (B, *) with elements to compare")
    if mask is not None:
        mask = broadcast(mask, "mask", prediction.shape).bool()
        prediction, target = prediction.masked_fill(~mask, 0.0), target.masked_fill(~mask, 0.0)
    target, w = target.detach(), _weights(prediction, weight, mask)
    each = [_ranked(*row) if form == "pairs" else _standardized(*row) for row in _samples(prediction, target, w)]
    if not each:
        return reduce(prediction.flatten(1).sum(1), reduction)
    value, mass = (torch.stack(part) for part in zip(*each, strict=True))
    return reduce(value, reduction, mask=mass > 0)


def _ranked(p: Tensor, target: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over pairs, and their weight."""
    value, mass = _PairSum.apply(p, p, w, w, 1.0, (target, target))
    return value / mass.clamp_min(TINY), mass


def _standardized(p: Tensor, target: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    mass = w.sum().clamp_min(TINY)
    centred = target - (w * target).sum() / mass
    variance = (w * centred.square()).sum() / mass
    return (w * (p - centred / variance.clamp_min(1e-6).sqrt()).square()).sum() / mass, w.sum()


@register(
    "mann_whitney",
    formula="mean over events i, non-events j of softplus(-(s_i - s_j) / t)",
    source="Optimizing What Matters: AUC-Driven Learning for Robust Neural Retrieval, eqs 2-4",
    use="how well an exceedance head tells events from the rest, whatever the threshold of the warning",
    status="verified",
    takes="event",
)
class MannWhitneyLoss(Loss, of=mann_whitney):
    """`mann_whitney` with its settings fixed."""


@register(
    "pair_ranking",
    formula="mean over pairs with target_i > target_j of -log sigmoid(p_i - p_j)",
    source="Bootstrap Masked Visual Modeling via Hard Patches Mining; official code",
    use="a head that ranks regions by how hard they are, to choose what masked pretraining hides",
    status="verified",
    takes="field",
)
class PairRankingLoss(Loss, of=pair_ranking):
    """`pair_ranking` with its settings fixed."""
