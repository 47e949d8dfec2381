"""What of a forecast store is wanted: variables, starts, members, lead times, a region."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from forecast.core.errors import ForecastError
from forecast.core.forecasts import Forecasts
from forecast.core.grids import Grid, from_points
from forecast.core.times import format_duration, format_time, parse_duration, parse_time

Area = tuple[float, float, float, float]
"""North, west, south, east in degrees; it may reach across any meridian"""


@dataclass(frozen=True, eq=False)
class Selection:
    """Part of a forecast store, all of it finished.

    Attributes:
        variables: names. starts, members, leads: positions in the store's axes, rising.
        points: (G,) positions in the store's grid, row by row. grid: those points.
        area: the region asked for, if any.
    """

    forecasts: Forecasts
    variables: tuple[str, ...]
    starts: np.ndarray
    members: np.ndarray
    leads: np.ndarray
    points: np.ndarray
    grid: Grid
    area: Area | None = None

    def read(self, variable: str, start: int, lead: int) -> np.ndarray:
        """All chosen members of one field: (M, G) float32. `start` and `lead` are positions in the store."""
        return np.concatenate([values for _, values in self.blocks(variable, start, lead)])

    def blocks(self, variable: str, start: int, lead: int) -> Any:
        """As `read`, one member batch of the store after the other: ((m,) positions in `members`, (m, G) float32)."""
        size = self.forecasts.member_batch
        for batch in np.unique(self.members // size):
            chosen = np.flatnonzero(self.members // size == batch)
            values = self.forecasts.read_unit(variable, (start, int(batch), lead))[self.members[chosen] % size]
            yield chosen, values if self.area is None else values[:, self.points]


def select(
    forecasts: Forecasts,
    variables: Sequence[str] | None = None,
    starts: Sequence[str] | None = None,
    members: Sequence[str] | None = None,
    leads: Sequence[str] | None = None,
    area: Area | None = None,
) -> Selection:
    """What is asked for; whatever is None is taken whole.

    Args:
        variables: names, or short names that stand for all their levels.
        starts, members, leads: values or ranges of those in the store: `2008-03-01T00`, `0..9`, `24h..10d/24h`.
        area: north, west, south, east.

    Raises:
        ForecastError: something that the store does not hold, or that is not finished.
    """
    chosen = Selection(
        forecasts,
        _variables(forecasts, variables),
        start_positions(forecasts, starts),
        member_positions(forecasts, members),
        lead_positions(forecasts, leads),
        *_points(forecasts, area),
        area,
    )
    batches = np.unique(chosen.members // forecasts.member_batch)
    there = forecasts.units[np.ix_(chosen.starts, batches, chosen.leads)].all(axis=1)
    if not there.all():
        start, lead = np.argwhere(~there)[0]
        when, ahead = forecasts.starts[chosen.starts[start]], forecasts.leads[chosen.leads[lead]]
        raise ForecastError(
            f"{forecasts.path}: the forecast from {format_time(when)} is not finished at lead time {_lead(ahead)}: "
            f"complete the run, or choose others"
        )
    return chosen


def start_positions(forecasts: Forecasts, wanted: Sequence[str] | None) -> np.ndarray:
    """Positions of starts in the store, rising; see `select`."""
    return _positions(wanted, "start", forecasts.starts, parse_time, parse_duration, format_time)


def member_positions(forecasts: Forecasts, wanted: Sequence[str] | None) -> np.ndarray:
    """Positions of members in the store, rising; see `select`."""
    return _positions(wanted, "member", forecasts.members, int, int, str)


def lead_positions(forecasts: Forecasts, wanted: Sequence[str] | None) -> np.ndarray:
    """Positions of lead times in the store, rising; see `select`."""
    return _positions(wanted, "lead", forecasts.leads, lead_time, lead_time, _lead)


def lead_time(text: str) -> np.timedelta64:
    """A lead time; 0h is one.

    Raises:
        ValueError: no duration.
    """
    return np.timedelta64(0, "s") if str(text).strip() in ("0", "0h", "0d") else parse_duration(text)


def parse_area(text: str) -> Area:
    """`70,-10,35,30` as north, west, south, east.

    Raises:
        ForecastError: not four numbers, or south of north.
    """
    try:
        north, west, south, east = (float(part) for part in text.split(","))
    except ValueError:
        raise ForecastError(f"--area {text}: write north,west,south,east in degrees, like 70,-10,35,30") from None
    if not -90 <= south <= north <= 90:
        raise ForecastError(f"--area {text}: north must lie above south, both within -90..90")
    return north, west, south, east


def _variables(forecasts: Forecasts, wanted: Sequence[str] | None) -> tuple[str, ...]:
    if wanted is None:
        return forecasts.variables
    found: list[str] = []
    for name in wanted:
        same = [v for v in forecasts.variables if v == name] or [
            v for v in forecasts.variables if v.rpartition("_")[0] == name and v.rpartition("_")[2].isdigit()
        ]
        if not same:
            raise ForecastError(f"{forecasts.path} holds no `{name}`, only {', '.join(forecasts.variables)}")
        found += [v for v in same if v not in found]
    return tuple(found)


def _positions(
    wanted: Sequence[str] | None,
    what: str,
    values: np.ndarray,
    parse: Callable[[str], Any],
    parse_step: Callable[[str], Any],
    show: Callable[[Any], str],
) -> np.ndarray:
    """Positions of values and of ranges FIRST..LAST[/STEP] among `values`, rising."""
    if wanted is None:
        return np.arange(len(values))
    mask = np.zeros(len(values), bool)
    for text in wanted:
        bounds, _, step = str(text).partition("/")
        first, dots, last = bounds.partition("..")
        try:
            low, high = parse(first), parse(last if dots else first)
            here = (values >= low) & (values <= high)
            if step and not parse_step(step):
                raise ValueError("the step of a range cannot be zero")
            if step:
                here &= (values - low) % parse_step(step) == 0
        except ValueError as error:
            raise ForecastError(f"{what} `{text}`: {error}") from None
        if not here.any():
            raise ForecastError(f"no {what} {text}: the store holds {_summary(values, show)}")
        mask |= here
    return np.flatnonzero(mask)


def _summary(values: np.ndarray, show: Callable[[Any], str]) -> str:
    if len(values) <= 4:
        return ", ".join(show(v) for v in values)
    return f"{show(values[0])}, {show(values[1])}, ... {show(values[-1])}"


def _lead(lead: np.timedelta64) -> str:
    return format_duration(lead) if lead else "0h"


def _points(forecasts: Forecasts, area: Area | None) -> tuple[np.ndarray, Grid]:
    grid = forecasts.grid
    if area is None:
        return np.arange(grid.size), grid
    north, west, south, east = area
    width = (east - west) % 360.0 or (360.0 if east != west else 0.0)
    inside = (grid.latitudes <= north + 1e-6) & (grid.latitudes >= south - 1e-6)
    eastward = (grid.longitudes - west + 1e-6) % 360.0
    points = np.flatnonzero(inside & (eastward <= width + 2e-6))
    if not points.size:
        raise ForecastError(f"no grid point of {forecasts.path} lies in the area {','.join(f'{x:g}' for x in area)}")
    if not grid.is_regular:
        return points, from_points(grid.latitudes[points], grid.longitudes[points])
    rows = np.unique(points // grid.shape[1])
    columns = np.unique(points % grid.shape[1])
    columns = columns[np.argsort(eastward[columns], kind="stable")]
    points = (rows[:, None] * grid.shape[1] + columns).ravel()
    return points, from_points(grid.latitudes[points], grid.longitudes[points], (len(rows), len(columns)))
