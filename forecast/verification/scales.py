"""Spectra by total wavenumber: which share of a global field's mean square lies at each scale, whatever its direction.

P_n is the sum over m of |f_nm|^2, where f_nm are coefficients of spherical harmonics whose mean square over the sphere
is 1, so that the sum over n is the mean square of the field, as far as the truncation holds it. On Gaussian grids the
integrals are exact; on others of regular rows they are sums over cells, and only scales of four rows or more are taken.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import xarray as xr

from forecast.core.grids import Grid
from forecast.core.sphere import Harmonics
from forecast.verification.matchup import Matchup
from forecast.verification.metric import Mean, Metric, Statistic

MOST = 63
"""highest total wavenumber that is taken: tables for more would take too much memory on fine grids"""
MEMBERS_AT_ONCE = 8


def truncation(grid: Grid) -> int:
    """The highest total wavenumber that is taken on a global grid of rows and columns."""
    rows, columns = grid.shape
    exact = grid.name.startswith("gaussian")
    return max(0, min(rows - 1 if exact else rows // 2 - 1, (columns - 1) // 2, MOST))


@lru_cache(maxsize=2)
def _harmonics(grid: Grid) -> Harmonics:
    return Harmonics(truncation(grid), grid)


def _power(fields: np.ndarray, m: Matchup) -> np.ndarray:
    """(n, G) -> (total wavenumber,), the mean over n."""
    assert m.grid is not None
    sphere, fields = _harmonics(m.grid), fields.reshape(-1, m.grid.size)
    parts = [
        sphere.power(sphere.to_spectral(sphere.from_rows(fields[k : k + MEMBERS_AT_ONCE]))).sum(axis=-1)
        for k in range(0, len(fields), MEMBERS_AT_ONCE)
    ]
    return np.asarray(np.sum(parts, axis=0) / len(fields))


AXIS = "total_wavenumber"
SPECTRUM_MEMBERS = Statistic("spectrum_members", lambda m: _power(m.members, m), (AXIS,), "globe", ("rows",))
SPECTRUM_TRUTH = Statistic("spectrum_truth", lambda m: _power(m.truth, m), (AXIS,), "globe", ("rows",))


class _Spectrum(Mean):
    units, better, reference = "x^2", "none", "Boer and Shepherd 1983, J. Atmos. Sci. 40, 164"


class MemberSpectrum(_Spectrum):
    """Mean power of single members by total wavenumber, of the whole globe."""

    name, title = "spectrum_members", "Power of members by total wavenumber"
    statistics = (SPECTRUM_MEMBERS,)


class TruthSpectrum(_Spectrum):
    """Power of the truth by total wavenumber at the same valid times."""

    name, title = "spectrum_truth", "Power of the truth by total wavenumber"
    statistics = (SPECTRUM_TRUTH,)


class SpectrumRatio(Metric):
    """Power of the members over the truth's by total wavenumber: below 1 too smooth, above 1 too noisy."""

    name, title, units, better = "spectrum_ratio", "Power of members over the truth's by total wavenumber", "1", "one"
    reference = _Spectrum.reference
    statistics = (SPECTRUM_MEMBERS, SPECTRUM_TRUTH)

    def value(self, *means: xr.DataArray) -> xr.DataArray:
        """<P of members> / <P of the truth>, starts inside the averages."""
        members, truth = means
        return members / truth.where(truth > 0)
