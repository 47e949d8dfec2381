"""One map: a field on a projection, with coasts, graticule and its centres."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.patches import Polygon
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter
from scipy.ndimage import gaussian_filter, maximum_filter, minimum_filter

from forecast.core.coastlines import coastlines
from forecast.core.grids import Grid
from forecast.plots.fields import Land
from forecast.plots.looks import Look, Scale
from forecast.plots.projections import Projection
from forecast.plots.resample import Resampler

INK, COAST = "#1d2733", "#303841"


@dataclass(frozen=True, eq=False)
class Canvas:
    """The places of a map's pixels, found once for all fields of a grid.

    Attributes:
        pixels: across the map.
    """

    projection: Projection
    grid: Grid
    land: Land | None
    pixels: int = 480

    @cached_property
    def axes(self) -> tuple[np.ndarray, np.ndarray]:
        """x (columns,) and y (rows,) of the pixels."""
        west, east, south, north = self.projection.extent
        rows = max(2, round(self.pixels * self.projection.shape))
        return np.linspace(west, east, self.pixels), np.linspace(south, north, rows)

    @cached_property
    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Longitudes and latitudes of the pixels, (rows, columns)."""
        x, y = np.meshgrid(*self.axes)
        return self.projection.inverse(x, y)

    @cached_property
    def resampler(self) -> Resampler:
        """From the grid of the fields to the pixels."""
        lon, lat = self.places
        return Resampler(self.grid, lat, lon)

    @cached_property
    def mask(self) -> np.ndarray | None:
        """(rows, columns) share of land, where the world is not the Earth."""
        if self.land is None:
            return None
        lon, lat = self.places
        return Resampler(self.land.grid, lat, lon)(self.land.share)

    @cached_property
    def coasts(self) -> list[np.ndarray]:
        """The Earth's coastlines in the plane, broken where they leave the map."""
        return [piece for line in coastlines() for piece in self.lines(line[:, 0], line[:, 1])]

    def lines(self, lon: np.ndarray, lat: np.ndarray) -> list[np.ndarray]:
        """A line on the sphere as pieces (n, 2) in the plane."""
        x, y = self.projection.forward(lon, lat)
        west, east, south, north = self.projection.extent
        gap = np.hypot(np.diff(x), np.diff(y)) > 0.2 * min(east - west, north - south)
        breaks = np.flatnonzero(gap | np.isnan(x[1:]) | np.isnan(x[:-1])) + 1
        pieces = np.split(np.stack([x, y], axis=1), breaks)
        return [piece for piece in pieces if len(piece) > 1 and np.isfinite(piece).all()]


def draw(
    ax: Axes,
    canvas: Canvas,
    values: np.ndarray,
    look: Look,
    scale: Scale,
    detail: bool = True,
) -> None:
    """Draw shown values (G,) with their colours; `detail` adds labels, centres and names of the graticule."""
    field = canvas.resampler(values)
    x, y = canvas.axes
    colours, norm, extend = scale
    if np.isfinite(field).any():
        ax.contourf(x, y, np.ma.masked_invalid(field), norm.boundaries, cmap=colours, norm=norm, extend=extend)
    background(ax, canvas, detail)
    if look.isoline:
        isolines(ax, canvas, field, look.isoline * (1 if detail else 2), detail)
    if look.centres and detail:
        centres(ax, canvas, field)


def background(ax: Axes, canvas: Canvas, detail: bool) -> None:
    """Coasts or the land-sea mask, graticule, frame."""
    west, east, south, north = canvas.projection.extent
    outline = Polygon(canvas.projection.outline, closed=True, fill=False, edgecolor=INK, linewidth=0.8, zorder=5)
    ax.add_patch(outline)
    for artist in ax.collections:
        artist.set_clip_path(outline)
    _graticule(ax, canvas, detail)
    width = 0.8 if detail else 0.5
    if canvas.mask is None:
        ax.add_collection(LineCollection(canvas.coasts, colors=COAST, linewidths=width))
    else:
        drawn = ax.contour(
            *canvas.axes, np.ma.masked_invalid(canvas.mask), [0.5], colors=COAST, linewidths=width * 1.25
        )
        drawn.set_clip_path(outline)
    ax.set_xlim(west, east)
    ax.set_ylim(south, north)
    ax.set_aspect(canvas.projection.aspect)
    ax.set_frame_on(False)
    if not (detail and canvas.projection.kind == "platecarree"):
        ax.set_xticks([])
        ax.set_yticks([])


def isolines(ax: Axes, canvas: Canvas, field: np.ndarray, distance: float, labels: bool) -> None:
    """Isolines at multiples of `distance`, every fifth one thicker."""
    low, high = np.nanmin(field), np.nanmax(field)
    levels = np.arange(np.ceil(low / distance), np.floor(high / distance) + 1) * distance
    if not 0 < levels.size < 80:
        return
    every = 2 if levels.size > 16 else 1
    thick = np.where(np.round(levels / distance) % 5 == 0, 1.1, 0.6) * (1.0 if labels else 0.6)
    lines = ax.contour(*canvas.axes, np.ma.masked_invalid(field), levels, colors=INK, linewidths=thick)
    if labels:
        ax.clabel(lines, levels[::every], fmt="%g", fontsize=7.5, inline_spacing=2)


def centres(ax: Axes, canvas: Canvas, field: np.ndarray) -> None:
    """Highs and lows with their values, those that stand out within about a tenth of the map."""
    size = max(9, field.shape[1] // 7) | 1
    known = np.isfinite(field)
    if not known.all() and known.sum() < 0.5 * known.size:
        return
    smooth = gaussian_filter(np.where(known, field, np.nanmean(field)), field.shape[1] / 160)
    x, y = canvas.axes
    margin = (x[-1] - x[0]) * 0.035
    found = ((maximum_filter(smooth, size), "H", "#0b4f9e"), (minimum_filter(smooth, size), "L", "#a3211b"))
    for extreme, letter, colour in found:
        for row, column in np.argwhere((smooth == extreme) & known):
            inside = x[0] + margin < x[column] < x[-1] - margin and y[0] + margin < y[row] < y[-1] - margin
            if not inside or not known[max(row - 6, 0) : row + 7, max(column - 6, 0) : column + 7].all():
                continue
            stands_out = abs(smooth[row, column] - np.nanmean(field)) > 0.5 * np.nanstd(field)
            if stands_out:
                at = (x[column], y[row])
                halo = [withStroke(linewidth=2.2, foreground="white", alpha=0.85)]
                style: Any = {"ha": "center", "color": colour, "fontweight": "bold", "path_effects": halo, "zorder": 6}
                ax.annotate(letter, at, va="bottom", fontsize=13, **style)
                ax.annotate(f"{smooth[row, column]:.0f}", at, va="top", fontsize=7.5, **style)


def colour_bar(ax: Axes, scale: Scale, unit: str) -> None:
    """A flat colour bar that fills `ax`."""
    colours, norm, extend = scale
    bar = ax.figure.colorbar(
        ScalarMappable(norm, colours),
        cax=ax,
        orientation="horizontal",
        extend=extend,
        spacing="uniform",
        extendfrac=0.03,
    )
    ticks = np.asarray(norm.boundaries)
    if ticks.size > 14:
        ticks = ticks[int(np.argmin(np.abs(ticks))) % 2 :: 2]
    bar.set_ticks(list(ticks))
    bar.ax.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
    bar.ax.tick_params(labelsize=8.5, length=2)
    bar.set_label(unit, fontsize=9, labelpad=2)
    bar.outline.set_linewidth(0.5)


def _graticule(ax: Axes, canvas: Canvas, named: bool) -> None:
    west, east, south, north = canvas.projection.extent
    flat = canvas.projection.kind == "platecarree"
    step = next(s for s in (1, 2, 5, 10, 20, 30) if s == 30 or (flat and (north - south) / s <= 6))
    lats, lons = np.arange(-90 + step, 90, step), np.arange(-180, 180, step)
    fine = np.linspace(-180, 180, 361)
    lines = [p for lat in lats for p in canvas.lines(fine[:-1], np.full(360, float(lat)))]
    lines += [p for lon in lons for p in canvas.lines(np.full(181, float(lon)), fine[90:271])]
    ax.add_collection(LineCollection(lines, colors="#7a8594", linewidths=0.35, alpha=0.6))
    if named and flat:
        wide = 60 if east - west > 180 else step
        at = np.arange(np.ceil(west / wide), np.floor(east / wide) + 1) * wide
        ax.set_xticks(at, [_degrees((x + 180) % 360 - 180, "EW") for x in at])
        ups = np.arange(np.ceil(south / step), np.floor(north / step) + 1) * step
        ax.set_yticks(ups, [_degrees(y, "NS") for y in ups])
        ax.tick_params(labelsize=8, length=0, pad=2)


def _degrees(value: float, signs: str) -> str:
    sign = signs[0] if value > 0 else signs[1]
    return f"{abs(value):g}°" + (sign if value % 180 else "")
