"""Maps of one forecast: truth, ensemble mean, spread, members."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm, Normalize
from matplotlib.ticker import MaxNLocator

from forecast.core.coastlines import coastlines
from forecast.core.times import format_time
from forecast.core.variables import split
from forecast.report import style
from forecast.report.curves import WIDTH
from forecast.report.shown import Shown, lead_name, name, scale, unit
from forecast.report.style import Picture

COLOURS = {"tp": "YlGnBu", "q": "YlGnBu", "t": "RdYlBu_r", "2t": "RdYlBu_r", "u": "PuOr_r", "v": "PuOr_r"}
ISOLINES = {"z": 8.0, "msl": 5.0}  # dam, hPa
DEKAMETRES = {"z": (1 / 98.0665, "dam")}  # geopotential as height


def case_maps(shown: Shown, case: xr.Dataset) -> Picture:
    """Two rows of maps a variable: truth, mean and spread (in its own scale); three members."""
    variables, fields = [str(v) for v in case["variable"].values], [str(f) for f in case["field"].values]
    across = 3 if _wide(case) else 6
    height = WIDTH / across * (0.55 if _wide(case) else 0.95)
    rows = -(-len(fields) // across)
    count, size = rows * across * len(variables), (WIDTH / across, height)
    figure, axes, _ = style.panels(count, across, size, head=0.0, margins=(0.04, 0.04, 0.46, 0.24))
    for k, ax in enumerate(axes):
        row, column = divmod(k, rows * across)
        if column >= len(fields):
            ax.remove()
            continue
        _map(ax, shown, case, variables[row], fields, fields[column])
    hours, start = float(case.attrs["lead_hours"]), np.datetime64(case.attrs["start"])
    when = start + np.timedelta64(int(hours * 3600), "s")
    label = name(str(case.attrs["label"]))
    alt = f"Maps of {', '.join(variables)}: {', '.join(fields)} of the {label} at a lead of {lead_name(hours)}."
    coast = "land and sea, dotted: high ground" if "lsm" in case else "coastlines (Natural Earth)"
    why = f"The start with {case.attrs['why']}. " if case.attrs.get("why") else ""
    caption = why + (
        f"The {label} from {format_time(start)}, {lead_name(hours)} ahead, valid at {format_time(when)} UTC. "
        f"Truth, mean and members of a variable share one scale. Black lines: {coast}."
    )
    return style.raster(figure, alt, caption)


def point_maps(shown: Shown, reference: str) -> list[Picture]:
    """Bias of the ensemble mean and skill of the fair CRPS at each point, a row a variable, a column a lead."""
    fields = shown.fields
    assert fields is not None
    ours = fields.sel(label=shown.model)
    bias, crps = ours["bias"].values, ours["fair_crps"].values
    with np.errstate(all="ignore"):
        skill = 100 * (1 - crps / fields["fair_crps"].sel(label=reference).values)
    what = f"Skill of the fair CRPS against {name(reference)} at each point"
    starts = len(shown.summary["starts"])
    means = f"Means over {starts} start{'s' if starts > 1 else ''}; coastlines as in the maps of a case."
    return [
        _grid_of_maps(shown, bias, "PuOr_r", f"Bias of the mean of the {name(shown.model)} at each point",
                      f"Orange: too high, violet: too low. {means}"),
        _grid_of_maps(shown, skill, "RdBu", what, f"Per cent; blue: better, red: worse than {name(reference)}. {means}",
                      limit=100.0),
    ]  # fmt: skip


def _grid_of_maps(
    shown: Shown, values: np.ndarray, colours: str, what: str, note: str, limit: float | None = None
) -> Picture:
    """Maps of (variable, lead, points), in the variables' units, or in per cent up to `limit`."""
    fields = shown.fields
    assert fields is not None
    names, leads = [str(v) for v in fields["variable"].values], fields["lead_time"].values / np.timedelta64(1, "h")
    across = len(leads)
    height = min(WIDTH / 3 * (0.55 if _wide(fields) else 0.95), 3.2)
    size = (WIDTH / 3, height)
    figure, axes, _ = style.panels(len(names) * across, across, size, head=0.0, margins=(0.04, 0.04, 0.46, 0.24))
    shape = tuple(np.atleast_1d(fields.attrs["shape"]).tolist())
    for place, ax in enumerate(axes):
        v, k = divmod(place, across)
        short = split(names[v])[0]
        factor, unit_shown = DEKAMETRES.get(short, (scale(names[v]), shown.unit(names[v])))
        data = values[v, k] if limit else values[v, k] * factor
        top = limit or float(np.nanpercentile(np.abs(values[v] * factor), 99)) or 1.0
        drawn = _paint(ax, fields, data, {"cmap": colours, "norm": Normalize(-top, top)})
        _background(ax, shown.case, fields["latitude"].values, _branch(fields), shape)
        _bar(ax, drawn)
        ax.set_title(f"{names[v]}, {lead_name(leads[k])} [{'%' if limit else unit_shown}]")
    alt = f"Maps. {what}: {', '.join(names)} at {', '.join(lead_name(h) for h in leads)}."
    return style.raster(figure, alt, f"{what}. {note}")


def _paint(ax: Axes, fields: xr.Dataset, values: np.ndarray, options: dict[str, Any]) -> Any:
    """The points as cells, or as dots on grids that are not rectangular."""
    lat, lon, shape = fields["latitude"].values, _branch(fields), tuple(np.atleast_1d(fields.attrs["shape"]).tolist())
    if len(shape) == 2:
        at = (lon.reshape(shape)[0], lat.reshape(shape)[:, 0], values.reshape(shape))
        drawn: Any = ax.pcolormesh(*at, shading="nearest", rasterized=True, **options)
    else:
        drawn = ax.scatter(lon, lat, c=values, s=max(0.3, 3e4 / lon.size**1.1), linewidths=0, **options)
    _frame(ax, lat, lon, "auto" if _wide(fields) else 1 / np.cos(np.radians(lat.mean())))
    return drawn


def _bar(ax: Axes, drawn: Any) -> None:
    bar = ax.figure.colorbar(drawn, cax=ax.inset_axes((1.015, 0.0, 0.03, 1.0)))
    bar.ax.tick_params(labelsize=6.5, length=2)
    if not isinstance(drawn.norm, LogNorm):
        bar.ax.yaxis.set_major_locator(MaxNLocator(6))
        bar.ax.yaxis.set_major_formatter("{x:.3g}")
    bar.outline.set_linewidth(0.4)


def _map(ax: Axes, shown: Shown, case: xr.Dataset, variable: str, fields: list[str], field: str) -> None:
    short = split(variable)[0]
    plain = (scale(variable), unit(variable, shown.summary["units"].get(variable, "")))
    factor, unit_shown = DEKAMETRES.get(short, plain)
    data = case["fields"].sel(variable=variable).values * factor
    values = data[fields.index(field)]
    colours = matplotlib.colormaps[COLOURS.get(short, "viridis")]
    options: dict[str, Any] = {"cmap": colours.with_extremes(bad="white", under="white") if short == "tp" else colours}
    options["norm"] = _norm(data[[k for k, f in enumerate(fields) if f != "spread"]], short)
    if field == "spread":
        options = {"cmap": "magma_r", "norm": Normalize(0, float(np.nanmax(values)) or 1.0)}
    lat, lon = case["latitude"].values, _branch(case)
    shape = tuple(np.atleast_1d(case.attrs["shape"]).tolist())
    drawn = _paint(ax, case, values, options)
    if len(shape) == 2 and short in ISOLINES and field != "spread":
        at = (lon.reshape(shape)[0], lat.reshape(shape)[:, 0], values.reshape(shape))
        levels = np.arange(np.nanmin(values) // ISOLINES[short], np.nanmax(values) // ISOLINES[short] + 2)
        ax.contour(*at, levels * ISOLINES[short], colors="white", linewidths=0.5, alpha=0.8)
    _background(ax, case, lat, lon, shape)
    ax.set_title(f"{variable}, {field} [{unit_shown}]")
    _bar(ax, drawn)


def _frame(ax: Axes, lat: np.ndarray, lon: np.ndarray, aspect: Any) -> None:
    ax.set_aspect(aspect)
    ax.set_xlim(lon.min(), lon.max())
    ax.set_ylim(lat.min(), lat.max())
    ax.grid(False)
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(True)


def _norm(values: np.ndarray, short: str) -> Normalize:
    """One scale for truth, mean and members: rain on a logarithm, winds about zero, the middle 99 % of the rest."""
    if short == "tp":
        top = max(float(np.nanmax(values)), 1e-3)
        return LogNorm(top / 300, top)
    low, high = (float(np.nanpercentile(values, p)) for p in (0.5, 99.5))
    if short in ("u", "v", "10u", "10v"):
        low, high = -max(abs(low), abs(high)), max(abs(low), abs(high))
    return Normalize(low, high if high > low else low + 1)


def _background(ax: Axes, case: xr.Dataset, lat: np.ndarray, lon: np.ndarray, shape: tuple[int, ...]) -> None:
    """The store's own land and orography (a sample planet has its own), else the Earth's coastlines."""
    if "lsm" not in case:
        ax.add_collection(LineCollection(_coastlines(float(lon.min())), colors="black", linewidths=0.5))
        return
    if len(shape) != 2:
        return
    at = (lon.reshape(shape)[0], lat.reshape(shape)[:, 0])
    ax.contour(*at, case["lsm"].values.reshape(shape), [0.5], colors="black", linewidths=0.6)
    if "z" in case:
        ground = case["z"].values.reshape(shape)
        levels = ground.max() * np.array([0.3, 0.6])
        if levels[0] > 0:
            ax.contour(*at, ground, levels, colors="black", linewidths=0.3, linestyles="dotted")


def _coastlines(west: float) -> list[np.ndarray]:
    """(n, 2) longitude, latitude lines on the branch that begins at `west`, each drawn on both neighbours."""
    return [line + (turn, 0) for line in coastlines() for turn in ((0, 360) if west >= 0 else (0,))]


def _branch(case: xr.Dataset) -> np.ndarray:
    """Longitudes that rise without a jump: 345..15 becomes -15..15."""
    lon = case["longitude"].values
    if not int(case.attrs["global"]) and np.ptp(lon) > 180:
        return (lon + 180) % 360 - 180
    return lon


def _wide(case: xr.Dataset) -> bool:
    return bool(np.ptp(_branch(case)) > 120)
