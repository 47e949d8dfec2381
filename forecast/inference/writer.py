"""Writes forecasts unit by unit (start, member batch, step), beside the computing, safe to kill at any moment.

A shard is written under a scratch name and renamed to its place; once a unit's variables are all there, one line
goes to this writer's ledger (core/ledger.py). Whoever starts again skips the units that any ledger lists. Files are
not flushed to the platter: a killed process loses nothing that is listed, a power cut may. The arrays end as the same
bytes whoever wrote them, in whatever order and however often interrupted; only the ledgers' order and distribution over
writers tell of it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import numpy as np

from forecast.core import shards
from forecast.core.errors import ForecastError
from forecast.core.forecasts import Forecasts, Layout, Unit, create, ledger_line
from forecast.core.ledger import Ledgers, dropped_line

QUEUE = 2
"""units that may wait for the disk"""


class ForecastWriter:
    """The store at `path`, open for writing by one process.

    Args:
        path: created if it is not there.
        layout: what it shall hold.
        who: a name that no other process at work has; it names the ledger and the scratch file.

    Attributes:
        ledgers: what was finished, by anybody.
        listed: told of every unit once it is there, in the writer's thread.

    Raises:
        ForecastError: another kind of folder at `path`, a store made with other settings (names the first that
            differs), somebody of the same name at work, no room on the disk.
    """

    def __init__(self, path: str | Path, layout: Layout, who: str = "0-of-1") -> None:
        self.path, self.layout = Path(path), layout
        if not self.path.exists():
            create(self.path, layout)
        there = Forecasts.open(self.path)
        if different := there.difference(layout):
            raise ForecastError(
                f"{self.path} was made with {different}: give the same settings to go on with it, or another --out"
            )
        self._ledger = _open_ledger(self.path / f"finished-{who}.jsonl")
        self._scratch = self.path / f".writing-{who}"
        self.listed: Callable[[Unit], None] | None = None
        _sweep(self.path)
        self.ledgers = Ledgers(self.path, layout.starts, layout.batches, len(layout.leads))
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

    def flush(self) -> None:
        """Wait until all that was handed over is on disk.

        Raises:
            ForecastError: something could not be written.
        """
        self._queue.join()
        self._raise()

    def close(self) -> None:
        """`flush`, and end the thread.

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
            self._queue.task_done()

    def _write_unit(self, unit: Unit, states: np.ndarray) -> None:
        for v, name in enumerate(self.layout.variables):
            self._scratch.write_bytes(shards.encode(states[:, v], self.layout.member_batch))
            self._scratch.rename(self.path / self.layout.shard(name, unit))
        self._enter(ledger_line(self.layout, unit))
        if self.listed:
            self.listed(unit)

    def drop(self, start: int) -> None:
        """Delete the fields of a start that is finished; whoever goes on with the store leaves it out."""
        for name in self.layout.variables:
            for _, batch, step in np.ndindex(1, self.layout.batches, len(self.layout.leads)):
                (self.path / self.layout.shard(name, (start, batch, step))).unlink(missing_ok=True)
        self._enter(dropped_line(self.layout.starts[start]))

    def _enter(self, text: str) -> None:
        if os.write(self._ledger, text.encode()) != len(text):
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
    if not _lock(descriptor, patience=0.5):  # `_sweep` of others may hold it for a moment
        os.close(descriptor)
        raise ForecastError(
            f"{path.parent} is being written by another process with the same --part: let it finish, or share the work "
            "(--part 0/2 and --part 1/2)"
        )
    whole = path.read_bytes().rfind(b"\n") + 1
    os.ftruncate(descriptor, whole)
    return descriptor


def _lock(descriptor: int, patience: float = 0.0) -> bool:
    """Whether the file is this process's alone now; asks again for `patience` seconds."""
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.05)
            continue
        except OSError:
            pass  # a file system without locks: the user has to take care
        return True


def _sweep(path: Path) -> None:
    """Remove the scratch files of writers that are no more."""
    for scratch in path.glob(".writing-*"):
        try:
            ledger = os.open(path / f"finished-{scratch.name.removeprefix('.writing-')}.jsonl", os.O_RDWR)
        except OSError:
            continue
        if _lock(ledger):
            scratch.unlink(missing_ok=True)
        os.close(ledger)
