"""Tests of differences, bands, averages over seasons and spans."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy.stats import ttest_1samp

from forecast.core import seeding
from forecast.core.errors import ForecastError
from forecast.verification import averages, deterministic, ensemble, resampling
from forecast.verification.diagrams import binomial_edge
from forecast.verification.scores import statistics_of
from forecast.verification.significance import Settings, bands, compare
from forecast.verification.sums import Sums

METRICS = (ensemble.FairCRPS(), deterministic.RMSE())
LEADS = np.array([24, 48, 72]) * np.timedelta64(3600, "s")


def noise(shape: tuple[int, ...], purpose: str) -> np.ndarray:
    size = int(np.prod(shape))
    return seeding.normal(seeding.key(3, purpose), size).reshape(shape).astype(float)


def autoregressive(phi: float, length: int, count: int) -> np.ndarray:
    """(length, count) series without mean."""
    x, e = np.zeros((length + 50, count)), noise((length + 50, count), f"ar {phi}")
    for k in range(1, len(x)):
        x[k] = phi * x[k - 1] + e[k]
    return x[50:]


def made(offset: float, label: str, starts: int = 40, seed: str = "a") -> Sums:
    """Sums whose errors are those of a common series, better by `offset`, and a little of their own."""
    first = np.datetime64("2001-01-01", "s")
    dates = first + np.arange(starts) * np.timedelta64(86400, "s")
    sums = Sums.zeros(statistics_of(METRICS), {}, ("z_500", "2t"), dates, LEADS, ("globe",), label=label, members=5)
    common, own = noise((2, starts, 3, 1), "common"), noise((2, starts, 3, 1), seed)
    for name, (total, weight) in sums.arrays.items():
        total += 10.0 + common + 0.1 * own - offset * (name != "")
        weight += 1.0
    return sums


def test_plain_t_test_where_nothing_is_correlated() -> None:
    """Where both lag correlations make the inflation 1 or less, the p-value is Student's."""
    x = np.array([[1.0, -1.2, 1.4, -0.6, 0.9, -0.8, 1.1, -0.7]]).T  # alternates: r1 < 0
    assert resampling.t_test(x)[0] == pytest.approx(ttest_1samp(x[:, 0], 0).pvalue, rel=1e-12)


def test_correlated_series_pass_for_different_far_less_often_than_with_a_plain_t_test() -> None:
    x = autoregressive(0.5, 60, 600)
    ours, plain = (resampling.t_test(x) < 0.05).mean(), (ttest_1samp(x, 0).pvalue < 0.05).mean()
    assert plain > 0.18 and ours < 0.13
    white = resampling.t_test(autoregressive(0.0, 60, 600))
    assert (white < 0.05).mean() == pytest.approx(0.05, abs=0.03)


def test_block_length_grows_with_memory_and_blocks_have_it() -> None:
    lengths = [resampling.block_length(autoregressive(phi, 200, 50)).mean() for phi in (0.0, 0.5, 0.8)]
    assert lengths[0] < 3 < lengths[1] < lengths[2]
    counts = resampling.stationary_bootstrap(50, 5.0, 2000)
    assert (counts.sum(axis=1) == 50).all() and counts.mean(axis=0) == pytest.approx(np.ones(50), abs=0.15)
    variance = counts.mean(axis=1), (counts[:, :-1] * counts[:, 1:]).mean()
    assert variance[1] > 1.5  # neighbours are drawn together
    assert np.array_equal(counts, resampling.stationary_bootstrap(50, 5.0, 2000))


def test_false_discovery_rate() -> None:
    """Benjamini and Hochberg by hand: p (i / n) from the largest down."""
    q = resampling.false_discovery(np.array([[0.01, 0.04], [0.03, np.nan]]))
    assert q[0] == pytest.approx([0.03, 0.04]) and q[1, 0] == pytest.approx(0.04) and np.isnan(q[1, 1])
    under_null = resampling.false_discovery(seeding.uniform(seeding.key(1, "p"), 5000))
    assert (under_null <= 0.05).sum() == 0


def test_flatness_of_ranks() -> None:
    flat = np.full(6, 1 / 6)
    assert resampling.flatness(flat, 1000) == pytest.approx(1.0)
    bowl = np.array([3, 1, 1, 1, 1, 3]) / 10
    slope, bend = resampling.trends(bowl, 200)
    assert resampling.flatness(bowl, 200) < 1e-6 and bend < 1e-6 and slope == pytest.approx(1.0)
    # ranks of a reliable ensemble: p is uniform
    shares = np.stack([np.bincount(seeding.integers(seeding.key(4, "r", k), 6, 300), minlength=6) for k in range(400)])
    assert (resampling.flatness(shares / 300, 300) < 0.05).mean() == pytest.approx(0.05, abs=0.03)


def test_a_true_difference_is_found_and_none_where_there_is_none() -> None:
    better = compare(made(0.5, "a"), made(0.0, "b", seed="b"), METRICS, Settings(draws=300))
    assert (better["significant"] == 1).all() and (better["q"] < 0.05).all()
    assert (better["skill_low"] < better["skill"]).all() and (better["skill"] < better["skill_high"]).all()
    assert (better["skill_low"] > 0).all()
    assert float(better["difference"].sel(score="fair_crps").mean()) == pytest.approx(-0.5, abs=0.05)
    worse = compare(made(0.0, "b", seed="b"), made(0.5, "a"), METRICS, Settings(draws=300))
    assert (worse["significant"] == -1).all()
    same = compare(made(0.0, "a"), made(0.0, "b", seed="b"), METRICS, Settings(draws=300))
    assert (same["significant"] == 0).all()
    itself = compare(made(0.0, "a"), made(0.0, "a"), METRICS, Settings(draws=50))
    assert (itself["difference"] == 0).all() and (itself["significant"] == 0).all() and (itself["p_ttest"] == 1).all()


def test_pairing_makes_small_differences_visible() -> None:
    """The band of the difference is far narrower than those of the scores themselves."""
    a, b = made(0.1, "a"), made(0.0, "b", seed="b")
    paired = compare(a, b, METRICS[:1], Settings(draws=300))
    single = bands(a, METRICS[:1], Settings(draws=300))
    assert float((paired["high"] - paired["low"]).mean()) < 0.5 * float((single["high"] - single["low"]).mean())


def test_two_starts_are_too_few_to_tell() -> None:
    found = compare(made(0.5, "a", starts=2), made(0.0, "b", starts=2, seed="b"), METRICS, Settings(draws=50))
    assert found["p_ttest"].isnull().all() and (found["significant"] == 0).all()


def test_seasons_and_spans_are_means_of_their_starts_and_leads() -> None:
    sums = made(0.0, "a", starts=120)
    seasons = averages.by_season(sums, METRICS)
    assert seasons["season"].values.tolist() == ["DJF", "MAM"]
    winter = sums.sum["fair_crps"].isel(init_time=slice(0, 59)).mean("init_time")
    assert np.allclose(seasons["fair_crps"].sel(season="DJF").transpose(*winter.dims), winter)
    spans = averages.by_span(sums, METRICS, dict([averages.parse_span("days 1-2=1d..2d")]))
    expected = sums.sum["squared_error"].isel(lead_time=slice(0, 2)).mean(("init_time", "lead_time")) ** 0.5
    assert np.allclose(spans["rmse"].sel(span="days 1-2").values, expected.values)
    assert averages.season_of(np.array(["2001-12-31", "2001-08-01", "2001-09-01"], "datetime64[s]")).tolist() == [
        "DJF", "JJA", "SON"
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["week 1", "x=7d..1d", "x=1..7"])
def test_spans_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ForecastError, match="span"):
        averages.parse_span(text)


def test_consistency_bars_are_binomial() -> None:
    from scipy.stats import binom

    number, probability = np.array([20.0, 1e6]), np.array([0.3, 0.3])
    low = binomial_edge(0.05, number, probability)
    assert low[0] == binom.ppf(0.05, 20, 0.3) / 20
    assert low[1] == pytest.approx(binom.ppf(0.05, 10**6, 0.3) / 1e6, abs=2e-6)


def test_bands_hold_the_mean() -> None:
    found = bands(made(0.0, "a"), METRICS, Settings(draws=300))
    mean = xr.DataArray([float(made(0.0, "a").metric(m).isel(variable=0, lead_time=0, region=0)) for m in METRICS])
    inside = found.isel(variable=0, lead_time=0, region=0)
    assert (inside["low"].values < mean.values).all() and (mean.values < inside["high"].values).all()
