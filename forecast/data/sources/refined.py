"""Any source as the store wants it: its period and time step, amounts summed over the step, on another grid."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cached_property

import numpy as np

from forecast.core import grids, regrid
from forecast.core.archive_sections import ArchiveSource
from forecast.core.errors import ForecastError
from forecast.core.progress import console
from forecast.core.times import format_duration, format_time
from forecast.data.sources.catalogue import Source, Unreachable

PAUSE = 1.0
"""Seconds before a date that could not be read is tried again, twice as long each time."""
ENOUGH = 0.5
"""Share of its weight that a point of another grid needs of present values, else it is missing."""


class Refined:
    """A source narrowed and turned as its section says; see `catalogue.Source`."""

    def __init__(self, source: Source, section: ArchiveSource) -> None:
        """Choose the dates and the grid.

        Raises:
            ForecastError: no date is left, amounts that do not add up to the step, an unknown grid.
        """
        self._source, self._section = source, section
        found = source.contents
        self._own = _spacing(found.dates)
        self._sums = self._summed()
        dates = self._dates()
        metadata = {name: dict(described) for name, described in found.metadata.items()}
        for name in self._sums:
            metadata[name]["period"] = [0, int(section.frequency / np.timedelta64(1, "h"))]  # type: ignore[operator]
        self.contents = replace(found, dates=dates, metadata=metadata)
        if section.grid is not None:
            target = grids.named(section.grid)
            self.contents = replace(self.contents, latitudes=target.latitudes, longitudes=target.longitudes,
                                    field_shape=target.shape)  # fmt: skip
            self._weights  # noqa: B018 - made before the work begins, and refused here

    def read(self, dates: np.ndarray) -> np.ndarray:
        """See `catalogue.Source`; what cannot be read is tried again.

        Raises:
            ForecastError: values that cannot be decoded.
            Unreachable, OSError: of the last try.
        """
        for attempt in range(self._section.retries + 1):
            try:
                states = self._read(dates)
                break
            except (Unreachable, OSError):
                if attempt == self._section.retries:
                    raise
                time.sleep(PAUSE * 2**attempt)
        return states if self._section.grid is None else regrid.apply(self._weights, states, ENOUGH)

    def stamp(self, dates: np.ndarray) -> str:
        """See `catalogue.Source`."""
        return self._source.stamp(self._needed(dates)) + str(self._section.grid and self._section.regrid)

    @cached_property
    def _weights(self) -> regrid.sparse.csr_array:
        found, name = self._source.contents, self._section.grid
        source = grids.from_points(found.latitudes, found.longitudes, found.field_shape)
        return regrid.matrix(source, grids.named(str(name)), self._section.regrid).astype(np.float32)

    def _summed(self) -> tuple[str, ...]:
        """Amounts over a shorter time than the step."""
        step, found = self._section.frequency, self._source.contents
        if step is None or self._own is None or step <= self._own:
            return ()
        if step % self._own:
            raise ForecastError(
                f"source.frequency {format_duration(step)} is no multiple of the archive's {format_duration(self._own)}"
            )
        hours = {name: found.metadata[name].get("period", [0, 0])[1] for name in found.variables}
        own = self._own / np.timedelta64(1, "h")
        amounts = [n for n in found.variables if found.metadata[n].get("process") == "accumulation"]
        return tuple(n for n in amounts if hours[n] in (0, own))  # those without a period: over the archive's own step

    def _dates(self) -> np.ndarray:
        """Those of the period and the step, whose amounts can be summed."""
        dates, section = self._source.contents.dates, self._section
        wanted = dates
        if section.period is not None:
            wanted = dates[(dates >= section.period[0]) & (dates <= section.period[1])]
        if wanted.size and section.frequency is not None:
            wanted = wanted[(wanted - self._first(wanted)) % section.frequency == np.timedelta64(0, "s")]
        if self._sums and wanted.size:
            there = np.isin(self._needed(wanted, every=True), dates).reshape(len(wanted), -1)
            whole = np.asarray(there.all(axis=1))
            if not bool(whole[0]):
                text = f"note: {', '.join(self._sums)} cannot be summed up to {format_time(wanted[0])}"
                console.print(f"{text}, where the archive begins; the store begins later")
            wanted = wanted[whole]
        if not wanted.size:
            first, last = (format_time(date) for date in (section.period or dates[[0, -1]]))
            raise ForecastError(
                f"no date from {first} to {last}: the archive has {format_time(dates[0])} to {format_time(dates[-1])}"
            )
        return wanted

    def _first(self, dates: np.ndarray) -> np.datetime64:
        """Where the steps are counted from: the beginning asked for, else 00 UTC, else the first date."""
        first: np.datetime64 = dates[0]
        midnights = dates[dates == dates.astype("datetime64[D]")]
        asked = self._section.period is not None and self._section.period[0] == first
        return first if asked or not midnights.size else midnights[0]

    def _needed(self, dates: np.ndarray, every: bool = False) -> np.ndarray:
        """Dates of the source that these are made of: sorted, or in order and with repeats (`every`)."""
        if not self._sums:
            return dates
        assert self._own is not None and self._section.frequency is not None
        back = np.arange(int(self._section.frequency / self._own))[::-1] * self._own
        needed = (dates[:, None] - back).ravel()
        return needed if every else np.unique(needed)

    def _read(self, dates: np.ndarray) -> np.ndarray:
        if not self._sums:
            return self._source.read(dates)
        needed = self._needed(dates)
        fine = self._source.read(needed)
        states = fine[np.searchsorted(needed, dates)]
        parts = np.searchsorted(needed, self._needed(dates, every=True)).reshape(len(dates), -1)
        for name in self._sums:
            v = self.contents.variables.index(name)
            states[:, v] = fine[parts, v].sum(axis=1, dtype=np.float64)
        return states


def _spacing(dates: np.ndarray) -> np.timedelta64 | None:
    """The smallest distance of two dates."""
    return np.diff(dates).min() if dates.size > 1 else None
