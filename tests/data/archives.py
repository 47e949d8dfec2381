"""Small GRIB and NetCDF files, and a config that ingests them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import eccodes
import numpy as np
import xarray as xr

from forecast.core import config as configs
from forecast.core.archive_sections import FileSource
from forecast.core.config import Config
from forecast.core.store import Store
from forecast.data.ingest import ingest

LATITUDES, LONGITUDES = np.array([50.0, 47.5, 45.0]), np.array([-5.0, -2.5, 0.0, 2.5])
DATES = np.datetime64("2020-02-27T00", "s") + np.arange(10) * np.timedelta64(6, "h")


def config(root: Path, source: Mapping[str, Any], **store: Any) -> Config:
    """A config around a source; its training period holds every date."""
    return configs.parse({
        "name": "test", "root": str(root), "source": dict(source),
        "store": {"implausible": "accept", **store},
        "data": {"train": ["1800-01-01", "2200-01-01"], "validation": ["1800-01-01", "2200-01-01"],
                 "prognostic": ["z_500"]},
        "training": {"stages": [{"updates": 1, "lr": 1e-3}]},
        "forecast": {"starts": {"at": ["2020-01-01"]}},
    })  # fmt: skip


def store(root: Path, *paths: Path, kind: str = "netcdf", allow_nan: bool = False, dates_per_shard: int = 4,
          implausible: str = "accept", **source: Any) -> Store:  # fmt: skip
    """The store that files are ingested into."""
    section = {"kind": kind, "paths": [str(p) for p in paths], **source}
    options = {"allow_nan": allow_nan, "dates_per_shard": dates_per_shard, "implausible": implausible}
    return Store.open(ingest(config(root, section, **options))[0])


def section(*paths: Path, kind: str = "netcdf", **source: Any) -> FileSource:
    """The source section of a config."""
    return FileSource(kind=kind, paths=tuple(map(str, paths)), **source)  # type: ignore[arg-type]


def field(*where: int, offset: float = 0.0) -> np.ndarray:
    """(3, 4) float32 values that differ from place to place."""
    rng = np.random.default_rng(where)
    return (offset + rng.standard_normal((3, 4))).astype(np.float32)


def weather(latitudes: np.ndarray, longitudes: np.ndarray, date: int, seed: int) -> np.ndarray:
    """(G,) values as smooth as temperature: warm at the equator, waves that travel east, finer ones weaker."""
    rng = np.random.default_rng(seed)
    south, east = np.radians(90.0 - latitudes), np.radians(longitudes)
    values = 285.0 - 30.0 * np.cos(south) ** 2
    for k in range(1, 9):
        for n in range(1, 7):
            phase, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0.02, 0.1)
            size = 20.0 * rng.standard_normal() / (k * k + n * n) ** 1.25
            values += size * np.sin(n * south) ** 2 * np.sin(south) * np.cos(k * (east - speed * date) + phase)
    return np.asarray(values)


def netcdf(path: Path, variables: Mapping[str, tuple[str, ...]] | None = None, dates: np.ndarray = DATES,
           units: Mapping[str, str] | None = None, **options: Any) -> xr.Dataset:  # fmt: skip
    """A file of the old CDS kind, (time, latitude, longitude), and what it holds."""
    units = {"t2m": "K", "msl": "Pa"} if units is None else units
    data = {
        name: (("time", "latitude", "longitude"), np.stack([field(k, t, offset=280.0) for t in range(len(dates))]),
               {"units": unit} if unit else {})
        for k, (name, unit) in enumerate(units.items())
    }  # fmt: skip
    dataset = xr.Dataset(data, {"time": dates.astype("datetime64[ns]"), "latitude": LATITUDES, "longitude": LONGITUDES})
    dataset.to_netcdf(path, **options)
    return dataset


def message(values: np.ndarray, when: np.datetime64 = DATES[0], *, bits: int = 24, sample: str = "regular_ll_pl_grib1",
            **keys: Any) -> bytes:  # fmt: skip
    """One GRIB message on the small grid; NaN becomes a bitmap."""
    handle = eccodes.codes_grib_new_from_samples(sample)
    stamp = str(when.astype("datetime64[m]"))
    grid = {
        "Ni": 4, "Nj": 3, "latitudeOfFirstGridPointInDegrees": 50.0, "latitudeOfLastGridPointInDegrees": 45.0,
        "longitudeOfFirstGridPointInDegrees": -5.0, "longitudeOfLastGridPointInDegrees": 2.5,
        "iDirectionIncrementInDegrees": 2.5, "jDirectionIncrementInDegrees": 2.5,
    }  # fmt: skip
    time = {"dataDate": int(stamp[:10].replace("-", "")), "dataTime": int(stamp[11:].replace(":", ""))}
    for key, value in {**grid, **time, **keys}.items():
        eccodes.codes_set(handle, key, value)
    flat = np.asarray(values, np.float64).ravel()
    if np.isnan(flat).any():
        eccodes.codes_set(handle, "bitmapPresent", 1)
        eccodes.codes_set(handle, "missingValue", 1e30)
    eccodes.codes_set(handle, "bitsPerValue", bits)
    eccodes.codes_set_values(handle, np.where(np.isnan(flat), 1e30, flat))
    coded: bytes = eccodes.codes_get_message(handle)
    eccodes.codes_release(handle)
    return coded


def decoded(coded: bytes) -> np.ndarray:
    """The values of one message as float32, as eccodes alone gives them."""
    handle = eccodes.codes_new_from_message(coded)
    values = eccodes.codes_get_values(handle).astype(np.float32)
    eccodes.codes_release(handle)
    return values
