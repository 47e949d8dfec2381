"""Random numbers: known answers of Philox, independence of layout, distribution, keys that do not collide."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from forecast.core import seeding


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ([0, 0, 0, 0], 0, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, 2**64 - 1, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            0xA4093822 | (0x299F31D0 << 32),
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_the_known_answers_of_random123(counter, key, expected):
    assert seeding.philox(np.array([counter], np.uint64), key)[:, 0].tolist() == expected


@given(st.integers(0, 2**64 - 1), st.integers(0, 50), st.integers(1, 50))
def test_an_element_does_not_depend_on_what_is_drawn_with_it(key, offset, size):
    whole = seeding.normal(key, offset + size)
    np.testing.assert_array_equal(seeding.normal(key, size, offset), whole[offset:])


def test_normals_are_normal_and_uncorrelated_between_keys():
    a, b = (seeding.normal(seeding.key(1, "noise", member), 200_000).astype(float) for member in (0, 1))
    assert stats.kstest(a, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(a, b)[0, 1]) < 4 / np.sqrt(a.size)  # four standard errors
    assert abs(np.corrcoef(a[1:], a[:-1])[0, 1]) < 4 / np.sqrt(a.size)


def test_stream_is_stable_forever():
    """Figures written down once: whoever changes the generator breaks every forecast made before."""
    key = seeding.key(7, "noise", np.datetime64("2001-03-01T00"), 3, 1)
    assert key == STREAM_KEY
    np.testing.assert_array_equal(seeding.normal(key, 3), np.array(STREAM, np.float32))


def test_a_key_depends_on_every_part_and_on_its_type_but_not_on_the_unit_of_time():
    start = np.datetime64("2001-03-01T00", "h")
    base = seeding.key(1, "noise", start, 2, 3)
    assert base == seeding.key(1, "noise", start.astype("datetime64[ns]"), 2, 3)
    others = [(2, "noise", start, 2, 3), (1, "nois", start, 2, 3), (1, "noise", start, 3, 2)]
    others += [(1, "noise", start, 2, "3"), (1, "noise", start + 1, 2, 3), (1, "noise", start, 23)]
    assert len({base, *(seeding.key(*parts) for parts in others)}) == len(others) + 1


def test_keys_of_many_members_and_steps_do_not_collide():
    keys = {seeding.key(1, "noise", start, m, s) for start in range(4) for m in range(1000) for s in range(60)}
    assert len(keys) == 4 * 1000 * 60


def test_permutation_is_one_and_uniform_covers_the_unit_interval():
    assert sorted(seeding.permutation(5, 1000)) == list(range(1000))
    assert (seeding.permutation(5, 1000) != seeding.permutation(6, 1000)).any()
    u = seeding.uniform(9, 100_000)
    assert 0 < u.min() < 1e-4 and 1 - 1e-4 < u.max() < 1
    assert set(seeding.integers(3, 7, 1000)) == set(range(7))


STREAM_KEY = 6578058527424552347
STREAM = [-0.6807878017425537, 0.03408917784690857, -0.606575608253479]
