"""Step 3: the forecaster, and on the sample planet its physics, make ensembles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from forecast.core.config import Config, adjusted
from forecast.core.sections import VerificationSection
from forecast.core.store import Store
from forecast.inference import ensemble
from forecast.inference.share import Part
from pipelines import cluster as clusters
from pipelines import outputs, systems
from pipelines.scoring import Scoring


def generate(config: Config, part: Part = (0, 1), scoring: Scoring | None = None) -> list[Path]:
    """Make the ensembles of `config`: the learnt one and, where asked for, those of the planet's physics.

    All start from the same analyses. A killed run goes on where it was.

    Args:
        config: the run; its store must have been ingested and its forecaster trained.
        part: (i, n), the i-th of n processes that share the work.
        scoring: scores while it forecasts, if given.

    Returns:
        The paths of the forecast stores, the learnt one first, and of the files of `forecast.outputs`.

    Raises:
        ForecastError: no checkpoint, starts without initial states, a store made with other settings, a full disk.
    """
    section, analysis = config.forecast, systems.analyses(config)
    along = scoring.of(_scored(config)).options if scoring else {}
    outputs.check(config, scoring is None or scoring.store)
    starts, learnt = section.starts.times(), systems.learnt(config, config.path("training") / "best", analysis)
    learnt[0].check(starts)
    made: dict[str, tuple[ensemble.System, dict[str, Any]]] = {section.out: learnt}
    made |= {out: systems.physics(config, kind, analysis) for kind, out in section.physics.items()}
    what, batch = (starts, section.members, section.lead), section.member_batch
    stores = [
        ensemble.generate(system, *what, config.path(out), batch, part, settings, **along)
        for out, (system, settings) in made.items()
    ]
    return stores + outputs.write_all(config, stores[0])


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
) -> Path:
    """Forecast with a checkpoint from any starts; what is not given is as in the run that trained it.

    Args:
        checkpoint: a folder that training wrote, e.g. `runs/demo/training/best`.
        starts: (S,) datetime64[s] (`inference.starts.parse_starts`).
        members, lead, out: how many, how far, and the forecast store.
        analysis: store of the states to start from; that of the training run if absent.
        changes: of the run's config, as `seed=2` or `forecast.perturbation=none`.
        part, scoring: as in `generate`. cluster: a dask scheduler, or how many local workers.

    Raises:
        ForecastError: as `generate`, or a checkpoint that no training run wrote.
    """
    config = systems.trained_with(checkpoint, changes)
    store = Store.open(analysis) if analysis else systems.analyses(config)
    learnt, settings = systems.learnt(config, checkpoint, store)
    learnt.check(starts)
    own = tuple(change for change in changes if change.startswith("verification."))
    section = adjusted(VerificationSection, "verification", own)
    batch, along = config.forecast.member_batch, scoring.of(section).options if scoring else {}
    along |= clusters.options(cluster, checkpoint, out, analysis, changes) if cluster else {}
    return ensemble.generate(learnt, starts, members, lead, out, batch, part, settings, **along)


def _scored(config: Config) -> VerificationSection:
    """How a config's forecasts are scored, as `forecast verify` on the config would."""
    section = config.verification
    return section.model_copy(update={"climatology": section.climatology or config.data.train})
