"""`score`: forecast stores and a truth in, a folder of scores out."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import forecast
from forecast.core.errors import ForecastError
from forecast.core.progress import stdout
from forecast.core.times import format_time
from forecast.verification.averages import parse_span
from forecast.verification.case import save_case, save_notable
from forecast.verification.engine import Engine
from forecast.verification.fields import save_fields
from forecast.verification.job import DAY, Job, describe
from forecast.verification.parts import Parts
from forecast.verification.results import Extra, Scores, write_scores
from forecast.verification.significance import Settings
from forecast.verification.sources import StoredForecast
from forecast.verification.spread import spread
from forecast.verification.sums import Sums


def score(
    forecasts: Mapping[str, str | Path],
    truth: str | Path,
    out: str | Path,
    *,
    workers: int = 2,
    scheduler: str = "threads",
    title: str = "",
    **options: Any,
) -> Scores:
    """Score forecasts and baselines side by side and write the folder of scores.

    What is left out is printed and kept. A run that was killed goes on where it was (`parts`).

    Args:
        forecasts, truth, options: see `Job`.
        out: folder to write, replaced once all is done.
        workers: how many, of `scheduler`: threads, processes, or the address of a dask cluster (see `spread`).
        title: of the report.

    Raises:
        ForecastError: nothing in common, names that clash, unknown regions, other grids or units.
    """
    job = Job(forecasts, truth, **options)
    engine = job.engine()
    stdout.print("\n".join([describe(engine.plan, engine.sources), *engine.plan.notes]), highlight=False)
    check_folder(out := Path(out))
    parts = Parts(out.with_name(out.name + ".unfinished"), f"{job} {engine.plan.described}")
    scores = finish(job, engine, spread(job, engine, workers, scheduler, parts), out, title)
    parts.remove()
    return scores


def finish(
    job: Job, engine: Engine, sums: dict[str, Sums], out: Path, title: str = "", case: Path | None = None
) -> Scores:
    """Write the folder of scores; `case` is its file of fields, if that was saved before."""
    return _write(out, {"title": title, **_summary(job, engine)}, sums, engine, job, case)


def check_folder(out: Path) -> None:
    """Make sure that `out` is free, or a folder of scores that may be replaced.

    Raises:
        ForecastError: something else is there.
    """
    if out.exists() and not (out / "summary.json").is_file():
        raise ForecastError(f"{out} exists and is no folder of scores: give another --out")


def _summary(job: Job, engine: Engine) -> dict[str, Any]:
    plan, truth, scorer, climate = engine.plan, engine.truth.store, engine.scorer, engine.climatology
    stored = [source for source in engine.sources if isinstance(source, StoredForecast)]
    return {
        "version": forecast.__version__,
        "forecasts": {f.label: str(f.store.path) for f in stored},
        "settings": {f.label: f.store.settings for f in stored},
        "truth": str(truth.path),
        "analysis": str(engine.analyses.store.path),
        "grid": truth.grid.name,
        "points": truth.grid.size,
        "members": {s.label: s.members for s in engine.sources},
        "variables": list(plan.variables),
        "units": {name: truth.units[name] for name in plan.variables},
        "starts": [format_time(start) for start in plan.starts],
        "lead_hours": [float(lead / np.timedelta64(1, "h")) for lead in plan.leads],
        "regions": list(scorer.regions.names),
        "events": list(scorer.events.labels),
        "cases": int(plan.scored.sum()),
        "cases_skipped": int((~plan.scored).sum()),
        "nan_policy": scorer.nan,
        "nan_points_truth": engine.missing_truth,
        "nan_points_forecast": engine.missing_forecast,
        "fields_left_out": engine.missing_fields,
        "climatology": [format_time(when) for when in climate.period] if climate else None,
        "climatology_window_days": float(job.window / DAY),
        "notes": list(plan.notes),
    }


def _write(
    out: Path, summary: dict[str, Any], sums: dict[str, Sums], engine: Engine, job: Job, case: Path | None
) -> Scores:
    """All files under a working name, then the folder in its place; only a folder of scores is replaced."""
    check_folder(out)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        spans = dict(parse_span(text) for text in job.spans)
        extra = Extra(job.seasons, spans, Settings(draws=job.draws, seed=job.seed) if job.draws else None)
        written = write_scores(partial, summary, sums, engine.scorer.metrics, extra)
        if case:
            shutil.copy(case, partial / "case.nc")
        else:
            save_case(partial / "case.nc", engine.sources[0], engine.truth, engine.plan, around=5 * DAY)
            save_notable(partial / "cases", engine, sums, around=5 * DAY)
            save_fields(partial / "fields.nc", engine)
        if out.exists():
            shutil.rmtree(out)
        partial.rename(out)
    except OSError as error:
        raise ForecastError(f"{out}: the scores cannot be written: {error.strerror}") from None
    return Scores(out, written.summary, written.sums, written.metrics)
