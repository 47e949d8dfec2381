"""GRIB 1 and 2 through eccodes: every field is found by its message header and decoded when its slab is written.

A date is the time that a field is valid at. Any grid of points is taken as its list of points (regular, Gaussian,
reduced, Lambert); spectral fields are refused. Levels: pressure in hPa, and whatever has a single level.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forecast.core import archive_sections as sections
from forecast.core import variables
from forecast.core.errors import ForecastError
from forecast.core.progress import bar
from forecast.core.units import conversion
from forecast.data.decoders.grib import Header
from forecast.data.decoders.process import call
from forecast.data.sources.catalogue import Catalogue, expand


@dataclass(frozen=True)
class _Amount:
    """An accumulated field: over which time (seconds since 1970), and where it lies."""

    member: int
    begin: int
    end: int
    file: int
    offset: int
    where: str


class GribSource:
    """The fields of GRIB files, by date, variable and member; see `catalogue.Source`."""

    def __init__(self, section: sections.FileSource) -> None:
        """Index all messages of the files of `section`.

        Raises:
            ForecastError: corrupt or truncated messages, spectral fields, other grids, unknown parameters or units,
                doubled or missing fields, mixed accumulation periods.
        """
        self._files = expand(section.paths)
        self._section, self._wanted = section, section.names()
        self._catalogue = Catalogue(self._files)
        self._orders: dict[str, np.ndarray | None] = {}
        self._units: dict[str, str] = {}
        self._periods: dict[str, int] = {}
        self._amounts: dict[str, list[_Amount]] = {}
        self._before: dict[tuple[int, int], tuple[int, int]] = {}
        refused = ""
        with bar("Reading GRIB headers", len(self._files)) as progress:
            for number, path in enumerate(self._files):
                for header in call("grib.headers", path, dict(section.rename)):
                    if header.name is None:
                        refused = refused or f"{header.where} holds {header.label}"
                    elif self._wanted is None or header.name in self._wanted:
                        self._enter(number, header)
                progress.advance()
        if refused and self._wanted is None:
            raise ForecastError(
                f"{refused}: a store takes pressure levels in whole hPa and single levels only; "
                f"list those wanted in source.variables"
            )
        for name, amounts in self._amounts.items():
            self._enter_amounts(name, amounts)
        order = self._catalogue.close(self._wanted)
        self._conversions = {name: conversion(name, self._units[name]) for name in order}
        metadata = {name: variables.metadata(name, self._units[name]) for name in order}
        for name in order:
            if hours := self._periods[name]:
                metadata[name]["period"] = [0, hours]
        self.contents = self._catalogue.contents(order, metadata)

    def read(self, dates: np.ndarray) -> np.ndarray:
        """(t, V, members, G) float32; see `catalogue.Source`.

        Raises:
            ForecastError: a message whose values cannot be decoded.
        """
        contents = self.contents
        shape = (len(dates), len(contents.variables), len(contents.members), len(contents.latitudes))
        states = np.empty(shape, np.float32)
        for v, name in enumerate(contents.variables):
            places = self._catalogue.places(name, dates)
            for t, m in np.ndindex(places.shape[:2]):
                file, offset = (int(k) for k in places[t, m])
                states[t, v, m] = self._field(name, file, offset)
                if before := self._before.get((file, offset)):
                    states[t, v, m] = self._change(name, states[t, v, m], *before)
        return states

    def stamp(self, dates: np.ndarray) -> str:
        """See `catalogue.Source`."""
        return self._catalogue.stamp(dates)

    def _enter(self, file: int, header: Header) -> None:
        name = header.name or ""
        self._check_grid(file, header)
        if self._units.setdefault(name, header.units) != header.units:
            raise ForecastError(f"{header.where}: {name} is in `{header.units}`, before in `{self._units[name]}`")
        described = variables.metadata(name)
        if header.period and described.get("process") == "accumulation":
            begin = header.date - 3600 * header.period
            amount = _Amount(header.member, begin, header.date, file, header.offset, header.where)
            self._amounts.setdefault(name, []).append(amount)
            return
        self._check_period(name, header.period, header.where)
        self._catalogue.add(name, [header.date], header.member, file, [header.offset])

    def _check_period(self, name: str, period: int, where: str) -> None:
        if self._periods.setdefault(name, period) != period:
            raise ForecastError(
                f"{where}: {name} covers {period} hours, before {self._periods[name]}: "
                f"bring all of it to one accumulation period first"
            )

    def _enter_amounts(self, name: str, amounts: list[_Amount]) -> None:
        """Amounts since the start of a forecast become those from step to step; others stay as they are."""
        amounts.sort(key=lambda a: (a.member, a.begin, a.end))
        for last, amount in zip([None, *amounts[:-1]], amounts, strict=True):
            begin = amount.begin
            if (
                last is not None
                and (last.member, last.begin) == (amount.member, amount.begin)
                and last.end < amount.end
            ):
                begin = last.end
                self._before[amount.file, amount.offset] = last.file, last.offset
            self._check_period(name, (amount.end - begin) // 3600, amount.where)
            self._catalogue.add(name, [amount.end], amount.member, amount.file, [amount.offset])

    def _change(self, name: str, total: np.ndarray, file: int, offset: int) -> np.ndarray:
        """The amount since an earlier total; rounding of packed values makes no amount negative that cannot be."""
        change = total.astype(np.float64) - self._field(name, file, offset)
        least = variables.minimum(name)
        return change if least is None else np.maximum(change, least)

    def _check_grid(self, file: int, header: Header) -> None:
        if header.grid in self._orders:
            return
        latitudes, longitudes, shape = call("grib.points", self._files[file], header.offset)
        origin = f"{header.label} in {header.where}"
        self._orders[header.grid] = self._catalogue.order(latitudes, longitudes, shape, origin)

    def _field(self, name: str, file: int, offset: int) -> np.ndarray:
        path, size = self._files[file], len(self.contents.latitudes)
        grid, values = call("grib.field", path, offset, *self._conversions[name])
        if grid not in self._orders or len(values) != size:
            raise ForecastError(f"{path} at byte {offset}: {len(values)} values, not on the grid of {size} points")
        order = self._orders[grid]
        return values if order is None else values[order]
