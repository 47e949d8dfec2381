"""The training order is a function of (seed, epoch, step)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.data.sampler import draw


def order(first: int, last: int, *, windows: int, batch: int, seed: int = 3, since: int = 0) -> np.ndarray:
    draws = [draw(seed, u, batch_size=batch, windows=windows, rollout=1, since=since) for u in range(first, last)]
    return np.concatenate([d.windows for d in draws])


@settings(max_examples=30, deadline=None)
@given(windows=st.integers(1, 60), batch=st.integers(1, 9), epochs=st.integers(1, 4), since=st.integers(0, 50))
def test_each_window_comes_once_an_epoch(windows: int, batch: int, epochs: int, since: int) -> None:
    stream = order(since, since + -(-windows * epochs // batch), windows=windows, batch=batch, since=since)
    for epoch in range(epochs):
        assert sorted(stream[epoch * windows : (epoch + 1) * windows]) == list(range(windows))


def test_any_part_of_the_order_is_the_same_alone() -> None:
    whole = order(0, 40, windows=23, batch=4)
    np.testing.assert_array_equal(whole[17 * 4 :], order(17, 40, windows=23, batch=4))


def test_epochs_seeds_and_stages_have_orders_of_their_own() -> None:
    first, second = order(0, 25, windows=100, batch=4), order(25, 50, windows=100, batch=4)
    others = [second, order(0, 25, windows=100, batch=4, seed=4), order(7, 32, windows=100, batch=4, since=7)]
    for other in others:
        assert (first == other).mean() < 0.1  # chance: 1 %
    assert draw(3, 24, batch_size=4, windows=100, rollout=1).epoch == 0
    assert draw(3, 25, batch_size=4, windows=100, rollout=1).epoch == 1


def test_keys_are_unique_to_update_and_slot_and_blind_to_the_windows() -> None:
    keys = [key for u in range(50) for key in draw(3, u, batch_size=4, windows=7, rollout=1).keys]
    assert len(set(keys)) == len(keys)
    assert draw(3, 9, batch_size=4, windows=7, rollout=1).keys == draw(3, 9, batch_size=4, windows=50, rollout=2).keys


def test_a_split_batch_sees_the_samples_of_the_whole() -> None:
    """A larger global batch goes through the same order faster: what data-parallel ranks share out."""
    np.testing.assert_array_equal(order(0, 30, windows=31, batch=2), order(0, 15, windows=31, batch=4))


def test_neighbouring_windows_are_not_drawn_together() -> None:
    """Ranks of a keyed permutation are uniform: the mean distance of successive windows is a third of their number."""
    stream = order(0, 500, windows=1000, batch=2)
    assert np.abs(np.diff(stream)).mean() == pytest.approx(1000 / 3, rel=0.1)
