"""`score`: forecast stores and a truth in, a folder of scores out."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import forecast
from forecast.core.errors import ForecastError
from forecast.core.forecasts import Forecasts
from forecast.core.progress import stdout
from forecast.core.store import Store
from forecast.core.times import format_duration, format_time
from forecast.verification.baselines import Climatology, Persistence, Ridge
from forecast.verification.case import save_case
from forecast.verification.engine import Engine
from forecast.verification.limits import DEFAULT, Events
from forecast.verification.metric import Metric
from forecast.verification.plan import Plan, common_variables, make_plan
from forecast.verification.regions import Regions
from forecast.verification.results import Scores, slug, write_scores
from forecast.verification.scorer import NanPolicy, Scorer
from forecast.verification.scores import named
from forecast.verification.sources import Source, StoredForecast
from forecast.verification.states import States
from forecast.verification.sums import Sums

Period = tuple[np.datetime64, np.datetime64]
BASELINES = ("persistence", "climatology", "ridge regression")
DAY = np.timedelta64(86400, "s")


def score(
    forecasts: Mapping[str, str | Path],
    truth: str | Path,
    out: str | Path,
    *,
    analysis: str | Path | None = None,
    climatology: Period | None = None,
    window: np.timedelta64 = 5 * DAY,
    climatology_members: int = 50,
    variables: Sequence[str] | None = None,
    leads: Sequence[np.timedelta64] | None = None,
    regions: Sequence[str] | None = None,
    scores: Sequence[str] | None = None,
    events: Sequence[str] | None = None,
    ridge: bool = False,
    nan: NanPolicy = "propagate",
    seed: int = 0,
    workers: int = 2,
    title: str = "",
) -> Scores:
    """Score forecasts and baselines side by side and write the folder of scores.

    Every forecast is scored on the same variables, starts and leads; what is left out is printed and kept.

    Args:
        forecasts: label -> forecast store; the first one is the one in question.
        truth: store to verify against. out: folder to write, replaced once all is done.
        analysis: store whose states persistence (and ridge regression) start from; the truth if absent.
        climatology: period of the climatological ensemble and of ridge regression's training; if absent, the years
            of the truth in which no verified date lies.
        window: members of climatology lie within this of the calendar day.
        climatology_members: at most so many.
        variables, leads, regions: what to score; all in common, all above 0, and the usual ones if absent.
        scores: names of scores (docs/verification.md); all if absent. events: see `limits.Event`.
        ridge: also fit ridge regression (small regional grids).
        nan: see `Scorer`. seed: of the lots that break ties of ranks. workers: threads.
        title: of the report.

    Raises:
        ForecastError: nothing in common, names that clash, unknown regions, other grids or units.
    """
    stored = [StoredForecast(label, Forecasts.open(path)) for label, path in _labelled(forecasts).items()]
    store = Store.open(truth)
    names = common_variables(stored, store, variables)
    states = States(store, names)
    analyses = States(Store.open(analysis), names) if analysis else states
    plan = make_plan(stored, states, analyses, leads)
    notes = list(plan.notes)
    period = climatology or _other_years(store, plan)
    climate = _climatology(states, period, window, plan, climatology_members, notes)
    sources: list[Source] = [*stored, Persistence(analyses), *([climate] if climate else [])]
    sources += [_ridge(analyses, period, plan)] if ridge else []
    known = Events(DEFAULT if events is None else events, climate=climate is not None)
    scorer = Scorer(
        store.grid, named(scores), Regions(store.grid, regions, _land(store)), known,
        climate=climate is not None, initial=True, nan=nan, seed=seed,
    )  # fmt: skip
    engine = Engine(plan, states, analyses, sources, climate, scorer)
    stdout.print("\n".join([_describe(plan, sources), *notes]), highlight=False)
    sums = engine.run(workers)
    summary = {"title": title, "version": forecast.__version__, **_inputs(stored, store, analyses.store)}
    summary |= _settings(engine) | {
        "climatology": [format_time(when) for when in period] if climate and period else None,
        "climatology_window_days": float(window / DAY),
        "notes": notes,
    }
    return _write(Path(out), summary, sums, scorer.metrics, stored[0], states, plan)


def _land(store: Store) -> np.ndarray | None:
    return store.read(0, ["lsm"])[0, 0] if "lsm" in store.variables else None


def _inputs(stored: Sequence[StoredForecast], truth: Store, analysis: Store) -> dict[str, Any]:
    return {
        "forecasts": {f.label: str(f.store.path) for f in stored},
        "settings": {f.label: f.store.settings for f in stored},
        "truth": str(truth.path),
        "analysis": str(analysis.path),
        "grid": truth.grid.name,
        "points": truth.grid.size,
    }


def _settings(engine: Engine) -> dict[str, Any]:
    plan, units = engine.plan, engine.truth.store.units
    return {
        "members": {s.label: s.members for s in engine.sources},
        "variables": list(plan.variables),
        "units": {name: units[name] for name in plan.variables},
        "starts": [format_time(start) for start in plan.starts],
        "lead_hours": [float(lead / np.timedelta64(1, "h")) for lead in plan.leads],
        "regions": list(engine.scorer.regions.names),
        "events": list(engine.scorer.events.labels),
        "cases": int(plan.scored.sum()),
        "cases_skipped": int((~plan.scored).sum()),
        "nan_policy": engine.scorer.nan,
        "nan_points_truth": engine.missing_truth,
        "nan_points_forecast": engine.missing_forecast,
    }


def _write(
    out: Path,
    summary: dict[str, Any],
    sums: dict[str, Sums],
    metrics: Sequence[Metric],
    first: Source,
    truth: States,
    plan: Plan,
) -> Scores:
    """All files under a working name, then the folder in its place; only a folder of scores is replaced."""
    if out.exists() and not (out / "summary.json").is_file():
        raise ForecastError(f"{out} exists and is no folder of scores: give another --out")
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        written = write_scores(partial, summary, sums, metrics)
        save_case(partial / "case.nc", first, truth, plan, around=5 * DAY)
        if out.exists():
            shutil.rmtree(out)
        partial.rename(out)
    except OSError as error:
        raise ForecastError(f"{out}: the scores cannot be written: {error.strerror}") from None
    return Scores(out, written.summary, written.sums, written.metrics)


def _labelled(forecasts: Mapping[str, str | Path]) -> Mapping[str, str | Path]:
    if not forecasts:
        raise ForecastError("no forecast to score: give at least one forecast store")
    names = [slug(label) for label in (*forecasts, *BASELINES)]
    for name in names:
        if names.count(name) > 1:
            taken = ", ".join(BASELINES)
            raise ForecastError(f"two forecasts are called `{name}`: labels must differ, and not be {taken}")
    return forecasts


def _other_years(store: Store, plan: Plan) -> Period | None:
    """The years of the truth before the first, or else after the last, verified date."""
    before = store.dates[store.dates < plan.starts.min().astype("datetime64[Y]")]
    after = store.dates[store.dates >= plan.valid_times.max().astype("datetime64[Y]") + 1]
    years = before if before.size else after
    return (years[0], years[-1]) if years.size else None


def _climatology(
    states: States, period: Period | None, window: np.timedelta64, plan: Plan, most: int, notes: list[str]
) -> Climatology | None:
    try:
        if period is None:
            raise ForecastError(f"no climatological ensemble: {states.store.path} holds no year without verified dates")
        return Climatology(states, period, window, plan.valid_times, most)
    except ForecastError as error:
        notes.append(f"{str(error)[0].upper()}{str(error)[1:]}; ACC is left out with it.")
        return None


def _ridge(analyses: States, period: Period | None, plan: Plan) -> Ridge:
    if period is None:
        raise ForecastError("ridge regression needs a training period: give verification.climatology")
    return Ridge(analyses, period, plan.leads)


def _describe(plan: Plan, sources: Sequence[Source]) -> str:
    sizes = ", ".join(f"{s.label} ({s.members})" for s in sources)
    return (
        f"Scoring {len(plan.variables)} variables, {len(plan.starts)} starts {format_time(plan.starts[0])} to "
        f"{format_time(plan.starts[-1])}, {len(plan.leads)} leads {format_duration(plan.leads[0])} to "
        f"{format_duration(plan.leads[-1])}; forecasts (members): {sizes}"
    )
