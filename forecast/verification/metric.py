"""What a score is: `Statistic`s, which are averaged, and a `Metric`, which is a function of the averages.

Averages over space and starts come first, roots and ratios last, as at ECMWF and in WeatherBench. A new score is
one small class beside its kin (deterministic.py, ensemble.py, spectra.py) and one entry in scores.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import xarray as xr

from forecast.verification.matchup import Matchup


@dataclass(frozen=True)
class Statistic:
    """A quantity whose weighted mean over points, starts and chunks is taken.

    Attributes:
        name: key in the sums.
        of: Matchup -> (G,) values; (K, G) with an `axis`; (K, rows) if it `requires` rows.
        axis: name of the leading dimension of K entries (rank, wavenumber), else empty.
        requires: nothing, a climatology, or a regular global grid with rows of latitude.
    """

    name: str
    of: Callable[[Matchup], np.ndarray]
    axis: str = ""
    requires: Literal["", "climate", "rows"] = ""


class Metric(ABC):
    """A score: the statistics that it averages and what it makes of their means.

    Attributes:
        name: short name, as in files.
        title: as in the report.
        units: units as a power of the variable's: `x`, `x^2`, or `1`.
        better: which way is good: low, one (ratio), high, or none.
        statistics: what is averaged.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    units: ClassVar[str] = "x"
    better: ClassVar[Literal["low", "one", "high", "none"]] = "low"
    statistics: ClassVar[tuple[Statistic, ...]]

    @abstractmethod
    def value(self, *means: xr.DataArray) -> xr.DataArray:
        """The score from the means of `statistics`, in their order."""
