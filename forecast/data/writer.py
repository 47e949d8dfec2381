"""Writes a store slab by slab, so that it can be killed at any moment and goes on to the same bytes.

A slab is the dates of one shard, so no two writers ever touch one file. Until `finish` everything lies in the
folder `PATH.partial`: `store`, which is renamed to PATH at last, and `slabs`, a small file for each finished slab
with its moments, from which the statistics of the whole are merged in the order of time.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import zarr
from zarr.codecs import BloscCodec
from zarr.errors import ZarrUserWarning

from forecast.core.errors import ForecastError
from forecast.core.times import format_duration, format_time
from forecast.data import statistics
from forecast.data.layout import INCIDENTAL, Layout
from forecast.data.statistics import Moments


class DiskError(ForecastError):
    """The disk refuses: what was finished stays, and the same run goes on from there."""


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
            ForecastError: another store lies there, or another process writes it; no date to make statistics of.
            DiskError: the disk is full, or refuses for another reason (so do `write` and `finish`).
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
        """Write the states (t, V, G) or (t, V, members, G) of one slab.

        Rows of missing dates become NaN; a date whose values are all NaN, but for constant fields, is recorded as
        missing.

        Raises:
            ForecastError: wrong shape; a NaN or an infinite value where none is allowed.
        """
        where = self.layout.slabs[slab]
        states = np.asarray(states, np.float32)
        if states.ndim == 3:
            states = states[:, :, None]
        expected = (where.stop - where.start, *self.layout.shape[1:])
        if states.shape != expected:
            raise ForecastError(f"{self.path}: slab {slab} has shape {states.shape}, expected {expected}")
        present = self.layout.present[where]
        finite = np.isfinite(states).all(axis=3)
        moving = [name not in self.layout.constant for name in self.layout.variables]
        for t in np.flatnonzero(present & ~finite[:, moving].any(axis=(1, 2))):
            present[t] = not np.isnan(states[t, moving]).all()
        if not present.all():
            states = np.where(present[:, None, None, None], states, np.float32(np.nan))
        self._check_values(states, finite, present, where)
        moments = self._moments(states, present & self.layout.in_period(where))
        with _clear_write_errors(self.path):
            self._array[where] = states
            _save(self._record(slab), present, moments)

    def finish(self) -> Path:
        """Record the statistics, rename the store to its place, and return that.

        Raises:
            ForecastError: slabs are still to be written.
        """
        if self.complete:
            return self.path
        if todo := self.todo:
            raise ForecastError(f"{self.path}: {len(todo)} slabs are still to be written, the first is {todo[0]}")
        group = zarr.open_group(self._store, mode="r+")
        with _clear_write_errors(self.path):
            records = [_load(self._record(k)) for k in range(len(self.layout.slabs))]
            present = np.concatenate([p for p, _ in records])
            merged = self._merge(group, [moments for _, moments in records], present)
            for name, moments in merged.items():
                prefix = "" if name == "states" else f"statistics_tendencies_{name}_"
                for kind, values in moments.named().items():
                    _small(group, prefix + kind, values, "variable")
            group.attrs["missing_dates"] = [str(date) for date in self.layout.dates[~present]]
            group.attrs["constant_fields"] = self._constant_fields(merged)
            for stray in self._store.rglob("*.partial"):  # zarr's own temporary files, left by a kill
                stray.unlink()
            os.replace(self._store, self.path)
            self.close()
            shutil.rmtree(self.partial)
        self.complete = True
        return self.path

    def close(self) -> None:
        """Let another writer go on with what is unfinished; the end of the process does so as well."""
        if not self.complete:
            self._lock.close()

    def abandon(self) -> None:
        """Remove what has been written: the input is bad, and no half-made store shall stay."""
        if not self.complete:
            self.close()
            shutil.rmtree(self.partial, ignore_errors=True)

    def _check_same(self, fingerprint: str) -> None:
        try:
            there = dict(zarr.open_group(self.path, mode="r").attrs)
        except (OSError, ValueError, KeyError):
            raise ForecastError(f"{self.path} exists and is no store: remove it, or set another store.path") from None
        if there.get("fingerprint") == fingerprint:
            return
        mine = self.layout.attributes()
        others = [key for key in mine if key not in (*INCIDENTAL, "missing_dates") and mine[key] != there.get(key)]
        raise ForecastError(
            f"{self.path} exists and was made from something else (other {', '.join(others) or 'chunks or points'}): "
            f"remove it, or set another store.path"
        )

    def _begin(self, fingerprint: str) -> None:
        self.partial.mkdir(parents=True, exist_ok=True)
        self._lock = (self.partial / "lock").open("w")  # held until this process ends, however it ends
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ForecastError(f"another process is writing {self.path}: wait until it is done") from None
        plan = self._records / "fingerprint"
        if plan.is_file() and plan.read_text() == fingerprint:
            return
        shutil.rmtree(self._records, ignore_errors=True)
        self._records.mkdir()
        layout = self.layout
        group = zarr.open_group(self._store, mode="w", zarr_format=3)
        group.attrs.update({**layout.attributes(), "fingerprint": fingerprint})
        chunks, shards = layout.chunking()
        group.create_array("data", shape=layout.shape, dtype="float32", chunks=chunks, shards=shards,
                           compressors=BloscCodec(cname="lz4", clevel=1, shuffle="shuffle"), fill_value=np.nan,
                           dimension_names=("time", "variable", "ensemble", "values"))  # fmt: skip
        _small(group, "dates", layout.dates.astype("datetime64[s]"), "time")
        _small(group, "latitudes", layout.latitudes.astype(np.float64), "values")
        _small(group, "longitudes", layout.longitudes.astype(np.float64), "values")
        plan.write_text(fingerprint)

    def _record(self, slab: int) -> Path:
        return self._records / f"{slab:08d}.npz"

    @cached_property
    def _array(self) -> Any:
        return cast(Any, zarr.open_group(self._store, mode="r+")["data"])

    def _check_values(self, states: np.ndarray, finite: np.ndarray, present: np.ndarray, where: slice) -> None:
        for t, v, m in np.argwhere(present[:, None, None] & ~finite):
            field = states[t, v, m]
            infinite = int(np.isinf(field).sum())
            if not infinite and self.layout.allow_nan:
                continue
            name, date = self.layout.variables[v], format_time(self.layout.dates[where][t])
            if infinite:
                raise ForecastError(f"{name} at {date}: {infinite} of {field.size} values are infinite")
            raise ForecastError(
                f"{name} at {date}: {int(np.isnan(field).sum())} of {field.size} values are missing (NaN); "
                f"leave the variable out, or set store.allow_nan if that is right (sst over land)"
            )

    def _moments(self, states: np.ndarray, keep: np.ndarray) -> dict[str, Moments]:
        within = {name: statistics.of_tendencies(states, keep, n) for name, n in self.layout.strides.items()}
        return {"states": statistics.of_states(states, keep), **within}

    def _merge(self, group: zarr.Group, records: list[dict[str, Moments]], present: np.ndarray) -> dict[str, Moments]:
        """All slabs together, and the tendencies across their borders, which no slab could see."""
        counted = present & self.layout.in_period(slice(None))
        data = cast(Any, group["data"])
        reach = max(self.layout.strides.values(), default=0)
        for slab, record in zip(self.layout.slabs[1:], records[1:], strict=True):
            before = max(0, slab.start - reach)
            around = slice(before, min(slab.stop, slab.start + reach))
            states, keep, first = data[around], counted[around], slab.start - before
            for name, n in self.layout.strides.items():
                across = slice(0, first + n)
                over = statistics.of_tendencies(states[across], keep[across], n, first)
                record[name] = statistics.merge([record[name], over])
        return {name: statistics.merge([r[name] for r in records]) for name in records[0]}

    def _constant_fields(self, merged: dict[str, Moments]) -> list[str]:
        tendency = merged.get(format_duration(self.layout.frequency))
        if tendency is None:
            return []
        still = (tendency.minimum == 0) & (tendency.maximum == 0)
        return [name for name, constant in zip(self.layout.variables, still, strict=True) if constant]


def _small(group: zarr.Group, name: str, values: np.ndarray, dimension: str) -> None:
    """One array in one chunk."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZarrUserWarning)
        warnings.filterwarnings("ignore", message=".*does not have a Zarr V3 specification.*")
        group.create_array(name, data=values, chunks=values.shape, dimension_names=(dimension,), overwrite=True)


def _save(path: Path, present: np.ndarray, moments: dict[str, Moments]) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, present=present, **{name: part.array() for name, part in moments.items()})
    os.replace(temporary, path)


def _load(path: Path) -> tuple[np.ndarray, dict[str, Moments]]:
    with np.load(path, allow_pickle=False) as file:
        return file["present"], {name: Moments(*file[name]) for name in file.files if name != "present"}


@contextmanager
def _clear_write_errors(path: Path) -> Iterator[None]:
    """What the disk refuses, as one line."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG):
            raise
        reason = os.strerror(error.errno)
        advice = "mend that and run again, finished slabs are kept"
        raise DiskError(f"cannot write {path}: {reason}; {advice}") from None
