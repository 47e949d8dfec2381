"""The states of a store, chunk by chunk: straight from files where their format is known, else through zarr-python.

Known are Zarr v3, sharded or not, and v2, of float32 in C order, plain or compressed by Blosc or Zstandard, with or
without CRC-32C behind each chunk, on a local disk: what `data/writer.py` and anemoi write. Chunks that lie side by side
are read together, checked, and decoded without the interpreter's lock; `python scripts/bench_reader.py` shows the gain.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from forecast.core.chunk_format import ABSENT, ChunkFormat, parse
from forecast.core.errors import ForecastError

OPEN_FILES = 128
"""Shards that stay open, each with its index."""


@dataclass(frozen=True)
class Part:
    """What one chunk of a date contributes: its place in the file, runs of rows (output, chunk), columns taken."""

    place: int
    rows: tuple[tuple[slice, slice], ...]
    taken: slice
    whole: bool


@dataclass(frozen=True)
class Piece:
    """The chunks that make up some columns of the output, file by file."""

    columns: slice
    files: tuple[tuple[tuple[int, ...], tuple[Part, ...]], ...]


@dataclass(frozen=True)
class Selection:
    """Variables (positions, in the order wanted), a member, and a range of points: the same for any date."""

    variables: tuple[int, ...]
    member: int
    points: slice
    pieces: tuple[Piece, ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        """(V, g) of what is selected."""
        return len(self.variables), self.points.stop - self.points.start


class States(Protocol):
    """States (time, variable, ensemble, values) of which parts are read."""

    def select(self, variables: tuple[int, ...], member: int, points: slice) -> Selection:
        """What to read of each date."""
        ...

    def fill(self, time: int, what: Selection, out: np.ndarray) -> None:
        """Read the selection of one date into `out` (V, g) float32 of any strides; safe in threads."""
        ...


def open_states(folder: Path, array: Any) -> States:
    """The reader of the array in `folder`, which zarr-python has open as `array`."""
    found = parse(folder)
    return FileStates(found) if found else ZarrStates(array)


class ZarrStates:
    """Any array that zarr-python can read."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def select(self, variables: tuple[int, ...], member: int, points: slice) -> Selection:
        """See `States`."""
        return Selection(variables, member, points)

    def fill(self, time: int, what: Selection, out: np.ndarray) -> None:
        """See `States`."""
        out[:] = self._array[time, :, what.member, what.points][list(what.variables)]


class _File:
    """An open file and, of a shard, where its chunks lie."""

    def __init__(self, path: Path, layout: ChunkFormat) -> None:
        self.path, self._fd = path, os.open(path, os.O_RDONLY)
        size = os.fstat(self._fd).st_size
        self._index = np.array([[0, size]], np.uint64)
        if layout.sharded:
            tail = os.pread(self._fd, layout.index_bytes, max(0, size - layout.index_bytes))
            self._index = layout.index(tail, path)

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            os.close(self._fd)

    def places(self, begin: int, parts: tuple[Part, ...]) -> list[tuple[int, int, Part]]:
        """(offset, length, part) in the order of the file; those that are absent come last."""
        index = self._index[[begin + part.place for part in parts]].tolist()
        return sorted(((*entry, part) for entry, part in zip(index, parts, strict=True)), key=lambda p: p[0])

    def read(self, offset: int, out: memoryview) -> None:
        """Fill `out` with the bytes from `offset`."""
        done = 0
        while done < len(out):
            n = os.preadv(self._fd, [out[done:]], offset + done)
            if not n:
                raise ForecastError(f"{self.path} is torn: it ends at byte {offset + done}")
            done += n


class FileStates:
    """Chunks in files of a known format."""

    def __init__(self, layout: ChunkFormat) -> None:
        self.layout = layout
        self._files: OrderedDict[tuple[int, ...], _File | None] = OrderedDict()
        self._lock, self._local = threading.Lock(), threading.local()

    def __reduce__(self) -> tuple[Any, ...]:
        return FileStates, (self.layout,)

    def select(self, variables: tuple[int, ...], member: int, points: slice) -> Selection:
        """See `States`."""
        layout, wanted = self.layout, np.asarray(variables, int)
        bands = []
        for v in np.unique(wanted // layout.rows).tolist():
            into = np.flatnonzero(wanted // layout.rows == v)
            bands.append((v, _runs(into, wanted[into] - v * layout.rows)))
        pieces = []
        for g in range(points.start // layout.columns, -(-points.stop // layout.columns)):
            begin = g * layout.columns
            first, last = max(points.start, begin), min(points.stop, begin + layout.columns)
            files: dict[tuple[int, ...], list[Part]] = {}
            for v, rows in bands:
                file, place = layout.place(v, member, g)
                whole = rows[0][1] == slice(0, layout.rows) and last - first == layout.columns
                files.setdefault(file, []).append(Part(place, rows, slice(first - begin, last - begin), whole))
            columns = slice(first - points.start, last - points.start)
            pieces.append(Piece(columns, tuple((file, tuple(parts)) for file, parts in files.items())))
        return Selection(variables, member, points, tuple(pieces))

    def fill(self, time: int, what: Selection, out: np.ndarray) -> None:
        """See `States`.

        Raises:
            ForecastError: a file is torn or damaged.
        """
        turned = out.strides[-1] != out.itemsize
        for piece in what.pieces:
            target = out[:, piece.columns]
            if not turned:
                self._fill(time, piece, target)
                continue
            # all rows of some columns first, then turned at once: single rows would be scattered over the output
            block = np.frombuffer(self._buffer("turn", 4 * target.size), "<f4").reshape(target.shape)
            self._fill(time, piece, block)
            target[:] = block

    def _fill(self, time: int, piece: Piece, out: np.ndarray) -> None:
        dates, *rest = self.layout.per_file
        begin = time % dates * prod(rest)
        for where, parts in piece.files:
            file = self._file((time // dates, *where))
            places = file.places(begin, parts) if file else [(ABSENT, 0, part) for part in parts]
            for offset, _, part in reversed(places):
                if offset != ABSENT:
                    break
                for rows, _ in part.rows:
                    out[rows] = self.layout.fill
            for run in _side_by_side(places):
                self._read(file, run, out)

    def _read(self, file: Any, run: list[tuple[int, int, Part]], out: np.ndarray) -> None:
        """Read chunks that lie side by side, and decode each."""
        begin, end = run[0][0], run[-1][0] + run[-1][1]
        data = self._buffer("read", end - begin)
        file.read(begin, data)
        for offset, size, part in run:
            try:
                self._decode(data[offset - begin : offset - begin + size], part, out)
            except (ValueError, RuntimeError) as error:
                raise ForecastError(f"{file.path} is damaged at byte {offset} ({error})") from None

    def _decode(self, data: memoryview, part: Part, out: np.ndarray) -> None:
        layout = self.layout
        if part.whole:
            target = out[part.rows[0][0]]
            if target.flags.c_contiguous:
                return layout.decode(data, target)
        chunk = np.frombuffer(self._buffer("chunk", layout.chunk_bytes), "<f4").reshape(layout.rows, layout.columns)
        layout.decode(data, chunk)
        for rows, inside in part.rows:
            out[rows] = chunk[inside, part.taken]
        return None

    def _file(self, key: tuple[int, ...]) -> _File | None:
        """An open file, None where there is none; those longest unused are closed."""
        with self._lock:
            if key in self._files:
                self._files.move_to_end(key)
                return self._files[key]
        path = self.layout.path(*key)
        try:
            file = _File(path, self.layout)
        except FileNotFoundError:
            file = None
        except OSError as error:
            raise ForecastError(f"cannot read {path}: {error.strerror}") from None
        with self._lock:
            self._files[key] = file
            while len(self._files) > OPEN_FILES:
                self._files.popitem(last=False)
        return file

    def _buffer(self, name: str, size: int) -> memoryview:
        """Memory of this thread, kept from one chunk to the next."""
        kept: bytearray | None = getattr(self._local, name, None)
        if kept is None or len(kept) < size:
            kept = bytearray(size + size // 4)
            setattr(self._local, name, kept)
        return memoryview(kept)[:size]


def _runs(into: np.ndarray, taken: np.ndarray) -> tuple[tuple[slice, slice], ...]:
    """Positions in the output and in the chunk, both consecutive within each run."""
    breaks = np.flatnonzero((np.diff(into) != 1) | (np.diff(taken) != 1)) + 1
    runs = zip(np.split(into, breaks), np.split(taken, breaks), strict=True)
    return tuple((slice(int(a[0]), int(a[-1]) + 1), slice(int(b[0]), int(b[-1]) + 1)) for a, b in runs)


def _side_by_side(places: list[tuple[int, int, Part]]) -> Iterator[list[tuple[int, int, Part]]]:
    """Runs of chunks without a gap between them."""
    run: list[tuple[int, int, Part]] = []
    for place in places:
        if place[0] == ABSENT:
            break
        if run and run[-1][0] + run[-1][1] != place[0]:
            yield run
            run = []
        run.append(place)
    if run:
        yield run
