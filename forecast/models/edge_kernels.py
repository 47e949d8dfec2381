"""Loops of the CPU for attention over edges that carry features; see kernels.py for their rules.

Dimensions: B rows (samples x members), N targets, S sources, K edges of a target at most, H heads, D width of a head,
A features of an edge. A target's edges come first in its row of `table`, -1 fills the rest.
"""

from __future__ import annotations

import numpy as np

from forecast.core.compiled import compiled


@compiled(fastmath=True)
def attend(
    query: np.ndarray, to_edge: np.ndarray, key_value: np.ndarray, weight: np.ndarray, out: np.ndarray,
    mean: np.ndarray, edges: np.ndarray, table: np.ndarray,
) -> None:  # fmt: skip
    """out = sum over k of w_k v_k and mean = sum of w_k e_k, w = softmax_k(q . key_k + to_edge . e_k), kept.

    query, out (B, N, H, D); to_edge, mean (B, N, H, A); key_value (B, S, 2, H, D); weight (B, N, H, K);
    edges (N, K, A); table (N, K).
    """
    rows, targets, heads, _ = weight.shape
    width, features = query.shape[3], edges.shape[2]
    for b in range(rows):
        sources = key_value[b]
        for n in range(targets):
            q, t, w, o, m, near = query[b, n], to_edge[b, n], weight[b, n], out[b, n], mean[b, n], table[n]
            count = _count(near)
            for k in range(count):
                key, edge = sources[near[k], 0], edges[n, k]
                for h in range(heads):
                    score = np.float32(0)
                    for d in range(width):
                        score += q[h, d] * key[h, d]
                    for a in range(features):
                        score += t[h, a] * edge[a]
                    w[h, k] = score
            for h in range(heads):
                _softmax(w[h], count)
                o[h] = 0
                m[h] = 0
            for k in range(count):
                value, edge = sources[near[k], 1], edges[n, k]
                for h in range(heads):
                    share = w[h, k]
                    for d in range(width):
                        o[h, d] += share * value[h, d]
                    for a in range(features):
                        m[h, a] += share * edge[a]


@compiled(fastmath=True)
def attend_backward(
    grad: np.ndarray, grad_mean: np.ndarray, query: np.ndarray, to_edge: np.ndarray, key_value: np.ndarray,
    weight: np.ndarray, to_query: np.ndarray, to_to_edge: np.ndarray, to_key_value: np.ndarray,
    edges: np.ndarray, table: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Gradients of `attend`: fills those by query, to_edge and key_value, returns that by edges summed over rows."""
    rows, targets, heads, most = weight.shape
    width, features = query.shape[3], edges.shape[2]
    to_edges = np.zeros_like(edges)
    to_score = np.empty((heads, most), np.float32)
    for b in range(rows):
        sources, to_sources = key_value[b], to_key_value[b]
        to_sources[:] = 0
        for n in range(targets):
            g, gm, q, t, w, near = grad[b, n], grad_mean[b, n], query[b, n], to_edge[b, n], weight[b, n], table[n]
            to_q, to_t = to_query[b, n], to_to_edge[b, n]
            count = _count(near)
            for k in range(count):
                value, to_value, edge, to_e = sources[near[k], 1], to_sources[near[k], 1], edges[n, k], to_edges[n, k]
                for h in range(heads):
                    share, through = w[h, k], np.float32(0)
                    for d in range(width):
                        through += g[h, d] * value[h, d]
                    for d in range(width):
                        to_value[h, d] += share * g[h, d]
                    for a in range(features):
                        through += gm[h, a] * edge[a]
                    for a in range(features):
                        to_e[a] += share * gm[h, a]
                    to_score[h, k] = through
            for h in range(heads):
                total = np.float32(0)
                for k in range(count):
                    total += w[h, k] * to_score[h, k]
                for k in range(count):
                    to_score[h, k] = w[h, k] * (to_score[h, k] - total)
                to_q[h] = 0
                to_t[h] = 0
            for k in range(count):
                key, to_key, edge, to_e = sources[near[k], 0], to_sources[near[k], 0], edges[n, k], to_edges[n, k]
                for h in range(heads):
                    slope = to_score[h, k]
                    for d in range(width):
                        to_q[h, d] += slope * key[h, d]
                    for d in range(width):
                        to_key[h, d] += slope * q[h, d]
                    for a in range(features):
                        to_t[h, a] += slope * edge[a]
                    for a in range(features):
                        to_e[a] += slope * t[h, a]
    return to_edges


@compiled(kept=False, fastmath=True)
def _softmax(x: np.ndarray, count: int) -> None:
    """Of the first `count` numbers; the rest becomes zero."""
    top, total = np.float32(-np.inf), np.float32(0)
    for k in range(count):
        top = max(top, x[k])
    for k in range(count):
        x[k] = np.exp(x[k] - top)
        total += x[k]
    for k in range(count):
        x[k] /= total
    x[count:] = 0


@compiled(kept=False, fastmath=True)
def _count(near: np.ndarray) -> int:
    count = len(near)
    while count and near[count - 1] < 0:
        count -= 1
    return count
