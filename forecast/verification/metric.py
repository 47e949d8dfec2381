"""What a score is: `Statistic`s, which are averaged, and a `Metric`, which is a function of the averages.

Averages over space and starts come first, roots and ratios last, as at ECMWF and in WeatherBench. A new score is
one small class beside its kin and one entry in scores.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import xarray as xr

WIDE = ("rank", "gap", "exceeding", "wavenumber", "total_wavenumber")
"""Axes as long as the ensemble or the grid's rows: sums that have one are kept by month of starts."""
Better = Literal["low", "one", "high", "none"]
Need = Literal["climate", "events", "categories", "tails", "sorted", "rectangle", "rows", "initial"]


@dataclass(frozen=True)
class Statistic:
    """A quantity whose weighted mean over points, starts and chunks is taken.

    Attributes:
        name: key in the sums.
        of: what it is of a `Matchup` m: of(m) -> (*axes, points or rows), of(m) -> (*axes) over the globe, or
            of(m, areas) -> (regions, *axes).
        axes: names of the dimensions that it has besides points (rank, wavenumber, event).
        over: what its means are taken over: points; rows of latitude; the `globe`, where it is of the whole field and
            regions have none; or `areas`, where it takes them itself.
        needs: what must be known besides members and truth: a climatology, events, categories, values clipped to
            the events' sides (tails), errors kept sorted, a
            rectangular grid, a rectangular global grid (rows), the states at the start.
    """

    name: str
    of: Callable[..., np.ndarray]
    axes: tuple[str, ...] = ()
    over: Literal["points", "rows", "areas", "globe"] = "points"
    needs: tuple[Need, ...] = ()

    @property
    def wide(self) -> bool:
        """Whether it has an axis as long as the ensemble or a row."""
        return any(axis in WIDE for axis in self.axes)


class Metric(ABC):
    """A score: the statistics that it averages and what it makes of their means.

    Attributes:
        name: short name, as in files.
        title: as in the report.
        units: units as a power of the variable's: `x`, `x^2`, or `1`.
        better: which way is good: low, one (ratio), high, or none.
        reference: where it is defined.
        statistics: what is averaged.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    units: ClassVar[str] = "x"
    better: ClassVar[Better] = "low"
    reference: ClassVar[str] = ""
    statistics: ClassVar[tuple[Statistic, ...]]

    @abstractmethod
    def value(self, *means: xr.DataArray) -> xr.DataArray:
        """The score from the means of `statistics`, in their order."""


class Mean(Metric):
    """A score that is the mean of its one statistic."""

    def value(self, *means: xr.DataArray) -> xr.DataArray:
        """The mean."""
        return means[0]


class Root(Metric):
    """A score that is the root of the mean of its one statistic; NaN where chance makes that negative."""

    def value(self, *means: xr.DataArray) -> xr.DataArray:
        """The root of the mean."""
        return means[0].where(means[0] >= 0) ** 0.5
