"""Every real file: its store holds what cfgrib and xarray read of it, or it is refused with a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from forecast.core import variables
from forecast.core.errors import ForecastError
from forecast.core.store import Store
from forecast.data.sources import open_source
from tests.data import archives

pytestmark = pytest.mark.real

GRIB: dict[str, dict[str, Any]] = {  # file -> settings
    "ensembles/ens_storm.grib": {"variables": ("10fg3",)},
    "ensembles/era5-levels-members.grib": {},
    "ensembles/fc_storm.grib": {"variables": ("z_850",)},
    "ensembles/wgust_ens.grib": {},
    "ensembles/z500_ens.grib": {},
    "grib/O32_global.grib1": {},
    "grib/aifs-single-t500.grib2": {},
    "grib/cfgrib/era5-single-level-scalar-time.grib": {},
    "grib/cfgrib/fields_with_missing_values.grib": {"allow_nan": True},
    "grib/cfgrib/hpa_and_pa.grib": {"variables": ("t_1",)},
    "grib/cfgrib/lambert_grid.grib": {},
    "grib/cfgrib/multi_param_on_multi_dims.grib": {},
    "grib/cfgrib/reduced_gg.grib": {},
    "grib/cfgrib/regular_gg_pl.grib": {},
    "grib/cfgrib/regular_gg_sfc.grib": {},
    "grib/cfgrib/regular_ll_msl.grib": {},
    "grib/cfgrib/regular_ll_sfc.grib": {},
    "grib/cfgrib/scanning_mode_64.grib": {},
    "grib/cfgrib/soil-surface-level-mix.grib": {},
    "grib/cfgrib/step_60m.grib": {"allow_nan": True},
    "grib/cfgrib/t_on_different_level_types.grib": {"variables": ("t_100",)},
    "grib/cfgrib/uv_on_different_levels.grib": {},
    "grib/pl_regular_ll.grib": {},
    "grib/t2_for_UC-04.grib": {},
    "grib/t2m_grib.grib": {},
    "grib/t_n48.grib": {},
    "grib/test4.grib": {},
    "grib/z_for_UC-04.grib": {},
}
NETCDF: dict[str, tuple[dict[str, Any], dict[str, tuple[str, dict[str, Any]]]]] = {  # file -> settings, name -> where
    "ensembles/cera20c_r_3members_1987.nc": ({}, {f"r_{p}": ("r", {"level": p}) for p in (850, 1000)}),
    "netcdf/cds2020_d2m_u10_v10_hourly.nc": ({}, {"2d": ("d2m", {}), "10u": ("u10", {}), "10v": ("v10", {})}),
    "netcdf/era5_tl31_19590102T00.nc": (
        {"allow_nan": True, "frequency": "6h"},
        {"sst": ("sea_surface_temperature", {}), "ci": ("sea_ice_cover", {}),
         **{f"{short}_{p}": (name, {"level": p}) for p in (1, 70, 500, 1000) for short, name in
            (("u", "u_component_of_wind"), ("z", "geopotential"), ("q", "specific_humidity"),
             ("clwc", "specific_cloud_liquid_water_content"))}},
    ),
    "netcdf/erainterim_z500_z1000_global_0p75_4steps.nc": ({}, {f"z_{p}": ("z", {"level": p}) for p in (500, 1000)}),
    "series/erainterim_weurope_2p5deg_daily12z_2000-2010.nc": (
        {}, {"msl": ("msl", {}), "z_500": ("z500", {}), "t_850": ("t850", {})}),
    "series/gfs_an_64x32_6h_20210214-20210512.nc": (
        {"variables": ("t_850", "z_500")}, {"z_500": ("z500", {}), "t_850": ("t850", {})}),
    "series/ncepR1_slp_natl_2p5deg_daily_2001-2010.nc": ({}, {"msl": ("slp", {})}),
}  # fmt: skip
REFUSED = {
    "ensembles/GMAO-GEOS-V2p1.RMM1.nc": "has no latitudes",
    "ensembles/RMM1.observed.interannual.1974-06.2017-07.nc": "has no latitudes",
    "ensembles/ens_storm.grib": r"z_850 is missing at 2013-10-28T00 for member 0 \(102 of 153 fields\)",
    "ensembles/fc_storm.grib": r"z_850 is missing at 2013-10-28T00 \(2 of 3 fields\)",
    "grib/cfgrib/era5-levels-corrupted.grib": "message at byte 0 is corrupt or cut short",
    "grib/cfgrib/forecast_monthly_ukmo.grib": r"2t at 2016-03-01T00 \(member 0\) occurs twice",
    "grib/cfgrib/hpa_and_pa.grib": "holds t at isobaricInPa 10: a store takes pressure levels in whole hPa",
    "grib/cfgrib/regular_gg_ml.grib": "holds t at hybrid 1: a store takes pressure levels",
    "grib/cfgrib/regular_gg_ml_g2.grib": "holds t at hybrid 1: a store takes pressure levels",
    "grib/cfgrib/spherical_harmonics.grib": "holds spherical harmonics",
    "grib/cfgrib/t_on_different_level_types.grib": "holds t at hybrid 100",
    "series/NCEP_R1_lthe_hgt_500hPa.nc": "`time` holds no dates; units such as",
    "static/constants_5.625deg.nc": "variable `lat2d` has no known ERA5 name",
}


def by_date(file: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings, with a frequency where the file has a single date."""
    if "frequency" in settings:
        return settings
    section = {k: v for k, v in settings.items() if k != "allow_nan"}
    kind = "netcdf" if file.suffix == ".nc" else "grib"
    contents = open_source(archives.section(file, kind=kind, **section)).contents
    return settings | ({"frequency": "6h"} if len(contents.dates) == 1 else {})


SLOW = {"grib/pl_regular_ll.grib", "grib/cfgrib/step_60m.grib"}  # cfgrib takes seconds to arrange them


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in GRIB])
def test_grib_equals_cfgrib(name: str, real_data: Path, tmp_path: Path) -> None:
    cfgrib = pytest.importorskip("cfgrib")
    file = real_data / name
    store = archives.store(
        tmp_path, file, kind="grib", dates_per_shard=64, implausible="refuse", **by_date(file, GRIB[name])
    )
    members = store.attrs["source"]["members"]
    compared = 0
    for dataset in cfgrib.open_datasets(str(file), backend_kwargs={"indexpath": ""}):
        for field in dataset.data_vars.values():
            compared += compare(store, field, members)
    assert compared == (~store.missing).sum() * len(store.variables) * len(members)


def compare(store: Store, data: xr.DataArray, members: list[int]) -> int:
    """Compare all fields of a cfgrib variable with the store; how many there were."""
    leading = [d for d in ("number", "time", "step", "isobaricInhPa") if d in data.dims]
    stacked = data.load().expand_dims("one").stack(field=["one", *leading])
    count = 0
    for k in range(stacked.sizes["field"]):
        field = stacked.isel(field=k)
        short = variables.recognise(field.attrs["GRIB_shortName"])
        name = short[0].short if short else field.attrs["GRIB_shortName"]
        if field.attrs["GRIB_typeOfLevel"] == "isobaricInhPa":
            name = variables.join(name, int(field["isobaricInhPa"]))
        if name not in store.variables or field.attrs["GRIB_typeOfLevel"] in ("hybrid", "isobaricInPa"):
            continue
        time = store.index(field["valid_time"].values.astype("datetime64[s]"))
        member = members.index(int(field["number"])) if "number" in field.coords else 0
        points = [d for d in field.dims if d in ("latitude", "longitude", "values", "y", "x")]
        np.testing.assert_array_equal(store.read(time, [name], member)[0, 0], field.transpose(*points).values.ravel())
        table = variables.find(name)
        assert store.units[name] == (table.units if table else field.attrs["GRIB_units"])
        latitudes, longitudes = xr.broadcast(field["latitude"], field["longitude"])
        np.testing.assert_allclose(store.latitudes, latitudes.values.ravel(), rtol=0, atol=1e-9)
        np.testing.assert_allclose(store.longitudes, longitudes.values.ravel() % 360, rtol=0, atol=1e-9)
        count += 1
    return count


@pytest.mark.parametrize("name", NETCDF)
def test_netcdf_equals_xarray(name: str, real_data: Path, tmp_path: Path) -> None:
    file, (settings, where) = real_data / name, NETCDF[name]
    store = archives.store(
        tmp_path,
        file,
        dates_per_shard=500,
        implausible="refuse",
        **{"variables": tuple(where)} | by_date(file, settings),
    )
    dataset = xr.open_dataset(file)
    times = np.flatnonzero(~store.missing)
    states = [store.read(times, member=m) for m in range(store.ensemble)]
    for short, (variable, level) in where.items():
        data = dataset[variable].sel(level)
        data = data if "time" in data.dims else data.expand_dims(time=[dataset["time"].values])
        lead = ("time", "number") if "number" in data.dims else ("time",)
        data = data.transpose(*lead, "latitude", "longitude")
        present = data.isnull().sum(lead[1:] + ("latitude", "longitude")) < data[0].size
        data = data[present.values]
        np.testing.assert_array_equal(store.dates[times], data["time"].values.astype("datetime64[s]"))
        for member in range(store.ensemble):
            expected = data[:, member] if store.ensemble > 1 else data
            expected = expected.values.astype(np.float32).reshape(len(times), -1)
            np.testing.assert_array_equal(states[member][:, store.position([short])[0]], expected)
        table = variables.lookup(short)
        assert store.units[short] == table.units
    axes = (dataset[name].values.astype(np.float64) for name in ("latitude", "longitude"))
    latitudes, longitudes = np.meshgrid(*axes, indexing="ij")
    np.testing.assert_array_equal(store.latitudes, latitudes.ravel())
    np.testing.assert_array_equal(store.longitudes, longitudes.ravel() % 360)


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_store_cannot_hold_is_refused(name: str, real_data: Path, tmp_path: Path) -> None:
    file = real_data / name
    with pytest.raises(ForecastError, match=REFUSED[name]) as refused:
        archives.store(tmp_path, file, kind="netcdf" if file.suffix == ".nc" else "grib")
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_every_file_is_named_here(real_data: Path) -> None:
    suffixes = (".nc", ".grib", ".grib1", ".grib2")
    files = {str(f.relative_to(real_data)) for f in real_data.rglob("*") if f.suffix in suffixes}
    assert files == GRIB.keys() | NETCDF.keys() | REFUSED.keys()


def test_missing_values_are_refused_unless_allowed(real_data: Path, tmp_path: Path) -> None:
    file = real_data / "grib/cfgrib/fields_with_missing_values.grib"
    with pytest.raises(ForecastError, match="2t at 2017-10-18T00: 10808 of 16380 values are missing"):
        archives.store(tmp_path, file, kind="grib")
    assert not list(tmp_path.iterdir())


def test_gaps_of_the_gfs_series_are_listed(real_data: Path, tmp_path: Path) -> None:
    file = real_data / "series/gfs_an_64x32_6h_20210214-20210512.nc"
    store = archives.store(tmp_path, file, variables=("z_500", "t_850"), dates_per_shard=64)
    times = xr.open_dataset(file)["time"].values.astype("datetime64[s]")
    empty = np.datetime64("2021-03-29T18", "s")  # there, but NaN
    assert empty in times
    assert set(store.dates[~store.missing]) == set(times) - {empty}


def test_constant_fields_from_another_file_and_order_join(real_data: Path, tmp_path: Path) -> None:
    series = real_data / "series/gfs_an_64x32_6h_20210214-20210512.nc"
    ground = real_data / "static/constants_5.625deg.nc"
    store = archives.store(tmp_path, series, ground, variables=("z_500", "t_850", "z", "lsm"), dates_per_shard=64)
    assert store.constant_fields == ("z", "lsm")
    south_to_north = xr.open_dataset(ground)
    height, land = (south_to_north[n].values[::-1].ravel() for n in ("orography", "lsm"))
    states = store.read(slice(0, 2), ["z", "lsm"])
    np.testing.assert_allclose(states[1, 0], height.astype(np.float64) * 9.80665, rtol=1e-7)
    np.testing.assert_array_equal(states[0, 1], land)
