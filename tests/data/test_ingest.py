"""Ingest as a whole: killed and resumed to the same bytes, gaps announced, the planet's two stores in one pass."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from forecast import planet
from forecast.core import config as configs
from forecast.core.archive_sections import PlanetSource
from forecast.core.config import Config
from forecast.core.errors import ForecastError
from forecast.core.store import Store
from forecast.data import ingest as module
from forecast.data.ingest import ingest, timeline
from forecast.data.slabs import SlabWriter
from tests.data.archives import DATES, config, netcdf, store
from tests.data.test_writer import digest

DAYS = np.datetime64("2020-01-01", "s") + np.arange(60) * np.timedelta64(24, "h")
SLOW_RUN = """
import sys, time
from forecast.data.sources.netcdf import NetcdfSource
from forecast.data.ingest import ingest
from tests.data.archives import config

read = NetcdfSource.read
NetcdfSource.read = lambda self, dates: (time.sleep(0.2), read(self, dates))[1]
print(ingest(config({root!r}, {{"kind": "netcdf", "paths": [{file!r}]}}, dates_per_shard=3, workers=2)), flush=True)
"""


def start(root: Path, file: Path) -> subprocess.Popen[bytes]:
    code = SLOW_RUN.format(root=str(root), file=str(file))
    folder = Path(__file__).parents[2]
    return subprocess.Popen([sys.executable, "-c", code], cwd=folder, stderr=subprocess.DEVNULL)


def slabs(root: Path) -> int:
    """Finished slabs of an unfinished store."""
    return len(list((root / "truth.zarr.partial/slabs").glob("*.npz")))


def test_killed_anywhere_it_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    file = tmp_path / "a.nc"
    netcdf(file, dates=DAYS)
    ingest(config(tmp_path / "whole", {"kind": "netcdf", "paths": [str(file)]}, dates_per_shard=3))
    done = 0
    for more in (2, 4):  # 20 slabs in all: killed twice, each time later
        run = start(tmp_path / "killed", file)
        while slabs(tmp_path / "killed") < done + more and run.poll() is None:
            time.sleep(0.02)
        run.send_signal(signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL
        done = slabs(tmp_path / "killed")
        assert not (tmp_path / "killed/truth.zarr").exists()
    assert 6 <= done < 20
    ingest(config(tmp_path / "killed", {"kind": "netcdf", "paths": [str(file)]}, dates_per_shard=3))
    assert digest(tmp_path / "killed") == digest(tmp_path / "whole")


def test_finished_slabs_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netcdf(tmp_path / "a.nc")
    settings = config(tmp_path / "run", {"kind": "netcdf", "paths": [str(tmp_path / "a.nc")]}, dates_per_shard=2)
    written: list[int] = []
    write = SlabWriter.write

    def stop_after_two(self: SlabWriter, slab: int, states: np.ndarray, stamp: str) -> None:
        if len(written) >= 2:
            raise module.DiskError("full")
        write(self, slab, states, stamp)
        written.append(slab)

    monkeypatch.setattr(SlabWriter, "write", stop_after_two)
    with pytest.raises(module.DiskError):
        ingest(settings)
    first = list(written)
    written.clear()
    monkeypatch.setattr(SlabWriter, "write", lambda self, k, *rest: (written.append(k), write(self, k, *rest))[0])
    ingest(settings)
    assert sorted(first + written) == [0, 1, 2, 3, 4]


def test_a_store_that_is_there_is_kept_unless_the_files_changed(tmp_path: Path) -> None:
    netcdf(tmp_path / "a.nc")
    found = store(tmp_path, tmp_path / "a.nc")
    before = digest(found.path)
    store(tmp_path, tmp_path / "a.nc")
    assert digest(found.path) == before
    os.utime(tmp_path / "a.nc", (1, 1))
    with pytest.raises(ForecastError, match=r"truth.zarr exists and was made from something else .other source"):
        store(tmp_path, tmp_path / "a.nc")


def test_gaps_and_sizes_are_announced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    netcdf(tmp_path / "a.nc", dates=DATES[[0, 1, 4, 5, 7, 8, 9]])
    store(tmp_path, tmp_path / "a.nc")
    told = " ".join(capsys.readouterr().err.split())
    assert "10 dates from 2020-02-27T00 to 2020-02-29T06 every 6h (3 missing), 2 variables, 1 member, 12 points" in told
    assert "missing: 3 in 2 gaps: 2020-02-27T12 to 2020-02-27T18, 2020-02-28T12" in told


@pytest.mark.parametrize(
    ("hours", "frequency", "axis", "missing"),
    [([0, 6, 12], None, [0, 6, 12], []), ([0, 12, 18], None, [0, 6, 12, 18], [1]),
     ([0, 6, 12, 18, 24], 12, [0, 12, 24], []), ([0], 6, [0], []),
     ([0, 24, 240], 24, list(range(0, 241, 24)), list(range(2, 10)))],
)  # fmt: skip
def test_time_axis(hours: list[int], frequency: int | None, axis: list[int], missing: list[int]) -> None:
    begin, hour = np.datetime64("2020-02-28", "s"), np.timedelta64(3600, "s")
    dates, step, lacking = timeline(begin + np.array(hours) * hour, frequency and frequency * hour)
    np.testing.assert_array_equal(dates, begin + np.array(axis) * hour)
    np.testing.assert_array_equal(np.flatnonzero(lacking), missing)
    assert step == (frequency or 6) * hour


def test_files_have_no_analysis(tmp_path: Path) -> None:
    netcdf(tmp_path / "a.nc")
    with pytest.raises(ForecastError, match="store.analysis is for the sample planet"):
        ingest(config(tmp_path, {"kind": "netcdf", "paths": [str(tmp_path / "a.nc")]}, analysis="b.zarr"))


def fake_archive(source: PlanetSource, dates_per_slab: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Noise in place of weather, in slabs as the planet gives them."""
    dates, missing = planet.dates(source)
    for i in range(0, len(dates), dates_per_slab):
        part = slice(i, i + dates_per_slab)
        shape = (len(dates[part]), len(planet.variables), planet.grid(source.truncation).size)
        truth = np.random.default_rng(i).standard_normal(shape, np.float32)
        analysis = truth + np.float32(0.1)
        truth[missing[part]] = analysis[missing[part]] = np.nan
        yield dates[part], truth, analysis


@pytest.fixture
def small_planet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    axis = np.datetime64("2001-12-20", "s") + np.arange(60) * np.timedelta64(6, "h")
    monkeypatch.setattr(planet, "dates", lambda source: (axis, axis == np.datetime64("2001-12-31T18", "s")))
    monkeypatch.setattr(planet, "archive", fake_archive)
    return config(tmp_path, {"kind": "planet", "years": 1}, dates_per_shard=16, analysis="analysis.zarr")


def test_the_planet_writes_truth_and_analysis(small_planet: Config) -> None:
    truth, analysis = (Store.open(path) for path in ingest(small_planet))
    assert truth.variables == analysis.variables == planet.variables and truth.grid.name == "gaussian-32x64"
    assert truth.attrs["missing_dates"] == analysis.attrs["missing_dates"] == ["2001-12-31T18:00:00"]
    expected = [np.concatenate(kind) for kind in zip(*fake_archive(small_planet.source, 16), strict=True)]  # type: ignore[arg-type]
    for found, states in zip((truth, analysis), expected[1:], strict=True):
        np.testing.assert_array_equal(found.read(slice(None)), states)
    assert all(unit for unit in truth.units.values())
    before = digest(small_planet.path("."))
    ingest(small_planet)
    assert digest(small_planet.path(".")) == before


def test_a_planet_that_blows_up_leaves_what_was_finished(small_planet: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(source: PlanetSource, size: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        for k, (dates, truth, analysis) in enumerate(fake_archive(source, size)):
            if k == 2:
                analysis[3, 4] = np.inf
            yield dates, truth, analysis

    monkeypatch.setattr(planet, "archive", broken)
    with pytest.raises(ForecastError, match="2048 of 2048 values are infinite"):
        ingest(small_planet)
    assert not list(small_planet.path(".").glob("*.zarr"))
    monkeypatch.setattr(planet, "archive", fake_archive)
    truth, _ = ingest(small_planet)
    assert Store.open(truth).dates.size == 60


@pytest.mark.real
@pytest.mark.parametrize(("name", "dates", "missing"), [("real_europe", 4018, 0), ("real_global", 349, 76)])
def test_configs_on_real_weather(
    name: str, dates: int, missing: int, real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = yaml.safe_load((configs.shipped() / f"{name}.yaml").read_text())
    unused = {"training": {"stages": [{"updates": 1, "lr": 1e-3}]}, "forecast": {"starts": {"at": ["2009-01-01"]}}}
    (tmp_path / "repository").mkdir()
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/data").symlink_to(real_data)
    monkeypatch.chdir(tmp_path / "repository")
    settings = configs.parse(unused | raw)
    found = Store.open(ingest(settings)[0])
    assert found.dates.size == dates and found.missing.sum() == missing
    assert set(settings.data.prognostic) <= set(found.variables)
    assert np.isfinite(found.tendency_stdev(settings.data.step)).all()
    assert found.index(settings.data.train[0]) == 0 and found.index(settings.data.validation[1]) > 0
