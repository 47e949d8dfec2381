"""Scores against lead time, with bands of chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from forecast.report import scorecard, style
from forecast.report.shown import BASELINES, Shown, name
from forecast.report.style import Picture

WIDTH = 11.4  # inches of a full row


def overview(shown: Shown) -> Picture:
    """All variables together: fair CRPS in units of climatology's, and the spread-skill ratio."""
    labels = [label for label in shown.metrics if label != "climatology"]
    ensembles = [label for label in shown.ensembles if label != "climatology"]
    figure, (left, right), _ = style.panels(2, 2, (WIDTH / 2, 2.7))
    for label in labels:
        ratios = [
            shown.values(label, "fair_crps", v) / shown.values("climatology", "fair_crps", v) for v in shown.variables
        ]
        left.plot(shown.hours / 24, _geometric_mean(ratios), **style.line(list(shown.metrics), label))
    left.axhline(1, **{**style.line(list(shown.metrics), "climatology"), "zorder": 1})
    left.set_ylim(0, 1.3)
    left.set_title("Fair CRPS / fair CRPS of climatology")
    right.axhspan(0.75, 1.25, color="#eef4ea", zorder=0)
    right.axhline(1, color="#7a8a6a", linewidth=0.8)
    for label in ensembles:
        ratios = [shown.values(label, "spread_skill", v) for v in shown.variables]
        right.plot(shown.hours / 24, _geometric_mean(ratios), **style.line(list(shown.metrics), label))
    _ratio_limits(right)
    right.set_title("Spread-skill ratio")
    for ax in (left, right):
        style.days(ax, shown.hours)
    _legend(figure, left, [*labels, "climatology"])
    count = len(shown.variables)
    alt = f"Fair CRPS relative to climatology and spread-skill ratio by lead time, means over {count} variables."
    caption = (
        f"All {count} variables together (geometric mean), {where(shown)}. Left: below 1 is better than climatology."
    )
    return style.vector(figure, alt, caption)


def skill_curves(shown: Shown, metric: str, title: str) -> Picture:
    """A score against lead time for every variable, all forecasts and baselines."""
    labels = [label for label in shown.metrics if metric in shown.metrics[label]]
    figure, axes, bottom = _variable_panels(shown, 1.75)
    for ax, variable in zip(axes, shown.variables, strict=True):
        curves = {label: shown.values(label, metric, variable) for label in labels}
        for label, values in curves.items():
            ax.plot(shown.hours / 24, values, **style.line(labels, label))
            if label not in BASELINES:
                _band(ax, shown, shown.band(label, metric, variable), style.line(labels, label))
        top = max(np.nanmax(v, initial=0) for label, v in curves.items() if label != "persistence")
        if "persistence" in curves:
            top = max(top, min(np.nanmax(curves["persistence"], initial=0), 1.15 * top))
        ax.set_ylim(0, 1.12 * top or 1.0)
        ax.set_title(f"{variable}  [{shown.unit(variable)}]")
        style.days(ax, shown.hours, label=ax in bottom)
    _legend(figure, axes[0], labels)
    beside = ", ".join(name(label) for label in labels[1:])
    alt = f"{title} against lead time for {', '.join(shown.variables)}: {name(shown.model)} beside {beside}."
    return style.vector(figure, alt, f"{title} by lead time, {where(shown)}. Lower is better.{_bands(shown)}")


def skill(shown: Shown, reference: str, metric: str = "fair_crps") -> Picture:
    """Skill score against a reference for every variable, with bands."""
    labels = [x for x in shown.metrics if x not in BASELINES and (x, reference) in shown.comparisons]
    figure, axes, bottom = _variable_panels(shown, 1.75)
    for ax, variable in zip(axes, shown.variables, strict=True):
        ax.axhline(0, **{**style.line(labels, "climatology"), "zorder": 1})
        for label in labels:
            line = style.line(list(shown.metrics), label)
            values, *edges = (shown.compared(label, reference, what, metric, variable)
                              for what in ("skill", "skill_low", "skill_high"))  # fmt: skip
            ax.plot(shown.hours / 24, 100 * values, **line)
            _band(ax, shown, 100 * np.array(edges), line)
        ax.set_ylim(max(-50, ax.get_ylim()[0]), min(105, ax.get_ylim()[1]))
        ax.set_title(f"{variable}  [%]")
        style.days(ax, shown.hours, label=ax in bottom)
    _legend(figure, axes[0], labels)
    what = f"{scorecard.title(shown, metric)} skill against {name(reference)}"
    alt = f"{what} by lead time for {', '.join(shown.variables)}, in per cent, with bands of chance."
    return style.vector(figure, alt, f"{what}: 1 − score / score of {name(reference)}, {where(shown)}.{_bands(shown)}")


def spread_skill(shown: Shown) -> Picture:
    """Spread-skill ratio against lead time with the band 0.75 to 1.25."""
    labels = [label for label in shown.ensembles if label != "climatology"]
    figure, axes, bottom = _variable_panels(shown, 1.55)
    for ax, variable in zip(axes, shown.variables, strict=True):
        ax.axhspan(0.75, 1.25, color="#eef4ea", zorder=0)
        ax.axhline(1, color="#7a8a6a", linewidth=0.8)
        for label in labels:
            line = style.line(labels, label)
            ax.plot(shown.hours / 24, shown.values(label, "spread_skill", variable), **line)
            _band(ax, shown, shown.band(label, "spread_skill", variable), line)
        _ratio_limits(ax)
        ax.set_title(variable)
        style.days(ax, shown.hours, label=ax in bottom)
    _legend(figure, axes[0], labels)
    alt = f"Spread-skill ratio against lead time for {', '.join(shown.variables)}; 1 is ideal."
    caption = (
        f"Spread-skill ratio freed of the ensemble's size, {where(shown)}. 1: the spread is as large as the error of "
        "the mean; below 1: too little spread. Green: 0.75 to 1.25." + _bands(shown)
    )
    return style.vector(figure, alt, caption)


def _variable_panels(shown: Shown, height: float) -> tuple[Figure, list[Axes], list[Axes]]:
    columns = style.columns_for(len(shown.variables))
    return style.panels(len(shown.variables), columns, (WIDTH / columns, height))


def _legend(figure: Figure, ax: Axes, labels: Sequence[str]) -> None:
    handles = list(ax.lines)[-len(labels) :]
    figure.legend(handles, [name(x) for x in labels], loc="upper left", ncols=min(len(labels), 7), fontsize=8.5)


def _band(ax: Axes, shown: Shown, band: np.ndarray | None, line: dict[str, Any]) -> None:
    """Shades where a curve may lie by chance."""
    if band is not None:
        ax.fill_between(shown.hours / 24, band[0], band[1], color=line["color"], alpha=0.16, linewidth=0)


def _bands(shown: Shown) -> str:
    return " Bands: 95 %, from starts resampled in blocks." if shown.bands else ""


def _ratio_limits(ax: Axes) -> None:
    low, high = ax.get_ylim()
    ax.set_ylim(max(0, min(low, 0.6)), min(max(high, 1.4), 2.5))


def _geometric_mean(ratios: Sequence[np.ndarray]) -> np.ndarray:
    """(L,) over variables; NaN where no variable has a value."""
    with np.errstate(all="ignore"):
        logs = np.log(np.array(ratios))
        return np.exp(np.nansum(logs, axis=0) / (~np.isnan(logs)).sum(axis=0))


def where(shown: Shown) -> str:
    """`globe, 5 starts`."""
    starts = len(shown.summary["starts"])
    return f"{shown.region}, {starts} start{'s' if starts > 1 else ''}"
