"""Topology of masks and fields: which pieces and holes a forecast has that the truth has not.

Superlevel sets of a map (H, W) grow as the threshold falls: pieces (dimension 0, cells that touch by their sides) are
born at maxima and die where they join an older one; holes (dimension 1) are born where a ring closes and die when they
are filled. Only the pairing of cells is a search, on the CPU; values and gradients are read from the cells, so the
gradient is that of a fixed pairing. The borders of a map are borders: longitudes do not wrap.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from forecast.losses.common import Loss, leave_out, reduce, require, same_shape, wide
from forecast.losses.persistence import Bars, bars, matched_holes, matched_pieces
from forecast.losses.registry import register


@wide
def betti_matching(
    logits: Tensor,
    labels: Tensor,
    *,
    from_logits: bool = True,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Sum over pieces and holes of 2 |(b, d) - (b', d')|^2 if matched through the union, else (b - d)^2.

    Two features match where they become one and the same in the cellwise maximum of forecast and truth: they overlap in
    space, not only in value. The piece that never dies matches its like. The published loss adds `dice` at twice the
    weight.

    Args:
        logits: (B, *, H, W). labels: (B, *, H, W) in [0, 1]. from_logits: else probabilities.

    Returns:
        The loss, by map (B, *) before the reduction; weight and mask too are by map.

    Raises:
        ForecastError: shapes that do not match, no maps, or fewer than two cells on a side.
    """
    same_shape(logits=logits, labels=labels)
    require(
        logits.ndim >= 3 and min(logits.shape[-2:]) >= 2, "logits", tuple(logits.shape), "must be maps (B, *, H, W)"
    )
    forecast = logits.sigmoid() if from_logits else logits
    size = logits.shape[-2:]
    forecast, truth = leave_out(mask, logits.shape[:-2], forecast, labels.to(forecast.dtype))
    maps = zip(forecast.reshape(-1, *size), truth.reshape(-1, *size), strict=True)
    errors = [_matching_error(x, y) for x, y in maps]
    value = torch.stack(errors).view(logits.shape[:-2]) if errors else forecast.sum((-2, -1))
    return reduce(value, reduction, weight, mask)


def _matching_error(x: Tensor, y: Tensor) -> Tensor:
    a, b = _numbers(x), _numbers(y)
    x, y = x.flatten(), y.flatten()
    total = 2 * (x[int(a.argmax())] - y[int(b.argmax())]).square()  # of the pieces that never die
    for match in (matched_pieces, matched_holes):
        of_x, of_y, i, j = match(a, b)
        gap_x, gap_y = _lengths(x, of_x), _lengths(y, of_y)
        total = total + gap_x.square().sum() + gap_y.square().sum()
        total = total - gap_x[i].square().sum() - gap_y[j].square().sum()
        for end_x, end_y in zip(of_x, of_y, strict=True):
            total = total + 2 * (x[_index(end_x[i], x)] - y[_index(end_y[j], y)]).square().sum()
    return total


@wide
def multi_persistence(
    forecast: Tensor,
    truth: Tensor,
    *,
    directions: Sequence[Sequence[float]] | None = None,
    dimensions: Sequence[int] = (0, 1),
    keep: int = 64,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Squared Wasserstein-2 distance of persistence diagrams along lines through P fields at once, mean over the lines.

    Where every field exceeds t u_p is where min_p x_p / u_p exceeds t: one filtration, a slice of the joint one, for
    each direction u > 0. Slices are our adapter; the paper compares signed measures of the whole.

    Args:
        forecast, truth: (B, P, H, W), or volumes (B, P, L, H, W), which need gudhi; fields of unit size, no NaN.
        directions: (S, P), all above 0; by default all ones, and each field at three times the others.
        dimensions: 0 pieces, 1 holes (2 hollows, of volumes). keep: only the longest bars of each diagram.

    Returns:
        The loss, by sample (B,) before the reduction.

    Raises:
        ForecastError: shapes that do not match, directions that are not (S, P) above 0, or volumes without gudhi.
    """
    same_shape(forecast=forecast, truth=truth)
    require(forecast.ndim in (4, 5) and min(forecast.shape[2:]) >= 2, "forecast", tuple(forecast.shape),
            "must be (B, P, H, W) or (B, P, L, H, W)")  # fmt: skip
    require(keep >= 1, "keep", keep, "must be at least 1")
    forecast, truth = leave_out(mask, forecast.shape[:1], forecast, truth)
    fields = forecast.shape[1]
    lines = torch.as_tensor(_directions(fields) if directions is None else directions).to(forecast)
    require(lines.ndim == 2 and lines.shape[1] == fields and bool((lines > 0).all()), "directions", directions,
            f"must be (S, {fields}) above 0")  # fmt: skip
    value = forecast.flatten(1).sum(1) * 0.0
    for line in lines:
        u = line.view(1, fields, *[1] * (forecast.ndim - 2))
        slices = zip((forecast / u).amin(1), (truth / u).amin(1), strict=True)
        errors = [_diagram_error(x, y, dimensions, keep) for x, y in slices]
        value = value + torch.stack(errors) / len(lines) if errors else value
    return reduce(value, reduction, weight, mask)


def _directions(fields: int) -> list[list[float]]:
    ones = [1.0] * fields
    return [ones] if fields == 1 else [ones, *([1.0 + 2.0 * (i == j) for j in range(fields)] for i in range(fields))]


def _diagram_error(x: Tensor, y: Tensor, dimensions: Sequence[int], keep: int) -> Tensor:
    a, b = _numbers(x), _numbers(y)
    x, y = x.flatten(), y.flatten()
    total = x.sum() * 0.0
    if 0 in dimensions:
        total = total + (x[int(a.argmax())] - y[int(b.argmax())]).square()
    for dimension in dimensions:
        one, two = (_points(z, bars(values, dimension), keep) for z, values in ((x, a), (y, b)))
        total = total + _transport(one, two)
    return total


def _points(z: Tensor, found: Bars, keep: int) -> Tensor:
    """(n, 2) birth and death of the longest bars."""
    points = torch.stack([z[_index(end, z)] for end in found], dim=-1)
    return points[(points[:, 0] - points[:, 1]).topk(min(keep, len(points))).indices]


def _transport(one: Tensor, two: Tensor) -> Tensor:
    """Least sum of squared distances between the points, of which each may go to the diagonal instead."""
    m, n = len(one), len(two)
    alone = [(p[:, 0] - p[:, 1]).square() / 2 for p in (one, two)]
    cost = np.zeros((m + n, m + n))
    cost[:m, :n] = (one[:, None] - two[None]).detach().square().sum(-1).cpu()
    cost[:m, n:] = alone[0].detach().cpu()[:, None]
    cost[m:, :n] = alone[1].detach().cpu()[None]
    rows, columns = linear_sum_assignment(cost)
    both = (rows < m) & (columns < n)
    i, j = _index(rows[both], one), _index(columns[both], two)
    return (one[i] - two[j]).square().sum() + sum(a.sum() - a[k].sum() for a, k in zip(alone, (i, j), strict=True))


def _lengths(z: Tensor, found: Bars) -> Tensor:
    return z[_index(found[0], z)] - z[_index(found[1], z)]


def _index(cells: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(cells, dtype=np.int64)).to(like.device)


def _numbers(z: Tensor) -> np.ndarray:
    return z.detach().cpu().double().numpy()


@register(
    "betti_matching",
    formula="sum over matched bars of 2 |(b, d) - (b', d')|^2 + over others of (b - d)^2",
    source="Stucki et al. 2023, Topologically faithful image segmentation via induced matching; BettiMatching.py",
    use="fronts, rain bands and cyclones that hang together as observed; slow, for small maps",
    status="verified",
    takes="maps",
)
class BettiMatchingLoss(Loss, of=betti_matching):
    """`betti_matching` with its settings fixed."""


@register(
    "multi_persistence",
    formula="mean over directions u of W2^2(diagram(min_p x_p / u_p), diagram(min_p y_p / u_p))",
    source="Scoccola et al. 2024, Differentiability and optimization of multiparameter persistent homology; by slices",
    use="features of several fields at once, e.g. strong wind where it rains; extra only for volumes",
    status="derived",
    takes="maps",
    extra="losses-extra",
)
class MultiPersistenceLoss(Loss, of=multi_persistence):
    """`multi_persistence` with its settings fixed."""
