"""Attributions that agree with what is known of the importance of the inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from forecast.losses.common import Loss, empty, from_memory, reduce, require, wide
from forecast.losses.pairs import blank
from forecast.losses.registry import register

_LEAST = 1e-12  # share of a feature whose logarithm is taken


@from_memory
@wide
def explanation_consistency(
    attribution: Tensor,
    reference: Tensor,
    *,
    per_sample: bool = False,
    reverse: bool = False,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """KL(pi || q), or KL(q || pi) with reverse: q = |a| / sum |a| the importance of each feature, pi what it should be.

    Built from the abstract: which attributions, and which direction, are not known. q is averaged over the batch, or
    compared sample by sample. Samples whose attributions are all zero do not count.

    Args:
        attribution: (B, F), e.g. `gradient_attribution`. reference: (F,) or (B, F), not negative; it is normalised.
        weight, mask: (B,).

    Returns:
        A scalar; with per_sample (B,) reduced.

    Raises:
        ForecastError: shapes that do not match, a reference that is negative or zero.
    """
    require(attribution.ndim == 2, "attribution", tuple(attribution.shape), "must be (B, F)")
    (a,) = blank(mask, attribution.abs())
    expected = (attribution.shape[1:], attribution.shape)
    require(reference.shape in expected, "reference", tuple(reference.shape), f"must be (F,) or {expected[1]}")
    least = float(reference.detach().min()) if reference.numel() else 0.0
    require(least >= 0, "reference", least, "must not be negative")
    total = a.sum(1, keepdim=True)
    counts = total[:, 0] > 0
    require(bool((reference.sum(-1) > 0).all()), "reference", 0.0, "must not be all zero")
    q = a / torch.where(total > 0, total, torch.ones_like(total))
    prior = (reference / reference.sum(-1, keepdim=True)).expand_as(q)
    if per_sample:
        return reduce(_kl(q, prior, reverse), reduction, weight, counts if mask is None else counts & mask.bool())
    share = counts.to(q.dtype) * (1.0 if weight is None else weight) * (1.0 if mask is None else mask)
    if not bool(share.sum() > 0):
        return empty(attribution)
    share = share / share.sum()
    return _kl(share @ q, share @ prior, reverse)


def _kl(q: Tensor, prior: Tensor, reverse: bool) -> Tensor:
    log_q, log_prior = q.clamp_min(_LEAST).log(), prior.clamp_min(_LEAST).log()
    return (q * (log_q - log_prior) if reverse else prior * (log_prior - log_q)).sum(-1)


def gradient_attribution(outputs: Tensor, inputs: Tensor) -> Tensor:
    """(B, *) gradient times input of the outputs (B, ...) summed, sample by sample; differentiable once more.

    Args:
        outputs: computed from inputs (B, *), which require a gradient.
    """
    require(inputs.requires_grad, "inputs", "without gradient", "must require a gradient before the network")
    (slope,) = torch.autograd.grad(outputs.sum(), inputs, create_graph=True)
    return slope * inputs


@register(
    "explanation_consistency",
    formula="KL(pi || mean |a| / sum |a|), a the attribution of each input, pi its known importance",
    source="Wu et al. 2024, Primary and Secondary Factor Consistency as Domain Knowledge, arXiv:2402.12398; abstract",
    use="forecasts that draw on the predictors that physics says matter",
    status="from memory",
    takes="other",
)
class ExplanationConsistencyLoss(Loss, of=explanation_consistency):
    """`explanation_consistency` with its settings fixed."""
