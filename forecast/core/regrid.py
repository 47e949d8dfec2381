"""Regridding: sparse matrices of weights between any two grids, each row summing to 1.

| method | weights |
|---|---|
| conservative | the share of each source cell in the target cell; area integrals are kept |
| linear | of the points around a target: exact for constants, second order for smooth fields |
| gaussian | exp(-d^2 / 2 sigma^2) of the k nearest points, d the great-circle distance; k = 1 takes the nearest |

x_ref = up @ (down @ x), the truncated state of AIFS-CRPS (Lang et al. 2026), is made of two of them.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree

from forecast.core import cache, overlap, triangles
from forecast.core.errors import ForecastError
from forecast.core.grids import Grid

Method = Literal["conservative", "linear", "gaussian"]
VERSION = 1
"""raised whenever weights change, so that none of an older version are read"""


def matrix(
    source: Grid, target: Grid, method: Method = "conservative", neighbours: int = 4, sigma: float | None = None
) -> sparse.csr_array:
    """(T, S) float64 weights, kept in the cache (cache.py).

    Args:
        source: grid of the fields. target: grid wanted.
        neighbours, sigma: of `gaussian`: how many source points, and the width in radians; the source's mean spacing
            if absent.

    Raises:
        ForecastError: an unknown method, too few points, or grids between which the method cannot go.
    """
    if method not in get_args(Method):
        raise ForecastError(f"regridding method `{method}`: one of {', '.join(get_args(Method))}")
    if method == "gaussian" and not 1 <= neighbours <= source.size:
        raise ForecastError(f"gaussian weights of {neighbours} points: {source.name} has {source.size}")
    width = source.spacing if sigma is None else sigma
    if not width > 0:
        raise ForecastError(f"gaussian weights need sigma > 0 (radians), not {width}")
    key: dict[str, Any] = {
        "method": method,
        "version": VERSION,
        **_content(source, "source"),
        **_content(target, "target"),
    }
    if method == "gaussian":
        key |= {"neighbours": neighbours, "sigma": float(width)}

    def make() -> cache.Arrays:
        made = _make(source, target, method, neighbours, width)
        return {"data": made.data, "indices": made.indices, "indptr": made.indptr}

    kept = cache.arrays("regrid", key, make)
    shape = (target.size, source.size)
    return sparse.csr_array((kept["data"], kept["indices"], kept["indptr"]), shape=shape)


def apply(weights: sparse.csr_array, fields: np.ndarray, least: float | None = None) -> np.ndarray:
    """(..., T) fields of the weights' target from (..., S) fields of its source, in the fields' type.

    Args:
        least: absent, a missing value (NaN) among a target's sources makes it missing; else those present share the
            weight, and a target is missing where they hold less than `least` of it.
    """
    flat = fields.reshape(-1, weights.shape[1]).T
    if least is None or not np.isnan(flat).any():
        out = weights @ flat
    else:
        present = ~np.isnan(flat)
        held = weights @ present.astype(flat.dtype)
        filled = weights @ np.where(present, flat, 0)
        out = np.divide(filled, held, out=np.full_like(filled, np.nan), where=held >= max(least, 1e-6))
    return out.T.reshape(*fields.shape[:-1], weights.shape[0]).astype(fields.dtype)


def _make(source: Grid, target: Grid, method: Method, neighbours: int, sigma: float) -> sparse.csr_array:
    if method == "conservative":
        made = overlap.areas(source, target)
    elif method == "linear":
        made = triangles.weights(source, target)
    else:
        made = _gaussian(source, target, neighbours, sigma)
    made.sum_duplicates()
    made.eliminate_zeros()
    totals = made.sum(axis=1)
    if not totals.min() > 0:
        at = int(np.argmin(totals))
        where = f"{target.latitudes[at]:.2f} N {target.longitudes[at]:.2f} E"
        raise ForecastError(f"{target.name} reaches outside {source.name}, e.g. to {where}")
    made.data /= np.repeat(totals, np.diff(made.indptr))
    return made


def _gaussian(source: Grid, target: Grid, neighbours: int, sigma: float) -> sparse.csr_array:
    chord, near = cKDTree(source.xyz).query(target.xyz, k=neighbours)
    chord, near = chord.reshape(target.size, -1), near.reshape(target.size, -1)
    angle = 2 * np.arcsin(np.clip(chord / 2, 0, 1))
    weights = np.exp((angle[:, :1] ** 2 - angle**2) / (2 * sigma**2))  # the nearest has 1, so that none vanish
    rows = np.repeat(np.arange(target.size), neighbours)
    return sparse.csr_array((weights.ravel(), (rows, near.ravel())), shape=(target.size, source.size))


def _content(grid: Grid, which: str) -> dict[str, np.ndarray | bool]:
    """What of a grid weights follow from."""
    return {
        f"{which}_points": np.stack([grid.latitudes, grid.longitudes]),
        f"{which}_areas": grid.areas,
        f"{which}_boxes": grid.boxes is not None,
    }
