"""Scores of ensembles whose scores are known."""

from __future__ import annotations

import numpy as np
import pytest

from forecast.core import grids, seeding
from forecast.verification import deterministic, ensemble, spectra
from forecast.verification.matchup import Matchup
from forecast.verification.metric import Metric
from forecast.verification.regions import Regions
from forecast.verification.scorer import Scorer
from forecast.verification.scores import METRICS, possible, statistics_of

GRID = grids.gaussian(16)
HOUR = np.timedelta64(3600, "s")


def normals(count: int, points: int, purpose: str) -> np.ndarray:
    """(count, points) standard normals."""
    return seeding.normal(seeding.key(7, purpose), count * points).reshape(count, points)


def value(metric: Metric, matchup: Matchup, grid: grids.Grid = GRID) -> np.ndarray:
    """One metric of one field over the whole grid."""
    scorer = Scorer(grid, (metric,), Regions(grid, ("domain",)), climate=matchup.climate is not None)
    start, lead = np.datetime64("2001-01-01", "s"), 24 * HOUR
    sums = scorer.zeros("x", len(matchup.members), ("z_500",), np.array([start]), np.array([lead]))
    scorer.add(sums, "z_500", start, lead, matchup.members, matchup.truth, matchup.climate)
    return sums.metric(metric).values[0, 0, 0]


def signal_plus(members: int, spread: float = 1.0, points: int = 40_000) -> tuple[Matchup, grids.Grid]:
    """Truth and members drawn about one signal; members' deviations are `spread` times the truth's."""
    row = grids.latlon(np.linspace(-1, 1, 2), np.linspace(0, 300, points // 2))
    signal = 3 * normals(1, points, "signal")
    truth = signal[0] + normals(1, points, "truth")[0]
    return Matchup(signal + spread * normals(members, points, "members"), truth), row


@pytest.mark.parametrize("members", [2, 3, 10, 50])
def test_a_perfect_ensemble_has_spread_skill_one_whatever_its_size(members: int) -> None:
    """Peers' raw ratio is 0.91 at M = 5 and 0.58 at M = 2. Sampling error of the ratio is 1/sqrt(2 N) ~ 0.4 %."""
    matchup, grid = signal_plus(members)
    assert value(ensemble.SpreadSkill(), matchup, grid) == pytest.approx(1.0, abs=0.03)


def test_an_under_dispersive_ensemble_falls_below_one() -> None:
    """Spread over skill, not skill over spread. Half the deviation: variance .25, error 1 -> ratio 0.5."""
    matchup, grid = signal_plus(20, spread=0.5)
    assert value(ensemble.SpreadSkill(), matchup, grid) == pytest.approx(0.5, abs=0.02)
    shares = value(ensemble.RankHistogram(), matchup, grid)
    assert shares[0] > 3 / 21 and shares[-1] > 3 / 21 and shares[10] < 1 / 21


def test_an_over_dispersive_ensemble_lies_above_one() -> None:
    matchup, grid = signal_plus(20, spread=2.0)
    assert value(ensemble.SpreadSkill(), matchup, grid) == pytest.approx(2.0, abs=0.08)


def test_a_perfect_ensemble_has_flat_ranks() -> None:
    matchup, grid = signal_plus(9)
    shares = value(ensemble.RankHistogram(), matchup, grid)
    assert shares.sum() == pytest.approx(1.0, abs=1e-12)
    assert np.abs(shares - 0.1).max() < 5 * np.sqrt(0.1 * 0.9 / 40_000)


def test_fair_crps_does_not_depend_on_the_number_of_members_and_crps_does() -> None:
    """E[CRPS] = E[fair] (1 + 1/M) for a perfect ensemble (verified to the sampling error of 40,000 points)."""
    fair, ecdf = {}, {}
    for members in (2, 10):
        matchup, grid = signal_plus(members)
        fair[members], ecdf[members] = (value(m, matchup, grid) for m in (ensemble.FairCRPS(), ensemble.CRPS()))
    assert fair[2] == pytest.approx(1 / np.sqrt(np.pi), rel=0.02)
    assert fair[2] == pytest.approx(fair[10], rel=0.02)
    assert ecdf[2] / fair[2] == pytest.approx(1.5, rel=0.02)
    assert ecdf[10] / fair[10] == pytest.approx(1.1, rel=0.02)


def test_a_shift_by_one_is_the_error_bias_and_mae() -> None:
    truth = (5.4e4 + 300 * normals(1, GRID.size, "x")[0]).astype(np.float32).round()
    matchup = Matchup(np.stack([truth, truth + 2]), truth)  # the mean is off by exactly 1
    for metric in (deterministic.RMSE(), deterministic.MAE(), deterministic.Bias()):
        assert value(metric, matchup) == pytest.approx(1.0, abs=1e-12)
    assert value(ensemble.Spread(), matchup) == pytest.approx(np.sqrt(2), abs=1e-12)
    assert value(ensemble.UnbiasedRMSE(), matchup) == pytest.approx(0.0, abs=1e-7)


def test_acc_is_uncentred() -> None:
    """Anomalies that differ by a constant sign or scale correlate fully; a constant anomaly counts (not Pearson)."""
    climate, anomaly = np.full(GRID.size, 280.0), normals(1, GRID.size, "anomaly")[0].astype(float)
    for factor, expected in ((1.0, 1.0), (0.3, 1.0), (-2.0, -1.0)):
        matchup = Matchup((climate + factor * anomaly)[None], climate + anomaly, climate)
        assert value(deterministic.ACC(), matchup) == pytest.approx(expected, abs=1e-9)
    constant = Matchup((climate + 2)[None], climate + 5, climate)
    assert value(deterministic.ACC(), constant) == pytest.approx(1.0, abs=1e-9)


def test_acc_of_climatology_is_nothing() -> None:
    climate = np.full(GRID.size, 280.0)
    matchup = Matchup(climate[None], climate + normals(1, GRID.size, "anomaly")[0], climate)
    assert np.isnan(value(deterministic.ACC(), matchup))


def test_spectra_sum_to_the_mean_square() -> None:
    """Parseval, by latitude and over the globe, for even and odd numbers of longitudes."""
    for columns in (32, 33):
        field = normals(8, columns, "field").astype(float) + 2.0
        assert np.allclose(spectra.zonal_power(field).sum(axis=-1), (field**2).mean(axis=-1), rtol=1e-12)
    field = normals(1, GRID.size, "field")[0].astype(float)
    power = value(spectra.TruthPower(), Matchup(field[None], field, shape=GRID.shape))
    assert power.sum() == pytest.approx((GRID.areas * field**2).sum() / GRID.areas.sum(), rel=1e-12)


def test_a_single_wave_has_its_power_at_its_wavenumber() -> None:
    wave = 3.0 * np.cos(5 * np.radians(GRID.longitudes))
    matchup = Matchup(np.stack([wave, -wave]), wave, shape=GRID.shape)
    members, mean = value(spectra.MemberPower(), matchup), value(spectra.MeanPower(), matchup)
    assert members[5] == pytest.approx(4.5, rel=1e-12)
    assert members.sum() == pytest.approx(4.5, rel=1e-12)
    assert mean.max() < 1e-20


def test_scores_without_climatology_or_global_grid() -> None:
    names = {m.name for m in possible(METRICS, climate=False, rows=False)}
    assert "acc" not in names and not any(n.startswith("power") for n in names) and "fair_crps" in names
    shared = statistics_of(METRICS)
    assert len({s.name for s in shared}) == len(shared)
