"""The folder that verification wrote, as the report needs it."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from forecast.core.errors import ForecastError
from forecast.core.variables import find, split

BASELINES = ("persistence", "climatology", "ridge regression")
NAMES = {"learnt": "learnt ensemble", "perfect": "perfect model", "imperfect": "imperfect model"}

LABELS = ("event", "level")

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
        case: fields of the first forecast. cases: of other notable ones.
        bands: label -> `low` and `high` of scores, dims (score, variable, lead_time, region); may lack labels.
        comparisons: (forecast, rival) -> what `significance.compare` found; may be empty.
        fields: scores of single points, dims (label, variable, lead_time, values), or None.
    """

    summary: dict[str, Any]
    metrics: dict[str, xr.Dataset]
    checks: list[dict[str, Any]]
    case: xr.Dataset
    bands: dict[str, xr.Dataset] = field(default_factory=dict)
    comparisons: dict[tuple[str, str], xr.Dataset] = field(default_factory=dict)
    fields: xr.Dataset | None = None
    cases: list[xr.Dataset] = field(default_factory=list)

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
        """(L, ...) one score in the units that `unit` states; of an event where it is called `brier[> p90]`."""
        name, event = part(metric)
        array = self.metrics[label][name].transpose("variable", "lead_time", "region", ...)
        if event:
            array = array.isel({dim: array[dim].values.astype(str).tolist().index(event)
                                for dim in LABELS if dim in array.dims})  # fmt: skip
        v, r = self.variables.index(variable), self._place(region)
        return np.asarray(array.values[v, :, r] * self._factor(name, variable))

    def band(self, label: str, metric: str, variable: str, region: str | None = None) -> np.ndarray | None:
        """(2, L) low and high of a score in the units of `values`; None where they are not known."""
        found = self.bands.get(label)
        if found is None or metric not in found["score"].values:
            return None
        at = found.sel(score=metric).isel(variable=self.variables.index(variable), region=self._place(region))
        both = np.stack([at["low"].values, at["high"].values]) * self._factor(part(metric)[0], variable)
        return both if np.isfinite(both).any() else None

    def compared(self, label: str, rival: str, what: str, metric: str, variable: str) -> np.ndarray:
        """(L,) `skill`, `skill_low`, ... of two forecasts over the first region; NaN where they were not compared."""
        found = self.comparisons.get((label, rival))
        if found is None or metric not in found["score"].values or what not in found:
            return np.full(self.hours.size, np.nan)
        return np.asarray(found[what].sel(score=metric, variable=variable).isel(region=0).values)

    def _place(self, region: str | None) -> int:
        return self.summary["regions"].index(region or self.region)

    def _factor(self, name: str, variable: str) -> float:
        power = {"x": 1, "x^2": 2}.get(self.metrics[self.model][name].attrs.get("units", "1"), 0)
        return float(scale(variable) ** power)

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
    checks, fields = folder / "checks.json", folder / "fields.nc"
    return Shown(
        summary,
        metrics,
        json.loads(checks.read_text()) if checks.is_file() else [],
        case,
        _bands(folder, summary),
        {(c["forecast"], c["against"]): xr.load_dataset(folder / c["file"], engine="netcdf4", decode_timedelta=True)
         for c in summary.get("comparisons", [])},
        xr.load_dataset(fields, engine="netcdf4", decode_timedelta=True) if fields.is_file() else None,
        [xr.load_dataset(file, engine="netcdf4") for file in sorted((folder / "cases").glob("*.nc"), reverse=True)],
    )  # fmt: skip


def _bands(folder: Path, summary: dict[str, Any]) -> dict[str, xr.Dataset]:
    found = {}
    for label, file in summary["files"].items():
        with contextlib.suppress(OSError):
            found[label] = xr.load_dataset(folder / file, group="bands", engine="netcdf4", decode_timedelta=True)
    return found


def part(metric: str) -> tuple[str, str]:
    """`brier[> p90]` -> `brier`, `> p90`."""
    name, _, rest = metric.partition("[")
    return name, rest.removesuffix("]")


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
