"""GRIB exports as eccodes, its own tools and cfgrib read them: the fields within the stated error, and every key."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cfgrib
import eccodes
import eccodeslib
import numpy as np
import pytest

from forecast.core import grids
from forecast.core.archive_sections import FileSource
from forecast.core.errors import ForecastError
from forecast.core.forecasts import Forecasts
from forecast.core.grids import Grid
from forecast.data.sources.grib import GribSource
from forecast.outputs import products
from forecast.outputs.export import export
from forecast.outputs.selection import select
from tests import ensembles


def stored(folder: Path, *args: Any, changes: dict[str, Any] | None = None, **kwargs: Any) -> Forecasts:
    return Forecasts.open(ensembles.write(folder / "f.zarr", ensembles.layout(*args, **kwargs), changes))


def messages(path: Path, *keys: str) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """(keys, values with NaN for missing) of every message."""
    with path.open("rb") as file:
        while (handle := eccodes.codes_grib_new_from_file(file)) is not None:
            eccodes.codes_set(handle, "missingValue", -1e30)
            values = eccodes.codes_get_values(handle)
            found = {k: eccodes.codes_get(handle, k) for k in keys if eccodes.codes_is_defined(handle, k)}
            yield found, np.where(values == -1e30, np.nan, values)
            eccodes.codes_release(handle)


def test_members_come_back_within_the_stated_error(tmp_path: Path) -> None:
    forecasts = stored(tmp_path, grids.gaussian(8))
    notes = export(select(forecasts), tmp_path / "a.grib2", packing="ccsds", bits=14)
    bounds = {n.split(":")[0]: float(n.rsplit(" ", 1)[1]) for n in notes if "packing error" in n}
    assert "tp: 10 fields left out, whose accumulation begins before the forecast" in notes
    keys = ("shortName", "level", "perturbationNumber", "numberOfForecastsInEnsemble", "typeOfEnsembleForecast",
            "dataType", "dataDate", "dataTime", "endStep", "validityDate", "gridType", "packingType")  # fmt: skip
    found = list(messages(tmp_path / "a.grib2", *keys))
    assert len(found) == 2 * 5 * (4 * 7 - 1)
    starts = {20200228: 0, 20201231: 1}
    names = {"z": "z_500", "t": "t_850"}
    for about, values in found:
        name = names.get(about["shortName"], about["shortName"])
        field = ensembles.states(forecasts, starts[about["dataDate"]], about["endStep"] // 6)[name]
        factor = 1000.0 if name == "tp" else 1.0
        error = np.abs(values - factor * field[about["perturbationNumber"]]).max()
        assert error <= bounds[name] * 1.05, name
        assert about["numberOfForecastsInEnsemble"] == 5 and about["typeOfEnsembleForecast"] == 3
        assert (about["dataType"], about["gridType"], about["packingType"]) == ("pf", "regular_gg", "grid_ccsds")
    assert {about["validityDate"] for about, _ in found} == {20200228, 20201231, 20210101}


def test_levels_parameters_and_accumulations(tmp_path: Path) -> None:
    forecasts = stored(tmp_path, grids.gaussian(8), (*ensembles.NAMES, "z", "tcc", "100u"), members=1, batch=1, leads=3)
    export(select(forecasts, starts=["2020-12-31T12"]), tmp_path / "a.grib2")
    keys = ("paramId", "shortName", "typeOfLevel", "level", "stepRange", "stepType", "units")
    found = {tuple(about.values()) for about, _ in messages(tmp_path / "a.grib2", *keys) if about["stepRange"] != "0"}
    later = {row for row in found if row[4] in ("12", "6-12")}
    assert later == {
        (129, "z", "isobaricInhPa", 500, "12", "instant", "m**2 s**-2"),
        (129, "z", "surface", 0, "12", "instant", "m**2 s**-2"),
        (130, "t", "isobaricInhPa", 850, "12", "instant", "K"),
        (167, "2t", "heightAboveGround", 2, "12", "instant", "K"),
        (165, "10u", "heightAboveGround", 10, "12", "instant", "m s**-1"),
        (131, "u", "heightAboveGround", 100, "12", "instant", "m s**-1"),
        (151, "msl", "meanSea", 0, "12", "instant", "Pa"),
        (172, "lsm", "surface", 0, "12", "instant", "(0 - 1)"),
        (228164, "tcc", "entireAtmosphere", 0, "12", "instant", "%"),
        (228228, "tp", "surface", 0, "6-12", "accum", "kg m**-2"),
    }
    ends = ("dayOfEndOfOverallTimeInterval", "yearOfEndOfOverallTimeInterval", "hourOfEndOfOverallTimeInterval")
    rain = [
        a for a, _ in messages(tmp_path / "a.grib2", "shortName", "lengthOfTimeRange", *ends) if a["shortName"] == "tp"
    ]
    assert [tuple(a.values())[1:] for a in rain] == [(6, 31, 2020, 18), (6, 1, 2021, 0)]


def test_under_the_name_of_ecmwf_parameters_are_those_of_era5(tmp_path: Path) -> None:
    """mx2t over six hours is mx2t6."""
    forecasts = stored(tmp_path, grids.gaussian(8), ("tp", "10fg", "mx2t", "stl1"), members=1, batch=1, leads=2)
    with pytest.raises(ForecastError, match="10fg has a GRIB code of ECMWF only: set --grib centre=ecmf, or leave"):
        export(select(forecasts, ["10fg"]), tmp_path / "a.grib2")
    export(select(forecasts, leads=["6h"]), tmp_path / "a.grib2", keys={"centre": "ecmf"})
    keys = ("paramId", "shortName", "stepType", "stepRange", "centre")
    found = {tuple(about.values()) for about, _ in messages(tmp_path / "a.grib2", *keys)}
    assert found == {(228, "tp", "accum", "0-6", "ecmf"), (49, "10fg", "max", "0-6", "ecmf"),
                     (121, "mx2t6", "max", "0-6", "ecmf"), (139, "stl1", "instant", "6", "ecmf")}  # fmt: skip


def test_a_geopotential_of_9999_stays_and_missing_values_are_a_bitmap(tmp_path: Path) -> None:
    """9999 is eccodes' mark for missing values; anemoi-inference#526."""
    grid = grids.gaussian(8)
    fields = np.random.default_rng(1).normal(9999, 40, (2, 2, 3, grid.size)).astype(np.float32)
    fields[..., 17] = 9999.0
    sst = fields / 34.0
    sst[:, :, :, :40] = np.nan
    forecasts = stored(tmp_path, grid, ("z_700", "sst"), 3, 3, 2, changes={"z_700": fields, "sst": sst})
    export(select(forecasts), tmp_path / "a.grib2", packing="ieee")
    for about, values in messages(tmp_path / "a.grib2", "shortName", "number", "dataDate", "step", "bitmapPresent"):
        at = (int(about["dataDate"] > 20201200), about["step"] // 6, about["number"])
        assert about["bitmapPresent"] == (about["shortName"] == "sst")
        np.testing.assert_array_equal(values, {"z": fields, "sst": sst}[about["shortName"]][at])
    read = GribSource(FileSource(kind="grib", paths=(str(tmp_path / "a.grib2"),), variables=("z_700",)))
    assert (read.read(read.contents.dates)[:, 0, :, 17] == 9999.0).all()


def test_the_control_is_called_one(tmp_path: Path) -> None:
    about = {"perturbation": {"kind": "gaussian", "control": True}}
    forecasts = stored(tmp_path, grids.gaussian(8), ("2t",), 3, 3, 1, **about)
    export(select(forecasts, starts=["2020-02-28T00"]), tmp_path / "a.grib2")
    found = [
        tuple(a.values()) for a, _ in messages(tmp_path / "a.grib2", "number", "dataType", "typeOfEnsembleForecast")
    ]
    assert found == [(0, "cf", 0), (1, "pf", 3), (2, "pf", 3)]


GRIDS = {
    "regular_gg": grids.gaussian(8),
    "regular_ll": grids.latlon(np.arange(90.0, -91, -30), np.arange(0.0, 360, 30)),
    "regular_ll south first, across Greenwich": grids.latlon(np.arange(-20.0, 21, 5), np.arange(340.0, 381, 10) % 360),
    "reduced_gg O8": grids.octahedral(8),
}


@pytest.mark.parametrize("kind", GRIDS)
def test_grids(tmp_path: Path, kind: str) -> None:
    check_grid(tmp_path, GRIDS[kind], kind.split()[0])


def test_reduced_gaussian_grid_n32(tmp_path: Path) -> None:
    sample = eccodes.codes_grib_new_from_samples("reduced_gg_pl_32_grib2")
    lat, lon = (eccodes.codes_get_array(sample, key) for key in ("latitudes", "longitudes"))
    check_grid(tmp_path, grids.from_points(lat, lon), "reduced_gg")
    (about, _), *_ = messages(tmp_path / "a.grib2", "gridName", "N", "isOctahedral")
    assert (about["gridName"], about["N"]) == ("N32", 32)


def check_grid(tmp_path: Path, grid: Grid, kind: str) -> None:
    forecasts = stored(tmp_path, grid, ("2t",), 1, 1, 1)
    export(select(forecasts, starts=["2020-02-28T00"]), tmp_path / "a.grib2", packing="ieee")
    with (tmp_path / "a.grib2").open("rb") as file:
        handle = eccodes.codes_grib_new_from_file(file)
    assert eccodes.codes_get(handle, "gridType") == kind
    np.testing.assert_allclose(eccodes.codes_get_array(handle, "latitudes"), grid.latitudes, atol=2e-3)
    longitudes = eccodes.codes_get_array(handle, "longitudes") % 360
    np.testing.assert_allclose((longitudes - grid.longitudes + 180) % 360, 180, atol=1e-3)
    np.testing.assert_array_equal(eccodes.codes_get_values(handle), ensembles.states(forecasts, 0, 0)["2t"][0])


def test_regions(tmp_path: Path) -> None:
    forecasts = stored(tmp_path, members=1, batch=1, leads=1)
    area = (60.0, -25.0, 20.0, 25.0)
    chosen = select(forecasts, ["2t"], area=area)
    export(chosen, tmp_path / "a.grib2", packing="ieee")
    data = cfgrib.open_dataset(tmp_path / "a.grib2", indexpath="")
    np.testing.assert_allclose(data["latitude"], chosen.grid.rows, atol=1e-3)
    np.testing.assert_allclose(data["longitude"] % 360, chosen.grid.columns, atol=1e-3)
    np.testing.assert_array_equal(data["t2m"].isel(time=1).values.ravel(), chosen.read("2t", 1, 0)[0])


@pytest.mark.parametrize(
    ("grid", "area", "reason"),
    [
        (grids.octahedral(8), (40.0, 0.0, -40.0, 50.0), "GRIB cannot hold a part of the grid O8"),
        (grids.from_points(np.array([1.0, 2, 3.5, 7, 9]), np.array([0.0, 5, 2, 9, 4])), None, "the grid points-5"),
        (grids.latlon(np.array([0.0, 1, 3]), np.arange(4.0)), None, "its latitudes are not evenly spaced"),
    ],
)
def test_grids_that_grib_cannot_hold(tmp_path: Path, grid: Grid, area: Any, reason: str) -> None:
    forecasts = stored(tmp_path, grid, ("2t",), 1, 1, 1)
    with pytest.raises(ForecastError, match=reason):
        export(select(forecasts, area=area), tmp_path / "a.grib2")
    assert not list(tmp_path.glob("*grib2*")) and not list(tmp_path.glob(".*"))


def test_products(tmp_path: Path) -> None:
    forecasts = stored(tmp_path, grids.gaussian(8), ("2t", "tp"), leads=2)
    made = products.parse(["mean", "spread", "min", "max", "q10", "q90", "tp>0.001", "2t<283.15"], ("2t", "tp"), 5)
    export(select(forecasts, leads=["6h"]), tmp_path / "a.grib2", made, packing="ieee")
    rain, warm = (ensembles.states(forecasts, 0, 1)[name].astype(float) for name in ("tp", "2t"))
    keys = ("shortName", "productDefinitionTemplateNumber", "derivedForecast", "percentileValue", "probabilityType",
            "scaledValueOfLowerLimit", "scaleFactorOfUpperLimit", "scaledValueOfUpperLimit", "dataDate",
            "numberOfForecastsInEnsemble", "dataType", "units")  # fmt: skip
    found = {}
    for about, values in messages(tmp_path / "a.grib2", *keys):
        if about.pop("dataDate") == 20200228:
            kind = about.get("derivedForecast", about.get("percentileValue", about.get("probabilityType")))
            found[about["shortName"], about["productDefinitionTemplateNumber"], kind] = (about, values)
    assert set(found) == {("2t", 2, k) for k in (0, 4, 8, 9)} | {("tp", 12, k) for k in (0, 4, 8, 9)} | {
        ("2t", 6, 10), ("2t", 6, 90), ("tp", 10, 10), ("tp", 10, 90), ("2t", 5, 4), ("tpg1", 9, 3)
    }  # fmt: skip
    np.testing.assert_allclose(found["tp", 12, 0][1], 1e3 * rain.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found["2t", 2, 4][1], warm.std(0, ddof=1), rtol=1e-5)
    np.testing.assert_allclose(found["2t", 6, 90][1], np.quantile(warm, 0.9, 0), rtol=1e-5)
    about, values = found["tpg1", 9, 3]  # ECMWF's own parameter for more than 1 mm
    np.testing.assert_allclose(values, 100 * (rain > 1e-3).mean(0), rtol=1e-5)
    assert (about["scaledValueOfLowerLimit"], about["units"], about["dataType"]) == (1, "%", "ep")
    about, values = found["2t", 5, 4]
    np.testing.assert_allclose(values, 100 * (warm < 283.15).mean(0), rtol=1e-5)
    assert about["scaledValueOfUpperLimit"] / 10 ** about["scaleFactorOfUpperLimit"] == 283.15
    assert found["2t", 2, 0][0]["numberOfForecastsInEnsemble"] == 5


def test_cfgrib_reads_the_store_back(tmp_path: Path) -> None:
    forecasts = stored(tmp_path)
    export(select(forecasts, ["z_500", "tp"]), tmp_path / "a.grib2", bits=20)
    data = cfgrib.open_dataset(tmp_path / "a.grib2", indexpath="", filter_by_keys={"shortName": "z"})
    field = data["z"].sel(number=3).isel(time=1, step=2)
    truth = ensembles.states(forecasts, 1, 2)["z_500"][3].reshape(16, 32)
    np.testing.assert_allclose(field, truth, atol=0.01)
    assert field["valid_time"] == np.datetime64("2021-01-01T00") and field["isobaricInhPa"] == 500
    rain = cfgrib.open_dataset(tmp_path / "a.grib2", indexpath="", filter_by_keys={"shortName": "tp"})
    assert rain["tp"].attrs["GRIB_stepType"] == "accum" and rain["tp"].attrs["units"] == "kg m**-2"
    assert list(rain["step"].values) == [np.timedelta64(h, "h") for h in (6, 12, 18)]


def test_eccodes_own_tools(tmp_path: Path) -> None:
    forecasts = stored(tmp_path, grids.gaussian(8), ("msl",), 3, 2, 2)
    for packing in ("simple", "ieee"):
        export(select(forecasts), tmp_path / f"{packing}.grib2", packing=packing, bits=24)
    tools = Path(eccodeslib.__file__).parent / "bin"
    if not (tools / "grib_ls").exists():
        pytest.skip("the tools are not in this build of eccodes")
    ask = [str(tools / "grib_ls"), "-p", "number,shortName,step,average", "-w", "step=6,dataDate=20200228"]
    listed = subprocess.run([*ask, str(tmp_path / "simple.grib2")], capture_output=True, text=True, check=True).stdout
    truth = ensembles.states(forecasts, 0, 1)["msl"].astype(float).mean(1)
    rows = [line.split() for line in listed.splitlines() if " msl " in line]
    assert [r[:3] for r in rows] == [[str(k), "msl", "6"] for k in range(3)]
    np.testing.assert_allclose([float(r[3]) for r in rows], truth, atol=1)
    both = [str(tmp_path / f"{packing}.grib2") for packing in ("simple", "ieee")]
    compare = [str(tools / "grib_compare"), "-c", "data:n", "-A", "0.02", *both]
    assert subprocess.run(compare, capture_output=True, check=False).returncode == 0


def test_what_has_no_parameter_or_cannot_be_said(tmp_path: Path) -> None:
    forecasts = stored(tmp_path, grids.gaussian(8), ("snowflakes", "2t"), 1, 1, 1)
    everything = select(forecasts)
    for name, options, reason in (
        ("a.grib2", {}, "snowflakes has no GRIB paramId: leave it out .--variables., or export NetCDF"),
        ("a.txt", {}, "a.txt: the suffix says the format; choose one of .nc"),
    ):
        with pytest.raises(ForecastError, match=reason):
            export(everything, tmp_path / name, **options)
    temperature = select(forecasts, ["2t"])
    for options, reason in (
        ({"products": products.parse(["q2.5"], ("2t",), 1)}, "q2.5: GRIB takes quantiles in whole percent"),
        ({"packing": "zip"}, "packing `zip`: choose one of simple, ccsds, ieee"),
        ({"keys": {"nonsense": "1"}}, "--grib nonsense=1: Key/value not found"),
    ):
        with pytest.raises(ForecastError, match=reason):
            export(temperature, tmp_path / "a.grib2", **options)
    assert [p.name for p in tmp_path.iterdir()] == ["f.zarr"]
