"""Distances between two sets of fields: an ensemble's members and several analyses (or one) of the same time.

Shapes: members (B, M, *), references (B, N, *) or, one of them, (B, *); the result is one number a sample, (B,).
Fields are compared as vectors: `weight` and `mask`, broadcastable to (B, *), are the weight of each component in the
squared distance, e.g. areas, (G, 1) for (B, M, G, V). Members need not be as many as references.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from forecast.core.errors import ForecastError
from forecast.losses.common import Loss, reduce, require, wide
from forecast.losses.registry import register


@wide
def energy_distance(
    members: Tensor,
    references: Tensor,
    *,
    alpha: float = 0.95,
    ensemble_dim: int = 1,
    allow_deterministic: bool = False,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Energy distance 2 E|X - Y| - E|X - X'| - E|Y - Y'| (Székely and Rizzo 2013); twice the energy score for N = 1.

    Args:
        alpha: 0 takes E|X - X'| over all pairs: then the distance is 0 between equal sets, but the mean over samples
            rewards too little spread when members are few. 1 takes distinct pairs only: unbiased, and may be negative.
            Between them, the mixture, as in the almost fair CRPS.
        allow_deterministic: take a single member, E|X - X'| = 0, instead of raising.

    Raises:
        ForecastError: fewer than 2 members, alpha outside [0, 1], or shapes that do not match.
    """
    require(0 <= alpha <= 1, "alpha", alpha, "must lie in [0, 1]")
    x, y = _sets(members, references, ensemble_dim, weight, mask)
    _enough(x, allow_deterministic)
    value = 2 * _between(x, y).mean(dim=(1, 2)) - _within(x, alpha) - _within(y, alpha)
    return reduce(value, reduction)


@wide
def sinkhorn_divergence(
    members: Tensor,
    references: Tensor,
    *,
    blur: float = 0.05,
    p: int = 2,
    iterations: int = 100,
    ensemble_dim: int = 1,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Debiased entropic transport cost OT(X, Y) - OT(X, X) / 2 - OT(Y, Y) / 2 (Feydy et al. 2019).

    The cost is |x - y|^p / p, the entropy's weight blur^p. blur -> 0 is optimal transport, blur -> infinity, p = 2,
    half the squared distance of the means. Solved in the log domain, from a wide blur down; the gradient is that
    of a converged solution (transport plan times gradient of the cost), so it is first order only.

    Args:
        blur: distance below which points are not told apart, in the unit of |x - y|. p: 1 or 2.
        iterations: at the final blur.

    Raises:
        ForecastError: blur not above 0, p other than 1 or 2, or shapes that do not match.
    """
    require(blur > 0, "blur", blur, "must be above 0")
    require(p in (1, 2), "p", p, "must be 1 or 2")
    require(iterations >= 1, "iterations", iterations, "must be at least 1")
    x, y = _sets(members, references, ensemble_dim, weight, mask)
    cross, own, other = (_transport(_between(*pair) ** p / p, blur**p, iterations) for pair in ((x, y), (x, x), (y, y)))
    return reduce(cross - own / 2 - other / 2, reduction)


@wide
def frechet_distance(
    members: Tensor,
    references: Tensor,
    *,
    ensemble_dim: int = 1,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """|m_x - m_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^(1/2)): squared Wasserstein-2 distance of the two Gaussians.

    Unbiased covariances; no matrix larger than (M, N) is built, however large the fields.

    Raises:
        ForecastError: fewer than 2 members or references, or shapes that do not match.
    """
    x, y = _sets(members, references, ensemble_dim, weight, mask)
    for name, points in (("members", x), ("references", y)):
        require(points.shape[1] >= 2, name, points.shape[1], "a covariance needs at least 2")
    mean_x, mean_y = x.mean(1, keepdim=True), y.mean(1, keepdim=True)
    x, y = (x - mean_x) / math.sqrt(x.shape[1] - 1), (y - mean_y) / math.sqrt(y.shape[1] - 1)
    # tr (S_x S_y)^(1/2) is the sum of singular values of a small product; of NaN there are none, the rest carries it on
    shared = torch.linalg.svdvals((x @ y.mT).nan_to_num()).sum(-1)
    value = (mean_x - mean_y).square().sum((1, 2)) + x.square().sum((1, 2)) + y.square().sum((1, 2)) - 2 * shared
    return reduce(value, reduction)


@wide
def pulaski(
    members: Tensor,
    references: Tensor,
    divergence: Tensor | None = None,
    *,
    distance: str = "energy",
    beta: float = 1.0,
    alpha: float = 0.95,
    blur: float = 0.05,
    ensemble_dim: int = 1,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Distance between samples of a latent-variable network and the annotations, plus beta times its KL divergence.

    Args:
        divergence: (B,) KL of the posterior from the prior, or None.
        distance: energy, sinkhorn or frechet. beta: ours to choose, no default of the paper is known.

    Raises:
        ForecastError: an unknown distance, a divergence that is not (B,), or what the distance raises.
    """
    common = {"ensemble_dim": ensemble_dim, "reduction": "none", "weight": weight, "mask": mask}
    if distance == "energy":
        value = energy_distance(members, references, alpha=alpha, **common)
    elif distance == "sinkhorn":
        value = sinkhorn_divergence(members, references, blur=blur, **common)
    elif distance == "frechet":
        value = frechet_distance(members, references, **common)
    else:
        raise ForecastError(f"distance={distance!r}: must be energy, sinkhorn or frechet")
    if divergence is not None:
        require(divergence.shape == value.shape, "divergence", tuple(divergence.shape), "must be (B,)")
        value = value + beta * divergence
    return reduce(value, reduction)


def _sets(
    members: Tensor, references: Tensor, ensemble_dim: int, weight: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Members (B, M, D) and references (B, N, D), scaled so that the plain distance is the weighted one."""
    members = members.movedim(ensemble_dim, 1)
    references = references[:, None] if references.ndim == members.ndim - 1 else references.movedim(ensemble_dim, 1)
    field = (members.shape[0], *members.shape[2:])
    require((references.shape[0], *references.shape[2:]) == field, "references", tuple(references.shape),
            f"must be fields of shape {field[1:]} for {field[0]} samples")  # fmt: skip
    both = torch.cat([members, references], dim=1)
    for name, factor in (("weight", weight), ("mask", mask)):
        if factor is None:
            continue
        try:
            fitted = factor.broadcast_to(field)[:, None]
        except RuntimeError:
            raise ForecastError(f"{name} of shape {tuple(factor.shape)} does not fit {field}") from None
        both = both * fitted.sqrt() if name == "weight" else both.masked_fill(~fitted.bool(), 0.0)
    both = both.flatten(2) if both.ndim > 2 else both[..., None]
    return both[:, : members.shape[1]], both[:, members.shape[1] :]


def _enough(x: Tensor, allow_deterministic: bool) -> None:
    require(x.shape[1] >= (1 if allow_deterministic else 2), "members", x.shape[1], "at least 2 are needed")


def _between(x: Tensor, y: Tensor) -> Tensor:
    """(B, M, N) distances; their gradient is 0 where two points are one."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def _within(x: Tensor, alpha: float) -> Tensor:
    """(B,) mean distance of two of the set: of distinct ones (alpha = 1), of any two (0), or between."""
    count = x.shape[1]
    if count == 1:
        return x.new_zeros(x.shape[0])
    return _between(x, x).sum(dim=(1, 2)) * (count - 1 + alpha) / (count**2 * (count - 1))


def _transport(cost: Tensor, epsilon: float, iterations: int) -> Tensor:
    """(B,) entropic transport cost of uniform weights, (B, M, N) cost; gradient by the envelope theorem."""
    m, n = cost.shape[1:]
    with torch.no_grad():
        f, g = _potentials(cost, epsilon, iterations)
        plan = ((f[:, :, None] + g[:, None] - cost) / epsilon).exp() / (m * n)
        entropy = f.mean(1) + g.mean(1) - (plan * cost).sum(dim=(1, 2))
    return (plan * cost).sum(dim=(1, 2)) + entropy


def _potentials(cost: Tensor, epsilon: float, iterations: int) -> tuple[Tensor, Tensor]:
    m, n = cost.shape[1:]
    f, g = cost.new_zeros(cost.shape[:2]), cost.new_zeros(cost.shape[0], n)
    widest = max(float(cost.nan_to_num().max()), epsilon)
    coarse = [widest / 4**k for k in range(max(0, math.ceil(math.log(widest / epsilon, 4))))]
    for blur in [*coarse, *[epsilon] * iterations]:
        f = -blur * (torch.logsumexp((g[:, None] - cost) / blur, dim=2) - math.log(n))
        g = -blur * (torch.logsumexp((f[:, :, None] - cost) / blur, dim=1) - math.log(m))
    return f, g


@register(
    "energy_distance",
    formula="2 E|X - Y| - E|X - X'| - E|Y - Y'|",
    source="Székely and Rizzo 2013, Energy statistics; PULASki's pipeline.py",
    use="ensemble against several analyses of the same time; whole fields, so it sees correlations",
    status="verified",
    takes="ensemble",
)
class EnergyDistanceLoss(Loss, of=energy_distance):
    """`energy_distance` with its settings fixed."""


@register(
    "sinkhorn_divergence",
    formula="OT_eps(X, Y) - OT_eps(X, X) / 2 - OT_eps(Y, Y) / 2, cost |x - y|^p / p, eps = blur^p",
    source="Feydy et al. 2019, Interpolating between OT and MMD, arXiv:1810.08278; PULASki's pipeline.py",
    use="as the energy distance, with members paired to the analyses that they resemble",
    status="verified",
    takes="ensemble",
)
class SinkhornDivergenceLoss(Loss, of=sinkhorn_divergence):
    """`sinkhorn_divergence` with its settings fixed."""


@register(
    "frechet_distance",
    formula="|m_x - m_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^(1/2))",
    source="Dowson and Landau 1982; PULASki's pipeline.py",
    use="match mean and covariance of members to those of a multi-analysis, in latent or grid space",
    status="verified",
    takes="ensemble",
)
class FrechetDistanceLoss(Loss, of=frechet_distance):
    """`frechet_distance` with its settings fixed."""


@register(
    "pulaski",
    formula="distance(members, annotations) + beta KL",
    source="Chatterjee et al. 2023, PULASki; pipeline.py",
    use="latent-variable ensemble matched to an ensemble of analyses",
    status="verified",
    takes="ensemble",
)
class PulaskiLoss(Loss, of=pulaski):
    """`pulaski` with its settings fixed."""
