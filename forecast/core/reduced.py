"""Reduced Gaussian grids: how many points each row has.

`reduced_gaussian.json` holds ECMWF's published tables of the classical grids (N16 to N2000) from the pole to the
equator, as runs of [points, rows]; a test compares them with ECMWF's mir where it is installed.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import numpy as np


@lru_cache(maxsize=1)
def tables() -> dict[int, np.ndarray]:
    """N -> (N,) published points of each row from a pole to the equator."""
    runs = json.loads(Path(__file__).with_name("reduced_gaussian.json").read_text())
    return {int(n): np.repeat(*np.array(rows).T) for n, rows in runs.items()}


def octahedral_counts(number: int) -> np.ndarray:
    """(2 N,) points of each row of O{number}: 20 at the poles and 4 more with each row."""
    half = 20 + 4 * np.arange(number)
    return np.concatenate([half, half[::-1]])


def classical_counts(number: int) -> np.ndarray:
    """(2 N,) points of each row of N{number}.

    Where no table is published, a row has the smallest number without prime factors above 5 that is at least
    min(4 N, 4 N cos(latitude) + 16), which makes as many points as the published tables to 1.5 % (N24: 3 %).
    """
    half = tables().get(number)
    if half is None:
        from forecast.core.cells import gauss

        wanted = np.minimum(4 * number, 4 * number * np.sqrt(1 - gauss(2 * number)[0][:number] ** 2) + 16)
        smooth = _smooth(8 * number + 32)
        half = smooth[np.searchsorted(smooth, wanted - 1e-6)]
    return np.concatenate([half, half[::-1]])


def _smooth(largest: int) -> np.ndarray:
    """Numbers up to `largest` whose prime factors are 2, 3 and 5."""
    powers = [base ** np.arange(int(np.log(largest) / np.log(base)) + 1) for base in (2, 3, 5)]
    products = np.unique(powers[0][:, None, None] * powers[1][:, None] * powers[2])
    return products[products <= largest]
