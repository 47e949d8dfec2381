"""What `forecast inspect` prints is in the store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from forecast.core import forecasts, grids
from forecast.core.errors import ForecastError
from forecast.data.inspect import inspect
from tests.data.archives import DATES, netcdf, store


def printed(path: Path) -> str:
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(inspect(path))
    return console.export_text()


def test_a_store(tmp_path: Path) -> None:
    netcdf(tmp_path / "a.nc", dates=DATES[[0, 1, 2, 5, 7, 8, 9]], units={"t2m": "K", "z500": "m2 s-2"})
    found = store(tmp_path, tmp_path / "a.nc")
    text = printed(found.path)
    for fact in ("10, 2020-02-27T00 to 2020-02-29T06, every 6h",
                 "3 in 2 gaps: 2020-02-27T18 to 2020-02-28T00, 2020-02-28T12", "1 x 2 x 1 x 12", "4 x 2 x 1 x 12",
                 "latlon-3x4: 12 points, latitudes 45 to 50, longitudes -5 to 2.5",
                 "m**2 s**-2", "not verified by checksums"):  # fmt: skip
        assert fact in text, text
    line = next(line for line in text.splitlines() if line.startswith("2t"))
    numbers = [found.statistics[k][0] for k in ("mean", "stdev", "minimum", "maximum")]
    assert line.split() == ["2t", "K", *(f"{n:.5g}" for n in numbers), f"{found.tendencies['stdev'][0]:.4g}"]  # type: ignore[index]
    assert max(map(len, text.splitlines())) <= 80


def test_a_forecast_store(tmp_path: Path) -> None:
    layout = forecasts.Layout(
        variables=("z_500", "2t"), starts=DATES[:2], members=np.arange(5),
        leads=np.arange(4) * np.timedelta64(6 * 3600, "s"), grid=grids.gaussian(8), member_batch=2,
        settings={"system": "learnt", "seed": 7},
    )  # fmt: skip
    forecasts.create(tmp_path / "f.zarr", layout)
    text = printed(tmp_path / "f.zarr")
    for fact in ("2, 2020-02-27T00 to 2020-02-27T06", "5, in batches of 2", "4, to 18h", "0 of 24 units", "learnt"):
        assert fact in text, text


def test_anything_else(tmp_path: Path) -> None:
    with pytest.raises(ForecastError, match="no store at"):
        inspect(tmp_path / "nothing")
    with pytest.raises(ForecastError, match="is not a Zarr store"):
        inspect(tmp_path)
