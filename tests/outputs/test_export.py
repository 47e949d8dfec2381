"""Exports as commands: a file is there whole or not at all, and memory stays flat."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

from forecast.cli import app
from forecast.core import grids
from forecast.core.config import section
from forecast.core.errors import ForecastError
from forecast.core.forecasts import Forecasts
from forecast.core.sections import OutputSection
from forecast.outputs import products
from forecast.outputs.export import export
from forecast.outputs.selection import select
from pipelines import outputs
from tests import ensembles

LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
from forecast.cli import main
sys.argv = ["forecast", "export", sys.argv[1], "--to", sys.argv[2]]
main()
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensembles.write(tmp_path_factory.mktemp("export") / "f.zarr", ensembles.layout(members=7, batch=3))


def test_the_command(store: Path, tmp_path: Path) -> None:
    options = ["--variables", "2t,tp", "--leads", "6h..18h/12h", "--members", "1..3", "--area", "60,-20,20,40"]
    for to in ("a.nc", "a.grib2"):
        result = CliRunner().invoke(app, ["export", str(store), "--to", str(tmp_path / "new" / to), *options])
        assert result.exit_code == 0, result.output
    with xr.open_dataset(tmp_path / "new" / "a.nc") as data:
        sizes = {"number": 3, "lead_time": 2, "init_time": 2, "latitude": 4, "longitude": 5}
        assert dict(data["t2m"].sizes) == sizes
    result = CliRunner().invoke(
        app, ["export", str(store), "--to", str(tmp_path / "p.nc"), "--products", "q50,tp>0.001"]
    )
    assert result.exit_code == 0 and "tp_above" in xr.open_dataset(tmp_path / "p.nc")


@pytest.mark.parametrize("to", ["a.nc", "a.grib2"])
def test_no_room_on_the_disk(store: Path, tmp_path: Path, to: str) -> None:
    (tmp_path / to).write_text("what was there")
    command = [sys.executable, "-c", LIMITED, str(store), str(tmp_path / to)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1 and "cannot write" in result.stderr and "Traceback" not in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == [to] and (tmp_path / to).read_text() == "what was there"


def test_killed_it_leaves_nothing_in_its_place_and_the_next_clears_up(store: Path, tmp_path: Path) -> None:
    slow = "import time; from forecast.outputs import netcdf; w = netcdf.NetcdfFile.members\n"
    slow += "netcdf.NetcdfFile.members = lambda *a: (time.sleep(0.2), w(*a))\n"
    run = f"import sys; sys.argv = ['forecast', 'export', '{store}', '--to', '{tmp_path / 'a.nc'}']\n"
    process = subprocess.Popen([sys.executable, "-c", slow + run + "from forecast.cli import main; main()"])
    for _ in range(600):
        if list(tmp_path.iterdir()):
            break
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".a.nc.")
    export(select(Forecasts.open(store), ["2t"]), tmp_path / "a.nc")
    assert [p.name for p in tmp_path.iterdir()] == ["a.nc"]


def test_memory_holds_a_batch_of_members(tmp_path: Path) -> None:
    """Twenty times the members need the same memory; one field of 40 members alone would be 2.6 MB."""
    peaks = []
    for members in (2, 40):
        made = ensembles.layout(grids.gaussian(128, 128), ("2t",), members, 2, 1)
        forecasts = Forecasts.open(ensembles.write(tmp_path / f"{members}.zarr", made))
        for to in ("a.nc", "a.grib2"):
            tracemalloc.start()
            export(select(forecasts), tmp_path / to, packing="simple")
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[2] < 1.2 * peaks[0] + 1e5 and peaks[3] < 1.2 * peaks[1] + 1e5


def test_products_of_the_chosen_members(store: Path, tmp_path: Path) -> None:
    chosen = select(Forecasts.open(store), ["2t"], members=["1", "4..5"])
    export(chosen, tmp_path / "a.nc", products.parse(["mean"], ["2t"], 3))
    truth = ensembles.states(ensembles.layout(members=7, batch=3), 1, 2)["2t"][[1, 4, 5]].mean(0, dtype=float)
    with xr.open_dataset(tmp_path / "a.nc") as data:
        np.testing.assert_allclose(data["t2m_mean"][2, 1].values.ravel(), truth, rtol=1e-6)
        assert data["number"].attrs["long_name"] == "first of the 3 members that products are made of"


def test_sections(store: Path, tmp_path: Path) -> None:
    given = {"variables": ["2t"], "members": [0, "2..3"], "leads": ["0h", "12h"], "area": [90, 0, 0, 180]}
    outputs.write(store, tmp_path / "a.nc", section(OutputSection, given, "test"))
    with xr.open_dataset(tmp_path / "a.nc") as data:
        assert data["t2m"].sizes["number"] == 3 and data["t2m"].sizes["lead_time"] == 2
    with pytest.raises(ForecastError, match="test: `packing`: Input should be 'simple', 'ccsds' or 'ieee'"):
        section(OutputSection, {"packing": "zip"}, "test")
