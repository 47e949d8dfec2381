"""CRPS of an ensemble: standard, fair and almost fair, value and gradient without member-by-member tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from forecast.core.errors import ForecastError
from forecast.losses.registry import register

_PAIRS_UP_TO = 12  # members; from there on sorting is faster than all pairs


def almost_fair_crps(
    members: Tensor, truth: Tensor, alpha: float = 0.95, dim: int = 1, weights: Tensor | None = None
) -> Tensor:
    """Almost fair CRPS, alpha * fair + (1 - alpha) * standard, at each point.

    mean_j |x_j - y| - (M - 1 + alpha) / (M^2 (M - 1)) * sum_{j<k} |x_j - x_k|      (Lang et al. 2026, eqs 1-4)

    alpha = 1 is the fair CRPS (a lone member that differs from the rest is not penalised), alpha = 0 the standard one
    (too little spread for few members). Computed in float32 at least. Gradients at ties are the mean of both sides.

    Args:
        members: (..., M, ...) ensemble, M along `dim`. truth: the same without `dim`.
        weights: broadcastable to truth; multiplies the score.

    Returns:
        The score, of truth's shape.

    Raises:
        ForecastError: fewer than two members, alpha outside [0, 1], or shapes that do not match.
    """
    _check(members, truth, alpha, dim)
    with torch.autocast(members.device.type, enabled=False):
        wide = torch.promote_types(members.dtype, torch.float32)
        return _Crps.apply(members.to(wide), truth.to(wide), alpha, dim, weights)


def fair_crps(members: Tensor, truth: Tensor, dim: int = 1, weights: Tensor | None = None) -> Tensor:
    """Fair CRPS: its expectation does not depend on the number of members (Ferro 2014); see `almost_fair_crps`."""
    return almost_fair_crps(members, truth, 1.0, dim, weights)


def crps(members: Tensor, truth: Tensor, dim: int = 1, weights: Tensor | None = None) -> Tensor:
    """CRPS of the members' empirical distribution; see `almost_fair_crps`."""
    return almost_fair_crps(members, truth, 0.0, dim, weights)


@register(
    "almost_fair_crps",
    formula="mean_j |x_j - y| - (M - 1 + alpha) / (2 M^2 (M - 1)) sum_jk |x_j - x_k|",
    source="Lang et al. 2026, AIFS-CRPS, eqs 1-4",
    use="what the graph transformer is trained with",
    status="verified",
    takes="ensemble",
)
class AlmostFairCRPS(nn.Module):
    """`almost_fair_crps` with its options fixed."""

    def __init__(self, alpha: float = 0.95, dim: int = 1) -> None:
        super().__init__()
        self.alpha, self.dim = alpha, dim

    def forward(self, members: Tensor, truth: Tensor, weights: Tensor | None = None) -> Tensor:
        """The score at each point, of truth's shape."""
        return almost_fair_crps(members, truth, self.alpha, self.dim, weights)


@register(
    "fair_crps",
    formula="mean_j |x_j - y| - 1 / (2 M (M - 1)) sum_jk |x_j - x_k|",
    source="Ferro 2014",
    use="its expectation does not depend on the number of members",
    status="verified",
    takes="ensemble",
)
class FairCRPS(AlmostFairCRPS):
    """`fair_crps` with its options fixed."""

    def __init__(self, dim: int = 1) -> None:
        super().__init__(1.0, dim)


@register(
    "crps",
    formula="mean_j |x_j - y| - 1 / (2 M^2) sum_jk |x_j - x_k|",
    source="Gneiting and Raftery 2007",
    use="score of the members' empirical distribution; too little spread for few members",
    status="verified",
    takes="ensemble",
)
class CRPS(AlmostFairCRPS):
    """`crps` with its options fixed."""

    def __init__(self, dim: int = 1) -> None:
        super().__init__(0.0, dim)


def _check(members: Tensor, truth: Tensor, alpha: float, dim: int) -> None:
    count = members.shape[dim]
    if count < 2:
        raise ForecastError(f"almost_fair_crps: {count} member along dimension {dim}; at least 2 are needed")
    if not 0 <= alpha <= 1:
        raise ForecastError(f"almost_fair_crps: alpha={alpha} must lie in [0, 1]")
    expected = list(members.shape)
    del expected[dim]
    if list(truth.shape) != expected:
        raise ForecastError(
            f"almost_fair_crps: truth has shape {tuple(truth.shape)}; the members' without `dim` is {tuple(expected)}"
        )


class _Crps(torch.autograd.Function):
    """Recomputes signs or ranks in backward instead of keeping them."""

    @staticmethod
    def forward(ctx: Any, members: Tensor, truth: Tensor, alpha: float, dim: int, weights: Tensor | None) -> Tensor:
        ctx.save_for_backward(members, truth, weights)
        ctx.alpha, ctx.dim = alpha, dim
        count = members.shape[dim]
        score = torch.zeros_like(truth)
        for member in members.unbind(dim):
            score += (member - truth).abs_()
        score.div_(count).sub_(_pair_sum(members, dim), alpha=_coefficient(count, alpha))
        return score if weights is None else score * weights

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        members, truth, weights = ctx.saved_tensors
        grad = grads[0] if weights is None else grads[0] * weights
        dim, count = ctx.dim, members.shape[ctx.dim]
        sign = (members - truth.unsqueeze(dim)).sign_().div_(count)
        to_truth = -sign.sum(dim).mul_(grad) if ctx.needs_input_grad[1] else None
        _add_pair_signs(sign, members, dim, -_coefficient(count, ctx.alpha))
        return sign.mul_(grad.unsqueeze(dim)), to_truth, None, None, None


def _coefficient(count: int, alpha: float) -> float:
    """Of the sum over pairs j < k."""
    return (count - 1 + alpha) / (count**2 * (count - 1))


def _pair_sum(members: Tensor, dim: int) -> Tensor:
    """Sum over pairs j < k of |x_j - x_k|: for the k-th smallest of M the factor is 2k - M + 1 (k from 0)."""
    count = members.shape[dim]
    if count <= _PAIRS_UP_TO:
        each = members.unbind(dim)
        total = torch.zeros_like(each[0])
        for k in range(1, count):
            for j in range(k):
                total += (each[j] - each[k]).abs_()
        return total
    ordered = members.sort(dim=dim).values
    factor = 2 * torch.arange(count, dtype=members.dtype, device=members.device) - count + 1
    return torch.tensordot(ordered, factor, dims=([dim], [0]))


def _add_pair_signs(total: Tensor, members: Tensor, dim: int, factor: float) -> None:
    """total_j += factor * sum over k of sign(x_j - x_k), in place."""
    count = members.shape[dim]
    if count > _PAIRS_UP_TO:
        total.add_(_centred_ranks(members.movedim(dim, -1)).movedim(-1, dim), alpha=factor)
        return
    each, totals = members.unbind(dim), total.unbind(dim)
    for k in range(1, count):
        for j in range(k):
            sign = (each[j] - each[k]).sign_()
            totals[j].add_(sign, alpha=factor)
            totals[k].sub_(sign, alpha=factor)


def _centred_ranks(x: Tensor) -> Tensor:
    """Sum over k of sign(x_j - x_k) along the last dimension: members below minus members above, ties counting 0."""
    x = x.contiguous()
    ordered = x.sort(dim=-1).values
    below = torch.searchsorted(ordered, x)
    not_above = torch.searchsorted(ordered, x, right=True)
    return (below + not_above - x.shape[-1]).to(x.dtype)
