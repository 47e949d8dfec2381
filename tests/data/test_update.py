"""Stores brought up to date: appended, replaced, mended, and checked; climatology; rounding; what cannot be read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forecast.core.calendar import calendar_day
from forecast.core.config import Config
from forecast.core.errors import ForecastError
from forecast.core.store import Store
from forecast.data.export_anemoi import export_anemoi
from forecast.data.ingest import ingest
from forecast.data.sources import refined
from forecast.data.sources.fields import DatasetSource
from forecast.data.verify import verify
from tests.data.archives import DATES, config, netcdf, store
from tests.data.test_writer import digest

HALF = np.timedelta64(12 * 3600, "s")
DAYS = np.datetime64("2020-02-20", "s") + np.arange(44) * HALF


def settings(root: Path, files: Path, **changes: Any) -> Config:
    source = {"kind": "netcdf", "paths": [str(files / "*.nc")], **changes}
    return config(root, source, dates_per_shard=5, climatology=["2t"])


def reads(monkeypatch: pytest.MonkeyPatch) -> list[np.datetime64]:
    """Dates that are read from now on."""
    seen: list[np.datetime64] = []
    read = DatasetSource.read
    monkeypatch.setattr(DatasetSource, "read", lambda self, dates: (seen.extend(dates), read(self, dates))[1])
    return seen


def test_appended_dates_end_at_the_bytes_of_one_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netcdf(tmp_path / "a.nc", dates=DAYS[:32])
    ingest(settings(tmp_path / "grown", tmp_path))
    netcdf(tmp_path / "b.nc", dates=DAYS[32:])
    with pytest.raises(ForecastError, match="bring it up to date with --update"):
        ingest(settings(tmp_path / "grown", tmp_path))
    seen = reads(monkeypatch)
    ingest(settings(tmp_path / "grown", tmp_path), update=True)
    assert seen and min(seen) == DAYS[30]  # the last slab was not full
    ingest(settings(tmp_path / "whole", tmp_path))
    assert digest(tmp_path / "grown") == digest(tmp_path / "whole")
    before = len(seen)
    ingest(settings(tmp_path / "grown", tmp_path), update=True)
    assert len(seen) == before  # nothing to do


def test_a_changed_file_and_a_period_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netcdf(tmp_path / "a.nc", dates=DAYS[:30])
    netcdf(tmp_path / "b.nc", dates=DAYS[30:])
    ingest(settings(tmp_path / "run", tmp_path))
    netcdf(tmp_path / "b.nc", dates=DAYS[30:], units={"msl": "Pa", "t2m": "K"})  # other values
    seen = reads(monkeypatch)
    ingest(settings(tmp_path / "run", tmp_path), update=True)
    assert min(seen) == DAYS[30]
    ingest(settings(tmp_path / "fresh", tmp_path))
    assert digest(tmp_path / "run") == digest(tmp_path / "fresh")
    seen.clear()
    ingest(settings(tmp_path / "run", tmp_path), replace=(DAYS[7], DAYS[8]))
    assert sorted(seen) == DAYS[5:10].tolist() or sorted(seen) == list(DAYS[5:10])
    assert digest(tmp_path / "run") == digest(tmp_path / "fresh")
    with pytest.raises(ForecastError, match="--replace 1999-01-01T00..1999-01-02T00: no date"):
        ingest(settings(tmp_path / "run", tmp_path), replace=(np.datetime64("1999-01-01"), np.datetime64("1999-01-02")))


def test_an_update_that_was_killed_between_its_renames_is_finished(tmp_path: Path) -> None:
    netcdf(tmp_path / "a.nc", dates=DAYS)
    path = ingest(settings(tmp_path / "run", tmp_path))[0]
    before = digest(path)
    os.utime(tmp_path / "a.nc", (1, 1))
    broken, rename = tmp_path / "run/truth.zarr", os.replace

    def stop(old: Any, new: Any) -> None:
        if Path(new) == broken:
            raise KeyboardInterrupt
        rename(old, new)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", stop)
        ingest(settings(tmp_path / "run", tmp_path), update=True)
    assert not broken.exists()
    ingest(settings(tmp_path / "run", tmp_path), update=True)
    after = digest(path)
    assert {k for k in before if before[k] != after[k]} == {"zarr.json", "data/slabs.npz"}
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["truth.zarr"]


def test_the_climatology_is_that_of_numpy(tmp_path: Path) -> None:
    years = np.concatenate([np.datetime64(f"{y}-02-27", "s") + np.arange(8) * HALF for y in (2019, 2020, 2021)])
    data = netcdf(tmp_path / "a.nc", dates=years)
    made = settings(tmp_path / "run", tmp_path, frequency="12h")
    found = Store.open(ingest(made)[0])
    values = data["t2m"].values.reshape(24, -1).astype(np.float64)
    for day, hour in ((57, 0), (58, 12), (59, 0), (60, 12)):
        mine = (calendar_day(years) == day) & ((years - years.astype("datetime64[D]")).astype(int) == hour * 3600)
        climate = found.climatology(years[mine][0], ["2t"])
        np.testing.assert_allclose(climate["mean"][0], values[mine].mean(axis=0), rtol=1e-6)
        np.testing.assert_allclose(climate["stdev"][0], values[mine].std(axis=0), rtol=1e-5, atol=2e-5)
        assert climate["count"] == mine.sum() == (1 if day == 59 else 3 if day < 59 else mine.sum())
    near = np.isin(calendar_day(years), (57, 58, 59)) & ((years - years.astype("datetime64[D]")).astype(int) == 0)
    wide = found.climatology(np.datetime64("2020-02-28"), ["2t"], window=np.timedelta64(1, "D"))
    np.testing.assert_allclose(wide["mean"][0], values[near].mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(wide["stdev"][0], values[near].std(axis=0), rtol=1e-4)
    with pytest.raises(ForecastError, match="no climatology of msl"):
        found.climatology(years[0], ["msl"])


@pytest.mark.parametrize("bits", [7, 12])
def test_bits_are_rounded_within_the_stated_error(bits: int, tmp_path: Path) -> None:
    data = netcdf(tmp_path / "a.nc")
    source = {"kind": "netcdf", "paths": [str(tmp_path / "a.nc")]}
    made = Store.open(ingest(config(tmp_path, source, keep_bits={"msl": bits}))[0])
    exact = data["msl"].values.reshape(10, -1)
    error = np.abs(made.read(slice(None), ["msl"])[:, 0] / exact - 1)
    assert 0 < error.max() <= 2.0 ** -(bits + 1)
    np.testing.assert_array_equal(made.read(slice(None), ["2t"])[:, 0], data["t2m"].values.reshape(10, -1))
    assert made.attrs["kept_mantissa_bits"] == {"msl": bits}


def test_dates_that_cannot_be_read_are_tried_again_then_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netcdf(tmp_path / "a.nc", dates=DAYS)
    read, tries = DatasetSource.read, []
    bad = {DAYS[7], DAYS[21]}

    def fail(self: DatasetSource, dates: np.ndarray) -> np.ndarray:
        tries.append(len(dates))
        if bad & set(dates):
            raise OSError("connection reset")
        return read(self, dates)

    monkeypatch.setattr(refined, "PAUSE", 0.001)
    monkeypatch.setattr(DatasetSource, "read", fail)
    with pytest.raises(ForecastError, match=r"2 dates cannot be read \(2020-02-23T12, 2020-03-01T12\): .*reset; all"):
        ingest(settings(tmp_path / "run", tmp_path))
    assert tries.count(1) == 2 * 3 + 8  # the bad ones three times each, those beside them once
    tries.clear()
    left = ingest(settings(tmp_path / "holes", tmp_path, unreadable="missing", retries=0))[0]
    assert set(Store.open(left).dates[Store.open(left).missing]) == bad
    tries.clear()
    bad.clear()
    ingest(settings(tmp_path / "run", tmp_path))
    assert sum(tries) == 10  # the two slabs that were not finished
    ingest(settings(tmp_path / "whole", tmp_path))
    assert digest(tmp_path / "run") == digest(tmp_path / "whole")


def test_a_dry_run_tells_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    netcdf(tmp_path / "a.nc")
    ingest(settings(tmp_path / "run", tmp_path), dry=True)
    told = capsys.readouterr().err
    for text in (
        "reads 1 file, 0.0 MB: a.nc",
        "10 dates from 2020-02-27T00",
        "variables: 2t, msl",
        "of memory for each",
    ):
        assert text in told
    assert not (tmp_path / "run").exists()


def test_damage_is_found_by_the_check(tmp_path: Path) -> None:
    netcdf(tmp_path / "a.nc", dates=DAYS)
    path = ingest(settings(tmp_path / "run", tmp_path))[0]
    assert "44 dates of 1 member(s) read, checksums match, gaps are as listed" in verify(path)
    shard = path / "data/c/2/0/0/0"
    data = bytearray(shard.read_bytes())
    data[20] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ForecastError, match=r"problems: .*data/c/2/0/0/0 is damaged at byte 0 \(its checksum"):
        verify(path)
    shard.unlink()
    with pytest.raises(ForecastError, match="2020-02-25T00 is empty but not missing"):
        verify(path)


def test_a_subset_in_zarr_2_is_what_anemoi_reads(tmp_path: Path) -> None:
    anemoi = pytest.importorskip("anemoi.datasets")
    netcdf(tmp_path / "a.nc", dates=DATES[[0, 1, 2, 3, 5, 6, 7, 8, 9]], units={"t2m": "K", "msl": "Pa", "sp": "Pa"})
    made = store(tmp_path, tmp_path / "a.nc")
    out = export_anemoi(made.path, tmp_path / "v2.zarr", ["sp", "2t"], (DATES[2], DATES[8]))
    assert (out / ".zgroup").is_file()
    theirs = anemoi.open_dataset(str(out))
    assert list(theirs.variables) == ["sp", "2t"] and theirs.missing == {2} and theirs.shape == (7, 2, 1, 12)
    np.testing.assert_array_equal(theirs[5][:, 0], made.read(7, ["sp", "2t"])[0])
    np.testing.assert_array_equal(theirs.statistics["mean"], made.statistics["mean"][made.position(["sp", "2t"])])
    again = Store.open(out)  # and is read, and trained on, as it is
    np.testing.assert_array_equal(again.read(slice(None)), made.read(slice(2, 9), ["sp", "2t"]))
    with pytest.raises(ForecastError, match="exists: remove it"):
        export_anemoi(made.path, out)
