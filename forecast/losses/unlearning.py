"""Forgetting without labels: representations leave what was learnt of the forgotten, and stay for the rest."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from forecast.losses.common import Loss, empty, reduce, require, same_shape, wide
from forecast.losses.pairs import check_features, positive
from forecast.losses.registry import register


@wide
def representation_gap(
    retained: Tensor,
    retained_rebuilt: Tensor,
    forgotten: Tensor,
    forgotten_rebuilt: Tensor,
    *,
    reduction: str = "mean",
) -> Tensor:
    """First stage: exp(e) of the retained less exp(e) of the forgotten, e = d / (d + 1), d = |z - rebuilt z|^2.

    Each set is rebuilt by a variational autoencoder that was fitted to the old model's representations of it, so that
    the retained stay where they were and the forgotten leave. e < 1 bounds both terms.

    Args:
        retained, retained_rebuilt: (N, D) representations, and what the autoencoder of the retained makes of them.
        forgotten, forgotten_rebuilt: (M, D), by the autoencoder of the forgotten.
        reduction: mean or sum, over each set.

    Returns:
        A scalar in 1 - e .. e - 1 (mean); a set that is empty adds 0.

    Raises:
        ForecastError: shapes that differ, another reduction.
    """
    require(reduction in ("mean", "sum"), "reduction", reduction, "must be mean or sum")
    same_shape(retained=retained, retained_rebuilt=retained_rebuilt)
    same_shape(forgotten=forgotten, forgotten_rebuilt=forgotten_rebuilt)
    check_features(retained=retained, forgotten=forgotten)
    parts = [
        reduce(_bounded_error(z, rebuilt).exp(), reduction) if len(z) else empty(z)
        for z, rebuilt in ((retained, retained_rebuilt), (forgotten, forgotten_rebuilt))
    ]
    return parts[0] - parts[1]


def _bounded_error(z: Tensor, rebuilt: Tensor) -> Tensor:
    error = (z - rebuilt).square().sum(1)
    return error / (error + 1)


@register(
    "representation_gap",
    formula="mean exp(e_retained) - mean exp(e_forgotten), e = d / (d + 1), d = |z - rebuilt z|^2",
    source="Shen et al. 2024, Label-Agnostic Forgetting, arXiv:2404.00506; read in others' code",
    use="takes back what a model learnt from a bad period, with no labels: first stage",
    status="third-party",
    takes="other",
)
class RepresentationGapLoss(Loss, of=representation_gap):
    """`representation_gap` with its settings fixed."""


@wide
def forgetting_contrast(
    retained: Tensor,
    retained_old: Tensor,
    forgotten: Tensor,
    forgotten_old: Tensor,
    *,
    temperature: float = 1.0,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """Second stage: d_i - log sum_j exp(d_j / t), d the cosine distance from the old model's representation.

    i of the retained, which draw near the old model, j of the forgotten, which move away from it. Nothing to forget
    leaves the first term, nothing to retain gives 0.

    Args:
        retained, retained_old: (N, D) by the new and the old model (no gradient). forgotten, forgotten_old: (M, D).
        weight: (N,).

    Returns:
        (N,) reduced.

    Raises:
        ForecastError: shapes that differ, a temperature that is not positive.
    """
    positive(temperature=temperature)
    same_shape(retained=retained, retained_old=retained_old)
    same_shape(forgotten=forgotten, forgotten_old=forgotten_old)
    check_features(retained=retained, forgotten=forgotten)
    near = 1 - F.cosine_similarity(retained, retained_old.detach(), dim=1)
    far = 1 - F.cosine_similarity(forgotten, forgotten_old.detach(), dim=1)
    away = torch.logsumexp(far / temperature, 0) if len(far) else empty(forgotten)
    return reduce(near - away, reduction, weight)


@register(
    "forgetting_contrast",
    formula="d_i - log sum_j exp(d_j / t), d = 1 - cos(new, old), i retained, j forgotten",
    source="Shen et al. 2024, Label-Agnostic Forgetting, arXiv:2404.00506; read in others' code",
    use="takes back what a model learnt from a bad period, with no labels: second stage",
    status="third-party",
    takes="other",
)
class ForgettingContrastLoss(Loss, of=forgetting_contrast):
    """`forgetting_contrast` with its settings fixed."""
