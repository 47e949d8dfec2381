"""What is costly to make and follows from its inputs alone (graphs, regridding weights), kept on disk by content.

A file's name is a hash of all that the arrays follow from, so that nothing stale is ever read. Files are plain .npz
(never pickles), written aside and renamed: several processes may fill one folder, and a torn or foreign file is made
anew. The folder is FORECAST_CACHE, else XDG_CACHE_HOME/forecast, else ~/.cache/forecast; it may be deleted any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from forecast.core.progress import console

Arrays = dict[str, np.ndarray]


def folder() -> Path:
    """Where the files lie."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("FORECAST_CACHE") or Path(base) / "forecast").expanduser()


def arrays(kind: str, key: Mapping[str, Any], make: Callable[[], Arrays]) -> Arrays:
    """The arrays that `make` gives, read if they were made before.

    Args:
        kind: begins the file's name, e.g. `regrid`.
        key: all that the arrays follow from: arrays by their bytes, all else as JSON; with the version of the code.
    """
    path = folder() / f"{kind}-{digest(key)}.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        made = make()
    try:
        _write(path, made)
    except OSError as error:
        console.print(f"not kept for next time ({error}): set FORECAST_CACHE to a folder that can be written")
    return made


def digest(key: Mapping[str, Any]) -> str:
    """32 hexadecimal digits that follow from a key's content."""
    total = hashlib.sha256()
    for name in sorted(key):
        value = key[name]
        if isinstance(value, np.ndarray):
            text = json.dumps([name, str(value.dtype), value.shape])
            total.update(text.encode() + np.ascontiguousarray(value).tobytes())
        else:
            total.update(json.dumps([name, value], sort_keys=True).encode())
    return total.hexdigest()[:32]


def _write(path: Path, made: Arrays) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            np.savez(file, allow_pickle=False, **made)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
