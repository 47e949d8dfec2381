"""The states of a store, chunk by chunk: straight from files where their format is known, else through zarr-python.

Known are Zarr v3, sharded or not, and v2, of float32 in C order, plain or compressed by Blosc or Zstandard, with or
without CRC-32C behind each chunk, on a local disk: what `data/writer.py` and anemoi write. Chunks that lie side by side
are read together, checked, and decoded without the interpreter's lock; `python scripts/bench_reader.py` shows the gain.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from forecast.core.chunk_format import ABSENT, ChunkFormat, parse
from forecast.core.errors import ForecastError

TOGETHER = 2 << 20
"""Bytes of states that are read, then turned, in one go: what a processor's cache holds."""
OPEN_FILES = 128
"""Shards that stay open, each with its index."""


@dataclass(frozen=True)
class Part:
    """What one chunk of a date gives: its place in the file, block, runs of rows (block, chunk), columns taken."""

    place: int
    block: int
    rows: tuple[tuple[slice, slice], ...]
    taken: slice
    whole: bool


@dataclass(frozen=True)
class Piece:
    """The chunks that make up `blocks` blocks of `width` columns of the output, side by side, file by file."""

    first: int
    blocks: int
    width: int
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
        if len(parts) == 1:
            offset, length = self._index[begin + parts[0].place].tolist()
            return [(offset, length, parts[0])]
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
        pieces, columns = [], layout.columns
        for first, last in _spans(points, columns, max(1, TOGETHER // (4 * columns * len(wanted)))):
            width = min(columns, last - first)
            files: dict[tuple[int, ...], list[Part]] = {}
            for block, (v, rows) in product(range((last - first) // width), bands):
                file, place = layout.place(v, member, first // columns + block)
                taken = slice(first % columns, first % columns + width)
                whole = rows[0][1] == slice(0, layout.rows) and width == columns
                files.setdefault(file, []).append(Part(place, block, rows, taken, whole))
            listed = tuple((file, tuple(parts)) for file, parts in files.items())
            pieces.append(Piece(first - points.start, (last - first) // width, width, listed))
        return Selection(variables, member, points, tuple(pieces))

    def fill(self, time: int, what: Selection, out: np.ndarray) -> None:
        """See `States`.

        Raises:
            ForecastError: a file is torn or damaged.
        """
        rows = len(what.variables)
        turned = out.strides[-1] != out.itemsize
        for piece in what.pieces:
            columns = slice(piece.first, piece.first + piece.blocks * piece.width)
            if not turned:
                target = out[:, columns]
                self._fill(time, piece, [target[:, k * piece.width :][:, : piece.width] for k in range(piece.blocks)])
                continue
            # all rows of some columns first, then turned at once: single rows would be scattered over the output
            size = 4 * rows * piece.blocks * piece.width
            blocks = np.frombuffer(self._buffer("turn", size), "<f4").reshape(piece.blocks, rows, piece.width)
            self._fill(time, piece, blocks)
            out.T[columns].reshape(piece.blocks, piece.width, rows, copy=False)[:] = blocks.swapaxes(1, 2)

    def _fill(self, time: int, piece: Piece, blocks: Sequence[np.ndarray] | np.ndarray) -> None:
        dates, *rest = self.layout.per_file
        begin = time % dates * prod(rest)
        for where, parts in piece.files:
            file = self._file((time // dates, *where))
            places = file.places(begin, parts) if file else [(ABSENT, 0, part) for part in parts]
            for offset, _, part in reversed(places):
                if offset != ABSENT:
                    break
                for rows, _ in part.rows:
                    blocks[part.block][rows] = self.layout.fill
            for run in _side_by_side(places):
                self._read(file, run, blocks)

    def _read(self, file: Any, run: list[tuple[int, int, Part]], blocks: Sequence[np.ndarray] | np.ndarray) -> None:
        """Read chunks that lie side by side, and decode each."""
        begin, end = run[0][0], run[-1][0] + run[-1][1]
        data = self._buffer("read", end - begin)
        file.read(begin, data)
        for offset, size, part in run:
            try:
                self._decode(data[offset - begin : offset - begin + size], part, blocks[part.block])
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


def _spans(points: slice, columns: int, together: int) -> Iterator[tuple[int, int]]:
    """Ranges of points: parts of a chunk at the ends, and whole chunks, so many `together`."""
    first = points.start
    while first < points.stop:
        ahead = (points.stop - first) // columns if first % columns == 0 else 0
        last = first + min(ahead, together) * columns if ahead else min(points.stop, (first // columns + 1) * columns)
        yield first, last
        first = last


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
