"""Forecast stores and exports as other packages open them, without options."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from forecast.core import grids
from forecast.core.forecasts import Forecasts
from forecast.outputs.export import export
from forecast.outputs.selection import select
from tests import ensembles


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensembles.write(tmp_path_factory.mktemp("readers") / "forecast.zarr", ensembles.layout())


@pytest.fixture(scope="module")
def netcdf(store: Path) -> Path:
    out = store.with_suffix(".nc")
    export(select(Forecasts.open(store)), out)
    return out


def test_xarray(store: Path) -> None:
    data = xr.open_zarr(store)
    truth = ensembles.states(ensembles.layout(), 1, 2)["msl"][3]
    np.testing.assert_array_equal(data["msl"].sel(number=3).values[1, 2].ravel(), truth)
    assert data["time"].values[1, 2] == data["init_time"].values[1] + data["lead_time"].values[2]


def test_the_names_are_those_that_weatherbenchx_expects_of_its_defaults(store: Path, netcdf: Path) -> None:
    """Its loader renames `time` to `valid_time` (if there is no `prediction_timedelta`), then selects by these dims."""
    for data in (xr.open_zarr(store), xr.open_dataset(netcdf)):
        assert "prediction_timedelta" not in data.coords and {"latitude", "longitude"} <= set(data.dims)
        chunk = data.rename({"time": "valid_time"}).sel(
            init_time=data["init_time"].values[:1], lead_time=data["lead_time"].values[1:3]
        )
        assert chunk.sizes["number"] == 5 and set(chunk["valid_time"].dims) == {"init_time", "lead_time"}


@pytest.mark.parametrize("kind", ["zarr", "nc"])
def test_weatherbenchx_itself(store: Path, netcdf: Path, kind: str) -> None:
    loaders = pytest.importorskip("weatherbenchX.data_loaders.xarray_loaders", reason="not on the package index")
    path = str(store if kind == "zarr" else netcdf)
    data = loaders.PredictionsFromXarray(path=path, variables=["msl", "tp"])
    starts = np.array(["2020-02-28T00"], "datetime64[ns]")
    leads = np.array([6, 18], "timedelta64[h]").astype("timedelta64[ns]")
    chunk = data.load_chunk(starts, leads)
    field = chunk["msl"].sel(number=3).transpose("init_time", "lead_time", "latitude", "longitude")
    truth = ensembles.states(ensembles.layout(), 0, 3)["msl"][3]
    np.testing.assert_array_equal(field.values[0, 1].ravel(), truth)


def test_earthkit_data_opens_the_store_and_the_exports(tmp_path: Path) -> None:
    earthkit = pytest.importorskip("earthkit.data")
    made = ensembles.layout(grids.gaussian(8), ("z_500", "2t"), members=2, leads=2)
    store = ensembles.write(tmp_path / "forecast.zarr", made)
    for suffix in (".nc", ".grib2"):
        export(select(Forecasts.open(store)), store.with_suffix(suffix), packing="ieee")
    opened = {
        "zarr": earthkit.from_source("zarr", str(store)),
        "nc": earthkit.from_source("file", str(store.with_suffix(".nc"))),
        "grib": earthkit.from_source("file", str(store.with_suffix(".grib2"))),
    }
    truth = ensembles.states(made, 1, 1)["2t"][1].reshape(8, 16)
    name = {"zarr": "2t", "nc": "t2m", "grib": "2t"}
    for kind, source in opened.items():
        (field,) = [
            f
            for f in source.to_fieldlist().sel({"parameter.variable": name[kind]})
            if str(f.ensemble.member()) == "1" and f.time.step() == datetime.timedelta(hours=6)
            and str(f.time.base_datetime()) == "2020-12-31 12:00:00"
        ]  # fmt: skip
        assert str(field.time.valid_datetime()) == "2020-12-31 18:00:00"
        np.testing.assert_array_equal(field.to_numpy(), truth)
    assert {f.vertical.level() for f in opened["nc"].to_fieldlist().sel({"parameter.variable": "z"})} == {500}
