"""The fused pass against scoringrules, closed forms, and its own invariants."""

from __future__ import annotations

import numpy as np
import pytest
import scoringrules as sr

from forecast.core import seeding
from forecast.verification.ensemble import CRPS_ECDF, FAIR_CRPS
from forecast.verification.matchup import Matchup

POINTS = 4000


def z500_like(members: int, points: int = POINTS) -> tuple[np.ndarray, np.ndarray]:
    """float32 geopotentials of 5.4e4 +- hundreds: the values at which float32 sums lose digits."""
    noise = seeding.normal(seeding.key(1, "test"), (members + 1) * points).reshape(members + 1, points)
    fields = np.float32(5.4e4) + np.float32(300) * noise
    return fields[1:], fields[0]


@pytest.mark.parametrize("members", [2, 5, 20, 51])
def test_crps_and_fair_crps_equal_scoringrules(members: int) -> None:
    """In float64, where scoringrules is exact; the bound is the issue's, relative to the mean score."""
    x, y = z500_like(members)
    m = Matchup(x, y)
    for ours, estimator in ((CRPS_ECDF.of(m), "nrg"), (FAIR_CRPS.of(m), "fair")):
        theirs = sr.crps_ensemble(y.astype(float), x.T.astype(float), estimator=estimator)
        assert np.abs(ours - theirs).max() < 1e-6 * theirs.mean()
        assert abs(ours.mean() - theirs.mean()) < 1e-9 * theirs.mean()


def test_order_of_members_does_not_matter() -> None:
    x, y = z500_like(9)
    forth, back = Matchup(x, y), Matchup(x[::-1], y)
    for name in ("mean_error", "half_distance", "variance", "rank"):
        assert np.array_equal(getattr(forth, name), getattr(back, name))


def test_variance_and_mean_error_are_those_of_numpy_in_float64() -> None:
    x, y = z500_like(7)
    m = Matchup(x, y)
    assert np.allclose(m.variance, x.astype(float).var(axis=0, ddof=1), rtol=1e-10)
    assert np.allclose(m.mean_error, x.astype(float).mean(axis=0) - y, atol=1e-9)


def test_one_member_scores_its_absolute_error_and_has_no_spread() -> None:
    x, y = z500_like(1)
    m = Matchup(x, y)
    error = np.abs(x[0] - y).astype(float)
    assert np.array_equal(FAIR_CRPS.of(m), error)
    assert np.array_equal(CRPS_ECDF.of(m), error)
    assert not m.variance.any()


def test_crps_of_many_members_nears_the_closed_form_of_the_normal_distribution() -> None:
    """Gneiting et al. 2005: 0.2336949772551092 for y at the mean of a standard normal."""
    quantiles = (np.arange(4000) + 0.5) / 4000
    from scipy.stats import norm

    members = norm.ppf(quantiles)[:, None]
    m = Matchup(members, np.zeros(1))
    assert FAIR_CRPS.of(m)[0] == pytest.approx(0.2336949772551092, abs=2e-4)  # 4000 quantiles leave 1e-4


def test_rank_counts_members_below() -> None:
    m = Matchup(np.array([[1.0, 5.0, 3.0], [2.0, 6.0, 4.0]]), np.array([0.0, 7.0, 3.5]))
    assert m.rank.tolist() == [0, 2, 1]


def test_ranks_of_ties_are_flat_and_keyed() -> None:
    """Dry truth in a dry ensemble: every rank is equally likely (peers put them all into the first bin)."""
    members, truth = np.zeros((4, 50_000), np.float32), np.zeros(50_000, np.float32)
    ranks = Matchup(members, truth, tie_key=3).rank
    shares = np.bincount(ranks.astype(int), minlength=5) / ranks.size
    assert np.abs(shares - 0.2).max() < 5 * np.sqrt(0.2 * 0.8 / ranks.size)
    assert np.array_equal(ranks, Matchup(members, truth, tie_key=3).rank)
    assert not np.array_equal(ranks, Matchup(members, truth, tie_key=4).rank)


def test_partial_ties_stay_among_the_tied_places() -> None:
    members = np.repeat(np.array([[-1.0], [0.0], [0.0], [2.0]]), 1000, axis=1)
    ranks = Matchup(members, np.zeros(1000)).rank
    assert set(ranks) == {1.0, 2.0, 3.0}


@pytest.mark.parametrize("where", ["member", "truth"])
def test_nan_propagates_into_every_statistic_of_its_point_only(where: str) -> None:
    x, y = z500_like(5, 10)
    (x[2] if where == "member" else y)[4] = np.nan
    m = Matchup(x, y)
    for values in (FAIR_CRPS.of(m), CRPS_ECDF.of(m), m.variance, m.rank):
        assert np.flatnonzero(np.isnan(values)).tolist() == [4]
