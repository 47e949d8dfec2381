"""NetCDF files, and ZIP archives of them, through xarray; `fields` says what is understood."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from forecast.core.archive_sections import FileSource
from forecast.data.decoders.netcdf import Described
from forecast.data.decoders.process import call
from forecast.data.sources.catalogue import expand
from forecast.data.sources.fields import DatasetSource
from forecast.data.sources.zipped import unpacked


class NetcdfSource(DatasetSource):
    """The fields of NetCDF files, by date, variable and member; see `catalogue.Source`."""

    def __init__(self, section: FileSource) -> None:
        """Open all files of `section` and index their variables.

        Raises:
            ForecastError: no NetCDF, truncated, or fields that cannot be taken (`DatasetSource`).
        """
        files = [member for file in expand(section.paths) for member in unpacked(file, section.unpack)]
        super().__init__(section, [*files], (_open(file) for file in files), "Reading NetCDF headers")


@dataclass(frozen=True, eq=False)
class _Values(BackendArray):
    """The values of a variable, read by a process of its own when they are asked for."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> np.ndarray:
        return call("netcdf.values", self.path, self.name, key)


def _open(path: Path) -> xr.Dataset:
    """The dataset of a file, its coordinates read, its variables not.

    Raises:
        ForecastError: another format, truncated, damaged, or times without units.
    """
    coordinates: xr.Dataset
    found: dict[str, Described]
    coordinates, found = call("netcdf.describe", path)
    variables = {}
    for name, of in found.items():
        data = indexing.LazilyIndexedArray(_Values(path, name, of.shape, of.dtype))
        variables[name] = xr.Variable(of.dims, data, of.attrs)
    return coordinates.assign(variables)
