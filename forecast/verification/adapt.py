"""Forecasts and truth brought to one grid and to the same periods of accumulation, as they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from forecast.core import regrid, variables
from forecast.core.errors import ForecastError
from forecast.core.grids import Grid, latlon
from forecast.core.times import format_duration, parse_duration


def one_and_a_half() -> Grid:
    """The 1.5 degree grid of 121 x 240 points on which WMO scores are exchanged, north to south."""
    return latlon(np.linspace(90.0, -90.0, 121), np.arange(240) * 1.5)


def same_points(a: Grid, b: Grid) -> bool:
    """Whether two grids have the same points in the same order."""
    if a.size != b.size or not np.allclose(a.latitudes, b.latitudes, atol=1e-3):
        return False
    return bool(np.allclose((a.longitudes - b.longitudes + 180) % 360, 180, atol=1e-3))


def mapper(source: Grid, target: Grid) -> Callable[[np.ndarray], np.ndarray] | None:
    """Takes (..., source) fields to (..., target); None where there is nothing to do.

    The same points in another order (south to north, from -180 east) are reordered; else area integrals are kept
    (conservative weights), which is how WeatherBench brings fields to 1.5 degrees.

    Raises:
        ForecastError: a target that reaches beyond the source.
    """
    if same_points(source, target):
        return None
    keys = [(np.round(g.latitudes, 3) + 0.0, np.round(g.longitudes % 360.0, 3) % 360.0) for g in (source, target)]
    if source.size == target.size:
        orders = [np.lexsort((east, north)) for north, east in keys]
        if all(np.allclose(k[orders[0]], t[orders[1]], atol=2e-3) for k, t in zip(*keys, strict=True)):
            places = np.empty(target.size, np.intp)
            places[orders[1]] = orders[0]
            return lambda fields: np.ascontiguousarray(fields[..., places])
    weights = regrid.matrix(source, target, "conservative")
    return lambda fields: regrid.apply(weights, fields)


class OnGrid:
    """A forecast or a truth on another grid; everything else as it was."""

    def __init__(self, store: Any, grid: Grid) -> None:
        self._store, self.grid, self._map = store, grid, mapper(store.grid, grid)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def read(self, *where: Any, **options: Any) -> np.ndarray:
        """As the store's own, on the grid."""
        fields = self._store.read(*where, **options)
        return fields if self._map is None else self._map(fields)


def on_grid(store: Any, grid: Grid) -> Any:
    """The store itself if it is on the grid, else a view of it that is."""
    return store if same_points(store.grid, grid) else OnGrid(store, grid)


def truth_periods(truth: Any) -> dict[str, np.timedelta64]:
    """How long each accumulated variable of a truth was summed before its date: as stated, else its time step."""
    stated = getattr(truth, "periods", {})
    return {
        name: parse_duration(stated[name]) if name in stated else truth.frequency
        for name in truth.variables if _is_sum(name)
    }  # fmt: skip


def forecast_periods(forecast: Any) -> dict[str, np.timedelta64 | None]:
    """The same of a forecast; None is since the start. What does not say it is left out."""
    stated = dict(getattr(forecast, "periods", {}))
    if "accumulation" in forecast.settings:
        stated |= dict.fromkeys((n for n in forecast.variables if _is_sum(n)), forecast.settings["accumulation"])
    return {name: None if period == "start" else parse_duration(period) for name, period in stated.items()}


class SummedForecast:
    """A forecast whose accumulated fields are sums over the period before their valid time that `periods` gives."""

    def __init__(self, store: Any, periods: Mapping[str, np.timedelta64]) -> None:
        self._store, self._own = store, forecast_periods(store)
        self._periods = {n: p for n, p in periods.items() if n in self._own and self._own[n] != p}
        for name, period in self._periods.items():
            own = self._own[name]
            if own is not None and (period < own or period % own):
                raise ForecastError(f"{store.path}: `{name}` is summed over {format_duration(own)}, which makes no "
                                    f"{format_duration(period)} of the truth")  # fmt: skip

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def read(self, variable: str, start: int, lead: int) -> np.ndarray:
        """(M, G) as the store's own; NaN where an earlier lead time is not there."""
        period = self._periods.get(variable)
        if period is None:
            return self._store.read(variable, start, lead)
        leads, own = self._store.leads.astype("timedelta64[s]"), self._own[variable]
        if own is None:
            before = leads[lead] - period
            whole = self._store.read(variable, start, lead)
            if before == np.timedelta64(0, "s"):
                return whole
            earlier = np.flatnonzero(leads == before)
            return whole - self._store.read(variable, start, int(earlier[0])) if earlier.size else whole * np.nan
        parts = [np.flatnonzero(leads == leads[lead] - k * own) for k in range(int(period / own))]
        fields = [self._store.read(variable, start, int(p[0])) for p in parts if p.size]
        return sum(fields[1:], fields[0]) if len(fields) == len(parts) else fields[0] * np.nan


class SummedTruth:
    """A truth whose accumulated fields are sums over longer periods before their dates."""

    def __init__(self, store: Any, periods: Mapping[str, np.timedelta64]) -> None:
        own = truth_periods(store)
        self._store = store
        self._steps = {n: int(p / own[n]) for n, p in periods.items() if n in own and p != own[n]}
        for name, period in periods.items():
            if name in own and (period < own[name] or period % own[name]):
                lengths = f"{format_duration(own[name])}, which makes no {format_duration(period)} of a forecast"
                raise ForecastError(f"{store.path}: `{name}` is summed over {lengths}")
        self._own = own

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def read(self, times: Any, names: Sequence[str]) -> np.ndarray:
        """(T, V, G) as the store's own; NaN where an earlier date is not there."""
        out = self._store.read(times, names)
        places = np.arange(self._store.dates.size)[times] if isinstance(times, slice) else np.atleast_1d(times)
        position = {when: k for k, when in enumerate(self._store.dates.astype("datetime64[s]").tolist())}
        for name, steps in self._steps.items():
            if name not in names:
                continue
            v = list(names).index(name)
            for t, place in enumerate(places):
                for k in range(1, steps):
                    when = (self._store.dates[place] - k * self._own[name]).astype("datetime64[s]").item()
                    at = position.get(when)
                    out[t, v] += np.nan if at is None else self._store.read(np.array([at]), [name])[0, 0]
        return out


def common_periods(truth: Any, forecasts: Sequence[Any], wanted: Mapping[str, Any]) -> dict[str, np.timedelta64]:
    """Period of each accumulated variable that truth and forecasts are brought to: wanted, else the longest of all."""
    own = truth_periods(truth)
    for forecast in forecasts:
        for name, period in forecast_periods(forecast).items():
            if name in own and period is not None and period > own[name]:
                own[name] = period
    return {name: parse_duration(wanted[name]) if name in wanted else period for name, period in own.items()}


def _is_sum(name: str) -> bool:
    variable = variables.find(name)
    return variable is not None and variables.metadata(name).get("process") == "accumulation"
