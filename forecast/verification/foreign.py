"""Forecasts and truths of others: whatever xarray opens (Zarr, NetCDF, GRIB), seen as ours."""

from __future__ import annotations

from collections.abc import Sequence
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from forecast.core import units as conversions
from forecast.core.errors import ForecastError
from forecast.core.forecasts import Forecasts
from forecast.core.grids import Grid, from_points
from forecast.core.store import Store
from forecast.core.times import format_time
from forecast.verification.naming import Found, Names, fields

GRIB = (".grib", ".grb", ".grib1", ".grib2", ".grb2")


def open_forecast(path: str | Path, names: Names | None = None) -> Forecasts | ForeignForecast:
    """A forecast store of ours, or anything that xarray opens.

    Raises:
        ForecastError: nothing there, or dimensions that cannot be told apart.
    """
    if (Path(path) / "zarr.json").is_file() and _is_ours(Path(path)):
        return Forecasts.open(path)
    return ForeignForecast(path, _open(path), names or Names())


def open_truth(path: str | Path, names: Names | None = None) -> Store | ForeignTruth:
    """A store of states (ours or anemoi's), or anything that xarray opens.

    Raises:
        ForecastError: nothing there, or dimensions that cannot be told apart.
    """
    folder = Path(path)
    if any((folder / "data" / name).exists() for name in ("zarr.json", ".zarray")) or not _exists(path):
        return Store.open(path)
    return ForeignTruth(path, _open(path), names or Names())


def _is_ours(path: Path) -> bool:
    import json

    attributes = json.loads((path / "zarr.json").read_text()).get("attributes", {})
    return "forecast_store" in attributes


def _exists(path: str | Path) -> bool:
    return Path(path).exists() or bool(glob(str(path)))


def _open(path: str | Path) -> xr.Dataset:
    files = sorted(glob(str(path))) or [str(path)]
    if not Path(files[0]).exists():
        raise ForecastError(f"{path}: no such file, folder or pattern of files")
    try:
        if files[0].lower().endswith(GRIB):
            return _open_grib(files)
        options: dict[str, Any] = {"decode_timedelta": True}
        if Path(files[0]).is_dir():
            options["engine"] = "zarr"
        if len(files) == 1:
            return xr.open_dataset(files[0], chunks=None, **options)
        return xr.open_mfdataset(files, combine="by_coords", **options)
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ForecastError(f"{path}: xarray cannot open it ({first})") from None


def _open_grib(files: Sequence[str]) -> xr.Dataset:
    try:
        import cfgrib
    except ImportError:
        raise ForecastError("GRIB forecasts need cfgrib: pip install 'forecast[verify]'") from None
    parts = [part for file in files for part in cfgrib.open_datasets(file, backend_kwargs={"indexpath": ""})]
    kept = []
    for part in parts:
        part = part.drop_vars(["surface", "meanSea", "heightAboveGround"], errors="ignore")
        if "isobaricInhPa" in part.coords and part["isobaricInhPa"].ndim == 0:
            part = part.expand_dims("isobaricInhPa")
        kept.append(part.drop_vars("valid_time", errors="ignore"))
    return xr.merge(kept, compat="override", join="outer")


class _Foreign:
    """What forecasts and truths share: fields by ERA5 name, grid, units."""

    def __init__(self, path: str | Path, dataset: xr.Dataset, names: Names) -> None:
        self.path = Path(path)
        self._names = names
        self._data = self._prepare(dataset)
        self._fields = {name: f for name, f in fields(self._data, names).items() if self._has_time(f)}
        if not self._fields:
            there = ", ".join(map(str, dataset.data_vars))
            raise ForecastError(
                f'{path}: no variable is recognised among {there}; map one, `names: "{there[:20]}=z_500"`'
            )
        self.variables = tuple(self._fields)
        self.grid = self._grid()
        self.units = {name: self._units(f) for name, f in self._fields.items()}
        self.periods = {name: f.period for name, f in self._fields.items() if f.period}

    def _prepare(self, dataset: xr.Dataset) -> xr.Dataset:
        return dataset

    def _has_time(self, field: Found) -> bool:
        return True

    def _grid(self) -> Grid:
        latitude, longitude = (self._names.find(self._data, role) for role in ("latitude", "longitude"))
        if latitude is None or longitude is None:
            raise ForecastError(f"{self.path}: no latitude or longitude is recognised; map them, `latitude=NAME`")
        north, east = self._data[latitude], self._data[longitude]
        self._points = tuple(dict.fromkeys((*north.dims, *east.dims)))
        if north.dims == east.dims:
            shape = north.shape if north.ndim == 2 else None
            return from_points(north.values.ravel(), east.values.ravel(), shape)
        rows, columns = np.meshgrid(north.values, east.values, indexing="ij")
        return from_points(rows.ravel(), columns.ravel(), rows.shape)

    def _units(self, field: Found) -> str:
        """Units after reading: the table's, or the file's for names that the table does not hold.

        Raises:
            ForecastError: units that cannot be converted.
        """
        from forecast.core import variables

        known = variables.find(field.name)
        if known is None:
            return field.units
        if field.units:
            try:
                conversions.conversion(field.name, field.units)
            except ForecastError as error:
                raise ForecastError(f"{self.path}: {error}") from None
        return known.units

    def _read(self, field: Found, at: dict[str, Any], leading: tuple[str, ...]) -> np.ndarray:
        """(*leading, G) float32 in the table's units."""
        array = self._data[field.source]
        if field.level is not None:
            array = array.isel({str(self._names.find(self._data, "level")): field.level})
        array = array.isel({dim: k for dim, k in at.items() if dim in array.dims})
        extra = [dim for dim in array.dims if dim not in (*leading, *self._points)]
        if extra and all(array.sizes[dim] == 1 for dim in extra):
            array = array.squeeze(extra)
        elif extra:
            raise ForecastError(f"{self.path}: `{field.source}` has a dimension `{extra[0]}` that plays no known role")
        array = array.transpose(*(dim for dim in leading if dim in array.dims), *self._points)
        values = np.asarray(array.values, np.float32)
        factor, offset = conversions.conversion(field.name, field.units) if field.units else (1.0, 0.0)
        if (factor, offset) != (1.0, 0.0):
            values = (values.astype(np.float64) * factor + offset).astype(np.float32)
        return values.reshape(*values.shape[: values.ndim - len(self._points)], -1)


class ForeignForecast(_Foreign):
    """A forecast in the eyes of `StoredForecast`, as `core.forecasts.Forecasts` is.

    Attributes:
        path, variables, grid, units. starts: (S,) datetime64[s]. leads: (L,) timedelta64[s]. members: (M,).
        finished: (S, L), all True: what is missing shows as NaN when it is read.
        periods: how accumulated fields were summed, where that is known.
    """

    settings: dict[str, Any] = {}

    def _prepare(self, dataset: xr.Dataset) -> xr.Dataset:
        names = self._names
        lead, init = names.find(dataset, "lead"), names.find(dataset, "init")
        if init is None and lead is not None:  # WeatherBench 2 and cfgrib call the start `time`
            init = names.find(dataset, "valid")
            if init == "valid_time" and "time" in dataset.coords:
                init = "time"
        if init is None and lead is None and names.find(dataset, "valid"):
            dataset, init, lead = self._from_valid(dataset, str(names.find(dataset, "valid")))
        if init is None or lead is None:
            have = ", ".join(map(str, dataset.sizes))
            raise ForecastError(f"{self.path}: no start and lead time among the dimensions {have}; map them, "
                                "`names: \"init=NAME, lead=NAME\"`")  # fmt: skip
        for name in (init, lead):
            if dataset[name].ndim == 0:
                dataset = dataset.expand_dims(name)
            elif dataset[name].ndim > 1 or name not in dataset.dims:
                raise ForecastError(f"{self.path}: `{name}` is no dimension of its own: forecasts need one for starts "
                                    "and one for lead times")  # fmt: skip
        self._init, self._lead, self._member = init, lead, names.find(dataset, "member")
        self.starts = _times(dataset[init], self.path)
        self.leads = _durations(dataset[lead], self.path)
        if self._member and self._member in dataset.coords and dataset[self._member].ndim == 0:
            dataset = dataset.expand_dims(self._member)
        self.members = np.arange(dataset.sizes.get(self._member, 1) if self._member else 1)
        self.finished = np.ones((self.starts.size, self.leads.size), bool)
        return dataset

    def _from_valid(self, dataset: xr.Dataset, time: str) -> tuple[xr.Dataset, str, str]:
        """A file of one forecast, with valid times only, whose start its attributes or time units state (anemoi)."""
        stated = dataset.attrs.get("forecast_reference_time") or dataset.attrs.get("reference_date")
        since = str(dataset[time].encoding.get("units", ""))
        start = stated or (since.partition("since ")[2] if since.startswith("seconds since") else "")
        try:
            start = np.datetime64(str(start).strip().replace(" ", "T").removesuffix("Z"), "s")
        except ValueError:
            start = np.datetime64("NaT")
        valid = dataset[time].values.astype("datetime64[s]")
        if np.isnat(start) or start > valid.min() or start == np.datetime64(0, "s"):
            raise ForecastError(
                f"{self.path}: `{time}` alone does not say where forecasts start; give the file an attribute "
                "forecast_reference_time, or dimensions for starts and lead times"
            )
        leads = (valid - start).astype("timedelta64[s]")
        return (
            dataset.rename({time: "lead_time"}).assign_coords(lead_time=leads, init_time=start),
            "init_time",
            "lead_time",
        )

    def _has_time(self, field: Found) -> bool:
        return {self._init, self._lead} <= set(self._data[field.source].dims)

    def read(self, variable: str, start: int, lead: int) -> np.ndarray:
        """(M, G) float32 members of one field, in the table's units."""
        member = (self._member,) if self._member else ()
        values = self._read(self._fields[variable], {self._init: start, self._lead: lead}, member)
        return values if values.ndim == 2 else values[None]


class ForeignTruth(_Foreign):
    """An analysis in the eyes of `States`, as `core.store.Store` is: path, variables, grid, units, dates, missing."""

    def _prepare(self, dataset: xr.Dataset) -> xr.Dataset:
        time = self._names.find(dataset, "valid")
        if self._names.find(dataset, "lead") is not None and dataset[self._names.find(dataset, "lead")].ndim == 1:
            raise ForecastError(f"{self.path} has lead times: it is a forecast, not the truth")
        if time == "valid_time" and "time" in dataset.dims:
            time = "time"
        if time is None:
            raise ForecastError(f'{self.path}: no time is recognised; map it, `names: "valid=NAME"`')
        if dataset[time].ndim == 0:
            dataset = dataset.expand_dims(time)
        self._time = time
        self.dates = _times(dataset[time], self.path)
        self.missing = np.zeros(self.dates.size, bool)
        return dataset

    def _has_time(self, field: Found) -> bool:
        return self._time in self._data[field.source].dims or field.name in ("lsm", "z")

    @property
    def frequency(self) -> np.timedelta64:
        """The usual step between dates."""
        steps = np.diff(self.dates)
        return np.median(steps).astype("timedelta64[s]") if steps.size else np.timedelta64(6 * 3600, "s")

    def index(self, when: np.datetime64) -> int:
        """Position of a date.

        Raises:
            ForecastError: not there.
        """
        found = np.flatnonzero(self.dates == when.astype("datetime64[s]"))
        if not found.size:
            raise ForecastError(f"{format_time(when)} is not a date of {self.path}")
        return int(found[0])

    def indices(self, first: np.datetime64, last: np.datetime64) -> np.ndarray:
        """Positions of the dates in [first, last]."""
        return np.flatnonzero((self.dates >= first) & (self.dates <= last))

    def read(self, times: int | np.ndarray, variables: Sequence[str]) -> np.ndarray:
        """(T, V, G) float32 in the table's units."""
        places = np.atleast_1d(times)
        out = np.empty((places.size, len(variables), self.grid.size), np.float32)
        for v, name in enumerate(variables):
            out[:, v] = self._read(self._fields[name], {self._time: places}, (self._time,))
        return out


def _times(array: xr.DataArray, path: Path) -> np.ndarray:
    values = array.values
    if not np.issubdtype(values.dtype, np.datetime64):
        raise ForecastError(f"{path}: `{array.name}` holds no dates that numpy knows ({values.dtype}); other calendars "
                            "than the Gregorian one cannot be matched with the truth")  # fmt: skip
    return values.astype("datetime64[s]")


def _durations(array: xr.DataArray, path: Path) -> np.ndarray:
    values = array.values
    if np.issubdtype(values.dtype, np.timedelta64):
        return values.astype("timedelta64[s]")
    seconds = {"hours": 3600, "hour": 3600, "h": 3600, "days": 86400, "day": 86400, "d": 86400, "minutes": 60,
               "seconds": 1, "s": 1}.get(str(array.attrs.get("units", "")).strip().lower())  # fmt: skip
    if seconds is None:
        raise ForecastError(
            f"{path}: lead times `{array.name}` are plain numbers; give them an attribute `units` of hours or days"
        )
    return (values.astype(np.float64) * seconds).round().astype("timedelta64[s]")
