"""Fields of xarray datasets, however they name things: NetCDF of the CDS, old and new, ARCO, WeatherBench, plain CF.

Variables are recognised by their name (t2m, z500, geopotential), short, long, or standard name. The time axis is
called `time` or `valid_time`; levels are pressures in hPa or Pa; `number` is the ensemble; the two halves of an
`expver` dimension (ERA5 and ERA5T) are put together. A variable without time is constant. Latitudes and longitudes
keep the order of the first file, longitudes in [0, 360).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from forecast.core import variables
from forecast.core.archive_sections import FileSource, ZarrSource
from forecast.core.errors import ForecastError
from forecast.core.progress import bar
from forecast.core.units import canonical, conversion
from forecast.data.decoders.damage import decoding
from forecast.data.sources.catalogue import Catalogue

_NAT = int(np.datetime64("NaT", "s").astype(np.int64))
_LATITUDE, _LONGITUDE = ("latitude", "lat"), ("longitude", "lon")
_LEVEL = ("pressure_level", "level", "plev", "isobaricInhPa", "lev", "pressure")
_MEMBER = ("number", "member", "realization", "ensemble")


@dataclass(frozen=True, eq=False)
class _Field:
    """One variable on one level of one file, read lazily: dimensions ([expver], [time], [member], points...)."""

    data: xr.DataArray
    points: tuple[str, ...]
    order: np.ndarray | None
    factor: float
    offset: float


class DatasetSource:
    """The fields of datasets, by date, variable and member; see `catalogue.Source`."""

    def __init__(
        self, section: FileSource | ZarrSource, files: list[Path | str], datasets: Iterable[xr.Dataset], what: str
    ) -> None:
        """Index the variables of all datasets, one for each of `files`; `what` they are stands before the bar.

        Raises:
            ForecastError: unknown names, units, times or dimensions, other grids, doubled or missing fields.
        """
        self._files, self._section, self._wanted = files, section, section.names()
        self._catalogue = Catalogue(files)
        self._fields: dict[tuple[int, str], _Field] = {}
        self._metadata: dict[str, dict[str, Any]] = {}
        with bar(what, len(files)) as progress:
            for number, (path, dataset) in enumerate(zip(files, datasets, strict=True)):
                with decoding(path):
                    self._enter(number, path, dataset)
                progress.advance()
        order = self._catalogue.close(self._wanted)
        self.contents = self._catalogue.contents(order, self._metadata)

    def stamp(self, dates: np.ndarray) -> str:
        """See `catalogue.Source`."""
        return self._catalogue.stamp(dates)

    def read(self, dates: np.ndarray) -> np.ndarray:
        """(t, V, members, G) float32; see `catalogue.Source`.

        Raises:
            ForecastError: values that cannot be decoded.
        """
        contents = self.contents
        shape = (len(dates), len(contents.variables), len(contents.members), len(contents.latitudes))
        states = np.empty(shape, np.float32)
        for v, name in enumerate(contents.variables):
            places = self._catalogue.places(name, dates)
            for m in range(len(contents.members)):
                for file in np.unique(places[:, m, 0]):
                    rows = np.flatnonzero(places[:, m, 0] == file)
                    # a place is the position in time times the members of the file, plus that of the member
                    states[rows, v, m] = self._values(self._fields[int(file), name], places[rows, m, 1], int(file))
        return states

    def _values(self, field: _Field, places: np.ndarray, file: int) -> np.ndarray:
        data = field.data
        count = data.sizes.get("member", 1)
        if "member" in data.dims:
            data = data.isel(member=int(places[0]) % count)
        if "time" in data.dims:
            data = data.isel(time=_slice(places // count))
        versions = [dim for dim in ("expver",) if dim in data.dims]
        try:
            with decoding(self._files[file]):
                values = data.transpose(*versions, ..., *field.points).values
        except (OSError, RuntimeError) as error:
            raise ForecastError(f"{self._files[file]}: {data.name} cannot be read ({error})") from None
        if versions:  # ERA5 (expver 1) where it is there, ERA5T (expver 5) for the rest
            values = reduce(lambda final, preliminary: np.where(np.isnan(final), preliminary, final), values)
        values = values.reshape(*values.shape[: values.ndim - len(field.points)], -1)
        if (field.factor, field.offset) != (1.0, 0.0):
            values = values.astype(np.float64) * field.factor + field.offset
        return values if field.order is None else values[..., field.order]

    def _enter(self, number: int, path: Path | str, dataset: xr.Dataset) -> None:
        latitudes, longitudes, points, shape = _grid(dataset, path)
        order = self._catalogue.order(latitudes, longitudes, shape, str(path))
        for file_name in dataset.data_vars:
            data = dataset[file_name]
            if not set(points) <= set(data.dims):
                continue
            for name, layer in self._layers(str(file_name), data, path):
                layer, dates, members = _axes(layer, points, path)
                factor, offset = self._convert(name, data, path)
                self._fields[number, name] = _Field(layer, points, order, factor, offset)
                for k, member in enumerate(members):
                    self._catalogue.add(name, dates, member, number, np.arange(len(dates)) * len(members) + k)

    def _layers(self, file_name: str, data: xr.DataArray, path: Path | str) -> list[tuple[str, xr.DataArray]]:
        """The store's names of a variable, one for each level, and their data; only those wanted."""
        wanted, attrs = self._wanted, data.attrs
        given = self._section.rename.get(file_name)
        stated = {key: str(attrs.get(key, "")) for key in ("standard_name", "long_name", "short_name")}
        known = variables.recognise(given) if given else variables.recognise(file_name, **stated)
        level_dim = _dimension(data, _LEVEL, "air_pressure")
        if known is None and given is None:
            if wanted:
                return []
            raise ForecastError(
                f"{path}: variable `{file_name}` has no known ERA5 name: say what it is in source.rename, "
                f"or list the variables wanted in source.variables"
            )
        short, level = (known[0].short, known[1]) if known else variables.split(given or file_name)
        if level_dim is None and level is None and known and known[0].levels:
            level = next((_hectopascal(data[c], path)[0] for c in _LEVEL if c in data.coords), None)
        if known and known[0].levels and known[0].short != "z" and level is None and level_dim is None:
            raise ForecastError(
                f"{path}: variable `{file_name}` is {known[0].long_name.lower()} on an unknown level: "
                f"say which in source.rename, e.g. {file_name}: {short}_850"
            )
        if level_dim is None or level is not None:
            layers = [(variables.join(short, level), data)]
        else:
            layers = [
                (variables.join(short, hectopascal), data.isel({level_dim: k}))
                for k, hectopascal in enumerate(_hectopascal(data[level_dim], path))
            ]
        return [(name, layer) for name, layer in layers if wanted is None or name in wanted]

    def _convert(self, name: str, data: xr.DataArray, path: Path | str) -> tuple[float, float]:
        stated = self._section.units
        units = data.attrs.get("units") or stated.get(name) or stated.get(variables.split(name)[0])
        if not units:
            raise ForecastError(f"{path}: variable `{data.name}` states no units: give them in source.units.{name}")
        try:
            factor, offset = conversion(name, str(units))
        except ForecastError as error:
            raise ForecastError(f"{path}: {error}") from None
        described = variables.metadata(name, str(units), str(data.attrs.get("long_name", "")))
        self._metadata.setdefault(name, described)
        return factor, offset


def _dimension(data: xr.DataArray, known: tuple[str, ...], standard_name: str) -> str | None:
    """The dimension of one kind, by its name or the standard name of its coordinate."""
    for dim in map(str, data.dims):
        if dim in known or (dim in data.coords and data[dim].attrs.get("standard_name") == standard_name):
            return dim
    return None


def _coordinate(dataset: xr.Dataset, known: tuple[str, ...], path: Path | str) -> xr.DataArray:
    for name in (*known, *(n for n in dataset.variables if dataset[n].attrs.get("standard_name") == known[0])):
        if name in dataset.variables:
            return dataset[name]
    raise ForecastError(f"{path} has no {known[0]}s")


def _grid(dataset: xr.Dataset, path: Path | str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...], tuple[int, ...]]:
    """Latitudes and longitudes (G,) in degrees, the dimensions of the points, and the shape of a field."""
    latitude, longitude = _coordinate(dataset, _LATITUDE, path), _coordinate(dataset, _LONGITUDE, path)
    rows, columns = np.asarray(latitude, np.float64), np.asarray(longitude, np.float64) % 360.0
    if latitude.dims == longitude.dims:
        points = tuple(map(str, latitude.dims))
        return rows.ravel(), columns.ravel(), points, (rows.size,)
    if rows.ndim > 1 or columns.ndim > 1:
        raise ForecastError(f"{path}: latitudes {latitude.dims} and longitudes {longitude.dims} make no grid")
    _check_axis(rows, "latitudes", path)
    _check_axis(np.unwrap(columns, period=360.0), "longitudes", path)
    lat, lon = np.meshgrid(np.atleast_1d(rows), np.atleast_1d(columns), indexing="ij")
    return lat.ravel(), lon.ravel(), (str(latitude.dims[0]), str(longitude.dims[0])), lat.shape


def _check_axis(values: np.ndarray, what: str, path: Path | str) -> None:
    """Refuse an axis whose order or values cannot be right."""
    steps = np.diff(np.atleast_1d(values))
    if not np.isfinite(values).all() or not (np.all(steps > 0) or np.all(steps < 0)):
        raise ForecastError(f"{path}: the {what} neither rise nor fall: they are out of order, or damaged")
    if what == "latitudes" and np.abs(values).max() > 90.0 + 1e-3:
        raise ForecastError(f"{path}: latitudes reach {np.abs(values).max():g} degrees")


def _hectopascal(levels: xr.DataArray, path: Path | str) -> list[int]:
    """Pressure levels in hPa; without units, values above 1100 are Pa."""
    values = np.atleast_1d(np.asarray(levels, np.float64))
    units = canonical(str(levels.attrs.get("units") or ("Pa" if values.max() > 1100 else "hPa")))
    if units not in ("hPa", "Pa"):
        raise ForecastError(f"{path}: levels are in `{units}`, only pressure levels (hPa or Pa) go into a store")
    values = values / (100.0 if units == "Pa" else 1.0)
    if not np.allclose(values, np.round(values), rtol=0, atol=1e-6):
        raise ForecastError(f"{path}: levels must be whole hPa, found {values.min():g} to {values.max():g}")
    return [int(v) for v in np.round(values)]


def _axes(data: xr.DataArray, points: tuple[str, ...], path: Path | str) -> tuple[xr.DataArray, np.ndarray, list[int]]:
    """Data with dimensions ([expver], [time], [member], points), its dates in seconds since 1970, and its members."""
    dates, time_dim = _dates(data, path)
    member_dim = _dimension(data, _MEMBER, "realization")
    members = [0]
    if member_dim is not None:
        members = [int(n) for n in np.asarray(data[member_dim])]
        data = data.rename({member_dim: "member"}) if member_dim != "member" else data
    if time_dim is not None and time_dim != "time":
        data = data.drop_vars("time", errors="ignore").rename({time_dim: "time"})
    for dim in map(str, data.dims):
        if dim in ("time", "member", "expver", *points):
            continue
        if data.sizes[dim] > 1:
            size = data.sizes[dim]
            raise ForecastError(f"{path}: variable `{data.name}` has {size} `{dim}`s, which a store has no place for")
        data = data.isel({dim: 0})
    return data, dates, members


def _dates(data: xr.DataArray, path: Path | str) -> tuple[np.ndarray, str | None]:
    """Seconds since 1970 of each state, NaT for a constant field, and the dimension that they run along."""
    for name in ("valid_time", "time"):
        if name not in data.coords:
            continue
        times = data[name]
        if not np.issubdtype(times.dtype, np.datetime64):
            expected = "units such as `hours since 1900-01-01` in the standard calendar are expected"
            raise ForecastError(f"{path}: `{name}` holds no dates; {expected}")
        if times.ndim > 1:
            raise ForecastError(f"{path}: `{name}` runs along {times.dims}: make it a single time axis first")
        fine = np.atleast_1d(times.values).astype("datetime64[ms]") + np.timedelta64(500, "ms")
        dates = fine.astype("datetime64[s]").astype(np.int64)  # nearest second: days as floats are not exact
        return dates, str(times.dims[0]) if times.ndim else None
    if any(dim in ("time", "valid_time") for dim in data.dims):
        raise ForecastError(f"{path}: the time axis has no coordinate, so its dates are unknown")
    return np.array([_NAT]), None


def _slice(positions: np.ndarray) -> slice | np.ndarray:
    """Consecutive positions as a slice, which NetCDF reads in one go."""
    consecutive = np.array_equal(positions, np.arange(positions[0], positions[0] + len(positions)))
    return slice(int(positions[0]), int(positions[-1]) + 1) if consecutive else positions
