"""NetCDF exports: the values of the store, bit for bit, in files that a CF checker has nothing to say about."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from forecast.core import grids
from forecast.core.forecasts import Forecasts
from forecast.outputs import products
from forecast.outputs.export import export
from forecast.outputs.selection import Selection, select
from tests import ensembles

NAMES = ("z_500", "z_850", "t_850", "2t", "10u", "msl", "tp", "lsm", "10fg", "mn2t", "sst", "z")
PRODUCTS = ("mean", "spread", "min", "max", "q10", "q90", "tp>0.001", "tp>0.003", "2t<280", "t_850>270")


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> Selection:
    made = ensembles.layout(grids.gaussian(8), NAMES)
    return select(Forecasts.open(ensembles.write(tmp_path_factory.mktemp("nc") / "f.zarr", made)))


@pytest.fixture(scope="module")
def members(chosen: Selection) -> Path:
    export(chosen, chosen.forecasts.path.with_name("members.nc"))
    return chosen.forecasts.path.with_name("members.nc")


@pytest.fixture(scope="module")
def made(chosen: Selection) -> Path:
    path = chosen.forecasts.path.with_name("products.nc")
    some = select(chosen.forecasts, ["z_500", "z_850", "t_850", "2t", "tp"])
    export(some, path, products.parse(PRODUCTS, some.variables, 5))
    return path


def truth(name: str, start: int, lead: int) -> np.ndarray:
    return ensembles.states(ensembles.layout(grids.gaussian(8), NAMES), start, lead)[name].reshape(-1, 8, 16)


def test_members_are_the_bits_of_the_store(members: Path) -> None:
    with xr.open_dataset(members) as data:
        for start, lead in np.ndindex(2, 4):
            at = {"init_time": start, "lead_time": lead}
            for name, target in (("2t", "t2m"), ("10u", "u10"), ("tp", "tp"), ("10fg", "fg10")):
                found = data[target].isel(at).transpose("number", "latitude", "longitude")
                np.testing.assert_array_equal(found, truth(name, start, lead))
        stacked = data["z"].sel(pressure=850).isel(at).transpose("number", "latitude", "longitude")
        np.testing.assert_array_equal(stacked, truth("z_850", 1, 3))
        np.testing.assert_array_equal(data["z_surface"].isel(at), truth("z", 1, 3))
        assert data["t"].dims[-3] == "pressure_2"
        np.testing.assert_array_equal(data["time"].isel(at), data["init_time"][1] + data["lead_time"][3])


def test_products_are_those_of_the_members(made: Path) -> None:
    with xr.open_dataset(made) as data:
        at = {"init_time": 1, "lead_time": 2}
        rain, warm = truth("tp", 1, 2).astype(float), truth("2t", 1, 2).astype(float)
        found = data.isel(at)
        np.testing.assert_allclose(found["tp_spread"], rain.std(0, ddof=1), rtol=1e-6)
        np.testing.assert_allclose(found["tp_above"].sel(tp_above_threshold=0.003), (rain > 0.003).mean(0))
        np.testing.assert_allclose(found["t2m_below"][0], (warm < 280).mean(0))
        np.testing.assert_allclose(found["t2m_quantile"].sel(quantile=0.9), np.quantile(warm, 0.9, 0), rtol=1e-6)
        mean = truth("z_850", 1, 2).mean(0, dtype=float)
        np.testing.assert_allclose(found["z_mean"].sel(pressure=850), mean, rtol=1e-6)
        assert found["t_850_above"].attrs["long_name"] == "probability of Temperature at 850 hPa above the threshold"


def test_accumulations_state_their_time(members: Path) -> None:
    with xr.open_dataset(members, decode_times=False) as data:
        bounds = data[data["lead_time"].attrs["bounds"]].values
        np.testing.assert_array_equal(bounds[:, 1] - bounds[:, 0], 21600)
        np.testing.assert_array_equal(bounds[:, 1], data["lead_time"])
        methods = {name: data[name].attrs["cell_methods"] for name in ("tp", "fg10", "mn2t", "t2m")}
    assert [methods[n].split()[-1] for n in methods] == ["sum", "maximum", "minimum", "point"]


@pytest.mark.parametrize("kind", ["members", "made"])
def test_cf_checker(kind: str, request: pytest.FixtureRequest) -> None:
    """compliance-checker finds nothing, neither errors nor recommendations."""
    checker = shutil.which("compliance-checker", path=sysconfig.get_path("scripts"))
    if checker is None:
        pytest.skip("compliance-checker is not installed")
    command = [checker, "--test", "cf:1.11", "--criteria", "strict", str(request.getfixturevalue(kind))]
    report = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    assert "All tests passed!" in report, report


def test_missing_values_and_points_without_rows(tmp_path: Path) -> None:
    grid = grids.octahedral(4)
    fields = np.random.default_rng(1).normal(290, 3, (2, 1, 3, grid.size)).astype(np.float32)
    fields[:, :, :, 5] = np.nan
    layout = ensembles.layout(grid, ("sst",), 3, 2, 1)
    store = ensembles.write(tmp_path / "o.zarr", layout, {"sst": fields})
    export(select(Forecasts.open(store), members=["1..2"]), tmp_path / "o.nc")
    with xr.open_dataset(tmp_path / "o.nc") as data:
        assert data["sst"].dims == ("number", "lead_time", "init_time", "values")
        np.testing.assert_array_equal(data["sst"].isel(lead_time=0, init_time=1), fields[1, 0, 1:])
        np.testing.assert_array_equal(data["number"], [1, 2])
        assert set(data["sst"].coords) >= {"latitude", "longitude"}
