"""GELU and its slope on the CPU: one exponential gives both; float32, as vector code (vector_code.py)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.core import cgutils

from forecast.core.compiled import compiled
from forecast.models.vector_code import LANES, LONG, Code, function, intrinsic

HEIGHT = 0.3989422804014327
"""of the normal's density at 0"""


@intrinsic
def gelus(typing: Any, x: Any, count: Any) -> Any:
    """gelus(x, count): x = x * Phi(x) in place; count a multiple of LANES."""

    def emit(b: Any, x: Any, count: Any) -> None:
        code = Code(b)
        with cgutils.for_range_slice(b, LONG(0), count, LONG(LANES)) as (i, _):
            value = code.load(x, i)
            code.store(b.fmul(value, code.normal(value)[0]), x, i)

    return function(emit, 1)(typing, x, count)


@intrinsic
def slopes(typing: Any, x: Any, slope: Any, count: Any) -> Any:
    """slopes(x, slope, count): slope *= Phi(x) + x * density(x), and x = x * Phi(x), in place."""

    def emit(b: Any, x: Any, slope: Any, count: Any) -> None:
        code = Code(b)
        with cgutils.for_range_slice(b, LONG(0), count, LONG(LANES)) as (i, _):
            value = code.load(x, i)
            below, bell = code.normal(value)
            rise = code.call("fma", b.fmul(value, code.number(HEIGHT)), bell, below)
            code.store(b.fmul(code.load(slope, i), rise), slope, i)
            code.store(b.fmul(value, below), x, i)

    return function(emit, 2)(typing, x, slope, count)


@compiled
def gelu(x: np.ndarray) -> None:
    """x (R, F) becomes gelu(x)."""
    flat = x.reshape(-1)
    whole = flat.size // LANES * LANES
    gelus(flat, whole)
    rest = np.zeros(LANES, np.float32)
    rest[: flat.size - whole] = flat[whole:]
    gelus(rest, LANES)
    flat[whole:] = rest[: flat.size - whole]


@compiled
def gelu_backward(x: np.ndarray, slope: np.ndarray) -> None:
    """The slope (R, F) by gelu(x) becomes that by x, and x becomes gelu(x)."""
    flat, change = x.reshape(-1), slope.reshape(-1)
    whole = flat.size // LANES * LANES
    slopes(flat, change, whole)
    rest, more = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32)
    rest[: flat.size - whole], more[: flat.size - whole] = flat[whole:], change[whole:]
    slopes(rest, more, LANES)
    flat[whole:], change[whole:] = rest[: flat.size - whole], more[: flat.size - whole]
