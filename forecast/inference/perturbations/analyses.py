"""Departures that somebody else has made: the members of an ensemble of analyses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forecast.core.errors import ForecastError
from forecast.core.store import Store
from forecast.inference.perturbations.base import Departures, Members


class Ensemble(Departures):
    """Members of an ensemble of analyses (EDA), from the member axis of a store.

    Recentred, member k starts from the analysis plus what analysis member k departs from their mean; else from
    analysis member k itself. There are as many as the store holds; further members take them up again from the first,
    and differ from these by the model's chance alone.

    Args:
        store: the ensemble. scale: of the departures. recentred: about the analysis.
    """

    def __init__(
        self,
        variables: Sequence[str],
        error: np.ndarray,
        store: Store,
        scale: float = 1.0,
        control: bool = False,
        recentred: bool = True,
    ) -> None:
        super().__init__(variables, error, Members(control, paired=False))
        if store.ensemble < 2:
            raise ForecastError(f"{store.path} holds single analyses, no ensemble: give forecast.perturbation.ensemble")
        self.store, self.scale, self.recentred = store, scale, recentred
        self._changes = self.error > 0

    @property
    def stores(self) -> tuple[Store, ...]:
        """The ensemble."""
        return (self.store,)

    def departure(self, states: np.ndarray, when: np.ndarray, start: np.datetime64, number: int) -> np.ndarray:
        """(T, V, G) float64."""
        times = np.array([self.store.index(date) for date in when])
        own = self.store.read(times, self.variables, number % self.store.ensemble).astype(np.float64)
        about = states.astype(np.float64)
        if self.recentred:
            about = np.zeros_like(own)
            for member in range(self.store.ensemble):
                about += self.store.read(times, self.variables, member)
            about /= self.store.ensemble
        return self.scale * np.where(self._changes[:, None], own - about, 0.0)
