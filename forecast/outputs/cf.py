"""How CF speaks of our variables: names that begin with a letter, standard names, cell methods."""

from __future__ import annotations

from typing import Any

from forecast.core import variables

# CF standard names that hold at a height only, or that several variables share, so that the table has them not
STANDARD_NAMES = {
    "2t": "air_temperature", "2d": "dew_point_temperature", "10u": "eastward_wind", "10v": "northward_wind",
    "100u": "eastward_wind", "100v": "northward_wind", "10fg": "wind_speed_of_gust", "10fg3": "wind_speed_of_gust",
    "10fg6": "wind_speed_of_gust", "mx2t": "air_temperature", "mn2t": "air_temperature",
    "tp": "lwe_thickness_of_precipitation_amount", "cp": "lwe_thickness_of_convective_precipitation_amount",
    "lsp": "lwe_thickness_of_stratiform_precipitation_amount", "sf": "lwe_thickness_of_snowfall_amount",
    "tcwv": "atmosphere_mass_content_of_water_vapor", "blh": "atmosphere_boundary_layer_thickness",
}  # fmt: skip
_UNITS = {"(0 - 1)": "1", "~": "1", "m of water equivalent": "m"}


def file_name(name: str) -> str:
    """The name in a NetCDF file: ours, but t2m for 2t, u10 for 10u, as CDS files have it, and z alone is for levels.

    >>> file_name("2t"), file_name("z_500")
    ('t2m', 'z_500')
    """
    if name == "z":
        return "z_surface"
    if not name[0].isdigit():
        return name
    row = variables.find(name)
    return next((alias for alias in row.aliases if alias[0].isalpha()), f"v{name}") if row else f"v{name}"


def attributes(name: str) -> dict[str, Any]:
    """long_name, standard_name and units of a variable; a unit of 1 where the table does not know it."""
    known = variables.metadata(name)
    units = known.get("units", "")
    found = {"long_name": known["long_name"], "units": _UNITS.get(units, units) or "1"}
    if standard := known.get("standard_name") or STANDARD_NAMES.get(name, ""):
        found["standard_name"] = "surface_geopotential" if name == "z" else standard
    return found


def over_time(name: str) -> str:
    """How a variable treats the time before its date: `sum`, `maximum`, `minimum` or `point`."""
    known = variables.metadata(name)
    if known.get("process") == "accumulation":
        return "sum"
    if known.get("process") == "extreme":
        return "minimum" if name.startswith("mn") else "maximum"
    return "point"
