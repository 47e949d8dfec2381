"""Departures drawn at random: independent at every point, or correlated over distances and levels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forecast.core import seeding
from forecast.core.sphere import legendre
from forecast.core.variables import split
from forecast.inference.perturbations.base import Departures, Members

EARTH_KM = 6371.0
NEGLIGIBLE = 1e-3
"""share of the variance that the truncation may leave out"""
CHUNK = 2**24
"""numbers in a table of Legendre functions"""
DEPTH = 0.5
"""of a level's correlation, in units of the logarithm of pressure"""


class Gaussian(Departures):
    """White noise of the analysis error's size at every point and in every variable."""

    def __init__(self, variables: Sequence[str], error: np.ndarray, members: Members, seed: int) -> None:
        super().__init__(variables, error, members)
        self.seed = seed

    def departure(self, states: np.ndarray, when: np.ndarray, start: np.datetime64, number: int) -> np.ndarray:
        """(V, G) float64."""
        key = seeding.key(self.seed, "gaussian perturbation", start, number)
        return self.error[:, None] * seeding.normal(key, states[0].size).reshape(states.shape[1:])


class Correlated(Departures):
    """Noise whose correlation falls with distance as exp(-d^2 / 2 L^2), and with levels.

    A sum of spherical harmonics with random coefficients, whose power by degree is that of such a correlation
    (a heat kernel); its variance is the same at every point. Levels p, q of one quantity correlate by
    exp(-|ln p / q| / 0.5), different quantities not at all: the fields are not balanced, the first hours of a forecast
    adjust them. `Bred` and ensembles of analyses are.

    Args:
        latitudes, longitudes: (G,) degrees, any points. length: L, km.
    """

    def __init__(
        self,
        variables: Sequence[str],
        error: np.ndarray,
        members: Members,
        seed: int,
        latitudes: np.ndarray,
        longitudes: np.ndarray,
        length: float = 500.0,
    ) -> None:
        super().__init__(variables, error, members)
        self.seed, self.power = seed, power(length)
        rows, self._row = np.unique(np.round(latitudes, 6), return_inverse=True)
        self._sines, self._longitudes = np.sin(np.radians(rows)), np.radians(longitudes)
        self._levels = np.linalg.cholesky(level_correlation(self.variables))

    def departure(self, states: np.ndarray, when: np.ndarray, start: np.datetime64, number: int) -> np.ndarray:
        """(V, G) float64."""
        key = seeding.key(self.seed, "correlated perturbation", start, number)
        return self.error[:, None] * (self._levels @ self.patterns(key, len(self.variables)))

    def patterns(self, key: int, count: int) -> np.ndarray:
        """(count, G) independent fields of variance 1."""
        n = len(self.power)
        draws = seeding.normal(key, count * 2 * n * n).reshape(count, 2, n, n).astype(np.float64)  # re/im, m, degree
        amplitude = np.sqrt(self.power / (2 * np.arange(n) + 1))
        coefficients = (draws[:, 0] + 1j * draws[:, 1]) * amplitude * np.sqrt(2.0)
        coefficients[:, 0] = draws[:, 0, 0] * amplitude
        out = np.zeros((count, len(self._row)))
        each = max(1, CHUNK // (n * n))
        for begin in range(0, len(self._sines), each):
            table = legendre(n - 1, self._sines[begin : begin + each])
            waves = np.einsum("cmn,mnr->cmr", coefficients, table, optimize=True)
            here = np.flatnonzero((self._row >= begin) & (self._row < begin + each))
            for m in range(n):
                turn = np.exp(1j * m * self._longitudes[here])
                out[:, here] += (waves[:, m, self._row[here] - begin] * turn).real
        return out


def power(length: float) -> np.ndarray:
    """(N,) share of the variance in each degree n = 0, 1, ...: (2 n + 1) exp(-n (n + 1) (L / R)^2 / 2), scaled."""
    narrow = (length / EARTH_KM) ** 2 / 2
    n = np.arange(int(np.ceil(np.sqrt(-np.log(NEGLIGIBLE) / narrow))) + 2)
    share = (2 * n + 1) * np.exp(-n * (n + 1) * narrow)
    return share / share.sum()


def level_correlation(variables: Sequence[str]) -> np.ndarray:
    """(V, V) between the levels of each quantity."""
    names = [split(name) for name in variables]
    out = np.eye(len(names))
    for i, (name, level) in enumerate(names):
        for k, (other, far) in enumerate(names):
            if name == other and level and far and i != k:
                out[i, k] = np.exp(-abs(np.log(level / far)) / DEPTH)
    return out
