"""What a store or a forecast store holds, on one screen."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import zarr
from rich.console import Group
from rich.table import Table

from forecast.core import variables
from forecast.core.forecasts import Forecasts
from forecast.core.store import Store
from forecast.core.times import format_duration, format_time


def inspect(path: str | Path) -> Group:
    """Dates, gaps, grid, chunks, sizes and a line for each variable, to be printed with rich.

    Raises:
        ForecastError: no store of either kind.
    """
    path = Path(path)
    if (path / "zarr.json").is_file() and not (path / "data").exists():
        return _of_forecasts(Forecasts.open(path))
    return _of_store(Store.open(path))


def describe_missing(store: Store) -> str:
    """The missing dates of a store, gap by gap."""
    gone = store.dates[store.missing]
    if not gone.size:
        return "none"
    breaks = np.flatnonzero(np.diff(gone) > store.frequency) + 1
    gaps = [(part[0], part[-1]) for part in np.split(gone, breaks)]
    listed = [format_time(a) if a == b else f"{format_time(a)} to {format_time(b)}" for a, b in gaps]
    shown = ", ".join(listed[:12]) + (f" and {len(listed) - 12} more" if len(listed) > 12 else "")
    return f"{gone.size} in {len(gaps)} gap{'s' if len(gaps) > 1 else ''}: {shown}"


def _of_store(store: Store) -> Group:
    data = cast(Any, zarr.open_group(store.path, mode="r")["data"])
    t, v, members, g = data.shape
    facts = _facts(store.path)
    facts.add_row("dates", f"{t}, {format_time(store.dates[0])} to {format_time(store.dates[-1])}, "
                           f"every {format_duration(store.frequency)}")  # fmt: skip
    facts.add_row("missing", describe_missing(store))
    facts.add_row("grid", f"{store.grid.name}: {g} points, {_region(store)}")
    facts.add_row("members", str(members))
    facts.add_row("chunks", f"{_shape(data.chunks)} (date, variable, member, point)")
    facts.add_row("shards", _shape(data.shards) if data.shards else "none")
    facts.add_row("size", _size(store.path, t * v * members * g * 4))
    if "verified_by" in store.attrs:
        by = store.attrs["verified_by"]
        facts.add_row("source", f"verified by {by}" if by else "not verified by checksums")
    first, last = (store.attrs.get(f"statistics_{end}_date") for end in ("start", "end"))
    facts.add_row("statistics", f"of {first} to {last}" if first else "period unstated")
    return Group(facts, _variables(store))


def _variables(store: Store) -> Table:
    step = format_duration(store.frequency)
    numeric = ("mean", "stdev", "minimum", "maximum", f"stdev of {step} change")
    table = Table("variable", "units", *numeric, box=None, pad_edge=False)
    for column in table.columns:
        column.no_wrap = True
        column.justify = "left" if column.header in ("variable", "units") else "right"
    table.columns[-1].no_wrap, table.columns[-1].max_width = False, 9
    tendency = store.tendencies
    for k, name in enumerate(store.variables):
        numbers = [store.statistics[kind][k] for kind in ("mean", "stdev", "minimum", "maximum")]
        change = f"{tendency['stdev'][k]:.4g}" if tendency else "-"
        if name in store.constant_fields:
            change = "constant"
        table.add_row(name, store.units[name], *(f"{n:.5g}" for n in numbers), change)
    return table


def _of_forecasts(store: Forecasts) -> Group:
    facts = _facts(store.path)
    starts, leads = store.starts, store.leads
    facts.add_row("starts", f"{len(starts)}, {format_time(starts[0])} to {format_time(starts[-1])}")
    facts.add_row("members", f"{len(store.members)}, in batches of {store.member_batch}")
    facts.add_row("lead times", f"{len(leads)}, to {format_duration(leads[-1])}")
    facts.add_row("finished", f"{int(store.units.sum())} of {store.units.size} units (start, member batch, lead time)")
    facts.add_row("grid", f"{store.grid.name}: {store.grid.size} points")
    fields = len(starts) * len(store.members) * len(leads) * len(store.variables)
    facts.add_row("size", _size(store.path, fields * store.grid.size * 4))
    for key, value in store.attrs.items():
        if key == "events":
            continue  # which stand among the variables
        facts.add_row(key, str(value))
    table = Table("variable", "name", "units", box=None, pad_edge=False)
    for name in store.variables:
        described = variables.metadata(name) | store.attrs.get("events", {}).get(name, {})
        table.add_row(name, described["long_name"], described["units"])
    return Group(facts, table)


def _facts(path: Path) -> Table:
    table = Table.grid(padding=(0, 2))
    table.title, table.title_justify, table.title_style = str(path), "left", "bold"
    return table


def _region(store: Store) -> str:
    grid = store.grid
    if grid.is_global:
        return "global"
    east = (grid.longitudes + 180.0) % 360.0 - 180.0 if np.ptp(grid.longitudes) > 180.0 else grid.longitudes
    south, north, west, east_end = grid.latitudes.min(), grid.latitudes.max(), east.min(), east.max()
    return f"latitudes {south:g} to {north:g}, longitudes {west:g} to {east_end:g}"


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _size(path: Path, plain: int) -> str:
    files = [p for p in path.rglob("*") if p.is_file()]
    stored = sum(p.stat().st_size for p in files)
    return f"{stored / 1e6:,.1f} MB in {len(files)} files ({plain / 1e6:,.1f} MB of float32)"
