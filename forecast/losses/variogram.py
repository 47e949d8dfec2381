"""Variogram score: how much fields differ from point to point, on graph edges, random pairs or all pairs."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from forecast.losses.common import Loss, check_ensemble, empty, reduce, require, wide, without_masked
from forecast.losses.multivariate import split_weight
from forecast.losses.registry import register

_again_in_backward = functools.partial(checkpoint, use_reentrant=False, preserve_rng_state=False)


@wide
def variogram_score(
    members: Tensor,
    truth: Tensor,
    *,
    order: float = 0.5,
    edges: Tensor | None = None,
    pairs: int | None = None,
    fair: bool = True,
    total: bool = False,
    eps: float = 1e-12,
    point_dim: int = -2,
    ensemble_dim: int = 1,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Mean over pairs of points (a, b) of (|y_a - y_b|^p - mean_j |x_ja - x_jb|^p)^2 [- s^2 / M].

    s^2 is the unbiased variance of the members' |x_a - x_b|^p: without it (fair=False) few members are asked for too
    little spread. Blind to a shift that all points share: use beside a score of values. |d|^p is (d^2 + eps)^(p/2).
    Pairs are taken G at a time and again in backward, so that memory does not grow with their number.

    Args:
        members: (B, M, *), usually (B, M, ..., G, V). truth: (B, *). A NaN in truth propagates unless masked.
        order: p.
        edges: (2, E) pairs of point numbers. pairs: draw as many at random instead, anew at each call. Neither: all.
        total: sum over ordered pairs (a, b) and (b, a), as in the paper, instead of the mean.
        point_dim: dimension of the points in truth, from the end.
        weight, mask: broadcastable to truth; a pair has the product of those of its points, relative to their mean
            over points; that mean weighs the score.
        generator: of the random pairs.

    Returns:
        With reduction none: of truth's shape without `point_dim`.

    Raises:
        ForecastError: fewer than two members, shapes that do not match, both edges and pairs, edges that are no (2, E)
            numbers of points.
    """
    count = check_ensemble(members, truth, ensemble_dim)
    require(order > 0, "order", order, "must be positive")
    require(-truth.ndim < point_dim < 0, "point_dim", point_dim, "must be counted from the end")
    inner, outer = split_weight(weight, mask, truth, (point_dim,))
    x = without_masked(members.movedim(ensemble_dim, 0), mask).movedim(point_dim, 0).contiguous()  # (points, M, *)
    y = without_masked(truth, mask).movedim(point_dim, 0).contiguous()
    inner = torch.ones_like(y[:1]).expand_as(y) if inner is None else inner.movedim(point_dim, 0)
    sums = norms = torch.zeros_like(y.sum(0))
    for chunk in _chunks(len(y), edges, pairs, generator, y.device):
        part, norm = _again_in_backward(_chunk, x, y, inner, chunk, order, eps, count if fair else 0)
        sums, norms = sums + part, norms + norm
    if not sums.requires_grad:  # no pair at all: a zero with a graph
        sums = sums + empty(members, truth)
    score = 2 * sums if total else sums / torch.where(norms > 0, norms, torch.ones_like(norms))
    return reduce(score, reduction, outer)


def _chunk(x: Tensor, y: Tensor, inner: Tensor, chunk: Tensor, *settings: Any) -> tuple[Tensor, Tensor]:
    order, eps, count = settings
    a, b = chunk

    def difference(z: Tensor) -> Tensor:
        return _root((z.index_select(0, a) - z.index_select(0, b)).square() + eps, order)

    weight = inner.index_select(0, a) * inner.index_select(0, b)
    ensemble = difference(x)
    mean = ensemble.mean(1)
    score = (difference(y) - mean).square()
    if count:  # less the variance of the mean; torch.var takes four times as long
        score = score - (ensemble - mean.unsqueeze(1)).square().sum(1) / (count * (count - 1))
    return (weight * score).sum(0), weight.sum(0)


def _root(square: Tensor, order: float) -> Tensor:
    """square^(order / 2); roots are many times faster than powers."""
    if order == 1:
        return square.sqrt()
    return square.sqrt().sqrt() if order == 0.5 else square.pow(order / 2)


def _chunks(
    points: int, edges: Tensor | None, pairs: int | None, generator: torch.Generator | None, device: torch.device
) -> Iterator[Tensor]:
    """(2, <= G) pairs of points at a time."""
    require(edges is None or pairs is None, "pairs", pairs, "give edges or pairs, not both")
    if edges is not None:
        good = edges.ndim == 2 and edges.shape[0] == 2 and not edges.is_floating_point()
        require(good, "edges", tuple(edges.shape), "must be (2, E) numbers of points")
        inside = edges.numel() == 0 or (int(edges.min()) >= 0 and int(edges.max()) < points)
        require(inside, "edges", "out of range", f"must lie in 0..{points - 1}")
        yield from edges.to(device).split(max(points, 1), dim=1)
        return
    first = torch.arange(points, device=device)
    if pairs is None:
        for apart in range(1, points // 2 + 1):  # of an even circle the longest one meets each pair twice
            kept = first[: points // 2] if 2 * apart == points else first
            yield torch.stack([kept, (kept + apart) % points])
        return
    require(pairs > 0 and points > 1, "pairs", pairs, f"must be positive, with at least 2 points, not {points}")
    for start in range(0, pairs, points):
        size = min(points, pairs - start)
        a, gap = (_integers(size, low, points, generator, device) for low in (0, 1))
        yield torch.stack([a, (a + gap) % points])


def _integers(size: int, low: int, high: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    return torch.empty(size, dtype=torch.long, device=device).random_(low, high, generator=generator)


@register(
    "variogram_score",
    formula="mean_ab w_ab (|y_a - y_b|^p - mean_j |x_ja - x_jb|^p)^2 [- s_ab^2 / M], p = 1/2",
    source="Scheuerer and Hamill 2015; scoringrules, vs_ensemble; anemoi, GraphVariogramScoreLoss",
    use="spatial texture: fronts and gradients of the right strength wherever they are",
    status="verified",
    takes="ensemble",
)
class VariogramScoreLoss(Loss, of=variogram_score):
    """`variogram_score` with its settings fixed."""
