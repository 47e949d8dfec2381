"""The folder of scores: what was run, sums, metrics, a tidy table.

summary.json                what was compared, how, and what was left out
scores.csv                  one row a forecast, score, variable, region and lead
forecasts/<name>.nc         groups `sum` and `weight` (per start), `metrics` (means over starts)
case.nc                     fields of one forecast
checks.json                 statements about skill, if any were asked for
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from forecast.core.errors import ForecastError
from forecast.verification.metric import Metric
from forecast.verification.scores import METRICS
from forecast.verification.sums import Sums

LABELS = ("event", "level")


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


def slug(label: str) -> str:
    """A label as a file name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", label).strip("-") or "forecast"


def sums_file(folder: Path, label: str) -> Path:
    """Where the scores of a forecast lie."""
    return folder / "forecasts" / f"{slug(label)}.nc"


def compute_metrics(sums: Sums, metrics: Sequence[Metric]) -> xr.Dataset:
    """All scores as means over starts, with `starts`, the number of starts behind them."""
    arrays = {m.name: sums.metric(m).assign_attrs(title=m.title, units=m.units, better=m.better) for m in metrics}
    kept = next(array for array in sums.weight.values() if "init_time" in array.dims)
    return xr.Dataset(arrays | {"starts": (kept > 0).sum("init_time")}, attrs=sums.attrs)


def write_scores(
    folder: Path, summary: Mapping[str, Any], sums: Mapping[str, Sums], metrics: Sequence[Metric]
) -> Scores:
    """Write all files but the case and the checks into `folder`, which exists."""
    datasets = {}
    for label, s in sums.items():
        path = sums_file(folder, label)
        path.parent.mkdir(exist_ok=True)
        s.save(path)
        datasets[label] = compute_metrics(s, metrics)
        datasets[label].to_netcdf(path, group="metrics", mode="a", engine="netcdf4")
    summary = dict(summary) | {"files": {label: str(sums_file(folder, label).relative_to(folder)) for label in sums}}
    (folder / "summary.json").write_text(json.dumps(summary, indent=1))
    pd.concat([_tidy(label, d) for label, d in datasets.items()]).to_csv(folder / "scores.csv", index=False)
    return Scores(folder, summary, dict(sums), datasets)


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
    return Scores(path, summary, sums, {label: compute_metrics(s, _held(s)) for label, s in sums.items()})


def _held(sums: Sums) -> tuple[Metric, ...]:
    return tuple(m for m in METRICS if sums.holds(m))


def _tidy(label: str, metrics: xr.Dataset) -> pd.DataFrame:
    """One row a number; a score of events is called `brier[> p90]`, and so on. Curves and spectra are left out."""
    where = ("variable", "lead_time", "region")
    columns = {}
    for name, array in metrics.drop_vars("starts").items():
        extra = [str(dim) for dim in array.dims if dim not in where]
        if not extra:
            columns[str(name)] = array
        elif len(extra) == 1 and extra[0] in LABELS:
            for label_ in array[extra[0]].values.tolist():
                columns[f"{name}[{label_}]"] = array.sel({extra[0]: label_}, drop=True)
    table = xr.Dataset(columns).to_dataframe().reset_index()
    table = table.melt(list(where), var_name="score", value_name="value")
    starts = metrics["starts"].to_series().rename("starts").reset_index()
    table = table.merge(starts, on=list(where))
    table.insert(0, "forecast", label)
    table["lead_hours"] = table.pop("lead_time") / np.timedelta64(1, "h")
    return table[["forecast", "score", "variable", "region", "lead_hours", "value", "starts"]]
