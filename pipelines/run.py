"""Step 3 with a checkpoint: forecasts from any starts, with any number of members, to any lead time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from forecast.core.store import Store
from forecast.inference import ensemble
from forecast.inference.share import Part
from pipelines import cluster as clusters
from pipelines import outputs, systems
from pipelines.scoring import Scoring, like_settings


def run(
    checkpoint: Path,
    starts: np.ndarray,
    members: int,
    lead: np.timedelta64,
    out: Path,
    analysis: Path | None = None,
    part: Part = (0, 1),
    changes: tuple[str, ...] = (),
    scoring: Scoring | None = None,
    cluster: str | None = None,
) -> list[Path]:
    """Forecast with a checkpoint from any starts; what is not given is as in the run that trained it.

    Args:
        checkpoint: a folder that training wrote, e.g. `runs/demo/training/best`.
        starts: (S,) datetime64[s] (`inference.starts.parse_starts`).
        members, lead, out: how many, how far, and the forecast store.
        analysis: store of the states to start from; that of the training run if absent.
        changes: of the run's config, as `seed=2` or `forecast.perturbation=none`.
        part, scoring: as in `generate`. cluster: a dask scheduler, or how many local workers.

    Returns:
        The path of the forecast store, and of the files of `forecast.outputs` beside it.

    Raises:
        ForecastError: as `generate`, or a checkpoint that no training run wrote.
    """
    config = systems.trained_with(checkpoint, changes)
    store = Store.open(analysis) if analysis else systems.analyses(config)
    learnt, settings = systems.learnt(config, checkpoint, store)
    learnt.check(starts)
    planned = ensemble.plan(learnt, starts, members, lead, settings=settings)
    outputs.check(config, planned, scoring is None or scoring.store)
    along = like_settings(scoring, changes)
    along |= clusters.options(cluster, checkpoint, out, analysis, changes) if cluster else {}
    batch = config.forecast.member_batch
    made = ensemble.generate(learnt, starts, members, lead, out, batch, part, settings, **along)
    return [made, *outputs.write_all(config, made)]
