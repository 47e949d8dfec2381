"""SEEPS: the error of precipitation in the categories dry, light, heavy of each place's own climatology."""

from __future__ import annotations

import numpy as np
import xarray as xr

from forecast.verification.matchup import Matchup
from forecast.verification.metric import Metric, Statistic

DRY = {"tp": 0.25e-3}
"""Variables that SEEPS is of, and what counts as dry at most (m; 0.25 mm, as for 24 h sums)."""
SHARES = (0.1, 0.85)
"""Places are left out where fewer or more of the climatology's states are dry."""


def seeps(forecast: np.ndarray, truth: np.ndarray, dry_share: np.ndarray, heavy: np.ndarray, dry: float) -> np.ndarray:
    """(G,) SEEPS of amounts: 0.5 [[0, 1/(1-p), 4/(1-p)], [1/p, 0, 3/(1-p)], [1/p + 3/(2+p), 3/(2+p), 0]].

    Rows are the forecast's category, columns the truth's; p is the share of dry states.

    Args:
        dry_share: (G,) p. heavy: (G,) amount above which precipitation is heavy. dry: largest amount that is dry.
    """
    p = dry_share
    with np.errstate(divide="ignore", invalid="ignore"):
        zero = np.zeros_like(p)
        matrix = 0.5 * np.array([
            [zero, 1 / (1 - p), 4 / (1 - p)],
            [1 / p, zero, 3 / (1 - p)],
            [1 / p + 3 / (2 + p), 3 / (2 + p), zero],
        ])  # fmt: skip
    category = [np.where(x <= dry, 0, np.where(x > heavy, 2, 1)) for x in (forecast, truth)]
    score = matrix[category[0], category[1], np.arange(p.size)]
    return np.where(np.isnan(forecast) | np.isnan(truth), np.nan, score)


def _seeps(m: Matchup) -> np.ndarray:
    """(2, G): SEEPS where the place counts, and whether it counts."""
    if m.variable not in DRY:
        return np.full((2, m.truth.size), np.nan)
    assert m.climate is not None
    dry = DRY[m.variable]
    share, heavy = m.climate.dryness(dry)
    counts = (share >= SHARES[0]) & (share <= SHARES[1])
    score = seeps(m.truth + m.mean_error, m.truth, share, heavy, dry)
    return np.stack([np.where(counts, score, 0.0), counts.astype(float)])


class SEEPS(Metric):
    """Stable equitable error in probability space of the ensemble mean's precipitation; 0 perfect, 1 no skill.

    Categories are those of the climatological ensemble at the hour and time of year: dry up to 0.25 mm, heavy above
    what two thirds of the wet states do not exceed; places that are dry in less than 10 or more than 85 % of the
    states do not count.
    """

    name, title, units = "seeps", "SEEPS", "1"
    reference = "Rodwell et al. 2010, doi:10.1002/qj.656"
    statistics = (Statistic("seeps", _seeps, ("seeps_part",), needs=("climate",)),)

    def value(self, *means: xr.DataArray) -> xr.DataArray:
        """Mean over the places that count."""
        score, counts = means[0].isel(seeps_part=0, drop=True), means[0].isel(seeps_part=1, drop=True)
        return score / counts.where(counts > 0)
