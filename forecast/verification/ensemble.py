"""Scores of the ensemble as a distribution. y truth, x_i members, s^2 their variance (divisor M - 1), <.> mean."""

from __future__ import annotations

import numpy as np
import xarray as xr

from forecast.verification.matchup import Matchup
from forecast.verification.metric import Mean, Metric, Root, Statistic
from forecast.verification.regions import Areas

ALPHA = 0.95
LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)


def _crps(m: Matchup) -> np.ndarray:
    return m.absolute_error - (1.0 - 1.0 / len(m.members)) * m.half_distance


def _rank_shares(m: Matchup, areas: Areas) -> np.ndarray:
    return areas.shares(m.rank, len(m.members) + 1)


def _quantile_losses(m: Matchup) -> np.ndarray:
    """(levels, G) pinball loss of the members' quantiles, linear between sorted members."""
    errors, last = m.errors, len(m.members) - 1
    losses = []
    for level in LEVELS:
        low = int(level * last)
        share = level * last - low
        error = errors[low].astype(np.float64)
        if share:
            error = error + share * (errors[low + 1] - error)
        losses.append(np.where(error > 0, (1 - level) * error, -level * error))
    return np.stack(losses)


FAIR_CRPS = Statistic("fair_crps", lambda m: m.absolute_error - m.half_distance)
CRPS_ECDF = Statistic("crps", _crps)
HALF_DISTANCE = Statistic("half_distance", lambda m: m.half_distance)
VARIANCE = Statistic("variance", lambda m: m.variance)
UNBIASED_SQUARED_ERROR = Statistic("unbiased_squared_error", lambda m: m.mean_error**2 - m.variance / len(m.members))
RANK = Statistic("rank_share", _rank_shares, ("rank",), over="areas")
QUANTILES = Statistic("quantile_loss", _quantile_losses, ("level",), needs=("sorted",))


class CRPS(Mean):
    """CRPS of the members' empirical distribution: mean |x_i - y| - 1/(2 M^2) sum_ij |x_i - x_j|.

    Grows with fewer members; of one member it is the MAE.
    """

    name, title = "crps", "CRPS (of the M members)"
    reference = "Gneiting and Raftery 2007, doi:10.1198/016214506000001437"
    statistics = (CRPS_ECDF,)


class FairCRPS(Mean):
    """Fair CRPS: mean |x_i - y| - 1/(2 M (M - 1)) sum_ij |x_i - x_j|.

    Its expectation does not depend on M, so ensembles of different sizes compare. For one member the second term
    does not exist; the score given is then the MAE, which favours nothing: a deterministic forecast has no spread.
    """

    name, title = "fair_crps", "Fair CRPS"
    reference = "Ferro 2014, doi:10.1002/qj.2270; Zamo and Naveau 2018, doi:10.1007/s11004-017-9709-7"
    statistics = (FAIR_CRPS,)


class AlmostFairCRPS(Metric):
    """0.95 of the fair CRPS and 0.05 of the CRPS of the M members, the training loss of AIFS-CRPS."""

    name, title = "almost_fair_crps", "Almost fair CRPS (0.95)"
    reference = "Lang et al. 2024, arXiv:2412.15832"
    statistics = (FAIR_CRPS, CRPS_ECDF)

    def value(self, *means: xr.DataArray) -> xr.DataArray:
        """alpha fair + (1 - alpha) CRPS."""
        return ALPHA * means[0] + (1.0 - ALPHA) * means[1]


class CRPSOfFifty(Metric):
    """The CRPS that 50 such members would have, whatever M: fair CRPS + half distance / 50.

    Skill computed from it compares ensembles of different sizes as if each had 50 members.
    """

    name, title = "crps_50", "CRPS of 50 such members"
    reference = "Ferro et al. 2008, doi:10.1002/met.45"
    statistics = (FAIR_CRPS, HALF_DISTANCE)

    def value(self, *means: xr.DataArray) -> xr.DataArray:
        """fair + d / 50."""
        return means[0] + means[1] / 50.0


class QuantileScore(Mean):
    """Pinball loss of the ensemble's quantiles at 10, 25, 50, 75, 90 %: (1[y < q] - level) (q - y)."""

    name, title = "quantile_score", "Quantile score"
    reference = "Koenker and Bassett 1978; Gneiting and Raftery 2007, 6.1"
    statistics = (QUANTILES,)


class Spread(Root):
    """sqrt<s^2>: the root of the mean variance, not the mean of standard deviations."""

    name, title, better = "spread", "Spread", "none"
    reference = "Fortin et al. 2014, doi:10.1175/JHM-D-14-0008.1"
    statistics = (VARIANCE,)


class SpreadSkill(Metric):
    """Spread-skill ratio freed of the ensemble's size, as in WeatherBench-X: sqrt(<s^2> / <(mean - y)^2 - s^2/M>).

    1 for a perfect ensemble of any size, below 1 for one that spreads too little.
    """

    name, title, units, better = "spread_skill", "Spread-skill ratio", "1", "one"
    reference = "Fortin et al. 2014; WeatherBench-X UnbiasedSpreadSkillRatio"
    statistics = (VARIANCE, UNBIASED_SQUARED_ERROR)

    def value(self, *means: xr.DataArray) -> xr.DataArray:
        """sqrt(<s^2> / <(mean - y)^2 - s^2/M>); NaN where chance makes the divisor negative."""
        variance, squared_error = means
        return (variance / squared_error.where(squared_error > 0)) ** 0.5


class UnbiasedRMSE(Root):
    """RMSE that the mean of infinitely many members would have: sqrt<(mean - y)^2 - s^2/M>."""

    name, title = "unbiased_rmse", "RMSE of the mean of infinitely many members"
    reference = "WeatherBench-X UnbiasedEnsembleMeanRMSE"
    statistics = (UNBIASED_SQUARED_ERROR,)


class RankHistogram(Mean):
    """Share of area and starts in which k of M members lie below the truth, k = 0..M, ties drawn by lot.

    Flat, 1 / (M + 1), for a reliable ensemble; U-shaped for one that spreads too little. `significance.flatness`
    tests it.
    """

    name, title, units, better = "rank_histogram", "Rank histogram", "1", "none"
    reference = "Hamill 2001, doi:10.1175/1520-0493(2001)129<0550:IORHFV>2.0.CO;2"
    statistics = (RANK,)
