"""A read-only view of a store: sharded Zarr v3 (or Zarr v2 by anemoi), states on a time axis.

Chunks are read and decoded by `core/chunks.py`; `python scripts/bench_reader.py` compares that with other readers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, cast

import dask.array
import numpy as np
import xarray as xr
import zarr

from forecast.core import variables as names
from forecast.core.calendar import DAYS, calendar_day, hour_of
from forecast.core.chunks import FileStates, Selection, open_states
from forecast.core.errors import ForecastError
from forecast.core.grids import Grid, from_points
from forecast.core.times import format_duration, format_time, parse_duration, parse_time

STATISTICS = ("mean", "stdev", "minimum", "maximum")
ARRAYS = ("data", "dates", "latitudes", "longitudes", *STATISTICS)


class Store:
    """States of the atmosphere at regular times.

    Attributes:
        path: where it lies.
        variables: (V,) names, ERA5 short names with the level in hPa: z_500, 2t.
        dates: (T,) datetime64[s], UTC, evenly spaced by `frequency`, missing ones included.
        missing: (T,) bool, dates that hold no state (NaN).
        frequency: timedelta64[s].
        ensemble: number of members.
        attrs: the attributes of the store, provenance among them.
    """

    def __init__(self, path: Path, group: zarr.Group) -> None:
        self.path = path
        self._group = group
        self._data = cast(Any, group["data"])
        self._states = open_states(path / "data", self._data)
        self.attrs: dict[str, Any] = dict(group.attrs)
        self.variables = tuple(self.attrs["variables"])
        self.dates: np.ndarray = self._array("dates").astype("datetime64[s]")
        self.frequency = _frequency(self.attrs, self.dates)
        self.ensemble = int(self._data.shape[2])
        listed = [parse_time(date) for date in self.attrs.get("missing_dates", [])]
        self.missing = np.isin(self.dates, np.array(listed, "datetime64[s]"))
        self._position = {name: k for k, name in enumerate(self.variables)}

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """Open a store.

        Raises:
            ForecastError: nothing there, no store, or one that was not finished.
        """
        path = Path(path)
        partial = path.with_name(path.name + ".partial")
        if not path.exists():
            hint = f"; {partial} is unfinished, run the same ingest again to finish it" if partial.exists() else ""
            raise ForecastError(f"no store at {path}{hint}")
        try:
            group = zarr.open_group(path, mode="r")
        except (OSError, ValueError, KeyError) as error:
            raise ForecastError(f"{path} is not a Zarr store ({error or type(error).__name__})") from None
        absent = [name for name in ARRAYS if name not in group]
        if absent or "variables" not in group.attrs:
            what = f"array `{absent[0]}`" if absent else "attribute `variables`"
            raise ForecastError(f"{path} is a Zarr group but no store of states: it has no {what}")
        return cls(path, group)

    def _array(self, name: str) -> np.ndarray:
        return np.asarray(cast(Any, self._group[name])[:])

    @cached_property
    def latitudes(self) -> np.ndarray:
        """(G,) degrees."""
        return self._array("latitudes").astype(np.float64)

    @cached_property
    def longitudes(self) -> np.ndarray:
        """(G,) degrees in [0, 360)."""
        return self._array("longitudes").astype(np.float64)

    @cached_property
    def grid(self) -> Grid:
        """The points of the states, in storage order, with their areas."""
        shape = self.attrs.get("field_shape")
        return from_points(self.latitudes, self.longitudes, tuple(shape) if shape else None)

    @cached_property
    def statistics(self) -> dict[str, np.ndarray]:
        """mean, stdev, minimum, maximum, each (V,) float64 in the units of the variables."""
        return {kind: self._array(kind).astype(np.float64) for kind in STATISTICS}

    @property
    def tendencies(self) -> dict[str, np.ndarray] | None:
        """Statistics of x(t + frequency) - x(t), as `statistics`; None where the store has none."""
        return self._tendencies(self.frequency)

    def tendency_stdev(self, step: np.timedelta64) -> np.ndarray:
        """(V,) standard deviation of x(t + step) - x(t).

        Raises:
            ForecastError: the store holds no statistics for this step.
        """
        found = self._tendencies(step)
        if found is None:
            held = sorted({n.split("_")[2] for n in map(str, self._group) if n.startswith("statistics_tendencies_")})
            raise ForecastError(
                f"{self.path} has no tendency statistics for {format_duration(step)}, "
                f"only for {', '.join(held) or 'no step'}: ingest it with this data.step"
            )
        return found["stdev"]

    def has_tendencies(self, step: np.timedelta64) -> bool:
        """Whether the store holds statistics of x(t + step) - x(t)."""
        return f"statistics_tendencies_{format_duration(step)}_stdev" in self._group

    def _tendencies(self, step: np.timedelta64) -> dict[str, np.ndarray] | None:
        if not self.has_tendencies(step):
            return None
        prefix = f"statistics_tendencies_{format_duration(step)}_"
        return {kind: self._array(prefix + kind).astype(np.float64) for kind in STATISTICS}

    def climatology(
        self, when: np.datetime64, variables: Sequence[str], window: np.timedelta64 | None = None
    ) -> dict[str, np.ndarray]:
        """Climatology of a calendar day and hour, over the period of the statistics.

        Args:
            when: any date; only its day of the year and its hour count.
            window: time to either side whose days are taken together with it, at the same hour.

        Returns:
            mean and stdev (V, G) float64, NaN where there is no date, and count () of the states.

        Raises:
            ForecastError: no climatology of a variable, or of this hour, was made (store.climatology).
        """
        group = cast(Any, self._group.get("climatology"))
        held = group.attrs["variables"] if group is not None else []
        for name in variables:
            if name not in held:
                raise ForecastError(f"{self.path} holds no climatology of {name}: ingest it with store.climatology")
        moment = np.array([when], "datetime64[s]")
        second = int(hour_of(moment)[0])
        if second not in group.attrs["seconds_of_day"]:
            raise ForecastError(f"{self.path} holds no climatology at the hour of {format_time(moment[0])}")
        hour, columns = group.attrs["seconds_of_day"].index(second), [held.index(name) for name in variables]
        reach = int(window / np.timedelta64(1, "D")) if window is not None else 0
        days = (calendar_day(moment)[0] + np.arange(-reach, reach + 1)) % DAYS
        parts = [(int(group["count"][d, hour]), group["mean"][d, hour][columns], group["stdev"][d, hour][columns])
                 for d in days.tolist()]  # fmt: skip
        return _merged([part for part in parts if part[0]], (len(columns), self.latitudes.size))

    @property
    def has_checksums(self) -> bool:
        """Whether each chunk of the states carries a checksum, which every read verifies."""
        return isinstance(self._states, FileStates) and "crc32c" in self._states.layout.codecs

    @property
    def constant_fields(self) -> tuple[str, ...]:
        """Variables that do not change in time."""
        return tuple(self.attrs.get("constant_fields") or ())

    @property
    def units(self) -> dict[str, str]:
        """Units of each variable."""
        described = self.attrs.get("variables_metadata") or {}
        return {n: (described.get(n) or {}).get("units") or names.metadata(n)["units"] for n in self.variables}

    def position(self, variables: Sequence[str]) -> list[int]:
        """Positions of variables on the variable axis.

        Raises:
            ForecastError: one that the store does not hold.
        """
        for name in variables:
            if name not in self._position:
                raise ForecastError(f"{self.path} has no variable `{name}`; it has {', '.join(self.variables)}")
        return [self._position[name] for name in variables]

    def index(self, when: np.datetime64) -> int:
        """Position of a date on the time axis.

        Raises:
            ForecastError: the date is missing, or not a date of the store (names the nearest one).
        """
        when = when.astype("datetime64[s]")
        at = int(np.searchsorted(self.dates, when))
        if at < self.dates.size and self.dates[at] == when:
            if not self.missing[at]:
                return at
            problem = "is a missing date"
        else:
            problem = "is not a date"
        present = np.flatnonzero(~self.missing)
        nearest = self.dates[present[np.argmin(np.abs(self.dates[present] - when))]] if present.size else None
        hint = f"; the nearest is {format_time(nearest)}" if nearest is not None else ""
        raise ForecastError(f"{format_time(when)} {problem} of {self.path}{hint}")

    def indices(self, first: np.datetime64, last: np.datetime64, step: np.timedelta64 | None = None) -> np.ndarray:
        """Positions of the dates in [first, last], missing ones included, every `step` from the first of them."""
        found = np.flatnonzero((self.dates >= first) & (self.dates <= last))
        return found if step is None else found[:: self.stride(step)]

    def stride(self, step: np.timedelta64) -> int:
        """How many of the store's time steps make one `step`.

        Raises:
            ForecastError: not a multiple of the store's frequency.
        """
        ratio = step / self.frequency
        if ratio < 1 or ratio != int(ratio):
            raise ForecastError(
                f"a step of {format_duration(step)} is no multiple of the frequency of {self.path}, "
                f"{format_duration(self.frequency)}"
            )
        return int(ratio)

    def read(
        self,
        times: int | slice | np.ndarray,
        variables: Sequence[str] | None = None,
        member: int = 0,
        points: slice | None = None,
    ) -> np.ndarray:
        """States as (T, V, G) float32 in the units of the variables; NaN at missing dates.

        Args:
            times: positions on the time axis.
            variables: names, in the order wanted; all of them if absent.
            member: ensemble member, from 0.
            points: a range of grid points; all of them if absent.

        Raises:
            ForecastError: a variable that the store does not hold; a file that is torn or damaged.
        """
        what = self.select(variables, member, points)
        positions = np.arange(self.dates.size)[times] if isinstance(times, slice) else np.atleast_1d(times)
        states = np.empty((len(positions), *what.shape), np.float32)
        for time, state in zip(positions.tolist(), states, strict=True):
            self.fill(time, what, state)
        return states

    def select(self, variables: Sequence[str] | None = None, member: int = 0, points: slice | None = None) -> Selection:
        """What `fill` reads of each date; see `read`."""
        positions = range(len(self.variables)) if variables is None else self.position(variables)
        first, last, _ = (points or slice(None)).indices(int(self._data.shape[3]))
        return self._selections(tuple(positions), member, first, last)

    @cached_property
    def _selections(self) -> Any:
        @lru_cache(maxsize=32)
        def select(positions: tuple[int, ...], member: int, first: int, last: int) -> Selection:
            return self._states.select(positions, member, slice(first, last))

        return select

    def fill(self, time: int, what: Selection, out: np.ndarray) -> None:
        """Read one date at position `time` (from 0) into `out` (V, g) float32 of any strides; safe in threads."""
        self._states.fill(time % self.dates.size, what, out)

    def to_xarray(self) -> xr.Dataset:
        """A lazy dataset with one named variable each, (time, [number,] latitude, longitude) or (..., values)."""
        coordinates, field_dims, shape = self._coordinates()
        data = dask.array.from_array(self._data, chunks=self._data.shards or self._data.chunks)
        described = self.attrs.get("variables_metadata") or {}
        fields = {}
        for k, name in enumerate(self.variables):
            field = data[:, k]
            lead = ("time", "number") if self.ensemble > 1 else ("time",)
            if self.ensemble == 1:
                field = field[:, 0]
            attributes = {key: value for key, value in (described.get(name) or {}).items() if isinstance(value, str)}
            fields[name] = (lead + field_dims, field.reshape(field.shape[:-1] + shape), attributes)
        return xr.Dataset(fields, coords=coordinates, attrs={"source": str(self.path)})

    def _coordinates(self) -> tuple[dict[str, Any], tuple[str, ...], tuple[int, ...]]:
        grid = self.grid
        north = {"units": "degrees_north", "standard_name": "latitude"}
        east = {"units": "degrees_east", "standard_name": "longitude"}
        coordinates: dict[str, Any] = {"time": self.dates.astype("datetime64[ns]")}
        if self.ensemble > 1:
            coordinates["number"] = np.arange(self.ensemble)
        if grid.is_regular:
            coordinates["latitude"] = ("latitude", grid.rows, north)
            coordinates["longitude"] = ("longitude", grid.columns, east)
            return coordinates, ("latitude", "longitude"), grid.shape
        coordinates["latitude"] = ("values", grid.latitudes, north)
        coordinates["longitude"] = ("values", grid.longitudes, east)
        return coordinates, ("values",), (grid.size,)


def _merged(parts: list[tuple[int, np.ndarray, np.ndarray]], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """(count, mean, standard deviation) of several sets, as one of all."""
    count, mean, squares = 0, np.full(shape, np.nan), np.full(shape, np.nan)
    for n, m, s in parts:
        m, s = m.astype(np.float64), s.astype(np.float64)
        if not count:
            count, mean, squares = n, m, n * s**2
            continue
        change, total = m - mean, count + n
        squares += n * s**2 + change**2 * count * n / total
        mean, count = mean + change * n / total, total
    return {"mean": mean, "stdev": np.sqrt(squares / max(count, 1)), "count": np.array(count)}


def _frequency(attrs: dict[str, Any], dates: np.ndarray) -> np.timedelta64:
    stated = attrs.get("frequency")
    if stated is not None:
        return parse_duration(f"{stated}h" if isinstance(stated, int) else stated)
    if dates.size < 2:
        raise ForecastError("a store with a single date must state its `frequency`")
    return dates[1] - dates[0]
