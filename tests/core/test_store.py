"""Reads equal the array that was written, dates are found or the nearest is named, strangers are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

from forecast.core import grids, variables
from forecast.core.errors import ForecastError
from forecast.core.store import Store
from forecast.data.layout import Layout
from forecast.data.writer import StoreWriter

GRID = grids.gaussian(8)
NAMES = ("z_500", "2t", "tp")
DATES = np.datetime64("2001-01-01", "s") + np.arange(30) * np.timedelta64(6, "h")
MISSING = np.isin(np.arange(30), (10, 11))
VALUES = np.random.default_rng(1).standard_normal((30, 3, 2, GRID.size)).astype(np.float32)
VALUES[MISSING] = np.nan


def make(path: Path, grid: grids.Grid = GRID, members: int = 2) -> Store:
    layout = Layout(
        dates=DATES, variables=NAMES, metadata={n: variables.metadata(n) for n in NAMES}, latitudes=grid.latitudes,
        longitudes=grid.longitudes, field_shape=grid.shape, frequency=np.timedelta64(6, "h"), missing=MISSING,
        members=members, dates_per_shard=7, tendencies=(np.timedelta64(24, "h"),),
    )  # fmt: skip
    writer = StoreWriter(path, layout)
    for slab in writer.todo:
        writer.write(slab, VALUES[layout.slabs[slab], :, :members, : grid.size])
    return Store.open(writer.finish())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make(tmp_path_factory.mktemp("store") / "a.zarr")


@pytest.mark.parametrize(
    "times",
    [3, np.int64(29), slice(0, 30), slice(5, 9), slice(2, 27, 4), np.arange(6, 9), np.array([0, 4, 8, 12]),
     np.array([3, 29, 7, 7, 0]), np.array([9, 8, 7]), np.array([5]), slice(4, 4)],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("member", [0, 1])
def test_reads_equal_what_was_written(store: Store, times: int | slice | np.ndarray, member: int) -> None:
    expected = VALUES[times if not isinstance(times, int | np.integer) else [times], :, member]
    np.testing.assert_array_equal(store.read(times, member=member), expected)
    np.testing.assert_array_equal(store.read(times, ["tp", "z_500"], member), expected[:, [2, 0]])


def test_no_date_gives_no_state(store: Store) -> None:
    assert store.read(np.array([], int)).shape == (0, 3, GRID.size)


def test_what_a_store_says_of_itself(store: Store) -> None:
    assert store.variables == NAMES and store.ensemble == 2 and store.frequency == np.timedelta64(6, "h")
    np.testing.assert_array_equal(store.dates, DATES)
    np.testing.assert_array_equal(store.missing, MISSING)
    assert store.units == {"z_500": "m**2 s**-2", "2t": "K", "tp": "m"}
    assert store.grid.name == GRID.name and store.grid.shape == (8, 16)
    np.testing.assert_array_equal(store.grid.latitudes, GRID.latitudes)
    assert set(store.statistics) == {"mean", "stdev", "minimum", "maximum"}


def test_dates_are_found_or_the_nearest_is_named(store: Store) -> None:
    assert [store.index(date) for date in DATES[[0, 9, 29]]] == [0, 9, 29]
    assert store.index(np.datetime64("2001-01-02")) == 4
    with pytest.raises(ForecastError, match="2001-01-01T05 is not a date of .*; the nearest is 2001-01-01T06"):
        store.index(np.datetime64("2001-01-01T05"))
    with pytest.raises(ForecastError, match="2001-01-03T12 is a missing date of .*; the nearest is 2001-01-03T06"):
        store.index(DATES[10])
    with pytest.raises(ForecastError, match="2020-01-01T00 is not a date of .*; the nearest is 2001-01-08T06"):
        store.index(np.datetime64("2020-01-01"))


def test_ranges_of_dates(store: Store) -> None:
    first, last = np.datetime64("2001-01-02T03", "s"), np.datetime64("2001-01-04T00", "s")
    np.testing.assert_array_equal(store.indices(first, last), np.arange(5, 13))
    np.testing.assert_array_equal(store.indices(first, last, np.timedelta64(12, "h")), [5, 7, 9, 11])
    assert store.indices(last, first).size == 0
    with pytest.raises(ForecastError, match="a step of 7h is no multiple of the frequency of .*, 6h"):
        store.indices(first, last, np.timedelta64(7, "h"))
    with pytest.raises(ForecastError, match="a step of 3h is no multiple"):
        store.stride(np.timedelta64(3, "h"))


def test_unknown_names_and_steps(store: Store) -> None:
    with pytest.raises(ForecastError, match="has no variable `t_850`; it has z_500, 2t, tp"):
        store.read(0, ["t_850"])
    with pytest.raises(ForecastError, match="has no tendency statistics for 12h, only for 1d, 6h: ingest it with"):
        store.tendency_stdev(np.timedelta64(12, "h"))


def test_xarray_view_of_a_rectangle(store: Store) -> None:
    view = store.to_xarray()
    assert view["2t"].dims == ("time", "number", "latitude", "longitude") and view["2t"].attrs["units"] == "K"
    np.testing.assert_array_equal(view["2t"].values.reshape(30, 2, -1), VALUES[:, 1])
    np.testing.assert_array_equal(view["time"].values, DATES)
    point = view["z_500"].sel(time="2001-01-02T06", number=1, longitude=22.5).isel(latitude=3)
    assert float(point) == VALUES[5, 0, 1, 3 * 16 + 1]


def test_xarray_view_of_points(tmp_path: Path) -> None:
    grid = grids.octahedral(2)
    view = make(tmp_path / "a.zarr", grid, members=1).to_xarray()
    assert view["tp"].dims == ("time", "values") and view["latitude"].dims == ("values",)
    np.testing.assert_array_equal(view["tp"].values, VALUES[:, 2, 0, : grid.size])


def test_a_zarr_2_store_of_the_anemoi_layout(tmp_path: Path) -> None:
    """Such stores exist without tendencies, field shape or variable metadata."""
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    values = VALUES[:, :, :1]
    group.create_array("data", data=values, chunks=(1, 3, 1, GRID.size))
    group.create_array("dates", data=DATES)
    group.create_array("latitudes", data=GRID.latitudes)
    group.create_array("longitudes", data=GRID.longitudes)
    for kind in ("mean", "stdev", "minimum", "maximum"):
        group.create_array(kind, data=np.arange(3.0))
    group.attrs.update({"variables": list(NAMES), "frequency": "6h", "missing_dates": [str(d) for d in DATES[MISSING]]})
    store = Store.open(tmp_path / "a.zarr")
    np.testing.assert_array_equal(store.read(slice(3, 8)), values[3:8, :, 0])
    np.testing.assert_array_equal(store.missing, MISSING)
    assert store.tendencies is None and store.grid.shape == (8, 16) and store.units["2t"] == "K"
    np.testing.assert_array_equal(store.to_xarray()["tp"].values.reshape(30, -1), values[:, 2, 0])


def test_strangers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ForecastError, match="no store at .*nothing.zarr$"):
        Store.open(tmp_path / "nothing.zarr")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ForecastError, match="folder is not a Zarr store"):
        Store.open(tmp_path / "folder")
    zarr.open_group(tmp_path / "other.zarr", mode="w").create_array("data", data=np.zeros(3))
    with pytest.raises(ForecastError, match="is a Zarr group but no store of states: it has no array `dates`"):
        Store.open(tmp_path / "other.zarr")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ForecastError, match="file is not a Zarr store"):
        Store.open(tmp_path / "file")
