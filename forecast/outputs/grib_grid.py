"""How GRIB2 describes a grid: lat-lon, regular Gaussian, reduced Gaussian (N and O)."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from forecast.core.errors import ForecastError
from forecast.core.grids import Grid

NEAR = 2e-3
"""degrees by which a latitude may miss that of its Gaussian grid"""


def grid_keys(grid: Grid, whole: Grid) -> tuple[str, dict[str, Any]]:
    """The eccodes sample to begin with, and the keys to set.

    Args:
        grid: what the message holds. whole: the grid that it is part of, whose rows say which Gaussian grid it is.

    Raises:
        ForecastError: a grid that GRIB has no template for.
    """
    if grid.is_regular:
        return "GRIB2", _regular(grid, whole)
    if grid is whole and (counts := _rows(grid)) is not None:
        return "reduced_gg_pl_32_grib2", _reduced(grid, counts)
    part = "" if grid is whole else "a part of "
    raise ForecastError(
        f"GRIB cannot hold {part}the grid {whole.name}, only lat-lon and Gaussian grids, reduced ones whole: "
        f"export NetCDF (--to FILE.nc)"
    )


def _regular(grid: Grid, whole: Grid) -> dict[str, Any]:
    rows, columns = grid.rows, np.degrees(np.unwrap(np.radians(grid.columns)))
    steps = np.diff(columns)
    if np.ptp(steps) > 1e-4 or steps[0] <= 0:
        raise ForecastError(
            f"GRIB cannot hold {grid.name}: its longitudes are not evenly spaced eastward; export NetCDF"
        )
    number = _gaussian_number(rows, whole)
    keys: dict[str, Any] = {
        "gridType": "regular_gg" if number else "regular_ll",
        "Ni": columns.size,
        "Nj": rows.size,
        "iScansNegatively": 0,
        "jScansPositively": int(rows[-1] > rows[0]),
        "latitudeOfFirstGridPointInDegrees": float(rows[0]),
        "latitudeOfLastGridPointInDegrees": float(rows[-1]),
        "longitudeOfFirstGridPointInDegrees": float(columns[0] % 360.0),
        "longitudeOfLastGridPointInDegrees": float(columns[-1] % 360.0),
        "iDirectionIncrementInDegrees": float(np.abs(steps.mean())),
    }
    if number:
        return keys | {"N": number}
    spacing = np.diff(rows)
    if np.ptp(spacing) > 1e-4:
        raise ForecastError(f"GRIB cannot hold {grid.name}: its latitudes are not evenly spaced; export NetCDF")
    return keys | {"jDirectionIncrementInDegrees": float(np.abs(spacing.mean()))}


def _gaussian_number(rows: np.ndarray, whole: Grid) -> int:
    """N of the Gaussian grid that these rows belong to, 0 if they belong to none."""
    if not whole.is_regular or whole.shape[0] % 2:
        return 0
    latitudes = _gaussian_latitudes(whole.shape[0])
    near = np.abs(np.sort(whole.rows) - latitudes).max() < NEAR
    return whole.shape[0] // 2 if near else 0


def _reduced(grid: Grid, counts: np.ndarray) -> dict[str, Any]:
    return {
        "Nj": counts.size,
        "N": counts.size // 2,
        "pl": counts,
        "latitudeOfFirstGridPointInDegrees": float(grid.latitudes[0]),
        "latitudeOfLastGridPointInDegrees": float(grid.latitudes[-1]),
        "longitudeOfFirstGridPointInDegrees": 0.0,
        "longitudeOfLastGridPointInDegrees": 360.0 - 360.0 / int(counts.max()),
    }


def _rows(grid: Grid) -> np.ndarray | None:
    """(rows,) points of each row of a reduced Gaussian grid from north to south, or None."""
    breaks = np.flatnonzero(np.diff(grid.latitudes)) + 1
    counts = np.diff(np.concatenate([[0], breaks, [grid.size]]))
    if counts.size % 2 or counts.size < 4 or grid.latitudes[0] < grid.latitudes[-1]:
        return None
    latitudes = _gaussian_latitudes(counts.size)[::-1]
    longitudes = np.concatenate([np.arange(n) * 360.0 / n for n in counts])
    far = np.abs((grid.longitudes - longitudes + 180.0) % 360.0 - 180.0).max() > NEAR
    return None if far or np.abs(np.repeat(latitudes, counts) - grid.latitudes).max() > NEAR else counts


@cache
def _gaussian_latitudes(rows: int) -> np.ndarray:
    """(rows,) from south to north."""
    return np.degrees(np.arcsin(np.polynomial.legendre.leggauss(rows)[0]))
