"""From a source to a finished store, slab by slab with Dask; killed at any moment, it goes on where it was."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from forecast.core.archive_sections import ArchiveSource, PlanetSource, StoreSection, shard_dates
from forecast.core.config import Config
from forecast.core.errors import ForecastError
from forecast.core.progress import console
from forecast.core.times import format_duration, format_time
from forecast.data.ingest_planet import ingest_planet
from forecast.data.layout import Layout
from forecast.data.plan import announce, describe, provenance, storage, tendency_steps, timeline
from forecast.data.sources import Contents, open_source
from forecast.data.tasks import BorderTask, ClimatologyTask, SlabTask, run
from forecast.data.writer import DiskError, StoreWriter, unfinished

Period = tuple[np.datetime64, np.datetime64]


def ingest(config: Config, update: bool = False, replace: Period | None = None, dry: bool = False) -> list[Path]:
    """Write the source of `config` into its store, and the analyses into theirs where there are any.

    A store that is there already, from the same files and settings, is kept; an unfinished one is finished.

    Args:
        update: bring a store that is there up to date: append dates, read again what has changed.
        replace: read these dates again in any case.
        dry: say what would be read and written, and write nothing.

    Returns:
        The paths of the stores.

    Raises:
        ForecastError: bad input, dates that cannot be read, no room on the disk; finished slabs are kept.
    """
    if isinstance(config.source, PlanetSource):
        if update or replace:
            raise ForecastError("the sample planet's store is made in one go: remove it to make another")
        return ingest_planet(config, config.source, dry)
    source = open_source(config.source)
    layout = plan(config, config.source, source.contents)
    stamps = [source.stamp(dates) if dates.size else "" for dates in _present(layout)]
    console.print(describe(layout, config, source.contents))
    path = config.path(config.store.path)
    if dry:
        return [path]
    writer = StoreWriter(path, layout, stamps, update or replace is not None, _touched(layout, replace))
    with unfinished(writer):
        if not writer.complete:
            accept = config.store.implausible == "accept"
            _work(writer, SlabTask(source, writer.slabs, writer.stamps, config.source, accept), config.store)
        console.print(announce(writer.finish()))
    return [writer.path]


def plan(config: Config, section: ArchiveSource, contents: Contents) -> Layout:
    """The layout of the store of an archive.

    Raises:
        ForecastError: dates without a common step; an analysis store, which archives do not have.
    """
    if config.store.analysis is not None:
        raise ForecastError("store.analysis is for the sample planet: the truth of a real archive is its analysis")
    axis, frequency, missing = timeline(contents.dates, section.frequency)
    for name in contents.variables:
        _, hours = contents.metadata[name].get("period", (0, 0))
        if hours and np.timedelta64(hours, "h") != frequency:
            console.print(f"note: {name} covers {hours} h, the store's time step is {format_duration(frequency)}")
    size = len(contents.variables) * len(contents.members) * len(contents.latitudes) * 4
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
        dates_per_shard=config.store.dates_per_shard or shard_dates(size),
        tendencies=tendency_steps(config, frequency),
        period=config.data.train,
        allow_nan=config.store.allow_nan,
        provenance=provenance(config, {"members": list(contents.members), "files": list(contents.files)}),
        **storage(config.store, contents.variables),
    )


def _work(writer: StoreWriter, task: SlabTask, store: StoreSection) -> None:
    """All slabs, then all borders between them, then the climatology."""
    outcomes = run(task, writer.todo, store, f"Writing {writer.path.name}")
    wrong = sorted((outcome for outcome in outcomes if outcome.fatal), key=lambda outcome: outcome.item)
    if wrong:
        raise ForecastError(wrong[0].problem + (f" (and {len(wrong) - 1} more slabs)" if len(wrong) > 1 else ""))
    if dates := sorted(date for outcome in outcomes for date in outcome.dates):
        listed = ", ".join(format_time(date) for date in dates[:12]) + (" ..." if len(dates) > 12 else "")
        first = min((outcome for outcome in outcomes if outcome.problem), key=lambda outcome: outcome.item)
        raise ForecastError(
            f"{len(dates)} date{'s' * (len(dates) > 1)} cannot be read ({listed}): {first.problem}; "
            f"all others are kept: mend the source and run again, or set source.unreadable to missing"
        )
    run(BorderTask(writer.slabs), writer.borders_todo, store, "Tendencies across slabs")
    run(ClimatologyTask(writer.slabs), writer.climatology_todo, store, "Climatology")


def _present(layout: Layout) -> list[np.ndarray]:
    """The dates of each slab that the source has."""
    return [layout.dates[where][layout.present[where]] for where in layout.slabs]


def _touched(layout: Layout, period: Period | None) -> Sequence[int]:
    """Slabs that hold a date of a period.

    Raises:
        ForecastError: none does.
    """
    if period is None:
        return ()
    inside = [(layout.dates[w] >= period[0]) & (layout.dates[w] <= period[1]) for w in layout.slabs]
    touched = [k for k, some in enumerate(inside) if some.any()]
    if not touched:
        first, last = (format_time(date) for date in period)
        raise ForecastError(f"--replace {first}..{last}: no date of the source lies there")
    return touched


__all__ = ["DiskError", "StoreWriter", "ingest", "plan", "timeline"]
