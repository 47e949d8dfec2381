"""What is to be scored, as plain values, and the engine that it makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from forecast.core.errors import ForecastError
from forecast.core.grids import Grid
from forecast.core.store import Store
from forecast.core.times import format_duration, format_time
from forecast.verification.adapt import SummedForecast, SummedTruth, common_periods, on_grid, one_and_a_half
from forecast.verification.baselines import Climatology, Persistence, Ridge
from forecast.verification.engine import Engine
from forecast.verification.foreign import open_forecast, open_truth
from forecast.verification.limits import DEFAULT, Events
from forecast.verification.metric import Metric
from forecast.verification.naming import Names
from forecast.verification.plan import Plan, common_variables, left_out, make_plan
from forecast.verification.plausible import look
from forecast.verification.regions import Regions
from forecast.verification.results import slug
from forecast.verification.scorer import NanPolicy, Scorer
from forecast.verification.scores import named
from forecast.verification.sources import Source, StoredForecast
from forecast.verification.states import States

Period = tuple[np.datetime64, np.datetime64]
BASELINES = ("persistence", "climatology", "ridge regression")
BASELINE = Literal["persistence", "climatology"]
DAY = np.timedelta64(86400, "s")


@dataclass(frozen=True)
class Job:
    """What is to be scored, and how. Every forecast is scored on the same variables, starts and leads.

    Attributes:
        forecasts: label -> forecast store; the first one is the one in question.
        truth: store to verify against.
        analysis: store whose states persistence (and ridge regression) start from; the truth if absent.
        climatology: period of the climatological ensemble and of ridge regression's training; if absent, the years
            of the truth in which no verified date lies.
        window: members of climatology lie within this of the calendar day. climatology_members: at most so many.
        variables, leads, regions: what to score; all in common, all above 0, and the usual ones if absent.
        scores: names of scores (docs/verification.md), `pointwise` for the cheap ones; all if absent.
        events: see `limits.Event`. baselines: what else is scored.
        seasons: also average over the starts of each season. spans: of lead time to average over, `week 1=1d..7d`.
        draws: resampled series of starts behind bands and p-values; 0 leaves significance out.
        grid: `truth`: forecasts on other grids are brought to the truth's; `1.5`: all to 1.5 degrees; `same`: refuse.
        names: what dimensions and variables are called in files of others. accumulation: variable -> period that sums
            are compared over; the longest of all if absent.
        ridge: also fit ridge regression (small regional grids).
        nan: see `Scorer`. seed: of the lots that break ties of ranks.
    """

    forecasts: Mapping[str, str | Path]
    truth: str | Path
    analysis: str | Path | None = None
    climatology: Period | None = None
    window: np.timedelta64 = field(default_factory=lambda: 5 * DAY)
    climatology_members: int = 50
    variables: Sequence[str] | None = None
    leads: Sequence[np.timedelta64] | None = None
    regions: Sequence[str] | None = None
    scores: Sequence[str] | None = None
    events: Sequence[str] | None = None
    baselines: Sequence[BASELINE] = ("persistence", "climatology")
    seasons: bool = False
    spans: Sequence[str] = ()
    draws: int = 1000
    grid: Literal["truth", "1.5", "same"] = "truth"
    names: Names = field(default_factory=Names)
    accumulation: Mapping[str, str] = field(default_factory=dict)
    ridge: bool = False
    nan: NanPolicy = "propagate"
    seed: int = 0

    def engine(self, ahead: bool = False) -> Engine:
        """Open all stores and plan what is compared; `ahead` of forecasts that are still being made.

        Raises:
            ForecastError: nothing in common, names that clash, unknown regions, other grids or units.
        """
        stored, store, grid = self._opened(ahead)
        names = common_variables(stored, store, self.variables)
        states = States(store, names)
        analyses = states
        if self.analysis:
            analyses = States(self._on(grid, open_truth(self.analysis, self._truth_names)), names)
        plan = make_plan(stored, states, analyses, self.leads)
        plan = plan.with_notes(*left_out(stored, store, plan, self.variables, self.leads))
        period = self.climatology or _other_years(store, plan)
        metrics = named(self.scores)
        climate, note = self._climatology(states, period, plan) if self._needs_climate(metrics) else (None, ())
        plan = plan.with_notes(*note, *(() if ahead else look(stored, states, plan)))
        baselines = {"persistence": Persistence(analyses)} | ({"climatology": climate} if climate else {})
        sources: list[Source] = [*stored, *(source for name, source in baselines.items() if name in self.baselines)]
        sources += [_ridge(analyses, period, plan)] if self.ridge else []
        scorer = Scorer(
            store.grid, metrics, Regions(store.grid, self.regions, _land(store)),
            Events(DEFAULT if self.events is None else self.events, climate=climate is not None),
            climate=climate is not None, initial=True, nan=self.nan, seed=self.seed,
        )  # fmt: skip
        return Engine(plan, states, analyses, sources, climate, scorer)

    def _needs_climate(self, metrics: Sequence[Metric]) -> bool:
        """Whether the climatological ensemble is a baseline, or a score asks for it or for its percentiles."""
        needs = {need for metric in metrics for statistic in metric.statistics for need in statistic.needs}
        return "climatology" in self.baselines or bool(needs & {"climate", "events", "categories"})

    @property
    def _truth_names(self) -> Names:
        """The mapping without the roles that only a forecast has."""
        return Names({r: n for r, n in self.names.roles.items() if r == "valid"}, self.names.fields)

    @staticmethod
    def _on(grid: Grid | None, store: Any) -> Any:
        return store if grid is None else on_grid(store, grid)

    def _opened(self, ahead: bool) -> tuple[list[StoredForecast], Any, Grid | None]:
        """Forecasts and truth on one grid, summed over the same periods; and the grid, if one was chosen."""
        opened: dict[str, Any] = {
            label: open_forecast(path, self.names) for label, path in _labelled(self.forecasts).items()
        }
        if ahead:
            opened = {label: replace(store, units=np.ones_like(store.units)) for label, store in opened.items()}
        truth: Any = open_truth(self.truth, self._truth_names)
        periods = common_periods(truth, list(opened.values()), self.accumulation)
        opened = {label: SummedForecast(store, periods) for label, store in opened.items()}
        truth = SummedTruth(truth, periods)
        grid = {"same": None, "truth": truth.grid, "1.5": one_and_a_half()}[self.grid]
        stored = [StoredForecast(label, self._on(grid, store)) for label, store in opened.items()]
        return stored, self._on(grid, truth), grid

    def _climatology(
        self, states: States, period: Period | None, plan: Plan
    ) -> tuple[Climatology | None, tuple[str, ...]]:
        """The climatological ensemble, or why there is none."""
        try:
            if period is None:
                raise ForecastError(
                    f"no climatological ensemble: {states.store.path} holds no year without verified dates"
                )
            return Climatology(states, period, self.window, plan.valid_times, self.climatology_members), ()
        except ForecastError as error:
            return None, (
                f"{str(error)[0].upper()}{str(error)[1:]}; scores that need it are left out, ACC among them.",
            )


def describe(plan: Plan, sources: Sequence[Source]) -> str:
    """What is about to be scored, one sentence."""
    sizes = ", ".join(f"{s.label} ({s.members})" for s in sources)
    return (
        f"Scoring {len(plan.variables)} variables, {len(plan.starts)} starts {format_time(plan.starts[0])} to "
        f"{format_time(plan.starts[-1])}, {len(plan.leads)} leads {format_duration(plan.leads[0])} to "
        f"{format_duration(plan.leads[-1])}; forecasts (members): {sizes}"
    )


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


def _ridge(analyses: States, period: Period | None, plan: Plan) -> Ridge:
    if period is None:
        raise ForecastError("ridge regression needs a training period: give verification.climatology")
    return Ridge(analyses, period, plan.leads)


def _land(store: Store) -> np.ndarray | None:
    return store.read(0, ["lsm"])[0, 0] if "lsm" in store.variables else None
