"""Meteograms: all members at one place, as plumes and boxes, a panel a variable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

from forecast.core.errors import ForecastError
from forecast.plots.fields import Case
from forecast.plots.looks import look
from forecast.plots.panel import INK
from forecast.plots.resample import Resampler

BLUE, ORANGE = "#0072B2", "#D55E00"
BANDS = ((0, 100, 0.14), (10, 90, 0.24), (25, 75, 0.42))
SUMS = ("tp", "cp", "lsp", "sf")


def series(case: Case, names: Sequence[str], place: tuple[float, float]) -> dict[str, np.ndarray]:
    """(L, M) shown values of each variable at latitude, longitude `place`, bilinear between grid points.

    Raises:
        ForecastError: the place lies outside the forecasts' region.
    """
    resampler = Resampler(case.grid, np.array([place[0]]), np.array([place[1]]))
    if not resampler.inside.all():
        lat, lon = case.grid.latitudes, (case.grid.longitudes + 180) % 360 - 180
        raise ForecastError(
            f"the place {place[0]:g},{place[1]:g} lies outside the forecasts, which reach from "
            f"{lat.min():g} to {lat.max():g} N and from {lon.min():g} to {lon.max():g} E"
        )
    leads = range(len(case.forecasts.leads))
    return {name: look(name).shown(np.stack([resampler(case.field(name, k))[:, 0] for k in leads])) for name in names}


def meteogram(case: Case, names: Sequence[str], place: tuple[float, float], style: str = "auto") -> Figure:
    """Plumes (bands of quantiles, members, median) or boxes at every lead time; `auto`: boxes for sums, else plumes."""
    if style not in ("auto", "plume", "box", "both"):
        raise ForecastError(f"style `{style}`: choose one of auto, plume, box, both")
    found = series(case, names, place)
    height = 0.86 + 1.75 * len(names) + 0.5
    figure = Figure(figsize=(8.6, height))
    times = (case.forecasts.starts[case.start] + case.forecasts.leads).astype("datetime64[s]").astype(object)
    for k, name in enumerate(names):
        bottom = height - 0.8 - (k + 1) * 1.75 + 0.12
        ax = figure.add_axes((0.085, bottom / height, 0.885, 1.36 / height))
        kind = style if style != "auto" else "box" if name in SUMS else "plume"
        _panel(ax, times, found[name], kind, name)
        ax.set_title(f"{case.title(name)} [{look(name).unit}]", fontsize=10.5, fontweight="bold", loc="left", pad=4)
        if len(times) > 1:
            ax.set_xlim(times[0] - 0.6 * (times[1] - times[0]), times[-1] + 0.6 * (times[-1] - times[-2]))
        locator = AutoDateLocator(minticks=4, maxticks=9)
        ax.xaxis.set_major_locator(locator)
        ax.xaxis.set_major_formatter(ConciseDateFormatter(locator))
        if k < len(names) - 1:
            ax.tick_params(labelbottom=False)
            ax.xaxis.get_offset_text().set_visible(False)
    figure.text(0.012, 1 - 0.32 / height, f"Meteogram for {_at(place)}", fontsize=14, fontweight="bold")
    figure.text(0.012, 1 - 0.56 / height, f"{case.begin}  ·  {case.source}  ·  times in UTC", fontsize=10)
    figure.text(0.012, 0.08 / height, _legend(style), fontsize=8.5, color="#4a5563")
    return figure


def _panel(ax: Axes, times: np.ndarray, values: np.ndarray, style: str, name: str) -> None:
    known = np.isfinite(values).all(axis=1)
    known[0] &= name not in SUMS  # what fell before the start
    times, values = times[known], values[known]
    if style in ("plume", "both"):
        for low, high, alpha in BANDS:
            edges = np.percentile(values, (low, high), axis=1)
            ax.fill_between(times, *edges, color=BLUE, alpha=alpha, linewidth=0)
        if values.shape[1] <= 60 and style == "plume":
            ax.plot(times, values, color=BLUE, linewidth=0.35, alpha=0.45)
        ax.plot(times, np.median(values, axis=1), color=INK, linewidth=1.8)
        ax.plot(times, values.mean(axis=1), color=ORANGE, linewidth=1.2, linestyle=(0, (4, 2)))
    if style in ("box", "both") and len(times):
        _boxes(ax, times, values)
    if name in SUMS:
        ax.set_ylim(0, max(1.0, float(values.max()) * 1.06) if values.size else 1.0)
    ax.grid(True, color="#e1e6ec", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.tick_params(labelsize=9, length=2)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def _boxes(ax: Axes, times: np.ndarray, values: np.ndarray) -> None:
    """Whiskers to the extremes, a thin box from 10 to 90 %, a thick one from 25 to 75 %, a line at the median."""
    step = min(np.diff(times)).total_seconds() / 86400 if len(times) > 1 else 0.25
    low, tenth, quarter, half, most, ninety, high = np.percentile(values, (0, 10, 25, 50, 75, 90, 100), axis=1)
    ax.vlines(times, low, high, color=INK, linewidth=0.8)
    edge: Any = {"edgecolor": INK, "linewidth": 0.4}
    ax.bar(times, ninety - tenth, step * 0.3, tenth, color="#9ecae1", zorder=3, **edge)
    ax.bar(times, most - quarter, step * 0.55, quarter, color=BLUE, zorder=4, **edge)
    ax.plot(times, half, linestyle="none", marker="_", color="white", markersize=5, markeredgewidth=1.6, zorder=5)


def _at(place: tuple[float, float]) -> str:
    lat, lon = place[0], (place[1] + 180) % 360 - 180
    return f"{abs(lat):g}°{'N' if lat >= 0 else 'S'} {abs(lon):g}°{'E' if lon >= 0 else 'W'}"


def _legend(style: str) -> str:
    plume = "bands: all, 10-90 %, 25-75 % of members; black: median; dashed: mean"
    box = "boxes: 25-75 %, 10-90 %; whiskers: all members; white: median"
    return {"plume": plume, "box": box}.get(style, f"{plume}  ·  {box}")
