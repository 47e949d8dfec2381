"""What a store will hold, worked out and told before anything is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from forecast import __version__
from forecast.core.archive_sections import FileSource, StoreSection
from forecast.core.config import Config
from forecast.core.errors import ForecastError
from forecast.core.store import Store
from forecast.core.times import format_duration, format_time
from forecast.data.inspect import describe_missing
from forecast.data.layout import Layout
from forecast.data.sources.catalogue import Contents

DAY = np.timedelta64(86400, "s")
MOST_GAPS = 20
"""Steps of the time axis for each date that the source has, beyond a thousand: more is a mistake."""
WORK = 3.0
"""Memory of a worker in slabs: states as read and as written, what is compressed, blocks in double precision."""


def timeline(found: np.ndarray, frequency: np.timedelta64 | None) -> tuple[np.ndarray, np.timedelta64, np.ndarray]:
    """An even time axis through the dates of a source, its step, and which of its dates the source lacks.

    Args:
        found: (n,) datetime64[s], ascending. frequency: the step; the smallest distance of two dates if absent.

    Raises:
        ForecastError: a single date without a frequency; dates off the axis.
    """
    distances = np.diff(found)
    if frequency is None:
        if not distances.size:
            raise ForecastError(f"a single date, {format_time(found[0])}: give source.frequency (e.g. 6h)")
        frequency = distances.min()
        off = np.flatnonzero((found - found[0]) % frequency != np.timedelta64(0, "s"))
        if off.size:
            raise ForecastError(
                f"the dates have no common step: {format_time(found[off[0]])} is no multiple of "
                f"{format_duration(frequency)} from {format_time(found[0])}; give source.frequency"
            )
    span = int((found[-1] - found[0]) / frequency) + 1
    if span > MOST_GAPS * len(found) + 1000:
        raise ForecastError(
            f"{len(found)} dates from {format_time(found[0])} to {format_time(found[-1])} leave most of "
            f"{span:,} steps of {format_duration(frequency)} without a state: a damaged date, or the wrong frequency? "
            f"source.period leaves out what lies far off"
        )
    axis = np.arange(found[0], found[-1] + np.timedelta64(1, "s"), frequency)
    return axis, frequency, ~np.isin(axis, found)


def tendency_steps(config: Config, frequency: np.timedelta64) -> tuple[np.timedelta64, ...]:
    """Steps whose differences get statistics: the store's, the forecaster's and a day, where they are whole steps."""
    steps = (frequency, config.data.step.astype("timedelta64[s]"), DAY)
    return tuple(step for step in steps if step % frequency == np.timedelta64(0, "s"))


def storage(store: StoreSection, variables: tuple[str, ...]) -> dict[str, Any]:
    """What of a layout the section `store` says.

    Raises:
        ForecastError: a variable that the store does not hold.
    """
    bits = store.keep_bits if isinstance(store.keep_bits, dict) else dict.fromkeys(variables, store.keep_bits)
    climatology = variables if store.climatology == ("all",) else store.climatology
    for name in (*bits, *climatology):
        if name not in variables:
            raise ForecastError(f"store.keep_bits or store.climatology names {name}, which the store does not hold")
    return {
        "variables_per_chunk": store.variables_per_chunk,
        "points_per_chunk": store.points_per_chunk,
        "compression": store.compression,
        "level": store.level,
        "keep_bits": {name: n for name, n in bits.items() if n < 23},
        "climatology": climatology,
    }


def describe(layout: Layout, config: Config, contents: Contents | None = None) -> str:
    """What will be read and written, in a few lines, before anything is."""
    t, v, members, g = layout.shape
    size, slab = t * v * members * g * 4, min(t, layout.dates_per_shard) * v * members * g * 4
    lacking = int((~layout.present).sum())
    where = "threads" if config.store.scheduler == "threads" else "processes"
    who = (
        f"each of {config.store.workers} {where}" if "://" not in config.store.scheduler else "each thread of a worker"
    )
    lines = [
        f"{config.name}: {t} dates from {format_time(layout.dates[0])} to {format_time(layout.dates[-1])} every "
        f"{format_duration(layout.frequency)} ({lacking} missing), {v} variables, {members} member"
        f"{'s' if members > 1 else ''}, {g} points",
        f"{size / 1e6:,.0f} MB before compression in {len(layout.slabs)} shards, "
        f"{slab / 1e6:,.1f} MB a slab, about {WORK * slab / 1e6:,.0f} MB of memory for {who}",
    ]
    if contents is not None:
        known = [file["size"] for file in contents.files if "size" in file]
        sizes = f", {sum(known) / 1e6:,.1f} MB" if known else ""
        names = ", ".join(str(file["name"]) for file in contents.files[:3]) + (
            " ..." if len(contents.files) > 3 else ""
        )
        lines.insert(0, f"reads {len(contents.files)} file{'s' * (len(contents.files) > 1)}{sizes}: {names}")
        if isinstance(config.source, FileSource) and config.source.checksums is None:
            lines.insert(
                1, "not verified: a flipped bit of a value cannot be seen without source.checksums (sha256sum)"
            )
        chunk, shard = layout.chunking()
        lines.append(f"variables: {', '.join(layout.variables)}")
        lines.append(f"chunks of {' x '.join(map(str, chunk))}, shards of {' x '.join(map(str, shard))} "
                     f"(date, variable, member, point); {layout.compression} at level {layout.level}")  # fmt: skip
        lines += [f"bits kept: {name} {n}, relative error at most {2.0 ** -(n + 1):.1e}"
                  for name, n in layout.keep_bits.items()]  # fmt: skip
    return "\n".join(lines)


def announce(path: Path) -> str:
    """One line on a finished store, its missing dates in it."""
    store = Store.open(path)
    return f"{path}: {store.dates.size} dates; missing: {describe_missing(store)}"


def provenance(config: Config, source: dict[str, Any]) -> dict[str, Any]:
    """Attributes that say where a store comes from."""
    about = {"title": config.title or config.name, "made_by": f"forecast {__version__}", "source": source}
    return about | ({"verified_by": config.source.checksums} if isinstance(config.source, FileSource) else {})
