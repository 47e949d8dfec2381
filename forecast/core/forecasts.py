"""Forecast stores: what an ensemble looks like on disk, how one is created, opened and read.

One Zarr v3 group. A variable is a float32 array (init_time, number, lead_time, latitude, longitude), or
(init_time, number, lead_time, values) where points form no rectangle; its shards hold one start, one member
batch and one lead time, their inner chunks one member. Ledgers beside the arrays (core/ledger.py) list the
units (start, member batch, step) that are there with all their variables; what they do not list is not
there, whatever the arrays hold. `xarray.open_zarr(path)` needs no options, nor do WeatherBench-X (which turns
`time`, the time of validity (init_time, lead_time), into its `valid_time`) and earthkit-data.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
import zlib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

from forecast.core import shards, variables
from forecast.core.errors import ForecastError
from forecast.core.grids import Grid, from_points
from forecast.core.ledger import Ledgers
from forecast.core.times import format_duration, format_time

FORMAT = 1
Unit = tuple[int, int, int]
"""Positions of a start, a member batch and a lead time: what is written as one."""


@dataclass(frozen=True, eq=False)
class Layout:
    """What a forecast store is made to hold.

    Attributes:
        variables: names, V.
        starts: (S,) datetime64[s], rising.
        members: (M,) int64, 0..M-1.
        leads: (L,) timedelta64[s], from 0, rising.
        grid: G points.
        member_batch: members of one unit; they are computed together.
        settings: whatever else the fields depend on (system, checkpoint, seed); JSON values.
    """

    variables: tuple[str, ...]
    starts: np.ndarray
    members: np.ndarray
    leads: np.ndarray
    grid: Grid
    member_batch: int
    settings: dict[str, Any]

    @property
    def batches(self) -> int:
        """Number of member batches; the last may be short."""
        return -(-len(self.members) // self.member_batch)

    def members_of(self, batch: int) -> np.ndarray:
        """The members of a batch."""
        return self.members[batch * self.member_batch : (batch + 1) * self.member_batch]

    @property
    def field_shape(self) -> tuple[int, ...]:
        """(latitudes, longitudes), or (G,)."""
        return self.grid.shape if self.grid.is_regular else (self.grid.size,)

    @property
    def dims(self) -> tuple[str, ...]:
        """Dimension names of a variable."""
        points = ("latitude", "longitude") if self.grid.is_regular else ("values",)
        return ("init_time", "number", "lead_time", *points)

    def shard(self, variable: str, unit: Unit) -> str:
        """The file of a unit's variable, relative to the store."""
        return f"{variable}/c.{'.'.join(map(str, unit))}{'.0' * len(self.field_shape)}"

    def difference(self, other: Layout) -> str:
        """The first thing in which two layouts differ, `members 20 instead of 50`, or nothing."""
        mine, theirs = self._described(), other._described()
        for name in mine | theirs:
            if mine.get(name) != theirs.get(name):
                return f"{name} {_brief(mine.get(name))} instead of {_brief(theirs.get(name))}"
        return ""

    def _described(self) -> dict[str, Any]:
        positions = np.stack([self.grid.latitudes, self.grid.longitudes]).tobytes()
        return {
            "variables": list(self.variables),
            "members": len(self.members),
            "member_batch": self.member_batch,
            "starts": [format_time(start) for start in self.starts],
            "leads": [format_duration(lead) for lead in self.leads],
            "grid": f"{self.grid.name} ({zlib.crc32(positions):08x})",
            **self.settings,
        }


@dataclass(frozen=True, eq=False)
class Forecasts(Layout):
    """A forecast store that can be read: its layout, and which units are there.

    Attributes:
        path: the store's folder.
        units: (S, batches, L) bool, the finished units.
    """

    path: Path
    units: np.ndarray

    @classmethod
    def open(cls, path: str | Path) -> Forecasts:
        """Open the store at `path` as it is now.

        Raises:
            ForecastError: no forecast store there, or one of another format.
        """
        path = Path(path)
        layout = _read_layout(path)
        units = Ledgers(path, layout.starts, layout.batches, len(layout.leads)).there
        return replace(cls.planned(path, layout), units=units)

    @classmethod
    def planned(cls, path: str | Path, layout: Layout) -> Forecasts:
        """The store that will be at `path`, as if it were finished; nothing can be read of it."""
        units = np.ones((len(layout.starts), layout.batches, len(layout.leads)), bool)
        return cls(**{f.name: getattr(layout, f.name) for f in fields(layout)}, path=Path(path), units=units)

    @property
    def attrs(self) -> dict[str, Any]:
        """The settings that the forecasts were made with (`system`, `seed`, ...)."""
        return self.settings

    @property
    def finished(self) -> np.ndarray:
        """(S, L) bool: all members of that start and lead time are there."""
        return np.asarray(self.units.all(axis=1))

    def read(self, variable: str, start: int, lead: int) -> np.ndarray:
        """All members of one field: (M, G) float32 in the variable's units.

        Args:
            start, lead: positions in `starts` and `leads`.

        Raises:
            ForecastError: an unknown variable, members that are not finished, or damaged files.
        """
        out = np.empty((len(self.members), self.grid.size), np.float32)
        for batch in range(self.batches):
            out[batch * self.member_batch : (batch + 1) * self.member_batch] = self.read_unit(
                variable, (start, batch, lead)
            )
        return out

    def read_unit(self, variable: str, unit: Unit) -> np.ndarray:
        """One member batch of one field: (members of the batch, G) float32; see `read`."""
        if variable not in self.variables:
            raise ForecastError(f"{self.path} holds no `{variable}`, only {', '.join(self.variables)}")
        if not self.units[unit]:
            raise ForecastError(
                f"{self.path}: the forecast from {format_time(self.starts[unit[0]])} is not finished at lead time "
                f"{_lead(self.leads[unit[2]])}; run the same command again to complete it"
            )
        out = np.empty((len(self.members_of(unit[1])), self.grid.size), np.float32)
        file = self.path / self.shard(variable, unit)
        try:
            shards.decode(file.read_bytes(), self.member_batch, out)
        except (OSError, ForecastError) as error:
            raise ForecastError(
                f"{file}: a finished field is damaged ({error}); remove the store and run again"
            ) from None
        return out

    def to_xarray(self) -> xr.Dataset:
        """Named variables with CF coordinates, lazily; unfinished units are NaN."""
        dataset = xr.open_zarr(self.path)
        if self.units.all():
            return dataset
        there = np.repeat(self.units, self.member_batch, axis=1)[:, : len(self.members)]
        mask = xr.DataArray(there, dims=("init_time", "number", "lead_time"))
        return dataset.map(lambda field: field.where(mask), keep_attrs=True)


def create(path: Path, layout: Layout) -> None:
    """Make an empty store, all at once; if another process was faster, its store stays.

    Raises:
        ForecastError: the folder cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_metadata(draft, layout)
        if not path.exists():
            draft.rename(path)
    except OSError as error:
        if not path.is_dir():
            raise ForecastError(f"{path}: the store cannot be created: {error.strerror}") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def ledger_line(layout: Layout, unit: Unit) -> str:
    """How a finished unit is written down in a ledger."""
    return json.dumps({"start": format_time(layout.starts[unit[0]]), "batch": unit[1], "step": unit[2]}) + "\n"


def _write_metadata(path: Path, layout: Layout) -> None:
    size = (len(layout.starts), len(layout.members), len(layout.leads), *layout.field_shape)
    attributes = {
        "Conventions": "CF-1.11",
        "title": "Ensemble forecasts",
        "forecast_store": FORMAT,
        "variables": list(layout.variables),
        "field_shape": list(layout.field_shape),
        "member_batch": layout.member_batch,
        "settings": layout.settings,
    }
    group = zarr.create_group(path, attributes=attributes)
    for name, (dims, values, about) in _coordinates(layout).items():
        group.create_array(name, data=values, chunks=values.shape, dimension_names=dims, attributes=about)
    for name in layout.variables:
        group.create_array(
            name,
            shape=size,
            dtype="float32",
            chunks=(1, 1, 1, *layout.field_shape),
            shards=(1, layout.member_batch, 1, *layout.field_shape),
            chunk_key_encoding={"name": "default", "separator": "."},
            compressors=[shards.CODEC],
            fill_value=np.nan,
            dimension_names=layout.dims,
            attributes=_about(name, layout.settings) | {"coordinates": _auxiliary(layout)},
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        zarr.consolidate_metadata(path)


def _coordinates(layout: Layout) -> dict[str, tuple[tuple[str, ...], np.ndarray, dict[str, Any]]]:
    """Name -> (dimensions, values, CF attributes)."""
    clock = {"units": "seconds since 1970-01-01T00:00:00", "calendar": "proleptic_gregorian"}
    points = layout.dims[3:]
    latitudes = layout.grid.rows if layout.grid.is_regular else layout.grid.latitudes
    longitudes = layout.grid.columns if layout.grid.is_regular else layout.grid.longitudes
    starts = layout.starts.astype("datetime64[s]").astype("int64")
    leads = layout.leads.astype("timedelta64[s]").astype("int64")
    return {
        "init_time": (("init_time",), starts, clock | {"standard_name": "forecast_reference_time", "axis": "T"}),
        "number": (("number",), layout.members.astype("int64"), {"standard_name": "realization", "units": "1"}),
        "lead_time": (
            ("lead_time",),
            leads,
            {"standard_name": "forecast_period", "units": "seconds", "dtype": "timedelta64[s]"},
        ),
        "time": (
            ("init_time", "lead_time"),
            starts[:, None] + leads,
            clock | {"standard_name": "time", "long_name": "time of validity"},
        ),
        "latitude": (points[:1], latitudes, {"standard_name": "latitude", "units": "degrees_north"}),
        "longitude": (points[-1:], longitudes, {"standard_name": "longitude", "units": "degrees_east"}),
    }


def _auxiliary(layout: Layout) -> str:
    return "time" if layout.grid.is_regular else "time latitude longitude"


def _about(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    if name in settings.get("events", {}):
        return dict(settings["events"][name])
    known = variables.metadata(name)
    about: dict[str, Any] = {key: known[key] for key in ("long_name", "standard_name", "units") if key in known}
    if known.get("process") == "accumulation" and "accumulation" in settings:
        about["accumulation_period"] = settings["accumulation"]
    level = variables.level_of(name)
    return about if level is None else about | {"level": level, "level_units": "hPa"}


def _read_layout(path: Path) -> Layout:
    names = ("init_time", "number", "lead_time", "latitude", "longitude")
    try:
        group = zarr.open_group(path, mode="r")
        attrs: dict[str, Any] = dict(group.attrs)
        if attrs.get("forecast_store") != FORMAT:
            raise KeyError("forecast_store")
        starts, members, leads, latitudes, longitudes = (np.asarray(group[name]) for name in names)
    except (OSError, ValueError, KeyError, TypeError):
        raise ForecastError(f"{path} is no forecast store: give a folder that `forecast run` wrote") from None
    shape = tuple(attrs["field_shape"])
    if len(shape) == 2:
        latitudes, longitudes = (a.ravel() for a in np.meshgrid(latitudes, longitudes, indexing="ij"))
    return Layout(
        variables=tuple(attrs["variables"]),
        starts=starts.astype("datetime64[s]"),
        members=members,
        leads=leads.astype("timedelta64[s]"),
        grid=from_points(latitudes, longitudes, shape),
        member_batch=attrs["member_batch"],
        settings=attrs["settings"],
    )


def _lead(lead: np.timedelta64) -> str:
    return f"{int(lead / np.timedelta64(1, 'h'))} h"


def _brief(value: Any) -> str:
    if isinstance(value, list):
        return f"{value[0]}..{value[-1]} ({len(value)})" if len(value) > 2 else ",".join(map(str, value))
    return "nothing" if value is None else str(value)
