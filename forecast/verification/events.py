"""Scores of events: probabilities k / M that a limit is passed, against whether it was.

One table per event, the share of area and starts in which k of M members and the truth passed the limit, holds all
that Brier score, reliability, sharpness, ROC, economic value and contingency scores need; it adds over chunks.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from forecast.verification.matchup import Matchup
from forecast.verification.metric import Mean, Metric, Need, Statistic
from forecast.verification.regions import Areas

EVENT = ("event",)
NEEDS: tuple[Need, ...] = ("events",)


def _probability(m: Matchup, which: slice) -> np.ndarray:
    return m.beyond[which] / len(m.members)


def _squared(m: Matchup, which: slice) -> np.ndarray:
    return (_probability(m, which) - m.occurred[which]) ** 2


def _surplus(m: Matchup, which: slice) -> np.ndarray:
    """What finite M adds to the squared error of the probability, in expectation: p (1 - p) / (M - 1)."""
    p = _probability(m, which)
    return p * (1.0 - p) / max(len(m.members) - 1, 1)


def _table(m: Matchup, areas: Areas) -> np.ndarray:
    """(R, E, M + 1, 2) shares by members beyond the limit and outcome."""
    size = len(m.members) + 1
    both = [areas.shares(k + size * o, 2 * size) for k, o in zip(m.beyond[m.events], m.occurred[m.events], strict=True)]
    return np.stack(both, axis=1).reshape(len(areas.points), len(both), 2, size).swapaxes(2, 3)


def _tail(m: Matchup) -> np.ndarray:
    known = np.isnan(m.beyond[m.events])
    return np.where(known, np.nan, m.tail_crps)


TABLE = Statistic("event_table", _table, ("event", "exceeding", "occurred"), over="areas", needs=NEEDS)
BRIER = Statistic("brier", lambda m: _squared(m, m.events), EVENT, needs=NEEDS)
FAIR_BRIER = Statistic("fair_brier", lambda m: _squared(m, m.events) - _surplus(m, m.events), EVENT, needs=NEEDS)
EXCESS = Statistic("event_excess", lambda m: _probability(m, m.events) - m.occurred[m.events], EVENT, needs=NEEDS)
TAIL_CRPS = Statistic("tail_crps", _tail, EVENT, needs=("events", "tails"))
RPS_SUM = Statistic("rps", lambda m: _squared(m, m.categories).sum(axis=0), needs=("categories",))
FAIR_RPS_SUM = Statistic("fair_rps",
                         lambda m: (_squared(m, m.categories) - _surplus(m, m.categories)).sum(axis=0),
                         needs=("categories",))  # fmt: skip


class Brier(Mean):
    """<(p - o)^2>, p the share of members beyond the limit."""

    name, title, units = "brier", "Brier score", "1"
    reference = "Brier 1950; Wilks 2019, 9.4.2"
    statistics = (BRIER,)


class FairBrier(Mean):
    """<(p - o)^2 - p (1 - p) / (M - 1)>: in expectation the same for ensembles of any size."""

    name, title, units = "fair_brier", "Fair Brier score", "1"
    reference = "Ferro 2014, doi:10.1002/qj.2270"
    statistics = (FAIR_BRIER,)


class RPS(Mean):
    """Ranked probability score over climatological fifths: the Brier scores of its limits added, not divided."""

    name, title, units = "rps", "RPS (climatological fifths)", "1"
    reference = "Epstein 1969; Wilks 2019, 9.4.9"
    statistics = (RPS_SUM,)


class FairRPS(Mean):
    """RPS that does not depend on the ensemble's size."""

    name, title, units = "fair_rps", "Fair RPS (climatological fifths)", "1"
    reference = "Ferro 2014"
    statistics = (FAIR_RPS_SUM,)


class TailCRPS(Mean):
    """Threshold-weighted fair CRPS: that of values clipped to the event's side of its limit."""

    name, title = "tail_crps", "Threshold-weighted CRPS (fair)"
    reference = "Gneiting and Ranjan 2011, doi:10.1198/jbes.2010.08110; Allen et al. 2023, arXiv:2202.12732"
    statistics = (TAIL_CRPS,)


class ProbabilityBias(Mean):
    """<p - o>: how much too often the event is forecast."""

    name, title, units, better = "probability_bias", "Bias of the event's probability", "1", "none"
    reference = "Wilks 2019, 9.4"
    statistics = (EXCESS,)


def parts(table: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    """Share n of each k, frequency of the event given k (NaN where k never came), and k / M."""
    count, hits = table.sum("occurred", skipna=False), table.isel(occurred=1, drop=True)
    size = table.sizes["exceeding"] - 1
    return count, hits / count.where(count > 0), xr.DataArray(np.arange(size + 1) / size, dims="exceeding")


def exchangeable(table: xr.DataArray) -> xr.DataArray:
    """(..., exceeding) frequency of the event given k that an ensemble would show to which the truth belongs.

    Of M members and the truth pooled, j pass the limit; if the truth is one of them like any other, it is among the j
    with probability j / (M + 1). The shares of j are read from the table itself, so nothing is assumed of the
    distribution. This is the line that a perfect ensemble of M members follows in a reliability diagram; for
    M to infinity it is the diagonal.
    """
    size = table.sizes["exceeding"] - 1
    j = xr.DataArray(np.arange(size + 2), dims="pooled")
    plain = table.drop_vars("exceeding", errors="ignore").rename(exceeding="pooled")
    pooled = plain.isel(occurred=0, drop=True).pad(pooled=(0, 1), constant_values=0.0)
    pooled = pooled + plain.isel(occurred=1, drop=True).pad(pooled=(1, 0), constant_values=0.0)
    with_truth = (pooled * j / (size + 1)).isel(pooled=slice(1, None))
    without = (pooled * (size + 1 - j) / (size + 1)).isel(pooled=slice(None, -1))
    both = with_truth + without
    return (with_truth / both.where(both > 0)).rename(pooled="exceeding")


class _OfTable(Metric):
    units, statistics = "1", (TABLE,)


class BrierReliability(_OfTable):
    """sum n_k (o_k - k/M)^2; 0 where events come as often as stated."""

    name, title = "brier_reliability", "Brier score: reliability part"
    reference = "Murphy 1973, doi:10.1175/1520-0450(1973)012<0595:ANVPOT>2.0.CO;2"

    def value(self, *means: xr.DataArray) -> xr.DataArray:
        """sum n_k (o_k - k/M)^2."""
        count, observed, stated = parts(means[0])
        return (count * (observed - stated) ** 2).sum("exceeding").where(count.notnull().all("exceeding"))


class BrierReliabilityFair(_OfTable):
    """sum n_k (o_k - q_k)^2, q_k the frequency that a perfect ensemble of M members would show: 0 for it."""

    name, title = "brier_reliability_fair", "Brier score: reliability part, freed of the ensemble's size"
    reference = "exchangeability of truth and members; cf. Spaeth and Roberts, arXiv:2604.05946"

    def value(self, *means: xr.DataArray) -> xr.DataArray:
        """sum n_k (o_k - q_k)^2."""
        count, observed, _ = parts(means[0])
        expected = exchangeable(means[0])
        return (count * (observed - expected) ** 2).sum("exceeding").where(count.notnull().all("exceeding"))


class BrierResolution(_OfTable):
    """sum n_k (o_k - o)^2: how far the forecasts tell cases apart."""

    name, title, better = "brier_resolution", "Brier score: resolution part", "high"
    reference = BrierReliability.reference

    def value(self, *means: xr.DataArray) -> xr.DataArray:
        """sum n_k (o_k - o)^2."""
        count, observed, _ = parts(means[0])
        rate = means[0].isel(occurred=1, drop=True).sum("exceeding", skipna=False)
        return (count * (observed - rate) ** 2).sum("exceeding").where(rate.notnull())


class BrierUncertainty(_OfTable):
    """o (1 - o): Brier score of the event's own frequency. Brier = reliability - resolution + uncertainty."""

    name, title, better = "brier_uncertainty", "Brier score: uncertainty part", "none"
    reference = BrierReliability.reference

    def value(self, *means: xr.DataArray) -> xr.DataArray:
        """o (1 - o)."""
        rate = means[0].isel(occurred=1, drop=True).sum("exceeding", skipna=False)
        return rate * (1 - rate)


class Reliability(_OfTable):
    """(..., exceeding) frequency of the event given that k of M members pass the limit: the reliability diagram."""

    name, title, better = "reliability", "Reliability: frequency of the event", "none"
    reference = "Wilks 2019, 9.4.4; bars: Broecker and Smith 2007, doi:10.1175/WAF993.1"

    def value(self, *means: xr.DataArray) -> xr.DataArray:
        """o_k."""
        return parts(means[0])[1]


class ReliabilityExpected(_OfTable):
    """(..., exceeding) the frequency that a perfect ensemble of M members would show (`exchangeable`)."""

    name, title, better = "reliability_expected", "Reliability: a perfect ensemble of this size", "none"
    reference = BrierReliabilityFair.reference

    def value(self, *means: xr.DataArray) -> xr.DataArray:
        """q_k."""
        return exchangeable(means[0])


class Sharpness(_OfTable):
    """(..., exceeding) how often k of M members pass the limit: the refinement histogram."""

    name, title, better = "sharpness", "Sharpness: share of forecasts", "none"
    reference = "Murphy and Winkler 1987; Wilks 2019, 9.4.4"

    def value(self, *means: xr.DataArray) -> xr.DataArray:
        """n_k."""
        return parts(means[0])[0]
