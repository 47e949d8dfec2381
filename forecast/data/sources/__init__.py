"""Where states come from: one file per kind of source, all behind `catalogue.Source`."""

from __future__ import annotations

from pathlib import Path

from forecast.core.archive_sections import AnemoiSource, ArchiveSource, FileSource, ZarrSource
from forecast.core.errors import ForecastError
from forecast.data.sources.anemoi import AnemoiDataset
from forecast.data.sources.catalogue import Contents, Source, expand
from forecast.data.sources.checksums import verify
from forecast.data.sources.grib import GribSource
from forecast.data.sources.netcdf import NetcdfSource
from forecast.data.sources.refined import Refined
from forecast.data.sources.zarr_archive import ZarrArchive

__all__ = ["Contents", "Source", "open_source"]


def open_source(section: ArchiveSource) -> Source:
    """Index an archive, without reading its values.

    Raises:
        ForecastError: nothing there, or it may not be read; corrupt, doubled, incomplete or mis-shaped fields; unknown
            names or units.
    """
    try:
        return Refined(_plain(section), section)
    except OSError as error:
        raise ForecastError(f"cannot read {error.filename or 'the source'}: {error.strerror or error}") from None


def _plain(section: ArchiveSource) -> Source:
    if isinstance(section, ZarrSource):
        return ZarrArchive(section)
    if isinstance(section, AnemoiSource):
        return AnemoiDataset(section)
    assert isinstance(section, FileSource)
    if section.checksums is not None:
        verify(expand(section.paths), Path(section.checksums))
    return GribSource(section) if section.kind == "grib" else NetcdfSource(section)
