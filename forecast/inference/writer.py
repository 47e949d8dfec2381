"""Writes forecasts unit by unit (start, member batch, step), beside the computing, safe to kill at any moment.

A shard is written under a scratch name and renamed to its place; once a unit's variables are all there, one line
goes to this part's ledger, `finished-<part>-of-<parts>.jsonl`. Whoever starts again skips the units that any
ledger lists. Files are not flushed to the platter: a killed process loses nothing that is listed, a power cut may.
The arrays end as the same bytes whoever wrote them, in whatever order and however often interrupted; only the
ledgers' order and distribution over parts tell of it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import queue
import threading
from pathlib import Path
from types import TracebackType

import numpy as np

from forecast.core import shards
from forecast.core.errors import ForecastError
from forecast.core.forecasts import Forecasts, Layout, Unit, create, ledger_line

Part = tuple[int, int]
QUEUE = 2
"""units that may wait for the disk"""


class ForecastWriter:
    """The store at `path`, open for writing by one process.

    Args:
        path: created if it is not there.
        layout: what it shall hold.
        part: (i, n) if n processes share the work; it names the ledger and the scratch file.

    Attributes:
        units: (S, batches, L) bool, units that were finished when the writer was made.

    Raises:
        ForecastError: another kind of folder at `path`, a store made with other settings (names the first that
            differs), the same part at work in another process, no room on the disk.
    """

    def __init__(self, path: str | Path, layout: Layout, part: Part = (0, 1)) -> None:
        self.path, self.layout = Path(path), layout
        if not self.path.exists():
            create(self.path, layout)
        there = Forecasts.open(self.path)
        if different := there.difference(layout):
            raise ForecastError(
                f"{self.path} was made with {different}: give the same settings to go on with it, or another --out"
            )
        tag = f"{part[0]}-of-{part[1]}"
        self._ledger = _open_ledger(self.path / f"finished-{tag}.jsonl")
        self._scratch = self.path / f".writing-{tag}"
        self.units = there.units
        self._error: BaseException | None = None
        self._queue: queue.Queue[tuple[Unit, np.ndarray] | None] = queue.Queue(QUEUE)
        self._thread = threading.Thread(target=self._work, name="forecast-writer", daemon=True)
        self._thread.start()

    def write(self, unit: Unit, states: np.ndarray) -> None:
        """Hand over a unit; waits while `QUEUE` others are ahead of it.

        Args:
            states: (members of the batch, V, G) float32, which the caller leaves alone from now on.

        Raises:
            ForecastError: an earlier unit could not be written.
        """
        expected = (len(self.layout.members_of(unit[1])), len(self.layout.variables), self.layout.grid.size)
        if states.shape != expected:
            raise ValueError(f"unit {unit}: states have shape {states.shape}, expected {expected}")
        self._raise()
        self._queue.put((unit, states))

    def close(self) -> None:
        """Wait until all is on disk.

        Raises:
            ForecastError: something could not be written.
        """
        self._queue.put(None)
        self._thread.join()
        os.close(self._ledger)
        self._scratch.unlink(missing_ok=True)
        self._raise()

    def __enter__(self) -> ForecastWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
            return
        try:
            self.close()
        except ForecastError:
            if not isinstance(error, ForecastError):
                raise

    def _work(self) -> None:
        """The writer thread: after an error it only empties the queue, so that nobody waits for it."""
        while (item := self._queue.get()) is not None:
            if self._error is None:
                try:
                    self._write_unit(*item)
                except BaseException as error:
                    self._error = error

    def _write_unit(self, unit: Unit, states: np.ndarray) -> None:
        for v, name in enumerate(self.layout.variables):
            self._scratch.write_bytes(shards.encode(states[:, v], self.layout.member_batch))
            self._scratch.rename(self.path / self.layout.shard(name, unit))
        line = ledger_line(self.layout, unit).encode()
        if os.write(self._ledger, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _raise(self) -> None:
        if isinstance(self._error, OSError):
            gone = "" if self.path.is_dir() else ", the folder is gone"
            raise ForecastError(
                f"{self.path}: cannot write: {self._error.strerror}{gone}; what is finished stays, run again to go on"
            ) from self._error
        if self._error is not None:
            raise self._error


def _open_ledger(path: Path) -> int:
    """A descriptor that appends whole lines and that no other process holds; a torn last line is cut off."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        raise ForecastError(f"{path}: cannot write: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ForecastError(f"{path.parent} is being written by another process with the same --part") from None
    except OSError:
        pass  # a file system without locks: the user has to take care
    whole = path.read_bytes().rfind(b"\n") + 1
    os.ftruncate(descriptor, whole)
    return descriptor
