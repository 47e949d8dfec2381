"""A subset of a store as a Zarr v2 store in anemoi's own layout, for tools that read nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numcodecs import Blosc

from forecast.core.errors import ForecastError
from forecast.core.progress import bar
from forecast.core.store import STATISTICS, Store
from forecast.core.times import format_time

KEPT = ("version", "layout", "dimensions", "dtype", "frequency", "field_shape", "resolution", "allow_nans", "title")


def export_anemoi(
    path: str | Path,
    out: str | Path,
    variables: Sequence[str] | None = None,
    period: tuple[np.datetime64, np.datetime64] | None = None,
) -> Path:
    """Write variables and dates of the store at `path` to `out`, with the statistics of the whole store.

    Raises:
        ForecastError: no such store, variable or date; `out` exists.
    """
    store, out = Store.open(path), Path(out)
    if out.exists():
        raise ForecastError(f"{out} exists: remove it, or name another")
    names = tuple(variables or store.variables)
    columns = store.position(names)
    first, last = period or (store.dates[0], store.dates[-1])
    times = store.indices(first, last)
    if not times.size:
        raise ForecastError(f"{path} holds no date from {format_time(first)} to {format_time(last)}")
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    group = zarr.open_group(partial, mode="w", zarr_format=2)
    shape = (len(times), len(names), store.ensemble, store.latitudes.size)
    data = _array(group, "data", ("time", "variable", "ensemble", "cell"), shape, "f4", (1, *shape[1:2], 1, shape[3]))
    with bar(f"Writing {out.name}", len(times)) as progress:
        for t, time in enumerate(times.tolist()):
            for member in range(store.ensemble):
                data[t, :, member] = store.read(time, names, member)[0]
            progress.advance()
    dates = store.dates[times]
    small = {"dates": ("time", dates), "latitudes": ("cell", store.latitudes), "longitudes": ("cell", store.longitudes)}
    small |= {name: ("variable", values[columns]) for name, values in _statistics(store).items()}
    for name, (dimension, values) in small.items():
        _array(group, name, (dimension,), values.shape, values.dtype, values.shape)[:] = values
    group.attrs.update(_attributes(store, names, times))
    partial.rename(out)
    return out


def _statistics(store: Store) -> dict[str, np.ndarray]:
    """All arrays with a value for each variable."""
    group = zarr.open_group(store.path, mode="r")
    wanted = [name for name in group.array_keys() if name in STATISTICS or name.startswith("statistics_tendencies_")]
    return {name: np.asarray(group[name]) for name in wanted}


def _attributes(store: Store, names: Sequence[str], times: np.ndarray) -> dict[str, Any]:
    dates, described = store.dates[times], store.attrs.get("variables_metadata") or {}
    missing = [str(date) for date in dates[store.missing[times]]]
    return {
        **{key: store.attrs[key] for key in KEPT if key in store.attrs},
        "variables": list(names),
        "variables_metadata": {name: described.get(name, {}) for name in names},
        "constant_fields": [name for name in store.constant_fields if name in names],
        "start_date": str(dates[0]),
        "end_date": str(dates[-1]),
        "missing_dates": missing,
        "statistics_start_date": store.attrs.get("statistics_start_date"),
        "statistics_end_date": store.attrs.get("statistics_end_date"),
        "shape": [len(times), len(names), store.ensemble, store.latitudes.size],
    }


def _array(group: Any, name: str, dimensions: tuple[str, ...], shape: tuple[int, ...], dtype: Any,
           chunks: tuple[int, ...]) -> Any:  # fmt: skip
    array = group.create_array(name, shape=shape, dtype=dtype, chunks=chunks,
                               fill_value=np.nan if dtype == "f4" else None,
                               compressors=Blosc("lz4", clevel=5, shuffle=Blosc.SHUFFLE))  # fmt: skip
    array.attrs["_ARRAY_DIMENSIONS"] = list(dimensions)
    return array
