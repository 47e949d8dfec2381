"""Every real file whose states can be trained on goes the whole way: store, a few steps, an ensemble, scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forecast.core import config as configs
from forecast.core.store import Store
from forecast.core.times import format_duration, format_time
from forecast.data.sources import open_source
from pipelines.generate import generate
from pipelines.ingest import ingest
from pipelines.train import train
from pipelines.verify import verify
from tests.data import archives
from tests.data.test_real_files import GRIB, NETCDF

pytestmark = [pytest.mark.real, pytest.mark.slow]
DATES = 120
"""At most so many dates of a series."""


def settings(file: Path, root: Path, **source: Any) -> configs.Config | None:
    """A small run on one file; None where no step can be trained (one date), or no forecast begun (gaps in fields)."""
    kind = "netcdf" if file.suffix == ".nc" else "grib"
    gaps = source.pop("allow_nan", False)
    contents = open_source(archives.section(file, kind=kind, **source)).contents
    dates = contents.dates
    if gaps or len(dates) < 2:
        return None
    step = np.diff(dates).min()
    longest = max(np.split(dates, np.flatnonzero(np.diff(dates) != step) + 1), key=len)[:DATES]
    first, last = format_time(longest[0]), format_time(longest[-1])
    names = [name for name in contents.variables if name not in contents.constant][:3]
    return configs.parse({
        "name": file.stem, "root": str(root), "seed": 1,
        "source": {"kind": kind, "paths": [str(file)], "period": [first, last], **source},
        "store": {"dates_per_shard": 16},
        "data": {"train": [first, last], "validation": [first, last], "step": format_duration(step), "input_steps": 1,
                 "prognostic": names},
        "model": {"mesh_refinement": 2, "mesh_region": True, "width": 16, "heads": 2, "layers": 1, "grid_width": 16,
                  "grid_heads": 2},
        "loss": {"level_slope": 0, "level_floor": 1},
        "training": {"members": 2, "batch_size": 1, "device": "cpu", "validation_starts": 1, "validation_steps": 1,
                     "stages": [{"updates": 3, "lr": 1e-3}]},
        "forecast": {"starts": {"at": [first]}, "members": 3, "member_batch": 3,
                     "lead": format_duration(min(2, len(longest) - 1) * step)},
    })  # fmt: skip


SERIES = [*(name for name in NETCDF if "tl31" not in name), *(name for name in GRIB)]


@pytest.mark.parametrize("name", SERIES)
def test_from_file_to_scores(name: str, real_data: Path, tmp_path: Path) -> None:
    source = dict(NETCDF[name][0], variables=tuple(NETCDF[name][1])) if name in NETCDF else dict(GRIB[name])
    config = settings(real_data / name, tmp_path, **source)
    if config is None:
        pytest.skip("one date, or gaps within fields: ingested and compared in test_real_files.py")
    store = Store.open(ingest(config)[0])
    assert np.isfinite(store.statistics["stdev"]).all()
    assert train(config).exists()
    assert all(path.exists() for path in generate(config))
    _, report = verify(config)
    assert report.stat().st_size > 10_000
