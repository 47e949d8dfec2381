"""Scores while forecasting: what goes along with a run of step 3."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forecast.verification.job import Job
from forecast.verification.online import Online


@dataclass(frozen=True)
class Scoring:
    """What a run is scored against while it goes.

    Attributes:
        truth: store to verify against. out: folder of scores; beside the forecast store if absent.
        analysis: store that persistence starts from; the truth if absent.
        store: whether fields are kept; otherwise those of a start go once it is scored.
    """

    truth: Path
    out: Path | None = None
    analysis: Path | None = None
    store: bool = True

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of `ensemble.generate`."""
        return {"follow": self.follow, "drop": not self.store}

    def follow(self, forecasts: Path) -> Online:
        """Scores of the store `forecasts`, as `forecast verify` would make them."""
        out = self.out or forecasts.with_name(f"{forecasts.stem}-scores")
        return Online(Job({forecasts.stem: forecasts}, self.truth, self.analysis), out)
