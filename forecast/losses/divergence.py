"""Divergences of two distributions given by their parameters: diagonal Gaussians, and categories."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from forecast.losses.common import Loss, reduce, require, same_shape, wide, without_masked
from forecast.losses.registry import register

KINDS = ("forward", "reverse", "symmetric", "jensen_shannon")


@wide
def gaussian_divergence(
    mean: Tensor,
    logvar: Tensor,
    prior_mean: Tensor,
    prior_logvar: Tensor,
    *,
    kind: str = "symmetric",
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Divergence of diagonal Gaussians q and p, summed over the last dimension.

    forward: KL(q || p). reverse: KL(p || q). symmetric: (KL(q || p) + KL(p || q)) / 2. jensen_shannon: the geometric
    one, (KL(q || g) + KL(p || g)) / 2 with g the normalised sqrt(q p), since that with their mean has no closed form;
    it is symmetric too, and half as steep far away.

    Args:
        mean, logvar: (B, *, D) of q. prior_mean, prior_logvar: of p. weight, mask: broadcastable to (B, *).

    Returns:
        (B, *) reduced.

    Raises:
        ForecastError: shapes that differ, an unknown kind.
    """
    require(kind in KINDS, "kind", kind, f"must be one of {', '.join(KINDS)}")
    same_shape(mean=mean, logvar=logvar, prior_mean=prior_mean, prior_logvar=prior_logvar)
    inner = None if mask is None else mask[..., None]
    q = without_masked(mean, inner), without_masked(logvar, inner)
    p = without_masked(prior_mean, inner), without_masked(prior_logvar, inner)
    if kind == "forward":
        value = _kl(q, p)
    elif kind == "reverse":
        value = _kl(p, q)
    elif kind == "symmetric":
        value = (_kl(q, p) + _kl(p, q)) / 2
    else:
        middle = _geometric_mean(q, p)
        value = (_kl(q, middle) + _kl(p, middle)) / 2
    return reduce(value.sum(-1), reduction, weight, mask)


def _kl(q: tuple[Tensor, Tensor], p: tuple[Tensor, Tensor]) -> Tensor:
    gap = q[1] - p[1]
    return (torch.expm1(gap) - gap + (q[0] - p[0]).square() * (-p[1]).exp()) / 2


def _geometric_mean(q: tuple[Tensor, Tensor], p: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and log variance of the normalised sqrt(q p)."""
    logvar = math.log(2) - torch.logaddexp(-q[1], -p[1])
    share = torch.sigmoid(p[1] - q[1])  # of q's precision
    return share * q[0] + (1 - share) * p[0], logvar


@register(
    "gaussian_divergence",
    formula="KL(q || p), KL(p || q), their mean, or the mean of KL to the normalised sqrt(q p)",
    source="Kullback and Leibler 1951; Jeffreys 1946; Deasy et al. 2020, geometric Jensen-Shannon, arXiv:2006.10599",
    use="posterior against prior of a latent ensemble: reverse to seek modes, symmetric to punish both",
    status="derived",
    takes="latent",
)
class GaussianDivergenceLoss(Loss, of=gaussian_divergence):
    """`gaussian_divergence` with its settings fixed."""


@wide
def categorical_divergence(
    logits: Tensor,
    prior_logits: Tensor,
    *,
    kind: str = "jensen_shannon",
    class_dim: int = -1,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Divergence of categories q and p: KL(q || p) (forward), KL(p || q) (reverse), their mean, or Jensen-Shannon.

    Jensen-Shannon is (KL(q || m) + KL(p || m)) / 2 with m = (q + p) / 2: symmetric, at most log 2, finite always.

    Args:
        logits, prior_logits: K of them along class_dim. weight, mask: broadcastable to the rest.

    Returns:
        The shape of the logits without class_dim, reduced.

    Raises:
        ForecastError: shapes that differ, an unknown kind.
    """
    require(kind in KINDS, "kind", kind, f"must be one of {', '.join(KINDS)}")
    same_shape(logits=logits, prior_logits=prior_logits)
    inner = None if mask is None else mask.unsqueeze(-1)
    q, p = (F.log_softmax(without_masked(x.movedim(class_dim, -1), inner), -1) for x in (logits, prior_logits))
    if kind == "forward":
        value = _discrete_kl(q, p)
    elif kind == "reverse":
        value = _discrete_kl(p, q)
    elif kind == "symmetric":
        value = (_discrete_kl(q, p) + _discrete_kl(p, q)) / 2
    else:
        middle = torch.logaddexp(q, p) - math.log(2)
        value = (_discrete_kl(q, middle) + _discrete_kl(p, middle)) / 2
    return reduce(value, reduction, weight, mask)


def _discrete_kl(log_q: Tensor, log_p: Tensor) -> Tensor:
    return (log_q.exp() * (log_q - log_p)).sum(-1)


@register(
    "categorical_divergence",
    formula="KL(q || p), KL(p || q), their mean, or (KL(q || m) + KL(p || m)) / 2 with m = (q + p) / 2",
    source="Kullback and Leibler 1951; Lin 1991, Divergence measures based on the Shannon entropy",
    use="two models' probabilities of classes of weather, or a discrete latent against its prior",
    status="derived",
    takes="latent",
)
class CategoricalDivergenceLoss(Loss, of=categorical_divergence):
    """`categorical_divergence` with its settings fixed."""
