"""The compiled pass: blocks of points side by side, sorted over members by a network of comparators.

A comparator takes the smaller and the larger of two rows of 128 points, which is two vector instructions for each
eight or sixteen of them; nothing is transposed and no branch depends on data. The network is Batcher's odd-even
merge sort (1968). Beyond 80 members numpy's own sort is faster and takes its place.

Eight such blocks are loaded at once, because memory gives rows of 4 KB several times as fast as rows of 512 bytes.
A block is flat, row behind row: numba makes vector instructions of loops over one array at several fixed distances,
not of loops over several arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from forecast.core.compiled import compiled
from forecast.verification import fused

LANES = 128
BLOCKS = 8
SPAN = BLOCKS * LANES
FOUR = 4
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
    if m <= LARGEST_NETWORK:
        return lambda begin, end: _pass(x, y, x, y, 0, t, signs, weights, pairs, floats, counts, kept, begin, end)

    def points(begin: int, end: int) -> None:
        for first in range(begin, end, fused.BLOCK):
            last = min(first + fused.BLOCK, end)
            errors = np.subtract(x[:, first:last].T, y[first:last, None], order="C")
            errors.sort(axis=1)
            ready, nought = np.ascontiguousarray(errors.T), np.zeros(last - first, x.dtype)
            _pass(x, y, ready, nought, first, t, signs, weights, pairs, floats, counts, kept, first, last)

    return points


@compiled
def _pass(  # type: ignore[no-untyped-def]
    x, y, source, origin, shift, t, signs, weights, pairs, floats, counts, kept, begin, end
):
    """Errors are source - origin: x - y, or those sorted and 0; both begin at point `shift`."""
    tails = (floats.shape[0] - 4) // 2
    blocks = np.zeros((BLOCKS, x.shape[0] * LANES), x.dtype)
    for first in range(begin, end, SPAN):
        last = min(first + SPAN, end)
        _load(source, origin, first - shift, last - shift, blocks)
        for i in range(t.shape[0]):
            _beyond(x, t[i], signs[i], counts[2 + i], first, last)
        for at in range(first, last, LANES):
            to, s = min(at + LANES, last), blocks[(at - first) // LANES]
            out, numbers = floats[:, at:to], counts[:, at:to]
            _sort(s, pairs)
            _moments(s, weights, out, numbers)
            for i in range(tails):
                _tail(s, y[at:to], t[i, at:to], signs[i], weights, out[4 + i], out[4 + tails + i])
            _lose(out, numbers)
            if kept.size:
                _keep(s, out[0], kept[:, at:to])


@compiled(kept=False)
def _load(source, origin, begin, end, blocks):  # type: ignore[no-untyped-def]
    for i in range(source.shape[0]):
        for at in range(begin, end, LANES):
            member, truth = source[i, at : min(at + LANES, end)], origin[at : min(at + LANES, end)]
            row = blocks[(at - begin) // LANES, i * LANES : (i + 1) * LANES]
            for j in range(truth.size):
                row[j] = member[j] - truth[j]


@compiled(kept=False)
def _sort(s, pairs):  # type: ignore[no-untyped-def]
    for p in range(pairs.shape[0]):
        low, high = s[pairs[p, 0] * LANES :][:LANES], s[pairs[p, 1] * LANES :][:LANES]
        for j in range(LANES):
            a, b = low[j], high[j]
            low[j] = a if a < b else b  # a NaN stays in one of the two, so that the sum finds it
            high[j] = b if a < b else a


@compiled(kept=False)
def _moments(s, weights, out, numbers):  # type: ignore[no-untyped-def]
    m, n = weights.size, out.shape[1]
    sums, square, count = np.zeros(3 * LANES), np.zeros(LANES), np.zeros(2 * LANES, np.int32)
    for i in range(0, m - m % FOUR, FOUR):
        _add_four(s[i * LANES :], weights[i:], sums, count)
    for i in range(m - m % FOUR, m):
        _add_one(s[i * LANES :], weights[i], sums, count)
    for j in range(LANES):
        sums[j] /= m
    for i in range(0, m - m % FOUR, FOUR):
        _square_four(s[i * LANES :], sums, square)
    for i in range(m - m % FOUR, m):
        for j in range(LANES):
            d = np.float64(s[i * LANES + j]) - sums[j]
            square[j] += d * d
    for j in range(n):
        out[0, j], out[1, j] = sums[j], sums[LANES + j] / m
        out[2, j], out[3, j] = sums[2 * LANES + j], square[j] / max(m - 1, 1)
        numbers[0, j], numbers[1, j] = count[j], count[LANES + j]


@compiled(kept=False)
def _add_four(s, w, sums, count):  # type: ignore[no-untyped-def]
    """Four rows at once, in order: sums go through memory a quarter as often."""
    u, v, p, q = w[0], w[1], w[2], w[3]
    for j in range(LANES):
        a, b = np.float64(s[j]), np.float64(s[LANES + j])
        c, d = np.float64(s[2 * LANES + j]), np.float64(s[3 * LANES + j])
        sums[j] = sums[j] + a + b + c + d
        sums[LANES + j] = sums[LANES + j] + abs(a) + abs(b) + abs(c) + abs(d)
        sums[2 * LANES + j] = sums[2 * LANES + j] + u * a + v * b + p * c + q * d
    for j in range(LANES):
        a, b, c, d = s[j], s[LANES + j], s[2 * LANES + j], s[3 * LANES + j]
        count[j] += np.int32(a < 0) + np.int32(b < 0) + np.int32(c < 0) + np.int32(d < 0)
        count[LANES + j] += np.int32(a == 0) + np.int32(b == 0) + np.int32(c == 0) + np.int32(d == 0)


@compiled(kept=False)
def _add_one(s, w, sums, count):  # type: ignore[no-untyped-def]
    for j in range(LANES):
        e = np.float64(s[j])
        sums[j] += e
        sums[LANES + j] += abs(e)
        sums[2 * LANES + j] += w * e
    for j in range(LANES):
        count[j] += np.int32(s[j] < 0)
        count[LANES + j] += np.int32(s[j] == 0)


@compiled(kept=False)
def _square_four(s, mean, square):  # type: ignore[no-untyped-def]
    for j in range(LANES):
        a, b = np.float64(s[j]) - mean[j], np.float64(s[LANES + j]) - mean[j]
        c, d = np.float64(s[2 * LANES + j]) - mean[j], np.float64(s[3 * LANES + j]) - mean[j]
        square[j] = square[j] + a * a + b * b + c * c + d * d


@compiled(kept=False)
def _beyond(x, limits, sign, counts, begin, end):  # type: ignore[no-untyped-def]
    limit, count = sign * limits[begin:end], counts[begin:end]
    for i in range(x.shape[0]):
        member = x[i, begin:end]
        for j in range(limit.size):
            count[j] += np.int32(sign * member[j] > limit[j])


@compiled(kept=False)
def _tail(s, y, limit, sign, weights, absolute, half):  # type: ignore[no-untyped-def]
    m, n = weights.size, limit.size
    gap, truth = np.zeros(LANES), np.zeros(LANES)
    total, pairs = np.zeros(LANES), np.zeros(LANES)
    for j in range(n):
        gap[j] = np.float64(limit[j] - y[j])
        truth[j] = max(gap[j], 0.0) if sign > 0 else min(gap[j], 0.0)
    for i in range(m):
        row, w = s[i * LANES : (i + 1) * LANES], weights[i]
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
    for i in range(kept.shape[0]):
        row, target = s[i * LANES : (i + 1) * LANES], kept[i]
        for j in range(mean.size):
            target[j] = np.nan if np.isnan(mean[j]) else row[j]
