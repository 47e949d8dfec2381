"""The same numbers as scoringrules, xskillscore, properscoring and scores, and where they differ, why.

Each row of ORACLES is a score, a peer and how it computes it; `agreement()` makes the table of docs/verification.md
from them (`python -m tests.verification.test_oracles`).
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import xarray as xr

from forecast.core import seeding
from forecast.verification import decisions, deterministic, ensemble, events, precipitation, spectra
from forecast.verification.climate import Climate
from forecast.verification.limits import Events
from forecast.verification.matchup import Matchup
from forecast.verification.metric import Metric
from forecast.verification.multivariate import EnergyScore, variogram
from forecast.verification.neighbourhood import window_mean
from forecast.verification.regions import Regions
from forecast.verification.scorer import Scorer
from tests.verification.oracles import GRID, LIMIT, MEMBERS, POINTS, fields, scipy_acc, scipy_coherence, scipy_power


def ours(metric: Metric, event: str = f"z_500 > {LIMIT}") -> np.ndarray:
    """One of our scores over the grid."""
    x, y = fields()
    scorer = Scorer(GRID, (metric,), Regions(GRID, ("domain",)), Events((event,), climate=False), climate=True)
    start, lead = np.datetime64("2001-01-01", "s"), np.timedelta64(24, "h")
    sums = scorer.zeros("x", MEMBERS, ("z_500",), np.array([start]), np.array([lead]))
    scorer.add(sums, "z_500", start, lead, x, y, Climate(np.full((1, POINTS), 5.35e4, np.float32)))
    return sums.metric(metric).values[0, 0, 0]


@cache
def labelled() -> tuple[xr.DataArray, xr.DataArray]:
    """Members and truth as float64 arrays for peers; where they lose digits in float32 is a matter of their own."""
    x, y = fields()
    return xr.DataArray(x.astype(float), dims=("member", "x")), xr.DataArray(y.astype(float), dims="x")


def _sr(name: str, **options: Any) -> Callable[[], Any]:
    def call() -> Any:
        import scoringrules as sr

        x, y = fields()
        return np.mean(getattr(sr, name)(y.astype(float), x.T.astype(float), **options))

    return call


def _ps_crps() -> Any:
    import properscoring as ps

    x, y = fields()
    return ps.crps_ensemble(y.astype(float), x.T.astype(float)).mean()


def _xs(name: str, **options: Any) -> Callable[[], Any]:
    def call() -> Any:
        import xskillscore as xs

        x, y = labelled()
        return getattr(xs, name)(y, x, **options)

    return call


def _xs_mean(name: str) -> Callable[[], Any]:
    def call() -> Any:
        import xskillscore as xs

        x, y = labelled()
        return getattr(xs, name)(x.mean("member"), y)

    return call


def _xs_event(name: str, **options: Any) -> Callable[[], Any]:
    def call() -> Any:
        import xskillscore as xs

        x, y = labelled()
        return getattr(xs, name)(
            y > LIMIT, x > LIMIT if name == "brier_score" else (x > LIMIT).mean("member"), **options
        )

    return call


def _xs_contingency(name: str) -> Callable[[], Any]:
    def call() -> Any:
        import xskillscore as xs

        x, y = labelled()
        warned = ((x > LIMIT).mean("member") >= 0.5).astype(int)
        edges = np.array([-0.5, 0.5, 1.5])
        return getattr(xs.Contingency((y > LIMIT).astype(int), warned, edges, edges, dim="x"), name)()

    return call


def _sc(name: str, **options: Any) -> Callable[[], Any]:
    def call() -> Any:
        import scores.probability as sp

        x, y = labelled()
        return getattr(sp, name)(x, y, "member", **options)

    return call


def _sc_auc() -> Any:
    import scores.probability as sp

    x, y = labelled()
    return sp.roc_auc((x > LIMIT).mean("member"), (y > LIMIT).astype(float))


def _sc_value() -> Any:
    import scores.probability as sp

    x, y = labelled()
    thresholds = [0.0, *((np.arange(MEMBERS) + 0.5) / MEMBERS), 1.0]
    found = sp.relative_economic_value(
        (x > LIMIT).mean("member"), (y > LIMIT).astype(float), cost_loss_ratios=list(decisions.COSTS),
        probability_thresholds=thresholds,
    )  # fmt: skip
    best = found.max("probability_threshold").squeeze()
    return np.maximum(best, 0.0)  # never acting is a choice as well


def _sr_energy() -> Any:
    import scoringrules as sr

    x, y = fields()
    return sr.es_ensemble(y.astype(float), x.astype(float), estimator="fair") / np.sqrt(POINTS)


def _sr_quantile(level: float) -> Callable[[], Any]:
    def call() -> Any:
        import scoringrules as sr

        x, y = fields()
        return sr.quantile_score(y.astype(float), np.quantile(x.astype(float), level, axis=0), level).mean()

    return call


_tail = _sc("tail_tw_crps_for_ensemble", threshold=LIMIT, method="fair")
ABOVE = dict(event_thresholds=LIMIT, event_threshold_operator=operator.gt)
ORACLES: list[tuple[Metric, str, Callable[[], Any], float, Callable[[np.ndarray], Any]]] = [
    (ensemble.CRPS(), "scoringrules", _sr("crps_ensemble", estimator="nrg"), 1e-10, lambda v: v),
    (ensemble.CRPS(), "properscoring", _ps_crps, 1e-10, lambda v: v),
    (ensemble.CRPS(), "xskillscore", _xs("crps_ensemble"), 1e-10, lambda v: v),
    (ensemble.CRPS(), "scores", _sc("crps_for_ensemble", method="ecdf"), 1e-10, lambda v: v),
    (ensemble.FairCRPS(), "scoringrules", _sr("crps_ensemble", estimator="fair"), 1e-10, lambda v: v),
    (ensemble.FairCRPS(), "scores", _sc("crps_for_ensemble", method="fair"), 1e-10, lambda v: v),
    (events.TailCRPS(), "scores", _tail, 1e-6, lambda v: v[0]),
    (events.TailCRPS(), "scoringrules", _sr("twcrps_ensemble", a=LIMIT, estimator="fair"), 1e-6, lambda v: v[0]),
    (ensemble.QuantileScore(), "scoringrules", _sr_quantile(0.9), 1e-6, lambda v: v[4]),
    (ensemble.QuantileScore(), "scoringrules", _sr_quantile(0.25), 1e-6, lambda v: v[1]),
    (EnergyScore(), "scoringrules", _sr_energy, 1e-9, lambda v: v),
    (events.Brier(), "xskillscore", _xs_event("brier_score"), 1e-12, lambda v: v[0]),
    (events.Brier(), "scores", _sc("brier_score_for_ensemble", fair_correction=False, **ABOVE), 1e-12, lambda v: v[0]),
    (events.FairBrier(), "xskillscore", _xs_event("brier_score", fair=True), 1e-12, lambda v: v[0]),
    (events.FairBrier(), "scores", _sc("brier_score_for_ensemble", **ABOVE), 1e-12, lambda v: v[0]),
    (ensemble.RankHistogram(), "xskillscore", lambda: _xs("rank_histogram")() / POINTS, 1e-12, lambda v: v),
    (ensemble.RankHistogram(), "scores", _sc("rank_histogram"), 1e-12, lambda v: v),
    (decisions.ROCArea(), "scores", _sc_auc, 1e-10, lambda v: v[0]),
    (decisions.ROCArea(), "xskillscore", _xs_event("roc", bin_edges="continuous"), 1e-10, lambda v: v[0]),
    (decisions.EconomicValue(), "scores", _sc_value, 1e-9, lambda v: v[0]),
    (decisions.CSI(), "xskillscore", _xs_contingency("threat_score"), 1e-12, lambda v: v[0]),
    (decisions.ETS(), "xskillscore", _xs_contingency("equit_threat_score"), 1e-12, lambda v: v[0]),
    (decisions.HSS(), "xskillscore", _xs_contingency("heidke_score"), 1e-12, lambda v: v[0]),
    (decisions.FrequencyBias(), "xskillscore", _xs_contingency("bias_score"), 1e-12, lambda v: v[0]),
    (deterministic.ACC(), "scipy", scipy_acc, 1e-10, lambda v: v),
    (spectra.MemberPower(), "scipy", scipy_power(lambda: fields()[0]), 1e-9, lambda v: v),
    (spectra.MeanPower(), "scipy", scipy_power(lambda: fields()[0].astype(float).mean(axis=0)), 1e-9, lambda v: v),
    (spectra.TruthPower(), "scipy", scipy_power(lambda: fields()[1]), 1e-9, lambda v: v),
    (spectra.Coherence(), "scipy", scipy_coherence, 1e-9, lambda v: v),
    (deterministic.RMSE(), "xskillscore", _xs_mean("rmse"), 1e-10, lambda v: v),
    (deterministic.MAE(), "xskillscore", _xs_mean("mae"), 1e-10, lambda v: v),
    (deterministic.Bias(), "xskillscore", _xs_mean("me"), 1e-9, lambda v: v),
]  # fmt: skip


def _difference(metric: Metric, call: Callable[[], Any], pick: Callable[[np.ndarray], Any]) -> float:
    """Largest difference, relative to the score's size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = np.asarray(call(), dtype=float).squeeze()
    mine = np.asarray(pick(ours(metric)), dtype=float)
    return float(np.nanmax(np.abs(mine - theirs)) / max(np.nanmax(np.abs(theirs)), 1e-300))


@pytest.mark.parametrize("row", ORACLES, ids=lambda row: f"{row[0].name}-{row[1]}-{ORACLES.index(row)}")
def test_equal(row) -> None:  # type: ignore[no-untyped-def]
    metric, peer, call, bound, pick = row
    pytest.importorskip(peer)
    assert _difference(metric, call, pick) < bound


def test_variogram_score_is_that_of_scoringrules() -> None:
    """Over all pairs of points, both orders, as theirs."""
    import scoringrules as sr

    x, y = (a[..., :30] for a in fields())
    a, b = (k.ravel() for k in np.meshgrid(np.arange(30), np.arange(30)))
    theirs = sr.vs_ensemble(y.astype(float), x.astype(float), p=0.5)
    assert variogram(x, y, a, b).sum() == pytest.approx(float(np.squeeze(theirs)), rel=1e-6)


def test_rps_is_that_of_xskillscore() -> None:
    """With category edges from climatology; their edges are one for all points here."""
    import xskillscore as xs

    x, y = fields()
    spread = np.linspace(5.3e4, 5.5e4, 41).astype(np.float32)
    climate = Climate(np.repeat(spread[:, None], POINTS, axis=1))
    limits = Events((), climate=True).limits("z_500", climate, POINTS)
    m = Matchup(x, y, climate, limits=limits)
    edges = np.array([-1e9, *limits.values[:, 0], 1e9]) if limits else np.empty(0)
    lx, ly = labelled()
    theirs = xs.rps(ly, lx, category_edges=edges, dim=[])
    apart = ~np.isin(np.vstack([x, y[None]]), edges).any(axis=0)  # what equals an edge belongs above it there
    assert np.allclose(events.RPS_SUM.of(m)[apart], theirs.values[apart], atol=1e-12) and apart.mean() > 0.99
    fair = xs.rps(ly, lx, category_edges=edges, dim=[], fair=True)
    assert np.allclose(events.FAIR_RPS_SUM.of(m)[apart], fair.values[apart], atol=1e-12)


def test_seeps_is_that_of_scores() -> None:
    import scores.categorical as sc

    size = 400
    amount = np.maximum(seeding.normal(seeding.key(2, "rain"), 2 * size).reshape(2, size), 0) * 1e-2
    share = np.linspace(0.15, 0.8, size)
    heavy = np.full(size, 8e-3)
    mine = precipitation.seeps(amount[0], amount[1], share, heavy, 0.25e-3)
    theirs = sc.seeps(*(xr.DataArray(a, dims="x") for a in (amount[0], amount[1], share, heavy)),
                      dry_light_threshold=0.25e-3, preserve_dims="all")  # fmt: skip
    assert np.allclose(mine, theirs.values, rtol=1e-12)


def test_fractions_are_those_of_scores() -> None:
    """Their windows lie wholly inside the field; ours, away from the edges, are the same."""
    import scores.spatial as ss

    a, b = (seeding.normal(seeding.key(6, "fss", k), 900).reshape(30, 30) for k in range(2))
    names = ("lat", "lon")
    theirs = ss.fss_2d(xr.DataArray(a, dims=names), xr.DataArray(b, dims=names), event_threshold=0.5,
                       window_size=(5, 5), spatial_dims=names)  # fmt: skip
    f, o = (window_mean((x > 0.5).astype(float), 5, False)[2:-2, 2:-2] for x in (a, b))
    assert 1 - ((f - o) ** 2).sum() / (f**2 + o**2).sum() == pytest.approx(float(theirs), rel=1e-10)


# where peers differ, and why; each is a claim that a test holds
DIFFERENCES = {
    "scoringrules CRPS in float32": "its `pwm` in numpy adds float32 values of 5e4 without subtracting the truth first",
    "xskillscore pearson_r and our ACC": "Pearson's correlation takes the mean anomaly out, the ACC does not",
    "scores Brier": "counts `>=` the threshold unless told otherwise; ours and WeatherBench count `>`",
    "scores relative_economic_value": "thresholds are acted on from p >= t, so never acting is not among them",
    "scores rank_histogram of ties": "splits a tie among its places; ours draws one by lot, the same on average",
    "xskillscore, scores and missing truth": "leave the point out silently; ours shows NaN unless told to skip",
    "scores, xskillscore CRPS of a missing member": "drop the member; ours is NaN at that point",
}


def test_float32_without_subtracting_the_truth_loses_digits() -> None:
    import scoringrules as sr

    x, y = fields()
    exact = _sr("crps_ensemble", estimator="fair")()
    careless = sr.crps_ensemble(y, x.T.copy(), estimator="pwm", backend="numpy")
    mine = Matchup(x, y)
    fine = ensemble.FAIR_CRPS.of(mine)
    scale = float(exact)
    reference = sr.crps_ensemble(y.astype(float), x.T.astype(float), estimator="fair")
    assert np.abs(careless - reference).max() / scale > 1e-5 > 1e-9 > np.abs(fine - reference).max() / scale


def test_a_correlation_without_the_mean_anomaly_is_not_the_acc() -> None:
    import xskillscore as xs

    x, y = (a.astype(float) for a in (fields()[0][:1], fields()[1]))
    climate = np.full(POINTS, 5.35e4)
    f, o = x[0] - climate, y - climate
    m = Matchup(x, y, climate)
    terms = [s.of(m).mean() for s in deterministic.ACC.statistics]
    acc = terms[0] / np.sqrt(terms[1] * terms[2])
    assert acc == pytest.approx((f * o).sum() / np.sqrt((f**2).sum() * (o**2).sum()), rel=1e-12)
    pearson = float(xs.pearson_r(xr.DataArray(f, dims="x"), xr.DataArray(o, dims="x")))
    assert acc - pearson > 0.1


def test_equal_to_the_limit_is_not_beyond_it_here_but_is_in_scores() -> None:
    import scores.probability as sp

    x, y = np.array([[1.0], [2.0]]), np.array([0.0])
    limits = Events(("z_500 > 2.0",), climate=False).limits("z_500", None, 1)
    assert Matchup(x, y, limits=limits).beyond[0, 0] == 0
    theirs = sp.brier_score_for_ensemble(xr.DataArray(x, dims=("m", "x")), xr.DataArray(y, dims="x"), "m", 2.0,
                                         fair_correction=False)  # fmt: skip
    assert float(np.squeeze(theirs)) == 0.25


def test_ties_are_split_there_and_drawn_here() -> None:
    import scores.probability as sp

    x, y = np.zeros((4, 5000)), np.zeros(5000)
    theirs = sp.rank_histogram(xr.DataArray(x, dims=("m", "x")), xr.DataArray(y, dims="x"), "m")
    mine = np.bincount(Matchup(x, y, tie_key=1).rank.astype(int)) / 5000
    assert np.allclose(theirs, 0.2) and np.allclose(mine, 0.2, atol=0.03) and not np.allclose(mine, 0.2, atol=1e-6)


def agreement() -> str:
    """The table of agreement, and of differences, as Markdown."""
    lines = ["| score | peer | largest relative difference |", "|---|---|---|"]
    for metric, peer, call, _, pick in ORACLES:
        lines.append(f"| `{metric.name}` | {peer} | {_difference(metric, call, pick):.0e} |")
    lines += ["", "| where they differ | why |", "|---|---|"]
    return "\n".join(lines + [f"| {what} | {why} |" for what, why in DIFFERENCES.items()])


if __name__ == "__main__":
    print(agreement())
