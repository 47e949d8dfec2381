"""Do the pieces of a config fit each other and the store? Each refusal is a sentence that names the fix."""

from __future__ import annotations

import difflib

import numpy as np

from forecast.core import grids
from forecast.core.config import Config
from forecast.core.errors import ForecastError
from forecast.core.grids import Grid
from forecast.core.store import Store
from forecast.core.times import format_duration, format_time
from forecast.data.dataset import Dataset
from forecast.planet import model as planet
from forecast.training.curriculum import Curriculum


def expected_grid(config: Config) -> Grid | None:
    """The grid of a store that is not there yet, where the config tells it."""
    if config.store.grid is not None:
        return _named("store.grid", config.store.grid)
    wanted = getattr(config.source, "grid", None)
    if wanted is not None:
        return _named("source.grid", wanted)
    return planet.grid(config.source.truncation) if config.source.kind == "planet" else None


def check_periods(config: Config) -> None:
    """Rollouts against the length of their periods; forecasts against the training period."""
    for name in ("train", "validation"):
        first, last = getattr(config.data, name)
        steps, how = _longest(config, name)
        needed = (config.data.input_steps - 1 + steps) * config.data.step
        if last - first < needed:
            raise ForecastError(
                f"data.{name} spans {format_duration(last - first)}, but {how} of {steps} steps needs "
                f"{format_duration(needed)}: shorten the rollout, or lengthen the period"
            )
    starts = config.forecast.starts.times()
    overlap = (starts >= config.data.train[0]) & (starts <= config.data.train[1])
    if np.any(overlap):
        raise ForecastError(
            f"forecast.starts: {format_time(starts[overlap][0])} lies in the training period: start after data.train"
        )


def check_grids(config: Config, grid: Grid) -> None:
    """Mesh, window and coarse grid against the grid of the data."""
    model = config.model
    if model.kind != "graph_transformer":
        return
    if model.mesh is None:
        nodes = 10 * 4**model.mesh_refinement + 2
    else:
        nodes = grid.size if model.mesh == "data" else _named("model.mesh", model.mesh).size
    if nodes > grid.size and not model.mesh_region:
        key = "model.mesh_refinement" if model.mesh is None else "model.mesh"
        raise ForecastError(
            f"{key}: a mesh of {nodes:,} nodes is finer than the data on {grid.name} ({grid.size:,} points): "
            "take a coarser mesh"
        )
    if model.processor == "window" and model.window >= nodes:
        raise ForecastError(
            f"model.window={model.window} reaches beyond the {nodes:,} nodes of the mesh: lower it, or set "
            "model.processor to dense"
        )
    if model.residual is not None:
        coarse = _named("model.residual.grid", model.residual.grid)
        if coarse.size >= grid.size:
            raise ForecastError(
                f"model.residual.grid: {coarse.name} ({coarse.size:,} points) is no coarser than the data on "
                f"{grid.name} ({grid.size:,} points): take a coarser grid, or leave the residual out"
            )


def check_store(config: Config, store: Store) -> None:
    """Variables, grid, windows and starts against the archive."""
    for kind in ("prognostic", "diagnostic", "static"):
        for name in getattr(config.data, kind):
            if name not in store.variables:
                near = difflib.get_close_matches(name, store.variables, n=1, cutoff=0.0)[0]
                raise ForecastError(
                    f"data.{kind}: {store.path} holds no `{name}` (the nearest is `{near}`): leave it out, or ingest it"
                )
    if config.store.grid is not None and _named("store.grid", config.store.grid).name != store.grid.name:
        raise ForecastError(f"store.grid is {config.store.grid}, but {store.path} is on {store.grid.name}: correct it")
    for name in ("train", "validation"):
        steps, how = _longest(config, name)
        try:
            Dataset(config.data, getattr(config.data, name), store).windows(steps)
        except ForecastError as error:
            fix = "shorten the rollout, or choose another period"
            raise ForecastError(f"data.{name}, for {how} of {steps} steps: {error}: {fix}") from None
    starts = config.forecast.starts.times()
    outside = [format_time(s) for s in starts if not store.dates[0] <= s <= store.dates[-1]]
    if outside:
        span = f"{format_time(store.dates[0])}..{format_time(store.dates[-1])}"
        raise ForecastError(
            f"forecast.starts: {', '.join(outside[:3])} outside the archive {span}: choose starts within it"
        )


def _longest(config: Config, period: str) -> tuple[int, str]:
    if period == "train":
        return max(Curriculum(config.training.stages).rollouts()), "a rollout"
    return config.training.validation_steps, "a validation rollout"


def _named(key: str, name: str) -> Grid:
    try:
        return grids.named(name)
    except ForecastError as error:
        raise ForecastError(f"{key}: {error}") from None
