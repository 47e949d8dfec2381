"""The scorecard: by how much a score is better or worse than a reference, variable by level by lead.

The page holds all scores, regions and pairs as numbers, and `page.js` draws the card that a reader asks for by the
rules that are here; the first card is written out, for print and for readers without scripts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np

from forecast.core.variables import split
from forecast.report.shown import BASELINES, Shown, lead_name, long_name, name, part

# per cent of difference at which colours change, as on the WeatherBench scorecard; blue better, orange worse
EDGES = (-50, -20, -10, -5, -2, -1, 1, 2, 5, 10, 20, 50)
FILLS = ("#084594", "#2171b5", "#4292c6", "#6baed6", "#9ecae1", "#c6dbef", "#f5f5f5",
         "#fee6ce", "#fdd0a2", "#fdae6b", "#fd8d3c", "#e6550d", "#a63603")  # fmt: skip
DARK = {0, 1, 12}  # white text on these
SCORES = ("fair_crps", "crps", "rmse", "mae", "acc", "fair_rps", "fair_brier", "tail_crps", "roc_area", "seeps")
MOST_LEADS = 15
MARKS = {"+": "▲", "-": "▼"}


@dataclass(frozen=True)
class Cell:
    """One number of the scorecard: text, mark of significance, colours, and the values behind it for the tooltip."""

    text: str
    fill: str
    ink: str
    title: str
    mark: str = ""


@dataclass(frozen=True)
class Row:
    """A variable: its short name, its level, its long name, its cells by lead."""

    short: str
    level: str
    long_name: str
    cells: list[Cell]


@dataclass(frozen=True)
class Card:
    """A scorecard of one score against one reference over one region."""

    reference: str
    region: str
    score: str
    leads: list[str]
    rows: list[Row]


def scorecard(shown: Shown, reference: str, region: str, metric: str = "fair_crps") -> Card:
    """Percentage differences of a score from a reference, negative (blue) where the forecast is better."""
    leads, rows = some_leads(shown), []
    for variable in shown.variables:
        ours, theirs = (_short(shown.values(x, metric, variable, region)[leads]) for x in (shown.model, reference))
        marks = _marks(shown, shown.model, reference, metric, variable, region)
        unit = _unit(shown, metric, variable)
        cells = []
        for a, b, k, mark in zip(ours, theirs, leads, marks, strict=True):
            about = f"{variable}, {lead_name(shown.hours[k])}: {a:.4g}{unit}, {name(reference)} {b:.4g}{unit}"
            cells.append(_cell(change(a, b, _best(shown, metric)), about, mark))
        short, level = split(variable)
        rows.append(Row(short, _level(level), long_name(variable), cells))
    return Card(name(reference), region, title(shown, metric), [lead_name(shown.hours[k]) for k in leads], rows)


def change(ours: float, theirs: float, best: float) -> float:
    """Difference of two scores in per cent of the reference's distance from the best value; negative is better."""
    if not (np.isfinite(ours) and np.isfinite(theirs)) or theirs == best:
        return float("nan")
    return 100 * ((ours - best) / (theirs - best) - 1)


def references(shown: Shown) -> list[str]:
    """What scorecards compare with: other forecasts first, then climatology, persistence as the last resort."""
    others = [label for label in shown.rivals if label not in BASELINES]
    baselines = [label for label in ("ridge regression", "climatology", "persistence") if label in shown.metrics]
    return (sorted(others, key=lambda label: label == "perfect") + baselines)[:6]


def scores_of(shown: Shown) -> list[str]:
    """The scores that cards show, those of events with the event behind them."""
    found = []
    for metric in (m for m in SCORES if shown.has(m)):
        array = shown.metrics[shown.model][metric]
        found += [f"{metric}[{e}]" for e in array["event"].values] if "event" in array.dims else [metric]
    return found


def payload(shown: Shown) -> str:
    """All numbers that cards are drawn from, as JSON that may stand in a page."""
    leads, labels, scores = some_leads(shown), [shown.model, *references(shown)], scores_of(shown)
    regions = shown.summary["regions"]
    variables = [
        {"name": v, "short": split(v)[0], "level": _level(split(v)[1]), "long": long_name(v), "unit": shown.unit(v)}
        for v in shown.variables
    ]
    values = {
        label: {score: [[_known(_short(shown.values(label, score, v, r)[leads])) for v in shown.variables]
                        for r in regions]
                for score in scores}
        for label in labels
    }  # fmt: skip
    marks = {
        f"{a}|{b}": {score: [[_marks(shown, a, b, score, v, r) for v in shown.variables] for r in regions]
                     for score in scores}
        for a, b in shown.comparisons if a in labels and b in labels
    }  # fmt: skip
    about = [{"key": s, "title": title(shown, s), "best": _best(shown, s), "unit": _power(shown, s)} for s in scores]
    text = json.dumps(
        {
            "labels": {label: name(label) for label in labels}, "scores": about, "regions": regions,
            "leads": [lead_name(shown.hours[k]) for k in leads], "variables": variables, "values": values,
            "marks": marks, "edges": EDGES, "fills": FILLS, "dark": sorted(DARK),
        },
        ensure_ascii=False, separators=(",", ":"),
    )  # fmt: skip
    return text.replace("<", "\\u003c")


def legend() -> list[Cell]:
    """The colours in order, with their ranges."""
    edges = [None, *EDGES, None]
    cells = []
    for k, fill in enumerate(FILLS):
        low, high = edges[k], edges[k + 1]
        text = f"< {high}" if low is None else f"> {low}" if high is None else f"{low} to {high}"
        cells.append(Cell(text.replace("-", "−"), fill, _ink(k), f"{text} %"))
    return cells


def some_leads(shown: Shown) -> list[int]:
    """Positions of the leads on a card: all, or whole days, thinned until they fit."""
    places = list(range(shown.hours.size))
    whole = [k for k in places if shown.hours[k] % 24 == 0]
    if len(places) > MOST_LEADS and whole:
        places = whole
    return places[:: -(-len(places) // MOST_LEADS)]


def title(shown: Shown, metric: str) -> str:
    """A score's title, with the event that it is about."""
    plain, event = part(metric)
    text = str(shown.metrics[shown.model][plain].attrs.get("title", plain))
    return f"{text}, {event}" if event else text


def _best(shown: Shown, metric: str) -> float:
    return 1.0 if shown.metrics[shown.model][part(metric)[0]].attrs.get("better") == "high" else 0.0


def _power(shown: Shown, metric: str) -> str:
    return str(shown.metrics[shown.model][part(metric)[0]].attrs.get("units", "1"))


def _unit(shown: Shown, metric: str, variable: str) -> str:
    return f" {shown.unit(variable)}" if _power(shown, metric) == "x" else ""


def _level(level: int | None) -> str:
    return "" if level is None else str(level)


def _short(values: np.ndarray) -> list[float]:
    """Four digits, as the page holds them, so that it and the written card agree."""
    return [float(f"{v:.4g}") for v in values]


def _known(values: list[float]) -> list[float | None]:
    return [v if np.isfinite(v) else None for v in values]


def _marks(shown: Shown, label: str, rival: str, metric: str, variable: str, region: str) -> str:
    """A letter a lead: `+` better, `-` worse, `0` neither, by the rate of false discoveries; a space if not tested."""
    leads, found = some_leads(shown), shown.comparisons.get((label, rival))
    if found is None or metric not in found["score"].values:
        return " " * len(leads)
    at = found.sel(score=metric, variable=variable, region=region)
    sign, q = at["significant"].values[leads], at["q"].values[leads]
    return "".join(" " if np.isnan(p) else "0+-"[int(s)] for s, p in zip(sign, q, strict=True))


def _cell(percent: float, title: str, mark: str) -> Cell:
    if not np.isfinite(percent):
        return Cell("–", "#ffffff", "#566273", title)
    k = int(np.searchsorted(EDGES, percent))
    text = f"{percent:+.1f}" if abs(percent) < 10 else f"{percent:+.0f}"
    said = {"+": "; significantly better", "-": "; significantly worse", "0": "; not significant"}.get(mark, "")
    return Cell(text.replace("-", "−"), FILLS[k], _ink(k), title + said, MARKS.get(mark, ""))


def _ink(k: int) -> str:
    return "#ffffff" if k in DARK else "#0b1118"
