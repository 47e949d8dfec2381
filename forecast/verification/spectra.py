"""Zonal power spectra: which share of a field's mean square each zonal wavenumber holds, averaged by area.

Along each latitude S_0 = |F_0|^2 and S_k = 2 |F_k|^2 (the last of an even count once), with F = rfft / columns, so
that the sum over k is the mean square along the latitude (Parseval) and, averaged by area, that of the region.
WeatherBench's ZonalEnergySpectrum is this times the latitude circle's length.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from forecast.verification.matchup import Matchup
from forecast.verification.metric import Metric, Statistic


def zonal_power(fields: np.ndarray) -> np.ndarray:
    """(..., rows, columns) -> (..., rows, columns // 2 + 1) power by zonal wavenumber, in the field's units squared."""
    columns = fields.shape[-1]
    coefficients = np.fft.rfft(fields.astype(np.float64), axis=-1) / columns
    power = coefficients.real**2 + coefficients.imag**2
    power[..., 1 : (columns + 1) // 2] *= 2.0
    return power


def _power(fields: np.ndarray, m: Matchup) -> np.ndarray:
    """(n, G) -> (wavenumber, rows), the mean over n."""
    return zonal_power(fields.reshape(-1, *m.shape)).mean(axis=0).T


class _Power(Metric):
    units, better = "x^2", "none"

    def value(self, *means: xr.DataArray) -> xr.DataArray:
        """(..., wavenumber) power."""
        return means[0]


class MemberPower(_Power):
    """Mean power spectrum of single members: it should match the truth's at every lead."""

    name, title = "power_members", "Power of members"
    statistics = (Statistic("power_members", lambda m: _power(m.members, m), "wavenumber", "rows"),)


class MeanPower(_Power):
    """Power spectrum of the ensemble mean: it falls below the truth's as predictability is lost."""

    name, title = "power_mean", "Power of the ensemble mean"
    statistics = (Statistic("power_mean", lambda m: _power(m.truth + m.mean_error, m), "wavenumber", "rows"),)


class TruthPower(_Power):
    """Power spectrum of the truth at the same valid times."""

    name, title = "power_truth", "Power of the truth"
    statistics = (Statistic("power_truth", lambda m: _power(m.truth, m), "wavenumber", "rows"),)
