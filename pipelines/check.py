"""Check: what a config will read, build, hold in memory and write, before anything runs."""

from __future__ import annotations

import torch
from rich.table import Table

from forecast.core.config import Config
from forecast.core.store import Store
from forecast.core.times import format_duration, format_time
from forecast.data.dataset import Dataset
from forecast.inference.batch import COPIES, fitting
from forecast.training import costs as counted
from forecast.training import estimate, fits
from forecast.training.curriculum import Curriculum
from pipelines.train import forecaster

GB = 1e9


def check(config: Config) -> Table:
    """A table of what the run amounts to; some needs the store, or at least `store.grid`.

    Raises:
        ForecastError: pieces that do not fit each other or the store.
    """
    table = Table("what", "how much", title=f"{config.name}: {config.title}", title_justify="left")
    path = config.path(config.store.path)
    fits.check_periods(config)
    _plan(table, config)
    store = Store.open(path) if path.exists() else None
    grid = fits.expected_grid(config) if store is None else store.grid
    if store is None:
        hint = ": run `forecast ingest`" + ("" if grid else " (or name its grid as store.grid) to see sizes")
        table.add_row("store", f"{path} is not there yet{hint}")
    if grid is None:
        return table
    fits.check_grids(config, grid)
    if store is not None:
        fits.check_store(config, store)
        windows = len(Dataset(config.data, config.data.train, store).windows(1))
        table.add_row("store", f"{path}: {len(store.dates)} dates, {store.missing.sum()} missing")
        epoch = windows // config.training.batch_size
        table.add_row("training windows", f"{windows}; an epoch is {epoch} updates")
    table.add_row("grid", f"{grid.name}, {grid.size:,} points")
    _sizes(table, config, grid.size)
    with counted.weightless():
        model = estimate.outline(config, grid) if store is None else forecaster(config, store)
    model.check_members(Curriculum(config.training.stages).members(config.training.members))
    for row in estimate.rows(config, model):
        table.add_row(*row)
    table.add_row("device", f"{config.training.device} ({torch.get_num_threads()} CPU threads)")
    return table


def _plan(table: Table, config: Config) -> None:
    data, training, forecast = config.data, config.training, config.forecast
    counts = {kind: len(getattr(data, kind)) for kind in ("prognostic", "diagnostic", "static", "forcings")}
    curriculum, starts = Curriculum(training.stages), forecast.starts.times()
    table.add_row("variables", ", ".join(f"{n} {kind}" for kind, n in counts.items()))
    table.add_row("forecaster's step", f"{format_duration(data.step)}, from {data.input_steps} states")
    table.add_row("updates", f"{curriculum.updates} of {training.batch_size} samples x {training.members} members")
    table.add_row("rollout in training", ", ".join(str(rollout) for rollout in sorted(set(curriculum.rollouts()))))
    steps = round(forecast.lead / data.step)
    table.add_row("ensemble", f"{forecast.members} members, {steps} steps to {format_duration(forecast.lead)}")
    table.add_row("starts", f"{len(starts)}, {format_time(starts[0])} to {format_time(starts[-1])}")


def _sizes(table: Table, config: Config, points: int) -> None:
    data, training, forecast = config.data, config.training, config.forecast
    state = 4 * points * (len(data.prognostic) + len(data.diagnostic))
    rollout, starts = max(Curriculum(training.stages).rollouts()), len(forecast.starts.times())
    batch = training.batch_size * (data.input_steps + rollout) * state
    together = forecast.member_batch or fitting(forecast.members, starts, state)
    written = starts * forecast.members * (round(forecast.lead / data.step) + 1) * state
    table.add_row("a batch of states", f"{batch / GB:.3f} GB, {data.prefetch} read ahead")
    table.add_row("a rollout's states", f"{together * COPIES * state / GB:.3f} GB for {together} members at once")
    table.add_row("forecast store", f"{written / GB:.2f} GB before compression")
