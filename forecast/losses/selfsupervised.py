"""Redundancy reduction between two views of each sample, alone and with mixed samples."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from forecast.losses.common import Loss, empty, require, same_shape, wide
from forecast.losses.pairs import check_features, positive, shares
from forecast.losses.registry import register


@wide
def barlow_twins(
    first: Tensor,
    second: Tensor,
    *,
    off_diagonal: float = 0.0051,
    eps: float = 1e-5,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Barlow Twins: sum_i (1 - C_ii)^2 + lambda sum_{i != j} C_ij^2, C the correlation of the views' features.

    One number for the set. Features are standardised over the samples as batch normalisation does (variance over N,
    plus eps), so a feature that does not vary has C = 0 and costs 1. Defaults are those of the official code.

    Args:
        first, second: (N, D) views; N of at least 2.
        off_diagonal: lambda. weight, mask: (N,) of the samples.

    Returns:
        A scalar; 0 for no samples.

    Raises:
        ForecastError: shapes that differ, one sample, a negative lambda, eps that is not positive.
    """
    require(off_diagonal >= 0, "off_diagonal", off_diagonal, "must not be negative")
    share, first, second = _pair(first, second, eps, weight, mask)
    if not len(first):
        return empty(first, second)
    return _barlow(_correlation(_standard(first, share, eps), _standard(second, share, eps), share), off_diagonal)


def _pair(first: Tensor, second: Tensor, eps: float, weight: Tensor | None, mask: Tensor | None) -> tuple[Tensor, ...]:
    positive(eps=eps)
    same_shape(first=first, second=second)
    share, first, second = shares(weight, mask, first, second)
    check_features(2, first=first, second=second)
    return share, first, second


def _standard(x: Tensor, share: Tensor, eps: float, unbiased: bool = False) -> Tensor:
    away = x - share @ x
    variance = share @ away.square()
    if unbiased:
        variance = variance / (1 - share.square().sum())
    return away / (variance + eps).sqrt()


def _correlation(x: Tensor, y: Tensor, share: Tensor) -> Tensor:
    return (x * share[:, None]).T @ y


def _barlow(correlation: Tensor, off_diagonal: float) -> Tensor:
    own = correlation.diagonal()
    return (1 - own).square().sum() + off_diagonal * (correlation.square().sum() - own.square().sum())


@register(
    "barlow_twins",
    formula="sum_i (1 - C_ii)^2 + lambda sum_{i != j} C_ij^2",
    source="Zbontar et al. 2021, Barlow Twins, arXiv:2103.03230, official main.py",
    use="latents that agree between members or lead times, and whose features do not repeat each other",
    status="verified",
    takes="latent",
)
class BarlowTwinsLoss(Loss, of=barlow_twins):
    """`barlow_twins` with its settings fixed."""


class Mixture(NamedTuple):
    """Samples mixed of one's first view and another's second: share * first + (1 - share) * second[order]."""

    mixed: Tensor
    order: Tensor
    share: Tensor


def mix_views(
    first: Tensor, second: Tensor, *, concentration: float = 1.0, generator: torch.Generator | None = None
) -> Mixture:
    """Mix the inputs of two views for `mixed_barlow_twins`.

    Args:
        first, second: (N, *) network inputs. concentration: of the Beta distribution that one share is drawn from.

    Returns:
        (N, *) mixed inputs, (N,) whose second view each took, and the share of the first.
    """
    positive(concentration=concentration)
    same_shape(first=first, second=second)
    order = torch.empty(len(first), device=first.device).uniform_(generator=generator).argsort()
    share = beta(concentration, first.new_empty(()), generator)
    return Mixture(share * first + (1 - share) * second[order], order, share)


def beta(concentration: float, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draws of the symmetric Beta distribution, of the shape, type and device of `like`."""
    both = torch.full((*like.shape, 2), concentration, dtype=torch.float64, device=like.device)
    return torch._sample_dirichlet(both, generator=generator)[..., 0].to(like.dtype)


@wide
def mixed_barlow_twins(
    first: Tensor,
    second: Tensor,
    mixed: Tensor,
    order: Tensor,
    share: Tensor | float,
    *,
    off_diagonal: float = 0.0051,
    scale: float = 4.0,
    detach_target: bool = False,
    eps: float = 1e-5,
    weight: Tensor | None = None,
) -> Tensor:
    """Barlow Twins, plus how far the features of mixed samples are from the mix of the features.

    For Z_v in (Z_1, Z_2): lambda scale |Z_m' Z_v / N - (share Z_1 + (1 - share) Z_2[order])' Z_v / N|^2 (Frobenius).
    The extra term is 0 where Z_m is the mix of Z_1 and Z_2. Its Z are standardised with the unbiased variance, as in
    the official code, where plain Barlow Twins takes the biased one; that code lets the gradient into the target.
    lambda is Barlow Twins' default, `scale` that of an official script.

    Args:
        first, second: (N, D) features of the views. mixed: (N, D) features of `mix_views(...)`.
        order: (N,) and share: of the mixture. detach_target: no gradient into the mix of the features.
        weight: (N,) of the samples and of the mixed ones.

    Returns:
        A scalar; 0 for no samples.

    Raises:
        ForecastError: shapes that differ, one sample, an order that is not (N,).
    """
    require(off_diagonal >= 0, "off_diagonal", off_diagonal, "must not be negative")
    same_shape(first=first, mixed=mixed)
    require(order.shape == first.shape[:1], "order", tuple(order.shape), f"must be ({len(first)},)")
    part, first, second = _pair(first, second, eps, None, None)
    if weight is not None:  # of zero too: another's mixture may be made of that sample
        require(weight.shape == part.shape, "weight", tuple(weight.shape), f"must be {tuple(part.shape)}")
        require(
            bool((weight >= 0).all()) and bool(weight.sum() > 0), "weight", weight, "must not be negative, nor all zero"
        )
        part = (weight / weight.sum()).to(first.dtype)
    if not len(first):
        return empty(first, second, mixed)
    plain = _correlation(_standard(first, part, eps), _standard(second, part, eps), part)
    one, two, mid = (_standard(x, part, eps, unbiased=True) for x in (first, second, mixed))
    target = share * one + (1 - share) * two[order]
    gap = torch.zeros_like(plain[0, 0])
    for view in (one, two):
        wanted = _correlation(target, view, part)
        gap = gap + (_correlation(mid, view, part) - (wanted.detach() if detach_target else wanted)).square().sum()
    return _barlow(plain, off_diagonal) + scale * off_diagonal * gap


@register(
    "mixed_barlow_twins",
    formula="Barlow Twins + lambda s sum_v |Z_m'Z_v - (a Z_1 + (1 - a) Z_2[order])'Z_v|^2 / N^2",
    source="Bandara et al. 2023, Guarding Barlow Twins against overfitting with mixed samples, arXiv:2312.02151, "
    "official main.py",
    use="a latent learnt on a short archive: mixed states keep it from overfitting",
    status="verified",
    takes="latent",
)
class MixedBarlowTwinsLoss(Loss, of=mixed_barlow_twins):
    """`mixed_barlow_twins` with its settings fixed; `mix_views` makes the samples to mix."""
