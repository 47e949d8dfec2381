"""Climatology of the calendar day and hour, for anomalies and skill: mean, spread and number of the states.

Within one year every (day, hour) occurs once, so a slab's states are its part of the sums, and the parts of all years
merge here, day by day, in the order of time and in double precision, as tasks of their own. A day is that of a leap
year, 0 = 1 January and 59 = 29 February; hours are those of the store's time step. Members count as samples.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.errors import ZarrUserWarning

from forecast.core.calendar import DAYS, calendar_day, hour_of
from forecast.data.layout import Layout
from forecast.data.records import Record, load, save
from forecast.data.slabs import SlabWriter, clear_write_errors

GROUP = "climatology"


def create(store: Path, layout: Layout) -> None:
    """The empty arrays of a store's climatology: (day, hour, variable, values), one file for each day."""
    hours = len(_hours(layout))
    v, g = len(layout.climatology), layout.shape[3]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZarrUserWarning)
        group = zarr.open_group(store, mode="a").create_group(GROUP)
    group.attrs.update({"variables": list(layout.climatology), "seconds_of_day": _hours(layout)})
    compressors = [BloscCodec(typesize=4, cname="lz4", clevel=1, shuffle="shuffle"), Crc32cCodec()]
    for name in ("mean", "stdev"):
        group.create_array(name, shape=(DAYS, hours, v, g), dtype="float32", fill_value=np.nan,
                           chunks=(1, 1, 1, g), shards=(1, hours, v, g),
                           compressors=compressors,
                           dimension_names=("day", "hour", "variable", "values"))  # fmt: skip
    group.create_array("count", shape=(DAYS, hours), dtype="int32", fill_value=0, chunks=(1, hours),
                       dimension_names=("day", "hour"))  # fmt: skip


def _hours(layout: Layout) -> list[int]:
    """Seconds of the day at which there are dates."""
    return [int(second) for second in np.unique(hour_of(layout.dates))]


def days(layout: Layout) -> list[int]:
    """Calendar days on which a date is counted."""
    return np.unique(calendar_day(layout.dates[layout.counted])).tolist() if layout.climatology else []


def key(layout: Layout, day: int, keys: Mapping[int, str] | Sequence[str]) -> str:
    """What the climatology of a day depends on: the slabs that hold it."""
    touched = np.unique(np.flatnonzero(calendar_day(layout.dates) == day) // layout.dates_per_shard).tolist()
    text = "".join(keys[k] for k in touched) + str(layout.climatology)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def write(slabs: SlabWriter, day: int) -> None:
    """Merge the finished states of one calendar day, hour by hour, and record it."""
    layout = slabs.layout
    positions = np.flatnonzero((calendar_day(layout.dates) == day) & layout.in_period())
    touched = np.unique(np.flatnonzero(calendar_day(layout.dates) == day) // layout.dates_per_shard).tolist()
    records = {k: load(slabs.record(k)) for k in touched}
    rows = tuple(layout.variables.index(name) for name in layout.climatology)
    hours = _hours(layout)
    shape = (len(hours), len(rows), layout.shape[3])
    mean, squares, count = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for position in positions.tolist():
        slab, row = divmod(position, layout.dates_per_shard)
        if records[slab].present[row]:
            hour = hours.index(int(hour_of(layout.dates[position])))
            for state in slabs.read(position, rows):
                add(mean[hour], squares[hour], count[hour], state)
    with clear_write_errors(slabs.path):
        group = cast(Any, zarr.open_group(slabs.store / GROUP, mode="r+"))
        nothing = np.where(count > 0, 1.0, np.nan)
        group["mean"][day] = (mean * nothing).astype(np.float32)
        group["stdev"][day] = np.sqrt(squares / np.maximum(count, 1) * nothing).astype(np.float32)
        group["count"][day] = count.max(axis=(1, 2)).astype(np.int32)
        made = key(layout, day, {k: records[k].key for k in touched})
        save(slabs.folder / "days" / f"{day:08d}.npz", Record(made, np.empty(0, bool), {}))


def add(mean: np.ndarray, squares: np.ndarray, count: np.ndarray, state: np.ndarray) -> None:
    """Add a state to running moments of the same shape, in place (Welford 1962); NaN are left out."""
    there = np.isfinite(state)
    count += there
    change = np.where(there, state - mean, 0.0)
    mean += change / np.maximum(count, 1)
    squares += np.where(there, change * (state - mean), 0.0)
