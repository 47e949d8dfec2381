"""Check: what a config will read, build, hold in memory and write, before anything runs."""

from __future__ import annotations

import numpy as np
import torch
from rich.table import Table

from forecast.core.config import Config
from forecast.core.errors import ForecastError
from forecast.core.store import Store
from forecast.core.times import format_duration, format_time
from forecast.data.dataset import Dataset
from forecast.inference.batch import COPIES, fitting
from forecast.training.curriculum import Curriculum
from pipelines.train import forecaster

GB = 1e9


def check(config: Config) -> Table:
    """A table of what the run amounts to; what needs the store is told once it has been ingested.

    Raises:
        ForecastError: pieces that do not fit each other or the store.
    """
    table = Table("what", "how much", title=f"{config.name}: {config.title}", title_justify="left")
    data, training, forecast = config.data, config.training, config.forecast
    counts = {kind: len(getattr(data, kind)) for kind in ("prognostic", "diagnostic", "static", "forcings")}
    curriculum = Curriculum(training.stages)
    table.add_row("variables", ", ".join(f"{n} {kind}" for kind, n in counts.items()))
    table.add_row("forecaster's step", f"{format_duration(data.step)}, from {data.input_steps} states")
    table.add_row("updates", f"{curriculum.updates} of {training.batch_size} samples x {training.members} members")
    table.add_row("rollout in training", ", ".join(str(rollout) for rollout in sorted(set(curriculum.rollouts()))))
    starts = forecast.starts.times()
    steps = round(forecast.lead / data.step)
    table.add_row("ensemble", f"{forecast.members} members, {steps} steps to {format_duration(forecast.lead)}")
    table.add_row("starts", f"{len(starts)}, {format_time(starts[0])} to {format_time(starts[-1])}")
    path = config.path(config.store.path)
    if not path.exists():
        table.add_row("store", f"{path}: not there yet, run `forecast ingest` for sizes")
        return table
    store = Store.open(path)
    windows = Dataset(data, data.train, store).windows(1)
    _check_fits(config, store)
    field = 4 * store.grid.size
    model = forecaster(config, store)
    model.check_members(curriculum.members(training.members))
    parameters = sum(p.numel() for p in model.parameters())
    size = 4 * parameters / 1e6
    table.add_row("store", f"{path}: {len(store.dates)} dates, {store.missing.sum()} missing, {store.grid.name}")
    table.add_row("training windows", f"{len(windows)}; an epoch is {len(windows) // training.batch_size} updates")
    table.add_row("parameters", f"{parameters:,} ({size:.1f} MB; {5 * size:.1f} MB with gradients, AdamW and average)")
    state = field * (counts["prognostic"] + counts["diagnostic"])
    batch = training.batch_size * (data.input_steps + max(curriculum.rollouts())) * state
    table.add_row("a batch of states", f"{batch / GB:.3f} GB, {config.data.prefetch} read ahead")
    together = forecast.member_batch or fitting(forecast.members, len(starts), state)
    held = together * COPIES * state
    written = len(starts) * forecast.members * (steps + 1) * state
    table.add_row("a rollout's states", f"{held / GB:.3f} GB for {together} members at once")
    table.add_row("forecast store", f"{written / GB:.2f} GB before compression")
    table.add_row("device", f"{training.device} ({torch.get_num_threads()} CPU threads)")
    return table


def _check_fits(config: Config, store: Store) -> None:
    """Starts, leads and rollout against the archive."""
    longest = max(Curriculum(config.training.stages).rollouts())
    for name, period in (("train", config.data.train), ("validation", config.data.validation)):
        steps = longest if name == "train" else config.training.validation_steps
        if not len(Dataset(config.data, period, store).windows(steps)):
            raise ForecastError(f"data.{name}: no gapless window of {steps} steps in it; shorten the rollout")
    starts = config.forecast.starts.times()
    outside = [format_time(s) for s in starts if not store.dates[0] <= s <= store.dates[-1]]
    if outside:
        span = f"{format_time(store.dates[0])}..{format_time(store.dates[-1])}"
        raise ForecastError(f"forecast.starts: {', '.join(outside[:3])} outside the archive {span}")
    overlap = (starts >= config.data.train[0]) & (starts <= config.data.train[1])
    if np.any(overlap):
        raise ForecastError(f"forecast.starts: {format_time(starts[overlap][0])} lies in the training period")
