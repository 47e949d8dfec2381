"""Baselines as forecasts of the same kind: persistence, the climatological ensemble, ridge regression."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from forecast.core.errors import ForecastError
from forecast.core.times import format_duration, format_time
from forecast.verification.states import States

DAY = np.timedelta64(86400, "s")
LARGEST_RIDGE = 5000
DRESSES = 50
"""members of ridge regression: errors that it is dressed with"""


class Persistence:
    """The state at the start, at every lead: one member."""

    label, members = "persistence", 1

    def __init__(self, analyses: States) -> None:
        self.analyses = analyses

    def read(self, variable: str, start: np.datetime64, lead: np.timedelta64) -> np.ndarray:
        """(1, G) the analysis at the start."""
        return self.analyses.get(start)[self.analyses.variables.index(variable)][None]


class Climatology:
    """Climatological ensemble: states of a period at the valid hour, within some days of the calendar day.

    The period should leave the verified dates out. Every valid time has the same number of members, chosen evenly
    in time from its candidates; a 29 February counts as 28 February in years without one.
    """

    label = "climatology"

    def __init__(
        self,
        states: States,
        period: tuple[np.datetime64, np.datetime64],
        window: np.timedelta64,
        valid_times: Iterable[np.datetime64],
        most: int = 50,
    ) -> None:
        """`most` members at most; fewer if a valid time has fewer candidates.

        Raises:
            ForecastError: a valid time with fewer than two candidates.
        """
        self.states = states
        self.period = (period[0].astype("datetime64[s]"), period[1].astype("datetime64[s]"))
        self.days = int(window / DAY)
        valid_times = np.unique(np.array(list(valid_times), "datetime64[s]"))
        counts = np.array([self.candidates(when).size for when in valid_times])
        fewest = int(counts.argmin())
        if counts[fewest] < 2:
            raise ForecastError(
                f"no climatological ensemble: {states.store.path} holds {counts[fewest]} states within {self.days} "
                f"days of {format_time(valid_times[fewest])[5:]} in {format_time(period[0])} to "
                f"{format_time(period[1])}; at least 2 are needed"
            )
        self.members = int(min(most, counts[fewest]))

    def candidates(self, when: np.datetime64) -> np.ndarray:
        """Dates of the period that resemble `when` in hour and calendar day, rising, datetime64[s]."""
        when = when.astype("datetime64[s]")
        hour = when - when.astype("datetime64[D]")
        offsets = np.arange(-self.days, self.days + 1) * DAY
        first, last = (int(str(limit.astype("datetime64[Y]"))) for limit in self.period)
        days = [_anniversary(when, year) + hour + offsets for year in range(first - 1, last + 2)]
        dates = np.unique(np.concatenate(days))
        dates = dates[(dates >= self.period[0]) & (dates <= self.period[1])]
        return dates[[self.states.has(date) for date in dates]]

    def read_all(self, when: np.datetime64) -> np.ndarray:
        """(M, V, G) float32 members of all variables at a valid time."""
        dates = self.candidates(when)
        chosen = np.linspace(0, dates.size - 1, self.members).round().astype(int)
        return np.stack(self.states.several(dates[chosen]))

    def read(self, variable: str, start: np.datetime64, lead: np.timedelta64) -> np.ndarray:
        """(M, G) members at the valid time."""
        return self.read_all(start + lead)[:, self.states.variables.index(variable)]


class Ridge:
    """Ridge regression of the state at start + lead on the state at the start, all variables and points, dressed.

    Anomalies from a seasonal and daily cycle (harmonics fitted over the training period), in units of each
    variable's standard deviation; the penalty is 0.03 a sample. Closed form, for small regional grids. The members are
    the prediction plus whole fields of its own errors, at up to 50 training dates evenly in time, each as made without
    that date (leave-one-out residuals, e / (1 - h); Allen 1974); the mean of those is taken out, so that the mean of
    the members is the prediction.
    """

    label = "ridge regression"

    def __init__(
        self,
        analyses: States,
        period: tuple[np.datetime64, np.datetime64],
        leads: np.ndarray,
        penalty: float = 0.03,
    ) -> None:
        """Fit one regression a lead on the states of `period`.

        Raises:
            ForecastError: a state too large for a closed form, or too few pairs of states.
        """
        self.analyses = analyses
        points = len(analyses.variables) * analyses.store.grid.size
        if points > LARGEST_RIDGE:
            raise ForecastError(
                f"ridge regression is for small grids: {points} numbers a state, at most {LARGEST_RIDGE}; "
                "set verification.ridge to false"
            )
        store = analyses.store
        dates = store.dates[store.indices(*period)]
        dates = dates[[analyses.has(date) for date in dates]]
        if dates.size < 2:
            raise ForecastError(f"ridge regression: {store.path} holds {dates.size} states in the training period")
        states = np.stack(analyses.several(dates)).astype(np.float64)  # (T, V, G)
        self.cycle = np.linalg.lstsq(_harmonics(dates), states.reshape(dates.size, -1), rcond=None)[0]
        anomalies = states.reshape(dates.size, -1) - _harmonics(dates) @ self.cycle
        self.scale = np.repeat(anomalies.reshape(states.shape).std(axis=(0, 2)), store.grid.size)
        self.scale[self.scale == 0] = 1.0
        pairs = {lead: _pairs(dates, lead) for lead in leads}
        self.members = min(DRESSES, *(len(begin) for begin, _ in pairs.values()))
        anomalies /= self.scale
        self.fits = {
            lead.item(): fitted(anomalies[begin], anomalies[end], penalty, self.members)
            for lead, (begin, end) in pairs.items()
        }

    def read(self, variable: str, start: np.datetime64, lead: np.timedelta64) -> np.ndarray:
        """(M, G) float32 predictions in the variable's units."""
        size, v = self.analyses.store.grid.size, self.analyses.variables.index(variable)
        part = slice(v * size, (v + 1) * size)
        state = self.analyses.get(start).reshape(-1) - (_harmonics(np.array([start])) @ self.cycle)[0]
        weights, errors = self.fits[lead.item()]
        anomaly = (state / self.scale) @ weights[:, part] + errors[:, part]
        mean = _harmonics(np.array([start + lead])) @ self.cycle[:, part]
        return (mean + anomaly * self.scale[part]).astype(np.float32)


def fitted(x: np.ndarray, y: np.ndarray, penalty: float, members: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights (K, L) of ridge regression, and its errors (M, L) at `members` even rows, each of a fit without that row.

    Args:
        x: (T, K) predictors. y: (T, L). penalty: a row.
    """
    moments = x.T @ x + penalty * len(x) * np.eye(x.shape[1])
    weights = np.linalg.solve(moments, x.T @ y)
    some = np.linspace(0, len(x) - 1, members).round().astype(int)
    leverage = (x[some] * np.linalg.solve(moments, x[some].T).T).sum(axis=1, keepdims=True)
    errors = (y[some] - x[some] @ weights) / (1 - leverage)
    return weights, errors - errors.mean(axis=0)


def _pairs(dates: np.ndarray, lead: np.timedelta64) -> tuple[np.ndarray, np.ndarray]:
    """Positions of dates, and of those `lead` later, where both are there.

    Raises:
        ForecastError: less than two pairs.
    """
    _, begin, end = np.intersect1d(dates + lead, dates, return_indices=True)
    if begin.size < 2:
        raise ForecastError(f"ridge regression: no two states {format_duration(lead)} apart to learn from")
    return begin, end


def _anniversary(when: np.datetime64, year: int) -> np.datetime64:
    """The calendar day of `when` in another year, midnight, datetime64[s]."""
    month = when.astype("datetime64[M]")
    day = when.astype("datetime64[D]") - month.astype("datetime64[D]")
    there = np.datetime64(f"{year:04d}", "M") + (month - month.astype("datetime64[Y]").astype("datetime64[M]"))
    last = (there + 1).astype("datetime64[D]") - np.timedelta64(1, "D")
    return np.minimum(there.astype("datetime64[D]") + day, last).astype("datetime64[s]")


def _harmonics(dates: np.ndarray) -> np.ndarray:
    """(T, 9) columns: 1, three harmonics of the year, one of the day."""
    year = (dates - dates.astype("datetime64[Y]")) / (365.25 * DAY) * 2 * np.pi
    day = (dates - dates.astype("datetime64[D]")) / DAY * 2 * np.pi
    angles = np.stack([year, 2 * year, 3 * year, day])
    return np.concatenate([np.ones((1, dates.size)), np.sin(angles), np.cos(angles)]).T
