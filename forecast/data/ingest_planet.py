"""The sample planet as an archive: its slabs are written while it simulates, truth and analyses in one go."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from forecast import __version__, planet
from forecast.core import variables
from forecast.core.archive_sections import PlanetSource
from forecast.core.config import Config
from forecast.core.progress import bar, console
from forecast.data.layout import Layout
from forecast.data.plan import announce, describe, provenance, storage, tendency_steps
from forecast.data.writer import StoreWriter, unfinished


def ingest_planet(config: Config, section: PlanetSource, dry: bool = False) -> list[Path]:
    """Truth and, where wanted, analyses, into a store each; see `ingest.ingest`."""
    layout = _planet_layout(config, section)
    console.print(describe(layout, config))
    if dry:
        return [config.path(config.store.path)]
    stores = [name for name in (config.store.path, config.store.analysis) if name is not None]
    writers = [StoreWriter(config.path(name), layout) for name in stores]
    todo = [set(writer.todo) for writer in writers]
    pending: deque[Future[None]] = deque()
    slabs = planet.archive(section, layout.dates_per_shard) if any(todo) else iter(())
    pool = ThreadPoolExecutor(config.store.workers)
    with unfinished(*writers), bar("Sample planet", len(layout.slabs)) as progress, pool:
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
        dates_per_shard=config.store.dates_per_shard or 64,
        tendencies=tendency_steps(config, frequency),
        period=config.data.train,
        provenance=provenance(config, {"planet": section.model_dump(mode="json"), "version": __version__}),
        **storage(config.store, planet.variables),
    )
