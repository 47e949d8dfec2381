"""A population of runs in turns: train each for a while, give up the worst for varied copies of the best, go on."""

from __future__ import annotations

from pathlib import Path

from forecast.core.config import Config
from forecast.core.errors import ForecastError
from forecast.core.technique_sections import Population
from forecast.training.curriculum import Curriculum
from forecast.training.techniques.exchange import exchange
from pipelines.train import train


def population(config: Config) -> Path:
    """Train the runs of `training.techniques: [{name: population, ...}]` under `<root>/run-<i>`; goes on if stopped.

    Returns:
        `population.json`: of every exchange the scores, which run became which, and the values of each after it.

    Raises:
        ForecastError: no such technique; as of `train`.
    """
    section = next((s for s in config.training.techniques if isinstance(s, Population)), None)
    if section is None:
        raise ForecastError("training.techniques: name `population` there to train one")
    updates, log = Curriculum(config.training.stages).updates, Path(config.root) / "population.json"
    runs = [_member(config, section, i) for i in range(section.runs)]
    for number, until in enumerate(range(section.every, updates + section.every, section.every)):
        folders = [train(run, resume=True, until=min(until, updates)) for run in runs]
        if until < updates:
            exchange(config.seed, section, folders, number, log)
    return log


def _member(config: Config, section: Population, i: int) -> Config:
    """Run i: as the config, in a folder of its own; the stores stay where they are."""
    others = tuple(s for s in config.training.techniques if s is not section)
    mine = (section.model_copy(update={"run": i}), *others)
    stores = {"path": config.store.path, "analysis": config.store.analysis}
    paths = {key: str(config.path(value).resolve()) for key, value in stores.items() if value}
    changes = {
        "root": str(Path(config.root) / f"run-{i}"),
        "store": config.store.model_copy(update=paths),
        "training": config.training.model_copy(update={"techniques": mine}),
    }
    return config.model_copy(update=changes)
