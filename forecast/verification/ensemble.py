"""Scores of the ensemble as a distribution. y truth, x_i members, s^2 their variance (divisor M - 1), <.> mean."""

from __future__ import annotations

import numpy as np
import xarray as xr

from forecast.verification.matchup import Matchup
from forecast.verification.metric import Metric, Statistic


def _crps(m: Matchup) -> np.ndarray:
    return m.absolute_error - (1.0 - 1.0 / len(m.members)) * m.half_distance


def _rank_shares(m: Matchup) -> np.ndarray:
    shares = (m.rank == np.arange(len(m.members) + 1.0)[:, None]).astype(np.float64)
    shares[:, np.isnan(m.rank)] = np.nan
    return shares


FAIR_CRPS = Statistic("fair_crps", lambda m: m.absolute_error - m.half_distance)
CRPS_ECDF = Statistic("crps", _crps)
VARIANCE = Statistic("variance", lambda m: m.variance)
UNBIASED_SQUARED_ERROR = Statistic("unbiased_squared_error", lambda m: m.mean_error**2 - m.variance / len(m.members))
RANK = Statistic("rank_share", _rank_shares, axis="rank")


class CRPS(Metric):
    """CRPS of the members' empirical distribution: mean |x_i - y| - 1/(2 M^2) sum_ij |x_i - x_j|.

    Grows with fewer members; of one member it is the MAE.
    """

    name, title = "crps", "CRPS (of the M members)"
    statistics = (CRPS_ECDF,)

    def value(self, *means: xr.DataArray) -> xr.DataArray:
        """<CRPS>."""
        return means[0]


class FairCRPS(Metric):
    """Fair CRPS (Ferro 2014): mean |x_i - y| - 1/(2 M (M - 1)) sum_ij |x_i - x_j|.

    Its expectation does not depend on M, so ensembles of different sizes compare. For one member the second term
    does not exist; the score given is then the MAE, which favours nothing: a deterministic forecast has no spread.
    """

    name, title = "fair_crps", "Fair CRPS"
    statistics = (FAIR_CRPS,)

    def value(self, *means: xr.DataArray) -> xr.DataArray:
        """<fair CRPS>."""
        return means[0]


class Spread(Metric):
    """sqrt<s^2>: the root of the mean variance, not the mean of standard deviations."""

    name, title, better = "spread", "Spread", "none"
    statistics = (VARIANCE,)

    def value(self, *means: xr.DataArray) -> xr.DataArray:
        """sqrt<s^2>."""
        return means[0] ** 0.5


class SpreadSkill(Metric):
    """Spread-skill ratio freed of the ensemble's size, as in WeatherBench-X: sqrt(<s^2> / <(mean - y)^2 - s^2/M>).

    1 for a perfect ensemble of any size, below 1 for one that spreads too little.
    """

    name, title, units, better = "spread_skill", "Spread-skill ratio", "1", "one"
    statistics = (VARIANCE, UNBIASED_SQUARED_ERROR)

    def value(self, *means: xr.DataArray) -> xr.DataArray:
        """sqrt(<s^2> / <(mean - y)^2 - s^2/M>); NaN where chance makes the divisor negative."""
        variance, squared_error = means
        return (variance / squared_error.where(squared_error > 0)) ** 0.5


class UnbiasedRMSE(Metric):
    """RMSE that the mean of infinitely many members would have: sqrt<(mean - y)^2 - s^2/M>."""

    name, title = "unbiased_rmse", "RMSE of the mean of infinitely many members"
    statistics = (UNBIASED_SQUARED_ERROR,)

    def value(self, *means: xr.DataArray) -> xr.DataArray:
        """sqrt<(mean - y)^2 - s^2/M>; NaN where chance makes it negative."""
        return means[0].where(means[0] >= 0) ** 0.5


class RankHistogram(Metric):
    """Share of area and starts in which k of M members lie below the truth, k = 0..M, ties drawn by lot.

    Flat, 1 / (M + 1), for a reliable ensemble; U-shaped for one that spreads too little.
    """

    name, title, units, better = "rank_histogram", "Rank histogram", "1", "none"
    statistics = (RANK,)

    def value(self, *means: xr.DataArray) -> xr.DataArray:
        """(..., rank) shares that sum to 1."""
        return means[0]
