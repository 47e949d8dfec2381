"""What pictures show: fields of all members, wind speeds made of their components, and the land."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forecast.core.errors import ForecastError
from forecast.core.forecasts import Forecasts
from forecast.core.grids import Grid
from forecast.core.times import format_duration, format_time, parse_duration
from forecast.core.variables import join, split
from forecast.outputs import cf
from forecast.outputs.products import Product
from forecast.outputs.selection import select
from forecast.plots.looks import long_name

WIND = {"ws": ("u", "v"), "10si": ("10u", "10v"), "100si": ("100u", "100v")}


@dataclass(frozen=True, eq=False)
class Land:
    """Land-sea mask of a world of its own: (G,) share of land on `grid`."""

    grid: Grid
    share: np.ndarray


@dataclass(frozen=True, eq=False)
class Case:
    """One forecast of a store: what all pictures begin with.

    Attributes:
        start: position of the start. land: the mask to draw; None for the coasts of the Earth.
    """

    forecasts: Forecasts
    start: int
    land: Land | None = None

    @property
    def grid(self) -> Grid:
        """Where the fields lie."""
        return self.forecasts.grid

    def check(self, name: str, lead: int | None = None) -> None:
        """Raises ForecastError where a variable is not there, or not finished (at any lead time, if none is given)."""
        store = self.forecasts
        leads = None if lead is None else [_written(store.leads[lead])]
        select(store, components(name, store.variables), [format_time(store.starts[self.start])], None, leads)

    def field(self, name: str, lead: int) -> np.ndarray:
        """(M, G) in SI units."""
        parts = [
            self.forecasts.read(part, self.start, lead).astype(np.float64)
            for part in components(name, self.forecasts.variables)
        ]
        return parts[0] if len(parts) == 1 else np.hypot(*parts)

    def product(self, name: str, lead: int, product: Product | int) -> np.ndarray:
        """(G,) in SI units: a product, or the member of that number."""
        fields = self.field(name, lead)
        return fields[product] if isinstance(product, int) else product.compute(fields)

    def valid(self, lead: int) -> np.datetime64:
        """When a forecast is valid."""
        return self.forecasts.starts[self.start] + self.forecasts.leads[lead]

    def caption(self, lead: int) -> str:
        """`start 2008-02-01 00 UTC, +72 h, valid Mon 2008-02-04 00 UTC, 20 members`."""
        hours = float(self.forecasts.leads[lead] / np.timedelta64(1, "h"))
        return f"{self.begin}  ·  +{hours:g} h  ·  valid {clock(self.valid(lead))}  ·  {self.source}"

    def ahead(self, lead: int) -> str:
        """`+72 h (Mon 2008-02-04 00 UTC)`."""
        return f"+{float(self.forecasts.leads[lead] / np.timedelta64(1, 'h')):g} h ({clock(self.valid(lead))})"

    @property
    def begin(self) -> str:
        """`start Fri 2008-02-01 00 UTC`."""
        return f"start {clock(self.forecasts.starts[self.start])}"

    def title(self, name: str) -> str:
        """`Temperature at 850 hPa`, `Total precipitation in 6 h`."""
        period = self.forecasts.settings.get("accumulation")
        if period and cf.over_time(name) != "point":
            hours = parse_duration(period) / np.timedelta64(1, "h")
            return f"{long_name(name)} in {hours:g} h"
        return long_name(name)

    @property
    def source(self) -> str:
        """Who made how many members: `learnt, 20 members`."""
        count = len(self.forecasts.members)
        system = self.forecasts.settings.get("system")
        return f"{system}, {count} members" if system else f"{count} members"


def components(name: str, variables: tuple[str, ...]) -> list[str]:
    """The variables of the store that `name` is made of: itself, or the two of a wind speed.

    Raises:
        ForecastError: neither is there.
    """
    if name in variables:
        return [name]
    short, level = split(name)
    parts = [join(part, level) for part in WIND.get(short, ())]
    if parts and set(parts) <= set(variables):
        return parts
    raise ForecastError(f"no variable `{name}`: the store holds {', '.join(variables)}")


def clock(time: np.datetime64) -> str:
    """`Mon 2008-02-04 00 UTC`."""
    moment = time.astype("datetime64[s]").item()
    minutes = f":{moment.minute:02d}" if moment.minute else ""
    days = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
    return f"{days[moment.weekday()]} {moment:%Y-%m-%d %H}{minutes} UTC"


def _written(lead: np.timedelta64) -> str:
    return format_duration(lead) if lead else "0h"
