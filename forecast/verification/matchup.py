"""One field of an ensemble and its truth, with everything that scores need, computed once each."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from forecast.core import seeding
from forecast.core.grids import Grid
from forecast.core.threads import lazy
from forecast.verification.climate import Climate
from forecast.verification.fused import Pass, ensemble_pass


@dataclass(frozen=True, eq=False)
class Limits:
    """Limits of one variable at one valid time: K of E events, then those between categories.

    Attributes:
        values: (K, G) in the variable's units; NaN where an event does not concern the variable.
        down: (K,) bool, events that lie below their limit.
        events: E, how many of the first limits make events; the others part categories, rising.
    """

    values: np.ndarray
    down: np.ndarray
    events: int


class Matchup:
    """M members and the truth of one variable at one start and lead, on G points.

    The truth is subtracted first, which is exact in float32 where forecast and truth lie within a factor of two
    (Sterbenz), so that geopotentials of 5e4 lose nothing; all sums after that are float64. Missing values
    propagate: a NaN in a member or in the truth makes every score of that point NaN.

    Attributes:
        members: (M, G) float32, in the variable's units.
        truth: (G,) float32.
        climate: climatology at the valid time, or None.
        shape: (rows, columns) of a rectilinear grid, or (G,).
        tie_key: key of `core.seeding` that breaks ties of ranks.
        limits: of events and categories, or None.
        initial: (G,) states at the start that the forecast and the truth came from, or None.
        grid: where the points lie, or None. variable: its name, where known.
    """

    def __init__(
        self,
        members: np.ndarray,
        truth: np.ndarray,
        climate: Climate | np.ndarray | None = None,
        shape: Sequence[int] | None = None,
        tie_key: int = 0,
        *,
        limits: Limits | None = None,
        initial: tuple[np.ndarray, np.ndarray] | None = None,
        grid: Grid | None = None,
        variable: str = "",
        keep: Collection[str] = (),
        workers: int = 1,
    ) -> None:
        """`climate` may be a mean alone. `keep`: what scores need besides, `sorted` errors or sums over the events'
        `tails`; what is asked for later takes another pass. `workers` threads."""
        self.members, self.truth, self.tie_key = members, truth, tie_key
        self.climate = Climate(climate[None]) if isinstance(climate, np.ndarray) else climate
        self.shape = tuple(shape or (grid.shape if grid else truth.shape))
        self.limits, self.initial, self.grid, self.variable = limits, initial, grid, variable
        self._keep, self._workers = set(keep), workers

    @lazy
    def sums(self) -> Pass:
        """What the fused pass gives."""
        limits = self.limits
        values, down, events = (limits.values, limits.down, limits.events) if limits else (None, None, 0)
        return ensemble_pass(
            self.members, self.truth, values, down,
            tails=events if "tails" in self._keep else 0, keep="sorted" in self._keep, workers=self._workers,
        )  # fmt: skip

    def _with(self, what: str) -> Pass:
        """The sums, with something kept that is asked for now."""
        if what not in self._keep:
            self._keep.add(what)
            self.__dict__.pop("sums", None)
        return self.sums

    @property
    def errors(self) -> np.ndarray:
        """(M, G) members minus truth, sorted over members."""
        kept = self._with("sorted").sorted
        assert kept is not None
        return kept

    @property
    def tail_crps(self) -> np.ndarray:
        """(E, G) fair CRPS of members and truth clipped to the side of each event's limit."""
        sums = self._with("tails")
        return sums.tail_absolute - sums.tail_half

    @property
    def mean_error(self) -> np.ndarray:
        """(G,) ensemble mean minus truth."""
        return self.sums.mean

    @property
    def absolute_error(self) -> np.ndarray:
        """(G,) mean over members of |member - truth|."""
        return self.sums.absolute

    @property
    def half_distance(self) -> np.ndarray:
        """(G,) half the mean distance of two different members; 0 for one member."""
        return self.sums.half_distance

    @property
    def variance(self) -> np.ndarray:
        """(G,) variance over members, divisor M - 1; 0 for one member."""
        return self.sums.variance

    @lazy
    def rank(self) -> np.ndarray:
        """(G,) float64: how many members lie below the truth, 0..M; among ties one place is drawn by `tie_key`."""
        rank, tied = self.sums.below.astype(np.float64), np.flatnonzero(self.sums.equal)
        rank[tied] += np.floor(seeding.uniform_at(self.tie_key, tied) * (self.sums.equal[tied] + 1))
        rank[np.isnan(self.mean_error)] = np.nan
        return rank

    @lazy
    def beyond(self) -> np.ndarray:
        """(K, G) float64: how many members lie beyond each limit; NaN where it, a member or the truth is missing."""
        limits = self._limits
        return np.where(np.isnan(limits.values + self.mean_error), np.nan, self.sums.beyond)

    @lazy
    def occurred(self) -> np.ndarray:
        """(K, G) float64: 1 where the truth lies beyond the limit, else 0."""
        limits = self._limits
        above = np.where(limits.down[:, None], self.truth < limits.values, self.truth > limits.values)
        return above.astype(np.float64)

    @property
    def events(self) -> slice:
        """Which limits make events."""
        return slice(0, self._limits.events)

    @property
    def categories(self) -> slice:
        """Which limits part categories."""
        return slice(self._limits.events, None)

    @property
    def _limits(self) -> Limits:
        assert self.limits is not None, "scores of events need limits"
        return self.limits

    @property
    def forecast_anomaly(self) -> np.ndarray:
        """(G,) ensemble mean minus climatology. Needs `climate`."""
        return self.mean_error + self.truth_anomaly

    @lazy
    def truth_anomaly(self) -> np.ndarray:
        """(G,) truth minus climatology. Needs `climate`."""
        assert self.climate is not None
        return self.truth - self.climate.mean
