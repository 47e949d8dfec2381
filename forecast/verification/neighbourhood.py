"""Fractions skill score: probabilities within windows, so that a forecast a little beside the place still counts."""

from __future__ import annotations

import numpy as np
import xarray as xr
from scipy.ndimage import uniform_filter1d

from forecast.verification.matchup import Matchup
from forecast.verification.metric import Metric, Statistic

WINDOWS = (1, 3, 5, 9, 17)


def window_mean(field: np.ndarray, size: int, around: bool) -> np.ndarray:
    """Mean over size x size points about each point of (..., rows, columns), of those that the grid has.

    Args:
        size: odd. around: longitudes go round the globe.
    """
    if size == 1:
        return field
    reach = size // 2
    inside = uniform_filter1d(np.ones(field.shape[-2]), size, mode="constant")
    out = uniform_filter1d(field, size, axis=-2, mode="constant") / inside[:, None]
    if around:
        wide = np.concatenate([out[..., -reach:], out, out[..., :reach]], axis=-1) if reach <= out.shape[-1] else out
        if wide is out:
            return np.broadcast_to(out.mean(axis=-1, keepdims=True), out.shape)
        return uniform_filter1d(wide, size, axis=-1)[..., reach:-reach]
    inside = uniform_filter1d(np.ones(field.shape[-1]), size, mode="constant")
    return uniform_filter1d(out, size, axis=-1, mode="constant") / inside


def _fractions(m: Matchup) -> np.ndarray:
    """(E, W, 2, G): squared difference of forecast and observed fraction, and the sum of their squares.

    A missing point counts as one without event for its neighbours, and as missing itself.
    """
    assert m.grid is not None
    lost = np.isnan(m.beyond[m.events])
    fractions = []
    for fields in (m.beyond[m.events] / len(m.members), m.occurred[m.events]):
        maps = np.where(lost, 0.0, fields).reshape(-1, *m.shape)
        windows = [window_mean(maps, size, m.grid.goes_round) for size in WINDOWS]
        fractions.append(np.stack(windows, axis=1).reshape(*fields.shape[:1], len(WINDOWS), -1))
    forecast, truth = fractions
    terms = np.stack([(forecast - truth) ** 2, forecast**2 + truth**2], axis=2)
    return np.where(lost[:, None, None], np.nan, terms)


FRACTIONS = Statistic("fractions", _fractions, ("event", "window", "term"), needs=("events", "rectangle"))


class FractionsSkill(Metric):
    """(..., window) 1 - <(f - o)^2> / <f^2 + o^2> of fractions within windows of 1, 3, 5, 9, 17 points a side.

    The forecast's fraction is the mean of the ensemble's probabilities. 1 is perfect, 0 no overlap.
    """

    name, title, units, better = "fractions_skill", "Fractions skill score", "1", "high"
    reference = "Roberts and Lean 2008, doi:10.1175/2007MWR2123.1; ensembles: Duc et al. 2013"
    statistics = (FRACTIONS,)

    def value(self, *means: xr.DataArray) -> xr.DataArray:
        """1 - error / its largest value."""
        error, largest = means[0].isel(term=0, drop=True), means[0].isel(term=1, drop=True)
        return 1 - error / largest.where(largest > 0)
