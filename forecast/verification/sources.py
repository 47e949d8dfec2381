"""What can be scored: anything that gives the members of a field for a start and a lead time."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np


class Source(Protocol):
    """A forecast in the eyes of verification.

    Attributes:
        label: its name in scores and report.
        members: ensemble size M, the same for every field.
    """

    @property
    def label(self) -> str:
        """Name in scores and report."""
        ...

    @property
    def members(self) -> int:
        """Ensemble size M."""
        ...

    def read(self, variable: str, start: np.datetime64, lead: np.timedelta64) -> np.ndarray:
        """(M, G) float32 members in the variable's units."""
        ...


class StoredForecast:
    """A forecast store, ours or another's (`foreign.ForeignForecast`), under a label."""

    def __init__(self, label: str, store: Any) -> None:
        self.label, self.store = label, store
        self.members = len(store.members)
        self._start = {when: k for k, when in enumerate(store.starts.astype("datetime64[s]").tolist())}
        self._lead = {lead: k for k, lead in enumerate(store.leads.astype("timedelta64[s]").tolist())}

    def position(self, start: np.datetime64, lead: np.timedelta64) -> tuple[int, int] | None:
        """Positions of a start and a lead if all their members are finished, else None."""
        s = self._start.get(start.astype("datetime64[s]").item())
        k = self._lead.get(lead.astype("timedelta64[s]").item())
        return (s, k) if s is not None and k is not None and self.store.finished[s, k] else None

    def read(self, variable: str, start: np.datetime64, lead: np.timedelta64) -> np.ndarray:
        """(M, G) float32 members in the variable's units."""
        at = self.position(start, lead)
        assert at is not None, "the plan asks for finished fields only"
        return np.asarray(self.store.read(variable, *at))
