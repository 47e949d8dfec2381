"""Writes a store slab by slab, so that it can be killed at any moment and goes on to the same bytes.

A slab is the dates of one shard, so no two writers ever touch one file. Until `finish` everything lies in the
folder `PATH.partial`: `store`, which is renamed to PATH at last, and `slabs`, a small file for each finished slab
with its moments, from which the statistics of the whole are merged in the order of time.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import zarr
from zarr.codecs import BloscCodec
from zarr.errors import ZarrUserWarning

from forecast.core.errors import ForecastError
from forecast.core.times import format_duration, format_time
from forecast.data import statistics
from forecast.data.statistics import Moments

CHUNK_BYTES = 8 << 20


@dataclass(frozen=True, eq=False)
class Layout:
    """What a store will hold.

    Attributes:
        dates: (T,) datetime64[s], evenly spaced, missing ones included.
        variables: (V,) names.
        metadata: name -> what `core.variables.metadata` gives.
        latitudes, longitudes: (G,) degrees; field_shape: the shape of a field.
        frequency: time between dates.
        missing: (T,) bool; none if absent.
        members: size of the ensemble axis.
        dates_per_shard: dates that one slab, and one file, holds.
        tendencies: steps whose differences get statistics, multiples of the frequency.
        period: first and last date of the statistics; all dates if absent.
        allow_nan: missing values within fields are accepted.
        provenance: further attributes (title, source).
    """

    dates: np.ndarray
    variables: tuple[str, ...]
    metadata: dict[str, dict[str, Any]]
    latitudes: np.ndarray
    longitudes: np.ndarray
    field_shape: tuple[int, ...]
    frequency: np.timedelta64
    missing: np.ndarray | None = None
    members: int = 1
    dates_per_shard: int = 64
    tendencies: tuple[np.timedelta64, ...] = ()
    period: tuple[np.datetime64, np.datetime64] | None = None
    allow_nan: bool = False
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(T, V, members, G)."""
        return len(self.dates), len(self.variables), self.members, len(self.latitudes)

    @property
    def slabs(self) -> list[slice]:
        """The dates of each slab, as positions on the time axis."""
        n = self.dates_per_shard
        return [slice(i, min(i + n, len(self.dates))) for i in range(0, len(self.dates), n)]

    @property
    def present(self) -> np.ndarray:
        """(T,) bool, dates with a state."""
        return np.ones(len(self.dates), bool) if self.missing is None else ~self.missing

    @property
    def counted(self) -> np.ndarray:
        """(T,) bool, dates that enter the statistics."""
        if self.period is None:
            return self.present
        return self.present & (self.dates >= self.period[0]) & (self.dates <= self.period[1])

    @property
    def strides(self) -> dict[str, int]:
        """Tendency step as text (`6h`, `1d`) -> how many dates it spans."""
        steps = {format_duration(s): int(s / self.frequency) for s in sorted({self.frequency, *self.tendencies})}
        return {name: n for name, n in steps.items() if n < len(self.dates)}

    def attributes(self) -> dict[str, Any]:
        """The attributes of the store, those that anemoi knows under its names."""
        counted = self.dates[self.counted]
        iso = [str(d) for d in self.dates]
        return {
            "version": "0.22",
            "layout": "gridded",
            "variables": list(self.variables),
            "variables_metadata": self.metadata,
            "dimensions": ["dates", "variables", "ensembles", "values"],
            "dtype": "float32",
            "shape": list(self.shape),
            "start_date": iso[0],
            "end_date": iso[-1],
            "frequency": format_duration(self.frequency),
            "missing_dates": [iso[i] for i in np.flatnonzero(~self.present)],
            "statistics_start_date": str(counted[0]),
            "statistics_end_date": str(counted[-1]),
            "field_shape": list(self.field_shape),
            "resolution": None,
            "allow_nans": self.allow_nan,
            **self.provenance,
        }

    def fingerprint(self) -> str:
        """A hash of all of this: the same for a store that would have the same bytes."""
        text = json.dumps([self.attributes(), self.shape, self.dates_per_shard, self.strides], sort_keys=True)
        digest = hashlib.blake2b(text.encode(), digest_size=16)
        for array in (self.dates.astype("int64"), self.latitudes, self.longitudes):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


class StoreWriter:
    """Writes the slabs of one store, in any order and from several threads.

    Attributes:
        path: where the store will lie.
        layout: what it holds.
        complete: it is there already, made from the same layout; nothing to do.
        todo: numbers of the slabs that are still to be written.
    """

    def __init__(self, path: str | Path, layout: Layout) -> None:
        """Begin a store, or go on with one that an earlier run left unfinished.

        Raises:
            ForecastError: another store lies there; no date to make statistics of; the disk is full.
        """
        self.path, self.layout = Path(path), layout
        self.partial = self.path.with_name(self.path.name + ".partial")
        self._store, self._records = self.partial / "store", self.partial / "slabs"
        if not layout.counted.any():
            raise ForecastError(f"{path}: no date lies in the period of the statistics (data.train)")
        self.complete = self.path.exists()
        fingerprint = layout.fingerprint()
        with _clear_write_errors(self.path):
            if self.complete:
                self._check_same(fingerprint)
                shutil.rmtree(self.partial, ignore_errors=True)
            else:
                self._begin(fingerprint)

    @property
    def todo(self) -> list[int]:
        """Numbers of the slabs that are still to be written, in order."""
        if self.complete:
            return []
        return [k for k in range(len(self.layout.slabs)) if not self._record(k).exists()]

    def write(self, slab: int, states: np.ndarray) -> None:
        """Write the states (t, V, G) or (t, V, members, G) of one slab; rows of missing dates become NaN.

        Raises:
            ForecastError: wrong shape; a NaN or an infinite value where none is allowed; the disk is full.
        """
        where = self.layout.slabs[slab]
        states = np.asarray(states, np.float32)
        if states.ndim == 3:
            states = states[:, :, None]
        expected = (where.stop - where.start, *self.layout.shape[1:])
        if states.shape != expected:
            raise ForecastError(f"{self.path}: slab {slab} has shape {states.shape}, expected {expected}")
        present = self.layout.present[where]
        if not present.all():
            states = np.where(present[:, None, None, None], states, np.float32(np.nan))
        self._check_values(states, where)
        moments = self._moments(states, where)
        with _clear_write_errors(self.path):
            self._array()[where] = states
            _save(self._record(slab), moments)

    def finish(self) -> Path:
        """Record the statistics, rename the store to its place, and return that.

        Raises:
            ForecastError: slabs are still to be written; the disk is full.
        """
        if self.complete:
            return self.path
        if todo := self.todo:
            raise ForecastError(f"{self.path}: {len(todo)} slabs are still to be written, the first is {todo[0]}")
        group = zarr.open_group(self._store, mode="r+")
        with _clear_write_errors(self.path):
            merged = self._merge(group)
            for name, moments in merged.items():
                prefix = "" if name == "states" else f"statistics_tendencies_{name}_"
                for kind, values in moments.named().items():
                    _small(group, prefix + kind, values, "variable")
            group.attrs["constant_fields"] = self._constant_fields(merged)
            for stray in self._store.rglob("*.partial"):  # zarr's own temporary files, left by a kill
                stray.unlink()
            os.replace(self._store, self.path)
            shutil.rmtree(self.partial)
        self.complete = True
        return self.path

    def abandon(self) -> None:
        """Remove what has been written: the input is bad, and no half-made store shall stay."""
        if not self.complete:
            shutil.rmtree(self.partial, ignore_errors=True)

    def _check_same(self, fingerprint: str) -> None:
        try:
            made_from = zarr.open_group(self.path, mode="r").attrs.get("fingerprint")
        except (OSError, ValueError, KeyError):
            made_from = None
        if made_from != fingerprint:
            raise ForecastError(
                f"{self.path} exists and was made from something else: remove it, or set another store.path"
            )

    def _begin(self, fingerprint: str) -> None:
        plan = self._records / "fingerprint"
        if plan.is_file() and plan.read_text() == fingerprint:
            return
        if self.partial.exists():
            shutil.rmtree(self.partial)
        self._records.mkdir(parents=True)
        layout = self.layout
        group = zarr.open_group(self._store, mode="w", zarr_format=3)
        group.attrs.update({**layout.attributes(), "fingerprint": fingerprint})
        chunks, shards = _chunking(layout)
        group.create_array("data", shape=layout.shape, dtype="float32", chunks=chunks, shards=shards,
                           compressors=BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"), fill_value=np.nan,
                           dimension_names=("time", "variable", "ensemble", "values"))  # fmt: skip
        _small(group, "dates", layout.dates.astype("datetime64[s]"), "time")
        _small(group, "latitudes", layout.latitudes.astype(np.float64), "values")
        _small(group, "longitudes", layout.longitudes.astype(np.float64), "values")
        plan.write_text(fingerprint)

    def _record(self, slab: int) -> Path:
        return self._records / f"{slab:08d}.npz"

    def _array(self) -> Any:
        return cast(Any, zarr.open_group(self._store, mode="r+")["data"])

    def _check_values(self, states: np.ndarray, where: slice) -> None:
        bad = np.isinf(states) if self.layout.allow_nan else ~np.isfinite(states)
        bad &= self.layout.present[where][:, None, None, None]
        if not bad.any():
            return
        t, v = np.argwhere(bad.any(axis=(2, 3)))[0]
        name, date = self.layout.variables[v], format_time(self.layout.dates[where][t])
        what = "infinite" if np.isinf(states[t, v]).any() else "missing (NaN)"
        hint = "" if what == "infinite" else "; set store.allow_nan if that is right, or leave the variable out"
        raise ForecastError(f"{name} at {date} has {int(bad[t, v].sum())} of {states[t, v].size} values {what}{hint}")

    def _moments(self, states: np.ndarray, where: slice) -> dict[str, Moments]:
        keep = self.layout.counted[where]
        within = {name: statistics.of_tendencies(states, keep, n) for name, n in self.layout.strides.items()}
        return {"states": statistics.of_states(states, keep), **within}

    def _merge(self, group: zarr.Group) -> dict[str, Moments]:
        """All slabs together, and the tendencies across their borders, which no slab could see."""
        records = [_load(self._record(k)) for k in range(len(self.layout.slabs))]
        v = len(self.layout.variables)
        data = cast(Any, group["data"])
        reach = max(self.layout.strides.values(), default=0)
        for slab, record in zip(self.layout.slabs[1:], records[1:], strict=True):
            before = max(0, slab.start - reach)
            around = slice(before, min(slab.stop, slab.start + reach))
            states, keep, first = data[around], self.layout.counted[around], slab.start - before
            for name, n in self.layout.strides.items():
                across = slice(0, first + n)
                over = statistics.of_tendencies(states[across], keep[across], n, first)
                record[name] = statistics.merge([record[name], over], v)
        return {name: statistics.merge([r[name] for r in records], v) for name in records[0]}

    def _constant_fields(self, merged: dict[str, Moments]) -> list[str]:
        tendency = merged.get(format_duration(self.layout.frequency))
        if tendency is None:
            return []
        still = (tendency.minimum == 0) & (tendency.maximum == 0)
        return [name for name, constant in zip(self.layout.variables, still, strict=True) if constant]


def _chunking(layout: Layout) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Inner chunk: one date, all variables, one member, at most 8 MiB of the grid; shard: one slab."""
    _, v, members, g = layout.shape
    pieces = -(-v * g * 4 // CHUNK_BYTES)
    points = -(-g // pieces)
    return (1, v, 1, points), (layout.dates_per_shard, v, members, points * pieces)


def _small(group: zarr.Group, name: str, values: np.ndarray, dimension: str) -> None:
    """One array in one chunk."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZarrUserWarning)
        warnings.filterwarnings("ignore", message=".*does not have a Zarr V3 specification.*")
        group.create_array(name, data=values, chunks=values.shape, dimension_names=(dimension,), overwrite=True)


def _save(path: Path, moments: dict[str, Moments]) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **{name: part.array() for name, part in moments.items()})
    os.replace(temporary, path)


def _load(path: Path) -> dict[str, Moments]:
    with np.load(path, allow_pickle=False) as file:
        return {name: Moments(*file[name]) for name in file.files}


@contextmanager
def _clear_write_errors(path: Path) -> Iterator[None]:
    """What the disk refuses, as one line; what was finished stays and the same run goes on from there."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG):
            raise
        reason = os.strerror(error.errno)
        advice = "mend that and run again, finished slabs are kept"
        raise ForecastError(f"cannot write {path}: {reason}; {advice}") from None
