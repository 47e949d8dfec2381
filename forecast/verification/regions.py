"""Named regions as bands of latitude, and weighted means over them with exact cell areas."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forecast.core.errors import ForecastError
from forecast.core.grids import Grid

# name -> southern and northern limit in degrees, both inside; `domain` is whatever the grid covers
BANDS: dict[str, tuple[float, float]] = {
    "globe": (-90.0, 90.0),
    "domain": (-90.0, 90.0),
    "n.hem": (20.0, 90.0),
    "s.hem": (-90.0, -20.0),
    "tropics": (-20.0, 20.0),
    "arctic": (60.0, 90.0),
    "antarctic": (-90.0, -60.0),
}


class Regions:
    """Area weights of named regions on a grid; the weights of a region sum to 1, so that a case counts 1.

    Attributes:
        names: (R,) names.
        weights: (R, G) float64.
        row_weights: (R, rows) float64 on rectilinear grids, the weights summed along each latitude; else None.
    """

    def __init__(self, grid: Grid, names: Sequence[str] | None = None) -> None:
        """Without names: globe, n.hem, s.hem, tropics on a global grid, else domain.

        Raises:
            ForecastError: unknown name, `globe` on a regional grid, or a region without points.
        """
        self.names = tuple(names or (("globe", "n.hem", "s.hem", "tropics") if grid.is_global else ("domain",)))
        self.weights = np.stack([self._weights(grid, name) for name in self.names])
        self.row_weights = self.weights.reshape(len(self.names), *grid.shape).sum(-1) if grid.is_regular else None

    @staticmethod
    def _weights(grid: Grid, name: str) -> np.ndarray:
        if name not in BANDS:
            raise ForecastError(f"unknown region `{name}`: choose from {', '.join(BANDS)}")
        if name == "globe" and not grid.is_global:
            raise ForecastError(f"region `globe` asked for, but {grid.name} covers a part of it; use `domain`")
        south, north = BANDS[name]
        inside = (grid.latitudes >= south) & (grid.latitudes <= north)
        if not inside.any():
            raise ForecastError(f"region `{name}` holds no point of {grid.name}; leave it out or use `domain`")
        weights = np.where(inside, grid.areas, 0.0)
        return weights / weights.sum()

    def means(self, values: np.ndarray, valid: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Weighted sums over each region and their weights.

        Args:
            values: (K, G) float64, or (K, rows).
            valid: (G,) bool, points that count; all if absent. Values elsewhere are ignored.

        Returns:
            (R, K) sums and (R,) weights: the valid share of the region's area. A NaN at a point that counts makes
            the sums of the regions that hold it NaN, and of no other.
        """
        weights = self.weights if values.shape[-1] == self.weights.shape[-1] else self.row_weights
        assert weights is not None
        if valid is not None and weights is self.weights:
            weights, values = weights * valid, np.where(valid, values, 0.0)
        sums = values @ weights.T
        if np.isnan(sums).any():
            for r, row in enumerate(weights):
                sums[:, r] = values[:, row > 0] @ row[row > 0]
        return sums.T, weights.sum(axis=1)
