"""The scores that are computed: one entry each."""

from __future__ import annotations

from collections.abc import Iterable

from forecast.verification import deterministic, ensemble, spectra
from forecast.verification.metric import Metric, Statistic

METRICS: tuple[Metric, ...] = (
    ensemble.FairCRPS(),
    ensemble.CRPS(),
    deterministic.RMSE(),
    ensemble.UnbiasedRMSE(),
    deterministic.MAE(),
    deterministic.Bias(),
    deterministic.ACC(),
    ensemble.Spread(),
    ensemble.SpreadSkill(),
    ensemble.RankHistogram(),
    spectra.MemberPower(),
    spectra.MeanPower(),
    spectra.TruthPower(),
)


def possible(metrics: Iterable[Metric], climate: bool, rows: bool) -> tuple[Metric, ...]:
    """Those of `metrics` that can be had with or without a climatology and a regular global grid."""
    given = {"": True, "climate": climate, "rows": rows}
    return tuple(m for m in metrics if all(given[s.requires] for s in m.statistics))


def statistics_of(metrics: Iterable[Metric]) -> tuple[Statistic, ...]:
    """The statistics behind `metrics`, each once."""
    return tuple({s.name: s for m in metrics for s in m.statistics}.values())
