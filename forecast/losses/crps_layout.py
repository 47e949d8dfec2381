"""How the loops over points (crps_kernels.py) see arrays, and what they compute of them."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

LANES = 64
"""points of a row, on which vector instructions work"""
TILE = 4
"""rows that are read at once, so that runs of memory are longer"""
PIECE = 16
"""tiles of a piece: what threads share, each with a partial sum of its own"""
PLAIN, CLIPPED, SMOOTH = 0, 1, 2
"""chaining functions: none; clip to [first, second]; antiderivative of the normal cdf with mean first, sd second"""
TRUTH, WEIGHT, FIRST, SECOND, UP, MASK = range(6)
"""places of the fields of `Points`"""


class Field(NamedTuple):
    """(O, I) numbers: element (o, i) is values[o * outer + i * inner]; strides of 0 repeat a number."""

    values: np.ndarray
    outer: int
    inner: int


class Cube(NamedTuple):
    """(O, M, I) members: bits of float32 as int32 (shift 0), or of bfloat16 as int16 (shift 16); or float32 weights."""

    values: np.ndarray
    outer: int
    member: int
    inner: int
    shift: int


class Points(NamedTuple):
    """What is read at the points; `up` multiplies the gradient, `mask` is 0 where a point does not count."""

    truth: Field
    weight: Field
    first: Field
    second: Field
    up: Field
    mask: Field


class Rule(NamedTuple):
    """A member of equal weight with t members beyond it, seen from the truth, counts floor + step * t times its error.

    alpha: for members with weights. chain: PLAIN, CLIPPED or SMOOTH.
    """

    floor: float
    step: float
    alpha: float
    weighted: bool
    chain: int


def rule(count: int, alpha: float, weighted: bool = False, chain: int = PLAIN) -> Rule:
    """The rule of the almost fair CRPS of `count` members."""
    floor = (1 - alpha) / count**2 if count > 1 else 1.0
    step = 2 * (count - 1 + alpha) / (count**2 * (count - 1)) if count > 1 else 0.0
    return Rule(floor, step, float(alpha), weighted, chain)


@functools.lru_cache(maxsize=64)
def comparators(count: int) -> np.ndarray:
    """(N, 2) rows to compare and exchange, in this order, to sort `count` rows: Batcher's merge exchange."""
    top = 1 << max(count - 1, 1).bit_length()
    found = []
    p = top // 2
    while p:
        q, r, d = top // 2, 0, p
        while True:
            found += [(i, i + d) for i in range(count - d) if i & p == r]
            if q == p:
                break
            d, q, r = q - p, q // 2, p
        p //= 2
    return np.array(found, np.int64).reshape(-1, 2)
