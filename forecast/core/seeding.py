"""Random numbers without state: one key per (seed, purpose, where), one number per element.

Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", SC11) is a function of a
64-bit key and a counter, here the element's index. The same element has the same bits alone or in any
array, on any process, today or next year; nothing depends on the order in which numbers are drawn.
"""

from __future__ import annotations

import hashlib

import numpy as np

from forecast.core import normals

_MASK = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_MULTIPLIERS = (np.uint64(normals.MULTIPLIERS[0]), np.uint64(normals.MULTIPLIERS[1]))

Part = int | str | np.integer | np.datetime64


def key(seed: int, purpose: str, *where: Part) -> int:
    """The 64-bit key of one stream, e.g. key(seed, "noise", start, member, step).

    Dates count as whole seconds since 1970, so a datetime64 of any unit gives the same key. Stable
    forever: BLAKE2b of the parts, each written with its type and length.
    """
    text = "|".join(_canonical(part) for part in (seed, purpose, *where))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _canonical(part: Part) -> str:
    if isinstance(part, np.datetime64):
        return f"t{int(part.astype('datetime64[s]').astype(np.int64))}"
    if isinstance(part, str):
        return f"s{len(part)}:{part}"
    return f"i{int(part)}"


def philox(counter: np.ndarray, key: int) -> np.ndarray:
    """Philox4x32-10 of 128-bit counters.

    Args:
        counter: (n, 4) uint64, each entry one 32-bit word.
        key: 64 bits; the low half is the first key word.

    Returns:
        (4, n) uint64, each entry one random 32-bit word.
    """
    c0, c1, c2, c3 = (counter[:, i].astype(np.uint64) for i in range(4))
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(normals.ROUNDS):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (p1 >> _SHIFT) ^ c1 ^ np.uint64(k0),
            p1 & _MASK,
            (p0 >> _SHIFT) ^ c3 ^ np.uint64(k1),
            p0 & _MASK,
        )
        k0, k1 = (k0 + normals.WEYL[0]) & 0xFFFFFFFF, (k1 + normals.WEYL[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3])


def words(key: int, size: int, offset: int = 0) -> np.ndarray:
    """(size,) uint64 random 64-bit words; word i depends on (key, offset + i) alone."""
    first, last = offset // 2, (offset + size + 1) // 2
    pairs = _pairs(key, np.arange(first, last, dtype=np.uint64)).reshape(-1)
    begin = offset - 2 * first
    return pairs[begin : begin + size]


def _pairs(key: int, index: np.ndarray) -> np.ndarray:
    """(n, 2) the words 2 i and 2 i + 1 of each index (n,)."""
    counter = np.zeros((index.size, 4), np.uint64)
    counter[:, 0], counter[:, 1] = index & _MASK, index >> _SHIFT
    w = philox(counter, key)
    return np.stack([(w[1] << _SHIFT) | w[0], (w[3] << _SHIFT) | w[2]], axis=1)


def uniform(key: int, size: int, offset: int = 0) -> np.ndarray:
    """(size,) float64 in (0, 1), 52 random bits each."""
    return _unit(words(key, size, offset))


def uniform_at(key: int, positions: np.ndarray) -> np.ndarray:
    """Those elements (n,) of `uniform` alone."""
    positions = positions.astype(np.uint64)
    pairs = _pairs(key, positions // np.uint64(2))
    return _unit(pairs[np.arange(positions.size), (positions % np.uint64(2)).astype(np.intp)])


def _unit(words: np.ndarray) -> np.ndarray:
    return ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def normal(key: int, size: int, offset: int = 0) -> np.ndarray:
    """(size,) float32 standard normals, by Box and Muller from one 64-bit word each.

    Element i depends on (key, offset + i) alone, and has the same bits on every machine and device (core/normals.py).
    """
    out = np.empty(size, np.float32)
    normals.fill(np.uint64(key), np.uint64(offset), out)
    return out


def integers(key: int, high: int, size: int, offset: int = 0) -> np.ndarray:
    """(size,) int64 in [0, high), high < 2**32 (bias below high / 2**52)."""
    return np.floor(uniform(key, size, offset) * high).astype(np.int64)


def permutation(key: int, n: int) -> np.ndarray:
    """(n,) int64, a random order of range(n): the ranks of n random words."""
    return np.argsort(words(key, n), kind="stable").astype(np.int64)
