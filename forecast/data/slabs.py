"""The slabs of a store that is being written: each a shard and a record of its moments, written by one worker.

A slab is the dates of one shard, so no two workers touch one file. Shard and record appear whole or not at all, and
depend on the slab's states alone: two workers that write the same slab (one thought dead, say) leave the same bytes.
"""

from __future__ import annotations

import errno
import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs import Blosc

from forecast.core.chunk_format import parse
from forecast.core.chunks import FileStates
from forecast.core.errors import ForecastError
from forecast.core.shards import assemble, checksum
from forecast.core.times import format_time
from forecast.data import statistics
from forecast.data.layout import Layout
from forecast.data.records import Record, load, save
from forecast.data.statistics import Moments


class DiskError(ForecastError):
    """The disk refuses: what was finished stays, and the same run goes on from there."""


@dataclass(frozen=True, eq=False)
class SlabWriter:
    """Writes slabs into `folder`, in any order, from several threads and processes.

    Attributes:
        path: where the store will lie, for messages.
        folder: where it is written; `store` and `slabs` lie in it.
        layout: what it holds.
    """

    path: Path
    folder: Path
    layout: Layout

    @property
    def store(self) -> Path:
        """The store in the making."""
        return self.folder / "store"

    def shard(self, slab: int) -> Path:
        """The file of a slab."""
        return self.store / f"data/c/{slab}/0/0/0"

    def record(self, slab: int) -> Path:
        """The file of what is known of a finished slab."""
        return self.folder / "slabs" / f"{slab:08d}.npz"

    def border_record(self, slab: int) -> Path:
        """The file of the tendencies across a slab's beginning."""
        return self.folder / "borders" / f"{slab:08d}.npz"

    def write(self, slab: int, states: np.ndarray, stamp: str = "") -> None:
        """Write the states (t, V, G) or (t, V, members, G) of one slab.

        Rows of missing dates become NaN; a date whose values are all NaN, but for constant fields, is recorded as
        missing. `stamp` says in which state the source was (see `Layout.slab_key`).

        Raises:
            ForecastError: wrong shape; a NaN or an infinite value where none is allowed.
            DiskError: the disk is full, or refuses for another reason.
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
        states = self._rounded(states)
        moments = self._moments(states, present & self.layout.in_period(where))
        with clear_write_errors(self.path):
            _write(self.shard(slab), assemble(self._chunks(states), self._slots), sync=True)
            save(self.record(slab), Record(self.layout.slab_key(slab, stamp), present, moments))

    def border(self, slab: int) -> None:
        """Record the tendencies that begin before a slab and end in it, which no slab alone can see.

        The slabs that they reach into must be finished; their states are read back from the store.
        """
        where, strides = self.layout.slabs[slab], self.layout.strides
        before = max(0, where.start - max(strides.values()))
        around = range(before, min(where.stop, where.start + max(strides.values())))
        first, dates = where.start - before, self.layout.dates_per_shard
        touched = range(before // dates, slab + 1)
        records = {k: load(self.record(k)) for k in touched}
        present = np.concatenate([records[k].present for k in touched])[before - touched[0] * dates :]
        keep = present[: len(around)] & self.layout.in_period(slice(before, around[-1] + 1))
        states = np.stack([self.read(date) for date in around]).swapaxes(1, 2)
        found = {}
        for name, n in strides.items():
            across = slice(0, first + n)
            found[name] = statistics.of_tendencies(states[across], keep[across], n, first)
        key = self.border_key(slab, {k: records[k].key for k in touched})
        with clear_write_errors(self.path):
            save(self.border_record(slab), Record(key, np.empty(0, bool), found))

    def border_key(self, slab: int, keys: Mapping[int, str] | Sequence[str]) -> str:
        """What `border` records as its key, where the slabs have these `keys`."""
        before = max(0, self.layout.slabs[slab].start - max(self.layout.strides.values()))
        touched = range(before // self.layout.dates_per_shard, slab + 1)
        return hashlib.blake2b("".join(keys[k] for k in touched).encode(), digest_size=16).hexdigest()

    def read(self, date: int, rows: tuple[int, ...] | None = None) -> np.ndarray:
        """(members, V, G) float32, as written, of all variables or some (positions)."""
        _, v, members, g = self.layout.shape
        rows = tuple(range(v)) if rows is None else rows
        state = np.empty((members, len(rows), g), np.float32)
        for m in range(members):
            self._reader.fill(date, self._reader.select(rows, m, slice(0, g)), state[m])
        return state

    @cached_property
    def _reader(self) -> FileStates:
        found = parse(self.store / "data")
        assert found is not None, "what is written here can be read here"
        return FileStates(found)

    @property
    def _slots(self) -> int:
        chunk, shard = self.layout.chunking()
        return int(np.prod([s // c for s, c in zip(shard, chunk, strict=True)]))

    def _chunks(self, states: np.ndarray) -> Iterator[tuple[int, bytes]]:
        """(slot, bytes) of the inner chunks: all variables of a piece of the grid lie side by side, piece by piece."""
        (_, rows, _, points), shard = self.layout.chunking()
        members, v_chunks, g_chunks = shard[2], shard[1] // rows, shard[3] // points
        full = np.empty((rows, points), np.float32)
        encode = compressor(self.layout)
        for t, state in enumerate(states):
            for m, g, v in np.ndindex(members, g_chunks, v_chunks):
                block = state[v * rows : (v + 1) * rows, m, g * points : (g + 1) * points]
                if block.shape != full.shape:  # at the edge, filled up with NaN
                    full[:] = np.nan
                    full[: block.shape[0], : block.shape[1]] = block
                    block = full
                if np.isnan(block).all():
                    continue
                data = encode(np.ascontiguousarray(block))
                yield ((t * v_chunks + v) * members + m) * g_chunks + g, data + checksum(data)

    def _rounded(self, states: np.ndarray) -> np.ndarray:
        """The states with no more bits than wanted of each variable."""
        if not self.layout.keep_bits:
            return states
        states = states.copy()
        for v, name in enumerate(self.layout.variables):
            if name in self.layout.keep_bits:
                states[:, v] = round_bits(states[:, v], self.layout.keep_bits[name])
        return states

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


def round_bits(values: np.ndarray, keep: int) -> np.ndarray:
    """float32 values with `keep` of the 23 bits of their mantissa, rounded to nearest, ties to even.

    The relative error is at most 2^-(keep + 1); infinities and NaN stay.
    """
    drop = 23 - keep
    if drop <= 0:
        return values
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    half, even = np.uint32((1 << (drop - 1)) - 1), (bits >> np.uint32(drop)) & np.uint32(1)
    rounded = ((bits + half + even) & ~np.uint32((1 << drop) - 1)).view(np.float32)
    return np.where(np.isfinite(values), rounded, values)


def compressor(layout: Layout) -> Any:
    """The function that compresses a chunk."""
    if layout.compression == "none":
        return lambda block: block.tobytes()
    codec = Blosc(cname=layout.compression, clevel=layout.level, shuffle=Blosc.SHUFFLE)
    return codec.encode


def _write(path: Path, pieces: Iterable[bytes], sync: bool) -> None:
    """A file that is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with temporary.open("wb") as file:
            file.writelines(pieces)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def clear_write_errors(path: Path) -> Iterator[None]:
    """What the disk refuses, as one line."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG):
            raise
        reason = os.strerror(error.errno)
        advice = "mend that and run again, finished slabs are kept"
        raise DiskError(f"cannot write {path}: {reason}; {advice}") from None
