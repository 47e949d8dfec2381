"""Stopping in good order when asked: SIGTERM from a batch system, Ctrl-C from a person."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


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
