"""Progress bars for long work: one look everywhere, a plain line where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

TELL = 30.0
"""Seconds between lines on long work, where there is no terminal."""
console = Console(stderr=True, soft_wrap=True)
stdout = Console(soft_wrap=True)


class Bar:
    """What long work holds: `advance(n)` and `note(text)` behind the bar."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task, self._began, self.size = progress, task, time.monotonic(), 0.0
        self._told = self._began

    def advance(self, n: float = 1) -> None:
        """`n` more units are done; where there is no terminal, a line now and then says how far it is."""
        self._progress.advance(self._task, n)
        now = time.monotonic()
        if not console.is_terminal and now - self._told > TELL:
            self._told, task = now, self._progress.tasks[0]
            left = (now - self._began) * ((task.total or 0) / max(task.completed, 1e-9) - 1)
            rate = f", {self.size / 1e6 / (now - self._began):,.1f} MB/s" if self.size else ""
            console.print(f"{task.description}: {task.completed:g} of {task.total:g}{rate}, {left / 60:,.1f} min left")

    def at(self, done: float) -> None:
        """`done` units are done in all."""
        self._progress.update(self._task, completed=done)

    def rate(self, size: float) -> None:
        """`size` bytes are done in all: shows how many a second."""
        self.size = size
        self.note(f"{size / 1e6 / max(time.monotonic() - self._began, 1e-3):,.1f} MB/s" if size else "")

    def note(self, text: str) -> None:
        """Replace the text behind the bar (loss, rate)."""
        self._progress.update(self._task, note=text)


@contextmanager
def bar(description: str, total: float) -> Iterator[Bar]:
    """A progress bar over `total` units; without a terminal only a closing line with the time taken."""
    began = time.monotonic()
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    shown = console.is_terminal  # otherwise a thread would draw ten bars a second that nobody sees
    with Progress(*columns, console=console, disable=not shown, refresh_per_second=4) as progress:
        held = Bar(progress, progress.add_task(description, total=total, note=""))
        yield held
    if not console.is_terminal:
        seconds = time.monotonic() - began
        rate = f", {held.size / 1e6 / max(seconds, 1e-3):,.1f} MB/s" if held.size else ""
        console.print(f"{description}: {total:g} done in {seconds:.1f} s{rate}")
