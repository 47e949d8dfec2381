"""Errors of analyses: random states with a tenth of the climate's transient variance.

The packaged table `climate_t21.json` (made by `python -m forecast.planet.climate`) holds what the transients of the
model's own climate look like: per total wavenumber the covariance of the streamfunction between the three levels
and the variance of moisture, and per latitude how their standard deviation varies, with the season. An error is a
random state of that covariance, isotropic at first, then shaped by latitude, times 0.1. Everything that an archive
holds is derived from the erroneous state, so that all variables stay in balance with each other.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from forecast.core import seeding
from forecast.core.sphere import Harmonics

SHARE = 0.1
"""of the climatological standard deviation"""


def table_path(truncation: int) -> Path:
    """Where the packaged table of a truncation lies."""
    return Path(__file__).with_name(f"climate_t{truncation}.json")


class RandomStates:
    """Draws random deviations from the climate, one for each key.

    Args:
        sphere: the transforms of the model's grid.
    """

    def __init__(self, sphere: Harmonics) -> None:
        table = json.loads(table_path(sphere.truncation).read_text())
        self.sphere = sphere
        waves = 2 * np.arange(sphere.truncation + 1) + 1.0
        covariance = np.zeros((waves.size, 4, 4))
        covariance[:, :3, :3] = table["streamfunction"]
        covariance[:, 3, 3] = table["moisture"]
        covariance /= waves[:, None, None]
        covariance[0] = 0.0
        self._mix = np.zeros_like(covariance)
        self._mix[1:] = np.linalg.cholesky(covariance[1:]).swapaxes(1, 2)
        self._mix = self._mix.astype(sphere.dtype)
        self._shape = tuple(np.array(table[name], sphere.dtype)[:, None, :] for name in ("profile", "profile_season"))

    def draw(self, keys: Sequence[int], season: np.ndarray) -> np.ndarray:
        """Deviations with the climate's own variance for B keys and seasons.

        Returns:
            (M, 2, N, B, 4): streamfunction on three levels in 1/s, moisture.
        """
        n = self.sphere.truncation + 1
        numbers = np.stack([seeding.normal(key, 4 * n * n) for key in keys]).reshape(-1, 4, n, n)
        noise = _fill(numbers.astype(self.sphere.dtype))
        mixed = np.matmul(noise, self._mix)  # (M, 2, N, B, 4) @ (N, 4, 4)
        shape = self._shape[0] + self._shape[1] * np.asarray(season, self.sphere.dtype)[:, None]
        return self.sphere.to_spectral(self.sphere.to_grid(mixed) * shape)


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
