"""Stopping in good order when asked: SIGTERM from a batch system, Ctrl-C from a person, the end of a job's time."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import numpy as np

WALL_TIME = "training.wall_time is near"
REASONS = ("", WALL_TIME, "SIGTERM", "SIGINT")
"""why to stop: not at all, or ..."""


class Stop:
    """What was asked: `signal` is empty, or the name of the signal that came."""

    signal: str = ""


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Within the block the first SIGTERM or SIGINT is only noted; a second one acts as usual.

    Outside the main thread, where Python takes no signals, nothing is caught.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def note(number: int, frame: FrameType | None) -> None:
        stop.signal = signal.Signals(number).name
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        restore()


class WallTime:
    """Says when to stop so that what is left of a job's time is enough for a checkpoint.

    Args:
        limit: of the job; None is no limit.
        began: when it began, as `time.time()`; that of this process' launch if absent.
    """

    def __init__(self, limit: np.timedelta64 | None, began: float | None = None) -> None:
        start = launched() if began is None else began
        self._end = np.inf if limit is None else start + float(limit / np.timedelta64(1, "s"))
        self._last: float | None = None
        self._longest = 0.0

    def reached(self, writing: float) -> str:
        """To be asked after each update: why to stop, if another one might be too much; else nothing.

        Another update, as long as the longest so far (with its validation and copying of tensors, but without the
        first, which compiles), and a checkpoint, which takes `writing` seconds, must fit, and a tenth more.
        """
        now = time.time()
        if self._last is not None:
            self._longest = max(self._longest, now - self._last)
        self._last = now
        return WALL_TIME if now + 1.1 * (self._longest + writing) + 1.0 > self._end else ""


def launched(environment: Mapping[str, str] | None = None, process: int | None = None) -> float:
    """When this run was launched, as `time.time()`: under torchrun its agent's start, which restarts don't change."""
    given = os.environ if environment is None else environment
    process = process or (os.getppid() if "TORCHELASTIC_RUN_ID" in given else os.getpid())
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        booted = next(x for x in Path("/proc/stat").read_text().splitlines() if x.startswith("btime"))
        return int(booted.split()[1]) + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, StopIteration):  # no Linux
        return time.time()


def restarted(environment: Mapping[str, str] | None = None) -> bool:
    """Whether torchrun has started this process again, because some process had failed."""
    given = os.environ if environment is None else environment
    return int(given.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
