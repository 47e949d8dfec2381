"""Batches equal direct reads, with and without reading ahead; errors and endings cross the thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from forecast.core.chunks import _File
from forecast.core.errors import ForecastError
from forecast.core.store import Store
from forecast.data.dataset import Dataset, grid_part
from forecast.data.loader import batches, load
from forecast.data.sampler import Draw, draw
from tests import tiny
from tests.tiny import make


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    truth, analysis = tiny.stores(tmp_path_factory.mktemp("stores"))
    section = tiny.config(Path("x")).data
    return Dataset(section, section.train, truth, analysis, 0.5)


def draws(data: Dataset, first: int = 0, last: int = 12) -> Iterator[Draw]:
    for update in range(first, last):
        rollout = 1 + update // 6
        yield draw(1, update, batch_size=3, windows=len(data.windows(rollout)), rollout=rollout, since=update // 6 * 6)


def test_a_batch_holds_what_direct_reads_give(data: Dataset) -> None:
    place = draw(1, 5, batch_size=3, windows=len(data.windows(2)), rollout=2)
    batch = load(data, place)
    assert batch.states.shape == (3, 4, 128, 3) and batch.rollout == 2 and batch.states.is_contiguous()
    for k, (window, key) in enumerate(zip(place.windows, place.keys, strict=True)):
        sample = data.read(int(data.windows(2)[window]), 2, key)
        np.testing.assert_array_equal(batch.states[k].numpy(), sample.states.transpose(0, 2, 1))
        np.testing.assert_array_equal(batch.forcings[k].numpy(), sample.forcings)
        np.testing.assert_array_equal(batch.dates[k], sample.dates)
        assert bool(batch.starts_from_analysis[k]) == sample.from_analysis and batch.keys[k] == key


@pytest.mark.parametrize("prefetch", [1, 4])
def test_reading_ahead_changes_nothing(data: Dataset, prefetch: int) -> None:
    plain, ahead = batches(data, draws(data), prefetch=0), batches(data, draws(data), prefetch=prefetch)
    for (place, batch), (place_ahead, batch_ahead) in zip(plain, ahead, strict=True):
        assert place.update == place_ahead.update
        assert batch.states.equal(batch_ahead.states) and batch.forcings.equal(batch_ahead.forcings)
        assert batch.keys == batch_ahead.keys


def test_a_start_in_the_middle_gives_the_rest(data: Dataset) -> None:
    whole = [batch.states for _, batch in batches(data, draws(data))]
    rest = [batch.states for _, batch in batches(data, draws(data, first=7))]
    assert len(rest) == 5 and all(a.equal(b) for a, b in zip(whole[7:], rest, strict=True))


@pytest.mark.parametrize("prefetch", [0, 2])
def test_errors_come_in_the_place_of_their_batch(data: Dataset, prefetch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = {data.window(int(data.windows(1)[w]), 1, k).dates[0] for d in draws(data, 3, 4)
           for w, k in zip(d.windows, d.keys, strict=True)}  # fmt: skip
    forcings = data.forcings

    def torn(dates: np.ndarray) -> np.ndarray:
        if dates[0] in bad:
            raise ForecastError("shard 7 is damaged")
        return forcings(dates)

    monkeypatch.setattr(data, "forcings", torn)
    torn.size = forcings.size  # type: ignore[attr-defined]
    taken = []
    with pytest.raises(ForecastError, match="shard 7"):
        for place, _ in batches(data, draws(data), prefetch=prefetch):
            taken.append(place.update)
    assert taken == [0, 1, 2]


def test_the_thread_ends_with_its_generator(data: Dataset) -> None:
    loaded = batches(data, draws(data), prefetch=1)
    next(loaded)
    assert any(thread.name.startswith("loader") for thread in threading.enumerate())
    loaded.close()
    assert not any(thread.name.startswith("loader") for thread in threading.enumerate())


def test_at_most_the_depth_is_read_ahead(data: Dataset) -> None:
    """`prefetch` ready batches and the one in the making: memory is bounded."""
    begun = []

    def counted() -> Iterator[Draw]:
        for place in draws(data):
            begun.append(place.update)
            yield place

    loaded = batches(data, counted(), prefetch=2)
    next(loaded)
    threading.Event().wait(0.5)  # time enough to read all twelve
    assert len(begun) <= 1 + 2 + 1
    loaded.close()


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_any_number_of_ranks_sees_the_same_samples(data: Dataset, ranks: int) -> None:
    """Also from the middle of an epoch: what an update consists of depends on its number alone."""
    for update, (place, whole) in enumerate(batches(data, draws(data, 2, 9)), 2):
        shares = [place.part(rank, ranks) for rank in range(ranks)]
        parts = [batch for _, batch in batches(data, [share for share in shares if share.keys])]
        assert sum((part.keys for part in parts), ()) == whole.keys and place.update == update
        assert torch.cat([part.states for part in parts]).equal(whole.states)


@pytest.mark.parametrize("ranks", [2, 3])
def test_grid_ranks_read_their_points_of_the_same_samples(data: Dataset, ranks: int) -> None:
    section = tiny.config(Path("x")).data
    mine = [grid_part(128, rank, ranks) for rank in range(ranks)]
    assert [p for part in mine for p in range(part.start, part.stop)] == list(range(128))
    parts = [Dataset(section, section.train, data.truth, data.analysis, 0.5, points) for points in mine]
    for loaded in zip(
        batches(data, draws(data, 0, 3)), *(batches(part, draws(data, 0, 3)) for part in parts), strict=True
    ):
        whole, *pieces = (batch for _, batch in loaded)
        assert all(piece.keys == whole.keys for piece in pieces)
        assert torch.cat([piece.states for piece in pieces], dim=2).equal(whole.states)
        assert torch.cat([piece.forcings for piece in pieces], dim=2).equal(whole.forcings)


def test_a_grid_rank_opens_no_other_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes read for an eighth of the grid: an eighth of those of the whole."""
    truth = Store.open(make(tmp_path, points_per_chunk=16))
    section = tiny.config(Path("x")).data
    read, sizes = _File.read, []
    monkeypatch.setattr(_File, "read", lambda self, at, out: (sizes.append(len(out)), read(self, at, out))[1])
    taken: list[int] = []
    for points in (None, grid_part(128, 3, 8)):
        part = Dataset(section, section.train, truth, points=points)
        sizes.append(0)  # a mark behind the static fields, which are read whole, once
        part.read(5, 1, 0)
        taken.append(sum(sizes[len(sizes) - sizes[::-1].index(0) :]))
    whole, eighth = taken
    assert 0 < eighth < whole / 6
