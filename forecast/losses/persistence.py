"""Which cells of a map are the births and deaths of its pieces and holes, and which features of two maps are one.

A bar is a pair of cells (birth, death) by flat index, f[birth] > f[death]. Pieces come from a union-find over edges
between cells, in order of falling value. Holes are pieces of what lies below the threshold: the same search on -f, with
cells touching by corners too and all borders joined to one outside. Pieces of f that are born in one map and die in
another that contains it (image persistence) come from that search with the one's order of birth and the other's edges.
Where cells have equal values, or several pieces meet at one cell, the order of cells settles who joins whom first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from forecast.core.errors import ForecastError

Bars = tuple[np.ndarray, np.ndarray]
PLAIN_UP_TO = 2000
"""edges; a search over more of them is worth the seconds that compiling it takes"""
Merges = tuple[np.ndarray, np.ndarray, np.ndarray]  # young cell by each order (K, S), lower cell (K,), its value (K,)


def bars(values: np.ndarray, dimension: int) -> Bars:
    """Births and deaths of the bars of a map (H, W) that end, or with gudhi of a volume (L, H, W).

    Raises:
        ForecastError: a volume, and gudhi is not installed.
    """
    if values.ndim == 3:
        return _volume_bars(values, dimension)
    if dimension > 1:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    cells = _cells(values, holes=dimension == 1)
    return _ends(cells, _merges(cells, [cells], values.shape, dimension == 1), dimension == 1)


def matched_pieces(one: np.ndarray, two: np.ndarray) -> tuple[Bars, Bars, np.ndarray, np.ndarray]:
    """Bars of dimension 0 of two maps, and (i, j): bar i of the first and j of the second are one in the union."""
    a, b, union = (_cells(z, holes=False) for z in (one, two, np.maximum(one, two)))
    ours, theirs = (_ends(c, _merges(c, [c], one.shape, False), False) for c in (a, b))
    young, _, level = _merges(union, [a, b, union], one.shape, False)
    alive = (a[young[:, 0]] > level) & (b[young[:, 1]] > level) & (union[young[:, 2]] > level)
    return ours, theirs, *_known(young[alive, 0], young[alive, 1], ours[0], theirs[0])


def matched_holes(one: np.ndarray, two: np.ndarray) -> tuple[Bars, Bars, np.ndarray, np.ndarray]:
    """Bars of dimension 1 of two maps, and which of them are one in the union, as in `matched_pieces`."""
    a, b, union = (_cells(z, holes=True) for z in (one, two, np.maximum(one, two)))
    young, _, level = _merges(union, [union], one.shape, True)
    in_union = set(young[union[young[:, 0]] > level, 0].tolist())
    found, seen = [], []
    for cells in (a, b):
        merges = _merges(cells, [cells, union], one.shape, True)
        young, _, level = merges
        found.append(_ends(cells, merges, True))
        alive = (cells[young[:, 0]] > level) & (union[young[:, 1]] > level)
        seen.append(dict(zip(young[alive, 1].tolist(), young[alive, 0].tolist(), strict=True)))
    shared = [cell for cell in seen[0] if cell in seen[1] and cell in in_union]
    of_one, of_two = (np.array([part[cell] for cell in shared], dtype=np.int64) for part in seen)
    return found[0], found[1], *_known(of_one, of_two, found[0][1], found[1][1])


def _known(of_one: np.ndarray, of_two: np.ndarray, one: np.ndarray, two: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions in the lists `one` and `two` of cells that are in both, pair by pair."""
    places = [{cell: place for place, cell in enumerate(part.tolist())} for part in (one, two)]
    pairs = [(places[0][c], places[1][d]) for c, d in zip(of_one.tolist(), of_two.tolist(), strict=True)
             if c in places[0] and d in places[1]]  # fmt: skip
    both = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def _cells(values: np.ndarray, holes: bool) -> np.ndarray:
    """Values whose superlevel pieces are wanted, flat; for holes, what is below, and last the outside."""
    return np.append(-values.ravel(), np.inf) if holes else values.ravel()


def _ends(cells: np.ndarray, merges: Merges, holes: bool) -> Bars:
    """Births and deaths of those that live, of the first order in `merges`."""
    young, lower, level = merges
    alive = cells[young[:, 0]] > level
    born, joined = young[alive, 0], lower[alive]
    return (joined, born) if holes else (born, joined)


def _merges(cells: np.ndarray, orders: list[np.ndarray], shape: tuple[int, ...], holes: bool) -> Merges:
    """Every join of two pieces of `cells`, with the younger piece's first cell by each of `orders`."""
    first, second = _edges(shape, holes)
    level = np.minimum(cells[first], cells[second])
    by_level = np.argsort(-level, kind="stable")
    first, second, level = first[by_level], second[by_level], level[by_level]
    ranks = np.empty((len(orders), len(cells)), np.int64)
    for rank, values in zip(ranks, orders, strict=True):
        rank[np.argsort(-values, kind="stable")] = np.arange(len(cells))
    edges, young = (_join if len(first) <= PLAIN_UP_TO else _compiled())(first, second, ranks)
    lower = np.where(cells[first[edges]] <= cells[second[edges]], first[edges], second[edges])
    return young, lower, level[edges]


@functools.lru_cache(maxsize=16)
def _edges(shape: tuple[int, ...], holes: bool) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of neighbours on a map; with corners, and borders to the outside, for holes."""
    at = np.arange(shape[0] * shape[1]).reshape(shape)
    pairs = [(at[:, :-1], at[:, 1:]), (at[:-1], at[1:])]
    if holes:
        border = np.concatenate([at[0], at[-1], at[1:-1, 0], at[1:-1, -1]])
        pairs += [(at[:-1, :-1], at[1:, 1:]), (at[:-1, 1:], at[1:, :-1]), (border, np.full_like(border, at.size))]
    first, second = (np.concatenate([pair[end].ravel() for pair in pairs]) for end in (0, 1))
    return first, second


def _join(first: np.ndarray, second: np.ndarray, ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Kruskal's algorithm: edges that join two pieces, and by each order of birth the first cell of the younger."""
    orders, count = ranks.shape
    parent = np.arange(count)
    eldest = np.empty((orders, count), np.int64)
    for s in range(orders):
        eldest[s, :] = parent
    edges, young = np.empty(count - 1, np.int64), np.empty((count - 1, orders), np.int64)
    joined = 0
    for edge in range(len(first)):
        a, b = first[edge], second[edge]
        while parent[a] != a:
            parent[a] = parent[parent[a]]
            a = parent[a]
        while parent[b] != b:
            parent[b] = parent[parent[b]]
            b = parent[b]
        if a == b:
            continue
        parent[b] = a
        for s in range(orders):
            one, two = eldest[s, a], eldest[s, b]
            older = ranks[s, one] < ranks[s, two]
            eldest[s, a] = one if older else two
            young[joined, s] = two if older else one
        edges[joined] = edge
        joined += 1
    return edges[:joined], young[:joined]


@functools.cache
def _compiled() -> Callable[..., Any]:
    import numba

    return numba.njit(nogil=True)(_join)


def _volume_bars(values: np.ndarray, dimension: int) -> Bars:
    try:
        import gudhi
    except ImportError:
        raise ForecastError("volumes need gudhi: pip install 'forecast[losses-extra]'") from None
    complex_ = gudhi.CubicalComplex(vertices=-values)
    complex_.compute_persistence(homology_coeff_field=2)
    pairs, _ = complex_.vertices_of_persistence_pairs()
    if dimension >= len(pairs) or not len(pairs[dimension]):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    ours = np.arange(values.size).reshape(values.shape).ravel(order="F")  # gudhi's first index runs fastest
    births, deaths = ours[np.asarray(pairs[dimension], dtype=np.int64)].T
    alive = values.ravel()[births] > values.ravel()[deaths]
    return births[alive], deaths[alive]
