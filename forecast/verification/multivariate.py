"""Scores of whole fields: energy score and variogram score."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from forecast.core.grids import Grid
from forecast.verification.matchup import Matchup
from forecast.verification.metric import Mean, Statistic
from forecast.verification.regions import Areas

BLOCK = 4096


def _energy(m: Matchup, areas: Areas) -> np.ndarray:
    """(R, 2): mean distance of members to the truth, and half the mean distance of two different members.

    Distances are area-weighted root-mean-square ones, from one matrix of the errors' products.
    """
    size, out = len(m.members), np.empty((len(areas.points), 2))
    products = np.zeros((len(areas.points), size, size))
    for first in range(0, m.truth.size, BLOCK):
        at = slice(first, first + BLOCK)
        errors = (m.members[:, at] - m.truth[at]).astype(np.float64)
        for r, weights in enumerate(areas.points[:, at]):
            used = weights > 0
            products[r] += (errors[:, used] * weights[used]) @ errors[:, used].T
    total = areas.total
    for r, product in enumerate(products):
        own = np.diagonal(product)
        apart = np.sqrt(np.maximum(own[:, None] + own - 2 * product, 0.0))
        scale = np.sqrt(total[r]) or 1.0
        out[r] = np.sqrt(own).mean() / scale, 0.5 * apart.sum() / max(size * (size - 1), 1) / scale
    return out * total[:, None]


ENERGY = Statistic("energy", lambda m, areas: -np.diff(_energy(m, areas), axis=1)[:, 0], over="areas")


class EnergyScore(Mean):
    """Fair energy score of the field: E|X - y| - E|X - X'| / 2, |.| the area-weighted root-mean-square."""

    name, title = "energy_score", "Energy score (fair)"
    reference = "Gneiting and Raftery 2007, 4.3; fair as in Ferro 2014"
    statistics = (ENERGY,)


def neighbours(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """(2, G) the two points that pair with each: to the east and the next row, or the two nearest.

    A point at the edge of a regional grid pairs with itself, which adds nothing.
    """
    index = np.arange(grid.size)
    if grid.is_regular:
        table = index.reshape(grid.shape)
        east = np.roll(table, -1, axis=1)
        if not grid.goes_round:
            east[:, -1] = table[:, -1]
        south = np.concatenate([table[1:], table[-1:]])
        return index, np.stack([east.ravel(), south.ravel()])
    _, found = cKDTree(grid.xyz).query(grid.xyz, k=min(3, grid.size))
    return index, found[:, 1:].T


def variogram(members: np.ndarray, truth: np.ndarray, a: np.ndarray, b: np.ndarray, power: float = 0.5) -> np.ndarray:
    """(|y_a - y_b|^p - mean_i |x_ia - x_ib|^p)^2 of pairs of points; members (M, G), truth (G,), a and b (P,)."""
    expected = np.zeros(a.shape)
    for member in members:
        expected += np.abs(member[a] - member[b]).astype(np.float64) ** power
    return (np.abs(truth[a] - truth[b]).astype(np.float64) ** power - expected / len(members)) ** 2


def _variogram(m: Matchup) -> np.ndarray:
    assert m.grid is not None
    a, partners = neighbours(m.grid)
    known = ~np.isnan(m.truth)
    total = np.where(known, 0.0, np.nan)
    for b in partners:  # a partner without truth makes no pair
        total += np.where(known & ~known[b], 0.0, variogram(m.members, m.truth, a, b))
    return total


VARIOGRAM = Statistic("variogram", _variogram)


class VariogramScore(Mean):
    """Variogram score of order 0.5 over pairs of neighbours: do differences between points have the right size?

    Per point the sum over its pairs, averaged by area. It does not see a bias that neighbours share.
    """

    name, title = "variogram_score", "Variogram score (0.5, neighbours)"
    reference = "Scheuerer and Hamill 2015, doi:10.1175/MWR-D-14-00269.1"
    statistics = (VARIOGRAM,)
