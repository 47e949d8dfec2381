"""Loops over points that score an ensemble, or give the score's gradient, each in one pass over the members.

Compiled by numba on first use, and kept on disk where a folder can be written. Rows of LANES points are sorted by a
network: a fixed list of compare-and-exchange steps, each on whole rows, so that every point is a lane of vector
instructions. Members are sorted as integers that order like the numbers; for the gradient, and where members have
weights, the member's number lies in the lower half of a wide key. Scores are summed in float64, each lane by itself, so
that neither threads nor the compiler's choices change a bit.

O outer, I inner points, M members. All compiled code is in this file: what is on disk is renewed when it changes.
"""

from __future__ import annotations

import math

import numpy as np
from numba import literal_unroll

from forecast.core.compiled import compiled
from forecast.losses import crps_layout as layout
from forecast.losses.crps_layout import Cube, Field, Points, Rule

LANES, TILE = layout.LANES, layout.TILE


_jit = compiled(kept=False, fastmath={"contract"})
_kept = compiled(fastmath={"contract"})


@_jit
def _sort(rows: np.ndarray, pairs: np.ndarray) -> None:
    for c in range(pairs.shape[0]):
        i, k = pairs[c, 0], pairs[c, 1]
        for lane in range(LANES):
            a, b = rows[i, lane], rows[k, lane]
            rows[i, lane] = min(a, b)
            rows[k, lane] = max(a, b)


@_jit
def _ordered(bits: np.int32) -> np.int32:
    """Bits of a float32 as an integer that orders like the numbers; undone by `_bits`. Minus zero becomes zero."""
    key = bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))
    return key + np.int32(key == -1)


@_jit
def _bits(key: np.int32) -> np.int32:
    return key ^ ((key >> 31) & np.int32(0x7FFFFFFF))


@_jit
def _load(members: Cube, o: int, i: int, size: int, tile: np.ndarray) -> None:
    """Keys of `size` points from (o, i) on: row, member, lane."""
    for j in range(tile.shape[1]):
        for r in range((size + LANES - 1) // LANES):
            line = members.values[o * members.outer + j * members.member + (i + r * LANES) * members.inner :]
            if members.inner == 1:
                for lane in range(min(LANES, size - r * LANES)):
                    tile[r, j, lane] = line[lane]
            else:
                for lane in range(min(LANES, size - r * LANES)):
                    tile[r, j, lane] = line[lane * members.inner]
            for lane in range(LANES):
                tile[r, j, lane] = _ordered(np.int32(tile[r, j, lane] << members.shift))


@_jit
def _store(tile: np.ndarray, out: Cube, o: int, i: int, size: int) -> None:
    """Bits of float32, rounded if bfloat16 is asked for, to `size` points from (o, i) on."""
    for j in range(tile.shape[1]):
        for r in range((size + LANES - 1) // LANES):
            line = out.values[o * out.outer + j * out.member + (i + r * LANES) * out.inner :]
            if out.shift:
                for lane in range(LANES):
                    tile[r, j, lane] = (tile[r, j, lane] + 0x7FFF + ((tile[r, j, lane] >> 16) & 1)) >> 16
            if out.inner == 1:
                for lane in range(min(LANES, size - r * LANES)):
                    line[lane] = tile[r, j, lane]
            else:
                for lane in range(min(LANES, size - r * LANES)):
                    line[lane * out.inner] = tile[r, j, lane]


@_jit
def _fetch(points: Points, o: int, i: int, size: int, rows: np.ndarray) -> None:
    """A row for each field of `points` that is not one number."""
    f = 0  # enumerate does not go with literal_unroll
    for field in literal_unroll(points):
        line = field.values[o * field.outer + i * field.inner :]
        if field.inner == 1:
            for lane in range(size):
                rows[f, lane] = line[lane]
        elif field.outer or field.inner:
            for lane in range(size):
                rows[f, lane] = line[lane * field.inner]
        f += 1  # noqa: SIM113


@_jit
def _chain(row: np.ndarray, first: np.ndarray, second: np.ndarray, chain: int) -> None:
    """The chaining function, in place."""
    if chain == layout.CLIPPED:
        for lane in range(LANES):
            z = row[lane]
            row[lane] = first[lane] if z < first[lane] else (second[lane] if z > second[lane] else z)
    elif chain == layout.SMOOTH:
        for lane in range(LANES):
            u = (row[lane] - first[lane]) / second[lane]
            bell = math.exp(-0.5 * u * u) / math.sqrt(2 * math.pi)
            row[lane] = second[lane] * (0.5 * u * math.erfc(-u / math.sqrt(2.0)) + bell)


@_jit
def _chain_slope(row: np.ndarray, first: np.ndarray, second: np.ndarray, chain: int) -> None:
    """Its derivative, in place; one half at a threshold."""
    if chain == layout.CLIPPED:
        for lane in range(LANES):
            z = row[lane]
            low = 0.5 * (z > first[lane]) + 0.5 * (z >= first[lane])
            row[lane] = low * (0.5 * (z < second[lane]) + 0.5 * (z <= second[lane]))
    elif chain == layout.SMOOTH:
        for lane in range(LANES):
            row[lane] = 0.5 * math.erfc((first[lane] - row[lane]) / second[lane] / math.sqrt(2.0))


@_jit
def _rank(keys: np.ndarray, pairs: np.ndarray, tagged: np.ndarray, order: np.ndarray) -> bool:
    """Sorts the keys, says whose they were, and whether any two are equal."""
    for j in range(keys.shape[0]):
        for lane in range(LANES):
            tagged[j, lane] = (np.int64(keys[j, lane]) << 32) | j
    _sort(tagged, pairs)
    for p in range(keys.shape[0]):
        for lane in range(LANES):
            keys[p, lane] = tagged[p, lane] >> 32
            order[p, lane] = tagged[p, lane]
    tied = np.int32(0)
    for p in range(1, keys.shape[0]):
        for lane in range(LANES):
            tied |= np.int32(keys[p, lane] == keys[p - 1, lane])
    return tied != 0


@_jit
def _gather(
    share: Cube, order: np.ndarray, o: int, i: int, size: int, alpha: float, mass: np.ndarray, gain: np.ndarray,
    inverse: np.ndarray,
) -> None:  # fmt: skip
    """Weights in sorted order, the inverse of their sum, and what gaps are multiplied with, 0 for a lone member."""
    line = share.values[o * share.outer + i * share.inner :]
    gain[:], inverse[:] = 0.0, 0.0
    for p in range(order.shape[0]):
        for lane in range(size):
            mass[p, lane] = line[(order[p, lane] & 0x7FFFFFFF) * share.member + lane * share.inner]
        for lane in range(LANES):
            gain[lane] += np.float64(mass[p, lane]) * mass[p, lane]
        for lane in range(LANES):
            inverse[lane] += mass[p, lane]
    for lane in range(LANES):
        inverse[lane] = 1 / inverse[lane] if inverse[lane] > 0 else 0.0
        square = gain[lane] * inverse[lane] * inverse[lane]
        gain[lane] = 1 - alpha + alpha / (1 - square) if square < 1 - 1e-9 else 0.0


@_jit
def _total(
    keys: np.ndarray, x: np.ndarray, rows: np.ndarray, rule: Rule, mass: np.ndarray, gain: np.ndarray,
    inverse: np.ndarray, y: np.ndarray, z: np.ndarray, below: np.ndarray, total: np.ndarray,
) -> None:  # fmt: skip
    """Sum of |x - y| (floor + step t), or of w (|x - y| - gain (w below - w above) (x - y)); x: floats of keys."""
    last, first, second = keys.shape[0] - 1, rows[layout.FIRST], rows[layout.SECOND]
    y[:], total[:], below[:] = rows[layout.TRUTH], 0.0, 0.0
    _chain(y, first, second, rule.chain)
    for p in range(last + 1):
        for lane in range(LANES):
            keys[p, lane] = _bits(keys[p, lane])
        for lane in range(LANES):
            z[lane] = x[p, lane]
        if rule.chain:
            _chain(z, first, second, rule.chain)
        if rule.weighted:
            for lane in range(LANES):
                error, w = z[lane] - y[lane], mass[p, lane] * inverse[lane]
                term = w * (abs(error) - gain[lane] * (2 * below[lane] + w - 1) * error)
                total[lane] += term if w != 0 else 0.0
                below[lane] += w
        else:
            right, left = rule.floor + rule.step * (last - p), rule.floor + rule.step * p
            for lane in range(LANES):
                error = z[lane] - y[lane]
                total[lane] += error * (right if error > 0 else -left)


@_kept
def score(
    begin: int, end: int, shape: tuple[int, int, int], members: Cube, share: Cube, points: Points,
    lone: np.ndarray, rule: Rule, pairs: np.ndarray, out: Field, reduced: bool, sums: np.ndarray,
) -> None:  # fmt: skip
    """Scores of the points of pieces begin..end, times their weight: each to `out`, or (sum, sum of weights) by piece.
    shape: O, M, I; share: weights of members, of any sum; lone: rows of LANES first values of the points' fields."""
    outer, count, inner = shape
    across = (inner + TILE * LANES - 1) // (TILE * LANES)
    tile, tagged = np.zeros((TILE, count, LANES), np.int32), np.zeros((count, LANES), np.int64)
    order, mass = np.zeros((count, LANES), np.int32), np.zeros((count, LANES), np.float32)
    rows, lanes = lone.copy(), np.zeros((2, LANES))
    y, z, total = np.zeros(LANES), np.zeros(LANES), np.zeros(LANES)
    gain, inverse, below = np.zeros(LANES), np.zeros(LANES), np.zeros(LANES)
    for piece in range(begin, end):
        lanes[:] = 0.0
        for t in range(piece * layout.PIECE, min((piece + 1) * layout.PIECE, outer * across)):
            o, start = t // across, t % across * TILE * LANES
            width = min(TILE * LANES, inner - start)
            _load(members, o, start, width, tile)
            for r in range((width + LANES - 1) // LANES):
                i, keys = start + r * LANES, tile[r]
                size = min(LANES, inner - i)
                _fetch(points, o, i, size, rows)
                if rule.weighted:
                    _rank(keys, pairs, tagged, order)
                    _gather(share, order, o, i, size, rule.alpha, mass, gain, inverse)
                else:
                    _sort(keys, pairs)
                _total(keys, keys.view(np.float32), rows, rule, mass, gain, inverse, y, z, below, total)
                for lane in range(LANES):
                    total[lane] = total[lane] * rows[layout.WEIGHT, lane] if rows[layout.MASK, lane] != 0 else 0.0
                for lane in range(size if reduced else 0):
                    lanes[0, lane] += total[lane]
                    lanes[1, lane] += rows[layout.WEIGHT, lane] if rows[layout.MASK, lane] != 0 else 0.0
                for lane in range(0 if reduced else size):
                    out.values[o * out.outer + (i + lane) * out.inner] = total[lane]
        sums[piece, 0], sums[piece, 1] = lanes[0].sum(), lanes[1].sum()


@_jit
def _slopes(keys: np.ndarray, goal: np.ndarray, factor: np.ndarray, rule: Rule, slope: np.ndarray) -> None:
    """Of sorted members without ties: sign (floor + step t); of one that equals the truth, the mean of both sides."""
    last = keys.shape[0] - 1
    for p in range(last + 1):
        right, left = np.float32(rule.floor + rule.step * (last - p)), np.float32(rule.floor + rule.step * p)
        equal = np.float32(0.5) * (right - left)
        for lane in range(LANES):
            key = keys[p, lane]
            slope[p, lane] = (right if key > goal[lane] else -left if key < goal[lane] else equal) * factor[lane]


@_jit
def _beyond(keys: np.ndarray, mass: np.ndarray, run: np.ndarray, out: np.ndarray, step: int) -> None:
    """Weight strictly below each sorted member (step 1), or strictly above (step -1)."""
    count = keys.shape[0]
    p = 0 if step > 0 else count - 1
    out[p, :], run[:] = 0, mass[p]
    for _ in range(count - 1):
        q, p = p, p + step
        for lane in range(LANES):
            new = run[lane] if keys[p, lane] != keys[q, lane] else np.float32(0)
            out[p, lane] = max(out[q, lane], new)
        for lane in range(LANES):
            run[lane] += mass[p, lane]


@_jit
def _slopes_of_mass(
    keys: np.ndarray, goal: np.ndarray, factor: np.ndarray, line: np.ndarray, whole: float, mass: np.ndarray,
    low: np.ndarray, slope: np.ndarray,
) -> None:  # fmt: skip
    """Of sorted members with ties or weights: mass sign (floor + step (whole - sign (low - high))).  line: floor, step;
    low: weight below; slope: weight above, overwritten."""
    floor, step, top = line[0], line[1], np.float32(whole)
    for p in range(keys.shape[0]):
        for lane in range(LANES):
            low[p, lane] -= slope[p, lane]
        for lane in range(LANES):
            key, balance = keys[p, lane], low[p, lane]
            size = floor[lane] + step[lane] * (top - balance if key > goal[lane] else top + balance)
            slope[p, lane] = size if key > goal[lane] else (-size if key < goal[lane] else -step[lane] * balance)
        for lane in range(LANES):
            slope[p, lane] *= mass[p, lane] * factor[lane]


@_kept
def gradient(
    begin: int, end: int, shape: tuple[int, int, int], members: Cube, share: Cube, points: Points,
    lone: np.ndarray, rule: Rule, pairs: np.ndarray, out: Cube,
) -> None:  # fmt: skip
    """Gradient of `score` by the members, times points.up, for the points of pieces begin..end."""
    outer, count, inner = shape
    across = (inner + TILE * LANES - 1) // (TILE * LANES)
    tile, tagged = np.zeros((TILE, count, LANES), np.int32), np.zeros((count, LANES), np.int64)
    order, mass = np.zeros((count, LANES), np.int32), np.ones((count, LANES), np.float32)
    rows, low, ranked = lone.copy(), np.zeros((count, LANES), np.float32), np.zeros((count, LANES), np.float32)
    gain, inverse, z = np.zeros(LANES), np.zeros(LANES), np.zeros(LANES)
    y, factor, run = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32), np.zeros(LANES, np.float32)
    line, goal = np.zeros((2, LANES), np.float32), np.zeros(LANES, np.int32)
    line[0], line[1] = rule.floor, 0.5 * rule.step
    for t in range(begin * layout.PIECE, min(end * layout.PIECE, outer * across)):
        o, start = t // across, t % across * TILE * LANES
        width = min(TILE * LANES, inner - start)
        _load(members, o, start, width, tile)
        for r in range((width + LANES - 1) // LANES):
            i, keys = start + r * LANES, tile[r]
            x, size = keys.view(np.float32), min(LANES, inner - i)
            _fetch(points, o, i, size, rows)
            for lane in range(LANES):
                y[lane], factor[lane] = rows[layout.TRUTH, lane], rows[layout.UP, lane] * rows[layout.WEIGHT, lane]
                factor[lane] = factor[lane] if rows[layout.MASK, lane] != 0 else 0.0
            for lane in range(LANES):
                goal[lane] = _ordered(y.view(np.int32)[lane])
            tied = _rank(keys, pairs, tagged, order)
            if rule.weighted:
                _gather(share, order, o, i, size, rule.alpha, mass, gain, inverse)
                line[0], line[1] = 1 - gain, gain
                for p in range(count):
                    for lane in range(LANES):
                        mass[p, lane] *= inverse[lane]
            if rule.weighted or tied:
                _beyond(keys, mass, run, low, 1)
                _beyond(keys, mass, run, ranked, -1)
                _slopes_of_mass(keys, goal, factor, line, 1 if rule.weighted else count - 1, mass, low, ranked)
            else:
                _slopes(keys, goal, factor, rule, ranked)
            if rule.chain:
                for p in range(count):
                    for lane in range(LANES):
                        keys[p, lane] = _bits(keys[p, lane])
                    for lane in range(LANES):
                        z[lane] = x[p, lane]
                    _chain_slope(z, rows[layout.FIRST], rows[layout.SECOND], rule.chain)
                    for lane in range(LANES):
                        ranked[p, lane] = ranked[p, lane] * z[lane] if ranked[p, lane] != 0 else 0.0
            for p in range(count):
                for lane in range(LANES):
                    x[order[p, lane] & 0x7FFFFFFF, lane] = ranked[p, lane]
        _store(tile, out, o, start, width)
