"""Window attention on the CPU for narrow heads: a block of 16 queries meets the keys of its window chunk by chunk.

Scores of a chunk lie in a small array that never leaves the core's cache, key by key, the block's queries side by side
in one vector, and what is summed over keys stays in registers. numba's vectoriser does not manage that, so the inner
loops are vector code of LLVM (vector_code.py). Queries are scaled by log2(e) / sqrt(D), as exponentials are
powers of two. All is float32. The width D of heads is known when a loop is compiled: it is the length of a tuple.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.core import cgutils

from forecast.core.compiled import compiled
from forecast.models import vector_code
from forecast.models.vector_code import LANES, LONG, Code, function, intrinsic

WIDTHS = (8, 16, 32)
"""of heads that these loops serve; what wider ones need does not fit into registers"""
CHUNK, UNROLLED = 128, 4
LOWEST, LOG2E = np.float32(-1e38), np.float32(vector_code.LOG2E)


@intrinsic
def products(typing: Any, q: Any, k: Any, out: Any, count: Any, like: Any) -> Any:
    """products(q, k, out, count, like): out[j, lane] = sum over d of q[d, lane] * k[j, d]; count a multiple of 4."""
    width = like.count

    def emit(b: Any, q: Any, k: Any, out: Any, count: Any) -> None:
        code = Code(b)
        held = [code.load(q, LONG(0), d * LANES) for d in range(width)]
        with cgutils.for_range_slice(b, LONG(0), count, LONG(UNROLLED)) as (j, _):
            row, place = b.mul(j, LONG(width)), b.mul(j, LONG(LANES))
            sums = [code.number(0.0)] * UNROLLED
            for d in range(width):
                for u in range(UNROLLED):
                    sums[u] = code.call("fma", held[d], code.spread(k, row, u * width + d), sums[u])
            for u in range(UNROLLED):
                code.store(sums[u], out, place, u * LANES)

    return function(emit, 3)(typing, q, k, out, count, like)


@intrinsic
def gather(typing: Any, p: Any, v: Any, out: Any, count: Any, like: Any) -> Any:
    """gather(p, v, out, count, like): out[d, lane] += sum over j of p[j, lane] * v[j, d]."""
    width = like.count

    def emit(b: Any, p: Any, v: Any, out: Any, count: Any) -> None:
        code = Code(b)
        sums = code.sums(width, out)
        with cgutils.for_range(b, count) as loop:
            row, share = b.mul(loop.index, LONG(width)), code.load(p, b.mul(loop.index, LONG(LANES)))
            for d, slot in enumerate(sums):
                b.store(code.call("fma", share, code.spread(v, row, d), b.load(slot)), slot)
        for d, slot in enumerate(sums):
            code.store(b.load(slot), out, LONG(0), d * LANES)

    return function(emit, 3)(typing, p, v, out, count, like)


@intrinsic
def scatter(typing: Any, p: Any, x: Any, out: Any, count: Any, like: Any) -> Any:
    """scatter(p, x, out, count, like): out[j, d] += sum over lanes of p[j, lane] * x[lane, d]."""
    width = like.count
    lanes = min(width, LANES)

    def emit(b: Any, p: Any, x: Any, out: Any, count: Any) -> None:
        code = Code(b, lanes)
        for begin in range(0, width, lanes):
            held = [code.load(x, LONG(0), i * width + begin) for i in range(LANES)]
            with cgutils.for_range(b, count) as loop:
                row, place = b.mul(loop.index, LONG(width)), b.mul(loop.index, LONG(LANES))
                sums = [code.load(out, row, begin), code.number(0.0)]
                for i in range(LANES):
                    sums[i % 2] = code.call("fma", held[i], code.spread(p, place, i), sums[i % 2])
                code.store(b.fadd(*sums), out, row, begin)

    return function(emit, 3)(typing, p, x, out, count, like)


@intrinsic
def highest(typing: Any, s: Any, top: Any, count: Any) -> Any:
    """highest(s, top, count): top[lane] = max(top[lane], s[j, lane])."""

    def emit(b: Any, s: Any, top: Any, count: Any) -> None:
        code = Code(b)
        (slot,) = code.sums(1, top)
        with cgutils.for_range(b, count) as loop:
            value = code.load(s, b.mul(loop.index, LONG(LANES)))
            b.store(code.higher(value, b.load(slot)), slot)
        code.store(b.load(slot), top, LONG(0))

    return function(emit, 2)(typing, s, top, count)


@intrinsic
def powers(typing: Any, s: Any, top: Any, total: Any, count: Any) -> Any:
    """powers(s, top, total, count): s = 2^(s - top) in place, whose sums over j are added to total."""

    def emit(b: Any, s: Any, top: Any, total: Any, count: Any) -> None:
        code = Code(b)
        height = code.load(top, LONG(0))
        (slot,) = code.sums(1, total)
        with cgutils.for_range(b, count) as loop:
            place = b.mul(loop.index, LONG(LANES))
            value = code.power_of_two(b.fsub(code.load(s, place), height))
            code.store(value, s, place)
            b.store(b.fadd(value, b.load(slot)), slot)
        code.store(b.load(slot), total, LONG(0))

    return function(emit, 3)(typing, s, top, total, count)


@intrinsic
def slopes(typing: Any, p: Any, g: Any, mean: Any, count: Any) -> Any:
    """slopes(p, g, mean, count): g = p * (g - mean) in place."""

    def emit(b: Any, p: Any, g: Any, mean: Any, count: Any) -> None:
        code = Code(b)
        centre = code.load(mean, LONG(0))
        with cgutils.for_range(b, count) as loop:
            place = b.mul(loop.index, LONG(LANES))
            code.store(b.fmul(code.load(p, place), b.fsub(code.load(g, place), centre)), g, place)

    return function(emit, 3)(typing, p, g, mean, count)


@compiled
def attend(qkv: np.ndarray, out: np.ndarray, logsumexp: np.ndarray, window: int, like: tuple[int, ...]) -> None:
    """Fill out (B, N, H, D) and logsumexp (B, H, N), to base 2, from qkv (B, N, 3, H, D); `like` has D elements."""
    width = len(like)
    factor = LOG2E / np.float32(np.sqrt(width))
    rows, nodes, _, heads, _ = qkv.shape
    key, value = np.zeros((nodes + CHUNK, width), np.float32), np.zeros((nodes + CHUNK, width), np.float32)
    q, o = np.empty((width, LANES), np.float32), np.empty((width, LANES), np.float32)
    s = np.empty((CHUNK, LANES), np.float32)
    top, old, total = np.empty(LANES, np.float32), np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    unused = np.zeros(LANES, np.float32)
    for b in range(rows):
        for h in range(heads):
            key[:nodes], value[:nodes] = qkv[b, :, 1, h], qkv[b, :, 2, h]
            for i in range(0, nodes, LANES):
                _columns(qkv[b, :, 0, h], i, factor, q)
                o[:], top[:], total[:] = 0, LOWEST, 0
                last = min(nodes, i + LANES + window)
                for j in range(max(0, i - window), last, CHUNK):
                    count = min(CHUNK, last - j)
                    products(q, key[j:], s, (count + 3) // 4 * 4, like)
                    _outside(s, i, j, count, window)
                    old[:] = top
                    highest(s, top, count)
                    powers(old, top, unused, 1)  # what earlier sums count for now
                    for lane in range(LANES):
                        total[lane] *= old[lane]
                    for d in range(width):
                        for lane in range(LANES):
                            o[d, lane] *= old[lane]
                    powers(s, top, total, count)
                    gather(s, value[j:], o, count, like)
                for lane in range(min(LANES, nodes - i)):
                    logsumexp[b, h, i + lane] = top[lane] + np.log2(total[lane])
                    for d in range(width):
                        out[b, i + lane, h, d] = o[d, lane] / total[lane]


@compiled
def attend_backward(
    grad: np.ndarray, qkv: np.ndarray, out: np.ndarray, logsumexp: np.ndarray, to_qkv: np.ndarray, window: int,
    like: tuple[int, ...],
) -> None:  # fmt: skip
    """Fill the gradient by qkv."""
    width = len(like)
    scale = np.float32(1) / np.float32(np.sqrt(width))
    rows, nodes, _, heads, _ = qkv.shape
    key, value = np.zeros((nodes + CHUNK, width), np.float32), np.zeros((nodes + CHUNK, width), np.float32)
    to_key, to_value = np.empty_like(key), np.empty_like(value)
    q, g, to_q = (np.empty((width, LANES), np.float32), np.empty((width, LANES), np.float32),
                  np.empty((width, LANES), np.float32))  # fmt: skip
    query_rows, grad_rows = np.empty((LANES, width), np.float32), np.empty((LANES, width), np.float32)
    p, s = np.empty((CHUNK, LANES), np.float32), np.empty((CHUNK, LANES), np.float32)
    height, mean, unused = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32), np.zeros(LANES, np.float32)
    for b in range(rows):
        for h in range(heads):
            key[:nodes], value[:nodes] = qkv[b, :, 1, h], qkv[b, :, 2, h]
            to_key[:], to_value[:] = 0, 0
            for i in range(0, nodes, LANES):
                _columns(qkv[b, :, 0, h], i, scale * LOG2E, q)
                _columns(grad[b, :, h], i, np.float32(1), g)
                to_q[:], query_rows[:], grad_rows[:], height[:], mean[:] = 0, 0, 0, 0, 0
                for lane in range(min(LANES, nodes - i)):
                    height[lane] = logsumexp[b, h, i + lane]
                    for d in range(width):
                        query_rows[lane, d] = scale * qkv[b, i + lane, 0, h, d]
                        grad_rows[lane, d] = grad[b, i + lane, h, d]
                        mean[lane] += grad[b, i + lane, h, d] * out[b, i + lane, h, d]
                last = min(nodes, i + LANES + window)
                for j in range(max(0, i - window), last, CHUNK):
                    count = min(CHUNK, last - j)
                    products(q, key[j:], p, (count + 3) // 4 * 4, like)
                    _outside(p, i, j, count, window)
                    powers(p, height, unused, count)
                    products(g, value[j:], s, (count + 3) // 4 * 4, like)
                    slopes(p, s, mean, count)
                    gather(s, key[j:], to_q, count, like)
                    scatter(p, grad_rows, to_value[j:], count, like)
                    scatter(s, query_rows, to_key[j:], count, like)
                for lane in range(min(LANES, nodes - i)):
                    for d in range(width):
                        to_qkv[b, i + lane, 0, h, d] = scale * to_q[d, lane]
            to_qkv[b, :, 1, h], to_qkv[b, :, 2, h] = to_key[:nodes], to_value[:nodes]


@compiled(kept=False)
def _columns(x: np.ndarray, begin: int, factor: float, out: np.ndarray) -> None:
    """out[d, lane] = factor * x[begin + lane, d], zero behind the end of x."""
    for lane in range(LANES):
        for d in range(out.shape[0]):
            out[d, lane] = factor * x[begin + lane, d] if begin + lane < x.shape[0] else 0


@compiled(kept=False)
def _outside(s: np.ndarray, i: int, j: int, count: int, window: int) -> None:
    """Scores of pairs that are more than `window` apart become lowest; only keys at the window's ends have such."""
    before, behind = i + LANES - 1 - window - j, i + window + 1 - j
    for k in range(min(before, count)):
        for lane in range(LANES):
            if i + lane - j - k > window:
                s[k, lane] = LOWEST
    for k in range(max(behind, 0), count):
        for lane in range(LANES):
            if j + k - i - lane > window:
                s[k, lane] = LOWEST
