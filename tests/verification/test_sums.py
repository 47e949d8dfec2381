"""Sums add, save, and open."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from forecast.core import seeding
from forecast.core.errors import ForecastError
from forecast.verification.deterministic import RMSE
from forecast.verification.ensemble import FairCRPS, RankHistogram
from forecast.verification.scores import statistics_of
from forecast.verification.sums import Sums

METRICS = (FairCRPS(), RMSE(), RankHistogram())
STARTS = np.arange(np.datetime64("2001-01-01", "s"), np.datetime64("2001-01-05", "s"), np.timedelta64(86400, "s"))
LEADS = np.array([6, 24]) * np.timedelta64(3600, "s")


def made(starts: np.ndarray, label: str = "a") -> Sums:
    """Sums with numbers that depend on the start alone."""
    sums = Sums.zeros(
        statistics_of(METRICS), {"rank": 4}, ("z_500", "2t"), starts, LEADS, ("globe",), label=label, members=3
    )
    for s, start in enumerate(starts):
        for name in sums.sum:
            array = sums.sum[name].values[:, s]
            array[...] = seeding.uniform(seeding.key(1, str(name), start), array.size).reshape(array.shape)
        for name in sums.weight:
            sums.weight[name].values[:, s] = 1.0
    return sums


def test_parts_merge_to_the_whole() -> None:
    whole = made(STARTS)
    merged = made(STARTS[2:]) + made(STARTS[:2])
    assert merged.sum.equals(whole.sum) and merged.weight.equals(whole.weight)
    for metric in METRICS:
        assert merged.metric(metric).equals(whole.metric(metric))


def test_mean_gives_each_start_the_same_weight_and_takes_roots_last() -> None:
    sums = made(STARTS)
    expected = np.sqrt(sums.sum["squared_error"].mean("init_time"))
    assert np.allclose(sums.metric(RMSE()), expected)


def test_starts_that_were_not_scored_do_not_count() -> None:
    padded = made(STARTS[:2]) + Sums.zeros(
        statistics_of(METRICS), {"rank": 4}, ("z_500", "2t"), STARTS[2:], LEADS, ("globe",), label="a", members=3
    )
    assert np.array_equal(padded.metric(FairCRPS()).values, made(STARTS[:2]).metric(FairCRPS()).values)


def test_nothing_scored_is_nan() -> None:
    empty = Sums.zeros(statistics_of(METRICS), {"rank": 4}, ("z_500",), STARTS, LEADS, ("globe",), label="a", members=3)
    assert np.isnan(empty.metric(FairCRPS())).all()


def test_sums_of_different_forecasts_do_not_add() -> None:
    with pytest.raises(ForecastError, match="different things"):
        made(STARTS) + made(STARTS, label="b")


def test_save_and_open(tmp_path: Path) -> None:
    sums = made(STARTS)
    sums.save(tmp_path / "a.nc")
    again = Sums.open(tmp_path / "a.nc")
    assert again.sum.equals(sums.sum) and again.weight.equals(sums.weight) and again.attrs == sums.attrs
    assert ((again + made(STARTS)).sum["fair_crps"] == 2 * sums.sum["fair_crps"]).all()


def test_opening_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(ForecastError, match="holds no sums"):
        Sums.open(tmp_path / "none.nc")
