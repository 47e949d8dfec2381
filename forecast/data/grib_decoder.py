"""GRIB is decoded in processes of its own: a damaged message may crash eccodes or keep it busy, and only that process.

Run as a module, this file is such a process; `call` asks one, and starts as many as are asked at once.
"""

from __future__ import annotations

import atexit
import os
import queue
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from forecast.core.errors import ForecastError
from forecast.data.decoding import decoding

PATIENCE = 120.0
"""Seconds for a field, or for the headers of a file of 600 MB; longer for larger files."""
_RATE = 5e6


class _Process:
    """A process that decodes."""

    def __init__(self) -> None:
        here, there = os.pipe(), os.pipe()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        command = [sys.executable, "-m", __name__, str(here[0]), str(there[1])]
        self._process = subprocess.Popen(command, pass_fds=(here[0], there[1]), env=environment,
                                         stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        os.close(here[0])
        os.close(there[1])
        self._ask, self._answers = Connection(here[1], readable=False), Connection(there[0], writable=False)

    def call(self, what: str, path: Path, *rest: Any) -> Any:
        """The answer; the process is ended where there is none."""
        patience = max(PATIENCE, path.stat().st_size / _RATE)
        try:
            self._ask.send((what, path, *rest))
            if self._answers.poll(patience):
                return self._answers.recv()
        except (EOFError, OSError):
            self.end()
            raise ForecastError(f"{path} is damaged: eccodes crashed over it ({what} {_place(rest)})") from None
        self.end()
        raise ForecastError(f"{path} is damaged: eccodes did not get done with it in {patience:.0f} s ({what})")

    def end(self) -> None:
        """Stop it."""
        self._process.kill()
        self._process.wait()
        self._ask.close()
        self._answers.close()


_idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()


def call(what: str, path: Path, *rest: Any) -> Any:
    """`headers(path, rename)`, `points(path, offset)` or `field(path, offset, factor, constant)`, done elsewhere.

    Raises:
        ForecastError: as these do, and where they crash or do not end.
        OSError: the file cannot be read.
    """
    try:
        process = _idle.get_nowait()
    except queue.Empty:
        process = _Process()
    answer = process.call(what, path, *rest)
    _idle.put(process)
    if isinstance(answer, Exception):
        raise answer
    return answer


@atexit.register
def _end_all() -> None:
    while not _idle.empty():
        _idle.get_nowait().end()


def _place(rest: tuple[Any, ...]) -> str:
    return f"at byte {rest[0]}" if rest and isinstance(rest[0], int) else "of a message"


def points(path: Path, offset: int) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """Latitudes and longitudes (G,) in degrees of a message, and the shape of its field."""
    from forecast.data.grib_message import Message

    with decoding(f"{path} at byte {offset}"), path.open("rb") as handle, Message(handle, path, offset) as message:
        latitudes = message.get_array("latitudes")
        return latitudes, message.get_array("longitudes") % 360.0, message.shape(latitudes.size)


def field(path: Path, offset: int, factor: float, constant: float) -> tuple[str, np.ndarray]:
    """The grid's name and the values (G,) float32 of a message, times `factor` plus `constant`."""
    from forecast.data.grib_message import Message

    with decoding(f"{path} at byte {offset}"), path.open("rb") as handle, Message(handle, path, offset) as message:
        values, grid = message.values(), str(message.get("md5GridSection"))
        if (factor, constant) != (1.0, 0.0):
            values = values * factor + constant
        return grid, values.astype(np.float32)


def _serve(asked: Connection, answers: Connection) -> None:
    from forecast.data.grib_message import headers

    known = {"headers": lambda *args: list(headers(*args)), "points": points, "field": field}
    while True:
        try:
            what, *rest = asked.recv()
        except EOFError:
            return
        try:
            answers.send(known[what](*rest))  # type: ignore[operator]
        except (ForecastError, OSError) as error:
            answers.send(error)


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1]), writable=False), Connection(int(sys.argv[2]), readable=False))
