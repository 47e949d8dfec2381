"""Windows of consecutive states, as a forecaster sees them in training and validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from forecast.core import seeding
from forecast.core.errors import ForecastError
from forecast.core.sections import DataSection
from forecast.core.store import Store
from forecast.core.times import format_duration, format_time
from forecast.data.forcings import Forcings, static_fields


@dataclass(frozen=True)
class Sample:
    """One window.

    Attributes:
        states: (T, V, G) float32, physical units; T = input_steps + rollout, V = prognostic then diagnostic.
        forcings: (T, G, F) float32, computed forcings then static fields.
        dates: (T,) datetime64[s].
        from_analysis: whether the first input_steps states are analyses; truth serves as such where none are drawn.
        key: identity of the sample. place: position of its first state in the store.
    """

    states: np.ndarray
    forcings: np.ndarray
    dates: np.ndarray
    from_analysis: bool
    key: int
    place: int


@dataclass(frozen=True, eq=False)
class Window:
    """What is to be read for one sample.

    Attributes:
        states: (store, position of the date) of each state.
        dates, from_analysis, key, place: as in `Sample`.
    """

    states: tuple[tuple[Store, int], ...]
    dates: np.ndarray
    from_analysis: bool
    key: int
    place: int


class Dataset:
    """All windows of a period whose dates lie `data.step` apart and that contain no missing date.

    Args:
        data: which variables, step and inputs.
        period: first and last date that a window may touch.
        truth: store of the states.
        analysis: store with the same dates, of the states that forecasts start from; None where truth serves.
        analysis_share: share of samples that start from the analysis, drawn by each sample's key.
        points: the range of grid points that is read; all of them if absent.

    Raises:
        ForecastError: a variable that the store lacks, a step that is no multiple of its frequency, or an analysis
            store that does not go with the truth.
    """

    def __init__(
        self,
        data: DataSection,
        period: tuple[np.datetime64, np.datetime64],
        truth: Store,
        analysis: Store | None = None,
        analysis_share: float = 1.0,
        points: slice | None = None,
    ) -> None:
        self.data, self.period, self.truth, self.analysis = data, period, truth, analysis
        self.points = slice(*(points or slice(None)).indices(truth.grid.size)[:2])
        self.analysis_share = analysis_share if analysis is not None else 0.0
        self.variables = (*data.prognostic, *data.diagnostic)
        self._stride = truth.stride(data.step)
        truth.position(self.variables)
        self._missing = truth.missing
        if analysis is not None:
            _check_pair(truth, analysis, self.variables)
            self._missing = truth.missing | analysis.missing
        self._wanted = {store.path: store.select(self.variables, points=self.points)
                        for store in (truth, analysis) if store is not None}  # fmt: skip
        static = static_fields(truth, data.static)[self.points]
        places = truth.grid.latitudes[self.points], truth.grid.longitudes[self.points]
        self.forcings = Forcings(data.forcings, *places, static)

    @lru_cache(maxsize=32)  # noqa: B019 - a dataset lives as long as its run
    def windows(self, rollout: int) -> np.ndarray:
        """Positions in the store of the first state of every window of `rollout` forecast steps, in time order.

        No window touches or spans a missing date, or leaves the period.

        Raises:
            ForecastError: there is none; says what the store holds.
        """
        dates = self.truth.dates
        span = (self.data.input_steps + rollout - 1) * self._stride
        gaps = np.concatenate([[0], np.cumsum(self._missing)])
        begins = np.arange(max(len(dates) - span, 0))
        inside = (dates[begins] >= self.period[0]) & (dates[begins + span] <= self.period[1])
        windows = begins[inside & (gaps[begins + span + 1] == gaps[begins])]
        if not windows.size:
            first, last, begin, end = (format_time(date) for date in (*self.period, dates[0], dates[-1]))
            raise ForecastError(
                f"{self.truth.path}: no {self.data.input_steps + rollout} states {format_duration(self.data.step)} "
                f"apart without a gap in {first} to {last}; it holds {begin} to {end}, {self._missing.sum()} missing"
            )
        return windows

    def window(self, first: int, rollout: int, key: int) -> Window:
        """What the window of `rollout` steps whose first state lies at position `first` consists of."""
        inputs = self.data.input_steps
        times = range(first, first + self._stride * (inputs + rollout), self._stride)
        begin = self.truth
        if self.analysis is not None and seeding.uniform(seeding.key(key, "analysis"), 1)[0] < self.analysis_share:
            begin = self.analysis
        stores = (begin,) * inputs + (self.truth,) * rollout
        analysed = begin is not self.truth or not self.analysis_share  # the truth serves where no analysis is drawn
        dates = self.truth.dates[first : times.stop : self._stride]
        return Window(tuple(zip(stores, times, strict=True)), dates, analysed, key, first)

    def read(self, first: int, rollout: int, key: int) -> Sample:
        """The window of `rollout` steps whose first state lies at position `first`; each state is read once."""
        window = self.window(first, rollout, key)
        states = np.empty((len(window.states), len(self.variables), self.points.stop - self.points.start), np.float32)
        for (store, time), state in zip(window.states, states, strict=True):
            self.fill(store, time, state)
        return Sample(states, self.forcings(window.dates), window.dates, window.from_analysis, key, first)

    def fill(self, store: Store, time: int, out: np.ndarray) -> None:
        """One state into `out` (V, G) float32 of any strides; safe in threads."""
        store.fill(time, self._wanted[store.path], out)


def grid_part(size: int, rank: int, ranks: int) -> slice:
    """The points that the `rank`-th of `ranks` processes reads: even, in storage order, none left out."""
    return slice(size * rank // ranks, size * (rank + 1) // ranks)


def _check_pair(truth: Store, analysis: Store, variables: Sequence[str]) -> None:
    analysis.position(variables)
    if not np.array_equal(truth.dates, analysis.dates) or truth.grid.size != analysis.grid.size:
        raise ForecastError(f"{analysis.path}: dates or grid differ from {truth.path}; ingest both from one source")
