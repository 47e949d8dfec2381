"""The planet's climate as a small table: what to start from, and what errors of analyses look like.

The packaged table `climate_t21.json` (made by `python -m forecast.planet.tabulate 21`) holds the zonal mean state
through the year and the statistics of the transients: per total wavenumber the covariance of the streamfunction
between the three levels and the variance of moisture, and how their standard deviation varies with latitude and
season. A random deviation has that covariance, isotropic at first, then shaped by latitude. Analysis errors are such
deviations times 0.1. All variables of an archive are derived from the erroneous state, so they stay in balance.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from forecast.core import seeding
from forecast.core.sphere import Harmonics
from forecast.planet.forcing import season

ANALYSIS_ERROR = 0.1
"""size of analysis errors as a share of the climatological standard deviation"""


def table_path(truncation: int) -> Path:
    """Where the packaged table of a truncation lies."""
    return Path(__file__).with_name(f"climate_t{truncation}.json")


def annual(when: np.ndarray | np.datetime64) -> np.ndarray:
    """(..., 3): 1, cosine and sine of the time in the cycle of the year."""
    when = np.asarray(when, "datetime64[s]")
    angle = 2 * np.pi * ((when - when.astype("datetime64[Y]")) / np.timedelta64(31_557_600, "s"))
    return np.stack([np.ones_like(angle), np.cos(angle), np.sin(angle)], -1)


class Climate:
    """Mean states and random deviations of streamfunction (three levels, 1/s) and moisture."""

    def __init__(self, sphere: Harmonics) -> None:
        """Read the table for the truncation of `sphere`."""
        table = json.loads(table_path(sphere.truncation).read_text())
        self.sphere = sphere
        waves = 2 * np.arange(sphere.truncation + 1) + 1.0
        covariance = np.zeros((waves.size, 4, 4))
        covariance[:, :3, :3] = table["streamfunction"]
        covariance[:, 3, 3] = table["moisture"]
        self._mix: np.ndarray = np.zeros(covariance.shape, sphere.dtype)
        self._mix[1:] = np.linalg.cholesky(covariance[1:] / waves[1:, None, None]).swapaxes(1, 2)
        self._mean: np.ndarray = np.array(table["mean"])
        self._profile: np.ndarray = np.array(table["profile"], sphere.dtype)[:, None, :]
        self._profile_season: np.ndarray = np.array(table["profile_season"], sphere.dtype)[:, None, :]

    def mean(self, when: np.ndarray) -> np.ndarray:
        """Zonal mean state (M, 2, N, B, 4) at B dates."""
        n = self.sphere.truncation + 1
        state: np.ndarray = np.zeros((n, 2, n, when.size, 4), self.sphere.dtype)
        state[0, 0] = np.einsum("bw,wnk->nbk", annual(when), self._mean)
        return state

    def deviations(self, keys: Sequence[int], when: np.ndarray) -> np.ndarray:
        """Random deviations (M, 2, N, B, 4) from the mean, with the climate's own variance, for B keys and dates."""
        n = self.sphere.truncation + 1
        numbers = np.stack([seeding.normal(key, 4 * n * n) for key in keys]).reshape(-1, 4, n, n)
        mixed = np.matmul(_fill(numbers.astype(self.sphere.dtype)), self._mix)  # (M, 2, N, B, 4) @ (N, 4, 4)
        shape = self._profile + self._profile_season * season(when).astype(self.sphere.dtype)[:, None]
        shaped = self.sphere.to_spectral(self.sphere.to_grid(mixed) * shape)
        shaped[0, 0, 0, :, :3] = 0.0  # the mean of a streamfunction means nothing
        return shaped


def _fill(numbers: np.ndarray) -> np.ndarray:
    """(B, 4, N, N) independent numbers to coefficients (M, 2, N, B, 4) of unit variance a wave.

    The upper triangle holds the real parts, the lower one the imaginary parts of m > 0; for m > 0 a wave's two
    numbers share the variance.
    """
    n = numbers.shape[-1]
    out = np.zeros((n, 2, n, *numbers.shape[:2]), numbers.dtype)
    out[:, 0] = np.moveaxis(np.triu(numbers), (2, 3), (0, 1))
    out[1:, 1] = np.moveaxis(np.tril(numbers, -1), (3, 2), (0, 1))[:-1]
    out[1:] *= np.sqrt(0.5).astype(numbers.dtype)
    return out
