"""Files are decoded in processes of their own: a damaged one may crash eccodes or HDF5, or keep them busy for ever.

Run as a module, this file is such a process; `call` asks one, and starts as many as are asked at once.
"""

from __future__ import annotations

import atexit
import importlib
import os
import queue
import signal
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from forecast.core.errors import ForecastError

PATIENCE = 30.0
"""Seconds of CPU time for a field, or for the headers of a file of 150 MB; more for larger files."""
_RATE = 5e6
_KNOWN = ("grib.headers", "grib.points", "grib.field", "netcdf.describe", "netcdf.values")


class _Process:
    """A process that decodes."""

    def __init__(self) -> None:
        here, there = os.pipe(), os.pipe()
        paths = os.pathsep.join(path for path in sys.path if path)
        # a reader that locks its files would keep others from writing them anew
        environment = {**os.environ, "PYTHONPATH": paths, "HDF5_USE_FILE_LOCKING": "FALSE"}
        command = [sys.executable, "-P", "-m", __name__, str(here[0]), str(there[1])]
        self._process = subprocess.Popen(command, pass_fds=(here[0], there[1]), env=environment,
                                         stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        os.close(here[0])
        os.close(there[1])
        self._ask, self._answers = Connection(here[1], readable=False), Connection(there[0], writable=False)

    def call(self, what: str, path: Path, rest: tuple[Any, ...]) -> Any:
        """The answer; the process has ended where there is none."""
        patience = max(PATIENCE, path.stat().st_size / _RATE)
        try:
            self._ask.send((patience, os.getcwd(), what, path, *rest))
            return self._answers.recv()
        except (EOFError, OSError):
            self.end()
        place = f" at byte {rest[0]}" if rest and isinstance(rest[0], int) else ""
        raise ForecastError(f"{path}{place} {_reason(self._process.returncode, what, patience)}")

    def end(self) -> None:
        """Stop it, if it has not ended."""
        self._ask.close()
        self._answers.close()
        try:
            self._process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _reason(code: int, what: str, patience: float) -> str:
    library = "eccodes" if what.startswith("grib") else "the NetCDF library"
    if code == -signal.SIGPROF:
        return f"is damaged: {library} is not done with it after {patience:.0f} s of CPU time"
    if code == -signal.SIGKILL:
        return "cannot be decoded: the process that did was killed, out of memory?"
    if code < 0:
        return f"is damaged: {library} crashed over it ({signal.Signals(-code).name})"
    return f"cannot be decoded: the process that does ended with exit code {code}"


_idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()


def call(what: str, path: Path, *rest: Any) -> Any:
    """What a function of `decoders.grib` or `decoders.netcdf` returns for a file (`grib.field`), called elsewhere.

    Raises:
        ForecastError: as these do, and where they crash or do not end.
        OSError: the file cannot be read.
    """
    try:
        process = _idle.get_nowait()
    except queue.Empty:
        process = _Process()
    answer = process.call(what, path, rest)
    _idle.put(process)
    if isinstance(answer, Exception):
        raise answer
    return answer


@atexit.register
def _end_all() -> None:
    while not _idle.empty():
        _idle.get_nowait().end()


def _forget() -> None:
    """A forked process shares no decoder with its parent."""
    global _idle
    _idle = queue.SimpleQueue()


os.register_at_fork(after_in_child=_forget)


def _serve(asked: Connection, answers: Connection) -> None:
    """Answer until nobody asks; what takes too long is ended by the system, which no library can hold up."""
    while True:
        try:
            patience, folder, what, *rest = asked.recv()
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_PROF, patience)
        try:
            assert what in _KNOWN
            os.chdir(folder)
            kind, _, function = what.partition(".")
            answer = getattr(importlib.import_module(f"forecast.data.decoders.{kind}"), function)(*rest)
        except (ForecastError, OSError) as error:
            answer = error
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.send(answer)


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1]), writable=False), Connection(int(sys.argv[2]), readable=False))
