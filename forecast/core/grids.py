"""Horizontal grids: where the points lie and how much of the sphere each stands for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from forecast.core.errors import ForecastError

FULL = 4.0 * np.pi


@dataclass(frozen=True, eq=False)
class Grid:
    """Points on the sphere in storage order, row by row where there are rows.

    Attributes:
        name: e.g. `gaussian-32x64`, `O32`, `latlon-11x13`, `points-5248`.
        latitudes: (G,) degrees.
        longitudes: (G,) degrees in [0, 360).
        areas: (G,) steradian on the unit sphere; a global grid's sum to 4 pi.
        shape: (rows, columns) where rectilinear, else (G,).
    """

    name: str
    latitudes: np.ndarray
    longitudes: np.ndarray
    areas: np.ndarray
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of points G."""
        return self.latitudes.size

    @property
    def is_regular(self) -> bool:
        """Whether fields can be shaped (latitude, longitude)."""
        return len(self.shape) == 2

    @property
    def is_global(self) -> bool:
        """Whether the cells cover the sphere."""
        return bool(abs(self.areas.sum() - FULL) < 1e-6 * FULL)

    @property
    def rows(self) -> np.ndarray:
        """(rows,) latitudes of a rectilinear grid."""
        return self.latitudes.reshape(self.shape)[:, 0]

    @property
    def columns(self) -> np.ndarray:
        """(columns,) longitudes of a rectilinear grid."""
        return self.longitudes.reshape(self.shape)[0]

    @cached_property
    def xyz(self) -> np.ndarray:
        """(G, 3) unit vectors."""
        return unit_vectors(self.latitudes, self.longitudes)


def unit_vectors(latitudes: np.ndarray, longitudes: np.ndarray) -> np.ndarray:
    """(..., 3) unit vectors of positions in degrees."""
    lat, lon = np.radians(latitudes), np.radians(longitudes)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


def gaussian(rows: int, columns: int | None = None) -> Grid:
    """Regular Gaussian grid, north to south, longitudes from 0 eastward.

    Areas are the Gauss weights, so that area means of spherical harmonics are exact.
    """
    columns = columns or 2 * rows
    sines, weights = np.polynomial.legendre.leggauss(rows)
    areas = np.repeat(weights[::-1] * 2.0 * np.pi / columns, columns)
    latitudes = np.repeat(np.degrees(np.arcsin(sines[::-1])), columns)
    longitudes = np.tile(np.arange(columns) * 360.0 / columns, rows)
    return Grid(f"gaussian-{rows}x{columns}", latitudes, longitudes, areas, (rows, columns))


def latlon(latitudes: np.ndarray, longitudes: np.ndarray) -> Grid:
    """Rectilinear grid in the order given; a cell reaches half way to its neighbours, at most to the pole.

    Raises:
        ForecastError: latitudes or longitudes not strictly monotonic, or outside their range.
    """
    latitudes, longitudes = np.asarray(latitudes, float), np.asarray(longitudes, float)
    if np.any(np.abs(latitudes) > 90.0 + 1e-9):
        raise ForecastError(f"latitudes reach {np.abs(latitudes).max():g} degrees; they must lie within -90..90")
    band = _cell_edges(latitudes, "latitude", clip=90.0)
    heights = np.abs(np.diff(np.sin(np.radians(band))))
    widths = np.radians(np.abs(np.diff(_cell_edges(_unwrap(longitudes), "longitude"))))
    if widths.sum() > 2.0 * np.pi * (1 + 1e-6):
        raise ForecastError("longitudes overlap: the grid goes round the globe more than once")
    areas = np.outer(heights, widths)
    rows, columns = np.meshgrid(latitudes, longitudes % 360.0, indexing="ij")
    name = f"latlon-{latitudes.size}x{longitudes.size}"
    return Grid(name, rows.ravel(), columns.ravel(), areas.ravel(), areas.shape)


def octahedral(number: int) -> Grid:
    """Octahedral reduced Gaussian grid O{number}: 4 n (n + 9) points, n rows per hemisphere."""
    sines, _ = np.polynomial.legendre.leggauss(2 * number)
    nearest_pole = np.minimum(np.arange(2 * number), np.arange(2 * number)[::-1])
    counts = 20 + 4 * nearest_pole
    latitudes = np.repeat(np.degrees(np.arcsin(sines[::-1])), counts)
    longitudes = np.concatenate([np.arange(n) * 360.0 / n for n in counts])
    return from_points(latitudes, longitudes)


def from_points(latitudes: np.ndarray, longitudes: np.ndarray, field_shape: tuple[int, ...] | None = None) -> Grid:
    """The grid that a list of points forms: Gaussian, rectilinear, row-wise reduced, or any points (Voronoi cells).

    Args:
        latitudes: (G,) degrees. longitudes: (G,) degrees, any branch.
        field_shape: the shape that the source gives its fields, where known.

    Raises:
        ForecastError: lengths differ, positions that are not finite, or repeated points.
    """
    latitudes = np.asarray(latitudes, float).ravel()
    longitudes = np.asarray(longitudes, float).ravel() % 360.0
    if latitudes.shape != longitudes.shape or not latitudes.size:
        raise ForecastError(f"{latitudes.size} latitudes but {longitudes.size} longitudes: a grid must be as many")
    if not (np.isfinite(latitudes).all() and np.isfinite(longitudes).all()):
        raise ForecastError("the grid has positions that are not finite numbers")
    regular = _rectilinear(latitudes, longitudes, field_shape)
    if regular is not None:
        return regular
    areas = _row_areas(latitudes, longitudes)
    if areas is None:
        areas = _voronoi_areas(latitudes, longitudes)
    return Grid(_name(latitudes), latitudes, longitudes, areas, (latitudes.size,))


def _rectilinear(latitudes: np.ndarray, longitudes: np.ndarray, field_shape: tuple[int, ...] | None) -> Grid | None:
    columns = int(np.argmax(latitudes != latitudes[0])) or latitudes.size
    if field_shape is not None and len(field_shape) == 2:
        columns = field_shape[1]
    if columns < 2 or latitudes.size % columns or latitudes.size == columns:
        return None
    lat, lon = latitudes.reshape(-1, columns), longitudes.reshape(-1, columns)
    if np.ptp(lat, axis=1).max() > 1e-6 or np.ptp(lon, axis=0).max() > 1e-6:
        return None
    rows = lat.shape[0]
    if columns == 2 * rows and lat[0, 0] > lat[-1, 0] and abs(lon[0, 0]) < 1e-6:
        grid = gaussian(rows, columns)
        if np.abs(grid.latitudes - latitudes).max() < 2e-3 and np.abs(grid.longitudes - longitudes).max() < 2e-3:
            return Grid(grid.name, latitudes, longitudes, grid.areas, grid.shape)
    return latlon(lat[:, 0], lon[0])


def _row_areas(latitudes: np.ndarray, longitudes: np.ndarray) -> np.ndarray | None:
    """Cell areas of a global grid of rows with evenly spaced points, or None."""
    breaks = np.flatnonzero(np.diff(latitudes)) + 1
    rows = np.split(np.arange(latitudes.size), breaks)
    values = latitudes[[row[0] for row in rows]]
    if len(rows) < 4 or np.any(np.diff(values) * np.sign(values[-1] - values[0]) <= 0) or np.ptp(values) < 120.0:
        return None
    for row in rows:
        gaps = np.diff(longitudes[row], append=longitudes[row[0]] + 360.0)
        if np.abs(gaps - 360.0 / row.size).max() > 1e-3:
            return None
    counts = np.array([row.size for row in rows])
    sines, weights = np.polynomial.legendre.leggauss(len(rows))
    if np.abs(np.sort(values) - np.degrees(np.arcsin(sines))).max() < 2e-3:
        return np.repeat(weights * 2.0 * np.pi / counts, counts)
    edges = np.sin(np.radians(np.concatenate([[90.0], (values[1:] + values[:-1]) / 2, [-90.0]]) * np.sign(values[0])))
    return np.repeat(np.abs(np.diff(edges)) * 2.0 * np.pi / counts, counts)


def _voronoi_areas(latitudes: np.ndarray, longitudes: np.ndarray) -> np.ndarray:
    """Spherical Voronoi areas; cells of a regional set are cut at the median cell of the set."""
    from scipy.spatial import SphericalVoronoi

    points = unit_vectors(latitudes, longitudes)
    if np.unique(points.round(9), axis=0).shape[0] < points.shape[0]:
        raise ForecastError("the grid repeats points: every point must have its own position")
    if points.shape[0] < 4:
        return np.full(points.shape[0], FULL / points.shape[0])
    areas = SphericalVoronoi(points).calculate_areas()
    inner = np.median(areas)
    covers_globe = areas.max() < 50.0 * inner
    return areas if covers_globe else np.minimum(areas, 2.0 * inner)


def _cell_edges(centres: np.ndarray, what: str, clip: float | None = None) -> np.ndarray:
    steps = np.diff(centres)
    if centres.size < 2 or not (np.all(steps > 0) or np.all(steps < 0)):
        raise ForecastError(f"{what}s of a rectilinear grid must be at least two and rise or fall without repeats")
    edges = np.concatenate([[centres[0] - steps[0] / 2], centres[:-1] + steps / 2, [centres[-1] + steps[-1] / 2]])
    if clip is None:
        return edges
    reaches = np.abs(np.array([centres[0], centres[-1]])) + np.abs(np.array([steps[0], steps[-1]])) >= clip
    for end, reached in zip((0, -1), reaches, strict=True):
        if reached:
            edges[end] = np.sign(centres[end]) * clip
    return np.clip(edges, -clip, clip)


def _unwrap(longitudes: np.ndarray) -> np.ndarray:
    return np.degrees(np.unwrap(np.radians(longitudes)))


def _name(latitudes: np.ndarray) -> str:
    n = round((-9 + np.sqrt(81 + latitudes.size)) / 2)
    rows = np.flatnonzero(np.diff(latitudes)).size + 1
    return f"O{n}" if 4 * n * (n + 9) == latitudes.size and rows == 2 * n else f"points-{latitudes.size}"
