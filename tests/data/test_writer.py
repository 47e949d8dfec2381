"""A store is written whole or not at all, and goes on after any kill to the same bytes."""

from __future__ import annotations

import fcntl
import hashlib
import os
import resource
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from forecast.core import grids, variables
from forecast.core.errors import ForecastError
from forecast.core.store import Store
from forecast.data.layout import Layout
from forecast.data.writer import DiskError, StoreWriter

GRID = grids.gaussian(8)
NAMES = ("z_500", "2t", "lsm")


def layout(dates: int = 22, **changes: object) -> Layout:
    plan = Layout(
        dates=np.datetime64("2001-01-01", "s") + np.arange(dates) * np.timedelta64(6, "h"),
        variables=NAMES,
        metadata={name: variables.metadata(name) for name in NAMES},
        latitudes=GRID.latitudes,
        longitudes=GRID.longitudes,
        field_shape=GRID.shape,
        frequency=np.timedelta64(6, "h"),
        dates_per_shard=5,
        tendencies=(np.timedelta64(24, "h"),),
        constant=("lsm",),
    )
    return replace(plan, **changes)  # type: ignore[arg-type]


def states(plan: Layout) -> np.ndarray:
    """(T, V, members, G) float32; lsm constant."""
    values = np.random.default_rng(1).standard_normal(plan.shape).astype(np.float32)
    values[:, 2] = values[0, 2]
    return values


def write(path: Path, plan: Layout, values: np.ndarray, slabs: list[int] | None = None) -> StoreWriter:
    writer = StoreWriter(path, plan)
    for slab in writer.todo if slabs is None else slabs:
        writer.write(slab, values[plan.slabs[slab]])
    return writer


def digest(folder: Path) -> dict[str, str]:
    """Every file of a store and its hash."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.mark.parametrize("members", [1, 3])
def test_what_is_written_is_read(tmp_path: Path, members: int) -> None:
    plan = layout(members=members)
    values = states(plan)
    store = Store.open(write(tmp_path / "a.zarr", plan, values).finish())
    for member in range(members):
        np.testing.assert_array_equal(store.read(slice(None), member=member), values[:, :, member])
    assert store.constant_fields == ("lsm",) and store.ensemble == members
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


def test_slabs_in_any_order_and_process_give_the_same_bytes(tmp_path: Path) -> None:
    plan = layout()
    values = states(plan)
    write(tmp_path / "a.zarr", plan, values).finish()
    write(tmp_path / "b.zarr", plan, values, [3, 0]).close()
    write(tmp_path / "b.zarr", plan, values, [4, 1]).close()
    last = StoreWriter(tmp_path / "b.zarr", plan)
    assert last.todo == [2]
    last.write(2, values[plan.slabs[2]])
    last.finish()
    assert digest(tmp_path / "a.zarr") == digest(tmp_path / "b.zarr")


def test_no_two_slabs_share_a_file_and_chunks_hold_one_date(tmp_path: Path) -> None:
    plan = layout()
    write(tmp_path / "a.zarr", plan, states(plan)).finish()
    data = zarr.open_group(tmp_path / "a.zarr", mode="r")["data"]
    assert data.chunks == (1, 3, 1, 128) and data.shards == (5, 3, 1, 128)
    assert sorted(p.parts[-4] for p in (tmp_path / "a.zarr/data/c").glob("*/0/0/0")) == list("01234")


def test_large_fields_are_cut_so_that_a_part_can_be_read() -> None:
    chunks, shards = replace(layout(), latitudes=np.zeros(542_080), variables=tuple(map(str, range(80)))).chunking()
    assert np.prod(chunks) * 4 <= 8 << 20 and shards[3] >= 542_080 and shards[3] % chunks[3] == 0


def test_a_store_that_is_there_is_kept_and_another_is_not_overwritten(tmp_path: Path) -> None:
    plan = layout()
    write(tmp_path / "a.zarr", plan, states(plan)).finish()
    before = digest(tmp_path / "a.zarr")
    again = StoreWriter(tmp_path / "a.zarr", plan)
    assert again.complete and again.todo == [] and again.finish() == tmp_path / "a.zarr"
    assert StoreWriter(tmp_path / "a.zarr", replace(plan, provenance={"title": "another"})).complete
    with pytest.raises(ForecastError, match=r"made from something else \(other shape, end_date, .*\): bring it up"):
        StoreWriter(tmp_path / "a.zarr", layout(dates=23))
    with pytest.raises(ForecastError, match=r"made from something else \(other chunks or points\)"):
        StoreWriter(tmp_path / "a.zarr", layout(dates_per_shard=6))
    assert digest(tmp_path / "a.zarr") == before


def test_an_unfinished_store_of_another_layout_is_begun_anew(tmp_path: Path) -> None:
    write(tmp_path / "a.zarr", layout(), states(layout()), [0, 1]).close()
    plan = layout(dates=12)
    writer = StoreWriter(tmp_path / "a.zarr", plan)
    assert writer.todo == [2]  # the first ten dates are the same
    assert StoreWriter(tmp_path / "b.zarr", plan).todo == [0, 1, 2]


def test_what_an_unfinished_store_holds_of_other_points_is_thrown_away(tmp_path: Path) -> None:
    write(tmp_path / "a.zarr", layout(), states(layout()), [0, 1]).close()
    assert StoreWriter(tmp_path / "a.zarr", layout(longitudes=GRID.longitudes + 1.0)).todo == [0, 1, 2, 3, 4]


def test_an_unfinished_store_cannot_be_opened(tmp_path: Path) -> None:
    plan = layout()
    writer = write(tmp_path / "a.zarr", plan, states(plan), [0])
    with pytest.raises(ForecastError, match="no store at .*a.zarr; .*a.zarr.partial is unfinished"):
        Store.open(tmp_path / "a.zarr")
    with pytest.raises(ForecastError, match="4 slabs are still to be written, the first is 1"):
        writer.finish()
    writer.abandon()  # what is finished stays
    assert StoreWriter(tmp_path / "a.zarr", plan).todo == [1, 2, 3, 4]
    StoreWriter(tmp_path / "b.zarr", plan).abandon()
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr.partial"]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "a.zarr.partial").mkdir()
    with (tmp_path / "a.zarr.partial/lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ForecastError, match="another process is writing .*a.zarr: wait until it is done"):
            StoreWriter(tmp_path / "a.zarr", layout())


def test_missing_dates_given_and_found(tmp_path: Path) -> None:
    missing = np.zeros(22, bool)
    missing[7] = True
    plan = layout(missing=missing)
    values = states(plan)
    values[12, :2] = np.nan  # all but the constant field
    store = Store.open(write(tmp_path / "a.zarr", plan, values).finish())
    np.testing.assert_array_equal(np.flatnonzero(store.missing), [7, 12])
    assert store.attrs["missing_dates"] == ["2001-01-02T18:00:00", "2001-01-04T00:00:00"]
    assert np.isnan(store.read(np.array([7, 12]))).all()
    assert np.isfinite(store.statistics["mean"]).all() and store.constant_fields == ("lsm",)


@pytest.mark.parametrize(
    ("value", "allowed", "reason"),
    [(np.nan, False, r"2t at 2001-01-02T00: 1 of 128 values are missing \(NaN\)"),
     (np.inf, True, "2t at 2001-01-02T00: 1 of 128 values are infinite"),
     (-np.inf, False, "2t at 2001-01-02T00: 1 of 128 values are infinite")],
)  # fmt: skip
def test_bad_values(tmp_path: Path, value: float, allowed: bool, reason: str) -> None:
    plan = layout(allow_nan=allowed)
    values = states(plan)
    values[4, 1, 0, 77] = value
    with pytest.raises(ForecastError, match=reason):
        write(tmp_path / "a.zarr", plan, values)


def test_allowed_nan_stay(tmp_path: Path) -> None:
    plan = layout(allow_nan=True)
    values = states(plan)
    values[:, 1, 0, 5:9] = np.nan
    store = Store.open(write(tmp_path / "a.zarr", plan, values).finish())
    np.testing.assert_array_equal(store.read(slice(None)), values[:, :, 0])
    assert not store.missing.any()


def test_wrong_shapes_and_periods(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "a.zarr", layout())
    with pytest.raises(ForecastError, match=r"slab 4 has shape \(5, 3, 1, 128\), expected \(2, 3, 1, 128\)"):
        writer.write(4, np.zeros((5, 3, 128)))
    far = (np.datetime64("1999-01-01", "s"), np.datetime64("1999-12-31", "s"))
    with pytest.raises(ForecastError, match="no date lies in the period of the statistics"):
        StoreWriter(tmp_path / "b.zarr", layout(period=far))


@pytest.fixture
def small_files() -> Iterator[None]:
    """Files of more than 4,000 bytes cannot be written, as on a full disk."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_keeps_what_was_finished(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    plan = layout()
    values = states(plan)
    write(tmp_path / "b.zarr", plan, values).finish()
    writer = write(tmp_path / "a.zarr", plan, values, [0, 1])
    request.getfixturevalue("small_files")
    with pytest.raises(DiskError, match="cannot write .*a.zarr: File too large; mend that and run again"):
        writer.write(2, values[plan.slabs[2]])
    assert writer.todo == [2, 3, 4]
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    for slab in writer.todo:
        writer.write(slab, values[plan.slabs[slab]])
    writer.finish()
    assert digest(tmp_path / "a.zarr") == digest(tmp_path / "b.zarr")


def test_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, values = layout(), states(layout())
    writer = write(tmp_path / "a.zarr", plan, values, [0])
    replace_file = os.replace

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(DiskError, match="cannot write .*a.zarr: Permission denied; mend that and run again"):
        writer.write(1, values[plan.slabs[1]])
    monkeypatch.setattr(os, "replace", replace_file)
    assert writer.todo == [1, 2, 3, 4] and not list(tmp_path.rglob("*.partial/store/**/*.partial"))
