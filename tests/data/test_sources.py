"""Archives of every kind give the same states: Zarr over HTTP, anemoi datasets, amounts, levels, other grids."""

from __future__ import annotations

import functools
import http.server
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from forecast.core import grids, regrid
from forecast.core.archive_sections import AnemoiSource, FileSource, ZarrSource
from forecast.core.errors import ForecastError
from forecast.core.store import Store
from forecast.data.ingest import ingest
from forecast.data.sources import open_source
from tests.data.archives import DATES, config, field, message, netcdf, section, store

HOUR = np.timedelta64(3600, "s")
LEVELS = [500, 850]


def arco(path: Path, dims: tuple[str, ...]) -> xr.Dataset:
    """A Zarr archive with the names and order of dimensions of ARCO-ERA5, or of WeatherBench 2 (longitude first)."""
    latitudes, longitudes = np.linspace(90, -90, 5), np.arange(8) * 45.0
    rng, times = np.random.default_rng(2), DATES.astype("datetime64[ns]")
    sizes = {"time": 10, "level": 2, "latitude": 5, "longitude": 8}

    def array(*names: str) -> tuple[tuple[str, ...], np.ndarray]:
        return names, rng.standard_normal([sizes[n] for n in names]).astype(np.float32)

    points = tuple(d for d in dims if d in ("latitude", "longitude"))
    data = xr.Dataset(
        {"geopotential": array(*dims), "temperature": array(*dims), "2m_temperature": array("time", *points),
         "total_precipitation": array("time", *points), "land_sea_mask": array(*points)},
        {"time": times, "level": LEVELS, "latitude": latitudes, "longitude": longitudes},
    )  # fmt: skip
    for name, units in (("geopotential", "m**2 s**-2"), ("temperature", "K"), ("2m_temperature", "K"),
                        ("total_precipitation", "m"), ("land_sea_mask", "(0 - 1)")):  # fmt: skip
        data[name].attrs["units"] = units
    data.to_zarr(path, zarr_format=2, consolidated=True)
    return data


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """A folder over HTTP on loopback."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    handler.func.log_message = lambda *_: None  # type: ignore[attr-defined]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    "dims", [("time", "level", "latitude", "longitude"), ("time", "level", "longitude", "latitude")]
)
def test_a_zarr_archive_over_http(dims: tuple[str, ...], served: str, tmp_path: Path) -> None:
    data = arco(tmp_path / "arco.zarr", dims)
    period = (DATES[2], DATES[7])
    source = {"kind": "zarr", "url": f"{served}/arco.zarr", "variables": ["z", "t_850", "2t", "lsm"], "levels": LEVELS,
              "period": [str(p) for p in period]}  # fmt: skip
    found = Store.open(ingest(config(tmp_path / "run", source, dates_per_shard=4))[0])
    assert found.variables == ("z_500", "z_850", "t_850", "2t", "lsm") and found.constant_fields == ("lsm",)
    np.testing.assert_array_equal(found.dates, DATES[2:8])
    expected = data.transpose("time", "level", "latitude", "longitude").isel(time=slice(2, 8))
    states = found.read(slice(None))
    for k, level in enumerate(LEVELS):
        np.testing.assert_array_equal(states[:, k], expected["geopotential"].sel(level=level).values.reshape(6, -1))
    np.testing.assert_array_equal(states[:, 3], expected["2m_temperature"].values.reshape(6, -1))
    np.testing.assert_array_equal(found.latitudes.reshape(5, 8)[:, 0], data["latitude"])


@pytest.mark.parametrize(("url", "reason"), [("{served}/nothing.zarr", "cannot be opened as a Zarr archive"),
                                             ("nowhere://x", "cannot be opened|no such|Protocol")])  # fmt: skip
def test_an_archive_that_is_not_there(url: str, reason: str, served: str) -> None:
    with pytest.raises(ForecastError, match=reason) as error:
        open_source(ZarrSource(kind="zarr", url=url.format(served=served)))
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Store]:
    """Two stores of different variables on the same dates."""
    folder = tmp_path_factory.mktemp("pair")
    netcdf(folder / "a.nc", units={"t2m": "K", "msl": "Pa"})
    netcdf(folder / "b.nc", units={"sp": "Pa"})
    return store(folder / "a", folder / "a.nc"), store(folder / "b", folder / "b.nc")


def test_anemoi_datasets_joined_and_cut(pair: tuple[Store, Store], tmp_path: Path) -> None:
    pytest.importorskip("anemoi.datasets")
    a, b = pair
    joined = {"join": [{"dataset": str(a.path), "select": ["2t"]}, str(b.path)], "end": "2020-02-28"}
    made = Store.open(ingest(config(tmp_path, {"kind": "anemoi", "dataset": joined}, dates_per_shard=4))[0])
    assert made.variables == ("2t", "sp") and made.units["sp"] == "Pa"
    np.testing.assert_array_equal(made.dates, a.dates[:8])
    np.testing.assert_array_equal(made.read(slice(None), ["2t"]), a.read(slice(0, 8), ["2t"]))
    np.testing.assert_array_equal(made.read(slice(None), ["sp"]), b.read(slice(0, 8), ["sp"]))


def test_an_ensemble_of_anemoi_datasets(pair: tuple[Store, Store], tmp_path: Path) -> None:
    pytest.importorskip("anemoi.datasets")
    a, _ = pair
    netcdf(tmp_path / "c.nc", units={"msl": "Pa", "t2m": "K"})
    c = store(tmp_path / "c", tmp_path / "c.nc", variables=("2t", "msl"))
    dataset = {"ensemble": [str(a.path), str(c.path)]}
    made = Store.open(ingest(config(tmp_path, {"kind": "anemoi", "dataset": dataset}))[0])
    assert made.ensemble == 2
    for member, one in enumerate((a, c)):
        np.testing.assert_array_equal(made.read(slice(None), member=member), one.read(slice(None)))


@pytest.mark.parametrize(("dataset", "reason"), [("nowhere.zarr", "anemoi-datasets refuses nowhere.zarr"),
                                                 ({"nonsense": 1}, "anemoi-datasets refuses")])  # fmt: skip
def test_what_anemoi_refuses_is_one_line(dataset: Any, reason: str) -> None:
    pytest.importorskip("anemoi.datasets")
    with pytest.raises(ForecastError, match=reason) as error:
        open_source(AnemoiSource(kind="anemoi", dataset=dataset))
    assert "\n" not in str(error.value)


def hourly(path: Path, hours: int = 25) -> xr.Dataset:
    return netcdf(path, dates=DATES[0] + np.arange(hours) * HOUR, units={"t2m": "K", "tp": "m"})


def test_hourly_amounts_are_summed_over_the_step(tmp_path: Path) -> None:
    data = hourly(tmp_path / "a.nc")
    made = store(tmp_path, tmp_path / "a.nc", frequency="6h")
    np.testing.assert_array_equal(made.dates, DATES[1:5])  # no six hours lead up to the first date
    rain = data["tp"].values.reshape(25, -1).astype(np.float64)
    expected = [rain[6 * k + 1 : 6 * k + 7].sum(axis=0) for k in range(4)]
    np.testing.assert_allclose(made.read(slice(None), ["tp"])[:, 0], expected, rtol=1e-6)
    np.testing.assert_array_equal(made.read(slice(None), ["2t"])[:, 0], data["t2m"].values[6::6].reshape(4, -1))
    assert made.attrs["variables_metadata"]["tp"]["period"] == [0, 6]


def totals(path: Path, step: int = 6) -> np.ndarray:
    """tp since the start of two forecasts, 12 hours apart: (4, points) amounts from step to step."""
    amounts = np.abs(np.stack([field(9, k) for k in range(4)])).astype(np.float64) * 1e-3
    coded = b""
    for start in range(2):
        for end in range(2):
            when, total = DATES[2 * start], amounts[2 * start : 2 * start + end + 1].sum(axis=0)
            keys = {"shortName": "tp", "stepType": "accum", "stepRange": f"0-{step * (end + 1)}"}
            coded += message(total, when, sample="regular_ll_sfc_grib2", **keys)
    path.write_bytes(coded)
    return amounts.reshape(4, -1)


def test_amounts_since_the_start_of_a_forecast_become_those_of_each_step(tmp_path: Path) -> None:
    amounts = totals(tmp_path / "a.grib")
    made = store(tmp_path, tmp_path / "a.grib", kind="grib")
    np.testing.assert_array_equal(made.dates, DATES[1:5])
    np.testing.assert_allclose(made.read(slice(None))[:, 0], amounts, rtol=0, atol=1e-8)
    assert made.attrs["variables_metadata"]["tp"]["period"] == [0, 6]
    assert (made.read(slice(None)) >= 0).all()


def test_levels_variables_and_period(tmp_path: Path) -> None:
    fields = {(name, level): field(k, level, offset=280.0) for k, name in enumerate("tz") for level in (500, 850, 1000)}
    coded = b"".join(message(values, date, shortName=name, typeOfLevel="isobaricInhPa", level=level)
                     for date in DATES[:4] for (name, level), values in fields.items())  # fmt: skip
    (tmp_path / "a.grib").write_bytes(coded)
    made = store(tmp_path, tmp_path / "a.grib", kind="grib", variables=("t", "z_1000"), levels=(850, 500),
                 period=(str(DATES[1]), str(DATES[2])))  # fmt: skip
    assert made.variables == ("t_850", "t_500", "z_1000")
    np.testing.assert_array_equal(made.dates, DATES[1:3])


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"period": ("1999-01-01", "1999-02-01")}, "no date from 1999-01-01T00 to 1999-02-01T00: the archive has 2020"),
     ({"period": ("2020-03-01", "2020-02-01")}, "the first date lies behind the last"),
     ({"frequency": "9h"}, "9h is no multiple of the archive's 6h"), ({"grid": "Q7"}, "unknown grid `Q7`"),
     ({"grid": "1.0"}, "reaches outside")],
)  # fmt: skip
def test_what_cannot_be_had(settings: dict[str, Any], reason: str, tmp_path: Path) -> None:
    netcdf(tmp_path / "a.nc", units={"t2m": "K", "tp": "m"})
    with pytest.raises((ForecastError, ValueError), match=reason):
        contents = open_source(section(tmp_path / "a.nc", **settings)).contents
        if contents.dates.size:  # a step that does not fit is found with the time axis
            store(tmp_path / "x", tmp_path / "a.nc", **settings)


def test_regridded_to_any_grid(tmp_path: Path) -> None:
    grid = grids.named("F8")
    lat, lon = grid.rows, grid.columns
    values = np.random.default_rng(3).standard_normal((3, 16, 32)).astype(np.float32)
    data = xr.Dataset({"t2m": (("time", "latitude", "longitude"), values, {"units": "K"})},
                      {"time": DATES[:3].astype("datetime64[ns]"), "latitude": lat, "longitude": lon})  # fmt: skip
    data.to_netcdf(tmp_path / "a.nc")
    made = store(tmp_path, tmp_path / "a.nc", grid="O8", regrid="linear")
    assert made.grid.name == "O8" and made.attrs["field_shape"] == [grids.named("O8").size]
    weights = regrid.matrix(grid, grids.named("O8"), "linear")
    np.testing.assert_allclose(made.read(slice(None))[:, 0], values.reshape(3, -1) @ weights.T, rtol=0, atol=1e-5)


def test_sources_can_be_sent_to_other_processes(tmp_path: Path, pair: tuple[Store, Store]) -> None:
    netcdf(tmp_path / "a.nc")
    totals(tmp_path / "a.grib")
    arco(tmp_path / "a.zarr", ("time", "level", "latitude", "longitude"))
    kinds: list[Any] = [section(tmp_path / "a.nc"), section(tmp_path / "a.grib", kind="grib"),
                        ZarrSource(kind="zarr", url=str(tmp_path / "a.zarr"))]  # fmt: skip
    if pytest.importorskip("anemoi.datasets"):
        kinds.append(AnemoiSource(kind="anemoi", dataset=str(pair[0].path)))
    for kind in kinds:
        source = open_source(kind)
        again = pickle.loads(pickle.dumps(source))
        dates = source.contents.dates[:2]
        np.testing.assert_array_equal(again.read(dates), source.read(dates))
        assert again.stamp(dates) == source.stamp(dates) != ""


def test_a_file_section_keeps_its_keys() -> None:
    with pytest.raises(ValueError, match="levels: list the variables"):
        FileSource(kind="grib", paths=("a",), levels=(500,))
