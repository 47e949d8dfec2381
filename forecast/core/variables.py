"""The one table of variables: ERA5 short names, units, GRIB and NetCDF names, bounds.

A variable of a store is a short name, with the pressure level in hPa behind an underscore where it has one:
`z_500`, `t_850`, `2t`, `msl`, `tp`. `z` without a level is the geopotential of the ground.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from forecast.core.errors import ForecastError


@dataclass(frozen=True)
class Variable:
    """A row of the table.

    Attributes:
        short: ERA5 short name, which is also the GRIB shortName.
        long_name: as the CDS writes it.
        units: ERA5 units, UDUNITS notation with `m s**-1` as ECMWF writes them.
        param_id: ECMWF parameter id.
        standard_name: CF standard name, empty where CF has none.
        aliases: further names in files (t2m, hgt).
        levels: it lives on pressure levels (z at the ground as well).
        accumulated: summed over the step that ends at the date (tp), or its maximum (gusts).
        static: constant in time.
        minimum: the lowest value that is physically possible, if there is a bound.
    """

    short: str
    long_name: str
    units: str
    param_id: int
    standard_name: str = ""
    aliases: tuple[str, ...] = ()
    levels: bool = False
    accumulated: bool = False
    static: bool = False
    minimum: float | None = None


def _upper(short: str, long_name: str, units: str, param_id: int, standard_name: str = "", *aliases: str,
           minimum: float | None = None) -> Variable:  # fmt: skip
    return Variable(short, long_name, units, param_id, standard_name, aliases, levels=True, minimum=minimum)


def _single(short: str, long_name: str, units: str, param_id: int, standard_name: str = "", *aliases: str,
            minimum: float | None = None) -> Variable:  # fmt: skip
    return Variable(short, long_name, units, param_id, standard_name, aliases, minimum=minimum)


def _sum(short: str, long_name: str, units: str, param_id: int, standard_name: str = "", *aliases: str,
         minimum: float | None = None) -> Variable:  # fmt: skip
    return Variable(short, long_name, units, param_id, standard_name, aliases, accumulated=True, minimum=minimum)


def _static(short: str, long_name: str, units: str, param_id: int, standard_name: str = "", *aliases: str,
            minimum: float | None = None) -> Variable:  # fmt: skip
    return Variable(short, long_name, units, param_id, standard_name, aliases, static=True, minimum=minimum)


TABLE: tuple[Variable, ...] = (
    _upper("z", "Geopotential", "m**2 s**-2", 129, "geopotential", "hgt", "gh", "zg", "orography",
           "geopotential_at_surface", "geopotential_height"),
    _upper("t", "Temperature", "K", 130, "air_temperature", "ta", "air", minimum=0.0),
    _upper("u", "U component of wind", "m s**-1", 131, "eastward_wind", "ua", "uwnd"),
    _upper("v", "V component of wind", "m s**-1", 132, "northward_wind", "va", "vwnd"),
    _upper("q", "Specific humidity", "kg kg**-1", 133, "specific_humidity", "hus", "shum", minimum=0.0),
    _upper("w", "Vertical velocity", "Pa s**-1", 135, "lagrangian_tendency_of_air_pressure", "wap", "omega"),
    _upper("vo", "Vorticity (relative)", "s**-1", 138, "atmosphere_relative_vorticity"),
    _upper("d", "Divergence", "s**-1", 155, "divergence_of_wind"),
    _upper("r", "Relative humidity", "%", 157, "relative_humidity", "hur", "rhum"),
    _upper("o3", "Ozone mass mixing ratio", "kg kg**-1", 203, "mass_fraction_of_ozone_in_air", minimum=0.0),
    _upper("pv", "Potential vorticity", "K m**2 kg**-1 s**-1", 60, "ertel_potential_vorticity"),
    _upper("clwc", "Specific cloud liquid water content", "kg kg**-1", 246, minimum=0.0),
    _upper("ciwc", "Specific cloud ice water content", "kg kg**-1", 247, minimum=0.0),
    _upper("cc", "Fraction of cloud cover", "(0 - 1)", 248, minimum=0.0),
    _single("2t", "2 metre temperature", "K", 167, "", "t2m", "tas", minimum=0.0),
    _single("2d", "2 metre dewpoint temperature", "K", 168, "", "d2m", minimum=0.0),
    _single("10u", "10 metre U wind component", "m s**-1", 165, "", "u10", "10m_u_component_of_wind", "uas"),
    _single("10v", "10 metre V wind component", "m s**-1", 166, "", "v10", "10m_v_component_of_wind", "vas"),
    _single("100u", "100 metre U wind component", "m s**-1", 228246, "", "u100", "100m_u_component_of_wind"),
    _single("100v", "100 metre V wind component", "m s**-1", 228247, "", "v100", "100m_v_component_of_wind"),
    _single("msl", "Mean sea level pressure", "Pa", 151, "air_pressure_at_mean_sea_level", "mslp", "psl", "slp",
            "prmsl", "air_pressure_at_sea_level", minimum=0.0),
    _single("sp", "Surface pressure", "Pa", 134, "surface_air_pressure", "ps", minimum=0.0),
    _single("skt", "Skin temperature", "K", 235, "surface_temperature", minimum=0.0),
    _single("sst", "Sea surface temperature", "K", 34, "sea_surface_temperature", minimum=0.0),
    _single("ci", "Sea ice area fraction", "(0 - 1)", 31, "sea_ice_area_fraction", "siconc", "sea_ice_cover",
            minimum=0.0),
    _single("tcw", "Total column water", "kg m**-2", 136, "", minimum=0.0),
    _single("tcwv", "Total column vertically-integrated water vapour", "kg m**-2", 137, "", "total_column_water_vapour",
            minimum=0.0),
    _single("tcc", "Total cloud cover", "(0 - 1)", 164, "cloud_area_fraction", minimum=0.0),
    _single("lcc", "Low cloud cover", "(0 - 1)", 186, "", minimum=0.0),
    _single("mcc", "Medium cloud cover", "(0 - 1)", 187, "", minimum=0.0),
    _single("hcc", "High cloud cover", "(0 - 1)", 188, "", minimum=0.0),
    _single("blh", "Boundary layer height", "m", 159, "", minimum=0.0),
    _single("cape", "Convective available potential energy", "J kg**-1", 59, "", minimum=0.0),
    _single("sd", "Snow depth", "m of water equivalent", 141, "lwe_thickness_of_surface_snow_amount", minimum=0.0),
    _static("lsm", "Land-sea mask", "(0 - 1)", 172, "land_binary_mask", "land_sea_mask", minimum=0.0),
    _static("slt", "Soil type", "~", 43, "soil_type", minimum=0.0),
    _static("sdor", "Standard deviation of sub-gridscale orography", "m", 160, "",
            "standard_deviation_of_orography", minimum=0.0),
    _static("slor", "Slope of sub-gridscale orography", "~", 163, "", minimum=0.0),
    *(_single(f"stl{k}", f"Soil temperature level {k}", "K", p, "", minimum=0.0)
      for k, p in enumerate((139, 170, 183, 236), 1)),
    *(_single(f"swvl{k}", f"Volumetric soil water layer {k}", "m**3 m**-3", 38 + k, "", minimum=0.0)
      for k in range(1, 5)),
    _sum("tp", "Total precipitation", "m", 228, "", minimum=0.0),
    _sum("cp", "Convective precipitation", "m", 143, "", minimum=0.0),
    _sum("lsp", "Large-scale precipitation", "m", 142, "", minimum=0.0),
    _sum("sf", "Snowfall", "m of water equivalent", 144, "", minimum=0.0),
    _sum("ro", "Runoff", "m", 205, "", minimum=0.0),
    _sum("e", "Evaporation", "m of water equivalent", 182, ""),
    _sum("ssrd", "Surface short-wave (solar) radiation downwards", "J m**-2", 169, "", minimum=0.0),
    _sum("strd", "Surface long-wave (thermal) radiation downwards", "J m**-2", 175, "", minimum=0.0),
    _sum("ssr", "Surface net short-wave (solar) radiation", "J m**-2", 176),
    _sum("str", "Surface net long-wave (thermal) radiation", "J m**-2", 177),
    _sum("tsr", "Top net short-wave (solar) radiation", "J m**-2", 178),
    _sum("ttr", "Top net long-wave (thermal) radiation", "J m**-2", 179),
    _sum("tisr", "TOA incident short-wave (solar) radiation", "J m**-2", 212, "", "toa_incident_solar_radiation",
         minimum=0.0),
    _sum("sshf", "Time-integrated surface sensible heat net flux", "J m**-2", 146, "", "surface_sensible_heat_flux"),
    _sum("slhf", "Time-integrated surface latent heat net flux", "J m**-2", 147, "", "surface_latent_heat_flux"),
    _sum("10fg", "Maximum 10 metre wind gust since previous post-processing", "m s**-1", 49, "", "fg10", minimum=0.0),
    _sum("10fg3", "10 metre wind gust in the last 3 hours", "m s**-1", 228028, "", "fg10_3", minimum=0.0),
    _sum("10fg6", "10 metre wind gust in the last 6 hours", "m s**-1", 123, "", "fg10_6", minimum=0.0),
    _sum("mx2t", "Maximum temperature at 2 metres since previous post-processing", "K", 201, "", minimum=0.0),
    _sum("mn2t", "Minimum temperature at 2 metres since previous post-processing", "K", 202, "", minimum=0.0),
)  # fmt: skip


def _plain(name: str) -> str:
    """Names compared without case, blanks, and ways to write `metre`: `2 metre temperature` is 2m_temperature."""
    text = re.sub(r"[\s_\-]+", "_", name.strip().lower())
    return re.sub(r"^(\d+)_met(re|er)_", r"\1m_", text)


_BY_SHORT = {v.short: v for v in TABLE}
_BY_NAME = {_plain(name): v for v in TABLE for name in (v.long_name, *v.aliases, v.short)}
_BY_STANDARD_NAME = {v.standard_name: v for v in TABLE if v.standard_name}


def split(name: str) -> tuple[str, int | None]:
    """The short name and the level in hPa, if any.

    >>> split("z_500"), split("2t")
    (('z', 500), ('2t', None))
    """
    match = re.fullmatch(r"(.+)_(\d+)", name)
    return (match[1], int(match[2])) if match else (name, None)


def join(short: str, level: int | None) -> str:
    """The name in a store: the opposite of `split`."""
    return short if level is None else f"{short}_{level}"


def level_of(name: str) -> int | None:
    """Pressure level in hPa of `z_500`, None for `2t`."""
    return split(name)[1]


def lookup(name: str) -> Variable:
    """The row of a short name, with or without a level.

    Raises:
        ForecastError: not in the table.
    """
    variable = find(name)
    if variable is None:
        raise ForecastError(f"unknown variable `{name}`: ERA5 short names are expected, e.g. z_500, 2t, msl")
    return variable


def find(name: str) -> Variable | None:
    """As `lookup`, but None for a name that the table does not hold."""
    return _BY_SHORT.get(name) or _BY_SHORT.get(split(name)[0])


def recognise(
    name: str, standard_name: str = "", long_name: str = "", short_name: str = ""
) -> tuple[Variable, int | None] | None:
    """The variable (and level in hPa, if the name carries it) that a file calls `name`, or None.

    Tried in order: the short name that the file states, the name, the name with a level behind it (z500, t_850),
    the long name, the standard name.
    """
    for candidate in (short_name, name):
        if candidate and (variable := _BY_NAME.get(_plain(candidate))):
            return variable, None
    if match := re.fullmatch(r"([A-Za-z]+)(?:_(\d+)|(\d{2,4}))", name):  # not t2, which some call 2t
        variable = _BY_NAME.get(_plain(match[1]))
        if variable is not None and variable.levels:
            return variable, int(match[2] or match[3])
    variable = _BY_NAME.get(_plain(long_name)) or _BY_STANDARD_NAME.get(standard_name)
    return (variable, None) if variable else None


def is_static(name: str) -> bool:
    """Whether a variable is constant in time: lsm, slt, and z without a level."""
    variable = find(name)
    return name == "z" or (variable is not None and variable.static)


def minimum(name: str) -> float | None:
    """Lowest possible value of a variable (0 for tp, q), None where there is no bound or the table has no row."""
    variable = find(name)
    return variable.minimum if variable else None


def metadata(name: str, units: str | None = None, long_name: str | None = None) -> dict[str, Any]:
    """What a store says of a variable, in the form that anemoi reads (`variables_metadata`).

    `units` and `long_name` serve names that the table does not hold.
    """
    short, level = split(name)
    variable = find(name)
    mars: dict[str, Any] = {"param": short, "levtype": "sfc" if level is None else "pl"}
    if level is not None:
        mars["levelist"] = level
    described: dict[str, Any] = {"mars": mars}
    if variable is None:
        return described | {"units": units or "", "long_name": long_name or name}
    described |= {"units": variable.units, "long_name": variable.long_name, "param_id": variable.param_id}
    if variable.standard_name:
        described["standard_name"] = variable.standard_name
    if variable.accumulated:
        described["process"] = "accumulation" if not variable.short.startswith(("10fg", "mx", "mn")) else "extreme"
    return described
