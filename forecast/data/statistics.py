"""Statistics of a store in one streaming pass: moments that add, in float64.

Each date gives a count, a mean and a sum of squared deviations per variable; parts merge by the formula of
Chan, Golub and LeVeque (1983), which loses no digits where the mean is large beside the spread (z, msl).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

BLOCK = 1 << 18
"""Values that are looked at together: 2 MiB of float64, which a processor's cache holds."""


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


def merge(parts: Iterable[Moments]) -> Moments:
    """The moments of all parts (at least one) together; their order matters in the last bit only."""
    return _merge(np.stack([part.array() for part in parts], axis=1))


def of_states(states: np.ndarray, keep: np.ndarray) -> Moments:
    """Moments of the states (t, V, ...) whose `keep` (t,) is true, NaN left out."""
    dates = np.flatnonzero(keep)
    return _of(states, (states[part].astype(np.float64) for part in _blocks(dates, states)))


def of_tendencies(states: np.ndarray, keep: np.ndarray, apart: int, first: int = 0) -> Moments:
    """Moments of states[i] - states[i - apart] for i >= `first`, where both are kept."""
    ends = np.arange(max(apart, first), len(states))
    ends = ends[keep[ends] & keep[ends - apart]]
    return _of(states, (states[part].astype(np.float64) - states[part - apart] for part in _blocks(ends, states)))


def _blocks(dates: np.ndarray, states: np.ndarray) -> Iterator[np.ndarray]:
    """Dates in parts of about BLOCK values, at least one date each."""
    size = max(1, BLOCK // max(1, states[:1].size))
    yield from (dates[i : i + size] for i in range(0, len(dates), size))


def _of(states: np.ndarray, blocks: Iterable[np.ndarray]) -> Moments:
    nothing = np.zeros((5, 1, states.shape[1]))
    nothing[3:] = np.nan
    return _merge(np.concatenate([nothing, *(_by_date(block) for block in blocks)], axis=1))


def _merge(parts: np.ndarray) -> Moments:
    """(5, n, V) to one."""
    count, mean, squares, low, high = parts
    total = count.sum(axis=0)
    together = (count * mean).sum(axis=0) / np.maximum(total, 1)
    spread = squares.sum(axis=0) + (count * (mean - together) ** 2).sum(axis=0)
    return Moments(total, together, spread, np.fmin.reduce(low), np.fmax.reduce(high))


def _by_date(block: np.ndarray) -> np.ndarray:
    """(5, t, V) moments of each date and variable of (t, V, ...) float64, which is overwritten."""
    values = block.reshape(*block.shape[:2], -1)
    mean = values.mean(axis=2)
    if np.isfinite(mean).all():
        count = np.full(mean.shape, float(values.shape[2]))
        low, high = values.min(axis=2), values.max(axis=2)
        values -= mean[..., None]
        return np.stack([count, mean, np.einsum("tvg,tvg->tv", values, values), low, high])
    count = (~np.isnan(values)).sum(axis=2).astype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # variables without a single value
        low, high = np.nanmin(values, axis=2), np.nanmax(values, axis=2)
    mean = np.nansum(values, axis=2) / np.maximum(count, 1)
    return np.stack([count, mean, np.nansum((values - mean[..., None]) ** 2, axis=2), low, high])
