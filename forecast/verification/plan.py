"""Which fields are compared: the same variables, starts and leads for every forecast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from forecast.core import variables as names
from forecast.core.errors import ForecastError
from forecast.core.grids import Grid
from forecast.core.store import Store
from forecast.core.times import format_duration, format_time
from forecast.verification.sources import StoredForecast
from forecast.verification.states import States


@dataclass(frozen=True, eq=False)
class Plan:
    """What is scored.

    Attributes:
        variables: (V,) names that truth and every forecast have.
        starts: (S,) datetime64[s]. leads: (L,) timedelta64[s], above 0.
        scored: (S, L) bool: the truth has a state at the valid time; the rest is skipped for every forecast.
        notes: what was left out and why, one sentence each.
    """

    variables: tuple[str, ...]
    starts: np.ndarray
    leads: np.ndarray
    scored: np.ndarray
    notes: tuple[str, ...]

    def with_notes(self, *notes: str) -> Plan:
        """The same with further notes."""
        return replace(self, notes=self.notes + notes)

    @property
    def valid_times(self) -> np.ndarray:
        """(N,) distinct valid times that are scored."""
        return np.unique((self.starts[:, None] + self.leads)[self.scored])

    @property
    def described(self) -> str:
        """All of it in words, to tell plans apart."""
        parts = (self.variables, self.starts.tolist(), self.leads.tolist(), self.scored.tolist())
        return " ".join(map(str, parts))

    @property
    def cases(self) -> list[tuple[int, int]]:
        """Positions (start, lead) to score, start by start."""
        return [(int(s), int(k)) for s, k in np.argwhere(self.scored)]


def common_variables(
    forecasts: Sequence[StoredForecast], truth: Store, wanted: Sequence[str] | None
) -> tuple[str, ...]:
    """The variables that all have, in the order of the first forecast.

    Raises:
        ForecastError: none in common, a wanted one absent, or a truth in other units.
    """
    have = [v for v in forecasts[0].store.variables if v in truth.variables
            and all(v in f.store.variables for f in forecasts)]  # fmt: skip
    absent = [v for v in wanted or () if v not in have]
    if absent:
        shared = ", ".join(have) or "none"
        raise ForecastError(f"variable `{absent[0]}` is not in the truth and every forecast; they share {shared}")
    if not have:
        raise ForecastError(f"the forecasts and {truth.path} have no variable in common")
    for name in wanted or have:
        expected, found = names.metadata(name)["units"], truth.units[name]
        if expected and found and found != expected:
            raise ForecastError(f"{truth.path}: `{name}` is in `{found}`, forecasts are in `{expected}`")
    return tuple(wanted or have)


def make_plan(
    forecasts: Sequence[StoredForecast],
    truth: States,
    analyses: States,
    leads: Sequence[np.timedelta64] | None = None,
) -> Plan:
    """Starts and leads that every forecast has finished, and the valid times that the truth knows.

    Leads: those wanted, or all above 0; they must be in every forecast. A start counts if every forecast has
    finished it, the analyses hold it, and the truth holds at least one of its valid times.

    Raises:
        ForecastError: nothing in common, a wanted lead that is not there, or grids that differ.
    """
    for forecast in forecasts:
        _same_grid(forecast, truth.store.grid)
    chosen = _leads(forecasts, leads)
    every = np.unique(np.concatenate([f.store.starts for f in forecasts])).astype("datetime64[s]")
    notes = []
    starts, scored = [], []
    for start in every:
        reason = _unusable(start, chosen, forecasts, analyses)
        there = np.array([truth.has(start + lead) for lead in chosen])
        if not reason and not there.any():
            reason = "the truth holds none of its valid times"
        if reason:
            notes.append(f"Start {format_time(start)} left out: {reason}.")
            continue
        starts.append(start)
        scored.append(there)
        if not there.all():
            gaps = f"{(~there).sum()} of {there.size} valid times are missing in the truth"
            notes.append(f"Start {format_time(start)}: {gaps}.")
    if not starts:
        raise ForecastError(f"no start can be scored. {notes[0]}")
    return Plan(truth.variables, np.array(starts), chosen, np.array(scored), tuple(notes))


def _leads(forecasts: Sequence[StoredForecast], wanted: Sequence[np.timedelta64] | None) -> np.ndarray:
    common = forecasts[0].store.leads.astype("timedelta64[s]")
    for forecast in forecasts[1:]:
        common = np.intersect1d(common, forecast.store.leads.astype("timedelta64[s]"))
    if wanted is not None:
        leads = np.unique(np.array(list(wanted), "timedelta64[s]"))
        absent = leads[~np.isin(leads, common)]
        if absent.size:
            raise ForecastError(f"lead time {format_duration(absent[0])} is not in every forecast")
        return leads
    leads = common[common > np.timedelta64(0, "s")]
    if not leads.size:
        raise ForecastError("the forecasts have no lead time above 0 in common")
    return leads


def left_out(
    forecasts: Sequence[StoredForecast],
    truth: Store,
    plan: Plan,
    variables: Sequence[str] | None,
    leads: Sequence[np.timedelta64] | None,
) -> list[str]:
    """What some have and others lack, one sentence each, where `variables` or `leads` were not asked for by name."""
    notes, zero = [], np.timedelta64(0, "s")
    if variables is None:
        lacking = {f.label: f.store.variables for f in forecasts} | {"the truth": truth.variables}
        for name in dict.fromkeys(v for f in forecasts for v in f.store.variables if v not in plan.variables):
            without = ", ".join(label for label, have in lacking.items() if name not in have)
            notes.append(f"Variable {name} left out: not in {without}.")
    if leads is None:
        every = np.unique(np.concatenate([f.store.leads.astype("timedelta64[s]") for f in forecasts]))
        for forecast in forecasts:
            lacks = every[(every > zero) & ~np.isin(every, forecast.store.leads.astype("timedelta64[s]"))]
            if lacks.size:
                shown = ", ".join(format_duration(lead) for lead in lacks[:6]) + (", ..." if lacks.size > 6 else "")
                notes.append(f"Lead times left out, since `{forecast.label}` does not have them: {shown}.")
    return notes


def _unusable(start: np.datetime64, leads: np.ndarray, forecasts: Sequence[StoredForecast], analyses: States) -> str:
    for forecast in forecasts:
        if any(forecast.position(start, lead) is None for lead in leads):
            there = start in forecast.store.starts
            return f"`{forecast.label}` {'has not finished it' if there else 'does not have it'}"
    return "" if analyses.has(start) else f"{analyses.store.path} holds no state of that date"


def _same_grid(forecast: StoredForecast, grid: Grid) -> None:
    other = forecast.store.grid
    same = other.size == grid.size and np.allclose(other.latitudes, grid.latitudes, atol=1e-3)
    if not same or not np.allclose((other.longitudes - grid.longitudes + 180) % 360, 180, atol=1e-3):
        names = f"`{forecast.label}` is on {other.name}, the truth on {grid.name}"
        raise ForecastError(f"{names}: bring them to one grid first")
