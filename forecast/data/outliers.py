"""Values that stand out from all around them in space and time: what a flipped bit in a packed field looks like.

A field's *prominence* is the largest amount by which one of its points is above, or below, every neighbour: along its
row and column, and at the dates before and after. In sound fields it is a few times what neighbouring points differ by,
and alike from date to date. A mean or spread that jumps for one date, and back, is a reference value or a scale.
Rain, clouds and their like are too rough for this, and are not looked at.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forecast.core import variables
from forecast.core.compiled import compiled
from forecast.core.errors import ForecastError
from forecast.core.times import format_time

SMOOTH = {
    "z", "t", "u", "v", "q", "r", "vo", "2t", "2d", "skt", "sst", "msl", "sp", "10u", "10v", "100u", "100v", "tcw",
    "tcwv", "mx2t", "mn2t", "stl1", "stl2", "stl3", "stl4",
}  # fmt: skip
"""Variables that have neighbours alike."""
ROUGH, OTHERS = 8.0, 6.0
"""A point stands out by so many times what neighbours differ by (rms), and the prominence of other dates (median)."""
ALONE, SPREADS = 40.0, 3.0
"""Of a date without others: so many times what neighbours differ by, and standard deviations of the field."""
JUMP, CHANGE, SHARE = 10.0, 2.0, 0.15
"""A mean or spread jumps by so many times its usual change, the change of single points (rms), and the spread."""
FEW = 4
"""Dates that are needed to know the usual change."""


@dataclass(frozen=True, eq=False)
class _Fields:
    """What is seen of the fields of one variable: each (t, M), t dates that are there."""

    prominence: np.ndarray
    place: np.ndarray
    slope: np.ndarray
    rough: np.ndarray
    mean: np.ndarray
    spread: np.ndarray
    change: np.ndarray


def check(names: tuple[str, ...], dates: np.ndarray, states: np.ndarray, columns: int) -> None:
    """Refuse states (t, V, members, G) with a point or a field that stands out from all others.

    Args:
        columns: points of a row; G where the points make no rows and columns.

    Raises:
        ForecastError: says which, when, and by how much.
    """
    columns = columns if columns > 1 else states.shape[3]
    for v, name in enumerate(names):
        if variables.split(name)[0] not in SMOOTH or columns == 1:
            continue
        there = np.flatnonzero(np.isfinite(states[:, v]).any(axis=(1, 2)))
        if there.size:
            found = _look(states, v, there, columns)
            _points(name, dates[there], found, states.shape[3])
            _whole(name, dates[there], found)


def _look(states: np.ndarray, v: int, there: np.ndarray, columns: int) -> _Fields:
    found = np.zeros((7, len(there), states.shape[2]))
    for k, t in enumerate(there):
        before, after = there[max(k - 1, 0)], there[min(k + 1, len(there) - 1)]
        for m in range(states.shape[2]):
            around = states[before, v, m], states[t, v, m], states[after, v, m]
            found[:3, k, m] = _prominence(*around, before != t, after != t, columns)
            found[3:, k, m] = _sums(states[t, v, m], states[before, v, m])
    return _Fields(*found)


def _points(name: str, dates: np.ndarray, found: _Fields, points: int) -> None:
    top = found.prominence
    usual = float(np.median(np.sqrt(np.maximum(found.rough**2 - 2 * top**2 / points, 0.0))))  # without the point itself
    others = _median_of_others(top)
    if others is None:
        bad = (top > ALONE * usual) & (top > SPREADS * found.spread)
    else:
        bad = (top > ROUGH * usual) & (top > OTHERS * others)
    bad &= top > found.slope  # the eye of a cyclone lies at the foot of slopes, a wrong value stands alone
    if bad.any():
        t, m = np.argwhere(bad)[0]
        beside = f"{usual:.3g}" if others is None else f"{usual:.3g} (and points stand out by {others[t, m]:.3g} else)"
        raise ForecastError(
            f"{name} at {format_time(dates[t])}: point {int(found.place[t, m])} stands out by {top[t, m]:.3g} "
            f"{variables.lookup(name).units} from all around it, where neighbours differ by {beside}{_ADVICE}"
        )


def _whole(name: str, dates: np.ndarray, found: _Fields) -> None:
    if len(dates) < FEW:
        return
    usual = np.maximum(CHANGE * np.median(found.change[1:]), SHARE * np.median(found.spread))
    for what, series in (("mean", found.mean), ("spread", found.spread)):
        jump = _there_and_back(series)
        jump[[0, -1]] /= 2.0  # seen from one side only
        bad = jump > np.maximum(usual, JUMP * np.median(np.abs(np.diff(series, axis=0))))
        if bad.any():
            t, m = np.argwhere(bad)[0]
            raise ForecastError(
                f"{name} at {format_time(dates[t])}: the field's {what} is {series[t, m]:.5g}, "
                f"{'before' if t else 'after'} it {series[t - 1 if t else 1, m]:.5g} "
                f"{variables.lookup(name).units}{_ADVICE}"
            )


_ADVICE = ": a damaged file? source.checksums would tell; store.implausible: accept takes it"


def _median_of_others(top: np.ndarray) -> np.ndarray | None:
    """The median of all fields but one, for each; None where there is no other."""
    if top.size < 2:
        return None
    flat = np.sort(top.ravel())
    lower, upper = flat[:-1], flat[1:]  # without a field of the upper half, or of the lower
    n = top.size
    return np.where(top > flat[(n - 1) // 2], np.median(lower), np.median(upper))


def _there_and_back(series: np.ndarray) -> np.ndarray:
    """(t, M) by how much a value is above, or below, those before and after it."""
    edge = np.full((1, series.shape[1]), np.inf)
    change = np.diff(series, axis=0)
    above = np.minimum(np.concatenate([edge, change]), np.concatenate([-change, edge]))
    below = np.minimum(np.concatenate([edge, -change]), np.concatenate([change, edge]))
    return np.asarray(np.maximum(np.maximum(above, below), 0.0))


@compiled(fastmath={"reassoc", "contract"})
def _sums(x: np.ndarray, before: np.ndarray) -> tuple[float, float, float, float]:
    """Of x (G,): rms of the differences of neighbours, mean, standard deviation, rms of the change since `before`."""
    first, count = np.float64(0.0), x.size
    for v in x:
        if v == v:
            first = np.float64(v)
            break
    rough, total, square, change = np.float64(0.0), np.float64(0.0), np.float64(0.0), np.float64(0.0)
    for i in range(x.size):
        d, e, f = np.float64(x[i]) - first, np.float64(x[i] - x[max(i - 1, 0)]), np.float64(x[i] - before[i])
        rough += e * e
        total += d
        square += d * d
        change += f * f
    if np.isnan(total + change):
        rough, total, square, change, count = np.float64(0.0), np.float64(0.0), np.float64(0.0), np.float64(0.0), 0
        for i in range(x.size):
            d, e, f = np.float64(x[i]) - first, np.float64(x[i] - x[max(i - 1, 0)]), np.float64(x[i] - before[i])
            rough += e * e if e == e else 0.0
            change += f * f if f == f else 0.0
            if d == d:
                total += d
                square += d * d
                count += 1
    count = max(count, 1)
    mean = total / count
    variance = max(square / count - mean * mean, 0.0)
    return np.sqrt(rough / count), first + mean, np.sqrt(variance), np.sqrt(change / count)


@compiled
def _prominence(
    before: np.ndarray, x: np.ndarray, after: np.ndarray, earlier: bool, later: bool, columns: int
) -> tuple[float, float, float]:
    """The prominence of x (G,), where it is, and the largest step from its neighbours to those behind them."""
    top, at, points = np.float32(0.0), 0, x.size
    for row in range(0, points, columns):
        for i in range(row, row + columns):
            v = x[i]
            a = v - x[i - 1] if i > row else v - x[i + 1]
            b = v - x[i + 1] if i < row + columns - 1 else a
            low, high = min(-a, -b), min(a, b)
            if not max(low, high) > top:  # most points end here; so do NaN
                continue
            if i >= columns:
                low, high = min(low, x[i - columns] - v), min(high, v - x[i - columns])
            if i + columns < points:
                low, high = min(low, x[i + columns] - v), min(high, v - x[i + columns])
            if earlier:
                low, high = min(low, before[i] - v), min(high, v - before[i])
            if later:
                low, high = min(low, after[i] - v), min(high, v - after[i])
            if max(low, high) > top:
                top, at = max(low, high), i
    slope, row = np.float32(0.0), at // columns * columns
    for near, far, there in (
        (at - 1, at - 2, at - 2 >= row),
        (at + 1, at + 2, at + 2 < row + columns),
        (at - columns, at - 2 * columns, at - 2 * columns >= 0),
        (at + columns, at + 2 * columns, at + 2 * columns < points),
    ):
        if there:
            slope = max(slope, abs(x[near] - x[far]))
    return float(top), float(at), float(slope)
