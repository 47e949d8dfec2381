"""Statistics of a store in one streaming pass: moments that add, in float64.

Each date gives a count, a mean and a sum of squared deviations per variable; parts merge by the formula of
Chan, Golub and LeVeque (1983), which loses no digits where the mean is large beside the spread (z, msl).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Moments:
    """Count, mean, sum of squared deviations, minimum and maximum per variable, each (V,) float64."""

    count: np.ndarray
    mean: np.ndarray
    squares: np.ndarray
    minimum: np.ndarray
    maximum: np.ndarray

    @property
    def stdev(self) -> np.ndarray:
        """(V,) population standard deviation; NaN where nothing was counted."""
        return np.sqrt(self.squares / np.where(self.count > 0, self.count, np.nan))

    def array(self) -> np.ndarray:
        """(5, V) for a file; `Moments(*array)` is the way back."""
        return np.stack([self.count, self.mean, self.squares, self.minimum, self.maximum])

    def named(self) -> dict[str, np.ndarray]:
        """mean, stdev, minimum and maximum as a store keeps them."""
        mean = np.where(self.count > 0, self.mean, np.nan)
        return {"mean": mean, "stdev": self.stdev, "minimum": self.minimum, "maximum": self.maximum}


def empty(variables: int) -> Moments:
    """Moments of nothing, the zero of `merge`."""
    zero, nan = np.zeros(variables), np.full(variables, np.nan)
    return Moments(zero, zero, zero, nan, nan)


def merge(parts: Iterable[Moments], variables: int) -> Moments:
    """The moments of all parts together; their order matters in the last bit only."""
    count, mean, squares, low, high = np.stack([p.array() for p in [empty(variables), *parts]], axis=1)
    total = count.sum(axis=0)
    together = (count * mean).sum(axis=0) / np.maximum(total, 1)
    spread = squares.sum(axis=0) + (count * (mean - together) ** 2).sum(axis=0)
    return Moments(total, together, spread, np.fmin.reduce(low), np.fmax.reduce(high))


def of_state(state: np.ndarray) -> Moments:
    """Moments of one state or tendency (V, ...), NaN left out."""
    values = state.reshape(len(state), -1).astype(np.float64)
    mean = values.mean(axis=1)
    if np.isfinite(mean).all():
        low, high = values.min(axis=1), values.max(axis=1)
        values -= mean[:, None]
        count = np.full(len(values), float(values.shape[1]))
        return Moments(count, mean, np.einsum("vg,vg->v", values, values), low, high)
    count = (~np.isnan(values)).sum(axis=1).astype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # variables without a single value
        low, high = np.nanmin(values, axis=1), np.nanmax(values, axis=1)
    mean = np.nansum(values, axis=1) / np.maximum(count, 1)
    return Moments(count, mean, np.nansum((values - mean[:, None]) ** 2, axis=1), low, high)


def of_states(states: np.ndarray, keep: np.ndarray) -> Moments:
    """Moments of the states (t, V, ...) whose `keep` (t,) is true."""
    return merge((of_state(states[i]) for i in np.flatnonzero(keep)), states.shape[1])


def of_tendencies(states: np.ndarray, keep: np.ndarray, apart: int, first: int = 0) -> Moments:
    """Moments of states[i] - states[i - apart] for i >= `first`, where both are kept."""
    ends = [i for i in range(max(apart, first), len(states)) if keep[i] and keep[i - apart]]
    return merge((of_state(states[i].astype(np.float64) - states[i - apart]) for i in ends), states.shape[1])
