"""What diagrams need beside scores: how many independent cases there are, and what chance makes of them."""

from __future__ import annotations

import numpy as np
import xarray as xr
from scipy.stats import binom, norm

from forecast.verification.deterministic import ERROR, SQUARED_ERROR
from forecast.verification.ensemble import RANK
from forecast.verification.events import BRIER, EXCESS, TABLE, exchangeable, parts
from forecast.verification.resampling import flatness
from forecast.verification.sums import Sums

BAR = 0.9


def independent_points(sums: Sums, mean: str, square: str) -> xr.DataArray:
    """How many independent points a field counts for: <e^2> / var(area mean of e) over starts, at least 1.

    Neighbouring points err alike, so a field of 30,000 points may hold no more information than 50. `mean` and
    `square` name the statistics of e and e^2.
    """

    def by_start(name: str) -> xr.DataArray:
        weight = sums.weight[name]
        return sums.sum[name] / weight.where(weight > 0)

    starts = (sums.weight[mean] > 0).sum("init_time")
    points = by_start(square).mean("init_time") / by_start(mean).var("init_time", ddof=1).where(starts > 1)
    return points.fillna(1.0).clip(1.0)


def reliability_bars(sums: Sums) -> xr.Dataset:
    """`reliability_low` and `_high`: where 90 % of the frequencies of a perfect ensemble of this size would lie.

    Consistency bars (Broecker and Smith 2007, doi:10.1175/WAF993.1), binomial about `reliability_expected` with as
    many cases as there are independent ones.
    """
    table = (sums.sum[TABLE.name].sum("init_month") / sums.weight[TABLE.name].sum("init_month")).fillna(0.0)
    cases = (sums.weight[BRIER.name] > 0).sum("init_time") * independent_points(sums, EXCESS.name, BRIER.name)
    count, _, _ = parts(table)
    expected = exchangeable(table).transpose(*count.dims)
    number = (count * cases).round().transpose(*count.dims).clip(0.0).values
    known = (number > 0) & expected.notnull().values
    out = {}
    for name, tail in (("low", (1 - BAR) / 2), ("high", (1 + BAR) / 2)):
        edges = np.full(count.shape, np.nan)
        edges[known] = binomial_edge(tail, number[known], expected.values[known])
        out[f"reliability_{name}"] = count.copy(data=edges)
    return xr.Dataset(out)


def binomial_edge(tail: float, number: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """The frequency that `number` cases of a probability fall short of with probability `tail`; all (N,)."""
    number, probability = np.minimum(number, 1e9), np.clip(probability, 0.0, 1.0)
    variance = probability * (1 - probability)
    edge = np.clip(probability + norm.ppf(tail) * np.sqrt(variance / number), 0.0, 1.0)
    few = number * variance < 25
    edge[few] = binom.ppf(tail, np.minimum(number[few], 1e5), probability[few]) / np.minimum(number[few], 1e5)
    return edge


def rank_flatness(sums: Sums) -> xr.DataArray:
    """`rank_flatness_p`: p of a flat rank histogram, chi-square with as many cases as there are independent ones."""
    shares = sums.sum[RANK.name].sum("init_month", skipna=False) / sums.weight[RANK.name].sum("init_month")
    cases = (sums.weight[ERROR.name] > 0).sum("init_time") * independent_points(sums, ERROR.name, SQUARED_ERROR.name)
    shares = shares.transpose(..., "rank")
    p = flatness(shares.values, cases.transpose(*shares.dims[:-1]).values)
    return shares.isel(rank=0, drop=True).copy(data=p)


def add_diagrams(scores: xr.Dataset, sums: Sums) -> xr.Dataset:
    """The scores with what their diagrams need, where the sums allow it."""
    if all(s.name in sums.sum for s in (TABLE, BRIER, EXCESS)):
        scores = scores.merge(reliability_bars(sums))
    if all(s.name in sums.sum for s in (RANK, ERROR, SQUARED_ERROR)):
        scores["rank_flatness_p"] = rank_flatness(sums).assign_attrs(title="p of a flat rank histogram", units="1")
    return scores
