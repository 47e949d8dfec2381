"""Features of a sparse code that are used less than a Zipf law would have them."""

from __future__ import annotations

import torch
from torch import Tensor

from forecast.losses.common import Loss, from_memory, require, wide
from forecast.losses.registry import register
from forecast.losses.sparsity import aux_k


@from_memory
@wide
def aux_zipf(
    target: Tensor,
    reconstruction: Tensor,
    features: Tensor,
    density: Tensor,
    decoder: Tensor,
    *,
    k: int = 256,
    coefficient: float = 1 / 32,
    exponent: float = 1.0,
    share: float = 0.5,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """`aux_k` of all features active less often than `share` times what their rank would have, not of dead ones only.

    The expected density of rank r is proportional to r^-exponent, with the same sum as the densities. share -> 0
    leaves the dead ones. Only the idea is published; rule and settings are ours.

    Args:
        target, reconstruction, features, decoder, k, coefficient: as in `aux_k`.
        density: (F,) share of samples in which a feature is active, e.g. `FeatureUse.density`.

    Raises:
        ForecastError: densities that are negative or not (F,), a negative share, or what `aux_k` raises.
    """
    good = density.shape == features.shape[-1:] and bool((density >= 0).all())
    require(good, "density", tuple(density.shape), f"must be {tuple(features.shape[-1:])}, none negative")
    require(share >= 0, "share", share, "must not be negative")
    dead = under_used(density, exponent, share)
    return aux_k(target, reconstruction, features, dead, decoder, k=k, coefficient=coefficient,
                 reduction=reduction, weight=weight, mask=mask)  # fmt: skip


@torch.no_grad()
def under_used(density: Tensor, exponent: float = 1.0, share: float = 0.5) -> Tensor:
    """(F,) whether a feature is never active, or less often than `share` times the density of its rank under Zipf."""
    ranks = torch.arange(1, len(density) + 1, dtype=density.dtype, device=density.device)
    expected = torch.empty_like(density)
    law = ranks.pow(-exponent)
    expected[density.argsort(descending=True)] = density.sum() * law / law.sum()
    return (density == 0) | (density < share * expected)


@register(
    "aux_zipf",
    formula="c mean (sg[x - x'] - relu(top-k under-used features) W)^2, under-used: density < share * Zipf's",
    source="Ayonrinde 2024, Adaptive sparse allocation with mutual choice and feature choice SAEs, abstract",
    use="sparse dictionary of a latent state in which the rare features are learnt too",
    status="from memory",
    takes="latent",
)
class AuxZipfLoss(Loss, of=aux_zipf):
    """`aux_zipf` with its settings fixed."""
