"""Where states come from: one file per kind of source, all behind `catalogue.Source`."""

from __future__ import annotations

from forecast.core import sections
from forecast.data.sources.catalogue import Contents, Source
from forecast.data.sources.grib import GribSource
from forecast.data.sources.netcdf import NetcdfSource

__all__ = ["Contents", "Source", "open_source"]


def open_source(section: sections.FileSource) -> Source:
    """Index the files of a source, without reading their values.

    Raises:
        ForecastError: no such file; corrupt, doubled, incomplete or mis-shaped fields; unknown names or units.
    """
    return GribSource(section) if section.kind == "grib" else NetcdfSource(section)
