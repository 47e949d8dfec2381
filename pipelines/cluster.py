"""Step 3 on a dask.distributed cluster: what its workers need to know to compute a share of a run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from forecast.core.forecasts import Forecasts
from forecast.core.store import Store
from forecast.inference import cluster
from forecast.inference.system import LearntSystem
from forecast.inference.writer import ForecastWriter
from pipelines import systems


@dataclass(frozen=True)
class Recipe:
    """A learnt system, in words that travel: absolute paths and settings; workers see the same files.

    Attributes:
        checkpoint, out: the forecaster and its forecast store. analysis: the states to start from.
        changes: settings of the run's config.
    """

    checkpoint: Path
    out: Path
    analysis: Path | None
    changes: tuple[str, ...]

    def __call__(self, who: str) -> tuple[LearntSystem, ForecastWriter]:
        """The system, and the store open for writing by a worker of that name."""
        config = systems.trained_with(self.checkpoint, self.changes)
        store = Store.open(self.analysis) if self.analysis else systems.analyses(config)
        system, _ = systems.learnt(config, self.checkpoint, store)
        return system, ForecastWriter(self.out, Forecasts.open(self.out), who)


def options(
    address: str, checkpoint: Path, out: Path, analysis: Path | None, changes: tuple[str, ...]
) -> dict[str, Any]:
    """Arguments of `ensemble.generate` by which a cluster does the work; `address` as `cluster.compute`."""
    recipe = Recipe(checkpoint.resolve(), out.resolve(), analysis.resolve() if analysis else None, changes)
    return {"elsewhere": partial(cluster.compute, address, recipe)}
