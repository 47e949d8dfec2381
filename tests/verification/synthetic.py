"""Small stores made up for tests: a truth, and forecasts of it, in the layouts of docs/architecture.md."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import zarr

from forecast.core import forecasts as fc
from forecast.core.grids import Grid
from forecast.core.times import format_duration
from forecast.core.variables import metadata

HOUR = np.timedelta64(3600, "s")


def write_truth(
    path: Path, grid: Grid, dates: np.ndarray, fields: dict[str, np.ndarray], missing: tuple[int, ...] = ()
) -> Path:
    """A store of (T, G) fields by name."""
    data = np.stack([np.asarray(f, np.float32) for f in fields.values()], axis=1)[:, :, None]
    data[list(missing)] = np.nan
    group = zarr.create_group(path)
    group.create_array("data", data=data, chunks=(min(64, len(data)), *data.shape[1:]))
    group.create_array("dates", data=dates.astype("datetime64[s]").astype(np.int64))
    group["dates"].attrs.update(units="seconds since 1970-01-01", calendar="standard")
    group.create_array("latitudes", data=grid.latitudes)
    group.create_array("longitudes", data=grid.longitudes)
    for name, value in (("mean", np.nanmean), ("stdev", np.nanstd), ("minimum", np.nanmin), ("maximum", np.nanmax)):
        group.create_array(name, data=value(data, axis=(0, 2, 3)).astype(np.float64))
    group.attrs.update(
        variables=list(fields),
        variables_metadata={name: metadata(name) for name in fields},
        frequency=format_duration(dates[1] - dates[0]),
        field_shape=list(grid.shape),
        missing_dates=[str(dates[k]) for k in missing],
        constant_fields=[name for name in fields if name in ("lsm", "z")],
    )
    return path


def write_forecast(
    path: Path,
    grid: Grid,
    starts: np.ndarray,
    leads: np.ndarray,
    members: int,
    variables: tuple[str, ...],
    field: Callable[[str, np.datetime64, np.timedelta64], np.ndarray],
    skip: tuple[fc.Unit, ...] = (),
    member_batch: int = 4,
) -> Path:
    """A forecast store whose (M, G) fields are field(variable, start, lead); units in `skip` stay unfinished."""
    layout = fc.Layout(variables, starts, np.arange(members), leads, grid, member_batch, {"system": "synthetic"})
    fc.create(path, layout)
    group = zarr.open_group(path, mode="r+")
    lines = []
    for s, start in enumerate(starts):
        for k, lead in enumerate(leads):
            for name in variables:
                group[name][s, :, k] = np.asarray(field(name, start, lead), np.float32).reshape(
                    members, *layout.field_shape
                )
            units = [(s, b, k) for b in range(layout.batches)]
            lines += [fc.ledger_line(layout, unit) for unit in units if unit not in skip]
    (path / "finished-0-of-1.jsonl").write_text("".join(lines))
    return path
