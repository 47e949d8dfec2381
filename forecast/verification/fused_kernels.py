"""The compiled pass: blocks of points side by side, sorted over members by a network of comparators.

A comparator takes the smaller and the larger of two rows of 128 points, which is two vector instructions for each
eight or sixteen of them; nothing is transposed and no branch depends on data. The network is Batcher's odd-even
merge sort (1968). Beyond 80 members numpy's own sort is faster and takes its place.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from forecast.core.compiled import compiled
from forecast.verification import fused

LANES = 128
LARGEST_NETWORK = 80


@lru_cache(maxsize=64)
def network(size: int) -> np.ndarray:
    """(comparators, 2) pairs of rows that sort `size` values when taken in turn (odd-even merge sort)."""
    pairs = []
    p = 1
    while p < size:
        k = p
        while k >= 1:
            for j in range(k % p, size - k, 2 * k):
                for i in range(min(k, size - j - k)):
                    if (i + j) // (2 * p) == (i + j + k) // (2 * p):
                        pairs.append((i + j, i + j + k))
            k //= 2
        p *= 2
    return np.array(pairs, np.int64).reshape(-1, 2)


def work(
    x: np.ndarray, y: np.ndarray, t: np.ndarray, signs: np.ndarray, floats: np.ndarray, counts: np.ndarray,
    kept: np.ndarray,
) -> Callable[[int, int], None]:  # fmt: skip
    """The pass over points begin..end, to be shared among threads; fills floats, counts and kept (see `fused`)."""
    m = len(x)
    weights = fused.pair_weights(m)
    pairs = network(m) if m <= LARGEST_NETWORK else np.empty((0, 2), np.int64)
    nothing = np.empty((0, 0), x.dtype)

    def points(begin: int, end: int) -> None:
        if m <= LARGEST_NETWORK:
            _pass(x, y, nothing, t, signs, weights, pairs, floats, counts, kept, begin, end, 0)
            return
        for first in range(begin, end, fused.BLOCK):
            last = min(first + fused.BLOCK, end)
            errors = np.subtract(x[:, first:last].T, y[first:last, None], order="C")
            errors.sort(axis=1)
            ready = np.ascontiguousarray(errors.T)
            _pass(x, y, ready, t, signs, weights, pairs, floats, counts, kept, first, last, first)

    return points


@compiled
def _pass(x, y, ready, t, signs, weights, pairs, floats, counts, kept, begin, end, first):  # type: ignore[no-untyped-def]
    m, tails = x.shape[0], (floats.shape[0] - 4) // 2
    s = np.zeros((m, LANES), x.dtype)
    for at in range(begin, end, LANES):
        to = min(at + LANES, end)
        truth, out, numbers = y[at:to], floats[:, at:to], counts[:, at:to]
        if ready.size:
            _copy(ready[:, at - first : to - first], s)
        else:
            _load(x[:, at:to], truth, s)
            _sort(s, pairs)
        _moments(s, weights, out, numbers)
        for i in range(t.shape[0]):
            limit = t[i, at:to]
            _beyond(x[:, at:to], limit, signs[i], numbers[2 + i])
            if i < tails:
                _tail(s, truth, limit, signs[i], weights, out[4 + i], out[4 + tails + i])
        _lose(out, numbers)
        if kept.size:
            _keep(s, out[0], kept[:, at:to])


# numba turns inner loops into vector instructions where each row is an array of its own with an index from 0


@compiled(kept=False)
def _copy(ready, s):  # type: ignore[no-untyped-def]
    for i in range(s.shape[0]):
        source, row = ready[i], s[i]
        for j in range(source.size):
            row[j] = source[j]


@compiled(kept=False)
def _load(x, truth, s):  # type: ignore[no-untyped-def]
    for i in range(s.shape[0]):
        member, row = x[i], s[i]
        for j in range(truth.size):
            row[j] = member[j] - truth[j]


@compiled(kept=False)
def _sort(s, pairs):  # type: ignore[no-untyped-def]
    for p in range(pairs.shape[0]):
        low, high = s[pairs[p, 0]], s[pairs[p, 1]]
        for j in range(LANES):
            a, b = low[j], high[j]
            low[j] = a if a < b else b  # a NaN stays in one of the two, so that the sum finds it
            high[j] = b if a < b else a


@compiled(kept=False)
def _moments(s, weights, out, numbers):  # type: ignore[no-untyped-def]
    m, n = s.shape[0], out.shape[1]
    mean, absolute, half, square = np.zeros(LANES), np.zeros(LANES), np.zeros(LANES), np.zeros(LANES)
    below, equal = np.zeros(LANES, np.int32), np.zeros(LANES, np.int32)
    for i in range(m):
        row, w = s[i], weights[i]
        for j in range(LANES):
            e = np.float64(row[j])
            mean[j] += e
            absolute[j] += abs(e)
            half[j] += w * e
        for j in range(LANES):
            below[j] += np.int32(row[j] < 0)
            equal[j] += np.int32(row[j] == 0)
    for j in range(LANES):
        mean[j] /= m
    for i in range(m):
        row = s[i]
        for j in range(LANES):
            d = np.float64(row[j]) - mean[j]
            square[j] += d * d
    for j in range(n):
        out[0, j], out[1, j] = mean[j], absolute[j] / m
        out[2, j], out[3, j] = half[j], square[j] / max(m - 1, 1)
        numbers[0, j], numbers[1, j] = below[j], equal[j]


@compiled(kept=False)
def _beyond(x, limit, sign, count):  # type: ignore[no-untyped-def]
    for i in range(x.shape[0]):
        member = x[i]
        for j in range(limit.size):
            count[j] += np.int32(sign * member[j] > sign * limit[j])


@compiled(kept=False)
def _tail(s, y, limit, sign, weights, absolute, half):  # type: ignore[no-untyped-def]
    m, n = s.shape[0], limit.size
    gap, truth = np.zeros(LANES), np.zeros(LANES)
    total, pairs = np.zeros(LANES), np.zeros(LANES)
    for j in range(n):
        gap[j] = np.float64(limit[j] - y[j])
        truth[j] = max(gap[j], 0.0) if sign > 0 else min(gap[j], 0.0)
    for i in range(m):
        row, w = s[i], weights[i]
        if sign > 0:
            for j in range(LANES):
                e = np.float64(row[j])
                clipped = (e if e > gap[j] else gap[j]) - truth[j]
                total[j] += abs(clipped)
                pairs[j] += w * clipped
        else:
            for j in range(LANES):
                e = np.float64(row[j])
                clipped = (e if e < gap[j] else gap[j]) - truth[j]
                total[j] += abs(clipped)
                pairs[j] += w * clipped
    for j in range(n):
        absolute[j] = total[j] / m
        half[j] = pairs[j]


@compiled(kept=False)
def _lose(out, numbers):  # type: ignore[no-untyped-def]
    for j in range(out.shape[1]):
        if np.isnan(out[0, j]):
            out[:, j] = np.nan
            numbers[:, j] = 0


@compiled(kept=False)
def _keep(s, mean, kept):  # type: ignore[no-untyped-def]
    for i in range(s.shape[0]):
        row, target = s[i], kept[i]
        for j in range(mean.size):
            target[j] = np.nan if np.isnan(mean[j]) else row[j]
