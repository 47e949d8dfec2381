"""Scores of mean and spread: log score, Dawid-Sebastiani of one and many variables, spread against error."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from forecast.losses.common import Loss, check_ensemble, reduce, require, same_shape, wide, without_masked
from forecast.losses.distributions import Parametrisation, scale_of
from forecast.losses.registry import register

LOG_2PI = math.log(2 * math.pi)


@wide
def gaussian_log_score(
    mean: Tensor,
    sigma: Tensor,
    truth: Tensor,
    *,
    parametrisation: Parametrisation = "sigma",
    floor: float = 1e-6,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Negative log density of a normal distribution, log(2 pi) / 2 + log sigma + z^2 / 2.

    Its gradient grows as sigma^-3 where a small spread meets an error; `gaussian_crps` is milder.

    Args:
        mean, sigma, truth: (B, *). A NaN in truth propagates unless masked.
        parametrisation: what `sigma` holds: the standard deviation, its logarithm, or the argument of a softplus.
        floor: smallest standard deviation.

    Raises:
        ForecastError: shapes that differ, negative sigma, unknown parametrisation.
    """
    same_shape(mean=mean, sigma=sigma, truth=truth)
    score = _dawid_sebastiani(mean, scale_of(sigma, parametrisation, floor).square(), without_masked(truth, mask))
    return reduce(0.5 * (score + LOG_2PI), reduction, weight, mask)


@wide
def dawid_sebastiani(
    mean: Tensor,
    sigma: Tensor,
    truth: Tensor,
    *,
    parametrisation: Parametrisation = "sigma",
    floor: float = 1e-6,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """z^2 + 2 log sigma: proper for any distribution with this mean and spread; shapes as `gaussian_log_score`."""
    same_shape(mean=mean, sigma=sigma, truth=truth)
    score = _dawid_sebastiani(mean, scale_of(sigma, parametrisation, floor).square(), without_masked(truth, mask))
    return reduce(score, reduction, weight, mask)


def _dawid_sebastiani(mean: Tensor, variance: Tensor, truth: Tensor) -> Tensor:
    return (truth - mean).square() / variance + variance.log()


@wide
def ensemble_log_score(
    members: Tensor,
    truth: Tensor,
    *,
    floor: float = 1e-3,
    ensemble_dim: int = 1,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Half the Dawid-Sebastiani score of the members' mean and unbiased variance, (log s^2 + z^2) / 2.

    The log score of a normal distribution without its constant. Unfair: with few members its expectation is least for
    too much spread.

    Args:
        members: (B, M, *). truth: (B, *). A NaN in truth propagates unless masked.
        floor: smallest standard deviation, in units of the fields: identical members would score infinity.

    Raises:
        ForecastError: fewer than two members, shapes that do not match.
    """
    check_ensemble(members, truth, ensemble_dim)
    variance, mean = torch.var_mean(members, dim=ensemble_dim)
    score = _dawid_sebastiani(mean, variance.clamp_min(floor * floor), without_masked(truth, mask))
    return reduce(0.5 * score, reduction, weight, mask)


@wide
def multivariate_dawid_sebastiani(
    members: Tensor,
    truth: Tensor,
    *,
    shrinkage: float = 0.0,
    ridge: float = 1e-6,
    ensemble_dim: int = 1,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """(y - m)' S^-1 (y - m) + log det S over the last dimension, m and S the members' mean and unbiased covariance.

    S is (1 - shrinkage) S + shrinkage diag(S) + ridge. By a Cholesky factor.

    Args:
        members: (B, M, *, D). truth: (B, *, D). weight, mask: broadcastable to (B, *). NaN propagates.

    Raises:
        ForecastError: fewer than D + 1 members without shrinkage, shapes that do not match, shrinkage outside [0, 1].
    """
    count, size = check_ensemble(members, truth, ensemble_dim), truth.shape[-1]
    require(0 <= shrinkage <= 1, "shrinkage", shrinkage, "must lie in [0, 1]")
    require(count > size or shrinkage > 0, "members", count, f"{size} variables need more members, or shrinkage > 0")
    x = members.movedim(ensemble_dim, -2)
    mean = x.mean(-2)
    centred = x - mean.unsqueeze(-2)
    covariance = centred.transpose(-1, -2) @ centred / (count - 1)
    diagonal = covariance.diagonal(dim1=-2, dim2=-1)
    covariance = (1 - shrinkage) * covariance + torch.diag_embed(shrinkage * diagonal + ridge)
    factor = torch.linalg.cholesky(covariance)
    z = torch.linalg.solve_triangular(factor, (truth - mean).unsqueeze(-1), upper=False).squeeze(-1)
    score = z.square().sum(-1) + 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return reduce(score, reduction, weight, mask)


@wide
def spread_error(
    members: Tensor,
    truth: Tensor,
    *,
    keep: Sequence[int] = (-1,),
    finite_ensemble: bool = True,
    eps: float = 1e-12,
    ensemble_dim: int = 1,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """(log mean s^2 - log mean (m - y)^2)^2, the means over all dimensions but `keep`: zero where spread is error.

    No proper score: a small term beside one.

    Args:
        members: (B, M, *). truth: (B, *). weight, mask: broadcastable to truth; they enter the means.
        keep: dimensions of truth, from the end, that each have a spread and an error of their own (the variable).
        finite_ensemble: expect the error of the mean of M members, (1 + 1 / M) s^2.

    Returns:
        With reduction none: of the kept dimensions' shape.

    Raises:
        ForecastError: fewer than two members, shapes that do not match, dimensions not counted from the end.
    """
    count = check_ensemble(members, truth, ensemble_dim)
    require(all(-truth.ndim <= dim < 0 for dim in keep), "keep", tuple(keep), "must be counted from the end")
    over = [dim for dim in range(truth.ndim) if dim - truth.ndim not in keep]
    variance, mean = torch.var_mean(members, dim=ensemble_dim)
    error = (mean - without_masked(truth, mask)).square()
    total = reduce(torch.ones_like(truth), "none", weight, mask)
    sums = [(total * without_masked(part, mask)).sum(over) for part in (variance, error)]
    there = total.sum(over)
    means = [part / torch.where(there > 0, there, 1.0) for part in sums]
    factor = 1 + 1 / count if finite_ensemble else 1.0
    penalty = ((factor * means[0] + eps).log() - (means[1] + eps).log()).square()
    return reduce(penalty, reduction, mask=there > 0)


@register(
    "gaussian_log_score",
    formula="log(2 pi)/2 + log sigma + z^2/2",
    source="Good 1952; Gneiting and Raftery 2007; scoringrules, logs_normal",
    use="heads that predict mean and spread, where a sharp penalty of overconfidence is wanted",
    status="verified",
    takes="other",
)
class GaussianLogScoreLoss(Loss, of=gaussian_log_score):
    """`gaussian_log_score` with its settings fixed."""


@register(
    "dawid_sebastiani",
    formula="z^2 + 2 log sigma",
    source="Dawid and Sebastiani 1999; scoringrules, dssuv_ensemble",
    use="mean and spread of a variable whose distribution is not known",
    status="verified",
    takes="other",
)
class DawidSebastianiLoss(Loss, of=dawid_sebastiani):
    """`dawid_sebastiani` with its settings fixed."""


@register(
    "ensemble_log_score",
    formula="(log s^2 + z^2) / 2, s^2 the unbiased variance of the members",
    source="makani, EnsembleNLLLoss (there with the biased variance)",
    use="a smooth score of the members' mean and spread; CRPS is safer for few members",
    status="verified",
    takes="ensemble",
)
class EnsembleLogScoreLoss(Loss, of=ensemble_log_score):
    """`ensemble_log_score` with its settings fixed."""


@register(
    "multivariate_dawid_sebastiani",
    formula="(y - m)' S^-1 (y - m) + log det S",
    source="Dawid and Sebastiani 1999; Scheuerer and Hamill 2015; scoringrules, dssmv_ensemble",
    use="correlations of a few variables or stations with many members",
    status="verified",
    takes="ensemble",
)
class MultivariateDawidSebastianiLoss(Loss, of=multivariate_dawid_sebastiani):
    """`multivariate_dawid_sebastiani` with its settings fixed."""


@register(
    "spread_error",
    formula="(log((1 + 1/M) mean s^2) - log mean (m - y)^2)^2",
    source="derived from the spread-error relation of Fortin et al. 2014",
    use="a small term that holds each variable's spread to its error",
    status="derived",
    takes="ensemble",
)
class SpreadErrorLoss(Loss, of=spread_error):
    """`spread_error` with its settings fixed."""
