"""From a source to a finished store, slab by slab with Dask; killed at any moment, it goes on where it was."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
import numpy as np

from forecast import __version__, planet
from forecast.core import variables
from forecast.core.config import Config
from forecast.core.errors import ForecastError
from forecast.core.progress import bar, console
from forecast.core.sections import FileSource, PlanetSource
from forecast.core.store import Store
from forecast.core.times import format_duration, format_time
from forecast.data.inspect import describe_missing
from forecast.data.layout import Layout
from forecast.data.sources import Contents, Source, open_source
from forecast.data.writer import DiskError, StoreWriter

DAY = np.timedelta64(86400, "s")


def ingest(config: Config) -> list[Path]:
    """Write the source of `config` into its store, and the analyses into theirs where there are any.

    A store that is there already, from the same files and settings, is kept; an unfinished one is finished.

    Returns:
        The paths of the stores.

    Raises:
        ForecastError: bad input (nothing is left behind), no room on the disk (finished slabs are kept).
    """
    if isinstance(config.source, PlanetSource):
        return _from_planet(config, config.source)
    source = open_source(config.source)
    layout = plan(config, config.source, source.contents)
    console.print(describe(layout, config))
    writer = StoreWriter(config.path(config.store.path), layout)
    with _nothing_half_made(writer):
        _write_all(writer, lambda slab: _slab(source, layout, slab), config.store.workers)
        console.print(announce(writer.finish()))
    return [writer.path]


def plan(config: Config, section: FileSource, contents: Contents) -> Layout:
    """The layout of the store of a file source.

    Raises:
        ForecastError: dates without a common step; an analysis store, which files do not have.
    """
    if config.store.analysis is not None:
        raise ForecastError("store.analysis is for the sample planet: the truth of a real archive is its analysis")
    axis, frequency, missing = timeline(contents.dates, section.frequency)
    for name in contents.variables:
        _, hours = contents.metadata[name].get("period", (0, 0))
        if hours and np.timedelta64(hours, "h") != frequency:
            console.print(f"note: {name} covers {hours} h, the store's time step is {format_duration(frequency)}")
    return Layout(
        dates=axis,
        variables=contents.variables,
        metadata=contents.metadata,
        latitudes=contents.latitudes,
        longitudes=contents.longitudes,
        field_shape=contents.field_shape,
        frequency=frequency,
        missing=missing,
        constant=contents.constant,
        members=len(contents.members),
        dates_per_shard=config.store.dates_per_shard,
        tendencies=tendency_steps(config, frequency),
        period=config.data.train,
        allow_nan=config.store.allow_nan,
        provenance=_provenance(config, {"members": list(contents.members), "files": list(contents.files)}),
    )


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
    axis = np.arange(found[0], found[-1] + np.timedelta64(1, "s"), frequency)
    return axis, frequency, ~np.isin(axis, found)


def tendency_steps(config: Config, frequency: np.timedelta64) -> tuple[np.timedelta64, ...]:
    """Steps whose differences get statistics: the store's, the forecaster's and a day, where they are whole steps."""
    steps = (frequency, config.data.step.astype("timedelta64[s]"), DAY)
    return tuple(step for step in steps if step % frequency == np.timedelta64(0, "s"))


def describe(layout: Layout, config: Config) -> str:
    """What will be written, in a few lines, before anything is."""
    t, v, members, g = layout.shape
    size, slab = t * v * members * g * 4, min(t, layout.dates_per_shard) * v * members * g * 4
    lacking = int((~layout.present).sum())
    return (
        f"{config.name}: {t} dates from {format_time(layout.dates[0])} to {format_time(layout.dates[-1])} every "
        f"{format_duration(layout.frequency)} ({lacking} missing), {v} variables, {members} member"
        f"{'s' if members > 1 else ''}, {g} points\n"
        f"{size / 1e6:,.0f} MB before compression in {len(layout.slabs)} shards, "
        f"{slab / 1e6:,.1f} MB of memory for each of {config.store.workers} workers"
    )


def announce(path: Path) -> str:
    """One line on a finished store, its missing dates in it."""
    store = Store.open(path)
    return f"{path}: {store.dates.size} dates; missing: {describe_missing(store)}"


def _write_all(writer: StoreWriter, produce: Callable[[int], np.ndarray], workers: int) -> None:
    """Produce and write all slabs that are still to be written, several at a time."""

    def one(slab: int) -> None:
        states = produce(slab)
        writer.write(slab, states)
        progress.advance()

    todo = writer.todo
    with bar(f"Writing {writer.path.name}", len(todo)) as progress, ThreadPoolExecutor(workers) as pool:
        dask.compute(*(dask.delayed(one)(slab) for slab in todo), scheduler="threads", pool=pool)


@contextmanager
def _nothing_half_made(*writers: StoreWriter) -> Iterator[None]:
    """Bad input leaves nothing behind; a full disk or a kill leaves what was finished, to go on from."""
    try:
        yield
    except DiskError:
        raise
    except ForecastError:
        for writer in writers:
            writer.abandon()
        raise
    finally:
        for writer in writers:
            writer.close()


def _slab(source: Source, layout: Layout, slab: int) -> np.ndarray:
    """The states (t, V, members, G) of one slab, NaN at missing dates."""
    where = layout.slabs[slab]
    present = layout.present[where]
    states = np.full((len(present), *layout.shape[1:]), np.nan, np.float32)
    if present.any():
        states[present] = source.read(layout.dates[where][present])
    return states


def _from_planet(config: Config, section: PlanetSource) -> list[Path]:
    """Truth and, where wanted, analyses of the sample planet in one go: slabs are written while it simulates."""
    layout = _planet_layout(config, section)
    console.print(describe(layout, config))
    stores = [name for name in (config.store.path, config.store.analysis) if name is not None]
    writers = [StoreWriter(config.path(name), layout) for name in stores]
    todo = [set(writer.todo) for writer in writers]
    pending: deque[Future[None]] = deque()
    slabs = planet.archive(section, layout.dates_per_shard) if any(todo) else iter(())
    pool = ThreadPoolExecutor(config.store.workers)
    with _nothing_half_made(*writers), bar("Sample planet", len(layout.slabs)) as progress, pool:
        for k, (_, *kinds) in enumerate(slabs):
            for writer, left, states in zip(writers, todo, kinds, strict=False):
                if k in left:
                    pending.append(pool.submit(writer.write, k, states))
            while len(pending) > 2 * config.store.workers:
                pending.popleft().result()
            progress.advance()
        for future in pending:
            future.result()
        for writer in writers:
            writer.finish()
    for writer in writers:
        console.print(announce(writer.path))
    return [writer.path for writer in writers]


def _planet_layout(config: Config, section: PlanetSource) -> Layout:
    axis, missing = planet.dates(section)
    grid = planet.grid(section.truncation)
    frequency = axis[1] - axis[0]
    return Layout(
        dates=axis,
        variables=planet.variables,
        metadata={name: variables.metadata(name) for name in planet.variables},
        latitudes=grid.latitudes,
        longitudes=grid.longitudes,
        field_shape=grid.shape,
        frequency=frequency,
        missing=missing,
        dates_per_shard=config.store.dates_per_shard,
        tendencies=tendency_steps(config, frequency),
        period=config.data.train,
        provenance=_provenance(config, {"planet": section.model_dump(mode="json"), "version": __version__}),
    )


def _provenance(config: Config, source: dict[str, Any]) -> dict[str, Any]:
    return {"title": config.title or config.name, "made_by": f"forecast {__version__}", "source": source}
