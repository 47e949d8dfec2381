"""Streaming moments equal numpy's over everything at once, however the data are cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from forecast.core import grids, variables
from forecast.core.store import Store
from forecast.data import statistics
from forecast.data.layout import Layout
from forecast.data.writer import StoreWriter

MEANS = np.array([1e5, 280.0, 1e-3, 0.0, 5e4])  # msl, 2t, q, u, z: means far above the spread among them
SPREADS = np.array([800.0, 10.0, 1e-3, 8.0, 1.0])


def sample(dates: int, *, seed: int = 0) -> np.ndarray:
    """(t, 5, 1, 40) float32."""
    rng = np.random.default_rng(seed)
    return (MEANS[:, None, None] + SPREADS[:, None, None] * rng.standard_normal((dates, 5, 1, 40))).astype(np.float32)


def reference(values: np.ndarray) -> dict[str, np.ndarray]:
    """Over all dates and points of (t, V, members, G) at once, in float64, twice through the data."""
    flat = np.moveaxis(values.astype(np.float64), 1, 0).reshape(values.shape[1], -1)
    return {"mean": np.nanmean(flat, axis=1), "stdev": np.nanstd(flat, axis=1),
            "minimum": np.nanmin(flat, axis=1), "maximum": np.nanmax(flat, axis=1)}  # fmt: skip


def close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Both are float64 sums of the same numbers in another order: 1e-12 of the mean, 1e-12 of the spread."""
    assert found.keys() == expected.keys()
    scale = np.maximum(np.abs(expected["mean"]), expected["stdev"])
    assert (np.abs(found["mean"] - expected["mean"]) <= 1e-12 * scale).all()
    np.testing.assert_allclose(found["stdev"], expected["stdev"], rtol=1e-11)
    np.testing.assert_array_equal(found["minimum"], expected["minimum"])
    np.testing.assert_array_equal(found["maximum"], expected["maximum"])


@pytest.mark.parametrize("cuts", [(), (1,), (7, 8, 20), tuple(range(1, 30))])
def test_parts_merge_to_the_whole(cuts: tuple[int, ...]) -> None:
    states = sample(30)
    parts = [statistics.of_states(part, np.ones(len(part), bool)) for part in np.split(states, cuts)]
    close(statistics.merge(parts).named(), reference(states))


def test_missing_dates_are_left_out() -> None:
    states, keep = sample(30), np.arange(30) % 7 != 3
    found = statistics.of_states(states, keep)
    close(found.named(), reference(states[keep]))
    np.testing.assert_array_equal(found.count, keep.sum() * 40)


def test_nan_are_left_out() -> None:
    states = sample(30)
    states[np.random.default_rng(1).random(states.shape) < 0.3] = np.nan
    states[4, 2] = np.nan  # a whole field
    close(statistics.of_states(states, np.ones(30, bool)).named(), reference(states))


@pytest.mark.parametrize("apart", [1, 4])
def test_tendencies_skip_gaps(apart: int) -> None:
    states, keep = sample(30), np.arange(30) % 11 != 5
    ends = [t for t in range(apart, 30) if keep[t] and keep[t - apart]]
    differences = states[ends].astype(np.float64) - states[np.array(ends) - apart]
    close(statistics.of_tendencies(states, keep, apart).named(), reference(differences))


def test_nothing_counted_is_nan() -> None:
    found = statistics.of_states(sample(3), np.zeros(3, bool))
    assert all(np.isnan(values).all() for values in found.named().values())
    whole = statistics.of_states(sample(3), np.ones(3, bool))
    close(statistics.merge([found, whole, found]).named(), whole.named())


def test_large_blocks_are_cut_without_changing_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    states = sample(30)
    whole = statistics.of_states(states, np.ones(30, bool)).array()
    monkeypatch.setattr(statistics, "BLOCK", 1)
    np.testing.assert_array_equal(statistics.of_states(states, np.ones(30, bool)).array(), whole)


@pytest.mark.parametrize("dates_per_shard", [1, 3, 7, 64])
@pytest.mark.parametrize("period", [None, (8, 23)])
def test_a_store_has_the_statistics_of_its_period(
    tmp_path: Path, dates_per_shard: int, period: tuple[int, int] | None
) -> None:
    """Tendencies across the borders of slabs are counted once, whatever the slabs; missing dates never."""
    states, missing = sample(30), np.isin(np.arange(30), (5, 13, 14))
    states[missing] = np.nan
    dates = np.datetime64("2001-01-01", "s") + np.arange(30) * np.timedelta64(6, "h")
    grid = grids.latlon(np.linspace(60, 30, 5), np.arange(8) * 5.0)
    layout = Layout(
        dates=dates, variables=("msl", "2t", "q_850", "u_850", "z_500"), latitudes=grid.latitudes,
        metadata={n: variables.metadata(n) for n in ("msl", "2t", "q_850", "u_850", "z_500")},
        longitudes=grid.longitudes, field_shape=grid.shape, frequency=np.timedelta64(6, "h"), missing=missing,
        dates_per_shard=dates_per_shard, tendencies=(np.timedelta64(1, "D"),),
        period=None if period is None else (dates[period[0]], dates[period[1]]),
    )  # fmt: skip
    writer = StoreWriter(tmp_path / "a.zarr", layout)
    for slab in writer.todo:
        writer.write(slab, states[layout.slabs[slab]])
    store = Store.open(writer.finish())
    inside = ~missing if period is None else ~missing & (np.arange(30) >= period[0]) & (np.arange(30) <= period[1])
    close(store.statistics, reference(states[inside]))
    for step, apart in ((np.timedelta64(6, "h"), 1), (np.timedelta64(1, "D"), 4)):
        ends = np.array([t for t in range(apart, 30) if inside[t] and inside[t - apart]])
        expected = reference(states[ends].astype(np.float64) - states[ends - apart])
        np.testing.assert_allclose(store.tendency_stdev(step), expected["stdev"], rtol=1e-11)
        if apart == 1:
            close(store.tendencies or {}, expected)
