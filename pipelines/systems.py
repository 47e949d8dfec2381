"""What makes ensembles: the forecaster of a run, and on the sample planet its physics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from forecast.core import config as configs
from forecast.core.config import Config
from forecast.core.errors import ForecastError
from forecast.core.store import Store
from forecast.core.times import format_duration
from forecast.inference.system import LearntSystem, fingerprint
from forecast.planet.ensemble import PhysicsSystem
from pipelines import perturbations

Settings = dict[str, Any]
"""what the fields of a system depend on besides start, member and step"""


def analyses(config: Config) -> Store:
    """The states that forecasts start from: the analysis store, or the truth where there is none."""
    return Store.open(config.path(config.store.analysis or config.store.path))


def learnt(config: Config, checkpoint: Path, analysis: Store) -> tuple[LearntSystem, Settings]:
    """The forecaster in `checkpoint`, with the seed, perturbation and device of `config`."""
    system = LearntSystem(checkpoint, analysis, config.seed, None, config.training.device)
    system.perturb(perturbations.build(config, system))
    return system, system.settings | {"perturbation": perturbations.described(config.forecast.perturbation)}


def physics(config: Config, kind: str, analysis: Store) -> tuple[PhysicsSystem, Settings]:
    """The planet's own model with `perfect` or `imperfect` physics, from the forecaster's analyses.

    Its members differ by their initial states alone, so they are always perturbed.
    """
    truncation = perturbations.truncation(config, f"forecast.physics.{kind}")
    system = PhysicsSystem(analysis, kind, truncation, config.seed)
    about = {"analysis": fingerprint(analysis), "seed": config.seed, "perturbation": "analysis-error"}
    return system, about | {"block": system.block, "accumulation": format_duration(system.step)}


def trained_with(checkpoint: Path, settings: tuple[str, ...] = ()) -> Config:
    """The config of the training run that wrote `checkpoint`, with `settings` (`a.b=c`) on top.

    Raises:
        ForecastError: a folder that no training run wrote, or a setting that makes no sense.
    """
    try:
        raw = json.loads((checkpoint / "training.json").read_text())["config"]
    except (OSError, ValueError, KeyError):
        hint = "give one that training wrote, e.g. runs/demo/training/best"
        raise ForecastError(f"{checkpoint} is no checkpoint of a training run: {hint}") from None
    raw["root"] = str(checkpoint.resolve().parents[1])
    return configs.parse(raw, f"config of {checkpoint}", settings)
