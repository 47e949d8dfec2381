"""The CRPS taken apart: reliability, resolution, uncertainty.

Hersbach (2000, doi:10.1175/1520-0434(2000)015<0559:DOTCRP>2.0.CO;2) sums, for the gap between the i-th and the next
member, the length below the truth (alpha_i) and above it (beta_i); i = 0 and M are the ranges outside the ensemble.
The decomposition into reliability and potential CRPS needs their means only, so it adds over chunks.

Reliability is not 0 for a perfect ensemble of finite M, because the truth is not one of the members. In the gaps of
members and truth pooled, however, a perfect ensemble has the truth below the j-th of the M gaps in j of M + 1 cases,
whatever the distribution: the reliability of the pooled gaps is 0 in expectation for every M.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from forecast.verification.ensemble import RANK
from forecast.verification.matchup import Matchup
from forecast.verification.metric import Metric, Statistic
from forecast.verification.regions import Areas

BLOCK = 2048


def _gaps(m: Matchup, areas: Areas) -> np.ndarray:
    """(R, M + 1, 2) mean alpha and beta."""
    errors, size = m.errors, len(m.members)
    out = np.zeros((len(areas.points), size + 1, 2))
    for first in range(0, errors.shape[1], BLOCK):
        at = slice(first, first + BLOCK)
        e, weights = errors[:, at].astype(np.float64), areas.points[:, at]
        above, below = np.maximum(e, 0.0), np.minimum(e, 0.0)
        alpha = np.concatenate([np.zeros_like(e[:1]), below[1:] - below[:-1], -below[-1:]])
        beta = np.concatenate([above[:1], above[1:] - above[:-1], np.zeros_like(e[:1])])
        block = Areas(weights, None)
        out[..., 0] += block.mean(alpha)
        out[..., 1] += block.mean(beta)
    return out


GAPS = Statistic("crps_gaps", _gaps, ("gap", "side"), over="areas", needs=("sorted",))
CLIMATE_CRPS = Statistic("climate_crps", lambda m: m.climate.crps(m.truth), needs=("climate",))


def _hersbach(gaps: xr.DataArray, ranks: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    """Length g of each gap, how often o the truth lies below its end, and the forecast's probability p of that."""
    alpha, beta = gaps.isel(side=0), gaps.isel(side=1)
    size = gaps.sizes["gap"] - 1
    length = alpha + beta
    observed = beta / length.where(length > 0)
    first, last = ranks.isel(rank=0), 1.0 - ranks.isel(rank=size)
    index = xr.DataArray(np.arange(size + 1), dims="gap")
    observed = xr.where(index == 0, first, xr.where(index == size, last, observed))
    length = xr.where(index == 0, beta.isel(gap=0) / first.where(first > 0), length)
    length = xr.where(index == size, alpha.isel(gap=size) / (1 - last).where(last < 1), length)
    return length, observed, index / size


def _total(parts: xr.DataArray, like: xr.DataArray) -> xr.DataArray:
    """Sum over gaps of length 0 or more; NaN where the means are."""
    return parts.sum("gap").where(like.notnull().all(("gap", "side")))


class CRPSReliability(Metric):
    """How far the truth's frequency below each member is from the probability that the ensemble states."""

    name, title = "crps_reliability", "CRPS: reliability part"
    reference = "Hersbach 2000, eq. 36"
    statistics = (GAPS, RANK)

    def value(self, *means: xr.DataArray) -> xr.DataArray:
        """sum g (o - p)^2."""
        length, observed, stated = _hersbach(*means)
        return _total(length * (observed - stated) ** 2, means[0])


class CRPSPotential(Metric):
    """The CRPS that the ensemble would have if it were made reliable; uncertainty less resolution."""

    name, title = "crps_potential", "CRPS: potential (reliability taken out)"
    reference = "Hersbach 2000, eq. 37"
    statistics = (GAPS, RANK)

    def value(self, *means: xr.DataArray) -> xr.DataArray:
        """sum g o (1 - o)."""
        length, observed, _ = _hersbach(*means)
        return _total(length * observed * (1 - observed), means[0])


class CRPSUncertainty(Metric):
    """CRPS of the climatological ensemble of each place, hour and time of year: what there is to be explained."""

    name, title, better = "crps_uncertainty", "CRPS: uncertainty part", "none"
    reference = "Hersbach 2000, section 4b, with the local climatology in place of the pooled sample"
    statistics = (CLIMATE_CRPS,)

    def value(self, *means: xr.DataArray) -> xr.DataArray:
        """CRPS of climatology."""
        return means[0]


class CRPSResolution(Metric):
    """How much of the uncertainty the ensemble explains: CRPS = reliability - resolution + uncertainty."""

    name, title, better = "crps_resolution", "CRPS: resolution part", "high"
    reference = "Hersbach 2000, eq. 38"
    statistics = (GAPS, RANK, CLIMATE_CRPS)

    def value(self, *means: xr.DataArray) -> xr.DataArray:
        """uncertainty - potential."""
        return means[2] - CRPSPotential().value(*means[:2])


class PooledReliability(Metric):
    """Reliability part that is 0 in expectation for a perfect ensemble of any size."""

    name, title = "crps_reliability_pooled", "CRPS: reliability part, freed of the ensemble's size"
    reference = "exchangeability of truth and members; see the module's text and docs/verification.md"
    statistics = (GAPS,)

    def value(self, *means: xr.DataArray) -> xr.DataArray:
        """sum over pooled gaps j of g_j (o_j - j / (M + 1))^2."""
        size = means[0].sizes["gap"] - 1
        above = means[0].isel(side=0, gap=slice(1, None)).drop_vars("gap", errors="ignore")
        below = means[0].isel(side=1, gap=slice(None, -1)).drop_vars("gap", errors="ignore")
        length = above + below
        expected = xr.DataArray(np.arange(1, size + 1) / (size + 1), dims="gap")
        parts = length * (below / length.where(length > 0) - expected) ** 2
        return parts.sum("gap").where(length.notnull().all("gap"))
