"""Tests for series of starts: blocks resampled, a t-test that allows for autocorrelation, many tests at once.

Errors of neighbouring starts are alike, so a plain t-test finds too many differences (Geer 2016,
doi:10.3402/tellusa.v68.30229). Series are taken in the order of their starts, which should be evenly spaced.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import chi2, t

from forecast.core import seeding


def block_length(series: np.ndarray) -> np.ndarray:
    """(N,) best mean block length for the stationary bootstrap of each series (S, N), 1 to S / 3.

    Politis and White (2004, doi:10.1081/ETR-120028836) with the correction of Patton, Politis and White (2009).
    """
    size = len(series)
    x = series - series.mean(axis=0)
    lags = max(5, int(np.ceil(np.sqrt(np.log10(size)))))
    longest = min(int(np.ceil(np.sqrt(size))) + lags, size - 1)
    covariance = np.stack([(x[: size - k] * x[k:]).sum(axis=0) / size for k in range(longest + 1)])
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = covariance / covariance[0]
    small = np.abs(correlation[1:]) < 2.0 * np.sqrt(np.log10(size) / size)
    bandwidth = np.empty(x.shape[1])
    for n in range(x.shape[1]):  # the lag after which `lags` correlations in a row are negligible
        runs = np.convolve(small[:, n], np.ones(lags, int), "valid") == lags if len(small) >= lags else np.array([])
        last = int(np.argmax(runs)) if runs.any() else longest
        bandwidth[n] = min(2 * max(last, 1), longest)
    k = np.arange(longest + 1)[:, None]
    taper = np.clip(2.0 * (1.0 - k / bandwidth), 0.0, 1.0) * np.where(k == 0, 1.0, 2.0)
    spread, density = (taper * k * covariance).sum(axis=0), (taper * covariance).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        best = (spread**2 / density**2 * size) ** (1 / 3)  # (2 G^2 / D) with D = 2 g(0)^2
    return np.clip(np.nan_to_num(best, nan=1.0), 1.0, max(size / 3.0, 1.0))


def stationary_bootstrap(size: int, block: float, draws: int, seed: int = 0) -> np.ndarray:
    """(draws, size) how often each start is drawn: blocks of geometric length with mean `block`, round the end.

    Politis and Romano (1994, doi:10.1080/01621459.1994.10476870).
    """
    jump = seeding.uniform(seeding.key(seed, "bootstrap jump"), draws * size).reshape(draws, size) < 1.0 / block
    place = seeding.integers(seeding.key(seed, "bootstrap place"), size, draws * size).reshape(draws, size)
    at, counts = place[:, 0], np.zeros((draws, size))
    rows = np.arange(draws)
    for k in range(size):
        at = place[:, k] if k == 0 else np.where(jump[:, k], place[:, k], (at + 1) % size)
        np.add.at(counts, (rows, at), 1.0)
    return counts


def t_test(differences: np.ndarray) -> np.ndarray:
    """(N,) two-sided p of mean difference 0 for each series (S, N), standard errors inflated as AR(2) asks.

    Geer (2016), appendix: the variance of the mean is k^2 s^2 / S with k^2 = (1 - r1 phi1 - r2 phi2) / (1 - phi1 -
    phi2)^2, from the lag-1 and lag-2 correlations; k is at least 1. NaN for fewer than 3 starts.
    """
    size = len(differences)
    if size < 3:
        return np.full(differences.shape[1], np.nan)
    mean = differences.mean(axis=0)
    x = differences - mean
    square = (x**2).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        r1, r2 = ((x[:-k] * x[k:]).sum(axis=0) / square for k in (1, 2))
        phi1, phi2 = r1 * (1 - r2) / (1 - r1**2), (r2 - r1**2) / (1 - r1**2)
        inflation = np.sqrt((1 - r1 * phi1 - r2 * phi2) / (1 - phi1 - phi2) ** 2)
        error = np.fmax(inflation, 1.0) * np.sqrt(square / (size - 1) / size)
        p = 2.0 * t.sf(np.abs(mean) / error, size - 1)
    return np.where(square > 0, p, np.where(mean == 0, 1.0, 0.0) + 0 * mean)


def false_discovery(p: np.ndarray) -> np.ndarray:
    """q-values of tests made together: the false discovery rate at which each would still be called significant.

    Benjamini and Hochberg (1995); valid for the positive dependence of neighbouring leads and regions (Wilks 2016,
    doi:10.1175/BAMS-D-15-00267.1). NaN stays NaN and does not count as a test.
    """
    flat = p.ravel()
    known = np.flatnonzero(~np.isnan(flat))
    q = np.full(flat.shape, np.nan)
    order = known[np.argsort(flat[known], kind="stable")]
    scaled = flat[order] * known.size / np.arange(1, known.size + 1)
    q[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return q.reshape(p.shape)


def flatness(shares: np.ndarray, cases: np.ndarray | float) -> np.ndarray:
    """p of a flat rank histogram by the chi-square test: shares (..., M + 1) of `cases` independent cases.

    Hamill (2001); `trends` says in which way it is not flat.
    """
    size = shares.shape[-1]
    statistic = cases * size * ((shares - 1.0 / size) ** 2).sum(axis=-1)
    return np.asarray(chi2.sf(statistic, size - 1))


def trends(shares: np.ndarray, cases: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """p of no slope (bias) and of no U or dome shape (spread) in a rank histogram, each chi-square with 1 degree.

    Jolliffe and Primo (2008, doi:10.1175/2007MWR2219.1).
    """
    size = shares.shape[-1]
    line = np.linspace(-1.0, 1.0, size)
    bowl = line**2 - (line**2).mean()
    ps = []
    for contrast in (line, bowl):
        unit = contrast / np.sqrt((contrast**2).sum())
        ps.append(np.asarray(chi2.sf(cases * size * (shares @ unit) ** 2, 1)))
    return ps[0], ps[1]
