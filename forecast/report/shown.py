"""The folder that verification wrote, as the report needs it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from forecast.core.errors import ForecastError
from forecast.core.variables import find, split

BASELINES = ("persistence", "climatology", "ridge regression")
NAMES = {"learnt": "learnt ensemble", "perfect": "perfect model", "imperfect": "imperfect model"}

# units that forecasters read: short name -> (factor, unit); all others as they are
READ_AS = {"tp": (1e3, "mm"), "q": (1e3, "g kg⁻¹"), "msl": (1e-2, "hPa"), "sp": (1e-2, "hPa")}
_PLAIN = {"m**2 s**-2": "m² s⁻²", "m s**-1": "m s⁻¹", "kg kg**-1": "kg kg⁻¹", "kg m**-2": "kg m⁻²", "J m**-2": "J m⁻²"}


@dataclass(frozen=True, eq=False)
class Shown:
    """Scores to show.

    Attributes:
        summary: what was run (`summary.json`).
        metrics: label -> scores as means over starts, in SI units, dims (variable, lead_time, region[, ...]).
        checks: statements about skill, rows of claim, asked, reached, ok; may be empty.
        case: fields of one forecast.
    """

    summary: dict[str, Any]
    metrics: dict[str, xr.Dataset]
    checks: list[dict[str, Any]]
    case: xr.Dataset

    @property
    def variables(self) -> list[str]:
        """Names of the variables."""
        return list(self.summary["variables"])

    @property
    def region(self) -> str:
        """The first region: globe or domain."""
        return str(self.summary["regions"][0])

    @property
    def hours(self) -> np.ndarray:
        """(L,) lead times in hours."""
        return np.array(self.summary["lead_hours"])

    @property
    def model(self) -> str:
        """The forecast in question: the first one."""
        return next(iter(self.metrics))

    @property
    def ensembles(self) -> list[str]:
        """Labels with more than one member."""
        return [label for label, members in self.summary["members"].items() if members > 1]

    @property
    def rivals(self) -> list[str]:
        """Labels that the forecast in question can be compared with, forecasts first, then baselines."""
        return [label for label in self.metrics if label != self.model]

    def values(self, label: str, metric: str, variable: str, region: str | None = None) -> np.ndarray:
        """(L, ...) one score in the units that `unit` states."""
        array = self.metrics[label][metric]
        power = {"x": 1, "x^2": 2}.get(array.attrs.get("units", "1"), 0)
        v, r = self.variables.index(variable), self.summary["regions"].index(region or self.region)
        return array.values[v, :, r] * scale(variable) ** power

    def has(self, metric: str) -> bool:
        """Whether the forecast in question has a score with any value."""
        return metric in self.metrics[self.model] and bool(self.metrics[self.model][metric].notnull().any())

    def unit(self, variable: str) -> str:
        """Unit in which `values` come."""
        return unit(variable, self.summary["units"].get(variable, ""))

    def nearest(self, hours: float) -> int:
        """Position of the scored lead next to `hours`."""
        return int(np.abs(self.hours - hours).argmin())


def load(folder: str | Path) -> Shown:
    """Read a folder of scores.

    Raises:
        ForecastError: it is none.
    """
    folder = Path(folder)
    try:
        summary = json.loads((folder / "summary.json").read_text())
        index = summary["files"]
        metrics = {
            label: xr.load_dataset(folder / index[label], group="metrics", engine="netcdf4", decode_timedelta=True)
            for label in summary["members"]
        }
        case = xr.load_dataset(folder / "case.nc", engine="netcdf4")
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ForecastError(f"{folder} holds no scores ({reason}): give a folder of `forecast verify`") from None
    checks = folder / "checks.json"
    return Shown(summary, metrics, json.loads(checks.read_text()) if checks.is_file() else [], case)


def name(label: str) -> str:
    """A label as it is written out."""
    return NAMES.get(label, label)


def scale(variable: str) -> float:
    """Factor from SI units to those shown."""
    return READ_AS.get(split(variable)[0], (1.0, ""))[0]


def unit(variable: str, si: str) -> str:
    """Unit shown, with the SI unit in readable letters where it stays."""
    return READ_AS.get(split(variable)[0], (1.0, _PLAIN.get(si, si)))[1]


def long_name(variable: str) -> str:
    """`Geopotential at 500 hPa`."""
    row, level = find(variable), split(variable)[1]
    text = row.long_name if row else variable
    return text if level is None or row is None else f"{text} at {level} hPa"


def lead_name(hours: float) -> str:
    """`6 h`, `3 d`."""
    return f"{hours / 24:g} d" if hours % 24 == 0 else f"{hours:g} h"
