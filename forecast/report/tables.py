"""Tables of words and numbers: what was run, and the scores themselves."""

from __future__ import annotations

from typing import Any

import numpy as np

from forecast.report.shown import Shown, lead_name, long_name, name

LEADS_OF_INTEREST = (24.0, 72.0, 120.0, 240.0)
POLICIES = {
    "propagate": "a missing value makes the scores of the regions that hold it missing",
    "skip": "points where the truth is missing do not count, for all scores alike",
}


def facts(shown: Shown) -> dict[str, str]:
    """What was run and how scores were averaged: term -> text."""
    s = shown.summary
    starts = s["starts"] if len(s["starts"]) <= 12 else [f"{s['starts'][0]} to {s['starts'][-1]}"]
    return {
        "Forecasts and members": ", ".join(f"{name(label)} {m}" for label, m in s["members"].items()),
        "Truth": s["truth"],
        "Analyses (persistence starts from them)": s["analysis"],
        "Grid": f"{s['grid']}, {s['points']} points; weights are exact cell areas",
        "Starts": f"{len(s['starts'])}: {', '.join(starts)}",
        "Lead times": ", ".join(lead_name(h) for h in s["lead_hours"]),
        "Regions": ", ".join(s["regions"]),
        "Climatological ensemble": _climatology(s),
        "Order of averaging": "area, then starts, each start with equal weight; roots and ratios last",
        "Ensemble size": "fair CRPS and spread-skill ratio do not depend on it; of one member the fair CRPS is the MAE",
        "Cases": f"{s['cases']} pairs of start and lead, {s['cases_skipped'] or 'none'} skipped for lack of truth",
        "Missing values": _missing(s),
        "Software": f"forecast {s['version']}",
    }


def _missing(s: dict[str, Any]) -> str:
    forecasts = ", ".join(f"{name(label)} {n}" for label, n in s["nan_points_forecast"].items() if n) or "none"
    truth = s["nan_points_truth"] or "none"
    return f"{POLICIES[s['nan_policy']]}; missing points in the truth: {truth}, in forecasts: {forecasts}"


def _climatology(s: dict[str, Any]) -> str:
    if not s["climatology"]:
        return "none"
    return (
        f"{s['members']['climatology']} states of {s['climatology'][0]} to {s['climatology'][1]} at the valid hour, "
        f"within {s['climatology_window_days']:g} days of the calendar day"
    )


def numbers(shown: Shown) -> dict[str, Any]:
    """A table of plain numbers: variables and forecasts by score and lead."""
    leads = list(dict.fromkeys(shown.nearest(h) for h in LEADS_OF_INTEREST if h <= shown.hours.max() or h == 24.0))
    metrics = [("fair_crps", "Fair CRPS"), ("rmse", "RMSE"), ("spread_skill", "Spread-skill"), ("acc", "ACC")]
    metrics = [(key, title) for key, title in metrics if shown.has(key)]
    rows = []
    for variable in shown.variables:
        for label in shown.metrics:
            values = [shown.values(label, key, variable)[lead] for key, _ in metrics for lead in leads]
            single = shown.summary["members"][label] < 2
            keys = [key for key, _ in metrics for _ in leads]
            cells = [_number(v, key, single) for v, key in zip(values, keys, strict=True)]
            rows.append({"variable": variable, "long_name": long_name(variable), "unit": shown.unit(variable),
                         "label": name(label), "cells": cells, "ours": label == shown.model})  # fmt: skip
    return {"metrics": [t for _, t in metrics], "leads": [lead_name(shown.hours[k]) for k in leads], "rows": rows}


def _number(value: float, key: str, single: bool) -> str:
    if not np.isfinite(value) or (key == "spread_skill" and single):
        return "–"
    return f"{value:.2f}" if key in ("spread_skill", "acc") else f"{value:#.4g}".rstrip(".")
