"""Values of a grid at any places: bilinear between rows and columns, by distance from the three nearest otherwise.

Beyond the last row of a global grid lies the pole, whose value is the mean of that row.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from forecast.core.grids import Grid, unit_vectors


class Resampler:
    """From the points of `grid` to places (P,) in degrees, NaN places allowed.

    Attributes:
        inside: (P,) bool, places that the grid covers.
    """

    def __init__(self, grid: Grid, latitudes: np.ndarray, longitudes: np.ndarray) -> None:
        self._shape = latitudes.shape
        lat, lon = latitudes.ravel(), longitudes.ravel()
        known = np.isfinite(lat) & np.isfinite(lon)
        lat, lon = np.where(known, lat, grid.latitudes[0]), np.where(known, lon, grid.longitudes[0])
        neighbours = _rectilinear(grid, lat, lon) if grid.is_regular else _scattered(grid, lat, lon)
        self._index, self._weight, covered = neighbours
        self._columns = grid.shape[-1]
        self.inside = (known & covered).reshape(self._shape)

    def __call__(self, fields: np.ndarray) -> np.ndarray:
        """(..., G) -> (..., *places) float, NaN where the grid does not reach."""
        ends = [
            fields[..., part].mean(axis=-1, keepdims=True)
            for part in (slice(self._columns), slice(-self._columns, None))
        ]
        fields = np.concatenate([fields, *ends], axis=-1)
        values = sum(fields[..., self._index[:, k]] * self._weight[:, k] for k in range(self._index.shape[1]))
        return np.where(self.inside, np.asarray(values).reshape(*fields.shape[:-1], *self._shape), np.nan)


def _rectilinear(grid: Grid, lat: np.ndarray, lon: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    columns = grid.shape[1]
    step = np.degrees(np.unwrap(np.radians(grid.columns)))
    width = (step[-1] - step[0]) / (columns - 1)
    cyclic = abs(width * columns - 360.0) < 0.5 * abs(width)
    east = (lon - step[0]) % 360.0 if width > 0 else -((step[0] - lon) % 360.0)
    if not cyclic:
        east = np.where(np.abs(east) > 360.0 - abs(width) / 2, east - np.copysign(360.0, width), east)
    place = np.interp(east, step - step[0], np.arange(columns)) if not cyclic else east / width
    far = (np.abs(east) > abs(step[-1] - step[0]) + abs(width) / 2) & (not cyclic)
    rows = grid.rows if grid.rows[0] < grid.rows[-1] else grid.rows[::-1]
    ends = abs(rows[1] - rows[0]) / 2, abs(rows[-1] - rows[-2]) / 2
    if grid.is_global:
        row = np.interp(lat, [-90.0, *rows, 90.0], np.arange(-1, rows.size + 1))
    else:
        row = np.interp(lat, rows, np.arange(rows.size))
        far |= (lat < rows[0] - ends[0]) | (lat > rows[-1] + ends[1])
    if grid.rows[0] > grid.rows[-1]:
        row = rows.size - 1 - row
    south, west = np.floor(row).astype(int), np.floor(place).astype(int)
    a, b = row - south, place - west
    beyond = (west + 1) % columns if cyclic else np.minimum(west + 1, columns - 1)
    west = west % columns
    corners = [(south, west), (south, beyond), (south + 1, west), (south + 1, beyond)]
    index = np.stack([_point(r, c, rows.size, columns, grid.is_global) for r, c in corners], 1)
    weight = np.stack([(1 - a) * (1 - b), (1 - a) * b, a * (1 - b), a * b], 1)
    return index, weight, ~far


def _point(row: np.ndarray, column: np.ndarray, rows: int, columns: int, poles: bool) -> np.ndarray:
    """Position in the field, behind which stand the means of its first and last row: the values of the poles."""
    inside = np.clip(row, 0, rows - 1) * columns + column
    if not poles:
        return inside
    return np.where(row < 0, rows * columns, np.where(row >= rows, rows * columns + 1, inside))


def _scattered(grid: Grid, lat: np.ndarray, lon: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    count = min(3, grid.size)
    distance, index = cKDTree(grid.xyz).query(unit_vectors(lat, lon), k=count)
    distance, index = distance.reshape(-1, count), index.reshape(-1, count)
    weight = 1.0 / np.maximum(distance, 1e-9)
    reach = 1.5 * np.sqrt(grid.areas)[index[:, 0]]
    return index, weight / weight.sum(axis=1, keepdims=True), (distance[:, 0] <= reach) | grid.is_global
