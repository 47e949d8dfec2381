"""A store in the making: begun, gone on with after any kill, brought up to date, and put in its place when whole.

Until `finish` everything lies in the folder `PATH.partial`: `store`, which is renamed to PATH at last, and records of
the finished slabs, from whose moments the statistics of the whole are merged in the order of time. A finished store
keeps these records (`data/slabs.npz`), so that an update takes over every slab that is still right.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.errors import ZarrUserWarning

from forecast.core.errors import ForecastError
from forecast.core.times import format_duration
from forecast.data import climatology, statistics
from forecast.data.layout import INCIDENTAL, Layout
from forecast.data.records import Kept, key_of, load
from forecast.data.slabs import DiskError, SlabWriter, clear_write_errors
from forecast.data.statistics import Moments

__all__ = ["DiskError", "Layout", "StoreWriter"]
RECORDS = "data/slabs.npz"
"""Keys, presence and moments of all slabs, within a finished store."""


class StoreWriter:
    """One store that is being written.

    Attributes:
        path: where the store will lie.
        layout: what it holds.
        slabs: writes the slabs; it may be sent to other processes.
        stamps: the state of the source of each slab.
        complete: it is there already, made from the same layout; nothing to do.
    """

    def __init__(
        self,
        path: str | Path,
        layout: Layout,
        stamps: Sequence[str] = (),
        update: bool = False,
        renew: Collection[int] = (),
    ) -> None:
        """Begin a store, or go on with one that an earlier run left unfinished.

        Args:
            stamps: one for each slab, saying in which state its source is; slabs of another stamp are written anew.
            update: take over what is right of a store that lies there, and replace it when this one is finished.
            renew: slabs that are written anew in any case.

        Raises:
            ForecastError: another store lies there, or another process writes it; no date to make statistics of.
            DiskError: the disk is full, or refuses for another reason (so do `write` and `finish`).
        """
        self.path, self.layout = Path(path), layout
        self.partial = self.path.with_name(self.path.name + ".partial")
        self.slabs = SlabWriter(self.path, self.partial, layout)
        plain = stamps or [""] * len(layout.slabs)
        self.stamps = tuple(stamp + " renewed" * (k in renew) for k, stamp in enumerate(plain))
        self._keys = [layout.slab_key(k, stamp) for k, stamp in enumerate(self.stamps)]
        self._plain_keys = [layout.slab_key(k, stamp) for k, stamp in enumerate(plain)]
        if not layout.counted.any():
            raise ForecastError(f"{path}: no date lies in the period of the statistics (data.train)")
        fingerprint = layout.fingerprint()
        self._recover()
        self.complete = self.path.exists() and self._is_same(fingerprint, update) and not renew
        with clear_write_errors(self.path):
            if self.complete:
                shutil.rmtree(self.partial, ignore_errors=True)
            else:
                self._begin(fingerprint)

    @property
    def todo(self) -> list[int]:
        """Numbers of the slabs that are still to be written, in order."""
        if self.complete:
            return []
        return [k for k, key in enumerate(self._keys) if key_of(self.slabs.record(k)) != key]

    @property
    def borders_todo(self) -> list[int]:
        """Numbers of the slabs whose tendencies from the slab before are still to be recorded (`slabs.border`)."""
        if self.complete or not self.layout.strides:
            return []
        later = range(1, len(self._keys))
        return [k for k in later if key_of(self.slabs.border_record(k)) != self.slabs.border_key(k, self._keys)]

    @property
    def climatology_todo(self) -> list[int]:
        """Calendar days that are still to be merged (`climatology.write`)."""
        if self.complete:
            return []
        made = {day: key_of(self.partial / "days" / f"{day:08d}.npz") for day in climatology.days(self.layout)}
        written = [key_of(self.slabs.record(k)) or "" for k in range(len(self._keys))]
        return [day for day, key in made.items() if key != climatology.key(self.layout, day, written)]

    def write(self, slab: int, states: np.ndarray) -> None:
        """Write the states of one slab; see `SlabWriter.write`."""
        self.slabs.write(slab, states, self.stamps[slab])

    def finish(self) -> Path:
        """Record the statistics, rename the store to its place, and return that.

        Raises:
            ForecastError: slabs are still to be written.
        """
        if self.complete:
            return self.path
        if todo := self.todo:
            raise ForecastError(f"{self.path}: {len(todo)} slabs are still to be written, the first is {todo[0]}")
        for slab in self.borders_todo:
            self.slabs.border(slab)
        for day in self.climatology_todo:
            climatology.write(self.slabs, day)
        group = zarr.open_group(self.slabs.store, mode="r+")
        with clear_write_errors(self.path):
            records = [load(self.slabs.record(k)) for k in range(len(self._keys))]
            borders = [load(self.slabs.border_record(k)) for k in range(1, len(records)) if self.layout.strides]
            present = np.concatenate([record.present for record in records])
            parts = [record.moments for record in records] + [border.moments for border in borders]
            merged = {name: statistics.merge([p[name] for p in parts if name in p]) for name in parts[0]}
            self._write_statistics(group, merged, present)
            Kept.of(self.slabs, self._plain_keys, records, borders).write(self.slabs.store / RECORDS)
            self._put_in_place()
        self.complete = True
        return self.path

    def close(self) -> None:
        """Let another writer go on with what is unfinished; the end of the process does so as well."""
        if not self.complete:
            self._lock.close()

    def abandon(self) -> None:
        """Remove what has been written, unless a slab is finished, which the next run may go on from."""
        if not self.complete:
            self.close()
            if len(self.todo) == len(self._keys):
                shutil.rmtree(self.partial, ignore_errors=True)

    def _is_same(self, fingerprint: str, update: bool) -> bool:
        try:
            there = dict(zarr.open_group(self.path, mode="r").attrs)
        except (OSError, ValueError, KeyError):
            raise ForecastError(f"{self.path} exists and is no store: remove it, or set another store.path") from None
        if there.get("fingerprint") == fingerprint or update:
            return there.get("fingerprint") == fingerprint
        mine = self.layout.attributes()
        others = [key for key in mine if key not in (*INCIDENTAL, "missing_dates") and mine[key] != there.get(key)]
        raise ForecastError(
            f"{self.path} exists and was made from something else (other {', '.join(others) or 'chunks or points'}): "
            f"bring it up to date with --update, remove it, or set another store.path"
        )

    def _begin(self, fingerprint: str) -> None:
        self._lock = _locked(self.partial, self.path)  # held until this process ends, however it ends
        begun = self.partial / "fingerprint"
        if begun.is_file() and begun.read_text() == fingerprint:
            return
        for folder in ("slabs", "borders", "days"):
            (self.partial / folder).mkdir(exist_ok=True)
        if self.path.exists():
            self._take_over()
        self._drop_stale()
        self._create(fingerprint)
        begun.write_text(fingerprint)

    def _create(self, fingerprint: str) -> None:
        """Metadata and axes of the store; shards that lie there stay."""
        layout, store = self.layout, self.slabs.store
        for stale in (store / "zarr.json", store / "data/zarr.json"):
            stale.unlink(missing_ok=True)
        shutil.rmtree(store / climatology.GROUP, ignore_errors=True)
        shutil.rmtree(self.partial / "days")
        (self.partial / "days").mkdir()
        group = zarr.open_group(store, mode="a", zarr_format=3)
        group.attrs.update({**layout.attributes(), "fingerprint": fingerprint})
        chunks, shards = layout.chunking()
        compressors: list[Any] = [Crc32cCodec()]
        if layout.compression != "none":
            blosc = BloscCodec(
                typesize=4, cname=layout.compression, clevel=layout.level, shuffle="shuffle", blocksize=0
            )
            compressors.insert(0, blosc)
        group.create_array("data", shape=layout.shape, dtype="float32", chunks=chunks, shards=shards,
                           compressors=compressors, fill_value=np.nan,
                           dimension_names=("time", "variable", "ensemble", "values"))  # fmt: skip
        _small(group, "dates", layout.dates.astype("datetime64[s]"), "time")
        _small(group, "latitudes", layout.latitudes.astype(np.float64), "values")
        _small(group, "longitudes", layout.longitudes.astype(np.float64), "values")
        if layout.climatology:
            climatology.create(store, layout)

    def _take_over(self) -> None:
        """Shards and records of the store in place whose slabs have not changed; they are linked, not copied."""
        if not (self.path / RECORDS).is_file():
            return
        kept = Kept.read(self.path / RECORDS)
        for k, key in enumerate(self._keys[: len(kept.keys)]):
            if kept.keys[k] == key != key_of(self.slabs.record(k)):
                new = self.slabs.shard(k)
                new.parent.mkdir(parents=True, exist_ok=True)
                new.unlink(missing_ok=True)
                _link(self.path / new.relative_to(self.slabs.store), new)
                kept.restore_slab(k, self.slabs.record(k))
                if k and kept.border_keys[k - 1] == self.slabs.border_key(k, self._keys):
                    kept.restore_border(k, self.slabs.border_record(k))

    def _drop_stale(self) -> None:
        """Remove what an unfinished run for another layout left and this one cannot use."""
        for shard in (self.slabs.store / "data/c").glob("*"):
            k = int(shard.name)
            if k >= len(self._keys) or key_of(self.slabs.record(k)) != self._keys[k]:
                shutil.rmtree(shard)
                self.slabs.record(k).unlink(missing_ok=True)

    def _recover(self) -> None:
        """Finish the exchange of two stores that a kill broke off between its two renames."""
        aside = self.path.with_name(self.path.name + ".replaced")
        if aside.exists():
            with _locked(self.partial, self.path):
                if not self.path.exists():
                    os.replace(self.slabs.store, self.path)
                shutil.rmtree(aside, ignore_errors=True)
                shutil.rmtree(self.partial, ignore_errors=True)

    def _put_in_place(self) -> None:
        for stray in self.slabs.store.rglob("*.partial"):  # temporary files, left by a kill
            stray.unlink()
        aside = self.path.with_name(self.path.name + ".replaced")
        if self.path.exists():
            os.replace(self.path, aside)
        os.replace(self.slabs.store, self.path)
        self.close()
        shutil.rmtree(self.partial)
        shutil.rmtree(aside, ignore_errors=True)

    def _write_statistics(self, group: zarr.Group, merged: dict[str, Moments], present: np.ndarray) -> None:
        for name, moments in merged.items():
            prefix = "" if name == "states" else f"statistics_tendencies_{name}_"
            for kind, values in moments.named().items():
                _small(group, prefix + kind, values, "variable")
        group.attrs["missing_dates"] = [str(date) for date in self.layout.dates[~present]]
        group.attrs["constant_fields"] = self._constant_fields(merged)

    def _constant_fields(self, merged: dict[str, Moments]) -> list[str]:
        tendency = merged.get(format_duration(self.layout.frequency))
        if tendency is None:
            return []
        still = (tendency.minimum == 0) & (tendency.maximum == 0)
        return [name for name, constant in zip(self.layout.variables, still, strict=True) if constant]


def _small(group: zarr.Group, name: str, values: np.ndarray, dimension: str) -> None:
    """One array in one chunk, with a checksum."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZarrUserWarning)
        warnings.filterwarnings("ignore", message=".*does not have a Zarr V3 specification.*")
        group.create_array(name, data=values, chunks=values.shape, dimension_names=(dimension,), overwrite=True)


def _locked(folder: Path, path: Path) -> TextIO:
    """The lock of an unfinished store, which one process holds at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise ForecastError(f"another process is writing {path}: wait until it is done") from None
    return lock


def _link(old: Path, new: Path) -> None:
    """The same file under another name; a copy where the disk knows no links."""
    try:
        os.link(old, new)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(old, new)


@contextmanager
def unfinished(*writers: StoreWriter) -> Iterator[None]:
    """However it ends, what is finished stays, to go on from; bad input before the first slab leaves nothing."""
    try:
        yield
    except DiskError:
        raise
    except ForecastError:
        for writer in writers:
            writer.abandon()
        raise
    finally:
        for writer in writers:
            writer.close()
