"""The cells of a grid's points: boxes between two latitudes and two longitudes, or Voronoi cells."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from forecast.core.errors import ForecastError

FULL = 4.0 * np.pi
TURN = 2.0 * np.pi
EVEN = 1e-3
"""degrees that points of a row may be off even spacing, and rows off Gaussian latitudes: GRIB rounds"""


@dataclass(frozen=True, eq=False)
class Boxes:
    """Cells of a grid of rows, in storage order.

    Attributes:
        bands: (R + 1,) sines of the latitudes that part the rows, rising or falling.
        edges: for each row the (n + 1,) longitudes that part its cells, radians, rising; a closed row spans 2 pi.
    """

    bands: np.ndarray
    edges: tuple[np.ndarray, ...]

    @cached_property
    def first(self) -> np.ndarray:
        """(R + 1,) index of each row's first cell, and the number of cells."""
        return np.cumsum([0, *(row.size - 1 for row in self.edges)])

    @cached_property
    def areas(self) -> np.ndarray:
        """(G,) steradian."""
        heights = np.abs(np.diff(self.bands))
        return np.concatenate([height * np.diff(row) for height, row in zip(heights, self.edges, strict=True)])

    def holding(self, sines: np.ndarray, longitudes: np.ndarray) -> np.ndarray:
        """(K,) index of the cell that holds each position (sine of latitude, radians), -1 where none does."""
        falling = self.bands[0] > self.bands[-1]
        bands = self.bands[::-1] if falling else self.bands
        row = np.searchsorted(bands, sines, side="right") - 1
        row[(row == len(self.edges)) & (sines <= bands[-1] + 1e-12)] = len(self.edges) - 1
        row = np.where((row >= 0) & (row < len(self.edges)), len(self.edges) - 1 - row if falling else row, -1)
        found = np.full(row.shape, -1)
        order = np.argsort(row, kind="stable")
        for part in np.split(order, np.flatnonzero(np.diff(row[order])) + 1):
            if part.size and row[part[0]] >= 0:
                edges, begin = self.edges[row[part[0]]], self.first[row[part[0]]]
                at = np.searchsorted(edges, edges[0] + (longitudes[part] - edges[0]) % TURN, side="right") - 1
                found[part] = np.where(at < edges.size - 1, begin + at, -1)
        return found


def closed_row(count: int, west: float = 0.0) -> np.ndarray:
    """(count + 1,) edges of a row of evenly spaced points around the globe, the first at `west` degrees."""
    return np.radians(west) + (np.arange(count + 1) - 0.5) * (TURN / count)


@lru_cache(maxsize=16)
def gauss(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Sines of the Gaussian latitudes, from north to south, and their weights, which sum to 2."""
    if rows <= 1024:
        sines, weights = np.polynomial.legendre.leggauss(rows)
    else:
        from scipy.special import roots_legendre  # as exact, and its cost does not grow with the cube

        sines, weights = roots_legendre(rows)
    return sines[::-1].copy(), weights[::-1].copy()


def gauss_bands(rows: int) -> np.ndarray:
    """(rows + 1,) sines that part the rows of a Gaussian grid, so that the bands are as high as the Gauss weights."""
    half = np.cumsum(gauss(rows)[1])[: rows // 2]
    south = -(1.0 - half)[::-1]
    north = 1.0 - half
    middle = north[:-1] if rows % 2 == 0 else north
    edges = np.concatenate([[1.0], middle, [0.0] if rows % 2 == 0 else [], south[1:] if rows % 2 == 0 else south])
    return np.concatenate([edges, [-1.0]])


def row_boxes(latitudes: np.ndarray, longitudes: np.ndarray) -> Boxes | None:
    """Boxes of a global grid of rows with evenly spaced points (degrees), or None."""
    breaks = np.flatnonzero(np.diff(latitudes)) + 1
    begin = np.concatenate([[0], breaks])
    counts = np.diff(np.append(begin, latitudes.size))
    values = latitudes[begin]
    falls = np.all(np.diff(values) < 0)
    if len(counts) < 4 or not (falls or np.all(np.diff(values) > 0)) or np.ptp(values) < 120.0:
        return None
    even = longitudes[begin].repeat(counts) + (np.arange(latitudes.size) - begin.repeat(counts)) * 360.0 / (
        counts.repeat(counts)
    )
    if np.abs((longitudes - even + 180.0) % 360.0 - 180.0).max() > EVEN:
        return None
    sines = gauss(len(counts))[0] if len(counts) < 6000 else np.zeros(len(counts))
    if np.abs(np.degrees(np.arcsin(sines)) * (1 if falls else -1) - values).max() < 2 * EVEN:
        bands = gauss_bands(len(counts)) * (1 if falls else -1)
    else:
        inner = np.sin(np.radians((values[1:] + values[:-1]) / 2))
        bands = np.concatenate([[1.0], inner, [-1.0]]) if falls else np.concatenate([[-1.0], inner, [1.0]])
    rows = zip(counts.tolist(), longitudes[begin].tolist(), strict=True)
    return Boxes(bands, tuple(closed_row(count, west) for count, west in rows))


def voronoi_areas(points: np.ndarray) -> np.ndarray:
    """(G,) areas of the spherical Voronoi cells of (G, 3) unit vectors; of a regional set cut at twice the median.

    542,080 points take 16 s and 1.3 GB (docs/grids.md).

    Raises:
        ForecastError: repeated points.
    """
    from scipy.spatial import SphericalVoronoi

    if np.unique(points.round(9), axis=0).shape[0] < points.shape[0]:
        raise ForecastError("the grid repeats points: every point must have its own position")
    if points.shape[0] < 4:
        return np.full(points.shape[0], FULL / points.shape[0])
    areas = SphericalVoronoi(points).calculate_areas()
    inner = np.median(areas)
    covers_globe = areas.max() < 50.0 * inner
    return areas if covers_globe else np.minimum(areas, 2.0 * inner)
