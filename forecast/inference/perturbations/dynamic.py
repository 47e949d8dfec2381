"""Departures that the forecaster itself has grown: bred vectors, and differences of lagged forecasts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from forecast.core import seeding
from forecast.core.store import Store
from forecast.inference.perturbations.base import Departures, Members


class Dynamics(Protocol):
    """What grows perturbations (system.LearntSystem is one)."""

    @property
    def analysis(self) -> Store: ...
    @property
    def step(self) -> np.timedelta64: ...

    def advance(self, window: np.ndarray, date: np.datetime64) -> np.ndarray:
        """(M, V, G) one step after window (M, T, V, G) up to `date`; chance, if any, is the same for all rows."""


class Grown(Departures):
    """Departures made by the dynamics, scaled as a whole: what balance they have, they keep.

    Their size is the root mean square over variables and area of departure / analysis error; it is made 1, in the
    newest state.
    """

    def __init__(self, variables: Sequence[str], error: np.ndarray, members: Members, dynamics: Dynamics) -> None:
        super().__init__(variables, error, members)
        self.dynamics = dynamics
        areas = dynamics.analysis.grid.areas
        self._weights = areas / areas.sum()

    def size(self, departure: np.ndarray) -> float:
        """Of (T, V, G), in units of the analysis error."""
        counted = self.error > 0
        square = (departure[-1, counted].astype(np.float64) ** 2) @ self._weights
        return float(np.sqrt(np.mean(square / self.error[counted] ** 2)))

    def scaled(self, departure: np.ndarray) -> np.ndarray:
        """The departure with size 1, and nothing in variables that stay as they are."""
        return departure * (self.error > 0)[:, None] / max(self.size(departure), 1e-30)

    def window(self, last: np.datetime64, states: int) -> np.ndarray:
        """(T, V, G) analyses up to a date."""
        analysis, when = self.dynamics.analysis, last - np.arange(states)[::-1] * self.dynamics.step
        return analysis.read(np.array([analysis.index(date) for date in when]), self.variables)


class Bred(Grown):
    """Bred vectors (Toth and Kalnay 1993): differences that have grown over cycles of a step, scaled back after each.

    A cycle takes the analyses with and without the departure one step further; what has become of the departure,
    scaled back to the analysis error, is that of the next cycle. It turns to the directions that grow fastest.

    Args:
        first: makes the departures that breeding begins with. cycles: steps of breeding before a start.
    """

    def __init__(self, first: Departures, dynamics: Dynamics, states: int, cycles: int = 8) -> None:
        super().__init__(first.variables, first.error, first.members, dynamics)
        self.first, self.states, self.cycles = first, states, cycles

    def needs(self, start: np.datetime64) -> np.ndarray:
        """The analyses of all cycles."""
        return start - np.arange(self.cycles + self.states) * self.dynamics.step

    def departure(self, states: np.ndarray, when: np.ndarray, start: np.datetime64, number: int) -> np.ndarray:
        """(T, V, G) float64."""
        date = start - self.cycles * self.dynamics.step
        analysis = self.window(date, self.states)
        drawn = self.first.departure(analysis, when, start, number)
        departure = self.scaled(np.repeat(drawn[None], self.states, axis=0))
        for _ in range(self.cycles):
            pair = np.stack([analysis, analysis + departure]).astype(np.float32)
            plain, other = self.dynamics.advance(pair, date)
            date += self.dynamics.step
            analysis = self.window(date, self.states)
            departure = self.scaled(np.concatenate([departure[1:], (other.astype(np.float64) - plain)[None]]))
        return departure


class Lagged(Grown):
    """Differences between forecasts that began earlier, by one step to `lags` steps, and the analyses they meet.

    Each member takes a random mixture of them (keyed weights), so that any number of members has departures of its
    own.
    """

    def __init__(
        self,
        variables: Sequence[str],
        error: np.ndarray,
        members: Members,
        dynamics: Dynamics,
        states: int,
        lags: int = 4,
        seed: int = 1,
    ) -> None:
        super().__init__(variables, error, members, dynamics)
        self.states, self.lags, self.seed = states, lags, seed
        self._kept: tuple[np.datetime64, np.ndarray] | None = None

    def needs(self, start: np.datetime64) -> np.ndarray:
        """The analyses that the earlier forecasts began with."""
        return start - np.arange(self.lags + self.states) * self.dynamics.step

    def departure(self, states: np.ndarray, when: np.ndarray, start: np.datetime64, number: int) -> np.ndarray:
        """(T, V, G) float64."""
        key = seeding.key(self.seed, "lagged perturbation", start, number)
        return self.scaled(np.tensordot(seeding.normal(key, self.lags).astype(np.float64), self.differences(start), 1))

    def differences(self, start: np.datetime64) -> np.ndarray:
        """(lags, T, V, G) float64, each of size 1; those of the last start are kept."""
        if self._kept is None or self._kept[0] != start:
            meets = self.window(start, self.states)
            self._kept = start, np.stack([self._difference(start, lag, meets) for lag in range(1, self.lags + 1)])
        return self._kept[1]

    def _difference(self, start: np.datetime64, lag: int, meets: np.ndarray) -> np.ndarray:
        date = start - lag * self.dynamics.step
        window = self.window(date, self.states)[None]
        for _ in range(lag):
            window = np.concatenate([window[:, 1:], self.dynamics.advance(window, date)[:, None]], axis=1)
            date += self.dynamics.step
        return self.scaled(window[0].astype(np.float64) - meets)
