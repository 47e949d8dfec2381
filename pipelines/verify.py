"""Step 4: forecasts and baselines are scored against the truth, and shown in one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from forecast.core.config import Config
from forecast.report.page import write_report
from forecast.verification.checks import skill_checks, write_checks
from forecast.verification.results import Scores
from forecast.verification.score import score
from pipelines.scoring import options, section_of


def verify(config: Config) -> tuple[Scores, Path]:
    """Score the learnt ensemble and, where there are any, the physics ensembles; write the report.

    The first state of a forecast is an analysis, and so is what persistence keeps; all are scored against the truth.

    Returns:
        The scores and the report.

    Raises:
        ForecastError: stores that are not there, or that have nothing in common.
    """
    section = section_of(config)
    scores = score(
        {"learnt": config.path(config.forecast.out)}
        | {kind: config.path(path) for kind, path in config.forecast.physics.items()},
        config.path(config.store.path),
        config.path(section.out),
        analysis=config.path(config.store.analysis) if config.store.analysis else None,
        **options(section),
        seed=config.seed,
        title=config.title or config.name,
    )
    write_checks(scores, skill_checks(scores, "learnt", rival="imperfect"))
    return scores, write_report(scores.path, config.path(section.report))


def labels(paths: Sequence[Path]) -> dict[str, Path]:
    """A label a forecast store: its name, with the folder's in front where names repeat."""
    stems = [path.stem for path in paths]
    return {
        stem if stems.count(stem) == 1 else f"{path.resolve().parent.name}/{stem}": path
        for stem, path in zip(stems, paths, strict=True)
    }
