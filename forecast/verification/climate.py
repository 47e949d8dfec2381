"""What the climatology says of one variable at one valid time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from forecast.core.threads import lazy
from forecast.verification.fused import ensemble_pass

if TYPE_CHECKING:
    from forecast.verification.matchup import Limits


class Climate:
    """States of other years at the same hour and time of year, one field each.

    Attributes:
        members: (C, G) in the variable's units; a mean alone counts as one member.
        limits: events, and the limits that were made of them from it.
    """

    def __init__(self, members: np.ndarray) -> None:
        self.members = members
        self.limits: tuple[object, Limits | None] | None = None
        self._scored: tuple[np.ndarray, np.ndarray] | None = None

    @lazy
    def mean(self) -> np.ndarray:
        """(G,) float64 climatological mean."""
        return self.members.mean(axis=0, dtype=np.float64)

    @lazy
    def _sorted(self) -> np.ndarray:
        return np.sort(self.members.T, axis=1).T

    def percentile(self, percent: float) -> np.ndarray:
        """(G,) local percentile, linear between sorted members (numpy's default); NaN where a member is."""
        at = percent / 100.0 * (len(self.members) - 1)
        low, share = int(at), at - int(at)
        above = self._sorted[min(low + 1, len(self.members) - 1)]
        value = self._sorted[low] + share * (above - self._sorted[low])
        return np.where(np.isnan(self._sorted[-1]), np.nan, value)

    def crps(self, truth: np.ndarray) -> np.ndarray:
        """(G,) CRPS of the climatological ensemble itself; kept for the truth it was asked for last."""
        if self._scored is None or self._scored[0] is not truth:
            p = ensemble_pass(self.members, truth)
            self._scored = truth, p.absolute - (1.0 - 1.0 / len(self.members)) * p.half_distance
        return self._scored[1]

    def dryness(self, dry: float) -> tuple[np.ndarray, np.ndarray]:
        """Share of dry states (at most `dry`) and the amount that two thirds of the wet ones do not exceed, (G,) each.

        The amount is infinite where no state is wet.
        """
        wet = self._sorted > dry
        count = wet.sum(axis=0)
        first = len(self.members) - count
        place = first + np.minimum(np.floor(2.0 / 3.0 * count), np.maximum(count - 1, 0)).astype(int)
        amount = np.take_along_axis(self._sorted, np.minimum(place, len(self.members) - 1)[None], axis=0)[0]
        return 1.0 - count / len(self.members), np.where(count > 0, amount, np.inf)
