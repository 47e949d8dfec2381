"""What can be watched while training runs: a progress line, metrics.jsonl, curves.png, TensorBoard if installed."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any

from forecast.core.errors import ForecastError
from forecast.core.progress import Bar, bar, console
from forecast.training.curves import plot

METRICS = "metrics.jsonl"
_DRAW_EVERY = 20.0  # seconds; a drawing takes half of one


class Monitor:
    """Writes the metrics of one run into `folder`.

    `metrics.jsonl` has a line per update (`update`, counted from 1, `loss`, its terms, `lr`, `rollout`,
    `gradient_norm`, `seconds` of training so far) and one per validation (`update`, `validation`).

    Args:
        folder: the training folder.
        done: updates already made; `kept` bytes of metrics belong to them, the rest is cut off.
        kept: see `done`.
        seconds: time already spent training.

    Raises:
        ForecastError: another process trains into this folder.
    """

    def __init__(self, folder: Path, done: int = 0, kept: int = 0, seconds: float = 0.0) -> None:
        self.folder, self._first, self._seconds = folder, done, seconds
        folder.mkdir(parents=True, exist_ok=True)
        self._file = _open_alone(folder / METRICS, kept)
        self._board = _tensorboard(folder / "tensorboard", done)
        self._bar: Bar | None = None
        self._noted = self._drawn = 0.0
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds spent training, over all its runs."""
        return self._seconds + time.monotonic() - self._began

    @contextmanager
    def running(self, total: int) -> Iterator[None]:
        """The progress line over `total` updates; the last curves are drawn at its end."""
        with bar("training", total) as self._bar, closing(self):
            self._bar.advance(self._first)
            try:
                yield
            finally:
                self.draw()

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()

    def update(self, update: int, values: dict[str, float]) -> None:
        """Record one update."""
        seconds = self.seconds
        self._write({"update": update, **values, "seconds": round(seconds, 3)})
        self._scalars(update, {f"training/{name}": value for name, value in values.items()})
        if self._bar is None:
            return
        self._bar.advance()
        if seconds - self._noted > 0.5 or update == self._first + 1:
            rate = (update - self._first) / max(seconds - self._seconds, 1e-9)
            self._noted = seconds
            shown = f"loss {values['loss']:.4f}  lr {values['lr']:.1e}  rollout {values['rollout']:.0f}"
            self._bar.note(f"{shown}  {rate:.2f} updates/s")

    def validation(self, update: int, scores: dict[str, Any]) -> None:
        """Record one validation, say its score and draw the curves, if they are not fresh."""
        self._write({"update": update, "validation": scores})
        score = scores["score"]
        self._scalars(update, {"validation/score": score})
        for name, by_variable in scores.items():
            if isinstance(by_variable, dict):
                self._scalars(update, {f"{name}/{variable}": leads[0] for variable, leads in by_variable.items()})
        console.print(f"update {update}: validation score {'not finite' if score is None else f'{score:.4f}'}")
        if self.seconds - self._drawn > _DRAW_EVERY:
            self.draw()

    def sync(self) -> int:
        """Flush the metrics to disk; returns how many bytes they have."""
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def draw(self) -> None:
        """Draw `curves.png` from the metrics so far."""
        try:
            plot(self.folder / METRICS, self.folder / "curves.png")
        except OSError as error:  # no reason to stop training
            console.print(f"curves not drawn: {error.strerror}")
        self._drawn = self.seconds

    def _write(self, line: dict[str, Any]) -> None:
        try:
            self._file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise ForecastError(
                f"can't write {self.folder / METRICS}: {error.strerror}; make room and resume"
            ) from error

    def _scalars(self, update: int, values: Mapping[str, float | None]) -> None:
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, float("nan") if value is None else value, update)


class Unwatched(Monitor):
    """The same of a process that writes nothing, since another one does."""

    def __init__(self, folder: Path, done: int = 0, kept: int = 0, seconds: float = 0.0) -> None:
        self._seconds, self._began = seconds, time.monotonic()

    @contextmanager
    def running(self, total: int) -> Iterator[None]:
        """As of a monitor."""
        yield

    def update(self, update: int, values: dict[str, float]) -> None:
        """As of a monitor."""

    def validation(self, update: int, scores: dict[str, Any]) -> None:
        """As of a monitor."""

    def sync(self) -> int:
        """No bytes."""
        return 0


def _open_alone(path: Path, kept: int) -> IO[bytes]:
    """The file for appending after its first `kept` bytes, locked against other processes while it is open."""
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ForecastError(f"another process trains into {path.parent}: wait for it, or use another --out") from None
    file.truncate(min(kept, os.fstat(file.fileno()).st_size))
    return file


def _tensorboard(folder: Path, done: int) -> Any:
    """A writer of TensorBoard's event files, or None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=done + 1 if done else None)
