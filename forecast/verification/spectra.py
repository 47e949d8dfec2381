"""Zonal spectra: which share of a field's mean square each zonal wavenumber holds, averaged by area.

Along each latitude S_0 = |F_0|^2 and S_k = 2 |F_k|^2 (the last of an even count once), with F = rfft / columns, so
that the sum over k is the mean square along the latitude (Parseval) and, averaged by area, that of the region.
WeatherBench's ZonalEnergySpectrum is this times the latitude circle's length.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from forecast.verification.matchup import Matchup
from forecast.verification.metric import Mean, Metric, Statistic

MEMBERS_AT_ONCE = 4


def zonal_power(fields: np.ndarray) -> np.ndarray:
    """(..., rows, columns) -> (..., rows, columns // 2 + 1) power by zonal wavenumber, in the field's units squared."""
    return np.abs(_waves(fields)) ** 2


def _waves(fields: np.ndarray) -> np.ndarray:
    """Fourier coefficients whose squares are the power, (..., rows, wavenumber)."""
    columns = fields.shape[-1]
    waves = np.fft.rfft(fields.astype(np.float64), axis=-1) / columns
    waves[..., 1 : (columns + 1) // 2] *= np.sqrt(2.0)
    return waves


def _power(fields: np.ndarray, m: Matchup) -> np.ndarray:
    """(n, G) -> (wavenumber, rows), the mean over n."""
    fields = fields.reshape(-1, *m.shape)
    parts = [zonal_power(fields[k : k + MEMBERS_AT_ONCE]).sum(axis=0) for k in range(0, len(fields), MEMBERS_AT_ONCE)]
    return np.sum(parts, axis=0).T / len(fields)


def _mean(m: Matchup) -> np.ndarray:
    return m.truth + m.mean_error


def _cross(m: Matchup) -> np.ndarray:
    """(wavenumber, 2, rows): real and imaginary cross spectrum of ensemble mean and truth."""
    cross = (_waves(_mean(m).reshape(m.shape)) * _waves(m.truth.reshape(m.shape)).conj()).T
    return np.stack([cross.real, cross.imag], axis=1)


def _tendency(m: Matchup, which: str) -> np.ndarray:
    assert m.initial is not None
    analysis, truth = m.initial
    return _power(m.truth - truth if which == "truth" else m.members - analysis, m)


def _spectrum(name: str, of, *needs: str) -> Statistic:  # type: ignore[no-untyped-def]
    return Statistic(name, of, ("wavenumber",), over="rows", needs=("rows", *needs))  # type: ignore[arg-type]


POWER_MEMBERS = _spectrum("power_members", lambda m: _power(m.members, m))
POWER_MEAN = _spectrum("power_mean", lambda m: _power(_mean(m), m))
POWER_TRUTH = _spectrum("power_truth", lambda m: _power(m.truth, m))
CROSS = Statistic("cross_spectrum", _cross, ("wavenumber", "part"), over="rows", needs=("rows",))
TENDENCY_MEMBERS = _spectrum("tendency_power_members", lambda m: _tendency(m, "members"), "initial")
TENDENCY_TRUTH = _spectrum("tendency_power_truth", lambda m: _tendency(m, "truth"), "initial")
PARSEVAL = "Parseval's theorem along latitudes; WeatherBench 2 ZonalEnergySpectrum"


class _Power(Mean):
    units, better, reference = "x^2", "none", PARSEVAL


class MemberPower(_Power):
    """Mean power spectrum of single members: it should match the truth's at every lead."""

    name, title = "power_members", "Power of members"
    statistics = (POWER_MEMBERS,)


class MeanPower(_Power):
    """Power spectrum of the ensemble mean: it falls below the truth's as predictability is lost."""

    name, title = "power_mean", "Power of the ensemble mean"
    statistics = (POWER_MEAN,)


class TruthPower(_Power):
    """Power spectrum of the truth at the same valid times."""

    name, title = "power_truth", "Power of the truth"
    statistics = (POWER_TRUTH,)


class TendencyPower(_Power):
    """Power of the members' accumulated tendency: state at the lead less state at the start.

    Fields that grow smoother from step to step, or noisier, show here before they show in the spectrum of the state.
    """

    name, title = "tendency_power_members", "Power of the members' tendency since the start"
    reference = "Lang et al. 2024 (AIFS-CRPS), arXiv:2412.15832"
    statistics = (TENDENCY_MEMBERS,)


class TruthTendencyPower(_Power):
    """Power of the truth's accumulated tendency."""

    name, title = "tendency_power_truth", "Power of the truth's tendency since the start"
    reference = TendencyPower.reference
    statistics = (TENDENCY_TRUTH,)


class Coherence(Metric):
    """(..., wavenumber) squared coherence of ensemble mean and truth: 1 where waves agree in phase and ratio."""

    name, title, units, better = "coherence", "Squared coherence of mean and truth", "1", "high"
    reference = "von Storch and Zwiers 1999, Statistical Analysis in Climate Research, 11.3"
    statistics = (CROSS, POWER_MEAN, POWER_TRUTH)

    def value(self, *means: xr.DataArray) -> xr.DataArray:
        """|<F G*>|^2 / (<|F|^2> <|G|^2>), starts and rows inside the averages."""
        cross, mean, truth = means
        product = mean * truth
        return (cross**2).sum("part", skipna=False) / product.where(product > 0)
