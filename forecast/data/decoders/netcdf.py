"""NetCDF files: what is in them, and values of one variable."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from scipy.io import netcdf_file

from forecast.core.errors import ForecastError
from forecast.data.decoders.damage import MOST_POINTS, decoding


@dataclass(frozen=True)
class Described:
    """A variable that is not read yet."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype
    attrs: dict[str, Any]


def describe(path: Path) -> tuple[xr.Dataset, dict[str, Described]]:
    """The coordinates of a file, decoded and read, and what is known of its variables.

    Raises:
        ForecastError: another format, truncated, or times without units.
    """
    with path.open("rb") as file:
        magic = file.read(4)
    if magic.startswith(b"GRIB"):
        raise ForecastError(f"{path} is a GRIB file: set source.kind to grib")
    if magic in (b"CDF\x01", b"CDF\x02"):
        _check_classic(path)
    dataset = _kept(path)
    with decoding(path):
        for name, axis in dataset.coords.items():
            if axis.size > MOST_POINTS:
                raise ForecastError(f"{path}: `{name}` of {axis.size:,} values")
        variables = {
            str(name): Described(tuple(map(str, data.dims)), data.shape, data.dtype, dict(data.attrs))
            for name, data in dataset.data_vars.items()
        }
        return dataset.coords.to_dataset().load(), variables


def values(path: Path, name: str, key: tuple[Any, ...]) -> np.ndarray:
    """Decoded values of a variable at positions along its dimensions, integers, slices or (n,) arrays."""
    with decoding(path):
        return np.asarray(_kept(path)[name].variable[key].values)


_MOST_OPEN = 8
_held: dict[Path, tuple[int, xr.Dataset]] = {}


def _kept(path: Path) -> xr.Dataset:
    """The dataset of a file, open since it was last asked for unless the file has changed.

    HDF5 takes a file that was written anew for the one that it has open, so the old one is closed first.
    """
    path, changed = path.absolute(), path.stat().st_mtime_ns
    known, dataset = _held.pop(path, (0, None))
    if dataset is not None and known != changed:
        dataset.close()
    if dataset is None or known != changed:
        dataset = _open(path)
    _held[path] = changed, dataset
    if len(_held) > _MOST_OPEN:
        _held.pop(next(iter(_held)))[1].close()
    return dataset


def _open(path: Path) -> xr.Dataset:
    try:
        with decoding(path), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return xr.open_dataset(path, engine="netcdf4", cache=False)
    except OSError as error:
        raise ForecastError(f"{path} is no NetCDF file, or is cut short ({error})") from None


def _check_classic(path: Path) -> None:
    """Refuse a truncated classic NetCDF file, whose lost values the NetCDF library would return as zeros."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            netcdf_file(path, "r", mmap=True).close()
    except Exception as error:
        raise ForecastError(f"{path} is cut short or corrupt ({error})") from None
