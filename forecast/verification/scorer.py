"""`Scorer`: one matched field in, its statistics added to the sums.

This is all that verification does with fields. `forecast verify` feeds it from stores; a rollout can feed it step by
step and write no field at all:

    scorer = Scorer(grid, climate=True)
    sums = scorer.zeros("mine", members=50, variables=("z_500",), starts=starts, leads=leads)
    for start, lead, variable, members, truth, climate in ...:      # (M, G), (G,), Climate((C, G)) or None
        scorer.add(sums, variable, start, lead, members, truth, climate)
    sums.save(path)

Slots of different variables, starts and leads may be filled from several threads or processes, in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from forecast.core import seeding
from forecast.core.grids import Grid
from forecast.verification import ensemble, neighbourhood, scales
from forecast.verification.climate import Climate
from forecast.verification.limits import Events
from forecast.verification.matchup import Limits, Matchup
from forecast.verification.metric import Metric, Statistic
from forecast.verification.regions import Regions
from forecast.verification.scores import METRICS, possible, statistics_of
from forecast.verification.sums import Sums

DAY = np.timedelta64(86400, "s")
NanPolicy = Literal["propagate", "skip"]


class Missing(NamedTuple):
    """How many points of a field lack truth, how many lack the forecast where there is truth, and whether the field
    is left out (1) because the whole of the truth or of a member is missing."""

    truth: int
    forecast: int
    fields: int = 0


class Scorer:
    """Turns fields into sums.

    Attributes:
        grid: of all fields.
        metrics: scores that can be had; statistics: what is averaged for them.
        regions: over which areas. events: of which events.
        nan: `propagate`: a missing value within a field makes the scores of its regions NaN, so that it is seen;
            `skip`: points where the *truth* is missing (sst over land) do not count, for any statistic alike. Missing
            values in a forecast always propagate.
        seed: of the lots that break ties of ranks.

    Spectra are taken at whole days of lead time only.
    """

    def __init__(
        self,
        grid: Grid,
        metrics: Sequence[Metric] = METRICS,
        regions: Regions | None = None,
        events: Events | None = None,
        *,
        climate: bool = False,
        initial: bool = False,
        nan: NanPolicy = "propagate",
        seed: int = 0,
        workers: int = 1,
    ) -> None:
        """`climate`, `initial`: whether `add` will be given them; scores that need them are left out otherwise.
        `workers`: threads within one field, where fields are not scored side by side."""
        self.grid, self.nan, self.seed, self.workers = grid, nan, seed, workers
        self.regions = regions or Regions(grid)
        self.events = events or Events(climate=climate)
        self.metrics = possible(
            metrics, climate=climate, initial=initial, events=bool(self.events.events),
            categories=bool(self.events.categories), rectangle=grid.is_regular,
            rows=grid.is_regular and grid.is_global,
        )  # fmt: skip
        self.statistics = statistics_of(self.metrics)
        needs = {need for s in self.statistics for need in s.needs}
        self._keep, self._limits = needs & {"sorted", "tails"}, bool(needs & {"events", "categories"})

    def zeros(self, label: str, members: int, variables: Sequence[str], starts: np.ndarray, leads: np.ndarray) -> Sums:
        """Empty sums for `add`."""
        axes: dict[str, int | Sequence[Any]] = {
            "rank": members + 1, "gap": members + 1, "exceeding": members + 1, "side": 2, "occurred": 2, "part": 2,
            "term": 2, "seeps_part": 2, "event": self.events.labels, "level": ensemble.LEVELS,
            "window": neighbourhood.WINDOWS, "wavenumber": self.grid.shape[-1] // 2 + 1,
            scales.AXIS: scales.truncation(self.grid) + 1 if self.grid.is_regular else 1,
        }  # fmt: skip
        about = {"label": label, "members": members}
        return Sums.zeros(self.statistics, axes, variables, starts, leads, self.regions.names, **about)

    def add(
        self,
        sums: Sums,
        variable: str,
        start: np.datetime64,
        lead: np.timedelta64,
        members: np.ndarray,
        truth: np.ndarray,
        climate: Climate | None = None,
        initial: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> Missing:
        """Add one field's statistics to its slot of `sums`; of a field of which a whole member is missing, nothing.

        Args:
            sums: made by `zeros`, not yet compact.
            members: (M, G) in the variable's units. truth: (G,).
            climate: at the valid time. initial: (G,) states at the start that forecast and truth came from.

        Raises:
            ValueError: shapes that do not fit; KeyError: a slot that the sums do not have.
        """
        expected = (sums.members, self.grid.size)
        if members.shape != expected or truth.shape != expected[1:]:
            raise ValueError(f"members {members.shape} and truth {truth.shape} must be {expected} and {expected[1:]}")
        matchup = Matchup(
            members, truth, climate, self.grid.shape, self._tie_key(variable, start, lead),
            limits=self._limits_of(variable, climate), initial=initial, grid=self.grid, variable=variable,
            keep=self._keep, workers=self.workers,
        )  # fmt: skip
        holes, lost = np.isnan(truth), np.isnan(matchup.mean_error)
        missing = Missing(int(holes.sum()), int((lost & ~holes).sum()))
        if lost.all() and (holes.all() or np.isnan(members).all(axis=1).any()):
            return missing._replace(fields=1)
        self._tally(matchup, sums, sums.slot(variable, start, lead), lead % DAY == np.timedelta64(0))
        return missing

    def _tie_key(self, variable: str, start: np.datetime64, lead: np.timedelta64) -> int:
        return seeding.key(self.seed, f"rank {variable}", start, int(lead.astype("timedelta64[s]").astype(np.int64)))

    def _limits_of(self, variable: str, climate: Climate | None) -> Limits | None:
        """The limits; forecasts of one field share those that were made from its climate."""
        if not self._limits:
            return None
        if climate is None:
            return self.events.limits(variable, None, self.grid.size)
        kept = climate.limits
        if kept is None or kept[0] is not self.events:
            kept = climate.limits = (self.events, self.events.limits(variable, climate, self.grid.size))
        return kept[1]

    def _tally(self, matchup: Matchup, sums: Sums, slot: tuple[int, ...], whole_day: bool) -> None:
        areas = self.regions.areas
        if self.nan == "skip":
            valid = ~np.isnan(matchup.truth)
            areas = areas if valid.all() else areas.where(valid)
        for s in self.statistics:
            if s.over == "areas":
                _put(sums, s, slot, s.of(matchup, areas), areas.total)
            elif s.over == "globe" and whole_day:
                whole = self.regions.whole
                _put(sums, s, slot, np.multiply.outer(whole, s.of(matchup)), whole)
            elif s.over == "points" or (s.over == "rows" and whole_day):
                used = areas if s.over == "points" else self.regions.areas
                value = s.of(matchup)
                mean = used.mean(value.reshape(-1, value.shape[-1]))
                _put(sums, s, slot, mean.reshape(len(mean), *value.shape[:-1]), used.total)


def _put(sums: Sums, statistic: Statistic, slot: tuple[int, ...], total: np.ndarray, weight: np.ndarray) -> None:
    sum, weights = sums.arrays[statistic.name]
    sum[slot] += total
    weights[slot] += weight
