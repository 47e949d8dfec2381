"""Adaptation at forecast time by the correlation of classes."""

from __future__ import annotations

import torch
from torch import Tensor

from forecast.losses.common import Loss, empty, from_memory, leave_out, require, wide
from forecast.losses.registry import register


@from_memory
@wide
def class_correlation(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Mean over pairs of classes of <p_a, p_b> / (|p_a| |p_b|), p_a the batch's probabilities of class a: no labels.

    In [0, 1]; 0 where every prediction is sure. It tells apart classes that the new data mixes up; together with
    `mix_statistics` for some steps, on batches of many classes.

    Args:
        logits: (B, K). temperature: of the softmax. weight, mask: by sample, (B,).

    Raises:
        ForecastError: logits that are not (B, K) with two classes at least, or a temperature not above 0.
    """
    require(logits.ndim == 2 and logits.shape[1] >= 2, "logits", tuple(logits.shape), "must be (B, K), K at least 2")
    require(temperature > 0, "temperature", temperature, "must be above 0")
    (logits,) = leave_out(mask, logits.shape[:1], logits)
    factor = torch.ones_like(logits[:, 0])
    for given in (weight, mask):
        factor = factor if given is None else factor * given
    if not bool(factor.sum() > 0):
        return empty(logits)
    p = (logits / temperature).softmax(-1)
    shared = torch.einsum("b,ba,bc->ac", factor, p, p)
    sizes = shared.diagonal().clamp_min(torch.finfo(p.dtype).tiny).sqrt()
    related = shared / (sizes[:, None] * sizes[None])
    apart = ~torch.eye(len(related), dtype=torch.bool, device=related.device)
    return related[apart].mean()


@register(
    "class_correlation",
    formula="mean over a != b of <p_a, p_b> / (|p_a| |p_b|)",
    source="You et al. 2021, Test-time batch statistics calibration for covariate shift (Core)",
    use="regime or precipitation-type head on a new analysis version, without labels",
    status="from memory",
    takes="rows",
)
class ClassCorrelationLoss(Loss, of=class_correlation):
    """`class_correlation` with its settings fixed."""
