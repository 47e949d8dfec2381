"""What values the atmosphere can have, widely taken: outside, units are wrong or a file is damaged.

Ranges are in ERA5 units; packing may push values a little below zero. Geopotential on a pressure level lies within
8,000 m2/s2 of a column between 190 and 320 K from 1,000 hPa up.
"""

from __future__ import annotations

import numpy as np

from forecast.core import variables
from forecast.core.errors import ForecastError
from forecast.core.times import format_time

_SHARE, _WATER, _ENERGY = (-0.02, 1.02), (-1e-4, 3.0), (-3e8, 3e8)
RANGES: dict[str, tuple[float, float]] = {
    "z": (-6e3, 9.5e4), "t": (120.0, 360.0), "2t": (165.0, 345.0), "2d": (140.0, 320.0), "skt": (150.0, 375.0),
    "sst": (260.0, 320.0), "mx2t": (165.0, 345.0), "mn2t": (165.0, 345.0), "msl": (8.5e4, 1.12e5),
    "sp": (3.5e4, 1.15e5), "u": (-250.0, 250.0), "v": (-250.0, 250.0), "10u": (-120.0, 120.0), "10v": (-120.0, 120.0),
    "100u": (-130.0, 130.0), "100v": (-130.0, 130.0), "q": (-1e-3, 0.06), "r": (-30.0, 250.0), "w": (-100.0, 100.0),
    "vo": (-0.05, 0.05), "d": (-0.05, 0.05), "o3": (-1e-5, 1e-4), "clwc": (-1e-4, 0.05), "ciwc": (-1e-4, 0.05),
    "cc": _SHARE, "tcc": _SHARE, "lcc": _SHARE, "mcc": _SHARE, "hcc": _SHARE, "ci": _SHARE, "lsm": _SHARE,
    "tcw": (-1.0, 200.0), "tcwv": (-1.0, 200.0), "blh": (-10.0, 2e4), "cape": (-10.0, 3e4), "sd": (-0.01, 200.0),
    "slt": (-1.0, 20.0), "sdor": (-1.0, 3e3), "10fg": (-1.0, 200.0), "10fg3": (-1.0, 200.0), "10fg6": (-1.0, 200.0),
    "tp": _WATER, "cp": _WATER, "lsp": _WATER, "sf": _WATER, "ro": _WATER, "e": (-3.0, 3.0),
    **dict.fromkeys(("ssrd", "strd", "ssr", "str", "tsr", "ttr", "tisr", "sshf", "slhf"), _ENERGY),
    **{f"stl{k}": (150.0, 360.0) for k in range(1, 5)}, **{f"swvl{k}": (-0.05, 1.05) for k in range(1, 5)},
}  # fmt: skip


def bounds(name: str) -> tuple[float, float] | None:
    """Lowest and highest plausible value of a variable, None where none are known.

    >>> bounds("2t"), [round(b) for b in bounds("z_500")]
    ((165.0, 345.0), [29797, 71659])
    """
    short, level = variables.split(name)
    if short == "z" and level is not None:
        height = 287.05 * np.log(1000.0 / level)
        low, high = sorted((190.0 * height, 320.0 * height))
        return float(low) - 8000.0, float(high) + 8000.0
    return RANGES.get(short)


def check(names: tuple[str, ...], dates: np.ndarray, states: np.ndarray) -> None:
    """Refuse states (t, V, members, G) with a value outside the bounds of its variable; NaN are not looked at.

    Raises:
        ForecastError: says which, when, and what the values reach.
    """
    for v, name in enumerate(names):
        limits = bounds(name)
        if limits is None:
            continue
        field = states[:, v]
        low, high = np.fmin.reduce(field, axis=(1, 2)), np.fmax.reduce(field, axis=(1, 2))
        bad = np.flatnonzero((low < limits[0]) | (high > limits[1]))
        if bad.size:
            t = bad[0]
            unit, (least, most) = variables.lookup(name).units, limits
            raise ForecastError(
                f"{name} at {format_time(dates[t])}: values from {low[t]:g} to {high[t]:g}, plausible are {least:g} to "
                f"{most:g} {unit}: wrong units (source.units), or a damaged file? store.implausible: accept takes them"
            )
