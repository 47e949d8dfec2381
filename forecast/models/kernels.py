"""Loops that the CPU runs where torch has no fused operator: attention over neighbours, conditional layer norm.

float32 only. Rows of the batch are shared out among as many threads as torch uses.
A loop that sums stores nothing else: otherwise the compiler would choose at run time, by where the arrays happen to
lie, between scalar and vector code, whose sums differ in the last bit, and a run would not repeat itself.
The operators that use them, with the same formulas in torch for other devices, are in operators.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from forecast.core import threads
from forecast.core.compiled import compiled


def over_rows(loop: Callable[..., Any], rows: Sequence[np.ndarray], whole: Sequence[Any]) -> list[Any]:
    """Run loop(*rows, *whole) with the arrays `rows` cut along their first axis, one piece per thread.

    Returns what the loop returns for each piece.
    """

    def piece(begin: int, end: int) -> Any:
        return loop(*(array[begin:end] for array in rows), *whole)

    return threads.share(piece, len(rows[0]), torch.get_num_threads())


@compiled(fastmath=True)
def attend(
    query: np.ndarray, key_value: np.ndarray, weight: np.ndarray, out: np.ndarray,
    bias: np.ndarray, gate: np.ndarray, table: np.ndarray,
) -> None:  # fmt: skip
    """out = sum over k of softmax_k(q . k + bias) * gate * v; the softmax stays in `weight`.

    query, out (B, N, H, D); key_value (B, S, 2, H, D); weight (B, N, H, K); bias, gate (N, H, K); table (N, K).
    """
    rows, targets, heads, neighbours = weight.shape
    width = query.shape[3]
    for b in range(rows):
        sources = key_value[b]
        for n in range(targets):
            q, w, o, near = query[b, n], weight[b, n], out[b, n], table[n]
            for k in range(neighbours):
                key = sources[near[k], 0]
                for h in range(heads):
                    score = np.float32(0)
                    for d in range(width):
                        score += q[h, d] * key[h, d]
                    w[h, k] = score + bias[n, h, k]
            for h in range(heads):
                _softmax(w[h])
                for d in range(width):
                    o[h, d] = 0
            for k in range(neighbours):
                value = sources[near[k], 1]
                for h in range(heads):
                    factor = w[h, k] * gate[n, h, k]
                    for d in range(width):
                        o[h, d] += factor * value[h, d]


@compiled(kept=False, fastmath=True)
def _softmax(x: np.ndarray) -> None:
    top, total = np.float32(-np.inf), np.float32(0)
    for k in range(x.shape[0]):
        top = max(top, x[k])
    for k in range(x.shape[0]):
        x[k] = np.exp(x[k] - top)
        total += x[k]
    for k in range(x.shape[0]):
        x[k] /= total


@compiled(fastmath=True)
def attend_backward(
    grad: np.ndarray, query: np.ndarray, key_value: np.ndarray, weight: np.ndarray,
    to_query: np.ndarray, to_key_value: np.ndarray, gate: np.ndarray, table: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Gradients of `attend`: fills to_query and to_key_value, returns those of bias and gate summed over rows."""
    rows, targets, heads, neighbours = weight.shape
    width = query.shape[3]
    to_bias, to_gate = np.zeros_like(gate), np.zeros_like(gate)
    to_score = np.empty((heads, neighbours), np.float32)
    for b in range(rows):
        sources, to_sources = key_value[b], to_key_value[b]
        to_sources[:] = 0
        for n in range(targets):
            g, q, to_q, w, near = grad[b, n], query[b, n], to_query[b, n], weight[b, n], table[n]
            for k in range(neighbours):
                value, to_value = sources[near[k], 1], to_sources[near[k], 1]
                for h in range(heads):
                    factor, through = w[h, k] * gate[n, h, k], np.float32(0)
                    for d in range(width):
                        through += g[h, d] * value[h, d]
                    for d in range(width):
                        to_value[h, d] += factor * g[h, d]
                    to_gate[n, h, k] += through * w[h, k]
                    to_score[h, k] = through * gate[n, h, k]
            for h in range(heads):
                mean = np.float32(0)
                for k in range(neighbours):
                    mean += w[h, k] * to_score[h, k]
                for k in range(neighbours):
                    to_score[h, k] = w[h, k] * (to_score[h, k] - mean)
                    to_bias[n, h, k] += to_score[h, k]
                for d in range(width):
                    to_q[h, d] = 0
            for k in range(neighbours):
                key, to_key = sources[near[k], 0], to_sources[near[k], 0]
                for h in range(heads):
                    factor = to_score[h, k]
                    for d in range(width):
                        to_q[h, d] += factor * key[h, d]
                    for d in range(width):
                        to_key[h, d] += factor * q[h, d]
    return to_bias, to_gate


@compiled(fastmath=True)
def conditional_norm(
    x: np.ndarray, condition: np.ndarray, out: np.ndarray, moments: np.ndarray, weight: np.ndarray, bias: np.ndarray
) -> None:
    """out = (x - mean) / stdev * (1 + scale) + shift, (scale, shift) = condition @ weight + bias.

    x, out (R, D); condition (R, C); moments (R, 2) gets mean and 1 / stdev; weight (C, 2, D); bias (2, D).
    """
    rows, width = x.shape
    scale, shift = np.empty(width, np.float32), np.empty(width, np.float32)
    for r in range(rows):
        row, o = x[r], out[r]
        mean, square = np.float32(0), np.float32(0)
        for d in range(width):
            mean += row[d]
        mean /= np.float32(width)
        for d in range(width):
            square += (row[d] - mean) * (row[d] - mean)
        for d in range(width):
            scale[d] = np.float32(1) + bias[0, d]
            shift[d] = bias[1, d]
        inverse = np.float32(1) / np.sqrt(square / np.float32(width) + np.float32(1e-5))
        moments[r, 0], moments[r, 1] = mean, inverse
        for c in range(condition.shape[1]):
            value, to_scale, to_shift = condition[r, c], weight[c, 0], weight[c, 1]
            for d in range(width):
                scale[d] += value * to_scale[d]
                shift[d] += value * to_shift[d]
        for d in range(width):
            o[d] = (row[d] - mean) * inverse * scale[d] + shift[d]


@compiled(fastmath=True)
def conditional_norm_backward(
    grad: np.ndarray, x: np.ndarray, condition: np.ndarray, moments: np.ndarray, to_x: np.ndarray,
    to_condition: np.ndarray, weight: np.ndarray, bias: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Gradients of `conditional_norm`: fills those by x and condition, returns those by weight and bias."""
    rows, width = x.shape
    channels = condition.shape[1]
    to_weight, to_bias = np.zeros_like(weight), np.zeros_like(bias)
    factor, normed, through, to_scale = (np.empty(width, np.float32), np.empty(width, np.float32),
                                         np.empty(width, np.float32), np.empty(width, np.float32))  # fmt: skip
    for r in range(rows):
        row, g, to_row, mean, inverse = x[r], grad[r], to_x[r], moments[r, 0], moments[r, 1]
        for d in range(width):
            factor[d] = np.float32(1) + bias[0, d]
        for c in range(channels):
            for d in range(width):
                factor[d] += condition[r, c] * weight[c, 0, d]
        for d in range(width):
            normed[d] = (row[d] - mean) * inverse
        for d in range(width):
            through[d] = g[d] * factor[d]
        first, second = np.float32(0), np.float32(0)
        for d in range(width):
            first += through[d]
            second += through[d] * normed[d]
        first /= np.float32(width)
        second /= np.float32(width)
        for d in range(width):
            to_row[d] = (through[d] - first - normed[d] * second) * inverse
        for d in range(width):
            to_scale[d] = g[d] * normed[d]
        for c in range(channels):
            total = np.float32(0)
            for d in range(width):
                total += to_scale[d] * weight[c, 0, d] + g[d] * weight[c, 1, d]
            to_condition[r, c] = total
            for d in range(width):
                to_weight[c, 0, d] += condition[r, c] * to_scale[d]
            for d in range(width):
                to_weight[c, 1, d] += condition[r, c] * g[d]
        for d in range(width):
            to_bias[0, d] += to_scale[d]
        for d in range(width):
            to_bias[1, d] += g[d]
    return to_weight, to_bias
