"""What oracles share: fields like z500, and scipy's spectra and anomaly correlation of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from forecast.core import grids, seeding

MEMBERS, POINTS, LIMIT = 20, 3000, 5.42e4
GRID = grids.latlon(np.array([45.0, -45.0]), np.arange(POINTS // 2) * 720 / POINTS)  # the globe in cells of equal area


@cache
def fields() -> tuple[np.ndarray, np.ndarray]:
    """z500-like float32 members (M, G) and truth (G,) about a shared signal."""
    noise = seeding.normal(seeding.key(8, "oracle"), (MEMBERS + 2) * POINTS).reshape(-1, POINTS)
    signal = 5.4e4 + 300 * noise[0]
    return (signal + 150 * noise[2:]).astype(np.float32), (signal + 200 * noise[1]).astype(np.float32)


def scipy_acc() -> Any:
    from scipy.spatial.distance import cosine

    x, y = fields()
    anomaly = 5.35e4
    return 1 - cosine(x.astype(float).mean(axis=0) - anomaly, y.astype(float) - anomaly)


def _rows(field: np.ndarray) -> np.ndarray:
    return field.astype(float).reshape(*field.shape[:-1], 2, -1)


def scipy_power(field: Callable[[], np.ndarray]) -> Callable[[], Any]:
    """The mean over latitudes (of equal area here) of scipy's periodogram, a `spectrum`: squares of amplitudes."""

    def call() -> Any:
        from scipy.signal import periodogram

        power = periodogram(_rows(field()), window="boxcar", detrend=False, scaling="spectrum")[1]
        return power.reshape(-1, power.shape[-1]).mean(axis=0)

    return call


def scipy_coherence() -> Any:
    """|<F G*>|^2 / (<|F|^2> <|G|^2>) from scipy's cross spectra of each latitude."""
    from scipy.signal import csd

    x, y = fields()
    f, g = _rows(x.astype(float).mean(axis=0)), _rows(y)
    options = {"window": "boxcar", "detrend": False, "scaling": "spectrum", "nperseg": f.shape[-1]}
    both, own, other = (csd(a, b, **options)[1].mean(axis=0) for a, b in ((f, g), (f, f), (g, g)))
    return np.abs(both) ** 2 / (own.real * other.real)
