"""States of a store by date, the ones used last kept in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from forecast.core.store import Store

BUDGET = 256 * 2**20


class States:
    """Reads states of chosen variables from a store; safe to share between threads.

    Attributes:
        store: where they come from.
        variables: (V,) names.
    """

    def __init__(self, store: Store, variables: Sequence[str], budget: int = BUDGET) -> None:
        """`budget` bytes of states are kept."""
        self.store, self.variables = store, tuple(variables)
        dates = store.dates.astype("datetime64[s]").astype(np.int64).tolist()
        self._present = {when: k for k, when in enumerate(dates) if not store.missing[k]}
        self._kept: OrderedDict[int, np.ndarray] = OrderedDict()
        self._capacity = max(2, budget // (4 * len(self.variables) * store.grid.size))
        self._lock = threading.Lock()

    def has(self, when: np.datetime64) -> bool:
        """Whether the store holds a state of that date, i.e. one that is not missing."""
        return _seconds(when) in self._present

    def get(self, when: np.datetime64) -> np.ndarray:
        """(V, G) float32 state. The date must be there."""
        return self.several([when])[0]

    def several(self, dates: Sequence[np.datetime64] | np.ndarray) -> list[np.ndarray]:
        """(V, G) float32 states of dates, which must be there, in their order; those not kept are read in one go."""
        wanted = [self._present[_seconds(when)] for when in dates]
        with self._lock:
            absent = np.array(sorted({k for k in wanted if k not in self._kept}), dtype=np.int64)
            read: Sequence[np.ndarray] | np.ndarray = self.store.read(absent, self.variables) if absent.size else []
            fresh = dict(zip(absent.tolist(), read, strict=True))
            found = [fresh[k] if k in fresh else self._kept[k] for k in wanted]
            for k, state in zip(wanted, found, strict=True):
                self._kept[k] = state
                self._kept.move_to_end(k)
            while len(self._kept) > self._capacity:
                self._kept.popitem(last=False)
        return found


def _seconds(when: np.datetime64) -> int:
    return int(when.astype("datetime64[s]").astype(np.int64))
