"""How large analysis errors are: a standard deviation per variable."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forecast.core.errors import ForecastError
from forecast.core.store import Store
from forecast.core.times import format_duration

DATES = 24
"""that are looked at, spread over what is there"""
SHARE = 0.2
"""of the standard deviation of six-hourly changes: about what analysis ensembles spread in the middle latitudes"""


def of_ensemble(store: Store, variables: Sequence[str]) -> np.ndarray:
    """(V,) spread of an ensemble of analyses (its member axis), root mean square over points and dates.

    Raises:
        ForecastError: a store of single analyses.
    """
    if store.ensemble < 2:
        raise ForecastError(f"{store.path} holds single analyses, no ensemble whose spread could be taken")
    variance = np.zeros(len(variables))
    times = _spread(np.flatnonzero(~store.missing))
    for time in times:
        states = np.stack([store.read(int(time), variables, member)[0] for member in range(store.ensemble)])
        variance += states.astype(np.float64).var(axis=0, ddof=1) @ _weights(store)
    return np.sqrt(variance / len(times))


def against_truth(analysis: Store, truth: Store, variables: Sequence[str]) -> np.ndarray:
    """(V,) root mean square difference of analyses and truth.

    Raises:
        ForecastError: no date in common.
    """
    both = np.intersect1d(analysis.dates[~analysis.missing], truth.dates[~truth.missing])
    if not both.size:
        raise ForecastError(f"{analysis.path} and {truth.path} have no date in common")
    dates, square = _spread(both), np.zeros(len(variables))
    for date in dates:
        states, true = (store.read(store.index(date), variables)[0].astype(np.float64) for store in (analysis, truth))
        square += (states - true) ** 2 @ _weights(analysis)
    return np.sqrt(square / len(dates))


def of_tendencies(store: Store, variables: Sequence[str]) -> np.ndarray:
    """(V,) a fifth of the standard deviation of changes over the store's time step, for want of better knowledge.

    Raises:
        ForecastError: a store without these statistics.
    """
    if store.tendencies is None:
        raise ForecastError(
            f"{store.path} has no statistics of changes over {format_duration(store.frequency)}: state the analysis "
            "error (forecast.perturbation.error)"
        )
    return SHARE * store.tendencies["stdev"][store.position(variables)]


def _spread(items: np.ndarray) -> np.ndarray:
    return items[np.unique(np.linspace(0, len(items) - 1, DATES).round().astype(int))]


def _weights(store: Store) -> np.ndarray:
    """(G,) shares of the area."""
    return store.grid.areas / store.grid.areas.sum()
