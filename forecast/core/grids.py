"""Horizontal grids: where the points lie and how much of the sphere each stands for."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from forecast.core import cache, cells, healpix, reduced
from forecast.core.cells import FULL, Boxes
from forecast.core.errors import ForecastError
from forecast.core.icosphere import icosphere, locality


@dataclass(frozen=True, eq=False)
class Grid:
    """Points on the sphere in storage order, row by row where there are rows.

    Attributes:
        name: e.g. `O96`, `N320`, `gaussian-32x64`, `latlon-11x13`, `HN64`, `ico5`, `points-5248`; `named` makes the
            global ones from it.
        latitudes: (G,) degrees.
        longitudes: (G,) degrees in [0, 360).
        areas: (G,) steradian on the unit sphere; a global grid's sum to 4 pi.
        shape: (rows, columns) where rectilinear, else (G,).
        boxes: the cells, where they lie between two latitudes and two longitudes each.
    """

    name: str
    latitudes: np.ndarray
    longitudes: np.ndarray
    areas: np.ndarray
    shape: tuple[int, ...]
    boxes: Boxes | None = None

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

    @cached_property
    def goes_round(self) -> bool:
        """Whether the columns of a rectilinear grid are evenly spaced round the globe."""
        if not self.is_regular:
            return False
        gaps = np.diff(self.columns, append=self.columns[0] + 360.0) % 360.0
        return bool(np.allclose(gaps, 360.0 / self.columns.size, atol=1e-3))

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

    @property
    def spacing(self) -> float:
        """Mean distance of neighbouring points, radians: the side of a square of the mean cell's area."""
        return float(np.sqrt(self.areas.mean()))


HEALPIX = re.compile(r"H(N?)([1-9]\d*)")
"""names of HEALPix grids: nested or not, and their number"""


def unit_vectors(latitudes: np.ndarray, longitudes: np.ndarray) -> np.ndarray:
    """(..., 3) unit vectors of positions in degrees."""
    lat, lon = np.radians(latitudes), np.radians(longitudes)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


def gaussian(rows: int, columns: int | None = None) -> Grid:
    """Regular Gaussian grid, north to south, longitudes from 0 eastward.

    Areas are the Gauss weights, so that area means of spherical harmonics are exact.
    """
    columns = columns or 2 * rows
    sines, weights = cells.gauss(rows)
    areas = np.repeat(weights * 2.0 * np.pi / columns, columns)
    latitudes = np.repeat(np.degrees(np.arcsin(sines)), columns)
    longitudes = np.tile(np.arange(columns) * 360.0 / columns, rows)
    boxes = cells.Boxes(cells.gauss_bands(rows), (cells.closed_row(columns),) * rows)
    return Grid(f"gaussian-{rows}x{columns}", latitudes, longitudes, areas, (rows, columns), boxes)


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
    edges = np.radians(_cell_edges(_unwrap(longitudes % 360.0), "longitude"))  # whichever branch they came in
    widths = np.abs(np.diff(edges))
    if widths.sum() > 2.0 * np.pi * (1 + 1e-6):
        raise ForecastError("longitudes overlap: the grid goes round the globe more than once")
    areas = np.outer(heights, widths)
    rows, columns = np.meshgrid(latitudes, longitudes % 360.0, indexing="ij")
    name = f"latlon-{latitudes.size}x{longitudes.size}"
    boxes = Boxes(np.sin(np.radians(band)), (edges,) * latitudes.size) if edges[-1] > edges[0] else None
    return Grid(name, rows.ravel(), columns.ravel(), areas.ravel(), areas.shape, boxes)


def octahedral(number: int) -> Grid:
    """Octahedral reduced Gaussian grid O{number}: 4 n (n + 9) points, n rows per hemisphere."""
    return reduced_gaussian(reduced.octahedral_counts(number), f"O{number}")


def classical(number: int) -> Grid:
    """Classical reduced Gaussian grid N{number}, n rows per hemisphere, from ECMWF's tables (see reduced.py)."""
    return reduced_gaussian(reduced.classical_counts(number), f"N{number}")


def reduced_gaussian(counts: np.ndarray, name: str | None = None) -> Grid:
    """Reduced Gaussian grid of any number of points a row, north to south; its areas are the Gauss weights.

    Args:
        counts: (rows,) points of each row. name: `points-<size>` if absent.
    """
    boxes = Boxes(cells.gauss_bands(len(counts)), tuple(cells.closed_row(n) for n in counts.tolist()))
    sines, weights = cells.gauss(len(counts))
    latitudes = np.repeat(np.degrees(np.arcsin(sines)), counts)
    longitudes = np.concatenate([np.arange(n) * 360.0 / n for n in counts.tolist()])
    areas = np.repeat(weights * 2.0 * np.pi / counts, counts)
    return Grid(name or f"points-{latitudes.size}", latitudes, longitudes, areas, (latitudes.size,), boxes)


def healpix_grid(number: int, nested: bool = False) -> Grid:
    """HEALPix grid of 12 n^2 equal cells, H{n} in rings or HN{n} nested (local in memory, n a power of two).

    Raises:
        ForecastError: nested with another number.
    """
    if nested and number & (number - 1):
        raise ForecastError(f"HN{number}: nested HEALPix needs a power of two; HR{number} has the same points in rings")
    sines, longitudes = healpix.positions(number, nested)
    areas = np.full(sines.size, FULL / sines.size)
    name = f"H{'N' if nested else ''}{number}"
    return Grid(name, np.degrees(np.arcsin(sines)), np.degrees(longitudes), areas, (sines.size,))


def icosahedral(refinement: int) -> Grid:
    """Nodes of the icosahedral mesh ico{r}: 10 * 4^r + 2 points along a Morton curve, Voronoi cells."""
    nodes = icosphere(refinement)[-1]
    nodes = nodes[locality(nodes)]
    latitudes, longitudes = np.degrees(np.arcsin(nodes[:, 2])), np.degrees(np.arctan2(nodes[:, 1], nodes[:, 0]))
    return Grid(f"ico{refinement}", latitudes, longitudes % 360.0, _voronoi_areas(nodes), (len(nodes),))


def global_latlon(rows: int, columns: int) -> Grid:
    """Regular grid of the globe, north to south, longitudes from 0: with both poles for odd rows, else between them."""
    if rows % 2:
        return latlon(np.linspace(90.0, -90.0, rows), np.arange(columns) * 360.0 / columns)
    return latlon(90.0 - (np.arange(rows) + 0.5) * 180.0 / rows, np.arange(columns) * 360.0 / columns)


def named(name: str) -> Grid:
    """The global grid of a name, or the points in a file.

    | name | grid |
    |---|---|
    | O96, N320, F128 | octahedral and classical reduced, and regular Gaussian, so many rows a hemisphere |
    | gaussian-32x64, latlon-721x1440 | rows x columns; lat-lon with both poles where the rows are odd |
    | 0.25 | lat-lon of so many degrees, with both poles |
    | H64, HN64 | HEALPix, rings or nested |
    | ico5 | icosahedral mesh of that refinement |
    | points.npz | `latitudes` and `longitudes` in degrees |

    Raises:
        ForecastError: unknown (names the kinds there are), a file that is not there or holds no points.
    """
    for pattern, make in NAMED.items():
        found = re.fullmatch(pattern, name.strip())
        if found:
            return make(*found.groups())
    raise ForecastError(
        f"unknown grid `{name}`: O96, N320, F128, gaussian-32x64, latlon-721x1440, 0.25 (degrees), H64, HN64, ico5 "
        "and points.npz are ways to name one"
    )


def _degrees(text: str) -> Grid:
    columns = 360.0 / float(text) if float(text) else 0.5
    if not 4 <= round(columns) <= 36000 or abs(columns / round(columns) - 1) > 1e-6 or round(columns) % 2:
        raise ForecastError(f"a grid of {text} degrees does not reach from pole to pole: 180 must be a multiple of it")
    return global_latlon(round(columns) // 2 + 1, round(columns))


def _icosahedral(text: str) -> Grid:
    if int(text) > 9:
        raise ForecastError(f"ico{text} has {10 * 4 ** int(text) + 2:,} points; at most ico9 is made")
    return icosahedral(int(text))


def _file(path: str) -> Grid:
    try:
        with np.load(path, allow_pickle=False) as file:
            return from_points(file["latitudes"], file["longitudes"])
    except (OSError, ValueError, KeyError) as error:
        hint = " ".join(str(error).split())
        raise ForecastError(f"{path}: no .npz file with `latitudes` and `longitudes` in degrees ({hint})") from None


_NUMBER = r"([1-9]\d{0,3})"
NAMED: dict[str, Callable[..., Grid]] = {
    f"[oO]{_NUMBER}": lambda n: octahedral(int(n)),
    f"[nN]{_NUMBER}": lambda n: classical(int(n)),
    f"[fF]{_NUMBER}": lambda n: gaussian(2 * int(n)),
    rf"gaussian-{_NUMBER}x{_NUMBER}": lambda rows, columns: gaussian(int(rows), int(columns)),
    rf"latlon-{_NUMBER}x([1-9]\d{{0,4}})": lambda rows, columns: global_latlon(int(rows), int(columns)),
    r"(\d+(?:\.\d+)?)": _degrees,
    rf"[hH][rR]?{_NUMBER}": lambda n: healpix_grid(int(n)),
    rf"[hH][nN]{_NUMBER}": lambda n: healpix_grid(int(n), nested=True),
    r"ico(\d{1,2})": _icosahedral,
    r"(.+\.npz)": _file,
}


def from_points(latitudes: np.ndarray, longitudes: np.ndarray, field_shape: tuple[int, ...] | None = None) -> Grid:
    """The grid that a list of points forms: Gaussian, rectilinear, reduced, HEALPix, icosahedral, or any points.

    Points without a layout get Voronoi cells, which are kept in the cache (cache.py) where there are many.

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
    known = _known(latitudes, longitudes)
    if known is not None:
        return Grid(known.name, latitudes, longitudes, known.areas, known.shape, known.boxes)
    boxes = cells.row_boxes(latitudes, longitudes)
    areas = _voronoi_areas(unit_vectors(latitudes, longitudes)) if boxes is None else boxes.areas
    return Grid(f"points-{latitudes.size}", latitudes, longitudes, areas, (latitudes.size,), boxes)


def _known(latitudes: np.ndarray, longitudes: np.ndarray) -> Grid | None:
    """The reduced Gaussian, HEALPix or icosahedral grid whose points these are, in its order."""
    size = latitudes.size
    eighth, side, fourth = np.sqrt(81 + size) - 9, np.sqrt(size / 12), np.log2(max(size - 2, 1) / 10) / 2
    candidates = [f"O{round(eighth / 2)}"] if eighth == int(eighth) and eighth % 2 == 0 and eighth > 0 else []
    candidates += [f"N{n}" for n, half in reduced.tables().items() if 2 * half.sum() == size]
    if side == int(side):
        candidates += [f"H{int(side)}"] + ([f"HN{int(side)}"] if int(side) & (int(side) - 1) == 0 else [])
    candidates += [f"ico{round(fourth)}"] if fourth == int(fourth) and 0 <= fourth < 10 else []
    points = unit_vectors(latitudes, longitudes)
    for grid in map(named, candidates):
        if np.abs(grid.xyz - points).max() < np.radians(2 * cells.EVEN):
            return grid
    return None


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
            return Grid(grid.name, latitudes, longitudes, grid.areas, grid.shape, grid.boxes)
    return latlon(lat[:, 0], lon[0])


def _voronoi_areas(points: np.ndarray) -> np.ndarray:
    """Voronoi areas, kept for next time where they take more than a second."""
    if len(points) < 40_000:
        return cells.voronoi_areas(points)
    made = cache.arrays("areas", {"points": points, "version": 1}, lambda: {"areas": cells.voronoi_areas(points)})
    return made["areas"]


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
