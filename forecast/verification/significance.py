"""Which differences between two forecasts are more than chance, and bands about scores and skill.

Everything is made from the sums by start; the fields are not read again. Scores are paired start by start. Roots and
ratios are taken of every resampled mean, as they are of the mean itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from forecast.verification.metric import Metric
from forecast.verification.resampling import block_length, false_discovery, stationary_bootstrap, t_test
from forecast.verification.sums import Sums

PLACE = ("variable", "lead_time", "region")
FEWEST = 3
"""starts that say something of chance"""


@dataclass(frozen=True)
class Settings:
    """How significance is judged.

    Attributes:
        draws: resampled series. level: of the bands. rate: largest false discovery rate. seed: of the draws.
        block: mean length of blocks in starts; chosen from the data if 0.
    """

    draws: int = 1000
    level: float = 0.95
    rate: float = 0.05
    seed: int = 0
    block: float = 0.0


def testable(metrics: Sequence[Metric]) -> tuple[Metric, ...]:
    """The scores that are kept by start and have a good side."""
    return tuple(m for m in metrics if m.better != "none" and not any(s.wide for s in m.statistics))


def bands(sums: Sums, metrics: Sequence[Metric], settings: Settings = Settings()) -> xr.Dataset:  # noqa: B008
    """`low` and `high` of each score, dims (score, variable, lead_time, region); NaN for fewer than 3 starts."""
    enough, settings = _enough(sums, settings)
    parts = []
    for metric in metrics:
        mean = sums.metric(metric)
        draws = _draws(sums, metric, _block(sums.metric(metric, ()), settings), settings)
        edges = _quantiles(draws, settings.level)
        low, high = (mean.copy(data=edge.where(enough).transpose(*mean.dims).values) for edge in edges)
        parts.append(xr.Dataset({"low": low, "high": high}))
    return _stack(parts, metrics)


def _enough(sums: Sums, settings: Settings) -> tuple[bool, Settings]:
    """Whether chance can be judged from so many starts; if not, one draw will do."""
    enough = sums.sum.sizes["init_time"] >= FEWEST
    return enough, settings if enough else replace(settings, draws=1)


def compare(ours: Sums, theirs: Sums, metrics: Sequence[Metric], settings: Settings = Settings()) -> xr.Dataset:  # noqa: B008
    """Paired comparison of two forecasts, dims (score, variable, lead_time, region).

    Returns:
        `difference` (ours - theirs) with `low`, `high`; `skill` (1 - ours / theirs, of scores that are best at 0)
        with `skill_low`, `skill_high`; `p_bootstrap` and `p_ttest` of no difference; `q`, the false discovery rate
        over all variables, leads and regions of the larger of the two; `significant`: +1 ours is better, -1 worse, 0
        neither, for q up to the rate.
    """
    starts = np.intersect1d(ours.sum["init_time"].values, theirs.sum["init_time"].values)
    a, b = (s.select(np.isin(s.sum["init_time"].values, starts)) for s in (ours, theirs))
    a, b = _both(a, b), _both(b, a)
    _, settings = _enough(a, settings)
    return _stack([_compare(a, b, metric, settings) for metric in metrics], metrics)


def _both(sums: Sums, other: Sums) -> Sums:
    """The sums by start, without the cases that the other does not have."""
    names = [name for name, weight in sums.weight.items() if "init_time" in weight.dims and name in other.weight]
    there = {name: xr.DataArray(other.weight.variables[name] > 0) for name in names}
    kept = [xr.Dataset({name: dataset[name].where(there[name], 0.0) for name in names})
            for dataset in (sums.sum, sums.weight)]  # fmt: skip
    return Sums(kept[0], kept[1], sums.attrs)


def _compare(a: Sums, b: Sums, metric: Metric, settings: Settings) -> xr.Dataset:
    by_start = _oriented(a.metric(metric, ()), metric) - _oriented(b.metric(metric, ()), metric)
    block = _block(by_start, settings)
    x, y = (_oriented(s.metric(metric), metric) for s in (a, b))
    dx, dy = (_oriented(_draws(s, metric, block, settings), metric) for s in (a, b))
    difference, drawn = x - y, dx - dy
    enough = by_start.sizes["init_time"] >= FEWEST
    low, high = (edge.where(enough) for edge in _quantiles(drawn, settings.level))
    rest = [dim for dim in by_start.dims if dim != "init_time"]
    series = by_start.transpose("init_time", *rest)
    p_t = xr.DataArray(_by_column(series.values, t_test), dims=rest)
    extreme: xr.DataArray = (abs(drawn - difference) >= abs(difference)).sum("draw") + 1.0
    p_b = (extreme / (settings.draws + 1.0)).where(difference.notnull() & low.notnull() & enough)
    larger = np.maximum(p_b.values, p_t.transpose(*p_b.dims).values)
    q = xr.DataArray(false_discovery(larger), dims=p_b.dims)
    sign = -1.0 if metric.better == "high" else 1.0
    found = {"difference": difference, "low": low, "high": high, "p_bootstrap": p_b, "p_ttest": p_t, "q": q}
    found["significant"] = xr.where(q <= settings.rate, -np.sign(sign * difference), 0.0)
    if metric.better == "low":
        lows, highs = (edge.where(enough) for edge in _quantiles(1 - dx / dy.where(dy > 0), settings.level))
        found |= {"skill": 1 - x / y.where(y > 0), "skill_low": lows, "skill_high": highs}
    return xr.Dataset(found)


def _oriented(values: xr.DataArray, metric: Metric) -> xr.DataArray:
    """Scores that are best at 1 as their distance from it, |ln x|, so that lower is better."""
    if metric.better != "one":
        return values
    return values.copy(data=np.abs(np.log(values.where(values > 0).values)))


def _draws(sums: Sums, metric: Metric, block: float, settings: Settings) -> xr.DataArray:
    """The score of each resampled set of starts, (draw, ...)."""
    counts = stationary_bootstrap(sums.sum.sizes["init_time"], block, settings.draws, settings.seed)
    means = []
    for statistic in metric.statistics:
        total, weight = sums.sum.variables[statistic.name], sums.weight.variables[statistic.name]
        drawn = [xr.Variable(("draw", *(d for d in array.dims if d != "init_time")),
                             np.tensordot(counts, array.values, (1, array.dims.index("init_time"))))
                 for array in (total, weight)]  # fmt: skip
        means.append(xr.DataArray(drawn[0] / drawn[1].where(drawn[1] > 0)))
    return metric.value(*means)


def _block(by_start: xr.DataArray, settings: Settings) -> float:
    """Mean of the best block lengths of all series that are complete."""
    if settings.block:
        return settings.block
    size = by_start.sizes["init_time"]
    series = by_start.transpose("init_time", ...).values.reshape(size, -1)
    series = series[:, np.isfinite(series).all(axis=0)]
    return float(block_length(series).mean()) if series.size and size >= 5 else 1.0


def _quantiles(draws: xr.DataArray, level: float) -> tuple[xr.DataArray, xr.DataArray]:
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    axis = draws.dims.index("draw")
    lost = np.isnan(draws.values).mean(axis=axis) > 0.5
    with np.errstate(invalid="ignore"):
        filled = np.where(np.expand_dims(lost, axis), 0.0, draws.values)
        quantile = np.nanquantile if np.isnan(filled).any() else np.quantile
        found = quantile(filled, tails, axis=axis)
    dims = [dim for dim in draws.dims if dim != "draw"]
    low, high = (xr.DataArray(np.where(lost, np.nan, edge), dims=dims) for edge in found)
    return low, high


def _by_column(series: np.ndarray, test) -> np.ndarray:  # type: ignore[no-untyped-def]
    """A test of each column (S, ...), starts that were not scored left out."""
    flat = series.reshape(len(series), -1)
    whole = np.isfinite(flat).all(axis=0)
    out = np.full(flat.shape[1], np.nan)
    out[whole] = test(flat[:, whole])
    for n in np.flatnonzero(~whole):
        out[n] = test(flat[np.isfinite(flat[:, n]), n][:, None])[0]
    return out.reshape(series.shape[1:])


def _stack(parts: Sequence[xr.Dataset], metrics: Sequence[Metric]) -> xr.Dataset:
    """One dataset with a dimension `score`; a score of events is `brier[> p90]`, and so on."""
    named = []
    for metric, part in zip(metrics, parts, strict=True):
        extra = [str(dim) for dim in part.dims if dim not in PLACE]
        if not extra:
            named.append((metric.name, part))
        elif len(extra) == 1:
            labels = part[extra[0]].values if extra[0] in part.coords else range(part.sizes[extra[0]])
            for k, label in enumerate(labels):
                named.append((f"{metric.name}[{label}]", part.isel({extra[0]: k}, drop=True)))
    names = xr.DataArray([name for name, _ in named], dims="score", name="score")
    return xr.concat([part for _, part in named], names, data_vars="all", coords="minimal", compat="override",
                     join="outer")  # fmt: skip
