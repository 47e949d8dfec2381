"""NetCDF files through xarray; `fields` says what is understood."""

from __future__ import annotations

import warnings
from pathlib import Path

import xarray as xr
from scipy.io import netcdf_file

from forecast.core.archive_sections import FileSource
from forecast.core.errors import ForecastError
from forecast.data.decoding import decoding
from forecast.data.sources.catalogue import expand
from forecast.data.sources.fields import DatasetSource


class NetcdfSource(DatasetSource):
    """The fields of NetCDF files, by date, variable and member; see `catalogue.Source`."""

    def __init__(self, section: FileSource) -> None:
        """Open all files of `section` and index their variables.

        Raises:
            ForecastError: no NetCDF, truncated, or fields that cannot be taken (`DatasetSource`).
        """
        files = expand(section.paths)
        super().__init__(section, [*files], (_open(file) for file in files), "Reading NetCDF headers")


def _open(path: Path) -> xr.Dataset:
    """The dataset of a file, decoded but not read.

    Raises:
        ForecastError: another format, truncated, or times without units.
    """
    with path.open("rb") as file:
        magic = file.read(4)
    if magic.startswith(b"PK"):
        raise ForecastError(f"{path} is a ZIP archive (the CDS names such files .nc): unpack it and list what is in it")
    if magic.startswith(b"GRIB"):
        raise ForecastError(f"{path} is a GRIB file: set source.kind to grib")
    if magic in (b"CDF\x01", b"CDF\x02"):
        _check_classic(path)
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
