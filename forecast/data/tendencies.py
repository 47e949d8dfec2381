"""How much states change in a step, also in stores that hold no statistics of it (some by anemoi-datasets)."""

from __future__ import annotations

import numpy as np

from forecast.core.errors import ForecastError
from forecast.core.progress import console
from forecast.core.store import Store
from forecast.core.times import format_duration
from forecast.data import statistics

ENOUGH = 200
"""Pairs of states that a standard deviation of tendencies is taken from where the store has none: to some per cent."""


def stdev(store: Store, step: np.timedelta64, period: tuple[np.datetime64, np.datetime64]) -> np.ndarray:
    """(V,) standard deviation of x(t + step) - x(t): what the store holds, else of pairs spread evenly over `period`.

    Raises:
        ForecastError: no two states of the period lie a step apart.
    """
    if store.has_tendencies(step):
        return store.tendency_stdev(step)
    stride = store.stride(step)
    ends = store.indices(*period)[stride:]
    ends = ends[~store.missing[ends] & ~store.missing[ends - stride]]
    if not ends.size:
        raise ForecastError(f"{store.path}: no two states {format_duration(step)} apart in the period of training")
    chosen = ends[np.linspace(0, ends.size - 1, min(ends.size, ENOUGH)).astype(int)]
    console.print(f"note: {store.path} holds no tendencies over {format_duration(step)}: "
                  f"estimated from {chosen.size} pairs of its states")  # fmt: skip
    pairs = (store.read(np.array([end - stride, end])) for end in chosen)
    return statistics.merge(statistics.of_tendencies(pair, np.ones(2, bool), 1) for pair in pairs).stdev
