"""One pass over one field of an ensemble: everything that scores need, from the errors sorted once."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from forecast.core import seeding


class Matchup:
    """M members and the truth of one variable at one start and lead, on G points.

    The truth is subtracted first, which is exact in float32 where forecast and truth lie within a factor of two
    (Sterbenz), so that geopotentials of 5e4 lose nothing; all sums after that are float64. Missing values
    propagate: a NaN in a member or in the truth makes every score of that point NaN.

    Attributes:
        members: (M, G) float32, in the variable's units.
        truth: (G,) float32.
        climate: (G,) float64, mean of the climatology at the valid time, or None.
        shape: (rows, columns) of a rectilinear grid, or (G,).
        tie_key: key of `core.seeding` that breaks ties of ranks.
    """

    def __init__(
        self,
        members: np.ndarray,
        truth: np.ndarray,
        climate: np.ndarray | None = None,
        shape: tuple[int, ...] | None = None,
        tie_key: int = 0,
    ) -> None:
        self.members, self.truth, self.climate, self.tie_key = members, truth, climate, tie_key
        self.shape = shape or truth.shape

    @cached_property
    def errors(self) -> np.ndarray:
        """(M, G) float64: members minus truth, sorted over members (NaN last)."""
        difference = np.subtract(self.members.T, self.truth[:, None], order="C")  # numpy sorts rows fastest
        difference.sort(axis=1)
        return difference.T.astype(np.float64, order="C")

    @cached_property
    def mean_error(self) -> np.ndarray:
        """(G,) ensemble mean minus truth."""
        return self.errors.mean(axis=0)

    @cached_property
    def absolute_error(self) -> np.ndarray:
        """(G,) mean over members of |member - truth|."""
        return np.abs(self.errors).mean(axis=0)

    @cached_property
    def half_distance(self) -> np.ndarray:
        """(G,) half the mean distance of two different members; 0 for one member.

        sum_ij |x_i - x_j| = 2 sum_i (2 i - M - 1) x_(i), over the sorted members.
        """
        m = len(self.errors)
        weights = 2.0 * np.arange(1, m + 1) - m - 1
        return weights @ self.errors / max(m * (m - 1), 1)

    @cached_property
    def variance(self) -> np.ndarray:
        """(G,) variance over members, divisor M - 1; 0 for one member."""
        departures = self.errors - self.mean_error
        return np.einsum("mg,mg->g", departures, departures) / max(len(departures) - 1, 1)

    @cached_property
    def rank(self) -> np.ndarray:
        """(G,) float64: how many members lie below the truth, 0..M; among ties one place is drawn by `tie_key`."""
        below = np.count_nonzero(self.errors < 0, axis=0)
        ties = np.count_nonzero(self.errors == 0, axis=0)
        rank = below.astype(np.float64)
        if ties.any():
            rank += np.floor(seeding.uniform(self.tie_key, ties.size) * (ties + 1))
        return np.where(np.isnan(self.mean_error), np.nan, rank)

    @property
    def forecast_anomaly(self) -> np.ndarray:
        """(G,) ensemble mean minus climatology. Needs `climate`."""
        return self.mean_error + self.truth_anomaly

    @cached_property
    def truth_anomaly(self) -> np.ndarray:
        """(G,) truth minus climatology. Needs `climate`."""
        assert self.climate is not None
        return self.truth - self.climate
