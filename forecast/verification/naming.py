"""What others call dimensions and variables, recognised by attribute, then by name, or mapped in a line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from forecast.core import variables
from forecast.core.errors import ForecastError

# role -> names seen at ECMWF (cfgrib), in WeatherBench 2 and X, CF and CMIP, climpred, earth2studio, anemoi
KNOWN: dict[str, tuple[str, ...]] = {
    "member": ("number", "realization", "member", "sample", "ensemble", "ens", "ens_member", "member_id"),
    "init": ("init_time", "forecast_reference_time", "init", "reftime", "basetime", "base_time", "initial_time"),
    "lead": ("lead_time", "prediction_timedelta", "step", "lead", "leadtime", "forecast_period"),
    "valid": ("valid_time", "time"),
    "level": ("level", "isobaricInhPa", "plev", "pressure_level", "pressure", "lev"),
    "latitude": ("latitude", "lat", "latitudes", "nav_lat"),
    "longitude": ("longitude", "lon", "longitudes", "nav_lon"),
    "points": ("values", "cell", "cells", "ncells", "ncol", "point", "grid_index", "grid"),
}
STANDARD = {
    "realization": "member", "forecast_reference_time": "init", "forecast_period": "lead", "latitude": "latitude",
    "longitude": "longitude", "air_pressure": "level",
}  # fmt: skip
_PERIOD = re.compile(r"(.+?)_(?:accum_)?(\d+)h(?:r|our)?s?$")


@dataclass(frozen=True)
class Names:
    """A user's mapping.

    Attributes:
        roles: role (member, init, lead, valid, level, latitude, longitude, points) -> name in the file.
        fields: name in the file -> ERA5 name (z_500, 2t, or z where the file has levels).
        accumulation: how accumulated fields were summed: `start` (since the start) or a duration such as `6h`.
    """

    roles: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    accumulation: str = ""

    @classmethod
    def parse(cls, text: str) -> Names:
        """From `member=ens, init=basedate, geop=z_500, accumulation=start`.

        Raises:
            ForecastError: not pairs.
        """
        roles, fields, accumulation = {}, {}, ""
        for pair in filter(None, (part.strip() for part in text.split(","))):
            left, _, right = (part.strip() for part in pair.partition("="))
            if not left or not right:
                raise ForecastError(f"names: `{pair}` is no pair; write `member=ens, init=basedate, geop=z_500`")
            if left in KNOWN:
                roles[left] = right
            elif left == "accumulation":
                accumulation = right
            else:
                fields[left] = right
        return cls(roles, fields, accumulation)

    def find(self, dataset: xr.Dataset, role: str) -> str | None:
        """The coordinate or dimension that plays a role: as mapped, by CF standard name, by name; or None.

        Raises:
            ForecastError: a mapped one that is not there.
        """
        everything = [str(name) for name in (*dataset.coords, *dataset.dims)]
        if role in self.roles:
            if self.roles[role] not in everything:
                raise ForecastError(f"names: no `{self.roles[role]}` to be the {role}; there are "
                                    f"{', '.join(dict.fromkeys(everything))}")  # fmt: skip
            return self.roles[role]
        taken = set(self.roles.values())
        for name in dataset.coords:
            if STANDARD.get(dataset[name].attrs.get("standard_name", "")) == role and str(name) not in taken:
                return str(name)
        return next((name for name in KNOWN[role] if name in everything and name not in taken), None)


@dataclass(frozen=True)
class Found:
    """A field of a file: the ERA5 name that it gets, the file's name, the position on its level axis, and its units.

    `period` is `start`, a duration, or empty where the file does not say how it was accumulated.
    """

    name: str
    source: str
    level: int | None
    units: str
    period: str


def fields(dataset: xr.Dataset, names: Names) -> dict[str, Found]:
    """ERA5 name -> field, of all data variables that are recognised or mapped."""
    level_name = names.find(dataset, "level")
    found: dict[str, Found] = {}
    for source in map(str, dataset.data_vars):
        array = dataset[source]
        plain, period = _period(source, array)
        known = _recognise(plain, array, names.fields.get(source))
        if known is None:
            continue
        short, level = known
        units = str(array.attrs.get("GRIB_units", array.attrs.get("units", "")))
        if names.accumulation and _accumulated(short):
            period = names.accumulation
        if level_name in array.dims and level is None:
            for k, value in enumerate(hectopascal(dataset[level_name])):
                found[variables.join(short, value)] = Found(variables.join(short, value), source, k, units, period)
            continue
        if level is None and level_name in array.coords and array[level_name].ndim == 0 and _upper(short):
            level = hectopascal(array[level_name].expand_dims("one"))[0]
        name = variables.join(short, level)
        found[name] = Found(name, source, None, units, period)
    return found


def hectopascal(levels: xr.DataArray) -> list[int]:
    """Pressure levels in hPa; Pa where the units say so or no level of the atmosphere could be meant otherwise."""
    values = np.atleast_1d(levels.values).astype(float)
    pascal = str(levels.attrs.get("units", "")).strip() == "Pa" or values.max() > 2000
    return [int(round(v / 100 if pascal else v)) for v in values]


def _recognise(plain: str, array: xr.DataArray, mapped: str | None) -> tuple[str, int | None] | None:
    if mapped:
        return variables.split(mapped)
    attrs = {key: str(array.attrs.get(key, "")) for key in ("standard_name", "long_name", "GRIB_shortName")}
    known = variables.recognise(plain, attrs["standard_name"], attrs["long_name"], attrs["GRIB_shortName"])
    if known is None:
        return variables.split(plain) if variables.find(plain) else None
    return known[0].short, known[1]


def _period(source: str, array: xr.DataArray) -> tuple[str, str]:
    """The name without its period, `total_precipitation_6hr`, and how it was accumulated, where that is said."""
    if match := _PERIOD.fullmatch(source):
        return match[1], f"{match[2]}h"
    stated = str(array.attrs.get("accumulation_period", ""))
    return source, stated or ("start" if array.attrs.get("GRIB_stepType") == "accum" else "")


def _accumulated(short: str) -> bool:
    variable = variables.find(short)
    return variable is not None and variable.accumulated


def _upper(short: str) -> bool:
    variable = variables.find(short)
    return variable is None or variable.levels
