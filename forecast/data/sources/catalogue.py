"""What a source holds and where each field lies: dates x variables x members, complete and without doubles."""

from __future__ import annotations

import glob
import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from forecast.core import variables as names
from forecast.core.errors import ForecastError
from forecast.core.times import format_time

SAME_POINT = 1e-4
"""Degrees by which two files may write the same point: GRIB 1 counts in 0.001, float32 longitudes in 0.00003."""


class Unreachable(ForecastError):
    """A source that does not answer now, and may later."""


@dataclass(frozen=True, eq=False)
class Contents:
    """What a source can deliver.

    Attributes:
        dates: (T,) datetime64[s], UTC, ascending, those with a state.
        variables: (V,) names; metadata: name -> what the store says of it.
        constant: those of them that are the same at all dates.
        members: numbers of the ensemble members, (0,) where there is no ensemble.
        latitudes, longitudes: (G,) degrees, longitudes in [0, 360), in the order of the file.
        field_shape: (rows, columns) where rectilinear, else (G,).
        files: what was read, with size and time of change.
    """

    dates: np.ndarray
    variables: tuple[str, ...]
    metadata: dict[str, dict[str, Any]]
    constant: tuple[str, ...]
    members: tuple[int, ...]
    latitudes: np.ndarray
    longitudes: np.ndarray
    field_shape: tuple[int, ...]
    files: tuple[dict[str, Any], ...]


class Source(Protocol):
    """Anything that delivers states."""

    contents: Contents

    def read(self, dates: np.ndarray) -> np.ndarray:
        """States (t, V, members, G) float32 of some of `contents.dates`, in the units of the table.

        Sources are sent to other processes, and read by several threads at once.
        """
        ...

    def stamp(self, dates: np.ndarray) -> str:
        """Tells the state of what these dates are read from: another text where that has changed."""
        ...


@dataclass(frozen=True, eq=False)
class _Points:
    """The grid of the first field, which all others must share."""

    latitudes: np.ndarray
    longitudes: np.ndarray
    shape: tuple[int, ...]
    origin: str


@dataclass
class _Column:
    """All fields of one variable: date, member, file and place, one entry each."""

    date: array[int] = field(default_factory=lambda: array("q"))
    member: array[int] = field(default_factory=lambda: array("q"))
    file: array[int] = field(default_factory=lambda: array("q"))
    place: array[int] = field(default_factory=lambda: array("q"))


class Catalogue:
    """Collects where each field lies, then checks that nothing is doubled or lacking.

    Fields whose points are those of the first grid in another order (south to north) are brought into its order.

    Attributes:
        dates: (T,) datetime64[s]; members: numbers; both known after `close`.
    """

    def __init__(self, files: Sequence[Path | str]) -> None:
        self.files = tuple(files)
        self.stamps = tuple(_stamp(file) for file in files)
        self.dates = np.empty(0, "datetime64[s]")
        self.members: tuple[int, ...] = ()
        self._constant: tuple[str, ...] = ()
        self._points = cast(_Points | None, None)
        self._columns: dict[str, _Column] = {}
        self._places: dict[str, np.ndarray] = {}

    @property
    def variables(self) -> tuple[str, ...]:
        """Names found so far."""
        return tuple(self._columns)

    def add(
        self,
        name: str,
        dates: Sequence[int] | np.ndarray,
        member: int,
        file: int,
        places: Sequence[int] | np.ndarray,
    ) -> None:
        """Enter fields of one variable and member: `dates` in seconds since 1970, `places` as the reader wants."""
        column = self._columns.setdefault(name, _Column())
        n = len(dates)
        for values, entries in ((dates, column.date), (places, column.place), ([member] * n, column.member),
                                ([file] * n, column.file)):  # fmt: skip
            entries.frombytes(np.asarray(values, np.int64).tobytes())

    def order(
        self, latitudes: np.ndarray, longitudes: np.ndarray, shape: tuple[int, ...], origin: str
    ) -> np.ndarray | None:
        """Positions that bring fields on these points into the order of the first grid; None if they are in it.

        Args:
            latitudes, longitudes: (G,) degrees. shape: of a field.
            origin: which field or file this is, for the message.

        Raises:
            ForecastError: other points than those of the first grid.
        """
        if self._points is None:
            self._points = _Points(latitudes, longitudes % 360.0, shape, origin)
            return None
        first = self._points
        mine, theirs = _rounded(first.latitudes, first.longitudes), _rounded(latitudes, longitudes)
        if mine.shape == theirs.shape:
            if np.abs(mine - theirs).max() <= SAME_POINT:
                return None
            a, b = np.lexsort(np.round(mine, 2)), np.lexsort(np.round(theirs, 2))
            if np.abs(mine[:, a] - theirs[:, b]).max() <= SAME_POINT:
                order = np.empty_like(a)
                order[a] = b
                return order
        raise ForecastError(
            f"{origin} lies on another grid ({len(latitudes)} points) than {first.origin} "
            f"({len(first.latitudes)} points): bring all fields onto one grid first"
        )

    def contents(self, order: tuple[str, ...], metadata: dict[str, dict[str, Any]]) -> Contents:
        """What a closed catalogue holds."""
        points = cast(_Points, self._points)
        return Contents(
            dates=self.dates,
            variables=order,
            metadata={name: metadata[name] for name in order},
            constant=self._constant,
            members=self.members,
            latitudes=points.latitudes,
            longitudes=points.longitudes,
            field_shape=points.shape,
            files=self.stamps,
        )

    def close(self, wanted: Sequence[str] | None) -> tuple[str, ...]:
        """Check the whole and return the variables, in the order wanted, else by name and level.

        Raises:
            ForecastError: a variable that is not there, a doubled field, or one that lacks at some date or member.
        """
        found = ", ".join(self.variables) or "no field that a store can hold"
        for name in wanted or ():
            if name not in self._columns:
                raise ForecastError(f"no {name} in {self._origin()}: found {found}")
        if not self._columns:
            raise ForecastError(f"{self._origin()}: found {found}")
        order = tuple(wanted or sorted(self._columns, key=lambda n: (names.split(n)[0], names.level_of(n) or 0)))
        tables = {name: self._table(name) for name in order}
        moving = [n for n in order if not self._is_constant(n, tables[n])]
        if not moving:
            raise ForecastError(f"{self._origin()}: only constant fields ({', '.join(order)}), so there are no dates")
        self.dates = np.unique(np.concatenate([tables[n][0] for n in moving])).astype("datetime64[s]")
        self.members = tuple(int(m) for m in np.unique(np.concatenate([tables[n][1] for n in moving])))
        self._constant = tuple(name for name in order if name not in moving)
        for name in order:
            self._places[name] = self._complete(name, *tables[name])
        return order

    def places(self, name: str, dates: np.ndarray) -> np.ndarray:
        """(t, members, 2) file and place of the fields of a variable at some of `self.dates`."""
        table = self._places[name]
        return table[np.searchsorted(self.dates, dates) if len(table) > 1 else np.zeros(len(dates), int)]

    def stamp(self, dates: np.ndarray) -> str:
        """See `Source.stamp`: names, sizes and times of change of the files that hold these dates."""
        touched: set[int] = set()
        for name in self._places:
            touched |= set(np.unique(self.places(name, dates)[..., 0]).tolist())
        return json.dumps([self.stamps[k] for k in sorted(touched) if k >= 0], sort_keys=True)

    def _origin(self) -> str:
        first = str(self.files[0])
        return first if len(self.files) == 1 else f"{first} and {len(self.files) - 1} more files"

    def _table(self, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Dates, members and (file, place) of a variable, sorted; doubles refused."""
        column = self._columns[name]
        date, member = np.array(column.date), np.array(column.member)
        by = np.lexsort((member, date))
        date, member = date[by], member[by]
        where = np.stack([np.array(column.file), np.array(column.place)], axis=1)[by]
        twice = np.flatnonzero((np.diff(date) == 0) & (np.diff(member) == 0))
        if twice.size:
            a, b = (self.files[where[twice[0] + k, 0]] for k in (0, 1))
            when = format_time(np.datetime64(int(date[twice[0]]), "s"))
            which = f" (member {member[twice[0]]})" if member.any() else ""
            both = f"in {a}" if a == b else f"in {a} and in {b}"
            raise ForecastError(f"{name} at {when}{which} occurs twice, {both}: keep one of them")
        return date, member, where

    def _is_constant(self, name: str, table: tuple[np.ndarray, np.ndarray, np.ndarray]) -> bool:
        """A field of the ground that the files give once only; a reader enters it at date NaT if it has no date."""
        date, member, _ = table
        undated = bool(np.isnat(date.astype("datetime64[s]")).any())
        alone = len(date) == 1 and any(len(c.date) > 1 for n, c in self._columns.items() if n != name)
        return undated or (alone and names.is_static(name))

    def _complete(self, name: str, date: np.ndarray, member: np.ndarray, where: np.ndarray) -> np.ndarray:
        """(T or 1, members, 2); every date of the source must have every member of the variable."""
        m = len(self.members)
        if name in self._constant:
            return np.broadcast_to(where[:1], (1, m, 2))
        expected = np.repeat(self.dates.astype(np.int64), m)
        if len(date) == len(expected) and np.array_equal(date, expected):
            return where.reshape(len(self.dates), m, 2)
        have = set(zip(date.tolist(), member.tolist(), strict=True))
        lacking = [(d, n) for d in self.dates.astype(np.int64).tolist() for n in self.members if (d, n) not in have]
        when, number = format_time(np.datetime64(lacking[0][0], "s")), lacking[0][1]
        which = f" for member {number}" if m > 1 else ""
        raise ForecastError(
            f"{name} is missing at {when}{which} ({len(lacking)} of {len(expected)} fields), where other variables are "
            f"there: complete {self._origin()}, or leave it out of source.variables"
        )


def _rounded(latitudes: np.ndarray, longitudes: np.ndarray) -> np.ndarray:
    """(2, G) with 359.99999 degrees east as 0."""
    around = longitudes % 360.0
    return np.stack([latitudes, np.where(around > 360.0 - SAME_POINT, 0.0, around)])


def expand(patterns: Sequence[str]) -> list[Path]:
    """The files that names and glob patterns mean, sorted within each pattern, each once.

    Raises:
        ForecastError: a pattern that means no file.
    """
    files: dict[Path, None] = {}
    for pattern in patterns:
        matches = sorted(Path(p) for p in glob.glob(pattern, recursive=True))
        if not any(p.is_file() for p in matches):
            raise ForecastError(f"no file {pattern} (source.paths, relative to {Path.cwd()})")
        files |= dict.fromkeys(p for p in matches if p.is_file())
    return list(files)


def _stamp(file: Path | str) -> dict[str, Any]:
    """A file's name, size and time of change; only the name of what is no local file."""
    if isinstance(file, str):
        return {"name": file}
    stat = file.stat()
    return {"name": file.name, "size": stat.st_size, "changed": stat.st_mtime_ns}
