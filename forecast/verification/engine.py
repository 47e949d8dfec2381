"""Fields in, sums out: one pass over every (start, lead), all forecasts side by side, on a few threads."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from forecast.core import seeding
from forecast.core.progress import bar
from forecast.verification.baselines import Climatology
from forecast.verification.matchup import Matchup
from forecast.verification.metric import Statistic
from forecast.verification.plan import Plan
from forecast.verification.regions import Regions
from forecast.verification.sources import Source
from forecast.verification.states import States
from forecast.verification.sums import Sums

Arrays = dict[str, tuple[np.ndarray, np.ndarray]]
DAY = np.timedelta64(86400, "s")
NanPolicy = Literal["propagate", "skip"]


@dataclass
class Engine:
    """Scores sources against the truth.

    Attributes:
        plan: which fields.
        truth: states on the same grid.
        sources: forecasts and baselines.
        climatology: gives the anomalies of ACC; None leaves ACC out.
        statistics: what is averaged.
        regions: over which areas.
        nan: `propagate`: a missing value within a field makes the scores of its regions NaN, so that it is seen;
            `skip`: points where the *truth* is missing (sst over land) do not count, for any statistic alike. Missing
            values in a forecast always propagate.
        Spectra are taken at whole days of lead time only.
        seed: of the lots that break ties of ranks.
    """

    plan: Plan
    truth: States
    sources: Sequence[Source]
    climatology: Climatology | None
    statistics: tuple[Statistic, ...]
    regions: Regions
    nan: NanPolicy = "propagate"
    seed: int = 0
    missing_truth: int = field(default=0, init=False)
    missing_forecast: dict[str, int] = field(default_factory=dict, init=False)

    def run(self, workers: int = 2) -> dict[str, Sums]:
        """Score everything; sums by label. The result does not depend on `workers` or order, to the last bit."""
        sums = {source.label: self._zeros(source) for source in self.sources}
        slots = {label: _arrays(s) for label, s in sums.items()}
        counts = []
        with bar("scoring", len(self.plan.cases)) as progress, ThreadPoolExecutor(workers) as pool:
            for count in pool.map(lambda case: self._score(case, slots), self.plan.cases):
                counts.append(count)
                progress.advance()
        self.missing_truth = sum(truth for truth, _ in counts)
        self.missing_forecast = {s.label: sum(by_label[s.label] for _, by_label in counts) for s in self.sources}
        return sums

    def _zeros(self, source: Source) -> Sums:
        columns = self.truth.store.grid.shape[-1]
        axes = {"rank": source.members + 1, "wavenumber": columns // 2 + 1}
        plan, regions = self.plan, self.regions.names
        about = {"label": source.label, "members": source.members}
        return Sums.zeros(self.statistics, axes, plan.variables, plan.starts, plan.leads, regions, **about)

    def _score(self, case: tuple[int, int], slots: dict[str, Arrays]) -> tuple[int, dict[str, int]]:
        """Fill the slots of one (start, lead); returns how many points lacked truth and forecast."""
        start, lead = self.plan.starts[case[0]], self.plan.leads[case[1]]
        truth = self.truth.get(start + lead)
        ensemble = self.climatology.read_all(start + lead) if self.climatology else None
        holes, lacking = 0, dict.fromkeys(slots, 0)
        for v, name in enumerate(self.plan.variables):
            holes += int(np.isnan(truth[v]).sum())
            climate = None if ensemble is None else ensemble[:, v].mean(axis=0, dtype=np.float64)
            tie_key = seeding.key(self.seed, f"rank {name}", start, int(lead.astype(np.int64)))
            for source in self.sources:
                own = source is self.climatology and ensemble is not None
                members = ensemble[:, v] if own and ensemble is not None else source.read(name, start, lead)
                matchup = Matchup(members, truth[v], climate, self.truth.store.grid.shape, tie_key)
                lacking[source.label] += int((np.isnan(matchup.mean_error) & ~np.isnan(truth[v])).sum())
                self._tally(matchup, slots[source.label], (v, *case))
        return holes, lacking

    def _tally(self, matchup: Matchup, arrays: Arrays, slot: tuple[int, int, int]) -> None:
        valid = ~np.isnan(matchup.truth) if self.nan == "skip" else None
        whole_day = self.plan.leads[slot[2]] % DAY == np.timedelta64(0)
        for rows in (False, True) if whole_day else (False,):
            chosen = [s for s in self.statistics if (s.requires == "rows") == rows]
            if not chosen:
                continue
            values = [np.atleast_2d(s.of(matchup)) for s in chosen]
            totals, weights = self.regions.means(np.concatenate(values), valid)
            parts = np.split(totals, np.cumsum([len(v) for v in values])[:-1], axis=1)
            for statistic, part in zip(chosen, parts, strict=True):
                total, weight = arrays[statistic.name]
                total[slot] += part if statistic.axis else part[:, 0]
                weight[slot] += weights


def _arrays(sums: Sums) -> Arrays:
    return {str(name): (sums.sum[name].values, sums.weight[name].values) for name in sums.sum}
