"""Step 3: the forecaster, and on the sample planet its physics, make ensembles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from forecast.core.config import Config
from forecast.inference import ensemble
from forecast.inference.share import Part
from pipelines import outputs, systems
from pipelines.scoring import Scoring, like_config


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
    along = like_config(scoring, config)
    starts, learnt = section.starts.times(), systems.learnt(config, config.path("training") / "best", analysis)
    learnt[0].check(starts)
    made: dict[str, tuple[ensemble.System, dict[str, Any]]] = {section.out: learnt}
    made |= {out: systems.physics(config, kind, analysis) for kind, out in section.physics.items()}
    what, batch = (starts, section.members, section.lead), section.member_batch
    outputs.check(config, ensemble.plan(learnt[0], *what, settings=learnt[1]), scoring is None or scoring.store)
    stores = [
        ensemble.generate(system, *what, config.path(out), batch, part, settings, **along)
        for out, (system, settings) in made.items()
    ]
    return stores + outputs.write_all(config, stores[0])
