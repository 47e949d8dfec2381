"""GRIB 1 and 2 through eccodes: every field is found by its message header and decoded when its slab is written.

A date is the time that a field is valid at. Any grid of points is taken as its list of points (regular, Gaussian,
reduced, Lambert); spectral fields are refused. Levels: pressure in hPa, and whatever has a single level.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np

from forecast.core import sections, variables
from forecast.core.errors import ForecastError
from forecast.core.progress import bar
from forecast.data.sources.catalogue import Catalogue, expand
from forecast.data.sources.grib_message import Header, Message, headers
from forecast.data.units import conversion


class GribSource:
    """The fields of GRIB files, by date, variable and member; see `catalogue.Source`."""

    def __init__(self, section: sections.FileSource) -> None:
        """Index all messages of the files of `section`.

        Raises:
            ForecastError: corrupt or truncated messages, spectral fields, other grids, unknown parameters or units,
                doubled or missing fields, mixed accumulation periods.
        """
        self._files = expand(section.paths)
        self._section = section
        self._catalogue = Catalogue(self._files)
        self._orders: dict[str, np.ndarray | None] = {}
        self._units: dict[str, str] = {}
        self._periods: dict[str, int] = {}
        refused = ""
        with bar("Reading GRIB headers", len(self._files)) as progress:
            for number, path in enumerate(self._files):
                for header in headers(path, section.rename):
                    if header.name is None:
                        refused = refused or f"{header.where} holds {header.label}"
                    elif section.variables is None or header.name in section.variables:
                        self._enter(number, header)
                progress.advance()
        if refused and section.variables is None:
            raise ForecastError(
                f"{refused}: a store takes pressure levels in whole hPa and single levels only; "
                f"list those wanted in source.variables"
            )
        order = self._catalogue.close(section.variables)
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
        opened: dict[int, BinaryIO] = {}
        try:
            for v, name in enumerate(contents.variables):
                places = self._catalogue.places(name, dates)
                for t, m in np.ndindex(places.shape[:2]):
                    file, offset = (int(k) for k in places[t, m])
                    if file not in opened:
                        opened[file] = self._files[file].open("rb")
                    states[t, v, m] = self._field(name, opened[file], self._files[file], offset)
        finally:
            for handle in opened.values():
                handle.close()
        return states

    def _enter(self, file: int, header: Header) -> None:
        name = header.name or ""
        self._check_grid(file, header)
        if self._units.setdefault(name, header.units) != header.units:
            raise ForecastError(f"{header.where}: {name} is in `{header.units}`, before in `{self._units[name]}`")
        if self._periods.setdefault(name, header.period) != header.period:
            raise ForecastError(
                f"{header.where}: {name} covers {header.period} hours, before {self._periods[name]}: "
                f"bring all of it to one accumulation period first"
            )
        self._catalogue.add(name, [header.date], header.member, file, [header.offset])

    def _check_grid(self, file: int, header: Header) -> None:
        if header.grid in self._orders:
            return
        with self._files[file].open("rb") as handle, Message(handle, self._files[file], header.offset) as message:
            latitudes = message.get_array("latitudes")
            longitudes = message.get_array("longitudes") % 360.0
            shape = message.shape(latitudes.size)
        origin = f"{header.label} in {header.where}"
        self._orders[header.grid] = self._catalogue.order(latitudes, longitudes, shape, origin)

    def _field(self, name: str, handle: BinaryIO, path: Path, offset: int) -> np.ndarray:
        with Message(handle, path, offset) as message:
            values = message.values()
            order = self._orders[message.get("md5GridSection")]
        factor, constant = self._conversions[name]
        if (factor, constant) != (1.0, 0.0):
            values = values * factor + constant
        return (values if order is None else values[order]).astype(np.float32)
