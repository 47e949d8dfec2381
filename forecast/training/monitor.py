"""What can be watched while training runs: a progress line, and sinks for all numbers (sinks.py)."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from forecast.core.errors import ForecastError
from forecast.core.progress import Bar, bar, console
from forecast.training.sinks import SINKS, Begin, Jsonl, Sink, chosen


class Monitor:
    """Hands what is measured to the sinks of one run, and shows the progress.

    An update has `loss`, its terms, `lr`, `rollout`, `gradient_norm`, `seconds` of training so far, and what the
    machine did: `samples_per_second`, `memory_gb` (the largest of all ranks), on several ranks `slowest_rank` and
    `slowest_ratio` (to the median).

    Args:
        folder: the training folder.
        done: updates already made; `kept` bytes of metrics belong to them, the rest is cut off.
        kept: see `done`.
        seconds: time already spent training.
        monitors: names of sinks, or `auto`. about: the config, flat.

    Raises:
        ForecastError: another process trains into this folder, or a sink is not installed.
    """

    def __init__(
        self,
        folder: Path,
        done: int = 0,
        kept: int = 0,
        seconds: float = 0.0,
        monitors: Sequence[str] | str = "auto",
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self._first, self._seconds = folder, done, seconds
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = _alone(folder)
        begin = Begin(folder, done, kept, about or {})
        try:
            self.sinks: list[Sink] = [SINKS[name](begin) for name in chosen(monitors)]
        except ForecastError:
            os.close(self._lock)
            raise
        self._bar: Bar | None = None
        self._noted = 0.0
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds spent training, over all its runs."""
        return self._seconds + time.monotonic() - self._began

    @contextmanager
    def running(self, total: int) -> Iterator[None]:
        """The progress line over `total` updates; the sinks are closed at its end."""
        with bar("training", total) as self._bar, closing(self):
            self._bar.advance(self._first)
            yield

    def close(self) -> None:
        """Close the sinks, let others train here."""
        try:
            for sink in self.sinks:
                sink.close()
        finally:
            os.close(self._lock)

    def update(self, update: int, values: Mapping[str, float]) -> None:
        """Record one update."""
        seconds = self.seconds
        for sink in self.sinks:
            sink.update(update, {**values, "seconds": round(seconds, 3)})
        if self._bar is None:
            return
        self._bar.advance()
        if seconds - self._noted > 0.5 or update == self._first + 1:
            rate = (update - self._first) / max(seconds - self._seconds, 1e-9)
            self._noted = seconds
            shown = f"loss {values['loss']:.4f}  lr {values['lr']:.1e}  rollout {values['rollout']:.0f}"
            self._bar.note(f"{shown}  {rate:.2f} updates/s")

    def validation(self, update: int, scores: dict[str, Any]) -> None:
        """Record one validation and say its score."""
        for sink in self.sinks:
            sink.validation(update, scores)
        score = scores["score"]
        console.print(f"update {update}: validation score {'not finite' if score is None else f'{score:.4f}'}")

    def sync(self) -> int:
        """Make what was recorded last; returns how many bytes the metrics have."""
        for sink in self.sinks:
            sink.sync()
        return sum(sink.size() for sink in self.sinks if isinstance(sink, Jsonl))


class Unwatched(Monitor):
    """The same of a process that writes nothing, since another one does."""

    def __init__(self, folder: Path, done: int = 0, kept: int = 0, seconds: float = 0.0, *rest: Any) -> None:
        self._seconds, self._began = seconds, time.monotonic()

    @contextmanager
    def running(self, total: int) -> Iterator[None]:
        """As of a monitor."""
        yield

    def update(self, update: int, values: Mapping[str, float]) -> None:
        """As of a monitor."""

    def validation(self, update: int, scores: dict[str, Any]) -> None:
        """As of a monitor."""

    def sync(self) -> int:
        """No bytes."""
        return 0


def _alone(folder: Path) -> int:
    """The folder, locked against other processes while it is open."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ForecastError(f"another process trains into {folder}: wait for it, or use another --out") from None
    return descriptor
