"""Horizontal gradients of a field against the truth's: how steep, and which way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from forecast.core.errors import ForecastError
from forecast.core.grids import Grid
from forecast.losses.common import from_memory, reduce, require, same_shape, wide, without_masked
from forecast.losses.registry import register
from forecast.losses.transforms import Edges, nearest_neighbours


@from_memory
@wide
def gradient_field(
    forecast: Tensor,
    truth: Tensor,
    *,
    latitudes: Tensor,
    longitude_step: float,
    periodic: bool = True,
    direction: float = 1.0,
    floor: float = 1e-6,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """||grad x| - |grad y|| + direction * (1 - cos of the angle between them), on a map of the sphere.

    Differences to the next cell east and south (in storage order), over their distance on the unit sphere: the shortest
    waves count too. A constant on the whole map changes nothing; a factor changes the first term only. Angles count
    where both gradients exceed `floor`.

    Args:
        forecast, truth: (B, *, H, W). latitudes: (H,) degrees, no two equal. longitude_step: degrees between columns.
        periodic: whether the last column meets the first; else its eastward difference is 0, as is the southward one
            of the last row, and the eastward one within a hair of the poles.

    Returns:
        The loss, (B, *, H, W) before the reduction. Weigh it by area. A masked cell takes out its own value and
        those of cells whose differences reach it.

    Raises:
        ForecastError: shapes that do not match, latitudes that are not (H,) within -90..90, a floor not above 0.
    """
    require(floor > 0, "floor", floor, "must be above 0")
    require(latitudes.shape == forecast.shape[-2:-1] and bool((latitudes.abs() <= 90.0001).all()), "latitudes",
            tuple(latitudes.shape), f"must be {tuple(forecast.shape[-2:-1])} degrees within -90..90")  # fmt: skip
    same_shape(forecast=forecast, truth=truth)
    if mask is not None:
        mask = mask.broadcast_to(forecast.shape).bool()
        forecast, truth = without_masked(forecast, mask), without_masked(truth, mask)
        mask = mask & _east(mask.int(), periodic).eq(0) & _south(mask.int()).eq(0)
    rows = latitudes.to(forecast).deg2rad()
    width = torch.deg2rad(rows.new_tensor(longitude_step)) * rows.cos()
    polar = rows.cos() < 1e-6
    across = torch.where(polar, 0.0, 1 / torch.where(polar, 1.0, width))[:, None]
    height = torch.cat([rows.diff(), rows.new_ones(1)])[:, None]
    parts = [(_east(x, periodic) * across, _south(x) / height) for x in (forecast, truth)]
    one, two = (torch.stack(pair) for pair in parts)
    return reduce(_compare(one, two, 0, direction, floor), reduction, weight, mask)


@from_memory
@wide
def graph_gradient(
    forecast: Tensor,
    truth: Tensor,
    *,
    edges: Edges,
    direction: float = 1.0,
    floor: float = 1e-6,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """As `gradient_field` on any grid: at each point the differences along its edges are the gradient's components.

    The size is their root mean square, the angle that between the two vectors of differences.

    Args:
        forecast, truth: (B, *, G, V). edges: the transform that takes differences along edges.

    Returns:
        The loss, (B, *, G, V) before the reduction; a point without edges counts 0. A masked point takes out its
        neighbours too.

    Raises:
        ForecastError: shapes that do not match, a floor not above 0.
    """
    require(floor > 0, "floor", floor, "must be above 0")
    same_shape(forecast=forecast, truth=truth)
    points = forecast.shape[-2]
    if mask is not None:
        mask = mask.broadcast_to(forecast.shape).bool()
        forecast, truth = without_masked(forecast, mask), without_masked(truth, mask)
        lost = ~edges.mask(mask)
        mask = mask & ~(_at_ends(lost.to(forecast.dtype), edges.edges, points) > 0)
    x, y = edges(forecast), edges(truth)
    count = torch.bincount(edges.edges.flatten(), minlength=points).clamp_min(1).to(x.dtype)[:, None]
    square_x, square_y, product = (_at_ends(z, edges.edges, points) / count for z in (x * x, y * y, x * y))
    return reduce(_from_products(square_x, square_y, product, direction, floor), reduction, weight, mask)


def _east(x: Tensor, periodic: bool) -> Tensor:
    """The next column minus this one."""
    step = x.roll(-1, -1) - x
    if not periodic:
        step = torch.cat([step[..., :-1], torch.zeros_like(step[..., :1])], dim=-1)
    return step


def _south(x: Tensor) -> Tensor:
    """The next row minus this one, 0 for the last."""
    return torch.cat([x.diff(dim=-2), torch.zeros_like(x[..., :1, :])], dim=-2)


def _at_ends(on_edges: Tensor, edges: Tensor, points: int) -> Tensor:
    """(..., E, V) summed at both ends of each edge, (..., G, V)."""
    total = on_edges.new_zeros(*on_edges.shape[:-2], points, on_edges.shape[-1])
    return total.index_add(-2, edges[0], on_edges).index_add(-2, edges[1], on_edges)


def _compare(one: Tensor, two: Tensor, dim: int, direction: float, floor: float) -> Tensor:
    return _from_products(one.square().sum(dim), two.square().sum(dim), (one * two).sum(dim), direction, floor)


def _from_products(xx: Tensor, yy: Tensor, xy: Tensor, direction: float, floor: float) -> Tensor:
    """From <x, x>, <y, y> and <x, y> of two gradients; finite slopes where one vanishes."""
    size_x, size_y = (torch.where(z > 0, z.clamp_min(torch.finfo(z.dtype).tiny).sqrt(), 0.0) for z in (xx, yy))
    both = (size_x > floor) & (size_y > floor)
    cosine = xy / torch.where(both, size_x * size_y, torch.ones_like(xy))
    return (size_x - size_y).abs() + direction * torch.where(both, 1 - cosine, torch.zeros_like(cosine))


@register(
    "gradient_field",
    formula="||grad x| - |grad y|| + c (1 - cos(grad x, grad y)), finite differences over distance on the sphere",
    source="RADIANCE: Radio-frequency adversarial deep-learning inference; gradient loss",
    use="fronts and jets as steep as observed: a check on blur of maps on a latitude-longitude grid",
    status="from memory",
    takes="field",
)
class GradientFieldLoss(nn.Module):
    """`gradient_field` with its settings fixed: of maps (B, *, H, W), or of a regular grid's fields (B, *, G, V).

    Args:
        grid: of rows and columns, given by the training run; fields are (B, *, G, V). latitudes, longitude_step: of
            maps (B, *, H, W) instead. periodic: None goes by whether the grid's columns go round.
    """

    latitudes: Tensor

    def __init__(
        self,
        grid: Grid | None = None,
        latitudes: Tensor | Sequence[float] | None = None,
        longitude_step: float | None = None,
        periodic: bool | None = None,
        direction: float = 1.0,
        floor: float = 1e-6,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        self.shape = None if latitudes is not None or grid is None else grid.shape
        if self.shape is not None and grid is not None:
            require(grid.is_regular, "grid", grid.name, "must have rows and columns; see graph_gradient for others")
            latitudes = torch.from_numpy(grid.rows.copy())
            longitude_step = float(grid.columns[1] - grid.columns[0]) % 360
        if latitudes is None or longitude_step is None:
            raise ForecastError("GradientFieldLoss needs `grid`, or `latitudes` and `longitude_step`")
        self.register_buffer("latitudes", torch.as_tensor(latitudes), persistent=False)
        goes_round = self.shape is None or abs(self.shape[1] * longitude_step - 360) < 1e-3
        self.options: dict[str, Any] = {"longitude_step": longitude_step, "direction": direction, "floor": floor}
        self.options |= {"reduction": reduction, "periodic": goes_round if periodic is None else periodic}

    def forward(
        self, forecast: Tensor, truth: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """The loss of maps, or of a grid's fields."""
        like = forecast.shape
        forecast, truth = self._map(forecast, like), self._map(truth, like)
        factors = {name: self._map(x.broadcast_to(like), like) for name, x in (("weight", weight), ("mask", mask))
                   if x is not None}  # fmt: skip
        value = gradient_field(forecast, truth, latitudes=self.latitudes, **self.options, **factors)
        return value.flatten(-2).movedim(-1, -2) if value.ndim and self.shape is not None else value

    def _map(self, x: Tensor, like: torch.Size) -> Tensor:
        if self.shape is None or x.shape != like:
            return x
        return x.movedim(-1, -2).unflatten(-1, self.shape)


@register(
    "graph_gradient",
    formula="||d x| - |d y|| + c (1 - cos(d x, d y)), d the differences along a point's edges over their length",
    source="RADIANCE: Radio-frequency adversarial deep-learning inference; gradient loss, on edges instead of pixels",
    use="the same on the forecaster's own grid, of any kind",
    status="from memory",
    takes="field",
)
class GraphGradientLoss(nn.Module):
    """`graph_gradient` with its settings fixed; joins each point of a grid to its `neighbours` nearest, or as `edges`.

    Args:
        grid: of the fields, given by the training run; lengths are great circles. edges: (2, E) pairs of points
            instead. lengths: (E,) of those, 1 where absent.
    """

    def __init__(
        self,
        grid: Grid | None = None,
        neighbours: int = 4,
        edges: Tensor | None = None,
        lengths: Tensor | None = None,
        direction: float = 1.0,
        floor: float = 1e-6,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        if grid is None and edges is None:
            raise ForecastError("GraphGradientLoss needs `grid` or `edges`")
        if grid is not None and edges is None:
            edges = nearest_neighbours(grid, neighbours)
            ends = torch.from_numpy(grid.xyz)[edges]
            lengths = 2 * ((ends[0] - ends[1]).norm(dim=-1) / 2).clamp(max=1).asin()  # on the unit sphere
        self.edges = Edges(edges=edges, lengths=lengths)
        self.options = {"direction": direction, "floor": floor, "reduction": reduction}

    def forward(
        self, forecast: Tensor, truth: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """The loss of fields (B, *, G, V)."""
        return graph_gradient(forecast, truth, edges=self.edges, **self.options, weight=weight, mask=mask)
