"""Contrastive loss whose negatives are the hardest only."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from forecast.losses.common import Loss, from_memory, reduce, require, same_shape, wide
from forecast.losses.pairs import NEVER, by_rows, check_features, kept, positive, spread
from forecast.losses.registry import register


@from_memory
@wide
def hard_contrastive(
    first: Tensor,
    second: Tensor,
    *,
    temperature: float = 0.2,
    hardest: float = 0.1,
    normalize: bool = True,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """InfoNCE whose negatives are, for each anchor, only the share `hardest` with the largest similarity.

    Built from memory: that the negatives are an upper quantile is the paper's, its value and the rounding are not.

    Args:
        first, second: (B, D) views. temperature: t. hardest: in (0, 1]; 1 is `info_nce`; at least one negative is kept.
        weight, mask: (B,); what the mask leaves out is no negative either.

    Returns:
        (B,) reduced.

    Raises:
        ForecastError: shapes that differ, one sample, temperature or `hardest` out of range.
    """
    positive(temperature=temperature)
    require(0 < hardest <= 1, "hardest", hardest, "must lie in (0, 1]")
    same_shape(first=first, second=second)
    first, second = kept(mask, first, second)
    check_features(2, first=first, second=second)
    if normalize:
        first, second = F.normalize(first, dim=1), F.normalize(second, dim=1)
    number = max(1, math.ceil(hardest * (len(first) - 1))) if len(first) else 0

    def rows_value(rows: slice, anchors: Tensor, others: Tensor) -> Tensor:
        scores = anchors[rows] @ others.T / temperature
        own = scores.diagonal(rows.start)[:, None].clone()
        scores.diagonal(rows.start).fill_(NEVER)
        return torch.cat([own, scores.topk(number, dim=1).values], 1).logsumexp(1) - own[:, 0]

    value = by_rows(rows_value, len(first), len(second), first, second)
    return reduce(spread(value, mask), reduction, weight, mask)


@register(
    "hard_contrastive",
    formula="-s_ii / t + log(exp(s_ii / t) + sum over the hardest negatives of exp(s_ij / t))",
    source="Wang and Liu 2021, Understanding the Behaviour of Contrastive Loss, arXiv:2012.09740",
    use="tells dates apart that look alike, at the risk of pushing true analogues away",
    status="from memory",
    takes="latent",
)
class HardContrastiveLoss(Loss, of=hard_contrastive):
    """`hard_contrastive` with its settings fixed."""
