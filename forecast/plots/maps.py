"""Pictures of fields: maps of products and members, stamps of all members, spaghetti, animations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.animation import FFMpegWriter, PillowWriter
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from PIL import Image

from forecast.core.errors import ForecastError
from forecast.core.progress import bar
from forecast.outputs.products import Product
from forecast.plots import panel
from forecast.plots.fields import Case
from forecast.plots.looks import Look, look, product_look, said
from forecast.plots.panel import INK, Canvas
from forecast.plots.projections import Projection

Shown = Product | int
"""A product, or the number of a member"""
SETTINGS: Any = {"font.family": "DejaVu Sans", "font.size": 10, "text.color": INK, "axes.labelcolor": INK}
ISOLINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito 2008
MEAN = Product("mean")


def fields_map(case: Case, name: str, leads: Sequence[int], shown: Sequence[Shown], projection: Projection) -> Figure:
    """A panel for each lead time (rows) and each product or member (columns); equal looks share a scale."""
    canvas = Canvas(projection, case.grid, case.land)
    rows, columns = (len(leads), len(shown)) if len(shown) > 1 else _square(len(leads))
    width = 8.6 if columns == 1 else min(5.6 * columns, 15.0)
    figure, axes, bars = _sheet(rows, columns, width, projection, len(shown) if len(shown) > 1 else 1)
    panels = [(lead, what) for lead in leads for what in shown]
    values = [_shown_values(case, name, lead, what) for lead, what in panels]
    scales = []
    for column, what in enumerate(shown):
        kind = _look(name, what)
        same = [v for v, (_, w) in zip(values, panels, strict=True) if _look(name, w) == kind]
        scales.append(kind.scale(np.concatenate(same)))
        if column < len(bars):
            label = kind.unit if len(shown) == 1 else f"{_said(name, what)} [{kind.unit}]"
            panel.colour_bar(bars[column], scales[column], label)
    for ax, (lead, what), field in zip(axes, panels, values, strict=False):
        panel.draw(ax, canvas, field, _look(name, what), scales[list(shown).index(what)])
        if len(panels) > 1:
            parts = [_said(name, what)] * (len(shown) > 1) + [case.ahead(lead)] * (len(leads) > 1)
            ax.set_title(", ".join(parts), fontsize=10)
    for spare in axes[len(panels) :]:
        spare.remove()
    one = len(leads) == 1
    title = _headline(case, name, shown[0]) if len(shown) == 1 else case.title(name)
    _titles(figure, title, case.caption(leads[0]) if one else f"{case.begin}  ·  {case.source}")
    return figure


def stamps(case: Case, name: str, lead: int, projection: Projection) -> Figure:
    """The mean, and every member as a small map, all on one scale."""
    fields = look(name).shown(case.field(name, lead))
    shape = projection.shape
    count = len(fields) + 1
    about = int(np.clip(round(np.sqrt(count * (1.0 if shape > 0.8 else 0.62))), 1, 10))
    near = range(max(1, about - 1), about + 3)  # few gaps in the last row, but not at any price
    columns = min(near, key=lambda k: (-count % k) / k + 0.45 * abs(k - about))
    rows = -(-count // columns)
    width = 10.0
    canvas = Canvas(projection, case.grid, case.land, pixels=max(90, 900 // columns))
    figure, axes, bars = _sheet(rows, columns, width, projection, 1, small=True)
    scale = look(name).scale(fields.ravel()[:: max(1, fields.size // 200_000)])
    for k, ax in enumerate(axes):
        if k >= count:
            ax.remove()
            continue
        field = fields.mean(axis=0) if k == 0 else fields[k - 1]
        panel.draw(ax, canvas, field, look(name), scale, detail=False)
        text = "mean" if k == 0 else str(case.forecasts.members[k - 1])
        ax.set_title(text, fontsize=8, pad=1.5, fontweight="bold" if k == 0 else "normal")
    panel.colour_bar(bars[0], scale, look(name).unit)
    _titles(figure, f"{case.title(name)}, all members [{look(name).unit}]", case.caption(lead))
    return figure


def spaghetti(case: Case, name: str, lead: int, levels: Sequence[float], projection: Projection) -> Figure:
    """The isolines `levels` (in the unit shown) of every member, thin, and of the mean, thick."""
    fields = look(name).shown(case.field(name, lead))
    chosen = np.sort(levels) if len(levels) else _default_levels(fields)
    if not ((chosen >= np.nanmin(fields)) & (chosen <= np.nanmax(fields))).any():
        raise ForecastError(
            f"no isoline of {name} at {', '.join(f'{v:g}' for v in chosen)} {look(name).unit}: "
            f"values lie between {np.nanmin(fields):.4g} and {np.nanmax(fields):.4g}"
        )
    canvas = Canvas(projection, case.grid, case.land)
    figure, (ax,), (legend,) = _sheet(1, 1, 8.6, projection, 1)
    panel.background(ax, canvas, detail=True)
    colours = [ISOLINES[k % len(ISOLINES)] for k in range(len(chosen))]
    clip = ax.patches[0]
    for field, width, alpha in [*((f, 0.7, 0.55) for f in fields), (fields.mean(axis=0), 2.4, 1.0)]:
        on_map = np.ma.masked_invalid(canvas.resampler(field))
        lines = ax.contour(*canvas.axes, on_map, chosen, colors=colours, linewidths=width, alpha=alpha)
        lines.set_clip_path(clip)
    legend.axis("off")
    unit = look(name).unit
    keys = [Line2D([], [], color=c, lw=2, label=f"{v:g} {unit}") for c, v in zip(colours, chosen, strict=True)]
    keys += [Line2D([], [], color="#555", lw=0.7, label="members"), Line2D([], [], color="#555", lw=2.4, label="mean")]
    legend.legend(handles=keys, ncols=len(keys), loc="center", frameon=False, fontsize=9.5)
    _titles(figure, f"{case.title(name)}, isolines of all members [{unit}]", case.caption(lead))
    return figure


def animate(
    case: Case,
    name: str,
    leads: Sequence[int],
    what: Shown,
    projection: Projection,
    path: Path,
    final: Path,
    rate: float,
) -> None:
    """A frame for each lead time, `rate` a second, as GIF or (with ffmpeg) MP4 at `path`; `final` names it to the user.

    Raises:
        ForecastError: MP4 without ffmpeg.
    """
    if final.suffix.lower() == ".mp4" and not FFMpegWriter.isAvailable():
        raise ForecastError(f"{final}: ffmpeg is not installed: write a .gif")
    writer = FFMpegWriter(fps=rate) if final.suffix.lower() == ".mp4" else PillowWriter(fps=rate)  # type: ignore[arg-type]
    canvas = Canvas(projection, case.grid, case.land, pixels=360)
    kind = _look(name, what)
    sample = [_shown_values(case, name, lead, what) for lead in (leads[0], leads[len(leads) // 2], leads[-1])]
    scale = kind.scale(np.concatenate(sample))
    figure, (ax,), bars = _sheet(1, 1, 7.0, projection, 1)
    panel.colour_bar(bars[0], scale, kind.unit)
    with writer.saving(figure, str(path), dpi=100), bar(f"draw {final.name}", len(leads)) as progress:
        for lead in leads:
            ax.clear()
            panel.draw(ax, canvas, _shown_values(case, name, lead, what), kind, scale)
            _titles(figure, _headline(case, name, what), case.caption(lead))
            writer.grab_frame()
            progress.advance()


def save(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Write a figure; the suffix of `path` says the format. A PNG gets a palette: a third of the bytes."""
    figure.savefig(path, dpi=dpi, facecolor="white")
    if path.suffix.lower() == ".png":
        with Image.open(path) as picture:
            few = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        few.save(path, optimize=True)


def settings() -> Any:
    """Context in which figures are drawn."""
    return matplotlib.rc_context(SETTINGS)


def _shown_values(case: Case, name: str, lead: int, what: Shown) -> np.ndarray:
    return _look(name, what).shown(case.product(name, lead, what))


def _look(name: str, what: Shown) -> Look:
    return product_look(name, None if isinstance(what, int) else what)


def _said(name: str, what: Shown) -> str:
    return f"member {what}" if isinstance(what, int) else said(name, what)


def _headline(case: Case, name: str, what: Shown) -> str:
    """`2 metre temperature, ensemble mean [°C]`."""
    return f"{case.title(name)}, {_said(name, what)} [{_look(name, what).unit}]"


def _square(count: int) -> tuple[int, int]:
    columns = 1 if count == 1 else 2 if count <= 4 else 3
    return -(-count // columns), columns


def _sheet(
    rows: int, columns: int, width: float, projection: Projection, bars: int, small: bool = False
) -> tuple[Figure, list[Axes], list[Axes]]:
    """A page of maps row by row, laid out in inches, with room for titles above and for `bars` colour bars below."""
    head, foot = 0.78, 0.62
    left, right, gap, title = (
        (0.08, 0.08, 0.07, 0.2) if small else (0.48, 0.16, 0.42, 0.34 if rows * columns > 1 else 0.06)
    )
    cell = (width - left - right - gap * (columns - 1)) / columns
    tall = min(cell * projection.shape, 8.0 if rows == 1 else 5.5)
    under = 0.04 if small else 0.24
    height = head + foot + rows * (tall + title + under)
    figure = Figure(figsize=(width, height))
    axes = []
    for k in range(rows * columns):
        row, column = divmod(k, columns)
        x, y = left + column * (cell + gap), height - head - (row + 1) * (tall + title + under) + under
        axes.append(figure.add_axes((x / width, y / height, cell / width, tall / height)))
    scales = []
    span = (width - left - right - gap * (bars - 1)) / bars
    for k in range(bars):
        x = left + k * (span + gap) + 0.06 * span
        scales.append(figure.add_axes((x / width, 0.42 / height, 0.88 * span / width, 0.14 / height)))
    return figure, axes, scales


def _titles(figure: Figure, headline: str, caption: str) -> None:
    """Two lines at the top, shrunk to the width of the page."""
    for old in list(figure.texts):
        old.remove()
    width, height = figure.get_size_inches()
    for text, size, weight, down in ((headline, 14.0, "bold", 0.32), (caption, 10.0, "normal", 0.56)):
        fits = min(size, width * 72 * 0.97 / (0.56 * max(len(text), 1)))
        figure.text(
            0.1 / width, 1 - down / height, text, fontsize=max(fits, 6.5), fontweight=weight, ha="left", va="baseline"
        )


def _default_levels(fields: np.ndarray) -> np.ndarray:
    """Three round values within the middle of the field."""
    low, high = np.nanpercentile(fields, (15, 85))
    ticks = MaxNLocator(4, steps=[1, 2, 4, 5, 10]).tick_values(low, high)
    inside = ticks[(ticks >= low) & (ticks <= high)]
    return inside[:: max(1, len(inside) // 3)][:3] if inside.size else np.array([np.nanmedian(fields)])
