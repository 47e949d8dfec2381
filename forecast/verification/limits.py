"""Events that forecasts are asked about: a value or a local percentile of climatology, exceeded or undercut."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forecast.core.errors import ForecastError
from forecast.verification.climate import Climate
from forecast.verification.matchup import Limits

DEFAULT = ("< p10", "> p90")
CATEGORIES = (20.0, 40.0, 60.0, 80.0)
_EVENT = re.compile(r"\s*(?:(\S+)\s*)?([<>])\s*(p?)(-?[\d.]+(?:[eE][+-]?\d+)?)\s*")


@dataclass(frozen=True)
class Event:
    """One event.

    Attributes:
        text: as it is written: `> p90`, `2t < 273.15`, `tp > 0.005`. Also its label.
        variable: the one that it concerns; all if empty.
        down: it lies below the limit; strictly, in both cases.
        percentile: whether `value` is a percentile of the local climatology at that hour and time of year.
        value: percentile, or amount in the variable's units.
    """

    text: str
    variable: str
    down: bool
    percentile: bool
    value: float

    @classmethod
    def parse(cls, text: str) -> Event:
        """Raises ForecastError where `text` is no event."""
        match = _EVENT.fullmatch(text)
        if not match:
            raise ForecastError(f"`{text}` is not an event; write it like `> p90`, `tp > 0.005` or `2t < 273.15`")
        variable, side, percent, number = match.groups()
        value = float(number)
        if percent and not 0 < value < 100:
            raise ForecastError(f"event `{text}`: a percentile lies between 0 and 100")
        if not percent and not variable:
            raise ForecastError(f"event `{text}` needs a variable: `tp {text.strip()}`")
        return cls(" ".join(text.split()), variable or "", side == "<", bool(percent), value)


class Events:
    """The events and the categories of a run.

    Attributes:
        events: (E,) events. labels: their texts.
        categories: percentiles of the local climatology that part the categories of the RPS, rising.
    """

    def __init__(
        self, events: Sequence[str] = DEFAULT, categories: Sequence[float] = CATEGORIES, climate: bool = True
    ) -> None:
        """Without a climatology (`climate` False) what asks for percentiles is left out."""
        parsed = tuple(Event.parse(text) for text in events)
        self.events = tuple(e for e in parsed if climate or not e.percentile)
        self.categories = tuple(sorted(categories)) if climate else ()
        self.labels = tuple(e.text for e in self.events)
        if len(set(self.labels)) < len(self.labels):
            raise ForecastError(f"an event is asked for twice: {', '.join(self.labels)}")

    def __len__(self) -> int:
        return len(self.events) + len(self.categories)

    def limits(self, variable: str, climate: Climate | None, size: int) -> Limits | None:
        """The limits on the grid's points; None where nothing is asked for."""
        if not len(self):
            return None
        values = np.full((len(self), size), np.nan)
        for k, event in enumerate(self.events):
            if event.variable in ("", variable):
                values[k] = climate.percentile(event.value) if event.percentile and climate else event.value
        for k, percent in enumerate(self.categories, len(self.events)):
            values[k] = climate.percentile(percent) if climate else np.nan
        down = np.array([*(e.down for e in self.events), *(False for _ in self.categories)])
        return Limits(values, down, len(self.events))
