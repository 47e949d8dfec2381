"""Forecasts and truths of others: the same numbers, whatever dimensions, variables, units and grids are called."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from forecast.core import grids, seeding
from forecast.core.errors import ForecastError
from forecast.verification import score as score_all
from forecast.verification.adapt import mapper, one_and_a_half
from forecast.verification.foreign import open_forecast, open_truth
from forecast.verification.naming import Names, hectopascal
from tests.verification.synthetic import HOUR

LAT, LON = np.linspace(80, -80, 9), np.arange(16) * 22.5
GRID = grids.latlon(LAT, LON)
STARTS = np.array(["2020-01-01", "2020-01-02"], "datetime64[ns]")
LEADS = (np.array([0, 6, 12, 24]) * HOUR).astype("timedelta64[ns]")
TIMES = np.arange(np.datetime64("2019-12-30", "ns"), np.datetime64("2020-01-05"), np.timedelta64(6, "h"))
score = partial(score_all, scores=("fair_crps", "rmse"), draws=0)


def field(*where: object) -> np.ndarray:
    return seeding.normal(seeding.key(9, "inputs", *map(str, where)), GRID.size).reshape(GRID.shape)


def truth() -> xr.Dataset:
    """z (time, level, lat, lon), 2t, tp of 6 hours, in ERA5's names and units."""
    z = np.stack([[5.4e4 + 300 * field("z", t), 1e4 + 100 * field("z8", t)] for t in TIMES])
    rain = np.stack([1e-3 * np.maximum(field("tp", t), 0) for t in TIMES])
    t2 = np.stack([280 + field("2t", t) for t in TIMES])
    dims = ("time", "latitude", "longitude")
    return xr.Dataset(
        {"geopotential": (("time", "level", *dims[1:]), z.astype("f4")), "2m_temperature": (dims, t2.astype("f4")),
         "total_precipitation_6hr": (dims, rain.astype("f4"))},
        {"time": TIMES, "level": [500, 850], "latitude": LAT, "longitude": LON},
    )  # fmt: skip


def forecast() -> xr.Dataset:
    """Three members (init_time, number, lead_time, ...), truth plus noise; tp accumulated since the start."""
    t, out = truth(), {}
    for name in ("geopotential", "2m_temperature"):
        parts = [[[t[name].sel(time=s + k).values + 0.5 * field(name, s, k, m) for k in LEADS] for m in range(3)]
                 for s in STARTS]  # fmt: skip
        out[name] = (("init_time", "number", "lead_time", *t[name].dims[1:]), np.array(parts, "f4"))
    rain = np.array([[[1e-3 * np.maximum(field("r", s, k, m), 0) for k in LEADS] for m in range(3)] for s in STARTS])
    rain[:, :, 0] = 0
    coords = {"init_time": STARTS, "number": [0, 1, 2], "lead_time": LEADS, "level": t.level, "latitude": LAT}
    out["tp"] = (("init_time", "number", "lead_time", "latitude", "longitude"), np.cumsum(rain, axis=2).astype("f4"))
    return xr.Dataset(out, coords | {"longitude": LON})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """truth.nc and plain.nc."""
    path = tmp_path_factory.mktemp("inputs")
    truth().to_netcdf(path / "truth.nc")
    forecast().to_netcdf(path / "plain.nc")
    return path


@pytest.fixture(scope="module")
def plain(folder: Path) -> xr.Dataset:
    names = Names(accumulation="start")
    return score({"a": folder / "plain.nc"}, folder / "truth.nc", folder / "s", names=names).metrics["a"]


def weatherbench(d: xr.Dataset) -> xr.Dataset:
    """`time` is the start, (longitude, latitude) at the end."""
    d = d.rename(init_time="time", lead_time="prediction_timedelta", tp="total_precipitation")
    return d.transpose("time", "number", "prediction_timedelta", "level", "longitude", "latitude")


def cmip(d: xr.Dataset) -> xr.Dataset:
    """Short names, levels in Pa, south to north, height in m, Celsius."""
    d = d.rename(geopotential="zg", tp="pr_total", init_time="reftime", lead_time="leadtime", number="realization",
                 latitude="lat", longitude="lon", level="plev")  # fmt: skip
    d = d.rename({"2m_temperature": "tas"}).isel(lat=slice(None, None, -1))
    d["zg"] = (d["zg"].astype("f8") / 9.80665).assign_attrs(units="m", standard_name="geopotential_height")
    d["tas"] = (d["tas"].astype("f8") - 273.15).assign_attrs(units="degC")
    return d.assign_coords(plev=("plev", d.plev.values * 100.0, {"units": "Pa"}))


def ecmwf(d: xr.Dataset) -> xr.Dataset:
    """As cfgrib gives it: time, step, number, isobaricInhPa, 0..360 from -180."""
    d = d.rename(geopotential="z", init_time="time", lead_time="step", level="isobaricInhPa")
    d = d.rename({"2m_temperature": "t2m"}).assign_coords(longitude=(d.longitude + 180) % 360 - 180)
    return d.sortby("longitude")


def mapped(d: xr.Dataset) -> xr.Dataset:
    """Names that nobody knows, lead times in hours."""
    d = d.rename(geopotential="phi", init_time="basis", lead_time="ahead", number="run", tp="wet")
    d = d.rename({"2m_temperature": "warmth"})
    hours = (d.ahead / np.timedelta64(1, "h")).astype(int).values
    return d.assign_coords(ahead=("ahead", hours, {"units": "hours"}))


WORDS = "init=basis, lead=ahead, member=run, phi=z, warmth=2t, wet=tp"


@pytest.mark.parametrize("kind", [weatherbench, cmip, ecmwf, mapped])
def test_other_conventions_give_the_same_scores(kind, folder: Path, plain: xr.Dataset) -> None:  # type: ignore[no-untyped-def]
    other = kind(forecast())
    path = folder / f"{kind.__name__}.nc"
    other.to_netcdf(path)
    names = Names.parse((WORDS if kind is mapped else "") + ", accumulation=start")
    variables = ("z_500", "z_850", "2t", *(() if kind is cmip else ("tp",)))
    found = score({"a": path}, folder / "truth.nc", folder / "s2", names=names, variables=variables).metrics["a"]
    for name in variables:
        for metric in ("fair_crps", "rmse"):
            want, got = (m[metric].sel(variable=name).values for m in (plain, found))
            assert np.allclose(got, want, rtol=1e-2 if kind is cmip else 1e-5, equal_nan=True), (name, metric)
    assert np.isfinite(found["rmse"].sel(variable="2t")).all()


def test_precipitation_since_the_start_is_matched_with_sums_of_six_hours(folder: Path, plain: xr.Dataset) -> None:
    """By hand at 12 h, global RMSE; 24 h has no lead 18 h before it and is left out."""
    t, f = truth(), forecast()
    six = (f["tp"].sel(lead_time=LEADS[2]) - f["tp"].sel(lead_time=LEADS[1])).mean("number").astype("f8")
    errors = [six.sel(init_time=s).values - t["total_precipitation_6hr"].sel(time=s + LEADS[2]).values for s in STARTS]
    weights = GRID.areas.reshape(GRID.shape) / GRID.areas.sum()
    expected = np.sqrt(np.mean([(weights * e**2).sum() for e in errors]))
    rmse = plain["rmse"].sel(variable="tp").isel(region=0)
    assert float(rmse.sel(lead_time=LEADS[2])) == pytest.approx(expected, rel=1e-6)
    assert np.isnan(rmse.sel(lead_time=LEADS[3]))


def test_sums_over_a_longer_period_can_be_asked_for(folder: Path) -> None:
    names = Names(accumulation="start")
    found = score({"a": folder / "plain.nc"}, folder / "truth.nc", folder / "s3", names=names, variables=("tp",),
                  accumulation={"tp": "24h"})  # fmt: skip
    assert np.isfinite(found.metrics["a"]["rmse"].sel(lead_time=LEADS[3])).all()
    t = truth()["total_precipitation_6hr"]
    day = [t.sel(time=slice(s + np.timedelta64(1, "h"), s + LEADS[3])).sum("time").values for s in STARTS]
    rain = forecast()["tp"].isel(lead_time=3).mean("number").values.astype("f8")
    weights = GRID.areas.reshape(GRID.shape) / GRID.areas.sum()
    expected = np.sqrt(np.mean([(weights * (r - d) ** 2).sum() for r, d in zip(rain, day, strict=True)]))
    got = found.metrics["a"]["rmse"].sel(lead_time=LEADS[3]).isel(variable=0, region=0)
    assert float(got) == pytest.approx(expected, rel=1e-6)


def test_other_grids_are_brought_to_the_truths_or_to_one_and_a_half_degrees(folder: Path) -> None:
    """A constant offset stays one; a smooth field on a finer grid is nearly that on the coarser one."""
    lat, lon = np.linspace(90, -90, 61), np.arange(120) * 3.0
    smooth = xr.DataArray(
        np.cos(np.radians(lat))[:, None] * np.sin(np.radians(lon)) + 280.0, {"latitude": lat, "longitude": lon},
        ("latitude", "longitude"),
    )  # fmt: skip
    coarse = smooth.interp(latitude=LAT, longitude=LON, kwargs={"fill_value": "extrapolate"})
    times = xr.DataArray(np.zeros(TIMES.size), {"time": TIMES}, ("time",))
    (times + coarse).astype("f4").to_dataset(name="t2m").to_netcdf(folder / "t_coarse.nc")
    runs = xr.DataArray(np.ones((2, 2, 4)), {"init_time": STARTS, "number": [0, 1], "lead_time": LEADS},
                        ("init_time", "number", "lead_time"))  # fmt: skip
    (runs + smooth).astype("f4").to_dataset(name="t2m").to_netcdf(folder / "f_fine.nc")
    for grid, points in (("truth", GRID.size), ("1.5", 121 * 240)):
        if grid == "1.5":  # a coarse truth cannot reach the poles, a finer one can
            (times + smooth).astype("f4").to_dataset(name="t2m").to_netcdf(folder / "t_coarse.nc")
        found = score({"a": folder / "f_fine.nc"}, folder / "t_coarse.nc", folder / "s4", grid=grid)
        assert found.summary["points"] == points
        assert found.metrics["a"]["rmse"].values == pytest.approx(np.ones((1, 3, 4 if points > 200 else 4)), abs=0.06)
    with pytest.raises(ForecastError, match="bring them to one grid"):
        score({"a": folder / "f_fine.nc"}, folder / "truth.nc", folder / "s5", grid="same", variables=("2t",))


def test_reordered_points_are_not_interpolated() -> None:
    turned = grids.latlon(LAT[::-1], LON)
    move = mapper(turned, GRID)
    assert move is not None and np.array_equal(move(turned.latitudes), GRID.latitudes)
    assert mapper(GRID, GRID) is None and one_and_a_half().shape == (121, 240)


def test_missing_members_and_leads_are_left_out_and_reported(folder: Path) -> None:
    f = forecast()[["2m_temperature"]]
    f["2m_temperature"][0, 1, 2] = np.nan  # first start, member 1, 12 h
    f.to_netcdf(folder / "holes.nc")
    found = score({"a": folder / "holes.nc"}, folder / "truth.nc", folder / "s6")
    starts = found.metrics["a"]["starts"].isel(variable=0, region=0)
    assert starts.values.tolist() == [2, 1, 2]
    assert found.summary["fields_left_out"]["a"] == 1
    assert np.isfinite(found.metrics["a"]["rmse"]).all()


def test_one_forecast_of_anemoi_with_valid_times_only(folder: Path) -> None:
    """(time, values) with latitudes and longitudes of points; the start stands in the file's attributes."""
    octahedral = grids.octahedral(8)
    times = STARTS[0] + LEADS
    values = np.full((4, octahedral.size), 281.0, "f4")
    coords = {
        "time": times,
        "latitude": ("values", octahedral.latitudes),
        "longitude": ("values", octahedral.longitudes),
    }
    data = xr.Dataset({"2t": (("time", "values"), values)}, coords, {"forecast_reference_time": "2020-01-01T00:00:00"})
    data.to_netcdf(folder / "anemoi.nc")
    opened = open_forecast(folder / "anemoi.nc")
    assert opened.starts.tolist() == STARTS[:1].astype("datetime64[s]").tolist() and len(opened.leads) == 4
    assert opened.grid.name == "O8" and opened.read("2t", 0, 2).shape == (1, octahedral.size)
    data.attrs = {}
    data["time"].encoding["units"] = "hours since 1900-01-01"
    data.to_netcdf(folder / "silent.nc")
    with pytest.raises(ForecastError, match="`time` alone does not say where forecasts start"):
        open_forecast(folder / "silent.nc")


@pytest.mark.real
def test_grib_ensemble(real_data: Path) -> None:
    opened = open_forecast(real_data / "ensembles" / "z500_ens.grib")
    fields = opened.read(opened.variables[0], 0, 0)
    assert fields.shape == (len(opened.members), opened.grid.size) and len(opened.members) > 1
    assert 4.5e4 < fields.mean() < 6.2e4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.rename(lead_time="whatever"), "no start and lead time among the dimensions"),
        (lambda d: d.rename({"2m_temperature": "x", "geopotential": "y", "tp": "x2"}), "no variable is recognised"),
        (lambda d: d * 100.0, "units differ by a factor of about 100"),
        (lambda d: d - 273.15, "degrees Celsius against K"),
        (lambda d: d.rename(latitude="why"), "no latitude or longitude"),
        (lambda d: d.assign_coords(lead_time=[0, 6, 12, 24]), "plain numbers"),
        (lambda d: d.assign({n: d[n].assign_attrs(units="hPa") for n in d}), "cannot be converted"),
        (lambda d: d.assign_coords(init_time=d.init_time + np.timedelta64(900, "D")), "no start can be scored"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_understood(change, message: str, folder: Path) -> None:  # type: ignore[no-untyped-def]
    path = folder / "bad.nc"
    path.unlink(missing_ok=True)
    change(forecast()).to_netcdf(path)
    with pytest.raises(ForecastError, match=message):
        score({"a": path}, folder / "truth.nc", folder / "s7", names=Names(accumulation="start"))


def test_words_of_a_mapping() -> None:
    assert hectopascal(xr.DataArray([50000.0, 85000.0], dims="p")) == [500, 850]
    with pytest.raises(ForecastError, match="is no pair"):
        Names.parse("member")
    with pytest.raises(ForecastError, match="it is a forecast, not the truth"):
        open_truth(_written())


def _written() -> Path:
    import tempfile

    path = Path(tempfile.mkdtemp()) / "f.nc"
    forecast().to_netcdf(path)
    return path
