"""What a forecaster costs on a GPU: rows of `forecast check`."""

from __future__ import annotations

import numpy as np

from forecast.core.config import Config
from forecast.core.grids import Grid
from forecast.core.times import format_duration
from forecast.models.base import Forecaster
from forecast.models.fields import Fields
from forecast.models.forecaster import build
from forecast.training import costs
from forecast.training.curriculum import Curriculum

GPUS = {"A100": (312e12, 19.5e12), "H100": (989e12, 67e12)}
"""operations a second of dense bfloat16 and of float32 (the makers' figures)"""
REACHED = 0.4
"""of which a network of wide matrices reaches so much"""
GB = 1e9
PLACEHOLDER = {"mean": 0.0, "stdev": 1.0, "minimum": 0.0, "maximum": 1.0, "tendency_stdev": 1.0}


def outline(config: Config, grid: Grid) -> Forecaster:
    """The forecaster of a store that is not there yet, its parameters without memory; its numbers mean nothing."""
    data = config.data
    names = (*data.prognostic, *data.diagnostic, *data.static)
    fields = Fields(
        prognostic=data.prognostic, diagnostic=data.diagnostic, static=data.static, forcings=data.forcings,
        latitudes=grid.latitudes, longitudes=grid.longitudes, areas=grid.areas,
        statistics=dict.fromkeys(names, PLACEHOLDER), normalisation=data.normalisation, masked=data.masked,
        step=int(data.step / np.timedelta64(1, "s")), input_steps=data.input_steps,
    )  # fmt: skip
    with costs.weightless():
        return build(config.model, fields, config.loss)


def rows(config: Config, model: Forecaster) -> list[tuple[str, str]]:
    """What, and how much: parameters, a forecast step, a member, and an update of every stage."""
    parameters = sum(p.numel() for p in model.parameters())
    states = 4 + (config.training.ema > 0)  # weights, gradients, two moments, average
    held = 4 * states * parameters + sum(b.nbytes for b in model.buffers())
    what = "weights, gradients, AdamW" + (", average" if states == 5 else "")
    return [
        ("parameters", f"{parameters:,}: {4 * parameters / GB:.3g} GB, {held / GB:.3g} GB with {what}, graph"),
        *_forecast(config, model),
        *_training(config, model, held),
    ]


def _forecast(config: Config, model: Forecaster) -> list[tuple[str, str]]:
    cost = costs.step(model, 1, config.training.precision)
    steps = round(config.forecast.lead / config.data.step)
    half = config.training.precision != "float32"
    speeds = (f"{_seconds(steps * cost.operations, gpu, half)} on an {gpu}" for gpu in GPUS)
    written = 4 * len(model.fields.variables) * model.fields.grid_size * (steps + 1)
    weights = 4 * sum(p.numel() for p in model.parameters())
    kind = "bfloat16" if half else "float32"
    return [
        ("a forecast step", f"{_scaled(cost.operations)}FLOP a member, {(weights + cost.memory) / GB:.3g} GB"),
        (
            f"a member to {format_duration(config.forecast.lead)}",
            f"{steps} steps, {_scaled(steps * cost.operations)}FLOP: {' or '.join(speeds)} "
            f"(at {REACHED:.0%} of its {kind} peak); writes {written / GB:.3g} GB before compression",
        ),
    ]


def _seconds(operations: float, gpu: str, half: bool) -> str:
    return f"{operations / (REACHED * GPUS[gpu][0 if half else 1]):.2g} s"


def _training(config: Config, model: Forecaster, held: float) -> list[tuple[str, str]]:
    """A row for each stage and its longest rollout; a GPU holds one sample with all its members."""
    training = config.training
    rollouts = [max(Curriculum([stage]).rollouts()) for stage in training.stages]
    members = [stage.members or training.members for stage in training.stages]
    plain = _without_checkpointing(model)
    known = {m: costs.update(model, 1, m, rollouts, training.precision) for m in set(members)}
    dearer = {m: costs.update(plain, 1, m, rollouts, training.precision) for m in set(members)} if plain else known
    found = []
    for s, (rollout, m) in enumerate(zip(rollouts, members, strict=True)):
        cost, without = known[m][s], dearer[m][s]
        text = f"{_scaled(cost.operations * training.batch_size)}FLOP an update; "
        text += f"a GPU with 1 sample x {m} members holds {(held + cost.memory) / GB:.3g} GB"
        if plain:
            text += f", without activation checkpointing {(held + without.memory) / GB:.3g} GB"
        found.append((f"stage {s + 1}, rollout {rollout}", text))
    return found


def _without_checkpointing(model: Forecaster) -> Forecaster | None:
    """The same forecaster, which keeps all for its gradient; None if it does so already."""
    section = model.section
    if getattr(section, "activation_checkpointing", "none") == "none":
        return None
    with costs.weightless():
        return build(section.model_copy(update={"activation_checkpointing": "none"}), model.fields, model.loss)


def _scaled(operations: float) -> str:
    """With a unit's prefix: 1.63 P."""
    size, prefix = next((unit for unit in ((1e15, "P"), (1e12, "T")) if operations >= unit[0]), (1e9, "G"))
    return f"{operations / size:.3g} {prefix}"
