"""Scores while forecasting: what goes along with a run of step 3."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from forecast.core.config import Config, adjusted
from forecast.core.sections import VerificationSection
from forecast.verification.job import Job
from forecast.verification.naming import Names
from forecast.verification.online import Online

LEAN = {"scores": ("pointwise",), "baselines": ("persistence",)}
"""what is scored while forecasting unless more is asked for: years of hindcasts cost megabytes, and hardly any time"""


@dataclass(frozen=True)
class Scoring:
    """What a run is scored against while it goes.

    Attributes:
        truth: store to verify against. out: folder of scores; beside the forecast store if absent.
        analysis: store that persistence starts from; the truth if absent.
        store: whether fields are kept; otherwise those of a start go once it is scored.
        section: how; scores and baselines that it leaves open are `LEAN`.
    """

    truth: Path
    out: Path | None = None
    analysis: Path | None = None
    store: bool = True
    section: VerificationSection = VerificationSection()

    def of(self, section: VerificationSection) -> Scoring:
        """The same as the section says."""
        return replace(self, section=section)

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of `ensemble.generate`."""
        return {"follow": self.follow, "drop": not self.store}

    def follow(self, forecasts: Path) -> Online:
        """Scores of the store `forecasts`, as `forecast verify` would make them."""
        out = self.out or forecasts.with_name(f"{forecasts.stem}-scores")
        open_ones = {name: value for name, value in LEAN.items() if getattr(self.section, name) is None}
        how = options(self.section) | open_ones
        del how["workers"], how["scheduler"]
        return Online(Job({forecasts.stem: forecasts}, self.truth, self.analysis, **how), out)


def like_config(scoring: Scoring | None, config: Config) -> dict[str, Any]:
    """Arguments of `ensemble.generate`: scores as `forecast verify` on the config would."""
    return scoring.of(section_of(config)).options if scoring else {}


def section_of(config: Config) -> VerificationSection:
    """How a config verifies: with the training period's climatology and without gaps by nature, unless it says so."""
    section = config.verification
    nan = "skip" if config.data.masked and "nan" not in section.model_fields_set else section.nan
    return section.model_copy(update={"climatology": section.climatology or config.data.train, "nan": nan})


def like_settings(scoring: Scoring | None, settings: Sequence[str]) -> dict[str, Any]:
    """Arguments of `ensemble.generate`: scores as those of `settings` say that begin with `verification.`."""
    own = tuple(setting for setting in settings if setting.startswith("verification."))
    return scoring.of(adjusted(VerificationSection, "verification", own)).options if scoring else {}


def options(section: VerificationSection) -> dict[str, Any]:
    """What a section says of how to score, as `score` takes it."""
    same = ("climatology", "variables", "leads", "regions", "scores", "events", "seasons", "spans", "draws", "nan",
            "grid", "accumulation", "workers", "scheduler", "ridge")  # fmt: skip
    chosen = {name: getattr(section, name) for name in same}
    chosen["baselines"] = ("persistence", "climatology") if section.baselines is None else section.baselines
    return chosen | {"window": section.climatology_window, "names": Names.parse(section.names)}
