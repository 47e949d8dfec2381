"""What goes along with a run: somebody (verification) who is told, in a thread of his own, what is complete."""

from __future__ import annotations

import queue
import threading
from typing import Protocol

from forecast.core.errors import ForecastError
from forecast.core.forecasts import Unit
from forecast.core.ledger import Ledgers
from forecast.inference.share import Claims
from forecast.inference.writer import ForecastWriter


class Follower(Protocol):
    """Reads forecasts as they become complete, by positions of starts and lead times."""

    def has(self, start: int) -> bool:
        """Whether a start was ended before, by any process."""

    def step(self, start: int, lead: int) -> None:
        """All members of a start and lead time are there."""

    def end(self, start: int) -> None:
        """All of a start is there; what it yields must be on disk on return. May be called again."""

    def finish(self) -> object:
        """All starts are ended."""


class Following:
    """Runs a follower beside a writer. Of several processes the one that completes a start ends it.

    Args:
        drop: delete the fields of a start once it is ended.
    """

    def __init__(self, follower: Follower, writer: ForecastWriter, claims: Claims, drop: bool = False) -> None:
        self._follower, self._writer, self._claims, self._drop = follower, writer, claims, drop
        layout = writer.layout
        self._ledgers = Ledgers(writer.path, layout.starts, layout.batches, len(layout.leads))
        self._starts, self._items = len(layout.starts), len(layout.starts) * layout.batches
        self._error: BaseException | None = None
        self._queue: queue.Queue[Unit | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="forecast-follower", daemon=True)
        self._thread.start()

    def listed(self, unit: Unit) -> None:
        """A unit was written by this process.

        Raises:
            ForecastError: what the follower raised.
        """
        self._raise()
        self._queue.put(unit)

    def close(self) -> None:
        """Wait until all that is complete is followed; the last process finishes.

        Raises:
            ForecastError: what the follower raised.
        """
        self._queue.put(None)
        self._thread.join()
        self._raise()
        self._ledgers.update()
        for start in range(self._starts):
            self._end(start)
        if all(map(self._follower.has, range(self._starts))) and self._claims.take(self._items + self._starts):
            self._follower.finish()

    def _work(self) -> None:
        while (unit := self._queue.get()) is not None:
            if self._error is None:
                try:
                    self._look(*unit)
                except BaseException as error:
                    self._error = error

    def _look(self, start: int, _: int, lead: int) -> None:
        self._ledgers.update()
        if self._follower.has(start):  # ended since the unit was listed
            return
        if self._ledgers.finished[start, :, lead].all():
            self._follower.step(start, lead)
        self._end(start)

    def _end(self, start: int) -> None:
        if self._ledgers.dropped[start] or not self._ledgers.finished[start].all():
            return
        if not self._follower.has(start):
            if not self._claims.take(self._items + start):
                return
            self._follower.end(start)
        if self._drop:
            self._writer.drop(start)
            self._ledgers.dropped[start] = True

    def _raise(self) -> None:
        if isinstance(self._error, OSError):
            raise ForecastError(f"scoring cannot go on: {self._error}") from self._error
        if self._error is not None:
            raise self._error
