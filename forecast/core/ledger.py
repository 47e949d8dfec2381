"""Ledgers: which units of a forecast store are finished, a line of JSON each, written by those who share the work.

`finished-<who>.jsonl` beside the arrays. A line `{"start": "2001-03-01T00", "batch": 0, "step": 4}` says that the unit
is there with all its variables; `{"start": ..., "dropped": true}` that the start's fields were finished, scored and
deleted. A torn last line does not count.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from forecast.core.errors import ForecastError
from forecast.core.times import format_time


class Ledgers:
    """What all ledgers of a store say, read on from where they were read last.

    Attributes:
        finished: (S, batches, L) bool, units that were finished at some time.
        dropped: (S,) bool, starts whose fields are gone.
    """

    def __init__(self, path: Path, starts: np.ndarray, batches: int, leads: int) -> None:
        self._path = path
        self._position = {format_time(start): s for s, start in enumerate(starts)}
        self._read: dict[Path, int] = {}
        self.finished = np.zeros((len(starts), batches, leads), bool)
        self.dropped = np.zeros(len(starts), bool)
        self.update()

    @property
    def there(self) -> np.ndarray:
        """(S, batches, L) bool, units that can be read."""
        return self.finished & ~self.dropped[:, None, None]

    def count(self) -> int:
        """How many units are finished by now."""
        self.update()
        return int(self.finished.sum())

    def update(self) -> None:
        """Read what was written since.

        Raises:
            ForecastError: a line that is none.
        """
        for ledger in sorted(self._path.glob("finished-*.jsonl")):
            with ledger.open("rb") as file:
                file.seek(self._read.get(ledger, 0))
                whole, newline, _ = file.read().rpartition(b"\n")
            self._read[ledger] = self._read.get(ledger, 0) + len(whole) + len(newline)
            for line in whole.splitlines():
                try:
                    self._enter(json.loads(line))
                except (ValueError, KeyError, TypeError, IndexError):
                    raise ForecastError(
                        f"{ledger}: damaged line {line[:60].decode(errors='replace')!r}; remove the store and run again"
                    ) from None

    def _enter(self, entry: dict[str, object]) -> None:
        start = self._position[str(entry["start"])]
        if entry.get("dropped"):
            self.dropped[start] = True
        else:
            self.finished[start, int(str(entry["batch"])), int(str(entry["step"]))] = True


def dropped_line(start: np.datetime64) -> str:
    """How a start whose fields are gone is written down."""
    return json.dumps({"start": format_time(start), "dropped": True}) + "\n"
