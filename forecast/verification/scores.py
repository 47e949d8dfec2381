"""The scores that are computed: one entry each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from forecast.core.errors import ForecastError
from forecast.verification import (
    crps_parts,
    decisions,
    deterministic,
    ensemble,
    events,
    multivariate,
    neighbourhood,
    precipitation,
    scales,
    spectra,
)
from forecast.verification.metric import Metric, Statistic

METRICS: tuple[Metric, ...] = (
    ensemble.FairCRPS(),
    ensemble.CRPS(),
    ensemble.AlmostFairCRPS(),
    ensemble.CRPSOfFifty(),
    crps_parts.CRPSReliability(),
    crps_parts.PooledReliability(),
    crps_parts.CRPSPotential(),
    crps_parts.CRPSResolution(),
    crps_parts.CRPSUncertainty(),
    ensemble.QuantileScore(),
    multivariate.EnergyScore(),
    multivariate.VariogramScore(),
    deterministic.RMSE(),
    ensemble.UnbiasedRMSE(),
    deterministic.MAE(),
    deterministic.Bias(),
    deterministic.ACC(),
    deterministic.Activity(),
    deterministic.TruthActivity(),
    precipitation.SEEPS(),
    ensemble.Spread(),
    ensemble.SpreadSkill(),
    ensemble.RankHistogram(),
    events.Brier(),
    events.FairBrier(),
    events.BrierReliability(),
    events.BrierReliabilityFair(),
    events.BrierResolution(),
    events.BrierUncertainty(),
    events.ProbabilityBias(),
    events.TailCRPS(),
    events.RPS(),
    events.FairRPS(),
    events.Reliability(),
    events.ReliabilityExpected(),
    events.Sharpness(),
    decisions.HitRate(),
    decisions.FalseAlarmRate(),
    decisions.ROCArea(),
    decisions.EconomicValue(),
    decisions.CSI(),
    decisions.ETS(),
    decisions.HSS(),
    decisions.FrequencyBias(),
    neighbourhood.FractionsSkill(),
    spectra.MemberPower(),
    spectra.MeanPower(),
    spectra.TruthPower(),
    spectra.TendencyPower(),
    spectra.TruthTendencyPower(),
    spectra.Coherence(),
    scales.MemberSpectrum(),
    scales.TruthSpectrum(),
    scales.SpectrumRatio(),
)

POINTWISE = ("fair_crps", "crps", "rmse", "unbiased_rmse", "mae", "bias", "spread", "spread_skill", "rank_histogram")
"""what one fused pass over members and truth gives: no climatology, events or spectra"""


def named(names: Sequence[str] | None) -> tuple[Metric, ...]:
    """The metrics of these names, `pointwise` for those of POINTWISE; all if absent.

    Raises:
        ForecastError: a name that is none.
    """
    known = {m.name: m for m in METRICS}
    wanted = dict.fromkeys(n for name in names or known for n in (POINTWISE if name == "pointwise" else (name,)))
    for name in wanted:
        if name not in known:
            raise ForecastError(f"unknown score `{name}`: choose from pointwise, {', '.join(known)}")
    return tuple(known[name] for name in wanted)


def possible(metrics: Iterable[Metric], **known: bool) -> tuple[Metric, ...]:
    """Those of `metrics` that can be had; `climate`, `rows`, `events`, ... False where that is not known."""
    return tuple(m for m in metrics if all(known.get(need, True) for s in m.statistics for need in s.needs))


def statistics_of(metrics: Iterable[Metric]) -> tuple[Statistic, ...]:
    """The statistics behind `metrics`, each once."""
    return tuple({s.name: s for m in metrics for s in m.statistics}.values())
