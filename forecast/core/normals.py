"""Standard normals from counters, the same bits on every device: Philox, then Box and Muller by plain arithmetic.

Libraries' logarithms and cosines differ in their last bits from machine to machine. Here both are sums of powers in
float64, made of additions, products, one quotient and one square root, each of which IEEE 754 rounds in one way only,
in a fixed order. So whoever does the same operations gets the same bits: the loop below on a CPU, `models/normals.py`
with torch on any device. Before the one rounding to float32 they lie within 1e-15 (relative) of exact arithmetic, in
the tails and at the zeros too: one in some 10^8 differs from what NumPy's functions give.
"""

from __future__ import annotations

import math

import numpy as np

from forecast.core.compiled import compiled

MULTIPLIERS, WEYL, ROUNDS = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85), 10
"""Philox4x32-10."""
LN2 = math.log(2.0)
ROOT_HALF = math.sqrt(0.5)
LOGARITHM = tuple(1.0 / (2 * k + 1) for k in range(11, -1, -1))
"""artanh(s) / s in powers of s^2, highest first; |s| < 0.172."""
SINE = tuple((-1.0) ** k * (2.0 * math.pi) ** (2 * k + 1) / math.factorial(2 * k + 1) for k in range(12, -1, -1))
"""sin(2 pi b) / b in powers of b^2, highest first; |b| <= 1/4."""

_LOW, _SHIFT = np.uint64(0xFFFFFFFF), np.uint64(32)
_M0, _M1 = np.uint64(MULTIPLIERS[0]), np.uint64(MULTIPLIERS[1])
_W0, _W1 = np.uint64(WEYL[0]), np.uint64(WEYL[1])
_ONE = np.uint64(1)


@compiled
def fill(key: np.uint64, offset: np.uint64, out: np.ndarray) -> None:
    """Fill `out` (n,) float32 with elements offset, offset + 1, ... of the stream `key`.

    Two elements share a block of Philox, whose counter is half the element's number: the even one takes words 0 and 1,
    the odd one words 2 and 3.
    """
    for i in range(out.size):
        element = offset + np.uint64(i)
        w0, w1, w2, w3 = _philox(element >> _ONE, key)
        if element & _ONE:
            w0, w1 = w2, w3
        out[i] = np.float32(_normal(np.float64(w1), np.float64(w0)))


@compiled(kept=False)
def _philox(block: np.uint64, key: np.uint64) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64]:
    c0, c1, c2, c3 = block & _LOW, block >> _SHIFT, np.uint64(0), np.uint64(0)
    k0, k1 = key & _LOW, key >> _SHIFT
    for _ in range(ROUNDS):
        p0, p1 = c0 * _M0, c2 * _M1
        c0, c1, c2, c3 = (p1 >> _SHIFT) ^ c1 ^ k0, p1 & _LOW, (p0 >> _SHIFT) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return c0, c1, c2, c3


@compiled(kept=False)
def _normal(radial: float, angular: float) -> float:
    """sqrt(-2 ln u) cos(2 pi v) for u = (radial + 1/2) / 2^32, v = angular / 2^32, of two whole numbers below 2^32."""
    fraction, exponent = math.frexp(radial + 0.5)
    if fraction < ROOT_HALF:
        fraction, exponent = fraction * 2.0, exponent - 1
    s = (fraction - 1.0) / (fraction + 1.0)
    square, total = s * s, 0.0
    for c in LOGARITHM:
        total = total * square + c
    logarithm = (exponent - 32) * LN2 + 2.0 * s * total
    turn = angular * 2.0**-32
    b = 0.25 - min(turn, 1.0 - turn)
    square, total = b * b, 0.0
    for c in SINE:
        total = total * square + c
    return math.sqrt(-2.0 * logarithm) * (b * total)
