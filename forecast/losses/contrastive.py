"""Contrastive losses: two views of each sample are positives, all other samples negatives."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from forecast.losses.common import Loss, reduce, same_shape, wide
from forecast.losses.pairs import NEVER, by_rows, check_features, kept, positive, spread
from forecast.losses.registry import register


@wide
def info_nce(
    first: Tensor,
    second: Tensor,
    *,
    temperature: float = 0.2,
    symmetric: bool = False,
    normalize: bool = True,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """InfoNCE: -s_ii / t + log sum_j exp(s_ij / t), s_ij the cosine of sample i's first and sample j's second view.

    t -> 0: t L -> max(0, hardest negative - positive), a triplet; t -> infinity: t (L - log B) -> mean_j s_ij - s_ii.
    The gradient on a negative is its softmax weight. Equal samples in a batch are false negatives. The default t lies
    where Wang and Liu found the best (0.2 to 0.3, by data set). Memory is linear in B.

    Args:
        first, second: (B, D) views; sample i's are each other's positives. B = 1 is refused (the loss would be 0).
        temperature: t. symmetric: mean of both directions. normalize: to unit length first.
        weight, mask: (B,); what the mask leaves out is no negative either.

    Returns:
        (B,) reduced.

    Raises:
        ForecastError: shapes that differ, one sample, a temperature that is not positive.
    """
    positive(temperature=temperature)
    first, second = _views(first, second, mask, normalize)
    value = _direction(first, second, temperature)
    if symmetric:
        value = (value + _direction(second, first, temperature)) / 2
    return reduce(spread(value, mask), reduction, weight, mask)


def _views(first: Tensor, second: Tensor, mask: Tensor | None, normalize: bool) -> tuple[Tensor, ...]:
    same_shape(first=first, second=second)
    first, second = kept(mask, first, second)
    check_features(2, first=first, second=second)
    return (F.normalize(first, dim=1), F.normalize(second, dim=1)) if normalize else (first, second)


def _direction(anchors: Tensor, others: Tensor, temperature: float) -> Tensor:
    def rows_value(rows: slice, anchors: Tensor, others: Tensor) -> Tensor:
        scores = anchors[rows] @ others.T / temperature
        return scores.logsumexp(1) - scores.diagonal(rows.start)

    return by_rows(rows_value, len(anchors), len(others), anchors, others)


@register(
    "info_nce",
    formula="-s_ii / t + log sum_j exp(s_ij / t)",
    source="van den Oord et al. 2018, CPC, arXiv:1807.03748; Wang and Liu 2021, Understanding the Behaviour of "
    "Contrastive Loss, arXiv:2012.09740",
    use="latents of one state under two members or two lead times agree, those of other dates do not",
    status="verified",
    takes="latent",
)
class InfoNCELoss(Loss, of=info_nce):
    """`info_nce` with its settings fixed."""


@wide
def nt_xent(
    first: Tensor,
    second: Tensor,
    *,
    temperature: float = 0.5,
    normalize: bool = True,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """NT-Xent of SimCLR: `info_nce` where all 2B - 2 views of other samples are negatives; mean over both anchors.

    Args:
        first, second: (B, D) views, B of at least 2. temperature: t. normalize: to unit length first.
        weight, mask: (B,); what the mask leaves out is no negative either.

    Returns:
        (B,) reduced: the mean of a sample's two views.

    Raises:
        ForecastError: shapes that differ, one sample, a temperature that is not positive.
    """
    positive(temperature=temperature)
    first, second = _views(first, second, mask, normalize)
    count = len(first)

    def rows_value(rows: slice, views: Tensor) -> Tensor:
        scores = views[rows] @ views.T / temperature
        scores.diagonal(rows.start).fill_(NEVER)
        place = torch.arange(rows.start, rows.stop, device=views.device)
        own = scores.gather(1, ((place + count) % (2 * count))[:, None]) if count else scores.new_zeros(0, 1)
        return scores.logsumexp(1) - own[:, 0]

    views = torch.cat([first, second])
    value = by_rows(rows_value, len(views), len(views), views)
    return reduce(spread((value[:count] + value[count:]) / 2, mask), reduction, weight, mask)


@register(
    "nt_xent",
    formula="-s_ip / t + log sum_{j != i} exp(s_ij / t) over the 2B views",
    source="Chen et al. 2020, SimCLR, arXiv:2002.05709; pytorch-metric-learning, lightly",
    use="self-supervised pretraining of an encoder on pairs of perturbed analyses",
    status="verified",
    takes="latent",
)
class NTXentLoss(Loss, of=nt_xent):
    """`nt_xent` with its settings fixed."""
