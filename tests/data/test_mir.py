"""Real weather on N320 and O96, made by ECMWF's mir from lat-lon fields: ingested, and beside our own regridding."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import eccodes
import numpy as np
import pytest

from forecast.core import grids, regrid
from forecast.core.store import Store
from forecast.data.ingest import ingest
from tests.data.archives import config

pytestmark = pytest.mark.real
ROUNDING = 2.0**-10 + 2.0**-15
"""K, half a step of the values that mir packs into 16 bits, and of ours in float32."""
MIR = """
import sys, mir
for source, grid, how, made in zip(*[iter(sys.argv[1:])] * 4):
    mir.Job(grid=grid, interpolation=how).execute(mir.GribFileInput(source), mir.GribFileOutput(made))
"""


def messages(path: Path, **wanted: object) -> list[tuple[bytes, np.ndarray]]:
    """The messages of a file that have these keys, and their values."""
    found = []
    with path.open("rb") as file:
        while handle := eccodes.codes_grib_new_from_file(file):
            if all(eccodes.codes_get(handle, key) == value for key, value in wanted.items()):
                found.append((eccodes.codes_get_message(handle), eccodes.codes_get_values(handle)))
            eccodes.codes_release(handle)
    return found


@pytest.fixture(scope="module")
def made(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two dates of ERA5's t_850, on its 3 degrees, and by mir on N320, O96 and, from N320, O32, and back."""
    pytest.importorskip("mir", reason="mir-python is not installed (extra test)")
    folder = tmp_path_factory.mktemp("mir")
    fields = messages(real_data / "ensembles/era5-levels-members.grib", shortName="t", level=850, number=0)[:2]
    (folder / "latlon.grib").write_bytes(b"".join(coded for coded, _ in fields))
    jobs = [("latlon", "N320", "grid-box-average", "N320"), ("latlon", "O96", "grid-box-average", "O96"),
            ("N320", "O32", "grid-box-average", "down"), ("down", "N320", "linear", "up")]  # fmt: skip
    arguments = [part for source, grid, how, out in jobs for part in (f"{source}.grib", grid, how, f"{out}.grib")]
    caches = {name: str(folder / "cache") for name in ("MIR_CACHE_PATH", "ATLAS_CACHE_PATH", "ECKIT_CACHE_PATH")}
    subprocess.run([sys.executable, "-c", MIR, *arguments], cwd=folder, env={**os.environ, **caches}, check=True,
                   capture_output=True)  # fmt: skip
    return folder


def stored(root: Path, file: Path, **source: object) -> Store:
    section = {"kind": "grib", "paths": [str(file)], **source}
    return Store.open(ingest(config(root, section, implausible="refuse", workers=1))[0])


@pytest.mark.parametrize("grid", ["N320", "O96"])
def test_reduced_grids_are_ingested_and_regridding_equals_mirs(grid: str, made: Path, tmp_path: Path) -> None:
    theirs = stored(tmp_path / "theirs", made / f"{grid}.grib")
    assert theirs.grid.name == grid and theirs.variables == ("t_850",)
    states = theirs.read(slice(None))[:, 0]
    np.testing.assert_array_equal(states, np.float32([values for _, values in messages(made / f"{grid}.grib")]))
    ours = stored(tmp_path / "ours", made / "latlon.grib", grid=grid)
    np.testing.assert_array_equal(ours.dates, theirs.dates)
    np.testing.assert_allclose(ours.read(slice(None))[:, 0], states, rtol=0, atol=ROUNDING)


def test_the_truncation_equals_mirs(made: Path) -> None:
    """To O32 by areas as mir goes; back to N320 by rows of points, where mir takes triangles of them."""
    coarse, fine = grids.named("O32"), grids.named("N320")
    (_, state), *_ = messages(made / "N320.grib")
    (_, down), *_ = messages(made / "down.grib")
    (_, up), *_ = messages(made / "up.grib")
    np.testing.assert_allclose(regrid.matrix(fine, coarse) @ state, down, rtol=0, atol=ROUNDING)
    difference = regrid.matrix(coarse, fine, "linear") @ down - up
    removed = state - up
    assert np.sqrt((difference**2).mean()) < 0.2 * np.sqrt((removed**2).mean())
    print(np.sqrt((difference**2).mean()), np.sqrt((removed**2).mean()), np.abs(difference).max())
