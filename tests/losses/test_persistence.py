import importlib.util

import numpy as np
import pytest
from scipy import ndimage

from forecast.core.errors import ForecastError
from forecast.losses import persistence

CROSS, SQUARE = ndimage.generate_binary_structure(2, 1), ndimage.generate_binary_structure(2, 2)
without_gudhi = importlib.util.find_spec("gudhi") is None


def levels(seed, shape=(6, 7), steps=9):
    return np.random.default_rng(seed).integers(0, steps, shape).astype(float)


def pieces(above):
    return ndimage.label(above, CROSS)[0]


def gaps(above):
    """Numbered pieces of what is not above, with the outside."""
    return ndimage.label(np.pad(~above, 1, constant_values=True), SQUARE)[0]


def test_by_hand():
    """A ring of 5, 4, 3 around 0, and a lone 2 apart, on ground 1."""
    f = np.array([[5, 4, 4, 1, 2], [4, 0, 3, 1, 1], [4, 4, 4, 1, 1.0]])
    births, deaths = persistence.bars(f, 0)
    assert sorted(zip(f.ravel()[births], f.ravel()[deaths], strict=True)) == [(2.0, 1.0)]
    births, deaths = persistence.bars(f, 1)
    assert list(zip(f.ravel()[births], f.ravel()[deaths], strict=True)) == [(3.0, 0.0)]
    assert len(persistence.bars(f, 2)[0]) == 0


@pytest.mark.parametrize("seed", range(5))
def test_bars_count_pieces_and_holes_at_every_level(seed):
    f = levels(seed)
    for dimension, count in ((0, lambda a: pieces(a).max() - 1), (1, lambda a: gaps(a).max() - 1)):
        births, deaths = (f.ravel()[end] for end in persistence.bars(f, dimension))
        for t in range(9):
            above = f >= t
            if above.any():
                assert ((births >= t) & (deaths < t)).sum() == count(above)


@pytest.mark.parametrize("seed", range(5))
def test_image_persistence_counts_what_one_map_has_in_the_union(seed):
    """The rank of the map from one superlevel set's pieces (holes) to the union's."""
    one, two = levels(seed), levels(seed + 100)
    both = np.maximum(one, two)
    a, union = one.ravel(), both.ravel()
    young, _, level = persistence._merges(union, [a, union], one.shape, False)
    small, large = persistence._cells(both, True), persistence._cells(one, True)
    holes, _, filled = persistence._merges(large, [small, large], one.shape, True)
    for t in range(9):
        if not (one >= t).any():
            continue
        reached = len(np.unique(pieces(both >= t)[one >= t]))
        assert ((a[young[:, 0]] >= t) & (level < t)).sum() == reached - 1
        outside_union = np.pad(both < t, 1, constant_values=True)
        met = len(np.unique(gaps(one >= t)[outside_union]))
        assert ((small[holes[:, 0]] > -t) & (filled <= -t)).sum() == met - 1


def test_pieces_match_where_they_overlap():
    """Two peaks each; only the left ones touch. The right ones meet others in the union."""
    one = np.array([[9, 1, 0, 8, 0, 0, 0.0]] * 2)
    two = np.array([[0, 9, 0, 0, 0, 7, 0.0]] * 2)
    ours, theirs, i, j = persistence.matched_pieces(one, two)
    assert one.ravel()[ours[0]].tolist() == [8] and two.ravel()[theirs[0]].tolist() == [7]
    assert len(i) == 0
    ours, theirs, i, j = persistence.matched_pieces(one, np.roll(one, 0))
    assert i.tolist() == [0] and j.tolist() == [0]


def test_holes_match_where_one_lies_in_the_other():
    ring = np.ones((7, 7))
    ring[2:5, 2:5] = 0
    wide, apart = np.ones((7, 7)), np.ones((7, 7))
    wide[1:6, 1:6] = 0
    apart[1, 1] = 0
    for other, count in ((ring, 1), (wide, 1), (apart, 0), (np.ones((7, 7)), 0)):
        _, _, i, j = persistence.matched_holes(ring * 0.9, other)
        assert len(i) == len(j) == count


def test_search_is_the_same_compiled_and_not():
    first, second = persistence._edges((4, 5), True)
    order = np.random.default_rng(0).permutation(len(first))
    ranks = np.stack([np.random.default_rng(s).permutation(21) for s in (1, 2)])
    for ours, plain in zip(
        persistence._compiled()(first[order], second[order], ranks),
        persistence._join(first[order], second[order], ranks),
        strict=True,
    ):
        assert (ours == plain).all()


@pytest.mark.skipif(not without_gudhi, reason="gudhi is installed")
def test_volumes_say_what_they_need():
    with pytest.raises(ForecastError, match=r"gudhi: pip install 'forecast\[losses-extra\]'"):
        persistence.bars(np.zeros((2, 2, 2)), 0)


@pytest.mark.skipif(without_gudhi, reason="gudhi is not installed: pip install 'forecast[losses-extra]'")
def test_gudhi_finds_the_same_bars():
    import gudhi

    for shape in ((5, 6), (3, 4, 5)):
        f = np.random.default_rng(0).permutation(int(np.prod(shape))).reshape(shape).astype(float)
        cubes = gudhi.CubicalComplex(vertices=-f)
        cubes.compute_persistence()
        for dimension in range(len(shape)):
            theirs = -np.array(cubes.persistence_intervals_in_dimension(dimension)).reshape(-1, 2)
            births, deaths = (f.ravel()[end] for end in persistence.bars(f, dimension))
            ended = theirs[np.isfinite(theirs[:, 1])]
            assert sorted(zip(births, deaths, strict=True)) == sorted(map(tuple, ended))
