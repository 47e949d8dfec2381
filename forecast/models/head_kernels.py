"""Layer norms of heads on the CPU: a head is one vector (vector_code.py) as wide as the tuple `like` has elements."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from forecast.core.compiled import compiled
from forecast.models.vector_code import FLOAT, Code, intrinsic, pointers

EPSILON = 1e-5


def _centred(code: Code, x: Any, at: Any) -> Any:
    """x - mean."""
    value = code.load(x, at)
    mean = code.builder.fmul(code.total(value), FLOAT(1 / code.kind.count))
    return code.builder.fsub(value, code.fill(mean))


@intrinsic
def norm(typing: Any, x: Any, at: Any, out: Any, weight: Any, place: Any, like: Any) -> Any:
    """norm(x, at, out, weight, place, like): out = (x - mean) / stdev * weight, of flat arrays; returns 1 / stdev."""

    def lower(context: Any, b: Any, signature: Any, values: Any) -> Any:
        code, (x, out, weight) = Code(b, like.count), pointers(context, b, signature, values, (0, 2, 3))
        centred = _centred(code, x, values[1])
        variance = b.fmul(code.total(b.fmul(centred, centred)), FLOAT(1 / like.count))
        root = b.module.declare_intrinsic("llvm.sqrt", [FLOAT], ir.FunctionType(FLOAT, [FLOAT]))
        inverse = b.fdiv(FLOAT(1.0), b.call(root, [b.fadd(variance, FLOAT(EPSILON))]))
        scaled = b.fmul(b.fmul(centred, code.fill(inverse)), code.load(weight, values[4]))
        code.store(scaled, out, values[1])
        return inverse

    return types.float32(x, at, out, weight, place, like), lower


@intrinsic
def slopes(
    typing: Any, grad: Any, x: Any, at: Any, inverse: Any, weight: Any, to_weight: Any, place: Any, out: Any, like: Any
) -> Any:
    """slopes(grad, ..., out, like): out = gradient by x[at...]; adds to that by weight[place...]."""

    def lower(context: Any, b: Any, signature: Any, values: Any) -> Any:
        code, at, place = Code(b, like.count), values[2], values[6]
        grad, x, weight, to_weight, out = pointers(context, b, signature, values, (0, 1, 4, 5, 7))
        inverse = code.fill(values[3])
        normed, change = b.fmul(_centred(code, x, at), inverse), code.load(grad, at)
        code.store(code.call("fma", change, normed, code.load(to_weight, place)), to_weight, place)
        through = b.fmul(change, code.load(weight, place))
        share = FLOAT(1 / like.count)
        first, second = (code.fill(b.fmul(code.total(x), share)) for x in (through, b.fmul(through, normed)))
        rest = b.fsub(b.fsub(through, first), b.fmul(normed, second))
        code.store(b.fmul(rest, inverse), out, at)
        return context.get_dummy_value()

    return types.void(grad, x, at, types.float32, weight, to_weight, place, out, like), lower


@compiled
def head_norm(qkv: np.ndarray, out: np.ndarray, inverse: np.ndarray, weight: np.ndarray, like: tuple[int, ...]) -> None:
    """out = qkv with queries and keys of each head normed: (x - mean) / stdev * weight; values as they are.

    qkv, out (R, 3, H, D); inverse (R, 2, H) gets 1 / stdev; weight (2, D).
    """
    rows, _, heads, _ = qkv.shape
    width = len(like)
    x, o, factor = qkv.reshape(-1), out.reshape(-1), weight.reshape(-1)
    for r in range(rows):
        for i in range(2):
            for h in range(heads):
                inverse[r, i, h] = norm(x, ((r * 3 + i) * heads + h) * width, o, factor, i * width, like)
        begin, end = (r * 3 + 2) * heads * width, (r * 3 + 3) * heads * width
        o[begin:end] = x[begin:end]


@compiled
def head_norm_backward(
    grad: np.ndarray, qkv: np.ndarray, inverse: np.ndarray, to_qkv: np.ndarray, weight: np.ndarray,
    like: tuple[int, ...],
) -> np.ndarray:  # fmt: skip
    """Gradients of `head_norm`: fills that by qkv, returns that by weight."""
    rows, _, heads, _ = qkv.shape
    width = len(like)
    to_weight = np.zeros_like(weight)
    g, x, o = grad.reshape(-1), qkv.reshape(-1), to_qkv.reshape(-1)
    factor, to_factor = weight.reshape(-1), to_weight.reshape(-1)
    for r in range(rows):
        for i in range(2):
            for h in range(heads):
                at = ((r * 3 + i) * heads + h) * width
                slopes(g, x, at, inverse[r, i, h], factor, to_factor, i * width, o, like)
        begin, end = (r * 3 + 2) * heads * width, (r * 3 + 3) * heads * width
        o[begin:end] = g[begin:end]
    return to_weight
