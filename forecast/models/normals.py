"""The normals of `core/normals.py` by torch on any device: the same operations in the same order, the same bits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from forecast.core.normals import LN2, LOGARITHM, MULTIPLIERS, ROOT_HALF, ROUNDS, SINE, WEYL

_LOW = 0xFFFFFFFF


def normal(keys: Sequence[int], size: int, device: torch.device | str, offset: int = 0) -> Tensor:
    """(len(keys), size) float32, each row `seeding.normal(key, size, offset)`."""
    key = torch.tensor([[part & _LOW, part >> 32] for part in keys], dtype=torch.int64).to(device)
    block = torch.arange(offset // 2, (offset + size + 1) // 2, device=device)
    words = _philox(block, key[:, :1], key[:, 1:])
    pairs = torch.stack([_normal(words[1], words[0]), _normal(words[3], words[2])], dim=-1)
    begin = offset % 2
    return pairs.flatten(1)[:, begin : begin + size].contiguous()


def _philox(block: Tensor, k0: Tensor, k1: Tensor) -> list[Tensor]:
    """Four words (K, n) as int64 below 2^32. A product's 64 bits wrap around the sign, its halves do not mind."""
    c0, c1, c2, c3 = block & _LOW, block >> 32, torch.zeros_like(k0), torch.zeros_like(k0)
    for _ in range(ROUNDS):
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = _high(p1) ^ c1 ^ k0, p1 & _LOW, _high(p0) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + WEYL[0]) & _LOW, (k1 + WEYL[1]) & _LOW
    return [c0, c1, c2, c3]


def _high(product: Tensor) -> Tensor:
    return (product >> 32) & _LOW


def _normal(radial: Tensor, angular: Tensor) -> Tensor:
    """sqrt(-2 ln u) cos(2 pi v), each step as in `core/normals.py`."""
    fraction, exponent = torch.frexp(radial.double() + 0.5)
    small = fraction < ROOT_HALF
    fraction, exponent = torch.where(small, fraction * 2.0, fraction), exponent - small.int()
    s = (fraction - 1.0) / (fraction + 1.0)
    logarithm = (exponent - 32).double() * LN2 + 2.0 * s * _power_series(s * s, LOGARITHM)
    turn = angular.double() * 2.0**-32
    b = 0.25 - torch.minimum(turn, 1.0 - turn)
    return ((-2.0 * logarithm).sqrt() * (b * _power_series(b * b, SINE))).float()


def _power_series(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    total = torch.zeros_like(x)
    for c in coefficients:
        total = total * x + c
    return total
