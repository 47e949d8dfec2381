"""From stores to a folder of scores."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from forecast.core import grids, seeding
from forecast.core.errors import ForecastError
from forecast.verification import Scores, open_scores, skill_checks, write_checks
from forecast.verification import score as score_all
from forecast.verification.parts import Parts
from tests.verification.synthetic import HOUR, write_forecast, write_truth

DAY = 24 * HOUR
GRID = grids.gaussian(8)
DATES = np.arange(np.datetime64("2001-01-01", "s"), np.datetime64("2003-01-01", "s"), 12 * HOUR)
STARTS = np.array(["2002-03-01", "2002-06-01", "2002-12-28"], "datetime64[s]")
LEADS = np.arange(0, 7) * DAY
PERIOD = (DATES[0], np.datetime64("2001-12-31T12", "s"))
GAP = int(np.searchsorted(DATES, np.datetime64("2002-03-03")))
NAMES = ("z_500", "tp")
FEW = ("fair_crps", "crps", "rmse", "mae", "bias", "acc", "spread", "spread_skill", "rank_histogram", "power_truth")
score = partial(score_all, scores=FEW, draws=0)


def noise(*where: object, members: int = 1) -> np.ndarray:
    return seeding.normal(seeding.key(5, "test", *where), members * GRID.size).reshape(members, GRID.size)  # type: ignore[arg-type]


def state(name: str, when: np.datetime64) -> np.ndarray:
    """(G,) weather without memory: white noise, rain at half of the points."""
    if name == "tp":
        return 1e-3 * np.maximum(noise(name, when)[0], 0)
    return (5e4 + 100 * noise(name, when)[0]).astype(np.float32)


def ensemble(members: int, error: float = 0.2) -> Callable[[str, np.datetime64, np.timedelta64], np.ndarray]:
    """Errors grow with lead; the truth deviates from the shared centre as a member does: a reliable ensemble."""

    def field(name: str, start: np.datetime64, lead: np.timedelta64) -> np.ndarray:
        growth = error * float(lead / DAY)
        common = noise("common", name, start, int(lead / HOUR))
        own = noise("own", name, start, int(lead / HOUR), members, members=members)
        scale = 1e-3 if name == "tp" else 100.0
        fields = state(name, start + lead) + scale * growth * (common + own)
        return np.maximum(fields, 0) if name == "tp" else fields

    return field


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """truth.zarr with a missing date, a.zarr (5 members), b.zarr (3 members, its last start unfinished)."""
    folder = tmp_path_factory.mktemp("stores")
    fields = {name: np.stack([state(name, when) for when in DATES]) for name in NAMES}
    write_truth(folder / "truth.zarr", GRID, DATES, fields, missing=(GAP,))
    write_forecast(folder / "a.zarr", GRID, STARTS, LEADS, 5, NAMES, ensemble(5))
    write_forecast(folder / "b.zarr", GRID, STARTS[:2], LEADS, 3, (*NAMES, "msl"), ensemble(3, 0.4))
    write_forecast(folder / "torn.zarr", GRID, STARTS, LEADS, 5, NAMES, ensemble(5), skip=((1, 1, 6),))
    return folder


@pytest.fixture(scope="module")
def scores(stores: Path) -> Scores:
    return score(
        {"a": stores / "a.zarr", "b": stores / "b.zarr"}, stores / "truth.zarr", stores / "scores", climatology=PERIOD
    )


def test_all_are_scored_on_what_all_have(scores: Scores) -> None:
    s = scores.summary
    assert s["members"] == {"a": 5, "b": 3, "persistence": 1, "climatology": 11}
    assert s["starts"] == ["2002-03-01T00", "2002-06-01T00"] and s["variables"] == list(NAMES)
    assert s["lead_hours"] == [24, 48, 72, 96, 120, 144]
    assert any("2002-12-28T00 left out: `b` does not have it" in note for note in s["notes"])


def test_missing_truth_is_skipped_for_all_and_counted(scores: Scores) -> None:
    """2002-03-03 is missing: the first start's 48 h. The other start alone makes that lead's mean."""
    assert scores.summary["cases_skipped"] == 1 and scores.summary["cases"] == 11
    for label, metrics in scores.metrics.items():
        assert metrics["starts"].sel(lead_time=2 * DAY, variable="z_500", region="globe") == 1
        assert metrics["starts"].sel(lead_time=3 * DAY, variable="z_500", region="globe") == 2
        alone = scores.sums[label].sum["fair_crps"].sel(lead_time=2 * DAY, init_time=STARTS[1])
        assert np.allclose(metrics["fair_crps"].sel(lead_time=2 * DAY), alone, rtol=1e-14)


def test_scores_are_right(scores: Scores, stores: Path) -> None:
    """RMSE and fair CRPS of one case, spelled out over pairs of members."""
    lead = 3 * DAY
    x, w = [], GRID.areas / GRID.areas.sum()
    rows = []
    for start in STARTS[:2]:
        x = ensemble(5)("z_500", start, lead).astype(np.float32).astype(float)
        y = state("z_500", start + lead).astype(np.float32).astype(float)
        pairs = np.abs(x[:, None] - x).sum((0, 1)) / (2 * 5 * 4)
        rows.append((w @ (x.mean(0) - y) ** 2, w @ (np.abs(x - y).mean(0) - pairs)))
    squared, crps = np.mean(rows, axis=0)
    at = scores.metrics["a"].sel(variable="z_500", lead_time=lead, region="globe")
    assert float(at["rmse"]) == pytest.approx(np.sqrt(squared), rel=1e-9)
    assert float(at["fair_crps"]) == pytest.approx(crps, rel=1e-9)


def test_baselines_score_as_white_noise_must(scores: Scores) -> None:
    """Persistence of white noise: RMSE sqrt(2) sigma; climatology of 11 members: sigma sqrt(1 + 1/11), reliable."""
    mean = {k: m.sel(variable="z_500", region="globe").mean("lead_time") for k, m in scores.metrics.items()}
    assert float(mean["persistence"]["rmse"]) == pytest.approx(100 * np.sqrt(2), rel=0.05)  # 1408 points
    assert float(mean["persistence"]["fair_crps"]) == pytest.approx(float(mean["persistence"]["mae"]), rel=1e-12)
    assert float(mean["climatology"]["rmse"]) == pytest.approx(100 * np.sqrt(1 + 1 / 11), rel=0.05)
    assert float(mean["climatology"]["spread_skill"]) == pytest.approx(1.0, abs=0.05)
    # both anomalies share the error of an 11-member climatology: (1/11) / (1 + 1/11)
    assert float(mean["persistence"]["acc"]) == pytest.approx(1 / 12, abs=0.05)


def test_order_and_workers_do_not_matter(scores: Scores, stores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other order of forecasts, of cases, and number of threads: the same sums to the last bit."""
    from forecast.verification.plan import Plan

    cases = Plan.cases.fget  # type: ignore[attr-defined]
    monkeypatch.setattr(Plan, "cases", property(lambda plan: cases(plan)[::-1]))
    other = score({"b": stores / "b.zarr", "a": stores / "a.zarr"}, stores / "truth.zarr", stores / "other",
                  climatology=PERIOD, workers=3)  # fmt: skip
    for label, sums in scores.sums.items():
        assert other.sums[label].sum.equals(sums.sum) and other.sums[label].weight.equals(sums.weight)


def test_a_run_that_was_stopped_goes_on(scores: Scores, stores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was finished is not scored again; other settings begin anew; the sums are those of a run in one go."""
    from forecast.verification.engine import Engine

    asked: list[int] = []
    whole = Engine.score

    def once(engine: Engine, case: tuple[int, int], sums: dict) -> object:
        asked.append(case[0])
        if case[0] == 1 and len(asked) < 9:
            raise ForecastError("stopped")
        return whole(engine, case, sums)

    paths = {"a": stores / "a.zarr", "b": stores / "b.zarr"}
    run = partial(score, paths, stores / "truth.zarr", stores / "resumed", climatology=PERIOD)
    monkeypatch.setattr(Engine, "score", once)
    with pytest.raises(ForecastError, match="stopped"):
        run(workers=1)
    assert {path.name for path in (stores / "resumed.unfinished").glob("*.npz")} == {"0.npz"}
    asked[:] = [1] * 9
    resumed = run(workers=1)
    assert set(asked) == {1} and not (stores / "resumed.unfinished").exists()
    assert resumed.summary["nan_points_forecast"] == scores.summary["nan_points_forecast"]
    for label, sums in scores.sums.items():
        assert resumed.sums[label].sum.equals(sums.sum) and resumed.sums[label].weight.equals(sums.weight)


def test_parts_of_other_settings_are_thrown_away(tmp_path: Path) -> None:
    Parts(tmp_path / "p", "one").save(0, {}, np.arange(1), [])
    assert Parts(tmp_path / "p", "one").load(0, {}, np.arange(1)) == []
    assert Parts(tmp_path / "p", "two").load(0, {}, np.arange(1)) is None


def test_what_one_forecast_lacks_is_named(stores: Path, tmp_path: Path) -> None:
    short = write_forecast(tmp_path / "short.zarr", GRID, STARTS[:2], LEADS[[0, 2, 4, 5]], 3, NAMES[:1], ensemble(3))
    paths = {"a": stores / "a.zarr", "short": short}
    notes = score(paths, stores / "truth.zarr", tmp_path / "s", climatology=PERIOD).summary["notes"]
    assert "Variable tp left out: not in short." in notes
    assert "Lead times left out, since `short` does not have them: 1d, 3d, 6d." in notes


def test_starts_scored_apart_merge_to_the_whole(scores: Scores, stores: Path, tmp_path: Path) -> None:
    parts = []
    for k in range(2):
        path = write_forecast(tmp_path / f"a{k}.zarr", GRID, STARTS[k : k + 1], LEADS, 5, NAMES, ensemble(5))
        parts.append(score({"a": path}, stores / "truth.zarr", tmp_path / f"s{k}", climatology=PERIOD).sums["a"])
    merged = parts[1] + parts[0]
    assert merged.sum.equals(scores.sums["a"].sum) and merged.weight.equals(scores.sums["a"].weight)


def test_what_was_written_opens_again(scores: Scores) -> None:
    again = open_scores(scores.path)
    for label, metrics in scores.metrics.items():
        assert again.metrics[label].equals(metrics)
    table = pd.read_csv(scores.path / "scores.csv")
    row = table.query(
        "forecast == 'a' and score == 'rmse' and variable == 'tp' and region == 'tropics' and lead_hours == 72"
    )
    expected = scores.metrics["a"]["rmse"].sel(variable="tp", region="tropics", lead_time=3 * DAY)
    assert row["value"].item() == pytest.approx(float(expected), rel=1e-12) and row["starts"].item() == 2


def test_climatology_defaults_to_the_years_before(stores: Path, tmp_path: Path) -> None:
    s = score({"a": stores / "a.zarr"}, stores / "truth.zarr", tmp_path / "s").summary
    assert s["climatology"] == ["2001-01-01T00", "2001-12-31T12"]


def test_without_climatology_the_rest_is_scored(stores: Path, tmp_path: Path) -> None:
    period = (np.datetime64("2001-01-01", "s"), np.datetime64("2001-02-01", "s"))
    found = score({"a": stores / "a.zarr"}, stores / "truth.zarr", tmp_path / "s", climatology=period)
    assert "climatology" not in found.sums and "acc" not in found.metrics["a"]
    assert any("No climatological ensemble" in note for note in found.summary["notes"])


def test_unfinished_starts_are_left_out(stores: Path, tmp_path: Path) -> None:
    s = score({"torn": stores / "torn.zarr"}, stores / "truth.zarr", tmp_path / "s", climatology=PERIOD).summary
    assert s["starts"] == ["2002-03-01T00", "2002-12-28T00"]
    assert any("2002-06-01T00 left out: `torn` has not finished it" in note for note in s["notes"])


@pytest.mark.parametrize("policy", ["propagate", "skip"])
def test_nan_in_the_truth(policy: str, stores: Path, tmp_path: Path) -> None:
    """A hole in the field: seen in every region that holds it, or left out of all statistics alike."""
    fields = {name: np.stack([state(name, when) for when in DATES]) for name in NAMES}
    hole = np.flatnonzero(GRID.latitudes > 0)
    fields["z_500"][:, hole] = np.nan
    truth = write_truth(tmp_path / "t.zarr", GRID, DATES, fields)
    found = score({"a": stores / "a.zarr"}, truth, tmp_path / "s", climatology=PERIOD, nan=policy)  # type: ignore[arg-type]
    crps = found.metrics["a"]["fair_crps"].sel(variable="z_500")
    assert found.summary["nan_points_truth"] == hole.size * found.summary["cases"]
    assert not crps.sel(region="s.hem").isnull().any()
    assert crps.sel(region="globe").isnull().all() == (policy == "propagate")
    assert crps.sel(region="n.hem").isnull().all()  # no point left
    assert not found.metrics["a"]["fair_crps"].sel(variable="tp").isnull().any()


def test_nan_in_a_forecast_always_shows(stores: Path, tmp_path: Path) -> None:
    def field(name: str, start: np.datetime64, lead: np.timedelta64) -> np.ndarray:
        fields = ensemble(5)(name, start, lead)
        fields[2, 0] = np.nan
        return fields

    path = write_forecast(tmp_path / "n.zarr", GRID, STARTS, LEADS, 5, ("z_500",), field)
    found = score({"n": path}, stores / "truth.zarr", tmp_path / "s", climatology=PERIOD, nan="skip")
    assert found.metrics["n"]["fair_crps"].sel(region="globe").isnull().all()
    assert found.summary["nan_points_forecast"] == {"n": found.summary["cases"], "persistence": 0, "climatology": 0}


def other_grid(folder: Path) -> Path:
    grid = grids.gaussian(4)
    return write_forecast(folder / "g.zarr", grid, STARTS, LEADS, 2, ("z_500",), lambda *_: np.zeros((2, grid.size)))


def test_bad_input_gives_one_line_and_no_folder(stores: Path, tmp_path: Path) -> None:
    a, truth = stores / "a.zarr", stores / "truth.zarr"
    cases = [
        ({}, {}, "no forecast to score"),
        ({"persistence": a}, {}, "two forecasts are called `persistence`"),
        ({"a": tmp_path / "none"}, {}, "no such file, folder or pattern"),
        ({"a": a}, {"variables": ("2t",)}, "variable `2t` is not in the truth and every forecast"),
        ({"a": a}, {"leads": [7 * DAY]}, "lead time 7d is not in every forecast"),
        ({"a": a}, {"regions": ("mars",)}, "unknown region `mars`"),
        ({"a": other_grid(tmp_path)}, {"grid": "same"}, "is on gaussian-4x8, the truth on gaussian-8x16"),
    ]
    for forecasts, options, message in cases:
        with pytest.raises(ForecastError, match=message):
            score(forecasts, truth, tmp_path / "s", climatology=PERIOD, **options)  # type: ignore[arg-type]
    assert not (tmp_path / "s").exists()


def test_only_a_folder_of_scores_is_replaced(stores: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("ten years of work")
    with pytest.raises(ForecastError, match="is no folder of scores"):
        score({"a": stores / "a.zarr"}, stores / "truth.zarr", tmp_path / "precious", climatology=PERIOD)
    assert (tmp_path / "precious" / "thesis.txt").exists()


def test_skill_statements(scores: Scores) -> None:
    """a (error 0.2 a day) beats b (0.4), climatology and persistence; it is reliable about its own centre."""
    checks = {c.claim: c for c in skill_checks(scores, "a", rival="b", late=144 * HOUR)}
    for lead in ("24 h", "72 h"):
        for other in ("persistence", "climatology", "b"):
            assert checks[f"Fair CRPS below {other} at {lead}"].ok
    assert not any(c.ok for c in skill_checks(scores, "b", rival="a") if "below a" in c.claim)
    assert checks["Spread-skill of every variable, 24 h to 120 h"].ok
    write_checks(scores, list(checks.values()))
    assert json.loads((scores.path / "checks.json").read_text())[0]["ok"]


def test_late_statement_fails_when_worse_than_climatology(scores: Scores) -> None:
    late = [c for c in skill_checks(scores, "persistence", late=144 * HOUR) if "no more than 5 %" in c.claim]
    assert len(late) == 1 and not late[0].ok and "over: z_500, tp" in late[0].reached


def test_spectra_are_taken_at_whole_days(stores: Path, tmp_path: Path) -> None:
    leads = np.array([12, 24]) * HOUR
    path = write_forecast(tmp_path / "h.zarr", GRID, STARTS, leads, 2, ("z_500",), ensemble(2))
    found = score({"h": path}, stores / "truth.zarr", tmp_path / "s", climatology=PERIOD)
    power = found.metrics["h"]["power_truth"].sel(region="globe", variable="z_500")
    assert power.sel(lead_time=12 * HOUR).isnull().all() and not power.sel(lead_time=24 * HOUR).isnull().any()
