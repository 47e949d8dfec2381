"""Maps of fields (..., G, V) that an ensemble score is taken behind: smoothing, differences on edges, time aggregates.

Each works on trailing dimensions, so that members (B, M, ..., G, V) and truth (B, ..., G, V) pass alike, and carries
weights and masks of the fields to what it makes of them.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from forecast.core.errors import ForecastError
from forecast.core.grids import Grid
from forecast.losses.common import require
from forecast.losses.registry import transform

EARTH_RADIUS_KM = 6371.0


class Transform(nn.Module):
    """A map of fields; by itself the identity."""

    mixes: bool = False
    """whether a value depends on many points, so that a mask cannot be carried"""

    def forward(self, field: Tensor) -> Tensor:
        """(..., G, V) -> what is scored."""
        return field

    def weight(self, weight: Tensor) -> Tensor:
        """Of fields, broadcastable to (B, ..., G, V) -> of what is scored."""
        return weight

    def mask(self, mask: Tensor) -> Tensor:
        """Of fields -> of what is scored: True where all that it depends on is there.

        Raises:
            ForecastError: everything depends on every point.
        """
        if self.mixes and not bool(mask.all()):
            raise ForecastError(f"mask: {type(self).__name__} mixes points, so none may be missing")
        return mask


transform("identity")(Transform)


def _pick(factor: Tensor, dim: int, index: Tensor | slice) -> Tensor:
    """`factor` at `index` along `dim`; as it is where it does not vary along it."""
    if factor.ndim < -dim or factor.shape[dim] == 1:
        return factor
    return factor.movedim(dim, 0)[index].movedim(0, dim)


@transform("edges")
class Edges(Transform):
    """Differences along edges, (..., E, V): x at the second point minus x at the first, over the edge's length.

    Args:
        grid: whose nearest neighbours are joined, `neighbours` for each point; or None with `edges`.
        edges: (2, E) numbers of points. lengths: (E,); 1 where absent.
    """

    def __init__(
        self,
        grid: Grid | None = None,
        *,
        neighbours: int = 4,
        edges: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> None:
        super().__init__()
        if edges is None:
            if grid is None:
                raise ForecastError("Edges needs `grid` or `edges`")
            edges = nearest_neighbours(grid, neighbours)
        good = edges.ndim == 2 and len(edges) == 2 and not edges.is_floating_point()
        require(good, "edges", tuple(edges.shape), "must be (2, E) numbers of points")
        lengths = torch.ones(edges.shape[1]) if lengths is None else lengths
        require(lengths.shape == edges.shape[1:], "lengths", tuple(lengths.shape), f"must be ({edges.shape[1]},)")
        require(bool((lengths > 0).all()), "lengths", "not all above 0", "must be positive")
        self.register_buffer("edges", edges, persistent=False)
        self.register_buffer("per_length", 1 / lengths, persistent=False)

    edges: Tensor
    per_length: Tensor

    def forward(self, field: Tensor) -> Tensor:
        first, second = self.edges
        return (field[..., second, :] - field[..., first, :]) * self.per_length.to(field.dtype)[:, None]

    def weight(self, weight: Tensor) -> Tensor:
        """The mean of both ends."""
        first, second = self.edges
        return 0.5 * (_pick(weight, -2, first) + _pick(weight, -2, second))

    def mask(self, mask: Tensor) -> Tensor:
        """Where both ends are there."""
        first, second = self.edges
        return _pick(mask, -2, first).bool() & _pick(mask, -2, second).bool()


def nearest_neighbours(grid: Grid, neighbours: int) -> Tensor:
    """(2, E) pairs of points of which one is among the other's nearest `neighbours`, each pair once."""
    from scipy.spatial import cKDTree

    require(0 < neighbours < grid.size, "neighbours", neighbours, f"must lie in 1..{grid.size - 1}")
    near = cKDTree(grid.xyz).query(grid.xyz, k=neighbours + 1)[1]
    first = np.repeat(np.arange(grid.size), neighbours + 1)
    pairs = np.stack([first, near.ravel()])
    pairs = np.sort(pairs[:, pairs[0] != pairs[1]], axis=0)
    return torch.from_numpy(np.unique(pairs, axis=1).astype(np.int64))


@transform("smoothing")
class Smoothing(Transform):
    """Means over the neighbourhood of each point by a sparse matrix, (..., G, V) -> (..., G', V).

    Args:
        grid, radius_km: Gaussian weights times cell areas, of this standard deviation, as `gaussian_smoothing`; radius
            0 leaves fields as they are. matrix: (G', G), sparse or not, instead.
    """

    def __init__(
        self, grid: Grid | None = None, *, radius_km: float | None = None, matrix: Tensor | None = None
    ) -> None:
        super().__init__()
        if matrix is None and radius_km != 0:
            if grid is None or radius_km is None:
                raise ForecastError("Smoothing needs `grid` and `radius_km`, or `matrix`")
            matrix = gaussian_smoothing(grid, radius_km)
        if matrix is not None:
            require(matrix.ndim == 2, "matrix", tuple(matrix.shape), "must be (G', G)")
            matrix = matrix.to_sparse_coo().coalesce()
        self.mixes = matrix is not None
        self.register_buffer("matrix", matrix, persistent=False)

    matrix: Tensor | None

    def forward(self, field: Tensor) -> Tensor:
        if self.matrix is None:
            return field
        rows = field.movedim(-2, 0)
        smooth = torch.sparse.mm(self.matrix.to(field.dtype), rows.reshape(len(rows), -1))
        return smooth.reshape(len(smooth), *rows.shape[1:]).movedim(0, -2)


def gaussian_smoothing(grid: Grid, radius_km: float) -> Tensor:
    """(G, G) sparse matrix of weights area exp(-d^2 / (2 radius^2)) up to three radii, each row of sum 1."""
    from scipy.spatial import cKDTree

    require(radius_km > 0, "radius_km", radius_km, "must be positive")
    radius = radius_km / EARTH_RADIUS_KM
    tree = cKDTree(grid.xyz)
    near = tree.sparse_distance_matrix(tree, 2 * np.sin(min(3 * radius, np.pi) / 2), output_type="coo_matrix")
    angle = 2 * np.arcsin(np.clip(near.data / 2, 0, 1))
    weights = grid.areas[near.col] * np.exp(-0.5 * (angle / radius) ** 2)
    weights /= np.bincount(near.row, weights, minlength=grid.size)[near.row]
    index = torch.from_numpy(np.stack([near.row, near.col]).astype(np.int64))
    size = (grid.size, grid.size)
    return torch.sparse_coo_tensor(index, torch.from_numpy(weights), size, check_invariants=True).coalesce()


@transform("time")
class TimeAggregate(Transform):
    """A reduction over lead times, kept as a dimension: difference (of consecutive ones), mean, min, max or sum.

    Args:
        kind: which. dim: of the lead times, from the end; (..., T, G, V) by default.
    """

    KINDS = ("difference", "mean", "min", "max", "sum")

    def __init__(self, kind: str = "difference", *, dim: int = -3) -> None:
        super().__init__()
        require(kind in self.KINDS, "kind", kind, f"must be one of {', '.join(self.KINDS)}")
        require(dim < 0, "dim", dim, "must be counted from the end")
        self.kind, self.dim = kind, dim

    def forward(self, field: Tensor) -> Tensor:
        if self.kind == "difference":
            return field.diff(dim=self.dim)
        if self.kind in ("mean", "sum"):
            return getattr(field, self.kind)(dim=self.dim, keepdim=True)
        return (field.amin if self.kind == "min" else field.amax)(dim=self.dim, keepdim=True)

    def weight(self, weight: Tensor) -> Tensor:
        """The mean of the lead times that take part."""
        if self.kind == "difference":
            return 0.5 * (_pick(weight, self.dim, slice(1, None)) + _pick(weight, self.dim, slice(None, -1)))
        return weight if weight.ndim < -self.dim else weight.mean(self.dim, keepdim=True)

    def mask(self, mask: Tensor) -> Tensor:
        """Where all lead times that take part are there."""
        if self.kind == "difference":
            return _pick(mask, self.dim, slice(1, None)).bool() & _pick(mask, self.dim, slice(None, -1)).bool()
        return mask if mask.ndim < -self.dim else mask.bool().all(self.dim, keepdim=True)
