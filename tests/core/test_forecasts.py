"""The forecast store: what is written is what zarr, TensorStore, xarray and we ourselves read."""

import json
import warnings

import numpy as np
import pytest
import xarray as xr
import zarr

from forecast.core import forecasts, grids, shards
from forecast.core.errors import ForecastError
from forecast.core.forecasts import Forecasts, Layout

POINTS = grids.from_points([80.0, 50.0, 10.0, -20.0, -70.0], [0.0, 100.0, 20.0, 300.0, 200.0])


def layout(grid=None, members=7, member_batch=3, **settings) -> Layout:
    return Layout(
        variables=("z_500", "2t"),
        starts=np.array(["2001-03-01T00", "2001-03-02T12"], "datetime64[s]"),
        members=np.arange(members),
        leads=np.arange(4) * np.timedelta64(6 * 3600, "s"),
        grid=grid or grids.gaussian(4),
        member_batch=member_batch,
        settings={"system": "test", **settings},
    )


def fields(plan: Layout) -> np.ndarray:
    """(V, S, M, L, G): every value its own."""
    shape = (len(plan.variables), len(plan.starts), len(plan.members), len(plan.leads), plan.grid.size)
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def fill(path, plan: Layout, leave_out=()) -> np.ndarray:
    forecasts.create(path, plan)
    values = fields(plan)
    with open(path / "finished-0-of-1.jsonl", "w") as ledger:
        for unit in np.ndindex(len(plan.starts), plan.batches, len(plan.leads)):
            start, batch, lead = unit
            for v, name in enumerate(plan.variables):
                (path / plan.shard(name, unit)).write_bytes(
                    shards.encode(values[v, start, plan.members_of(batch), lead], plan.member_batch)
                )
            if unit not in leave_out:
                ledger.write(forecasts.ledger_line(plan, unit))
    return values


@pytest.mark.parametrize("grid", [grids.gaussian(4), grids.latlon([60.0, 50.0, 40.0], [-5.0, 0.0, 5.0, 10.0]), POINTS])
def test_read_gives_back_what_was_written(tmp_path, grid) -> None:
    plan = layout(grid)
    values = fill(tmp_path / "f.zarr", plan)
    store = Forecasts.open(tmp_path / "f.zarr")
    assert store.difference(plan) == ""
    assert store.finished.all() and store.finished.shape == (2, 4)
    assert np.array_equal(store.starts, plan.starts) and np.array_equal(store.leads, plan.leads)
    assert store.grid.name == grid.name and np.array_equal(store.grid.areas, grid.areas)
    for v, name in enumerate(plan.variables):
        for s, lead in np.ndindex(2, 4):
            assert np.array_equal(store.read(name, s, lead), values[v, s, :, lead])


@pytest.mark.parametrize("grid", [grids.gaussian(4), POINTS])
def test_xarray_opens_plainly(tmp_path, grid) -> None:
    plan = layout(grid)
    values = fill(tmp_path / "f.zarr", plan)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = xr.open_zarr(tmp_path / "f.zarr")
    assert set(data.data_vars) == {"z_500", "2t"}
    assert set(data.coords) == {"init_time", "number", "lead_time", "time", "latitude", "longitude"}
    assert data["z_500"].dims == plan.dims and data["time"].dims == ("init_time", "lead_time")
    assert data["z_500"].dtype == np.float32 and data["lead_time"].dtype.kind == "m"
    assert np.array_equal(data["2t"].values, values[1].reshape(data["2t"].shape))
    assert (data.time == data.init_time + data.lead_time).all()
    assert np.array_equal(data.init_time.values, plan.starts) and np.array_equal(data.lead_time.values, plan.leads)
    assert data.attrs["Conventions"].startswith("CF-")
    names = {name: data[name].attrs.get("standard_name") for name in data.coords}
    assert names["init_time"] == "forecast_reference_time" and names["lead_time"] == "forecast_period"
    assert names["number"] == "realization" and names["time"] == "time"
    assert data["z_500"].attrs["units"] == "m**2 s**-2" and data["z_500"].attrs["level"] == 500
    chunks = data["z_500"].encoding
    assert chunks["shards"][:3] == (1, 3, 1) and chunks["chunks"][:3] == (1, 1, 1)


def test_our_shards_are_those_of_zarr(tmp_path) -> None:
    """The zarr library writes the same values into a twin store: the files are the same bytes."""
    plan = layout(members=3)
    values = fill(tmp_path / "ours.zarr", plan)
    forecasts.create(tmp_path / "theirs.zarr", plan)
    for v, name in enumerate(plan.variables):
        zarr.open_array(tmp_path / "theirs.zarr" / name)[:] = values[v].reshape(2, 3, 4, 4, 8)
        for unit in np.ndindex(2, 1, 4):
            file = plan.shard(name, unit)
            assert (tmp_path / "ours.zarr" / file).read_bytes() == (tmp_path / "theirs.zarr" / file).read_bytes()


def test_shard_reads_chunks_in_any_order_and_absent_ones() -> None:
    rows = np.random.default_rng(0).standard_normal((2, 50)).astype(np.float32)
    out = np.zeros((4, 50), np.float32)
    shards.decode(shards.encode(rows, 4), 4, out)
    assert np.array_equal(out[:2], rows) and np.isnan(out[2:]).all()


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b"", lambda b: b[: len(b) // 2], lambda b: b[:-9] + b"\0" + b[-8:]]
)
def test_torn_shard_is_noticed(tmp_path, damage) -> None:
    plan = layout()
    fill(tmp_path / "f.zarr", plan)
    file = tmp_path / "f.zarr" / plan.shard("2t", (1, 2, 3))
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ForecastError, match="is damaged"):
        Forecasts.open(tmp_path / "f.zarr").read("2t", 1, 3)


def test_unfinished_units_are_not_there(tmp_path) -> None:
    plan = layout()
    values = fill(tmp_path / "f.zarr", plan, leave_out=[(1, 2, 3)])
    store = Forecasts.open(tmp_path / "f.zarr")
    assert store.finished.sum() == 7 and not store.finished[1, 3]
    with pytest.raises(ForecastError, match=r"2001-03-02T12 is not finished at lead time 18 h"):
        store.read("2t", 1, 3)
    seen = store.to_xarray()["2t"]
    assert np.isnan(seen[1, 6, 3]).all() and seen.attrs["units"] == "K"
    expected = values[1].reshape(seen.shape).copy()
    expected[1, 6, 3] = np.nan
    assert np.array_equal(seen.values, expected, equal_nan=True)


def test_torn_last_ledger_line_does_not_count_and_a_bad_one_is_refused(tmp_path) -> None:
    plan = layout()
    fill(tmp_path / "f.zarr", plan)
    ledger = tmp_path / "f.zarr" / "finished-0-of-1.jsonl"
    ledger.write_bytes(ledger.read_bytes()[:-5])
    assert Forecasts.open(tmp_path / "f.zarr").units.sum() == 2 * 3 * 4 - 1
    ledger.write_text("nonsense\n" + ledger.read_text())
    with pytest.raises(ForecastError, match="damaged line 'nonsense'"):
        Forecasts.open(tmp_path / "f.zarr")


def test_what_is_no_forecast_store_is_refused(tmp_path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(ForecastError, match="no forecast store"):
            Forecasts.open(path)
    zarr.create_group(tmp_path / "other.zarr")
    with pytest.raises(ForecastError, match="no forecast store"):
        Forecasts.open(tmp_path / "other.zarr")
    forecasts.create(tmp_path / "f.zarr", layout())
    (tmp_path / "f.zarr" / "zarr.json").write_text("{")
    with pytest.raises(ForecastError, match="no forecast store"):
        Forecasts.open(tmp_path / "f.zarr")


def test_unknown_variable_names_those_that_are_there(tmp_path) -> None:
    forecasts.create(tmp_path / "f.zarr", layout())
    with pytest.raises(ForecastError, match="holds no `q_500`, only z_500, 2t"):
        Forecasts.open(tmp_path / "f.zarr").read("q_500", 0, 0)


def test_layouts_differ_in_words() -> None:
    assert layout().difference(layout()) == ""
    assert layout(members=9).difference(layout()) == "members 9 instead of 7"
    assert layout(seed=1).difference(layout(seed=2)) == "seed 1 instead of 2"
    assert layout(seed=1).difference(layout()) == "seed 1 instead of nothing"
    assert "grid points-5" in layout(POINTS).difference(layout())


def test_creating_twice_keeps_the_first_and_leaves_nothing_behind(tmp_path) -> None:
    forecasts.create(tmp_path / "f.zarr", layout())
    before = {p: p.read_bytes() for p in (tmp_path / "f.zarr").rglob("*") if p.is_file()}
    forecasts.create(tmp_path / "f.zarr", layout(members=9))
    assert before == {p: p.read_bytes() for p in (tmp_path / "f.zarr").rglob("*") if p.is_file()}
    assert [p.name for p in tmp_path.iterdir()] == ["f.zarr"]
    assert json.loads((tmp_path / "f.zarr" / "zarr.json").read_text())["attributes"]["settings"] == {"system": "test"}
