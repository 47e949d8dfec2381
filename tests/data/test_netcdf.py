"""NetCDF files of every kind that the CDS and others deliver, written here and read back, or refused."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from forecast.core.errors import ForecastError
from forecast.data.sources import open_source
from tests.data.archives import DATES, LATITUDES, LONGITUDES, field, message, netcdf, section, store

TIMES = DATES.astype("datetime64[ns]")
PLACE = {"latitude": LATITUDES, "longitude": LONGITUDES}


def states(*shape: int, offset: float = 280.0) -> np.ndarray:
    """Values (..., 3, 4) float32."""
    return (offset + np.random.default_rng(shape).standard_normal((*shape, 3, 4))).astype(np.float32)


def flat(values: np.ndarray) -> np.ndarray:
    return np.asarray(values).reshape(*values.shape[:-2], -1)


def refused(tmp_path: Path, file: Path, reason: str, **settings: object) -> None:
    """The file is refused in one line, and no store is left behind."""
    with pytest.raises(ForecastError, match=reason) as error:
        store(tmp_path / "run", file, **settings)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "run").glob("*.zarr"))


def test_a_plain_file(tmp_path: Path) -> None:
    written = netcdf(tmp_path / "a.nc")
    found = store(tmp_path, tmp_path / "a.nc")
    assert found.variables == ("2t", "msl") and found.units == {"2t": "K", "msl": "Pa"}
    np.testing.assert_array_equal(found.dates, DATES)
    assert found.frequency == np.timedelta64(6, "h") and not found.missing.any()
    np.testing.assert_array_equal(found.read(slice(None), ["2t"])[:, 0], flat(written["t2m"].values))
    np.testing.assert_array_equal(found.read(slice(None), ["msl"])[:, 0], flat(written["msl"].values))
    np.testing.assert_array_equal(found.grid.columns, [355.0, 357.5, 0.0, 2.5])


def test_the_new_cds_layout(tmp_path: Path) -> None:
    """valid_time, pressure_level in hPa, number, and expver as text along the time."""
    values = states(10, 2, 3)
    expver = ("valid_time", np.array(["0001"] * 8 + ["0005"] * 2))
    xr.Dataset(
        {"z": (("valid_time", "number", "pressure_level", "latitude", "longitude"), values, {"units": "m**2 s**-2"})},
        {"valid_time": TIMES, "number": [0, 1], "expver": expver,
         "pressure_level": ("pressure_level", [850.0, 500.0, 200.0], {"units": "hPa"}), **PLACE},
    ).to_netcdf(tmp_path / "a.nc")  # fmt: skip
    found = store(tmp_path, tmp_path / "a.nc")
    assert found.variables == ("z_200", "z_500", "z_850") and found.ensemble == 2
    for k, level in enumerate((850, 500, 200)):
        for member in range(2):
            read = found.read(slice(None), [f"z_{level}"], member)[:, 0]
            np.testing.assert_array_equal(read, flat(values[:, member, k]))


def test_two_halves_of_expver_are_put_together(tmp_path: Path) -> None:
    values = states(10)
    halves = np.full((10, 2, 3, 4), np.nan, np.float32)
    halves[:7, 0], halves[7:, 1] = values[:7], values[7:]
    xr.Dataset(
        {"t2m": (("time", "expver", "latitude", "longitude"), halves, {"units": "K"})},
        {"time": TIMES, "expver": [1, 5], **PLACE},
    ).to_netcdf(tmp_path / "a.nc")
    np.testing.assert_array_equal(store(tmp_path, tmp_path / "a.nc").read(slice(None))[:, 0], flat(values))


def test_packed_integers(tmp_path: Path) -> None:
    packing = {"dtype": "int16", "scale_factor": 0.0123, "add_offset": 280.0, "_FillValue": -32767}
    netcdf(tmp_path / "a.nc", units={"t2m": "K"}, encoding={"t2m": packing})
    expected = xr.open_dataset(tmp_path / "a.nc")["t2m"].values.astype(np.float32)
    np.testing.assert_array_equal(store(tmp_path, tmp_path / "a.nc").read(slice(None))[:, 0], flat(expected))


def test_levels_in_pascal_and_other_orders_of_axes(tmp_path: Path) -> None:
    values = states(10, 2)
    data = xr.DataArray(values, dims=("time", "plev", "lat", "lon"), attrs={"units": "m/s"})
    coordinates = {"time": TIMES, "plev": [50000.0, 85000.0], "lat": LATITUDES, "lon": LONGITUDES}
    xr.Dataset({"ua": data.transpose("lon", "plev", "lat", "time")}, coordinates).to_netcdf(tmp_path / "a.nc")
    found = store(tmp_path, tmp_path / "a.nc")
    assert found.variables == ("u_500", "u_850") and found.units["u_500"] == "m s**-1"
    np.testing.assert_array_equal(found.read(slice(None)), flat(values))


def test_units_are_converted(tmp_path: Path) -> None:
    written = netcdf(tmp_path / "a.nc", units={"msl": "hPa", "t2m": "degC", "z500": "gpm"}).astype(np.float64)
    found = store(tmp_path, tmp_path / "a.nc", variables=("msl", "2t", "z_500"))
    read = found.read(slice(None))
    expected = (written["msl"] * 100.0, written["t2m"] + 273.15, written["z500"] * 9.80665)
    for k, values in enumerate(expected):
        np.testing.assert_array_equal(read[:, k], flat(values.values.astype(np.float32)))


def test_units_that_are_missing_or_wrong(tmp_path: Path) -> None:
    netcdf(tmp_path / "a.nc", units={"t2m": ""})
    refused(tmp_path, tmp_path / "a.nc", r"variable `t2m` states no units: give them in source.units.2t")
    assert store(tmp_path / "ok", tmp_path / "a.nc", units={"2t": "K"}).units == {"2t": "K"}
    netcdf(tmp_path / "b.nc", units={"t2m": "Pa"})
    refused(tmp_path, tmp_path / "b.nc", "2t is in `Pa`, which cannot be converted to `K`")


def test_unknown_names_are_renamed_or_refused(tmp_path: Path) -> None:
    written = netcdf(tmp_path / "a.nc", units={"foo": "m2 s-2", "own": "kg"})
    refused(tmp_path, tmp_path / "a.nc", "variable `foo` has no known ERA5 name: say what it is in source.rename")
    found = store(tmp_path / "ok", tmp_path / "a.nc", rename={"foo": "z_500", "own": "own"})
    assert found.variables == ("own", "z_500") and found.units == {"own": "kg", "z_500": "m**2 s**-2"}
    np.testing.assert_array_equal(found.read(slice(None), ["z_500"])[:, 0], flat(written["foo"].values))


def test_a_variable_on_an_unknown_level(tmp_path: Path) -> None:
    netcdf(tmp_path / "a.nc", units={"air": "K"})
    refused(tmp_path, tmp_path / "a.nc", "variable `air` is temperature on an unknown level: say which in")


def test_missing_dates_are_kept_as_gaps(tmp_path: Path) -> None:
    keep = np.array([0, 1, 2, 5, 6, 9])
    written = netcdf(tmp_path / "a.nc", dates=DATES[keep])
    found = store(tmp_path, tmp_path / "a.nc", variables=("msl", "2t"))
    np.testing.assert_array_equal(found.dates, DATES)
    np.testing.assert_array_equal(np.flatnonzero(~found.missing), keep)
    states = found.read(slice(None))
    assert np.isnan(states[found.missing]).all()
    np.testing.assert_array_equal(states[keep, 0], flat(written["msl"].values))


def test_a_date_without_values_is_missing(tmp_path: Path) -> None:
    written = netcdf(tmp_path / "a.nc", units={"t2m": "K", "msl": "Pa"})
    written["t2m"][3] = written["msl"][3] = np.nan
    written.to_netcdf(tmp_path / "b.nc")
    found = store(tmp_path, tmp_path / "b.nc")
    np.testing.assert_array_equal(np.flatnonzero(found.missing), [3])
    assert found.attrs["missing_dates"] == [str(DATES[3])]
    written["msl"][5] = np.nan
    written.to_netcdf(tmp_path / "c.nc")
    refused(tmp_path, tmp_path / "c.nc", r"msl at 2020-02-28T06: 12 of 12 values are missing \(NaN\)")


def test_infinite_values(tmp_path: Path) -> None:
    written = netcdf(tmp_path / "a.nc", units={"t2m": "K"})
    written["t2m"][4, 1, 2] = np.inf
    written.to_netcdf(tmp_path / "b.nc")
    refused(tmp_path, tmp_path / "b.nc", "2t at 2020-02-28T00: 1 of 12 values are infinite", allow_nan=True)


def test_variables_and_dates_in_many_files(tmp_path: Path) -> None:
    parts = []
    for k in range(2):
        dates = DATES[5 * k : 5 * k + 5]
        parts.append(netcdf(tmp_path / f"t{k}.nc", units={"t2m": "K"}, dates=dates))
        netcdf(tmp_path / f"p{k}.nc", units={"msl": "Pa"}, dates=dates)
    found = store(tmp_path, tmp_path / "*.nc", dates_per_shard=3)
    np.testing.assert_array_equal(
        found.read(slice(None), ["2t"])[:, 0], flat(np.concatenate([p["t2m"].values for p in parts]))
    )


def test_doubled_dates(tmp_path: Path) -> None:
    netcdf(tmp_path / "a.nc", dates=DATES[:5])
    netcdf(tmp_path / "b.nc", dates=DATES[4:])
    refused(tmp_path, tmp_path / "[ab].nc", "2t at 2020-02-28T00 occurs twice, in .*a.nc and in .*b.nc: keep one")


def test_a_variable_that_lacks_at_some_dates(tmp_path: Path) -> None:
    netcdf(tmp_path / "a.nc", units={"t2m": "K"})
    netcdf(tmp_path / "b.nc", units={"msl": "Pa"}, dates=DATES[2:])
    refused(tmp_path, tmp_path / "[ab].nc", r"msl is missing at 2020-02-27T00 \(2 of 10 fields\), where other")


def test_other_grids(tmp_path: Path) -> None:
    netcdf(tmp_path / "a.nc", units={"t2m": "K"})
    netcdf(tmp_path / "b.nc", units={"msl": "Pa"})
    moved = xr.open_dataset(tmp_path / "b.nc").load()
    moved.assign_coords(latitude=LATITUDES + 1).to_netcdf(tmp_path / "c.nc")
    refused(tmp_path, tmp_path / "[ac].nc", r"c.nc lies on another grid \(12 points\) than .*a.nc \(12 points\)")
    moved.isel(longitude=slice(3)).to_netcdf(tmp_path / "d.nc")
    refused(tmp_path, tmp_path / "[ad].nc", r"d.nc lies on another grid \(9 points\)")


def test_a_file_that_runs_from_south_to_north(tmp_path: Path) -> None:
    netcdf(tmp_path / "a.nc", units={"t2m": "K"})
    written = netcdf(tmp_path / "b.nc", units={"msl": "Pa"}).isel(latitude=slice(None, None, -1))
    written.to_netcdf(tmp_path / "c.nc")
    found = store(tmp_path, tmp_path / "[ac].nc")
    np.testing.assert_array_equal(found.grid.rows, LATITUDES)
    np.testing.assert_array_equal(found.read(slice(None), ["msl"])[:, 0], flat(written["msl"].values[:, ::-1]))


def test_points_without_a_rectangle(tmp_path: Path) -> None:
    values = states(10).reshape(10, 12)
    rng = np.random.default_rng(1)
    where = {"latitude": ("values", rng.uniform(-80, 80, 12)), "longitude": ("values", rng.uniform(-180, 180, 12))}
    data = {"t2m": (("time", "values"), values, {"units": "K"})}
    xr.Dataset(data, {"time": TIMES, **where}).to_netcdf(tmp_path / "a.nc")
    found = store(tmp_path, tmp_path / "a.nc")
    np.testing.assert_array_equal(found.read(slice(None))[:, 0], values)
    np.testing.assert_array_equal(found.longitudes, where["longitude"][1] % 360)
    assert found.attrs["field_shape"] == [12]


def test_what_is_no_netcdf(tmp_path: Path) -> None:
    file = tmp_path / "a.nc"
    file.write_bytes(message(field(1)))
    refused(tmp_path, file, "is a GRIB file: set source.kind to grib")
    file.write_bytes(b"hello" * 100)
    refused(tmp_path, file, "is no NetCDF file, or is cut short")


def zipped(tmp_path: Path) -> tuple[Path, xr.Dataset]:
    """What the CDS delivers for variables of both kinds: a ZIP archive named .nc."""
    instant = netcdf(tmp_path / "instant.nc", units={"t2m": "K"})
    accumulated = netcdf(tmp_path / "accum.nc", units={"tp": "m"})
    with zipfile.ZipFile(tmp_path / "a.nc", "w", zipfile.ZIP_DEFLATED) as archive:
        for kind in ("instant", "accum"):
            archive.write(tmp_path / f"{kind}.nc", f"data_stream-oper_stepType-{kind}.nc")
            (tmp_path / f"{kind}.nc").unlink()
    return tmp_path / "a.nc", instant.merge(accumulated)


def test_a_zip_of_the_cds(tmp_path: Path) -> None:
    file, written = zipped(tmp_path)
    found = store(tmp_path, tmp_path / "*.nc", unpack=str(tmp_path / "scratch"))
    assert set(found.variables) == {"2t", "tp"}
    for name, own in (("2t", "t2m"), ("tp", "tp")):
        np.testing.assert_array_equal(found.read(slice(None), [name])[:, 0], flat(written[own].values))
    again = tmp_path / "scratch/.a.nc.unpacked/data_stream-oper_stepType-accum.nc"
    before = again.stat().st_ctime_ns
    store(tmp_path, tmp_path / "*.nc", unpack=str(tmp_path / "scratch"))  # is there, and is not unpacked again
    assert again.stat().st_ctime_ns == before and file.is_file()


def test_zips_that_cannot_be_unpacked(tmp_path: Path) -> None:
    file, _ = zipped(tmp_path)
    data = bytearray(file.read_bytes())
    (tmp_path / "scratch").write_text("")
    refused(tmp_path, file, "cannot be unpacked into .*: name another folder in source.unpack",
            unpack=str(tmp_path / "scratch"))  # fmt: skip
    data[300] ^= 1
    file.write_bytes(data)
    refused(tmp_path, file, "a.nc is a damaged ZIP archive")
    file.write_bytes(data[:1000])
    refused(tmp_path, file, "a.nc is a damaged ZIP archive")
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", b"x")
    refused(tmp_path, file, "a.nc is a ZIP archive without NetCDF files")
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("kind", ["NETCDF4", "NETCDF3_64BIT", "NETCDF3_CLASSIC"])
def test_truncated_files(tmp_path: Path, kind: str) -> None:
    """The NetCDF library itself reads zeros where a classic file has been cut."""
    netcdf(tmp_path / "a.nc", format=kind)
    whole = (tmp_path / "a.nc").read_bytes()
    (tmp_path / "a.nc").write_bytes(whole[: len(whole) * 3 // 4])
    refused(tmp_path, tmp_path / "a.nc", "is cut short|cannot be read")


def no_units(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.assign_coords(time=np.arange(10.0))


def no_axis(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.drop_vars("time")


def other_calendar(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.assign_coords(time=xr.date_range("2020-02-27", periods=10, calendar="360_day", use_cftime=True))


def more_dimensions(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.expand_dims(step=3)


def uneven(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.assign_coords(time=TIMES + np.arange(10) ** 2 * np.timedelta64(1, "m"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [(no_units, "`time` holds no dates; units such as"), (no_axis, "the time axis has no coordinate"),
     (other_calendar, "`time` holds no dates"), (more_dimensions, "variable `t2m` has 3 `step`s"),
     (uneven, "the dates have no common step: 2020-02-27T12:04 is no multiple of 361m from .*; give source.frequency")],
)  # fmt: skip
def test_time_axes_and_dimensions_that_do_not_fit(
    tmp_path: Path, change: Callable[[xr.Dataset], xr.Dataset], reason: str
) -> None:
    change(netcdf(tmp_path / "a.nc", units={"t2m": "K"})).to_netcdf(tmp_path / "b.nc")
    refused(tmp_path, tmp_path / "b.nc", reason)


def test_frequency_picks_dates(tmp_path: Path) -> None:
    written = netcdf(tmp_path / "a.nc", units={"t2m": "K"})
    found = store(tmp_path, tmp_path / "a.nc", frequency="12h")
    np.testing.assert_array_equal(found.dates, DATES[::2])
    np.testing.assert_array_equal(found.read(slice(None))[:, 0], flat(written["t2m"].values[::2]))


def test_steps_are_counted_from_midnight_or_from_the_beginning_asked_for(tmp_path: Path) -> None:
    hours = DATES[0] + np.arange(3, 31) * np.timedelta64(1, "h")
    netcdf(tmp_path / "a.nc", dates=hours, units={"t2m": "K"})
    found = store(tmp_path / "any", tmp_path / "a.nc", frequency="6h")
    np.testing.assert_array_equal(found.dates, DATES[1:6])
    found = store(tmp_path / "asked", tmp_path / "a.nc", frequency="6h", period=["2020-02-27T03", "2020-02-28"])
    np.testing.assert_array_equal(found.dates, hours[:19:6])
    netcdf(tmp_path / "noon.nc", dates=DATES[2::4], units={"t2m": "K"})
    found = store(tmp_path / "noon", tmp_path / "noon.nc", frequency="1d")
    np.testing.assert_array_equal(found.dates, DATES[2::4])


def test_a_single_date_needs_a_frequency(tmp_path: Path) -> None:
    netcdf(tmp_path / "a.nc", dates=DATES[:1])
    refused(tmp_path, tmp_path / "a.nc", "a single date, 2020-02-27T00: give source.frequency")


def test_constant_fields_alone_have_no_dates(tmp_path: Path) -> None:
    xr.Dataset({"lsm": (("latitude", "longitude"), field(1), {"units": "1"})}, PLACE).to_netcdf(tmp_path / "a.nc")
    refused(tmp_path, tmp_path / "a.nc", "only constant fields .lsm., so there are no dates")


def test_dates_between_seconds_are_rounded(tmp_path: Path) -> None:
    """Days as floats: 0.1 day steps are not exact in binary."""
    data = xr.Dataset({"t2m": (("time", "latitude", "longitude"), states(10), {"units": "K"})}, PLACE)
    days = xr.DataArray(43890 + np.arange(10) / 24, dims="time", attrs={"units": "days since 1900-01-01"})
    data.assign_coords(time=days).to_netcdf(tmp_path / "a.nc")
    dates = open_source(section(tmp_path / "a.nc")).contents.dates
    np.testing.assert_array_equal(np.diff(dates), np.timedelta64(3600, "s"))


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netcdf(tmp_path / "a.nc")

    def refuse(path: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ForecastError, match=r"cannot read .*a.nc: Permission denied"):
        open_source(section(tmp_path / "a.nc"))
