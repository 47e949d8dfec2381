"""Random numbers: known answers of Philox, independence of layout, distribution, keys that do not collide."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from forecast.core import normals, seeding


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
@settings(deadline=None)  # the first call compiles
def test_an_element_does_not_depend_on_what_is_drawn_with_it(key, offset, size):
    whole = seeding.normal(key, offset + size)
    np.testing.assert_array_equal(seeding.normal(key, size, offset), whole[offset:])


def test_normals_are_normal_and_uncorrelated_between_keys():
    a, b = (seeding.normal(seeding.key(1, "noise", member), 200_000).astype(float) for member in (0, 1))
    assert stats.kstest(a, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(a, b)[0, 1]) < 4 / np.sqrt(a.size)  # four standard errors
    assert abs(np.corrcoef(a[1:], a[:-1])[0, 1]) < 4 / np.sqrt(a.size)


def test_normals_are_those_of_the_libraries_logarithm_and_cosine():
    """Each word's halves as whole numbers, through numpy in float64; the tails and the zeros of the cosine too."""
    size, key = 1_000_000, seeding.key(3, "oracle")
    words = seeding.words(key, size)
    u, v = ((words >> np.uint64(32)) + 0.5) * 2.0**-32, (words & np.uint64(0xFFFFFFFF)) * 2.0**-32
    expected = np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * v)
    assert np.mean(seeding.normal(key, size) != expected.astype(np.float32)) < 1e-5, "roundings on the edge only"
    edges = [
        (0, 0),
        (2**32 - 1, 0),
        (5, 2**30),
        (5, 3 * 2**30),
        (2**31, 2**31),
        (77, 2**32 - 1),
        (2**32 - 1, 2**30 + 1),
    ]
    lanes, got = np.resize(np.array(edges, np.uint64), (normals.LANES, 2)), np.empty(normals.LANES)
    normals._normals(lanes[:, 0].copy(), lanes[:, 1].copy(), got)
    for (radial, angular), value in zip(edges, got, strict=False):
        exact = np.sqrt(-2 * np.log((radial + np.longdouble(0.5)) / 2**32)) * _cosine(angular)
        assert abs(value - float(exact)) <= 1e-15 * abs(float(exact))


@pytest.mark.parametrize("size", [0, 1, 2, 511, 512, 1300])
@pytest.mark.parametrize("offset", [0, 1, 7, 2**33 + 1])
def test_normals_from_any_element_on_are_those_of_the_whole(size, offset):
    """Edges of the blocks that are computed side by side: one element after another gives the same bits."""
    whole = seeding.normal(5, size, offset)
    some = range(0, size, max(1, size // 40))
    assert all(whole[i] == seeding.normal(5, 1, offset + i)[0] for i in some)


def _cosine(angular: int) -> np.longdouble:
    """cos(2 pi angular / 2^32), exact to long double's precision also near its zeros."""
    quarter = np.longdouble(0.25) - min(angular, 2**32 - angular) / np.longdouble(2**32)
    return np.sin(8 * np.arctan(np.longdouble(1)) * quarter)


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


@pytest.mark.slow
def test_ten_million_keys_do_not_collide():
    """5,000 members of 20 starts to 100 steps; some 40 s. Chance: 10^14 / 2 pairs in 2^64 is 3 in a million."""
    starts = np.datetime64("2001-03-01T00", "s") + np.arange(20) * np.timedelta64(12, "h")
    count = 20 * 5000 * 100
    parts = ((start, member, step) for start in starts for member in range(5000) for step in range(100))
    keys = np.fromiter((seeding.key(1, "noise", *where) for where in parts), np.uint64, count)
    assert np.unique(keys).size == count


def test_permutation_is_one_and_uniform_covers_the_unit_interval():
    assert sorted(seeding.permutation(5, 1000)) == list(range(1000))
    assert (seeding.permutation(5, 1000) != seeding.permutation(6, 1000)).any()
    u = seeding.uniform(9, 100_000)
    assert 0 < u.min() < 1e-4 and 1 - 1e-4 < u.max() < 1
    assert set(seeding.integers(3, 7, 1000)) == set(range(7))


STREAM_KEY = 6578058527424552347
STREAM = [-0.6807878017425537, 0.03408917784690857, -0.606575608253479]


def test_single_elements_are_those_of_the_whole() -> None:
    places = np.array([0, 1, 7, 8, 99])
    assert np.array_equal(seeding.uniform_at(5, places), seeding.uniform(5, 100)[places])
    assert seeding.uniform_at(5, places[:0]).size == 0
