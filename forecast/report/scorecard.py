"""The scorecard: by how much the fair CRPS is better or worse than a reference, variable by lead."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forecast.report.shown import Shown, lead_name, long_name, name

# per cent of difference at which colours change, as on the WeatherBench scorecard; blue better, orange worse
EDGES = (-50, -20, -10, -5, -2, -1, 1, 2, 5, 10, 20, 50)
FILLS = ("#084594", "#2171b5", "#4292c6", "#6baed6", "#9ecae1", "#c6dbef", "#f5f5f5",
         "#fee6ce", "#fdd0a2", "#fdae6b", "#fd8d3c", "#e6550d", "#a63603")  # fmt: skip
DARK = {0, 1, 12}  # white text on these


@dataclass(frozen=True)
class Cell:
    """One number of the scorecard: text, colours, and the values behind it for the tooltip."""

    text: str
    fill: str
    ink: str
    title: str


@dataclass(frozen=True)
class Row:
    """A variable: its name, its long name, its cells by lead."""

    variable: str
    long_name: str
    cells: list[Cell]


@dataclass(frozen=True)
class Card:
    """A scorecard against one reference over one region."""

    reference: str
    region: str
    leads: list[str]
    rows: list[Row]


def scorecard(shown: Shown, reference: str, region: str, metric: str = "fair_crps") -> Card:
    """Percentage differences of a score from a reference, negative (blue) where the forecast is better."""
    rows = []
    for variable in shown.variables:
        ours = shown.values(shown.model, metric, variable, region)
        theirs = shown.values(reference, metric, variable, region)
        unit = shown.unit(variable)
        cells = [
            _cell(float(a), float(b), f"{variable}, {lead_name(h)}: {a:.4g} {unit}, {name(reference)} {b:.4g} {unit}")
            for a, b, h in zip(ours, theirs, shown.hours, strict=True)
        ]
        rows.append(Row(variable, long_name(variable), cells))
    return Card(name(reference), region, [lead_name(h) for h in shown.hours], rows)


def legend() -> list[Cell]:
    """The colours in order, with their ranges."""
    edges = [None, *EDGES, None]
    cells = []
    for k, fill in enumerate(FILLS):
        low, high = edges[k], edges[k + 1]
        text = f"< {high}" if low is None else f"> {low}" if high is None else f"{low} to {high}"
        cells.append(Cell(text, fill, _ink(k), f"{text} %"))
    return cells


def _cell(ours: float, theirs: float, title: str) -> Cell:
    if not (np.isfinite(ours) and np.isfinite(theirs)) or theirs == 0:
        return Cell("–", "#ffffff", "#6b7785", title)
    percent = 100 * (ours / theirs - 1)
    k = int(np.searchsorted(EDGES, percent))
    text = f"{percent:+.1f}" if abs(percent) < 10 else f"{percent:+.0f}"
    return Cell(text.replace("-", "−"), FILLS[k], _ink(k), title)


def _ink(k: int) -> str:
    return "#ffffff" if k in DARK else "#0b1118"
