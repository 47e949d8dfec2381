"""What a forecaster reads and writes: variables, their statistics, the grid and the time step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np

from forecast.core.errors import ForecastError
from forecast.core.sections import Normalisation

Statistics = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, eq=False)
class Fields:
    """The outside of a forecaster; with the model's config it is all that a checkpoint needs beside the weights.

    Attributes:
        prognostic, diagnostic: variables that are predicted; only the former are fed back.
        static: constant fields. forcings: computed ones.
        latitudes, longitudes: (G,) degrees. areas: (G,) weights of the points, steradian.
        statistics: variable -> {mean, stdev, minimum, maximum, tendency_stdev}, physical units; tendency_stdev is
            the standard deviation of x(t + step) - x(t) and is asked of prognostic variables only.
        normalisation: variable -> method; mean-std for the rest.
        step: seconds of one forecast step. input_steps: states given to the forecaster.
        masked: predicted variables with gaps (sst over land): read as zero there (normalised), and not scored.
    """

    prognostic: tuple[str, ...]
    latitudes: np.ndarray
    longitudes: np.ndarray
    areas: np.ndarray
    statistics: Statistics
    step: int
    diagnostic: tuple[str, ...] = ()
    static: tuple[str, ...] = ()
    forcings: tuple[str, ...] = ()
    normalisation: Mapping[str, str] = field(default_factory=dict)
    input_steps: int = 2
    masked: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.latitudes) == len(self.longitudes) == len(self.areas):
            raise ForecastError("fields: latitudes, longitudes and areas must have one value per grid point")
        unknown = set(self.normalisation) - {*self.variables, *self.static}
        if unknown:
            raise ForecastError(f"normalisation names `{min(unknown)}`, which is no variable of this forecaster")
        if not set(self.masked) <= set(self.variables):
            raise ForecastError(f"data.masked names `{min(set(self.masked) - set(self.variables))}`, not predicted")
        for name in (*self.variables, *self.static):
            if self.normalisation.get(name, "mean-std") not in get_args(Normalisation):
                raise ForecastError(f"normalisation of `{name}` must be one of {', '.join(get_args(Normalisation))}")
            if name not in self.statistics:
                raise ForecastError(f"no statistics for `{name}`: the store must hold them")

    @property
    def variables(self) -> tuple[str, ...]:
        """Predicted variables, prognostic ones first."""
        return self.prognostic + self.diagnostic

    @property
    def grid_size(self) -> int:
        """Number of grid points G."""
        return len(self.latitudes)

    def column(self, statistic: str, names: tuple[str, ...]) -> np.ndarray:
        """(V,) float64 values of one statistic.

        Raises:
            ForecastError: missing, or not finite.
        """
        values = np.array([float(self.statistics[name].get(statistic, np.nan)) for name in names])
        for name, value in zip(names, values, strict=True):
            if not np.isfinite(value):
                raise ForecastError(f"statistics of `{name}`: `{statistic}` is {value}; a finite number is needed")
        return values

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` gives back the same bits."""
        plain = dict(vars(self))
        plain.update({name: getattr(self, name).tolist() for name in ("latitudes", "longitudes", "areas")})
        plain["statistics"] = {name: dict(values) for name, values in self.statistics.items()}
        plain["normalisation"] = dict(self.normalisation)
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Fields:
        """The inverse of `to_json`, also after a trip through a JSON file."""
        arrays = {name: np.array(plain[name], np.float64) for name in ("latitudes", "longitudes", "areas")}
        names = ("prognostic", "diagnostic", "static", "forcings", "masked")
        tuples = {name: tuple(plain.get(name, ())) for name in names}
        return cls(**{**plain, **arrays, **tuples})
