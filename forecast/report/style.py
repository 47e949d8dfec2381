"""Looks shared by all figures: colours that colour-blind readers tell apart, small type, files as data URIs."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from forecast.report.shown import BASELINES

# Okabe and Ito 2008, "Color universal design"
LEAD_COLOURS = ("#9ecae1", "#4292c6", "#08306b")
_FIXED: dict[str, dict[str, Any]] = {
    "persistence": {"color": "#8c8c8c", "linestyle": (0, (1, 1.2)), "linewidth": 1.3},
    "climatology": {"color": "#333333", "linestyle": (0, (5, 2)), "linewidth": 1.3},
    "ridge regression": {"color": "#CC79A7", "linestyle": (0, (4, 1, 1, 1)), "linewidth": 1.5},
    "perfect": {"color": "#009E73", "linewidth": 1.4, "marker": "^"},
    "imperfect": {"color": "#D55E00", "linewidth": 1.4, "marker": "s"},
}
_OTHERS = (("#E69F00", "D"), ("#009E73", "^"), ("#D55E00", "s"), ("#56B4E9", "v"), ("#CC79A7", "P"))
INK, FAINT = "#1d2733", "#d5dbe3"

SETTINGS: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 7.5,
    "axes.edgecolor": "#8a95a3",
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6eaef",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": "#4a5563",
    "ytick.color": "#4a5563",
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.markersize": 2.8,
    "legend.frameon": False,
    "svg.hashsalt": "forecast",
    "figure.dpi": 100,
}


@dataclass(frozen=True)
class Picture:
    """A figure as the page shows it: a data URI, its text alternative, its caption, its width in pixels."""

    source: str
    alt: str
    caption: str
    width: int


PIXELS = 104  # of the page for an inch of a figure


_COORDINATES = re.compile(r'(?<= d=")[^"]+|(?<= [xy]=")[^"]+')
_LONG = re.compile(r"(\.\d\d?)\d*")
_STYLE = re.compile(r' style="([^"]*)"')


def vector(figure: Figure, alt: str, caption: str) -> Picture:
    """The figure as SVG, text as outlines, so that it looks the same everywhere."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return _picture("image/svg+xml", smaller(buffer.getvalue()).encode(), figure, alt, caption)


def smaller(svg: str) -> str:
    """The same drawing in half the bytes: coordinates to 1/100 of a point, each style written once, no comments."""
    text = _COORDINATES.sub(lambda found: _LONG.sub(r"\1", found[0]).replace("\n", ""), svg)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    classes = {style: f"s{k}" for k, style in enumerate(dict.fromkeys(_STYLE.findall(text)))}
    text = _STYLE.sub(lambda found: f' class="{classes[found[1]]}"', text)
    rules = "".join(f".{name}{{{style}}}" for style, name in classes.items())
    text = text.replace("<defs>", f"<defs><style>{rules}</style>", 1)
    return re.sub(r"\n\s*", "\n", text)


def raster(figure: Figure, alt: str, caption: str, dpi: int = 110) -> Picture:
    """The figure as WebP, for fields of many cells: a tenth of a PNG's size."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="webp", dpi=dpi, pil_kwargs={"quality": 75, "method": 4})
    return _picture("image/webp", buffer.getvalue(), figure, alt, caption)


def _picture(kind: str, data: bytes, figure: Figure, alt: str, caption: str) -> Picture:
    source = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    return Picture(source, alt, caption, round(figure.get_figwidth() * PIXELS))


def line(labels: Sequence[str], label: str) -> dict[str, Any]:
    """How a forecast is drawn in all figures: the first one in blue and thick, baselines without markers."""
    if label in _FIXED:
        return _FIXED[label]
    forecasts = [x for x in labels if x not in BASELINES and x not in _FIXED]
    if label == labels[0]:
        return {"color": "#0072B2", "linewidth": 2.2, "marker": "o", "zorder": 5}
    taken = {style["color"] for x, style in _FIXED.items() if x in labels}
    free = [other for other in _OTHERS if other[0] not in taken]
    colour, marker = free[(forecasts.index(label) - 1) % len(free)]
    return {"color": colour, "linewidth": 1.4, "marker": marker}


def panels(
    count: int,
    columns: int,
    size: tuple[float, float],
    head: float = 0.4,
    margins: tuple[float, float, float, float] = (0.36, 0.2, 0.1, 0.3),
) -> tuple[Figure, list[Axes], list[Axes]]:
    """A grid of panels placed by inches, which is many times faster than a layout engine and lines them up.

    Args:
        size: width and height of a panel's cell. head: height above all for a legend.
        margins: left, bottom, right and top of a panel within its cell; the last row has 0.2 more at its bottom.

    Returns:
        The figure, its panels row by row, and those with no panel below them.
    """
    columns = min(columns, max(count, 1))
    rows = -(-count // columns)
    width, height = columns * size[0], rows * size[1] + head + 0.2
    left, bottom, right, top = margins
    figure, axes = Figure(figsize=(width, height)), []
    for k in range(count):
        row, column = divmod(k, columns)
        x, y = column * size[0] + left, height - head - (row + 1) * size[1] + bottom
        box = (x / width, y / height, (size[0] - left - right) / width, (size[1] - bottom - top) / height)
        axes.append(figure.add_axes(box))
    return figure, axes, axes[-columns:]


def columns_for(count: int) -> int:
    """Panels in a row of a page: three to five, so that few rows are needed."""
    return 3 if count <= 3 else 4 if count <= 12 else 5


def days(axes: Axes, hours: np.ndarray, label: bool = True) -> None:
    """A time axis in days from 0 to the last lead."""
    last = float(hours.max()) / 24
    step = next(s for s in (0.25, 0.5, 1, 2, 3, 5, 10, 20, 50) if last / s <= 6)
    axes.set_xticks(np.arange(0, last + 1e-9, step))
    axes.set_xlim(0, last * 1.02)
    if label:
        axes.set_xlabel("lead time [days]")


def settings() -> Any:
    """Context in which figures are drawn."""
    return matplotlib.rc_context(SETTINGS)
