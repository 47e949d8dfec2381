"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from forecast.core.errors import ForecastError


@contextmanager
def draft(path: Path) -> Iterator[Path]:
    """A hidden name beside `path` to write to; it becomes `path` once all went well, and is removed if not.

    What a killed process left is removed by the next one that writes the same file on the same host.

    Raises:
        ForecastError: the folder cannot be written, no room on the disk.
    """
    mine = f".{path.name}.{socket.gethostname()}-"
    hidden = path.with_name(f"{mine}{os.getpid()}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f"{mine}*.part{path.suffix}"):
            if not _runs(left.name.removeprefix(mine).removesuffix(f".part{path.suffix}")):
                left.unlink(missing_ok=True)
        yield hidden
        hidden.replace(path)
    except OSError as error:
        raise ForecastError(f"{path}: cannot write: {error.strerror or error}") from None
    finally:
        with suppress(OSError):
            hidden.unlink(missing_ok=True)


def _runs(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (ValueError, PermissionError):
        pass
    return True
