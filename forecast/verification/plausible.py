"""A look at the first fields: units that differ by a factor, fields without any variation, a single member."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forecast.core import variables
from forecast.core.errors import ForecastError
from forecast.verification.plan import Plan
from forecast.verification.sources import StoredForecast
from forecast.verification.states import States

FACTORS = {9.80665: "geopotential against height", 100.0: "hPa against Pa, or % against shares",
           1000.0: "mm against m, or g against kg"}  # fmt: skip


def look(forecasts: Sequence[StoredForecast], truth: States, plan: Plan) -> tuple[str, ...]:
    """Notes on what is odd about the first field of each variable.

    Raises:
        ForecastError: a forecast whose values are those of the truth in other units.
    """
    start, lead = plan.cases[0]
    when = plan.starts[start] + plan.leads[lead]
    state, notes = truth.get(when), []
    for forecast in forecasts:
        if forecast.members == 1:
            notes.append(f"`{forecast.label}` has one member: its fair CRPS is the MAE, spread-skill does not exist.")
        for v, name in enumerate(plan.variables):
            fields = forecast.read(name, plan.starts[start], plan.leads[lead])
            _same_units(forecast.label, name, fields, state[v])
            if np.ptp(fields) == 0:
                notes.append(f"`{forecast.label}`: `{name}` is {fields.flat[0]:g} everywhere at its first lead time.")
    for v, name in enumerate(plan.variables):
        if np.ptp(state[v]) == 0:
            notes.append(f"Truth: `{name}` is {state[v].flat[0]:g} everywhere at the first valid time.")
    return tuple(notes)


def _same_units(label: str, name: str, fields: np.ndarray, truth: np.ndarray) -> None:
    x, y = (float(np.nanmean(np.abs(a), dtype=np.float64)) if np.isfinite(a).any() else 0.0 for a in (fields, truth))
    if not x > 0 or not y > 0:
        return
    known = variables.find(name)
    if known and known.units == "K" and abs(abs(x - y) - 273.15) < 40:
        raise ForecastError(f"`{label}`: `{name}` is {x:.4g} on average, the truth {y:.4g}: degrees Celsius against K")
    ratio = max(x / y, y / x)
    for factor, meaning in FACTORS.items():
        near = 0.03 if factor < 10 else 0.5
        if abs(np.log(ratio / factor)) < near and (factor > 10 or name.startswith("z")):
            raise ForecastError(
                f"`{label}`: `{name}` is {x:.4g} on average, the truth {y:.4g}: the units differ by a factor of "
                f"about {factor:g} ({meaning}); state them in the file, or convert it"
            )
