"""Reads a whole store and verifies what it reads: checksums, files, gaps."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import zarr

from forecast.core.errors import ForecastError
from forecast.core.progress import bar
from forecast.core.store import Store
from forecast.core.times import format_time


def verify(path: str | Path, threads: int = 2) -> str:
    """Read every chunk of a store's states, and all its small arrays.

    Checks checksums, that each date holds a state or is listed as missing, and that the statistics are finite.

    Returns:
        A line that says what was found to be right.

    Raises:
        ForecastError: a forecast store; damage, naming the files or dates (those of the first few shards).
    """
    path = Path(path)
    if not (path / "data").exists():
        raise ForecastError(f"{path} is no store of states: --check is for those")
    store = Store.open(path)
    what = [store.select(member=member) for member in range(store.ensemble)]
    problems: list[str] = []

    def check(time: int) -> None:
        state = np.empty(what[0].shape, np.float32)
        try:
            empty = True
            for member in what:
                store.fill(time, member, state)
                empty &= bool(np.isnan(state).all())
            if empty != store.missing[time]:
                said = "is listed as missing but holds a state" if store.missing[time] else "is empty but not missing"
                problems.append(f"{format_time(store.dates[time])} {said}")
        except ForecastError as error:
            problems.append(str(error))
        progress.advance()

    with bar(f"Checking {path.name}", store.dates.size) as progress, ThreadPoolExecutor(threads) as pool:
        list(pool.map(check, range(store.dates.size)))
    problems += _small_arrays(path)
    if problems:
        listed = "; ".join(list(dict.fromkeys(problems))[:5])
        raise ForecastError(f"{path}: {len(problems)} problems: {listed}")
    codecs = str(cast(Any, zarr.open_group(path, mode="r")["data"]).metadata.to_dict().get("codecs", ""))
    how = (
        "checksums match"
        if "'crc32c'" in codecs.split("index_codecs")[0]
        else "all chunks decode (made without checksums)"
    )
    return f"{path}: {store.dates.size} dates of {store.ensemble} member(s) read, {how}, gaps are as listed"


def _small_arrays(path: Path) -> list[str]:
    """What is wrong with the arrays beside the states."""
    problems = []
    group = zarr.open_group(path, mode="r")
    for name, array in group.arrays():
        if name == "data":
            continue
        try:
            values = np.asarray(cast(Any, array)[...])
        except Exception as error:  # whatever a damaged file makes zarr raise
            problems.append(f"{path / name} cannot be read ({' '.join(str(error).split()) or type(error).__name__})")
            continue
        if values.dtype.kind == "f" and not np.isfinite(values).all() and name in ("latitudes", "longitudes"):
            problems.append(f"{path / name} holds values that are not finite")
    return problems
