"""Units of files into those of the table: only what is known is converted, the rest is refused."""

from __future__ import annotations

import re

from forecast.core import variables
from forecast.core.errors import ForecastError

GRAVITY = 9.80665
_WATER = {"tp", "cp", "lsp", "sf", "ro", "e", "sd"}  # 1 kg m-2 of water is 1 mm
_SPELLINGS = {
    "(0 - 1)": "1", "0-1": "1", "0 - 1": "1", "fraction": "1", "dimensionless": "1", "proportion": "1", "~": "1",
    "-": "1", "numeric": "1", "m of water equivalent": "m", "percent": "%", "millibars": "hPa", "millibar": "hPa",
    "mbar": "hPa", "mb": "hPa", "hpa": "hPa", "pascal": "Pa", "pascals": "Pa", "kelvin": "K", "degk": "K", "k": "K",
    "celsius": "degC", "degc": "degC", "deg_c": "degC", "°c": "degC", "c": "degC", "degrees_celsius": "degC",
    "gpm": "m", "geopotential metres": "m", "metre": "m", "metres": "m", "meter": "m", "meters": "m",
    "(code table 4.213)": "1",
}  # fmt: skip
_FACTORS: dict[tuple[str, str], tuple[float, float]] = {
    ("hPa", "Pa"): (100.0, 0.0),
    ("kPa", "Pa"): (1000.0, 0.0),
    ("degC", "K"): (1.0, 273.15),
    ("%", "1"): (0.01, 0.0),
    ("1", "%"): (100.0, 0.0),
    ("g kg-1", "1"): (1e-3, 0.0),
    ("mm", "m"): (1e-3, 0.0),
    ("cm", "m"): (1e-2, 0.0),
}


def canonical(units: str) -> str:
    """One spelling for each unit.

    >>> canonical("m s**-1"), canonical("m/s"), canonical("m2 s-2"), canonical("kg kg**-1")
    ('m s-1', 'm s-1', 'm2 s-2', '1')
    """
    text = " ".join(units.split())
    if text.lower() in _SPELLINGS:
        return _SPELLINGS[text.lower()]
    powers: dict[str, int] = {}
    for slash, symbol, power in re.findall(r"(/?)\s*([A-Za-z%°]+)(?:\*\*|\^)?(-?\d+)?", text):
        symbol = _SPELLINGS.get(symbol.lower(), symbol) if len(symbol) > 1 else symbol
        powers[symbol] = powers.get(symbol, 0) + int(power or 1) * (-1 if slash else 1)
    ordered = sorted(powers.items(), key=lambda item: (item[1] < 0, item[0]))
    return " ".join(s if n == 1 else f"{s}{n}" for s, n in ordered if n) or "1"


def conversion(name: str, units: str) -> tuple[float, float]:
    """(factor, offset) with which values of `name` in `units` become those of the table; (1, 0) for unknown names.

    Raises:
        ForecastError: no conversion is known.
    """
    variable = variables.find(name)
    if variable is None:
        return 1.0, 0.0
    given, wanted = canonical(units), canonical(variable.units)
    if given == wanted:
        return 1.0, 0.0
    if variable.short == "z" and given in ("m", "dam"):
        return GRAVITY * (10.0 if given == "dam" else 1.0), 0.0
    if variable.short in _WATER and given == "kg m-2":
        return 1e-3, 0.0
    if (given, wanted) not in _FACTORS:
        raise ForecastError(f"{name} is in `{units}`, which cannot be converted to `{variable.units}`")
    return _FACTORS[given, wanted]
