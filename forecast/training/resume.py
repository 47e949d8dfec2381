"""Beginning from what is there: the same run's checkpoint, or another run's weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from forecast.core.config import Config, parse
from forecast.core.errors import ForecastError
from forecast.core.progress import console
from forecast.core.times import format_duration
from forecast.models.forecaster import Forecaster
from forecast.models.serialise import load_forecaster, read_side_car
from forecast.training.curriculum import Curriculum
from forecast.training.sharded import laid_out

_SECTIONS = ("seed", "data", "model", "loss", "training")
_HARMLESS = {
    "data.prefetch",
    "data.workers",
    "model.activation_checkpointing",
    "training.accumulate",
    "training.checkpoint_every",
    "training.compile",
    "training.device",
    "training.keep.every",
    "training.keep.last",
    "training.mesh.data",
    "training.mesh.ensemble",
    "training.mesh.grid",
    "training.mesh.parameters",
    "training.monitors",
    "training.stages",  # compared update by update
    "training.start_from",
    "training.validate_every",
    "training.wall_time",
}


def plain(config: Config) -> dict[str, Any]:
    """The config as plain JSON data, times and durations as text; `core.config.parse` reads it."""
    return json.loads(json.dumps(config.model_dump(), default=_text))


def _text(value: Any) -> str:
    return format_duration(value) if isinstance(value, np.timedelta64) else str(value)


def check_unchanged(config: Config, saved: dict[str, Any], done: int) -> None:
    """Make sure that a run may go on from a checkpoint after `done` updates, which `saved`, its config, led to.

    Stages may change where they have not been reached, so a run can be made longer. Keys that are newer than the
    checkpoint count as having had their defaults.

    Raises:
        ForecastError: names the keys that differ, with both values.
    """
    previous = parse(saved, where="the config of the checkpoint")
    old, new = flat(plain(previous)), flat(plain(config))
    keys = [key for key in sorted(old.keys() | new.keys()) if key not in _HARMLESS and old.get(key) != new.get(key)]
    differing = [f"{key} (was {old.get(key)}, now {new.get(key)})" for key in keys]
    before, after = Curriculum(previous.training.stages), Curriculum(config.training.stages)
    if after.updates < done or any(before.at(i) != after.at(i) for i in range(done)):
        differing.append(f"training.stages (within the {done} updates already made)")
    if differing:
        raise ForecastError(
            f"can't resume, the config has changed: {'; '.join(differing)}; change it back, or use --out"
        )


def check_fields(model: Forecaster, folder: Path) -> None:
    """Make sure that a checkpoint was made from the same store.

    Raises:
        ForecastError: the statistics or the grid differ.
    """
    saved = read_side_car(folder)["fields"]
    if saved != json.loads(json.dumps(model.fields.to_json())):
        raise ForecastError(f"can't resume from {folder}: the store has changed (other statistics or grid) since then")


@torch.no_grad()
def take_over(model: Forecaster, folder: str) -> None:
    """Start from another run's averaged weights: parameters of equal name and shape; says which are left fresh.

    Raises:
        ForecastError: no checkpoint there, or nothing in it fits.
    """
    weights = load_forecaster(folder).state_dict()
    fresh = []
    for name, parameter in model.named_parameters():
        if name in weights and weights[name].shape == parameter.shape:
            parameter.copy_(laid_out(weights[name], parameter))
        else:
            fresh.append(name)
    total = sum(1 for _ in model.parameters())
    if len(fresh) == total:
        raise ForecastError(f"training.start_from: no parameter of {folder} fits this model; make their sections alike")
    left = f"; left fresh: {', '.join(fresh)}" if fresh else ""
    console.print(f"took over {total - len(fresh)} of {total} parameters from {folder}{left}")


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{a: {b: 1}} as {a.b: 1}, of the sections that decide what is trained."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if not prefix and key not in _SECTIONS:
            continue
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found
