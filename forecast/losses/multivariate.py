"""Scores of whole fields: energy and kernel score of an ensemble, and the distance of two sets (MMD)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from forecast.losses.common import Loss, check_ensemble, empty, reduce, require, wide, without_masked
from forecast.losses.pairs import by_rows, check_features
from forecast.losses.registry import register

Over = str | Sequence[int]
Profile = Callable[[Tensor], tuple[Tensor, Tensor]]
"""f(r) of a distance r, and f'(r) / r, finite at r = 0"""

_OVER = {"space": (-2,), "variable": (-1,), "both": (-2, -1)}


@wide
def energy_score(
    members: Tensor,
    truth: Tensor,
    *,
    over: Over = "space",
    alpha: float = 0.95,
    beta: float = 1.0,
    ensemble_dim: int = 1,
    allow_deterministic: bool = False,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """mean_j |x_j - y|^beta - (M - 1 + alpha) / (M^2 (M - 1)) sum_{j<k} |x_j - x_k|^beta, |.| a norm over dimensions.

    alpha = 1 is the fair score, alpha = 0 that of the empirical distribution; over a dimension of one the almost fair
    CRPS. Weakly sensitive to correlations: see `variogram_score`. No tensor is larger than the members, and gradients
    are exact, zero for members that coincide.

    Args:
        members: (B, M, *), usually (B, M, ..., G, V). truth: (B, *). A NaN in truth propagates unless masked.
        over: dimensions of the norm, from the end: space (-2), variable (-1), both, or numbers. Variables in one norm
            need one scale.
        beta: exponent, within (0, 2).
        weight, mask: broadcastable to truth. Their mean over the normed dimensions weighs the score; relative to that
            mean they weigh the squares within the norm, so that equal weights leave it as it is.
        allow_deterministic: score one member by its norm of the error.

    Returns:
        With reduction none: of truth's shape without the normed dimensions.

    Raises:
        ForecastError: too few members, shapes that do not match, alpha or beta out of range, dimensions not counted
            from the end.
    """
    count = check_ensemble(members, truth, ensemble_dim, allow_deterministic)
    require(0 <= alpha <= 1, "alpha", alpha, "must lie in [0, 1]")
    require(0 < beta < 2, "beta", beta, "must lie within (0, 2)")
    error, pairs, outer = _distances(members, truth, over, ensemble_dim, weight, mask, _power(beta))
    score = error / count
    if count > 1:
        score = score - (count - 1 + alpha) / (count**2 * (count - 1)) * pairs
    return reduce(score, reduction, outer)


@register(
    "energy_score",
    formula="mean_j |x_j - y|^b - (M - 1 + alpha) / (2 M^2 (M - 1)) sum_jk |x_j - x_k|^b, |.| weighted over space "
    "and/or variables",
    source="Gneiting and Raftery 2007; scoringrules, es_ensemble; makani and anemoi for the weighted norms",
    use="scores maps or variables as one: patterns count, not only points",
    status="verified",
    takes="ensemble",
)
class EnergyScoreLoss(Loss, of=energy_score):
    """`energy_score` with its settings fixed."""


@wide
def kernel_score(
    members: Tensor,
    truth: Tensor,
    *,
    bandwidths: Sequence[float] = (0.5, 1.0, 2.0),
    per_component: bool = True,
    over: Over = "space",
    unbiased: bool = True,
    ensemble_dim: int = 1,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Half the squared maximum mean discrepancy of the members from the truth, k a mean of Gaussians of bandwidths h.

    1/2 mean_jk k(x_j, x_k) + 1/2 k(y, y) - mean_j k(x_j, y), k(x, x') = exp(-|x - x'|^2 / (2 h^2)); far from the truth
    its gradient vanishes: mix with the energy score. Shapes, `over`, weight and mask as `energy_score`.

    Args:
        per_component: take |.| as the root mean square over the D normed components, not their root sum of squares.
        unbiased: leave out j = k, so that the expectation does not depend on M (the score may then be negative).

    Raises:
        ForecastError: fewer than two members, shapes that do not match, a bandwidth that is not positive.
    """
    count = check_ensemble(members, truth, ensemble_dim)
    dims = _dims(over, truth)
    size = math.prod(truth.shape[dim] for dim in dims) if per_component else 1
    profile = _gaussians(bandwidths, size)
    error, pairs, outer = _distances(members, truth, over, ensemble_dim, weight, mask, profile)
    inner = pairs / (count * (count - 1)) if unbiased else pairs / count**2 + 0.5 / count
    return reduce(inner + 0.5 - error / count, reduction, outer)


@register(
    "kernel_score",
    formula="1/2 mean_jk k(x_j, x_k) + 1/2 k(y, y) - mean_j k(x_j, y), k a mean of Gaussian kernels",
    source="Gneiting and Raftery 2007; Gretton et al. 2012; scoringrules, gksmv_ensemble",
    use="bounded score of patterns: outliers do not dominate",
    status="verified",
    takes="ensemble",
)
class KernelScoreLoss(Loss, of=kernel_score):
    """`kernel_score` with its settings fixed."""


@wide
def maximum_mean_discrepancy(
    first: Tensor,
    second: Tensor,
    *,
    bandwidths: Sequence[float] = (0.5, 1.0, 2.0),
    per_component: bool = True,
    unbiased: bool = False,
) -> Tensor:
    """Squared maximum mean discrepancy of two samples, mean k(x, x') + mean k(y, y') - 2 mean k(x, y): one number.

    Args:
        first: (N, D). second: (K, D). NaN propagates.
        bandwidths, per_component: as `kernel_score`.
        unbiased: leave out pairs of a point with itself (the value may then be negative); by default at least 0.

    Returns:
        A number; a zero with a graph where a sample is empty (has one point, if unbiased).

    Raises:
        ForecastError: samples that are not of one width, a bandwidth that is not positive.
    """
    check_features(first=first, second=second)
    profile = _gaussians(bandwidths, first.shape[1] if per_component else 1)
    if min(len(first), len(second)) < (2 if unbiased else 1):
        return empty(first, second)
    total = -2 * _mean_kernel(first, second, profile)
    for x in (first, second):
        mean = _mean_kernel(x, x, profile)
        total = total + ((mean * len(x) - 1) / (len(x) - 1) if unbiased else mean)
    return total


@register(
    "mmd",
    formula="mean k(x, x') + mean k(y, y') - 2 mean k(x, y), k a mean of Gaussian kernels",
    source="Gretton et al. 2012",
    use="matches the distribution of forecasts, or of latents, to that of analyses without pairing them",
    status="verified",
    takes="latent",
)
class MaximumMeanDiscrepancyLoss(Loss, of=maximum_mean_discrepancy):
    """`maximum_mean_discrepancy` with its settings fixed."""


def _mean_kernel(first: Tensor, second: Tensor, profile: Profile) -> Tensor:
    def rows(block: slice, x: Tensor, y: Tensor) -> Tensor:
        return profile(torch.cdist(x[block], y, compute_mode="donot_use_mm_for_euclid_dist"))[0].mean(1)

    return by_rows(rows, len(first), len(second), first, second).mean()


def _power(beta: float) -> Profile:
    def profile(r: Tensor) -> tuple[Tensor, Tensor]:
        there = r > 0
        slope = beta * torch.where(there, r, torch.ones_like(r)).pow(beta - 2)
        return r.pow(beta), torch.where(there, slope, torch.zeros_like(r))

    return profile


def _gaussians(bandwidths: Sequence[float], size: int) -> Profile:
    require(len(bandwidths) > 0 and min(bandwidths) > 0, "bandwidths", tuple(bandwidths), "must be positive")

    def profile(r: Tensor) -> tuple[Tensor, Tensor]:
        value, slope = torch.zeros_like(r), torch.zeros_like(r)
        for h in bandwidths:
            scale = 1 / (h * h * size)
            kernel = torch.exp(-0.5 * scale * r * r) / len(bandwidths)
            value, slope = value + kernel, slope - scale * kernel
        return value, slope

    return profile


def _dims(over: Over, truth: Tensor) -> tuple[int, ...]:
    require(not isinstance(over, str) or over in _OVER, "over", over, f"must be {', '.join(_OVER)} or numbers")
    dims = _OVER[over] if isinstance(over, str) else tuple(over)
    good = len(set(dims)) == len(dims) > 0 and all(-truth.ndim < dim < 0 for dim in dims)
    require(good, "over", over, f"must name dimensions of truth {tuple(truth.shape)} from the end, and not the first")
    return dims


def split_weight(
    weight: Tensor | None, mask: Tensor | None, like: Tensor, dims: Sequence[int]
) -> tuple[Tensor | None, Tensor | None]:
    """Mean of weight and mask over `dims`, which weighs a score, and what is left, of mean 1 over them; or None, None.

    Returns:
        (inner, outer): inner broadcastable to `like`, outer of its shape without `dims`.
    """
    if weight is None and mask is None:
        return None, None
    inner = reduce(torch.ones_like(like), "none", weight, mask)
    outer = inner.mean(list(dims), keepdim=True)
    return inner / torch.where(outer > 0, outer, torch.ones_like(outer)), outer.squeeze(tuple(dims))


def _distances(
    members: Tensor,
    truth: Tensor,
    over: Over,
    ensemble_dim: int,
    weight: Tensor | None,
    mask: Tensor | None,
    profile: Profile,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Sums of f(|x_j - y|) over members and of f(|x_j - x_k|) over pairs j < k, and the weight of each."""
    dims = _dims(over, truth)
    x, y = members.movedim(ensemble_dim, 0), without_masked(truth, mask)
    inner, outer = split_weight(weight, mask, truth, dims)
    if inner is not None:
        root = inner.sqrt()
        x, y = without_masked(x, mask) * root, y * root
    error, pairs = _Distances.apply(x, y, dims, profile)
    return error.squeeze(dims), pairs.squeeze(dims), outer


class _Distances(torch.autograd.Function):
    """Differences are made one member at a time, in forward and again in backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, dims: tuple[int, ...], profile: Profile) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, y)
        ctx.dims, ctx.profile = dims, profile
        error = profile(torch.linalg.vector_norm(x - y, dim=dims, keepdim=True))[0].sum(0)
        pairs = torch.zeros_like(error)
        for j in range(len(x) - 1):
            pairs += profile(torch.linalg.vector_norm(x[j + 1 :] - x[j], dim=dims, keepdim=True))[0].sum(0)
        return error, pairs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_error: Tensor, to_pairs: Tensor) -> tuple[Tensor | None, ...]:
        x, y = ctx.saved_tensors

        def scaled(difference: Tensor, grad: Tensor) -> Tensor:
            slope = ctx.profile(torch.linalg.vector_norm(difference, dim=ctx.dims, keepdim=True))[1]
            return difference.mul_(slope * grad)

        to_x = scaled(x - y, to_error)
        to_y = -to_x.sum(0) if ctx.needs_input_grad[1] else None
        for j in range(len(x) - 1):
            part = scaled(x[j + 1 :] - x[j], to_pairs)
            to_x[j + 1 :] += part
            to_x[j] -= part.sum(0)
        return to_x, to_y, None, None
