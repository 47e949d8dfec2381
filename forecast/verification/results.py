"""The folder of scores: what was run, sums, metrics, a tidy table.

summary.json                what was compared, how, and what was left out
scores.csv                  one row a forecast, score, variable, region, lead or span of leads, and season
forecasts/<name>.nc         groups `sum` and `weight` (per start), `metrics` (means over starts), `seasons`, `spans`,
                            `bands` (of chance, about the means)
comparisons/<a>-vs-<b>.nc   paired differences, skill, bands, p-values, significance
case.nc                     fields of the first forecast
cases/<which>.nc            fields of the forecasts with the smallest and the largest fair CRPS; not of forecasts scored
                            while they are made
fields.nc                   bias and fair CRPS of single points; not of forecasts scored while they are made
checks.json                 statements about skill, if any were asked for
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from forecast.core.errors import ForecastError
from forecast.verification.averages import Span, by_season, by_span
from forecast.verification.diagrams import add_diagrams
from forecast.verification.metric import Metric
from forecast.verification.scores import named
from forecast.verification.significance import Settings, bands, compare, testable
from forecast.verification.sums import MONTH, Sums

LABELS = ("event", "level")
COLUMNS = ("forecast", "score", "variable", "region", "lead_hours", "value", "starts", "season", "span")


@dataclass(frozen=True, eq=False)
class Scores:
    """A folder of scores, opened.

    Attributes:
        path: the folder. summary: what was run.
        sums: label -> Sums, in the order given: forecasts, then baselines.
        metrics: label -> scores as means over starts, dims (variable, lead_time, region[, rank, event, ...]).
    """

    path: Path
    summary: dict[str, Any]
    sums: dict[str, Sums]
    metrics: dict[str, xr.Dataset]


@dataclass(frozen=True)
class Extra:
    """What is made of the sums besides means over all starts: seasons, spans of lead time, significance."""

    seasons: bool = False
    spans: Mapping[str, Span] = field(default_factory=dict)
    significance: Settings | None = None


def slug(label: str) -> str:
    """A label as a file name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", label).strip("-") or "forecast"


def sums_file(folder: Path, label: str) -> Path:
    """Where the scores of a forecast lie."""
    return folder / "forecasts" / f"{slug(label)}.nc"


def compute_metrics(sums: Sums, metrics: Sequence[Metric]) -> xr.Dataset:
    """All scores as means over starts, with `starts`, the number of starts behind them, and what diagrams need."""
    arrays = {m.name: sums.metric(m).assign_attrs(title=m.title, units=m.units, better=m.better) for m in metrics}
    return add_diagrams(xr.Dataset(arrays | {"starts": _starts(sums)}, attrs=sums.attrs), sums)


def _starts(sums: Sums) -> xr.DataArray:
    """(variable, lead_time, region) how many starts were scored."""
    weights = list(sums.weight.values())
    for weight in weights:
        if "init_time" in weight.dims:
            return (weight > 0).sum("init_time")
    return weights[0].sum(MONTH).round().astype(int)


def write_scores(
    folder: Path,
    summary: Mapping[str, Any],
    sums: Mapping[str, Sums],
    metrics: Sequence[Metric],
    extra: Extra | None = None,
) -> Scores:
    """Write all files but the case and the checks into `folder`, which exists."""
    extra = extra or Extra()
    datasets, tables = {}, []
    for label, s in sums.items():
        path = sums_file(folder, label)
        path.parent.mkdir(exist_ok=True)
        s.save(path)
        datasets[label] = compute_metrics(s, metrics)
        groups = {"metrics": datasets[label]}
        if extra.seasons:
            groups["seasons"] = by_season(s, metrics)
        if extra.spans:
            groups["spans"] = by_span(s, metrics, extra.spans)
        if extra.significance:
            groups["bands"] = bands(s, testable(metrics), extra.significance)
        for group, dataset in groups.items():
            dataset.to_netcdf(path, group=group, mode="a", engine="netcdf4")
        tables += [_tidy(label, groups[group]) for group in ("metrics", "seasons", "spans") if group in groups]
    pairs = _write_comparisons(folder, summary, sums, metrics, extra.significance) if extra.significance else []
    summary = dict(summary) | {
        "files": {label: str(sums_file(folder, label).relative_to(folder)) for label in sums},
        "comparisons": pairs,
        "scores": [m.name for m in metrics],
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=1))
    pd.concat(tables).to_csv(folder / "scores.csv", index=False)
    return Scores(folder, summary, dict(sums), datasets)


def _write_comparisons(
    folder: Path, summary: Mapping[str, Any], sums: Mapping[str, Sums], metrics: Sequence[Metric], settings: Settings
) -> list[dict[str, str]]:
    """Each forecast against those after it and the baselines; returns label, rival and file of each."""
    labels, pairs = list(sums), []
    for k, label in enumerate(label for label in labels if label in summary["forecasts"]):
        for rival in labels[k + 1 :]:
            file = f"comparisons/{slug(label)}-vs-{slug(rival)}.nc"
            (folder / file).parent.mkdir(exist_ok=True)
            found = compare(sums[label], sums[rival], testable(metrics), settings)
            found.attrs = {"forecast": label, "against": rival, "level": settings.level, "rate": settings.rate,
                           "draws": settings.draws}  # fmt: skip
            found.to_netcdf(folder / file, engine="netcdf4")
            pairs.append({"forecast": label, "against": rival, "file": file})
    return pairs


def open_scores(path: str | Path) -> Scores:
    """Open a folder that `score` wrote.

    Raises:
        ForecastError: it is none.
    """
    path = Path(path)
    try:
        summary = json.loads((path / "summary.json").read_text())
    except (OSError, ValueError):
        raise ForecastError(f"{path} holds no scores: give a folder that `forecast verify` wrote") from None
    sums = {label: Sums.open(sums_file(path, label)) for label in summary["members"]}
    metrics = named(summary["scores"])
    return Scores(path, summary, sums, {label: compute_metrics(s, metrics) for label, s in sums.items()})


def _tidy(label: str, metrics: xr.Dataset) -> pd.DataFrame:
    """One row a number; a score of events is called `brier[> p90]`, and so on. Curves and spectra are left out."""
    where = [dim for dim in ("variable", "lead_time", "region", "season", "span") if dim in metrics.dims]
    columns = {}
    for name, array in metrics.items():
        extra = [str(dim) for dim in array.dims if dim not in where]
        if not extra:
            columns[str(name)] = array
        elif len(extra) == 1 and extra[0] in LABELS:
            for k, label_ in enumerate(array[extra[0]].values.tolist()):
                columns[f"{name}[{label_}]"] = array.isel({extra[0]: k}, drop=True)
    starts = columns.pop("starts", None)
    table = xr.Dataset(columns).to_dataframe().reset_index()
    table = table.melt(where, var_name="score", value_name="value").dropna(subset="value")
    if starts is not None:
        table = table.merge(starts.to_series().rename("starts").reset_index(), on=where)
    hours = table.pop("lead_time") / np.timedelta64(1, "h") if "lead_time" in table else np.nan
    table = table.assign(forecast=label, lead_hours=hours)
    return table.reindex(columns=COLUMNS)
