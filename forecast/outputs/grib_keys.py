"""GRIB2 keys of a field: parameter and level, ensemble or product, date and step."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from forecast.core import variables
from forecast.core.errors import ForecastError
from forecast.outputs import cf
from forecast.outputs.products import Product

# short name -> (paramId, factor, further keys): parameters that ERA5 gives in ECMWF's own codes, in those of the WMO
WMO: dict[str, tuple[int, float, dict[str, Any]]] = {
    "tp": (228228, 1e3, {}),
    "cp": (228143, 1e3, {}),
    "lsp": (3062, 1e3, {}),
    "sf": (228144, 1e3, {}),
    "sd": (228141, 1e3, {}),
    "ro": (231002, 1e3, {}),
    "tcc": (228164, 1e2, {}),
    "lcc": (3073, 1e2, {}),
    "mcc": (3074, 1e2, {}),
    "hcc": (3075, 1e2, {}),
    "100u": (131, 1.0, {"typeOfLevel": "heightAboveGround", "level": 100}),
    "100v": (132, 1.0, {"typeOfLevel": "heightAboveGround", "level": 100}),
}
ECMWF_ONLY = {"e", "10fg", "10fg3", "10fg6", "mx2t", "mn2t"} | {f"stl{k}" for k in range(1, 5)} | {
    f"swvl{k}" for k in range(1, 5)
}  # fmt: skip
PRODUCT_TEMPLATES = {"members": (1, 11), "derived": (2, 12), "probability": (5, 9), "quantile": (6, 10)}
"""kind -> templates of an instant and of an interval (code table 4.0)"""
DERIVED = {"mean": 0, "spread": 4, "min": 8, "max": 9}
"""code table 4.7"""


def kind_of(product: Product | None) -> str:
    """Which templates a product needs."""
    if product is None:
        return "members"
    return product.kind if product.kind in ("probability", "quantile") else "derived"


def parameter(name: str, ecmwf: bool) -> tuple[int, float, dict[str, Any]]:
    """paramId, factor on the values, and level keys of a variable.

    Args:
        ecmwf: the file comes under the name of ECMWF (centre=ecmf) and may use its local codes.

    Raises:
        ForecastError: a variable that has no paramId, or none outside ECMWF.
    """
    row, (short, level) = variables.find(name), variables.split(name)
    if row is None:
        raise ForecastError(f"{name} has no GRIB paramId: leave it out (--variables), or export NetCDF (--to FILE.nc)")
    if not ecmwf and row.short in ECMWF_ONLY:
        raise ForecastError(f"{name} has a GRIB code of ECMWF only: set --grib centre=ecmf, or leave it out")
    if level is not None and short == row.short:
        return row.param_id, 1.0, {"typeOfLevel": "isobaricInhPa", "level": level}
    return WMO[name] if name in WMO and not ecmwf else (row.param_id, 1.0, {})


def date_keys(start: np.datetime64) -> dict[str, Any]:
    """The reference time, significance included: the start of the forecast."""
    date, clock = str(start.astype("datetime64[s]")).split("T")
    hour, minute, second = clock.split(":")
    return {
        "significanceOfReferenceTime": 1,
        "dataDate": int(date.replace("-", "")),
        "hour": int(hour),
        "minute": int(minute),
        "second": int(second),
    }


def time_keys(
    name: str, start: np.datetime64, lead: np.timedelta64, period: np.timedelta64 | None
) -> dict[str, Any] | None:
    """Step keys; None for an accumulation that would begin before the forecast, which GRIB cannot say.

    Raises:
        ForecastError: an accumulation whose period the store does not state.
    """
    seconds = int(lead / np.timedelta64(1, "s"))
    if cf.over_time(name) == "point":
        unit, size = _unit(seconds)
        return {"indicatorOfUnitOfTimeRange": unit, "forecastTime": seconds // size}
    if period is None:
        raise ForecastError(f"{name} is accumulated, but the store does not state over which time: export NetCDF")
    begins = seconds - int(period / np.timedelta64(1, "s"))
    if begins < 0:
        return None
    unit, size = _unit(seconds, begins)
    ends = str((start + lead).astype("datetime64[s]"))
    parts = ("year", "month", "day", "hour", "minute", "second")
    end = {
        f"{part}OfEndOfOverallTimeInterval": int(text)
        for part, text in zip(parts, re.split("[-T:]", ends), strict=True)
    }
    return end | {
        "indicatorOfUnitOfTimeRange": unit,
        "forecastTime": begins // size,
        "typeOfStatisticalProcessing": {"sum": 1, "maximum": 2, "minimum": 3}[cf.over_time(name)],
        "typeOfTimeIncrement": 2,
        "indicatorOfUnitForTimeRange": unit,
        "lengthOfTimeRange": (seconds - begins) // size,
    }


def ensemble_keys(product: Product | None, size: int, factor: float) -> dict[str, Any]:
    """Keys that all members share (see `member_keys`), or of a product.

    Args:
        size: members of the ensemble. factor: on the variable's values, so also on thresholds.
    """
    if product is None:
        return {"typeOfGeneratingProcess": 4, "numberOfForecastsInEnsemble": size}
    if product.kind == "quantile":
        if product.value != int(product.value):
            raise ForecastError(f"{product.name}: GRIB takes quantiles in whole percent; export NetCDF for others")
        return {"typeOfProcessedData": 5, "typeOfGeneratingProcess": 4, "percentileValue": int(product.value)}
    if product.kind == "probability":
        return {"typeOfProcessedData": 8, "typeOfGeneratingProcess": 5} | _threshold(product, factor)
    derived = {"derivedForecast": DERIVED[product.kind], "numberOfForecastsInEnsemble": size}
    return {"typeOfProcessedData": 5, "typeOfGeneratingProcess": 4} | derived


def member_keys(number: int, control: bool) -> dict[str, Any]:
    """Keys of one member: a perturbed one (code table 4.6 knows only negative and positive: 3), or the control (0)."""
    kind = {"typeOfProcessedData": 3, "typeOfEnsembleForecast": 0} if control and number == 0 else {
        "typeOfProcessedData": 4, "typeOfEnsembleForecast": 3
    }  # fmt: skip
    return kind | {"perturbationNumber": number}


def _threshold(product: Product, factor: float) -> dict[str, Any]:
    """Probability keys: above the lower limit (3) or below the upper one (4), limits as integers and a power of 10."""
    threshold = float(np.format_float_positional(product.value * factor, precision=7, fractional=False))
    scale = next((s for s in range(13) if abs(round(threshold * 10**s) - threshold * 10**s) < 1e-6), 12)
    side, other = ("LowerLimit", "UpperLimit") if product.above else ("UpperLimit", "LowerLimit")
    return {
        "forecastProbabilityNumber": 0,
        "totalNumberOfForecastProbabilities": 1,
        "probabilityType": 3 if product.above else 4,
        f"scaleFactorOf{side}": scale,
        f"scaledValueOf{side}": round(threshold * 10**scale),
        f"scaleFactorOf{other}": None,
        f"scaledValueOf{other}": None,
    }


def _unit(*seconds: int) -> tuple[int, int]:
    """Code (table 4.4) and seconds of the longest of hour, minute and second that divides all."""
    return next((code, size) for code, size in ((1, 3600), (0, 60), (13, 1)) if all(s % size == 0 for s in seconds))
