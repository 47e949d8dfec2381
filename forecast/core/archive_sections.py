"""What a run's configuration may say about the archive: a section for each kind of source, and the store."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from forecast.core.sections import Duration, Section, Time


class PlanetSource(Section):
    """The sample planet as an archive (forecast/planet)."""

    kind: Literal["planet"]
    years: int = Field(8, ge=1, description="simulated years, one trajectory each, run side by side")
    first_year: int = 2001
    truncation: Literal[21, 31] = 21
    seed: int = 1


class ArchiveSource(Section):
    """What is wanted of any archive of states."""

    variables: tuple[str, ...] | None = Field(
        None, description="names to keep (z_500, 2t), without level (z, t) where `levels` says which; all if absent"
    )
    levels: tuple[int, ...] = Field((), description="hPa, of the variables that are listed without one")
    period: tuple[Time, Time] | None = Field(None, description="first and last date; all if absent")
    frequency: Duration | None = Field(
        None,
        description="time step of the store, from `period`'s first date or 00 UTC; the archive's own if absent. "
        "Amounts (tp) are summed over it",
    )
    grid: str | None = Field(None, description="regrid to this one (O96, N320, 1.0, ...); the archive's own if absent")
    regrid: Literal["conservative", "linear", "gaussian"] = Field("conservative", description="how, with `grid`")
    retries: int = Field(2, ge=0, description="further tries for a date that cannot be read")
    unreadable: Literal["stop", "missing"] = Field(
        "stop", description="dates that stay unreadable: list them and stop before the store is finished, or leave gaps"
    )

    def names(self) -> tuple[str, ...] | None:
        """The variables wanted, levels spelt out."""
        from forecast.core import variables as table

        if self.variables is None or not self.levels:
            return self.variables
        out: list[str] = []
        for name in self.variables:
            known = table.find(name)
            spread = known is not None and known.levels and table.level_of(name) is None
            out += [table.join(name, level) for level in self.levels] if spread else [name]
        return tuple(dict.fromkeys(out))

    @model_validator(mode="after")
    def _in_order(self) -> ArchiveSource:
        if self.period is not None and self.period[0] > self.period[1]:
            raise ValueError("period: the first date lies behind the last")
        if self.levels and self.variables is None:
            raise ValueError("levels: list the variables that are wanted at them in `variables`")
        return self


class FileSource(ArchiveSource):
    """GRIB or NetCDF files."""

    kind: Literal["grib", "netcdf"]
    paths: tuple[str, ...] = Field(min_length=1, description="files or glob patterns, relative to the working folder")
    checksums: str | None = Field(None, description="list by sha256sum that all files are verified against")
    unpack: str | None = Field(None, description="folder for the members of ZIP archives; beside them if absent")
    rename: dict[str, str] = Field({}, description="name in the file -> ERA5 name, where the file's is not known")
    units: dict[str, str] = Field({}, description="ERA5 name -> unit, where the file states none")


class ZarrSource(ArchiveSource):
    """A Zarr archive of named variables: ARCO-ERA5, WeatherBench 2, or anything that xarray opens."""

    kind: Literal["zarr"]
    url: str = Field(description="folder, or anything that fsspec reads: gs://, s3://, https://")
    storage_options: dict[str, Any] = Field({}, description="for fsspec, e.g. {token: anon}")
    rename: dict[str, str] = Field({}, description="name in the archive -> ERA5 name, where the archive's is not known")
    units: dict[str, str] = Field({}, description="ERA5 name -> unit, where the archive states none")


class AnemoiSource(ArchiveSource):
    """What `anemoi.datasets.open_dataset` opens: a store, or joins, subsets and ensembles of several."""

    kind: Literal["anemoi"]
    dataset: str | dict[str, Any] | list[Any] = Field(description="as for open_dataset: a path, or {join: [...]}, ...")


AnySource = PlanetSource | FileSource | ZarrSource | AnemoiSource
Source = Annotated[AnySource, Field(discriminator="kind")]


class StoreSection(Section):
    """What ingest writes, and who does the work."""

    path: str = "truth.zarr"
    grid: str | None = Field(None, description="its grid by name (N320), so that `forecast check` can tell sizes early")
    analysis: str | None = Field(None, description="second store with the analyses (sample planet only)")
    dates_per_shard: int | None = Field(None, ge=1, description="64, fewer where a shard would exceed a gigabyte")
    variables_per_chunk: int | None = Field(None, ge=1, description="chosen by the size of a state if absent")
    points_per_chunk: int | None = Field(None, ge=1, description="chosen by the size of a state if absent")
    compression: Literal["lz4", "zstd", "none"] = Field("lz4", description="of Blosc, with byte shuffle")
    level: int = Field(1, ge=1, le=9, description="of the compression")
    keep_bits: Annotated[int, Field(ge=1, le=23)] | dict[str, Annotated[int, Field(ge=1, le=23)]] = Field(
        23, description="of the mantissa, for all or by variable; the relative error is at most 2^-(bits + 1)"
    )
    climatology: tuple[str, ...] = Field((), description="variables that get one of calendar day and hour, or [all]")
    workers: int = Field(2, ge=1, description="Dask threads or processes; a scheduler has its own")
    scheduler: str = Field("threads", description="threads, processes, or the address of a dask.distributed scheduler")
    implausible: Literal["refuse", "accept"] = Field("refuse", description="values the atmosphere cannot have")
    allow_nan: bool = Field(False, description="accept missing values within fields, e.g. sst over land")

    @model_validator(mode="after")
    def _known_scheduler(self) -> StoreSection:
        if self.scheduler not in ("threads", "processes") and "://" not in self.scheduler:
            raise ValueError(f"scheduler `{self.scheduler}`: threads, processes, or an address such as tcp://host:8786")
        return self


def shard_dates(state_bytes: int) -> int:
    """Dates of a shard of such states: a power of two, at most 64 or a gigabyte."""
    return int(2 ** np.clip(np.log2((1 << 30) / max(state_bytes, 1)) // 1, 0, 6))
