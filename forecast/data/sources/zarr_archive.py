"""Zarr archives of named variables, local or remote through fsspec: ARCO-ERA5, WeatherBench 2; see `fields`."""

from __future__ import annotations

import warnings

import numpy as np
import xarray as xr

from forecast.core.archive_sections import ZarrSource
from forecast.core.errors import ForecastError
from forecast.data.sources.catalogue import Unreachable
from forecast.data.sources.fields import DatasetSource

BEFORE = np.timedelta64(24, "h")
"""What is kept before the period, for amounts that are summed up to its first date."""


class ZarrArchive(DatasetSource):
    """The fields of a Zarr archive, by date, variable and member; see `catalogue.Source`."""

    def __init__(self, section: ZarrSource) -> None:
        """Read the metadata and axes of the archive, no values.

        Raises:
            ForecastError: it cannot be opened, or holds what cannot be taken (`DatasetSource`).
        """
        super().__init__(section, [section.url], [_open(section)], f"Reading {section.url}")

    def read(self, dates: np.ndarray) -> np.ndarray:
        """See `catalogue.Source`.

        Raises:
            Unreachable: whatever the way to the archive raised.
        """
        try:
            return super().read(dates)
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise Unreachable(f"{self._files[0]} cannot be read ({reason})") from None


def _open(section: ZarrSource) -> xr.Dataset:
    """The lazy dataset, cut to the period.

    Raises:
        ForecastError: there is none, it cannot be reached or decoded, or the package for its protocol is missing.
    """
    options = section.storage_options or None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = xr.open_zarr(section.url, chunks=None, storage_options=options)
    except ImportError as error:
        raise ForecastError(f"{section.url}: {error}; e.g. pip install gcsfs, s3fs or aiohttp") from None
    except Exception as error:  # whatever fsspec, its protocols and zarr raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ForecastError(f"{section.url} cannot be opened as a Zarr archive ({reason})") from None
    if not dataset.data_vars:
        raise ForecastError(f"{section.url} is a Zarr group without variables")
    if section.period is not None:
        axis = next((name for name in ("valid_time", "time") if name in dataset.indexes), None)
        if axis is not None:
            dataset = dataset.sel({axis: slice(section.period[0] - BEFORE, section.period[1])})
    return dataset
