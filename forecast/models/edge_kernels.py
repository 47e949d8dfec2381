"""Loops of the CPU for attention over edges that carry features; see kernels.py for their rules.

Dimensions: B rows (samples x members), N targets, S sources, K edges of a target at most, H heads, D width of a head,
A features of an edge. A target's edges come first in its row of `table`, -1 fills the rest. Arrays are read flat, a
head or an edge's features at a time (vector_code.py), whose lengths are those of the tuples `like` and `like_edge`.
"""

from __future__ import annotations

import numpy as np

from forecast.core.compiled import compiled
from forecast.models.vector_code import add_scaled, dot


@compiled(fastmath=True)
def attend(
    query: np.ndarray, to_edge: np.ndarray, key_value: np.ndarray, weight: np.ndarray, out: np.ndarray,
    mean: np.ndarray, edges: np.ndarray, table: np.ndarray, like: tuple[int, ...], like_edge: tuple[int, ...],
) -> None:  # fmt: skip
    """out = sum over k of w_k v_k and mean = sum of w_k e_k, w = softmax_k(q . key_k + to_edge . e_k), kept.

    query, out (B, N, H, D); to_edge, mean (B, N, H, A); key_value (B, S, 2, H, D); weight (B, N, H, K);
    edges (N, K, A); table (N, K).
    """
    rows, targets, heads, most = weight.shape
    width, features = len(like), len(like_edge)
    q, t, sources, e = query.reshape(-1), to_edge.reshape(-1), key_value.reshape(-1), edges.reshape(-1)
    o, m = out.reshape(-1), mean.reshape(-1)
    o[:], m[:] = 0, 0
    for b in range(rows):
        for n in range(targets):
            count, first = _count(table, n), (b * targets + n) * heads
            for k in range(count):
                key = (b * key_value.shape[1] + table[n, k]) * 2 * heads * width
                edge = (n * most + k) * features
                for h in range(heads):
                    score = dot(q, (first + h) * width, sources, key + h * width, like)
                    weight[b, n, h, k] = score + dot(t, (first + h) * features, e, edge, like_edge)
            _softmax(weight, b, n, count)
            for k in range(count):
                value = (b * key_value.shape[1] + table[n, k]) * 2 * heads * width + heads * width
                edge = (n * most + k) * features
                for h in range(heads):
                    add_scaled(o, (first + h) * width, weight[b, n, h, k], sources, value + h * width, like)
                    add_scaled(m, (first + h) * features, weight[b, n, h, k], e, edge, like_edge)


@compiled(fastmath=True)
def attend_backward(
    grad: np.ndarray, grad_mean: np.ndarray, query: np.ndarray, to_edge: np.ndarray, key_value: np.ndarray,
    weight: np.ndarray, to_query: np.ndarray, to_to_edge: np.ndarray, to_key_value: np.ndarray,
    edges: np.ndarray, table: np.ndarray, like: tuple[int, ...], like_edge: tuple[int, ...],
) -> np.ndarray:  # fmt: skip
    """Gradients of `attend`: fills those by query, to_edge and key_value, returns that by edges summed over rows."""
    rows, targets, heads, most = weight.shape
    width, features = len(like), len(like_edge)
    to_edges, to_score = np.zeros_like(edges), np.empty((heads, most), np.float32)
    g, gm, q, t = grad.reshape(-1), grad_mean.reshape(-1), query.reshape(-1), to_edge.reshape(-1)
    sources, e, to_e = key_value.reshape(-1), edges.reshape(-1), to_edges.reshape(-1)
    to_q, to_t, to_sources = to_query.reshape(-1), to_to_edge.reshape(-1), to_key_value.reshape(-1)
    to_q[:], to_t[:], to_sources[:] = 0, 0, 0
    for b in range(rows):
        for n in range(targets):
            count, first = _count(table, n), (b * targets + n) * heads
            for k in range(count):
                value = (b * key_value.shape[1] + table[n, k]) * 2 * heads * width + heads * width
                edge = (n * most + k) * features
                for h in range(heads):
                    here, from_edge, share = (first + h) * width, (first + h) * features, weight[b, n, h, k]
                    through = dot(g, here, sources, value + h * width, like)
                    to_score[h, k] = through + dot(gm, from_edge, e, edge, like_edge)
                    add_scaled(to_sources, value + h * width, share, g, here, like)
                    add_scaled(to_e, edge, share, gm, from_edge, like_edge)
            for h in range(heads):
                total = np.float32(0)
                for k in range(count):
                    total += weight[b, n, h, k] * to_score[h, k]
                for k in range(count):
                    to_score[h, k] = weight[b, n, h, k] * (to_score[h, k] - total)
            for k in range(count):
                key = (b * key_value.shape[1] + table[n, k]) * 2 * heads * width
                edge = (n * most + k) * features
                for h in range(heads):
                    here, from_edge, slope = (first + h) * width, (first + h) * features, to_score[h, k]
                    add_scaled(to_q, here, slope, sources, key + h * width, like)
                    add_scaled(to_sources, key + h * width, slope, q, here, like)
                    add_scaled(to_t, from_edge, slope, e, edge, like_edge)
                    add_scaled(to_e, edge, slope, t, from_edge, like_edge)
    return to_edges


@compiled(kept=False, fastmath=True)
def _softmax(x: np.ndarray, b: int, n: int, count: int) -> None:
    """Of the first `count` numbers of each head of a target, x (B, N, H, K); the rest becomes zero."""
    for h in range(x.shape[2]):
        top, total = np.float32(-np.inf), np.float32(0)
        for k in range(count):
            top = max(top, x[b, n, h, k])
        for k in range(count):
            x[b, n, h, k] = np.exp(x[b, n, h, k] - top)
        for k in range(count):
            total += x[b, n, h, k]
        for k in range(count):
            x[b, n, h, k] /= total
        for k in range(count, x.shape[3]):
            x[b, n, h, k] = 0


@compiled(kept=False, fastmath=True)
def _count(table: np.ndarray, n: int) -> int:
    """Edges of a target."""
    count = table.shape[1]
    while count and table[n, count - 1] < 0:
        count -= 1
    return count
