"""Means that are asked for in words: over seasons and over spans of lead time, from the same sums."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from forecast.core.errors import ForecastError
from forecast.core.times import duration
from forecast.verification.metric import Metric
from forecast.verification.sums import MONTH, Sums

SEASONS = ("DJF", "MAM", "JJA", "SON")
Span = tuple[np.timedelta64, np.timedelta64]
_SPAN = re.compile(r"(.+?)\s*=\s*(\d+[dhms])\s*(?:\.\.|-)\s*(\d+[dhms])")


def parse_span(text: str) -> tuple[str, Span]:
    """Name and limits, both inside, of `week 1=1d..7d`.

    Raises:
        ForecastError: not written so, or empty.
    """
    match = _SPAN.fullmatch(text.strip())
    if not match:
        raise ForecastError(f"`{text}` is no span of lead time; write it like `week 1=1d..7d`")
    first, last = (duration(part, f"span `{text}`:") for part in match.groups()[1:])
    if last < first:
        raise ForecastError(f"span `{text}` ends before it begins")
    return match[1], (first, last)


def season_of(times: np.ndarray) -> np.ndarray:
    """DJF, MAM, JJA or SON of dates."""
    month = times.astype("datetime64[M]").astype(int) % 12
    return np.array(SEASONS)[(month + 1) % 12 // 3]


def in_season(sums: Sums, season: str) -> Sums:
    """The sums of the starts in one season."""
    parts = []
    for dataset in (sums.sum, sums.weight):
        for dim in ("init_time", MONTH):
            if dim in dataset.dims:
                dataset = dataset.isel({dim: season_of(dataset[dim].values) == season})
        parts.append(dataset)
    return Sums(parts[0], parts[1], sums.attrs)


def in_span(sums: Sums, span: Span) -> Sums:
    """The sums over the leads of a span, each lead with the same say, at its last lead."""
    leads = sums.sum["lead_time"].values
    inside = (leads >= span[0]) & (leads <= span[1])
    if not inside.any():
        raise ForecastError(f"no lead that was scored lies within {span[0]} to {span[1]}")
    parts = [d.isel(lead_time=inside).sum("lead_time", skipna=False).expand_dims(lead_time=leads[inside][-1:])
             for d in (sums.sum, sums.weight)]  # fmt: skip
    parts = [d.transpose("variable", "init_time", ..., missing_dims="ignore") for d in parts]
    return Sums(parts[0], parts[1], sums.attrs)


def by_season(sums: Sums, metrics: Sequence[Metric]) -> xr.Dataset:
    """Scores with a dimension `season`, of those in which a forecast started."""
    present = [s for s in SEASONS if s in season_of(sums.sum["init_time"].values)]
    parts = [_scores(in_season(sums, season), metrics) for season in present]
    return xr.concat(parts, xr.DataArray(present, dims="season", name="season"), coords="minimal", compat="override")


def by_span(sums: Sums, metrics: Sequence[Metric], spans: Mapping[str, Span]) -> xr.Dataset:
    """Scores with a dimension `span` in place of the lead time."""
    parts = [_scores(in_span(sums, span), metrics).isel(lead_time=0, drop=True) for span in spans.values()]
    return xr.concat(parts, xr.DataArray(list(spans), dims="span", name="span"), coords="minimal", compat="override")


def _scores(sums: Sums, metrics: Sequence[Metric]) -> xr.Dataset:
    return xr.Dataset({m.name: sums.metric(m).assign_attrs(title=m.title, units=m.units, better=m.better)
                       for m in metrics})  # fmt: skip
