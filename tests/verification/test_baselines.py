"""Persistence, climatology and ridge regression."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from forecast.core import grids, seeding
from forecast.core.errors import ForecastError
from forecast.core.store import Store
from forecast.verification.baselines import Climatology, Persistence, Ridge, fitted
from forecast.verification.regions import Regions
from forecast.verification.states import States
from tests.verification.synthetic import HOUR, write_truth

DAY = 24 * HOUR
GRID = grids.latlon(np.array([50.0, 40.0]), np.array([0.0, 10.0, 20.0]))


def t(text: str) -> np.datetime64:
    return np.datetime64(text, "s")


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> States:
    """12-hourly states of 2001-2004; the field is the number of the date, so a state tells its date."""
    dates = np.arange(t("2001-01-01"), t("2005-01-01"), 12 * HOUR)
    field = np.repeat(np.arange(dates.size, dtype=np.float32)[:, None], GRID.size, axis=1)
    missing = (int(np.flatnonzero(dates == t("2002-06-15T12"))[0]),)
    path = write_truth(
        tmp_path_factory.mktemp("truth") / "t.zarr", GRID, dates, {"z_500": field, "2t": -field}, missing
    )
    return States(Store.open(path), ("z_500", "2t"))


def climatology(states: States, first: str, last: str, when: str, days: int = 2, most: int = 50) -> Climatology:
    return Climatology(states, (t(first), t(last)), np.timedelta64(days, "D"), [t(when)], most)


def test_candidates_share_hour_and_calendar_day_across_year_ends(states: States) -> None:
    """1 January takes the last days of December, also those that belong to another year's first day."""
    found = climatology(states, "2001-01-01", "2003-12-31T12", "2004-01-01T12").candidates(t("2004-01-01T12"))
    january, december = ("01-01", "01-02", "01-03"), ("12-30", "12-31")
    expected = [f"{year}-{day}" for year in (2001, 2002, 2003) for day in (*january, *december)]
    assert found.astype("datetime64[h]").astype(str).tolist() == [f"{d}T12" for d in expected]


def test_candidates_of_29_february_and_missing_dates(states: States) -> None:
    leap = climatology(states, "2001-01-01", "2003-12-31T12", "2004-02-29", days=1).candidates(t("2004-02-29"))
    assert leap.astype("datetime64[D]").astype(str).tolist() == [
        f"{y}-{d}" for y in (2001, 2002, 2003) for d in ("02-27", "02-28", "03-01")
    ]
    june = climatology(states, "2001-01-01", "2003-12-31T12", "2004-06-15T12", days=0).candidates(t("2004-06-15T12"))
    assert [str(d)[:4] for d in june] == ["2001", "2003"]  # 2002-06-15T12 is a missing date


def test_members_are_the_states_of_the_chosen_dates_evenly(states: States) -> None:
    climate = climatology(states, "2001-01-01", "2003-12-31T12", "2004-05-10", days=2, most=3)
    members = climate.read("z_500", t("2004-05-08"), 2 * DAY)
    assert members.shape == (3, GRID.size) and climate.members == 3
    dates = climate.candidates(t("2004-05-10"))
    positions = np.searchsorted(states.store.dates, dates[[0, 7, 14]])
    assert members[:, 0].tolist() == positions.tolist()
    assert np.array_equal(climate.read("2t", t("2004-05-08"), 2 * DAY), -members)


def test_climatology_without_candidates_says_what_lacks(states: States) -> None:
    with pytest.raises(ForecastError, match="holds 1 states within 0 days of 06-15T12"):
        climatology(states, "2002-01-01", "2003-12-31T12", "2004-06-15T12", days=0)


def test_persistence_is_the_state_at_the_start(states: States) -> None:
    start = t("2002-03-01T12")
    expected = states.store.index(start)
    for lead in (12 * HOUR, 10 * DAY):
        assert (Persistence(states).read("z_500", start, lead) == expected).all()
    assert Persistence(states).read("2t", start, DAY).shape == (1, GRID.size)


def test_states_keep_within_their_budget_and_return_the_same(states: States) -> None:
    small = States(states.store, ("2t", "z_500"), budget=3 * 2 * GRID.size * 4)
    dates = states.store.dates[:10]
    for _ in range(2):
        got = np.stack(small.several(dates))
        assert np.array_equal(got[:, 1, 0], np.arange(10))
    assert len(small._kept) <= 3
    assert not states.has(t("2002-06-15T12")) and not states.has(t("1999-01-01")) and states.has(t("2002-06-15"))


def test_ridge_recovers_linear_dynamics(tmp_path: Path) -> None:
    """x(t + 12 h) = A x(t) without noise on top of a cycle: predicted to the penalty's small bias."""
    n, size = 3000, GRID.size
    rotation = np.linalg.qr(seeding.normal(seeding.key(2, "a"), size * size).reshape(size, size).astype(float))[0]
    x = np.empty((n, size))
    x[0] = seeding.normal(seeding.key(2, "x"), size)
    for k in range(1, n):
        x[k] = rotation @ x[k - 1]
    dates = np.arange(n) * 12 * HOUR + t("2001-01-01")
    season = 10 * np.sin(2 * np.pi * (dates - dates.astype("datetime64[Y]")) / (365.25 * DAY))
    path = write_truth(tmp_path / "t.zarr", GRID, dates, {"z_500": 5e4 + 100 * x + season[:, None]})
    states = States(Store.open(path), ("z_500",))
    ridge = Ridge(states, (dates[0], dates[2000]), np.array([24 * HOUR]), penalty=1e-6)
    members = ridge.read("z_500", dates[2500], 24 * HOUR)
    assert len(members) == ridge.members == 50
    error = members.mean(axis=0) - states.get(dates[2502])[0]
    assert np.abs(error).max() < 3.0  # of anomalies of 40; the cycle's fit takes a little of the rotation


def test_ridge_is_dressed_with_the_errors_of_fits_without_their_dates() -> None:
    generator = np.random.default_rng(5)
    x, y = generator.normal(size=(40, 6)), generator.normal(size=(40, 3))
    weights, errors = fitted(x, y, 0.1, 40)
    penalty = 0.1 * 40 * np.eye(6)
    without = []
    for i in range(40):
        others = np.arange(40) != i
        fit = np.linalg.solve(x[others].T @ x[others] + penalty, x[others].T @ y[others])
        without.append(y[i] - x[i] @ fit)
    np.testing.assert_allclose(errors, np.array(without) - np.mean(without, axis=0), atol=1e-12)
    np.testing.assert_allclose(errors.mean(axis=0), 0, atol=1e-15)
    np.testing.assert_allclose((x.T @ x + penalty) @ weights, x.T @ y, atol=1e-12)


def test_ridge_refuses_large_states(states: States) -> None:
    import forecast.verification.baselines as module

    with pytest.MonkeyPatch.context() as patch, pytest.raises(ForecastError, match="12 numbers a state, at most 10"):
        patch.setattr(module, "LARGEST_RIDGE", 10)
        Ridge(states, (t("2001-01-01"), t("2002-01-01")), np.array([DAY]))


@pytest.mark.real
def test_ridge_reaches_the_published_errors_over_europe(real_data: Path, tmp_path: Path) -> None:
    """RMSE 2009-10, trained on 2000-08 (the data's README): z500 497 / 760 / 882, msl 449, t850 2.05; within 2 %."""
    source = xr.open_dataset(real_data / "series" / "erainterim_weurope_2p5deg_daily12z_2000-2010.nc")
    grid = grids.latlon(source["latitude"].values, source["longitude"].values)
    names = {"msl": "msl", "z_500": "z500", "t_850": "t850"}
    fields = {name: source[own].values.reshape(-1, grid.size) for name, own in names.items()}
    path = write_truth(tmp_path / "t.zarr", grid, source["time"].values.astype("datetime64[s]"), fields)
    states = States(Store.open(path), tuple(names))
    leads = np.array([1, 2, 3]) * DAY
    ridge = Ridge(states, (t("2000-01-01"), t("2008-12-31T12")), leads)
    starts = states.store.dates[states.store.dates >= t("2009-01-01")][:-3]
    weights = Regions(grid).weights[0]

    def rmse(name: str, lead: np.timedelta64) -> float:
        v = states.variables.index(name)
        errors = [ridge.read(name, s, lead).mean(axis=0, dtype=float) - states.get(s + lead)[v] for s in starts]
        return float(np.sqrt(np.mean(np.square(errors) @ weights)))

    assert [rmse("z_500", lead) for lead in leads] == pytest.approx([497, 760, 882], rel=0.02)
    assert rmse("msl", DAY) == pytest.approx(449, rel=0.02)
    assert rmse("t_850", DAY) == pytest.approx(2.05, rel=0.02)
