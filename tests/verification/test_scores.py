"""Closed forms and identities of scores of events, parts, fields and precipitation."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from forecast.core import grids, seeding
from forecast.core.errors import ForecastError
from forecast.verification import crps_parts, decisions, ensemble, events, multivariate, neighbourhood, spectra
from forecast.verification.climate import Climate
from forecast.verification.fused import ensemble_pass
from forecast.verification.fused_kernels import network
from forecast.verification.limits import Event, Events
from forecast.verification.matchup import Limits, Matchup
from forecast.verification.metric import Metric
from forecast.verification.precipitation import seeps
from forecast.verification.regions import Regions
from forecast.verification.scorer import Scorer

START, LEAD = np.datetime64("2001-01-01", "s"), np.timedelta64(24, "h")
POINTS = 40_000
FLAT = grids.latlon(np.array([1.0, -1.0]), np.linspace(0, 300, POINTS // 2))


def normals(count: int, size: int, purpose: str) -> np.ndarray:
    return seeding.normal(seeding.key(11, purpose), count * size).reshape(count, size)


def values(metrics: tuple[Metric, ...], members: np.ndarray, truth: np.ndarray, grid: grids.Grid = FLAT,
           climate: Climate | None = None, event: str = "z > 0.7") -> dict[str, np.ndarray]:  # fmt: skip
    scorer = Scorer(grid, metrics, Regions(grid, ("domain",)), Events((event,), climate=climate is not None),
                    climate=climate is not None)  # fmt: skip
    sums = scorer.zeros("x", len(members), ("z",), np.array([START]), np.array([LEAD]))
    scorer.add(sums, "z", START, LEAD, members, truth, climate)
    return {m.name: sums.metric(m).values[0, 0, 0] for m in metrics}


def perfect(members: int) -> tuple[np.ndarray, np.ndarray]:
    """Members and truth drawn alike about a shared signal."""
    signal = normals(1, POINTS, "signal")
    return signal + normals(members, POINTS, f"m{members}"), (signal + normals(1, POINTS, f"t{members}"))[0]


RELIABLE = (ensemble.SpreadSkill(), ensemble.RankHistogram(), events.BrierReliability(), events.BrierReliabilityFair(),
            crps_parts.CRPSReliability(), crps_parts.PooledReliability(), ensemble.FairCRPS())  # fmt: skip


@pytest.mark.parametrize("members", [2, 3, 5, 10, 20, 35, 50])
def test_a_perfect_ensemble_of_any_size_is_reliable(members: int) -> None:
    """Spread-skill 1, flat ranks, and reliability parts that vanish as those of Murphy and Hersbach do not for few."""
    v = values(RELIABLE, *perfect(members))
    assert v["spread_skill"] == pytest.approx(1.0, abs=0.02)
    assert np.abs(v["rank_histogram"] * (members + 1) - 1).max() < 5 * np.sqrt(members / POINTS)
    assert v["brier_reliability_fair"][0] < 3 * 0.25 * (members + 1) / POINTS  # what chance leaves of M + 1 bins
    assert v["crps_reliability_pooled"] < 2e-4 * v["fair_crps"]
    if members <= 5:
        assert v["brier_reliability"][0] > 10 * v["brier_reliability_fair"][0]
        assert v["crps_reliability"] > 10 * v["crps_reliability_pooled"]


def test_an_ensemble_that_spreads_too_little_is_not() -> None:
    signal = normals(1, POINTS, "signal")
    v = values(RELIABLE, signal + 0.5 * normals(10, POINTS, "m"), (signal + normals(1, POINTS, "t"))[0])
    assert v["brier_reliability_fair"][0] > 0.005 and v["crps_reliability_pooled"] > 0.01


def test_brier_is_reliability_less_resolution_plus_uncertainty() -> None:
    metrics = (events.Brier(), events.FairBrier(), events.BrierReliability(), events.BrierResolution(),
               events.BrierUncertainty())  # fmt: skip
    v = {name: found[0] for name, found in values(metrics, *perfect(9)).items()}
    assert v["brier"] == pytest.approx(
        v["brier_reliability"] - v["brier_resolution"] + v["brier_uncertainty"], abs=1e-12
    )
    assert v["fair_brier"] < v["brier"]


@pytest.mark.parametrize("members", [1, 2, 9])
def test_crps_is_reliability_plus_potential(members: int) -> None:
    """Also where the truth lies outside the ensemble; and reliability - resolution + uncertainty."""
    x, y = perfect(members)
    metrics = (ensemble.CRPS(), crps_parts.CRPSReliability(), crps_parts.CRPSPotential(),
               crps_parts.CRPSResolution(), crps_parts.CRPSUncertainty())  # fmt: skip
    v = values(metrics, x, y, climate=Climate(normals(30, POINTS, "climate") * 1.4))
    assert v["crps"] == pytest.approx(v["crps_reliability"] + v["crps_potential"], rel=1e-9)
    parts = v["crps_reliability"] - v["crps_resolution"] + v["crps_uncertainty"]
    assert v["crps"] == pytest.approx(parts, rel=1e-9)


def test_crps_of_fifty_is_what_fifty_members_score() -> None:
    """From 5 members, estimated; E[CRPS] = (1 + 1/50) / sqrt(pi) for a perfect ensemble of unit variance."""
    v = values((ensemble.CRPSOfFifty(), ensemble.CRPS(), ensemble.AlmostFairCRPS(), ensemble.FairCRPS()), *perfect(5))
    assert v["crps_50"] == pytest.approx(1.02 / np.sqrt(np.pi), rel=0.01)
    assert v["crps"] == pytest.approx(1.2 / np.sqrt(np.pi), rel=0.01)
    assert v["almost_fair_crps"] == pytest.approx(0.95 * v["fair_crps"] + 0.05 * v["crps"], rel=1e-12)


def test_rps_of_one_limit_is_the_brier_score_and_adds_over_limits() -> None:
    x, y = perfect(6)
    climate = Climate(np.sort(normals(101, 1, "c"), axis=0).repeat(POINTS, axis=1))
    edges = [f"> p{p:g}" for p in (20, 40, 60, 80)]
    sum_of = sum(values((events.Brier(),), x, y, climate=climate, event=edge)["brier"][0] for edge in edges)
    assert values((events.RPS(),), x, y, climate=climate)["rps"] == pytest.approx(sum_of, rel=1e-12)


def test_tail_crps_integrates_the_brier_scores_beyond_the_limit() -> None:
    """Gneiting and Ranjan 2011: the integral of the (fair) Brier score over limits above."""
    x, y = perfect(6)
    limits = np.arange(0.7, 6.0, 0.1) + 0.05
    total = 0.1 * sum(values((events.FairBrier(),), x, y, event=f"z > {t:.4f}")["fair_brier"][0] for t in limits)
    assert values((events.TailCRPS(),), x, y)["tail_crps"][0] == pytest.approx(total, rel=0.01)
    below = values((events.TailCRPS(),), -x, -y, event="z < -0.7")["tail_crps"][0]
    assert below == pytest.approx(values((events.TailCRPS(),), x, y)["tail_crps"][0], rel=1e-12)


def test_decisions_of_a_known_table() -> None:
    """4 kinds of cases by hand: hits 2, misses 1, false alarms 3, correct rejections 4, one member."""
    table = xr.DataArray(np.array([[4.0, 1.0], [3.0, 2.0]]) / 10, dims=("exceeding", "occurred"))
    a, c, b, d = 2.0, 1.0, 3.0, 4.0
    assert float(decisions.CSI().value(table)) == pytest.approx(a / (a + b + c))
    chance = (a + b) * (a + c) / 10
    assert float(decisions.ETS().value(table)) == pytest.approx((a - chance) / (a + b + c - chance))
    assert float(decisions.HSS().value(table)) == pytest.approx(
        2 * (a * d - b * c) / ((a + c) * (c + d) + (a + b) * (b + d))
    )
    assert float(decisions.FrequencyBias().value(table)) == pytest.approx((a + b) / (a + c))
    hit, false = a / (a + c), b / (b + d)
    assert float(decisions.ROCArea().value(table)) == pytest.approx((1 + hit - false) / 2)
    assert decisions.HitRate().value(table).values.tolist() == pytest.approx([1, hit, 0])


def test_a_perfect_forecast_has_all_skill_and_a_blind_one_none() -> None:
    y = normals(1, POINTS, "y")[0]
    metrics = (decisions.ROCArea(), decisions.EconomicValue(), decisions.CSI(), decisions.ETS(), decisions.HSS())
    best = values(metrics, np.repeat(y[None], 4, axis=0), y)
    assert all(np.allclose(found, 1) for found in best.values())
    blind = values(metrics, normals(4, POINTS, "blind"), y)
    assert blind["roc_area"][0] == pytest.approx(0.5, abs=0.02) and abs(blind["ets"][0]) < 0.02
    assert np.nanmax(blind["economic_value"]) < 0.03 and np.nanmin(blind["economic_value"]) >= -1e-12


def test_economic_value_peaks_where_the_cost_is_the_events_frequency() -> None:
    """There it is hit rate less false alarm rate of the best decision (Richardson 2000)."""
    x, y = perfect(10)
    v = values((decisions.EconomicValue(), decisions.HitRate(), decisions.FalseAlarmRate()), x, y)
    rate = (y > 0.7).mean()
    nearest = np.abs(decisions.COSTS - rate).argmin()
    assert np.nanargmax(v["economic_value"][0]) in (nearest - 1, nearest, nearest + 1)
    kss = np.max(v["hit_rate"][0] - v["false_alarm_rate"][0])
    assert np.nanmax(v["economic_value"][0]) == pytest.approx(kss, abs=0.03)


def test_energy_score_of_one_point_is_the_fair_crps() -> None:
    """And over a field it is at most the root-mean-square of errors of one member."""
    small = grids.latlon(np.array([1.0, -1.0]), np.array([0.0, 180.0]))
    x, y = (a[..., :1].repeat(4, axis=-1) for a in perfect(7))
    v = values((multivariate.EnergyScore(), ensemble.FairCRPS()), x, y, grid=small)
    assert v["energy_score"] == pytest.approx(v["fair_crps"], rel=1e-9)


def test_variogram_score_sees_wrong_structure_but_no_bias() -> None:
    grid = grids.gaussian(8)
    y = normals(1, grid.size, "y")[0]
    score = multivariate.VariogramScore()
    assert values((score,), np.stack([y + 3, y + 3]), y, grid=grid)["variogram_score"] == pytest.approx(0, abs=1e-6)
    smooth = np.full((2, grid.size), y.mean())
    assert values((score,), smooth, y, grid=grid)["variogram_score"] > 0.5


def test_fractions_of_a_shifted_spot() -> None:
    """A spot one column off: no overlap at its own point, all of it within wide windows; longitudes go round."""
    grid = grids.gaussian(16)
    truth, forecast = np.zeros(grid.shape), np.zeros(grid.shape)
    truth[8, 0], forecast[8, -1] = 1, 1
    v = values((neighbourhood.FractionsSkill(),), forecast.reshape(1, -1), truth.ravel(), grid=grid)
    skill = v["fractions_skill"][0]
    assert skill[0] == pytest.approx(0, abs=1e-12) and (np.diff(skill) > 0).all() and skill[-1] > 0.9
    field = normals(1, 12 * 20, "f").reshape(12, 20)
    around = neighbourhood.window_mean(np.tile(field, 3), 5, False)[:, 20:40]
    assert np.allclose(neighbourhood.window_mean(field, 5, True), around)


def test_coherence_is_one_in_phase_and_nothing_of_noise() -> None:
    grid = grids.gaussian(16)
    y = normals(1, grid.size, "y")[0]
    metric = spectra.Coherence()
    assert np.allclose(values((metric,), 0.3 * y[None], y, grid=grid)["coherence"], 1)
    other = values((metric,), normals(1, grid.size, "z"), y, grid=grid)["coherence"]
    assert other[1:].mean() < 0.25


def test_tendency_spectrum_is_that_of_the_change_since_the_start() -> None:
    grid = grids.gaussian(16)
    first, y = normals(2, grid.size, "ty")
    metrics = (spectra.TendencyPower(), spectra.TruthTendencyPower(), spectra.TruthPower())
    scorer = Scorer(grid, metrics, Regions(grid, ("globe",)), initial=True)
    sums = scorer.zeros("x", 2, ("z",), np.array([START]), np.array([LEAD]))
    scorer.add(sums, "z", START, LEAD, np.stack([y, y]), y, initial=(first, first))
    members, truth = (sums.metric(m).values[0, 0, 0] for m in metrics[:2])
    assert np.allclose(members, truth)
    mean_square = (grid.areas * (y - first).astype(float) ** 2).sum() / grid.areas.sum()
    assert truth.sum() == pytest.approx(mean_square, rel=1e-12)


def test_seeps_by_hand_and_of_a_constant_forecast() -> None:
    """Rodwell et al. 2010: any constant category scores 1 in expectation, a perfect forecast 0."""
    p, size = 0.4, 30_000
    draw = seeding.uniform(seeding.key(1, "seeps"), size)
    truth = np.where(draw < p, 0.0, np.where(draw < p + (1 - p) * 2 / 3, 1e-3, 9e-3))
    share, heavy = np.full(size, p), np.full(size, 5e-3)
    for amount in (0.0, 1e-3, 9e-3):
        constant = seeps(np.full(size, amount), truth, share, heavy, 0.25e-3).mean()
        assert constant == pytest.approx(1.0, abs=0.02)
    assert seeps(truth, truth, share, heavy, 0.25e-3).max() == 0
    assert seeps(np.array([0.0]), np.array([9e-3]), share[:1], heavy[:1], 0.25e-3)[0] == pytest.approx(2 / 0.6)


def test_percentiles_and_dryness_of_the_climate() -> None:
    x = normals(30, 50, "c")
    assert np.allclose(Climate(x).percentile(90), np.percentile(x, 90, axis=0), atol=1e-6)
    share, heavy = Climate(np.repeat(np.array([[0, 0, 1, 2, 3, 4]]).T / 1e3, 2, axis=1)).dryness(2.5e-4)
    assert share.tolist() == [pytest.approx(1 / 3)] * 2 and heavy.tolist() == [3e-3] * 2


@pytest.mark.parametrize("text", ["p90", "> p0", "> 5", "tp >> 3", ""])
def test_what_is_no_event_is_refused(text: str) -> None:
    with pytest.raises(ForecastError, match="event"):
        Event.parse(text)


def test_events_of_other_variables_are_missing() -> None:
    limits = Events(("tp > 0.001", "2t < 273.15"), climate=False).limits("tp", None, 3)
    assert limits is not None and np.isnan(limits.values[1]).all() and (limits.values[0] == 0.001).all()


@pytest.mark.parametrize("members", [1, 2, 13, 50, 81, 300])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_both_paths_give_the_same_bits(members: int, kind: type) -> None:
    """The compiled one and numpy's, with missing and infinite values, ties, limits on both sides, any threads."""
    x, y = (5.4e4 + 300 * normals(members, 3000, "bits")).astype(kind), (5.4e4 + normals(1, 3000, "b")[0]).astype(kind)
    x[0, 5], y[77], x[:, 100], x[0, 200] = np.nan, np.nan, y[100], np.inf
    limits, down = np.stack([np.full(3000, 5.42e4), np.full(3000, 5.38e4)]), np.array([False, True])
    one = ensemble_pass(x, y, limits, down, keep=True, compiled=True, workers=3)
    two = ensemble_pass(x, y, limits, down, keep=True, compiled=False)
    for name in one.__dataclass_fields__:
        assert np.array_equal(getattr(one, name), getattr(two, name), equal_nan=True), name
    few = ensemble_pass(x, y, limits, down, tails=1, compiled=True)
    assert np.array_equal(few.beyond, one.beyond) and np.array_equal(few.tail_half, one.tail_half[:1], equal_nan=True)


def test_what_was_not_kept_comes_with_another_pass() -> None:
    x, y = normals(5, 20, "x"), normals(1, 20, "y")[0]
    limits = Limits(np.zeros((1, 20)), np.array([False]), 1)
    late = Matchup(x, y, limits=limits)
    assert np.array_equal(late.errors, np.sort(x - y, axis=0)) and late.sums.tail_half.size == 0
    assert np.array_equal(late.tail_crps, Matchup(x, y, limits=limits, keep=("tails",)).tail_crps)
    assert late.tail_crps.shape == (1, 20) and late.sums.sorted is not None


def test_the_network_sorts() -> None:
    """Zero-one principle: all sequences of bits up to 12 long, and the size that is used most."""
    for size in (1, 2, 3, 7, 12):
        bits = (np.arange(2**size)[:, None] >> np.arange(size)) & 1
        for low, high in network(size):
            bits[:, [low, high]] = np.sort(bits[:, [low, high]], axis=1)
        assert (np.diff(bits, axis=1) >= 0).all()
    assert len(network(50)) == 403
