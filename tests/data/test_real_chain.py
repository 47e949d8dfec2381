"""Every real file goes the whole way, store, training, ensemble, scores; one of a single date as far as it can."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from forecast.core import config as configs
from forecast.core.errors import ForecastError
from forecast.core.store import Store
from forecast.core.times import format_duration, format_time
from forecast.data.inspect import inspect
from forecast.data.sources import open_source
from forecast.data.verify import verify as check
from pipelines.generate import generate
from pipelines.ingest import ingest
from pipelines.train import train
from pipelines.verify import verify
from tests.data import archives
from tests.data.test_real_files import GRIB, NETCDF

pytestmark = [pytest.mark.real, pytest.mark.slow]
DATES = 120
"""At most so many dates of a series."""


def settings(file: Path, root: Path, **source: Any) -> configs.Config:
    """A small run on one file."""
    kind = "netcdf" if file.suffix == ".nc" else "grib"
    gaps = source.pop("allow_nan", False)
    contents = open_source(archives.section(file, kind=kind, **source)).contents
    dates = contents.dates
    step = np.diff(dates).min() if len(dates) > 1 else np.timedelta64(6 * 3600, "s")
    source = source if len(dates) > 1 else {"frequency": "6h", **source}
    longest = max(np.split(dates, np.flatnonzero(np.diff(dates) != step) + 1), key=len)[:DATES]
    first, last = format_time(longest[0]), format_time(longest[-1])
    names = [name for name in contents.variables if name not in contents.constant][:3]
    return configs.parse({
        "name": file.stem, "root": str(root), "seed": 1,
        "source": {"kind": kind, "paths": [str(file)], "period": [first, last], **source},
        "store": {"dates_per_shard": 16, "allow_nan": gaps, "implausible": "accept" if file.stem in ODD else "refuse"},
        "data": {"train": [first, last], "validation": [first, last], "step": format_duration(step), "input_steps": 1,
                 "prognostic": names, "masked": names if gaps else []},
        "model": {"mesh_refinement": 2, "mesh_region": True, "width": 16, "heads": 2, "layers": 1, "grid_width": 16,
                  "grid_heads": 2},
        "loss": {"level_slope": 0, "level_floor": 1},
        "training": {"members": 2, "batch_size": 1, "device": "cpu", "validation_starts": 1, "validation_steps": 1,
                     "stages": [{"updates": 3, "lr": 1e-3}]},
        "forecast": {"starts": {"at": [first]}, "members": 3, "member_batch": 3,
                     "lead": format_duration(min(2, max(len(longest) - 1, 1)) * step)},
    })  # fmt: skip


SETTINGS = {name: dict(given, variables=tuple(where)) for name, (given, where) in NETCDF.items()} | GRIB
ODD = {"step_60m"}  # calls 1 K of something the temperature at 2 m
ONE_DATE = {
    "ensembles/fc_storm.grib", "ensembles/z500_ens.grib", "grib/O32_global.grib1", "grib/aifs-single-t500.grib2",
    "grib/cfgrib/era5-single-level-scalar-time.grib", "grib/cfgrib/hpa_and_pa.grib", "grib/cfgrib/lambert_grid.grib",
    "grib/cfgrib/reduced_gg.grib", "grib/cfgrib/regular_gg_pl.grib", "grib/cfgrib/regular_gg_sfc.grib",
    "grib/cfgrib/regular_ll_msl.grib", "grib/cfgrib/regular_ll_sfc.grib", "grib/cfgrib/scanning_mode_64.grib",
    "grib/cfgrib/soil-surface-level-mix.grib", "grib/cfgrib/t_on_different_level_types.grib", "grib/t2_for_UC-04.grib",
    "grib/t2m_grib.grib", "grib/test4.grib", "grib/z_for_UC-04.grib", "netcdf/era5_tl31_19590102T00.nc",
}  # fmt: skip
SERIES = [name for name in SETTINGS if name not in ONE_DATE]


@pytest.mark.parametrize("name", SERIES)
def test_from_file_to_scores(name: str, real_data: Path, tmp_path: Path) -> None:
    config = settings(real_data / name, tmp_path, **SETTINGS[name])
    store = Store.open(ingest(config)[0])
    assert np.isfinite(store.statistics["stdev"]).all()
    assert train(config).exists()
    assert all(path.exists() for path in generate(config))
    _, report = verify(config)
    assert report.stat().st_size > 10_000


@pytest.mark.parametrize("name", sorted(ONE_DATE))
def test_one_date_goes_as_far_as_a_date_can(name: str, real_data: Path, tmp_path: Path) -> None:
    config = settings(real_data / name, tmp_path, **SETTINGS[name])
    store = Store.open(ingest(config)[0])
    assert store.dates.size == 1 and np.isfinite(store.statistics["mean"]).all()
    assert "checksums match" in check(store.path) and inspect(store.path).renderables
    with pytest.raises(ForecastError, match="no two states 6h apart in the period of training"):
        train(config)


def test_files_of_one_date_each_make_a_series(real_data: Path, tmp_path: Path) -> None:
    whole = xr.load_dataset(real_data / "series/erainterim_weurope_2p5deg_daily12z_2000-2010.nc").isel(time=slice(5))
    for t in range(5):
        whole.isel(time=[t]).to_netcdf(tmp_path / f"{4 - t}.nc")
    store = archives.store(tmp_path / "run", tmp_path / "*.nc")
    np.testing.assert_array_equal(store.dates, whole["time"].values.astype("datetime64[s]"))
    found = store.read(slice(None), ["t_850"])[:, 0]
    np.testing.assert_array_equal(found, whole["t850"].values.reshape(5, -1).astype(np.float32))
