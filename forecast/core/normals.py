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

LANES = 256
"""blocks of Philox that are computed side by side, so that loops become vector instructions"""

_LOW, _SHIFT = np.uint64(0xFFFFFFFF), np.uint64(32)
_M0, _M1 = np.uint64(MULTIPLIERS[0]), np.uint64(MULTIPLIERS[1])
_W0, _W1 = np.uint64(WEYL[0]), np.uint64(WEYL[1])
_ONE = np.uint64(1)
_FRACTION, _BITS, _HALF = np.int64(2**52 - 1), np.int64(52), np.int64(1022 << 52)
"""of a float64 as an integer: mask of its fraction, its length, the exponent of 1/2"""


@compiled
def fill(key: np.uint64, offset: np.uint64, out: np.ndarray) -> None:
    """Fill `out` (n,) float32 with elements offset, offset + 1, ... of the stream `key`.

    Two elements share a block of Philox, whose counter is half the element's number: the even one takes words 0 and 1,
    the odd one words 2 and 3.
    """
    words, pair = np.empty((4, LANES), np.uint64), np.empty((2, LANES))
    size, odd = out.size, np.int64(offset & _ONE)
    for block in range(0, (size + odd + 1) // 2, LANES):
        _philox((offset >> _ONE) + np.uint64(block), key, words)
        for k in range(2):
            _normals(words[2 * k + 1], words[2 * k], pair[k])
        first = 2 * block - odd
        if first >= 0 and first + 2 * LANES <= size:
            _interleave(pair[0], pair[1], out[first : first + 2 * LANES])
        else:
            for i in range(max(first, 0), min(first + 2 * LANES, size)):  # type: ignore[call-overload]
                out[i] = np.float32(pair[(i - first) & 1, (i - first) >> 1])


@compiled(kept=False)
def _interleave(even: np.ndarray, odd: np.ndarray, out: np.ndarray) -> None:
    for j in range(LANES):
        out[2 * j], out[2 * j + 1] = np.float32(even[j]), np.float32(odd[j])


@compiled(kept=False)
def _philox(block: np.uint64, key: np.uint64, words: np.ndarray) -> None:
    """The four words (4, LANES) of blocks `block`, `block` + 1, ..."""
    w0, w1, w2, w3 = words[0], words[1], words[2], words[3]
    for j in range(LANES):
        counter = block + np.uint64(j)
        c0, c1, c2, c3 = counter & _LOW, counter >> _SHIFT, np.uint64(0), np.uint64(0)
        k0, k1 = key & _LOW, key >> _SHIFT
        for _ in range(ROUNDS):
            p0, p1 = c0 * _M0, c2 * _M1
            c0, c1, c2, c3 = (p1 >> _SHIFT) ^ c1 ^ k0, p1 & _LOW, (p0 >> _SHIFT) ^ c3 ^ k1, p0 & _LOW
            k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
        w0[j], w1[j], w2[j], w3[j] = c0, c1, c2, c3


@compiled(kept=False)
def _normals(radial: np.ndarray, angular: np.ndarray, out: np.ndarray) -> None:
    """sqrt(-2 ln u) cos(2 pi v) for u = (radial + 1/2) / 2^32, v = angular / 2^32, of whole numbers below 2^32."""
    u = np.empty(LANES)
    bits = u.view(np.int64)
    for j in range(LANES):
        u[j] = np.float64(np.int64(radial[j])) + 0.5
    for j in range(LANES):  # frexp
        out[j] = np.float64((bits[j] >> _BITS) - 1022)
        bits[j] = (bits[j] & _FRACTION) | _HALF
    for j in range(LANES):
        fraction, exponent = u[j], out[j]
        small = fraction < ROOT_HALF
        fraction, exponent = (fraction * 2.0, exponent - 1.0) if small else (fraction, exponent)
        s = (fraction - 1.0) / (fraction + 1.0)
        square, total = s * s, 0.0
        for c in LOGARITHM:
            total = total * square + c
        logarithm = (exponent - 32.0) * LN2 + 2.0 * s * total
        turn = np.float64(np.int64(angular[j])) * 2.0**-32
        b = 0.25 - min(turn, 1.0 - turn)
        square, total = b * b, 0.0
        for c in SINE:
            total = total * square + c
        out[j] = math.sqrt(-2.0 * logarithm) * (b * total)
