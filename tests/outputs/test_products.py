"""Selections and products against their definitions; what is refused is refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from forecast.core.errors import ForecastError
from forecast.core.forecasts import Forecasts
from forecast.core.grids import latlon, octahedral
from forecast.outputs import products
from forecast.outputs.selection import parse_area, select
from tests import ensembles

NAMES = ("z_500", "z_850", "2t", "tp")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Forecasts:
    made = ensembles.layout(names=NAMES)
    return Forecasts.open(ensembles.write(tmp_path_factory.mktemp("sel") / "f.zarr", made, skip=[(1, 2, 3)]))


def test_what_is_asked_for_is_taken(store: Forecasts) -> None:
    chosen = select(store, ["z", "tp"], ["2020-12-31T12"], ["0", "3..4"], ["6h..12h"])
    assert chosen.variables == ("z_500", "z_850", "tp")
    assert (chosen.starts, chosen.members.tolist(), chosen.leads.tolist()) == ([1], [0, 3, 4], [1, 2])
    whole = ensembles.states(ensembles.layout(names=NAMES), 1, 2)["tp"]
    np.testing.assert_array_equal(chosen.read("tp", 1, 2), whole[[0, 3, 4]])
    assert select(store, leads=["0h..12h/12h"]).leads.tolist() == [0, 2]


def test_an_area_reaches_across_any_meridian(store: Forecasts) -> None:
    chosen = select(store, area=(60, -25, 20, 25), starts=["2020-02-28T00"])
    np.testing.assert_allclose(chosen.grid.columns, [337.5, 348.75, 0, 11.25, 22.5])
    assert (np.diff(chosen.grid.rows) < 0).all() and chosen.grid.rows.min() > 20 and chosen.grid.rows.max() < 60
    field = chosen.read("2t", 0, 1)
    whole = ensembles.states(ensembles.layout(names=NAMES), 0, 1)["2t"].reshape(5, 16, 32)
    np.testing.assert_array_equal(field.reshape(5, *chosen.grid.shape), whole[:, 2:6][:, :, [30, 31, 0, 1, 2]])
    assert select(store, area=(90, -180, -90, 180), leads=["0h"]).grid.size == store.grid.size


def test_an_area_of_a_reduced_grid(tmp_path: Path) -> None:
    made = ensembles.layout(octahedral(8), NAMES[:1], members=2, leads=1)
    chosen = select(Forecasts.open(ensembles.write(tmp_path / "o.zarr", made)), area=(40, 350, -40, 20))
    lat, lon = made.grid.latitudes, made.grid.longitudes
    inside = (np.abs(lat) <= 40) & ((lon >= 350) | (lon <= 20))
    np.testing.assert_array_equal(chosen.read("z_500", 0, 0), ensembles.states(made, 0, 0)["z_500"][:, inside])


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({"variables": ["q_500"]}, "holds no `q_500`, only z_500, z_850, 2t, tp"),
        ({"leads": ["25h"]}, "no lead 25h: the store holds 0h, 6h, 12h, 18h"),
        ({"leads": ["25"]}, "lead `25`: `25` is not a duration"),
        ({"leads": ["0h..6h/0h"]}, "the step of a range cannot be zero"),
        ({"members": ["5"]}, "no member 5: the store holds 0, 1, ... 4"),
        ({"members": ["a"]}, "member `a`"),
        ({"starts": ["2021-01-01"]}, "no start 2021-01-01: the store holds 2020-02-28T00, 2020-12-31T12"),
        ({"area": (30.1, 0.1, 30, 0.2)}, "no grid point of .* lies in the area 30.1,0.1,30,0.2"),
        ({}, "the forecast from 2020-12-31T12 is not finished at lead time 18h"),
    ],
)
def test_what_is_not_there(store: Forecasts, wanted: dict, reason: str) -> None:
    with pytest.raises(ForecastError, match=reason) as error:
        select(store, **wanted)
    assert "\n" not in str(error.value)


def test_an_unfinished_field_is_no_hindrance_to_others(store: Forecasts) -> None:
    assert select(store, members=["0..3"]).members.size == 4
    assert select(store, leads=["0h..12h"]).leads.size == 3


@pytest.mark.parametrize("text", ["1,2,3", "a,b,c,d", "10,0,20,5", "91,0,20,5"])
def test_areas_that_are_none(text: str) -> None:
    with pytest.raises(ForecastError, match="--area"):
        parse_area(text)


def test_products_against_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "POINTS", 7)
    x = np.random.default_rng(1).normal(280, 5, (6, 50)).astype(np.float32)
    x[2, 4] = np.nan
    expected = {
        "mean": x.mean(0, dtype=float), "spread": x.std(0, ddof=1, dtype=float), "min": x.min(0), "max": x.max(0),
        "q25": np.quantile(x.astype(float), 0.25, axis=0),
        "t_850>281": (x > 281).mean(0), "t_850<275.5": (x < 275.5).mean(0),
    }  # fmt: skip
    for product in products.parse(expected, ["t_850", "tp"], 6):
        found = product.compute(x)
        assert np.isnan(found[4]) and product.of("t_850")
        keep = np.arange(50) != 4
        np.testing.assert_allclose(found[keep], expected[product.name][keep], rtol=1e-6)
    assert not products.parse(["tp>1e-3"], ["tp"], 2)[0].of("t_850")


@pytest.mark.parametrize(
    ("text", "reason"),
    [("median", "is no product"), ("q101", "is no product"), ("tp>x", "is no product"), ("qq>3", "no variable `qq`")],
)
def test_no_products(text: str, reason: str) -> None:
    with pytest.raises(ForecastError, match=reason):
        products.parse([text], ["tp"], 5)


def test_one_member_has_no_spread() -> None:
    with pytest.raises(ForecastError, match="at least two members"):
        products.parse(["spread"], ["tp"], 1)


def test_a_lat_lon_grid_keeps_its_order(tmp_path: Path) -> None:
    made = ensembles.layout(latlon(np.arange(-30.0, 31, 10), np.arange(350.0, 375, 5) % 360), NAMES[:1], 1, 1, 1)
    chosen = select(Forecasts.open(ensembles.write(tmp_path / "l.zarr", made)), area=(10, 355, -20, 5))
    np.testing.assert_allclose(chosen.grid.rows, [-20, -10, 0, 10])
    np.testing.assert_allclose(chosen.grid.columns, [355, 0, 5])
