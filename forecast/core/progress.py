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

console = Console(stderr=True, soft_wrap=True)
stdout = Console(soft_wrap=True)


class Bar:
    """What long work holds: `advance(n)` and `note(text)` behind the bar."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def advance(self, n: float = 1) -> None:
        """`n` more units are done."""
        self._progress.advance(self._task, n)

    def at(self, done: float) -> None:
        """`done` units are done in all."""
        self._progress.update(self._task, completed=done)

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
    with Progress(*columns, console=console, transient=not console.is_terminal) as progress:
        yield Bar(progress, progress.add_task(description, total=total, note=""))
    if not console.is_terminal:
        console.print(f"{description}: {total:g} done in {time.monotonic() - began:.1f} s")
