"""Named regions, and weighted means over them with exact cell areas."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forecast.core.errors import ForecastError
from forecast.core.grids import Grid

Box = tuple[float, float, float, float]
EVERYWHERE = (-180.0, 180.0)

# name -> south, north, west, east in degrees, all inside; `domain` is whatever the grid covers. The continental ones
# are ECMWF's scorecard regions.
BOXES: dict[str, Box] = {
    "globe": (-90.0, 90.0, *EVERYWHERE),
    "domain": (-90.0, 90.0, *EVERYWHERE),
    "n.hem": (20.0, 90.0, *EVERYWHERE),
    "s.hem": (-90.0, -20.0, *EVERYWHERE),
    "tropics": (-20.0, 20.0, *EVERYWHERE),
    "arctic": (60.0, 90.0, *EVERYWHERE),
    "antarctic": (-90.0, -60.0, *EVERYWHERE),
    "europe": (35.0, 75.0, -12.5, 42.5),
    "north-america": (25.0, 60.0, -120.0, -75.0),
    "north-atlantic": (25.0, 60.0, -70.0, -20.0),
    "north-pacific": (25.0, 60.0, 145.0, -130.0),
    "east-asia": (25.0, 60.0, 102.5, 150.0),
    "australia": (-45.0, -12.5, 120.0, 175.0),
}
_NUMBER = r"\s*(-?[\d.]+)\s*"
_BOX = re.compile(rf"([\w.-]+)\s*={_NUMBER}:{_NUMBER}/{_NUMBER}:{_NUMBER}")


@dataclass(frozen=True, eq=False)
class Areas:
    """Weights of points and rows in each region.

    Attributes:
        points: (R, G) float64; of each region they sum to 1, or to the valid share of its area.
        rows: (R, rows) on rectilinear grids, else None.
    """

    points: np.ndarray
    rows: np.ndarray | None

    @property
    def total(self) -> np.ndarray:
        """(R,) weight of each region: 1, or the valid share of its area."""
        return self.points.sum(axis=1)

    def mean(self, values: np.ndarray) -> np.ndarray:
        """(R, K) weighted sums of (K, G) or (K, rows); NaN in the regions that hold a NaN with weight, in no other."""
        weights = self.points if values.shape[-1] == self.points.shape[-1] else self.rows
        assert weights is not None
        with np.errstate(invalid="ignore"):
            sums = values @ weights.T
        if not np.isfinite(sums).all():
            for r, row in enumerate(weights):
                sums[:, r] = values[:, row > 0] @ row[row > 0]
        return sums.T

    def shares(self, index: np.ndarray, length: int) -> np.ndarray:
        """(R, length) weight of the points whose (G,) index is 0, 1, ...; all NaN where one is NaN."""
        lost = np.isnan(index)
        places = (np.where(lost, 0, index) if lost.any() else index).astype(np.intp)
        out = np.stack([np.bincount(places, weights, length) for weights in self.points])
        if lost.any():
            out[(self.points[:, lost] > 0).any(axis=1)] = np.nan
        return out

    def where(self, valid: np.ndarray) -> Areas:
        """The same without the points that are not valid (G,); rows count whole."""
        return Areas(self.points * valid, self.rows)


class Regions:
    """Area weights of named regions on a grid; the weights of a region sum to 1, so that a case counts 1.

    Attributes:
        names: (R,) names.
        areas: their weights.
    """

    def __init__(self, grid: Grid, names: Sequence[str] | None = None, land: np.ndarray | None = None) -> None:
        """Without names: globe, n.hem, s.hem, tropics on a global grid, else domain.

        Args:
            names: of BOXES, or `name=south:north/west:east`; `_land` behind a name keeps its points on land.
            land: (G,) land-sea mask, for that.

        Raises:
            ForecastError: unknown name, `globe` on a regional grid, or a region without points.
        """
        usual = ("globe", "n.hem", "s.hem", "tropics") if grid.is_global else ("domain",)
        asked = tuple(names or (name for name in usual if _inside(grid, BOXES[name]).any()))
        parts = [_region(grid, text, land) for text in asked]
        self.names = tuple(name for name, _ in parts)
        twice = [name for name in self.names if self.names.count(name) > 1]
        if twice:
            raise ForecastError(f"region `{twice[0]}` is asked for twice")
        points = np.stack([weights for _, weights in parts])
        rows = points.reshape(len(points), *grid.shape).sum(-1) if grid.is_regular else None
        self.areas = Areas(points, rows)

    @property
    def whole(self) -> np.ndarray:
        """(R,) 1.0 for regions that are the whole grid, else 0.0."""
        return (self.areas.points > 0).all(axis=1).astype(float)

    @property
    def weights(self) -> np.ndarray:
        """(R, G) weights of the points."""
        return self.areas.points


def _region(grid: Grid, text: str, land: np.ndarray | None) -> tuple[str, np.ndarray]:
    name, box, on_land = _parse(text)
    if name.removesuffix("_land") == "globe" and not grid.is_global:
        raise ForecastError(f"region `globe` asked for, but {grid.name} covers a part of it; use `domain`")
    if on_land and land is None:
        raise ForecastError(f"region `{name}` needs a land-sea mask: the truth holds no `lsm`")
    inside = _inside(grid, box)
    if on_land and land is not None:
        inside &= land >= 0.5
    if not inside.any():
        raise ForecastError(f"region `{name}` holds no point of {grid.name}; leave it out or use `domain`")
    weights = np.where(inside, grid.areas, 0.0)
    return name, weights / weights.sum()


def _inside(grid: Grid, box: Box) -> np.ndarray:
    south, north, west, east = box
    inside = (grid.latitudes >= south) & (grid.latitudes <= north)
    if east - west < 360.0:
        inside &= (grid.longitudes - west) % 360.0 <= (east - west) % 360.0
    return inside


def _parse(text: str) -> tuple[str, Box, bool]:
    if match := _BOX.fullmatch(text.strip()):
        south, north, west, east = map(float, match.groups()[1:])
        if not -90 <= south < north <= 90:
            raise ForecastError(f"region `{text}`: write name=south:north/west:east in degrees, south below north")
        return match[1], (south, north, west, east), False
    plain = text.removesuffix("_land")
    if plain not in BOXES:
        raise ForecastError(f"unknown region `{text}`: choose from {', '.join(BOXES)}, or name=south:north/west:east")
    return text, BOXES[plain], plain != text
