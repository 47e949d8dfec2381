"""Linear interpolation on the sphere: between rows where a grid has rows, else within triangles of its points."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.spatial import ConvexHull, cKDTree

from forecast.core.cells import TURN
from forecast.core.errors import ForecastError
from forecast.core.grids import Grid

NEAR = 4
"""source points nearest to a target whose triangles may hold it"""


def weights(source: Grid, target: Grid) -> sparse.csr_array:
    """(T, S) weights of the 2 x 2 points of the two rows around each target, or of the 3 corners around it.

    Raises:
        ForecastError: targets outside a regional source.
    """
    return _between_rows(source, target) if source.boxes is not None else _within_triangles(source, target)


def _between_rows(source: Grid, target: Grid) -> sparse.csr_array:
    """Linear in longitude within a row, then linear in latitude; beyond the last row, across the pole."""
    assert source.boxes is not None
    boxes = source.boxes
    values = np.radians(source.latitudes[boxes.first[:-1]])
    rising = values[::-1] if values[0] > values[-1] else values
    latitude, longitude = np.radians(target.latitudes), np.radians(target.longitudes)
    lower = np.clip(np.searchsorted(rising, latitude, side="right") - 1, -1, rising.size - 1)
    poles = np.array([-np.pi / 2, np.pi / 2])
    south, north = lower < 0, lower == rising.size - 1
    closed = all(abs(edges[-1] - edges[0] - TURN) < 1e-9 for edges in boxes.edges)
    covers = np.abs(np.sort(np.arcsin(boxes.bands[[0, -1]].clip(-1, 1))) - poles) < 1e-6
    below, above = np.where(south, 0, lower), np.where(north, rising.size - 1, lower + 1)
    span = np.where(south, 2 * (rising[0] - poles[0]), np.where(north, 2 * (poles[1] - rising[-1]),
                                                                rising[above] - rising[below]))  # fmt: skip
    beyond = np.where(south, rising[0] - latitude, latitude - rising[below])
    share = np.divide(beyond, span, out=np.zeros_like(span), where=span > 1e-9)
    if not (closed and covers.all()):
        share = _kept_inside(source, target, share, south | north)
    opposite = np.where(south | north, np.pi if closed else 0.0, 0.0)
    return _rows_of(source, below, longitude, 1 - share) + _rows_of(source, above, longitude + opposite, share)


def _kept_inside(source: Grid, target: Grid, share: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """Regional grids: targets between the outermost points and the edge of their cells take the outermost."""
    assert source.boxes is not None
    held = source.boxes.holding(np.sin(np.radians(target.latitudes)), np.radians(target.longitudes))
    if (held < 0).any():
        at = int(np.argmin(held))
        where = f"{target.latitudes[at]:.2f} N {target.longitudes[at]:.2f} E"
        raise ForecastError(f"{target.name} reaches outside {source.name}, e.g. to {where}")
    return np.where(outside, 0.0, share)


def _rows_of(source: Grid, rows: np.ndarray, longitudes: np.ndarray, factor: np.ndarray) -> sparse.csr_array:
    """Each target's weights in one row (counted from the south), times `factor`."""
    assert source.boxes is not None
    first, descending = source.boxes.first, source.latitudes[0] > source.latitudes[-1]
    targets, columns, values = [], [], []
    order = np.argsort(rows, kind="stable")
    for part in np.split(order, np.flatnonzero(np.diff(rows[order])) + 1):
        row = int(rows[part[0]])
        row = first.size - 2 - row if descending else row
        begin, count, edges = first[row], first[row + 1] - first[row], source.boxes.edges[row]
        points = np.unwrap(np.radians(source.longitudes[begin : begin + count]))
        along = points[0] + (longitudes[part] - points[0] + 1e-12) % TURN
        closed = abs(edges[-1] - edges[0] - TURN) < 1e-9
        nodes = np.append(points, points[0] + TURN) if closed else points
        if not closed:  # at most half a cell outside, on either side
            along = np.where(along - points[-1] > points[0] + TURN - along, points[0], np.minimum(along, points[-1]))
        left = np.clip(np.searchsorted(nodes, along, side="right") - 1, 0, nodes.size - 2)
        share = np.clip((along - nodes[left]) / (nodes[left + 1] - nodes[left]), 0.0, 1.0)
        targets += [part, part]
        columns += [begin + left, begin + (left + 1) % count]
        values += [factor[part] * (1 - share), factor[part] * share]
    entries = np.concatenate(values), (np.concatenate(targets), np.concatenate(columns))
    return sparse.csr_array(entries, shape=(rows.size, source.size))


def _within_triangles(source: Grid, target: Grid) -> sparse.csr_array:
    """Barycentric weights where the ray to a target pierces the hull of the source points."""
    if not source.is_global:
        raise ForecastError(
            f"linear weights from {source.name} need rows and columns or a global grid: take `gaussian`"
        )
    corners = ConvexHull(source.xyz).simplices
    inverse = np.linalg.inv(source.xyz[corners].transpose(0, 2, 1))  # (faces, 3, 3): coordinates by the corners
    around, width = _faces_of_points(corners, source.size)
    points = target.xyz
    nearest = cKDTree(source.xyz).query(points, k=min(NEAR, source.size))[1].reshape(target.size, -1)
    best, face = np.full(target.size, -np.inf), np.zeros(target.size, np.int64)
    for near in nearest.T:
        for k in range(width):
            candidate = around[near, k]
            inside = np.einsum("tij,tj->ti", inverse[candidate], points).min(axis=1)
            better = inside > best
            best[better], face[better] = inside[better], candidate[better]
    share = np.einsum("tij,tj->ti", inverse[face], points).clip(0.0)
    share /= share.sum(axis=1, keepdims=True)
    rows = np.repeat(np.arange(target.size), 3)
    return sparse.csr_array((share.ravel(), (rows, corners[face].ravel())), shape=(target.size, source.size))


def _faces_of_points(corners: np.ndarray, size: int) -> tuple[np.ndarray, int]:
    """(S, K) triangles at each point, the last one repeated, and K."""
    point, face = corners.ravel(), np.repeat(np.arange(len(corners)), 3)
    order = np.argsort(point, kind="stable")
    counts = np.bincount(point, minlength=size)
    first, width = np.cumsum(counts) - counts, int(counts.max())
    return face[order][first[:, None] + np.minimum(np.arange(width), counts[:, None] - 1)], width
