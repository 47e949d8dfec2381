"""Power by zonal wavenumber, of truth, members and ensemble mean, and by total wavenumber, of all ensembles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from forecast.report import style
from forecast.report.curves import WIDTH, where
from forecast.report.diagrams import spread_out, three_leads
from forecast.report.shown import Shown, lead_name, name
from forecast.report.style import Picture

_POWERS = (("power_members", "-", "members"), ("power_mean", (0, (2, 1.5)), "ensemble mean"))
_RATIOS = (
    ("power_members", "power_truth", "-", "power"),
    ("tendency_power_members", "tendency_power_truth", (0, (4, 2)), "tendency"),
    ("coherence", "", (0, (1, 1.2)), "coherence"),
)
_ENTRY = 1.45  # inches of an entry in a legend
_GREY = "#444444"


def spectra(shown: Shown, most: int = 8) -> Picture:
    """Zonal power spectra of truth, members and ensemble mean at three leads."""
    picked = three_leads(shown, whole_days=True)
    entries = [_entry(what, _GREY, dash) for _, dash, what in _POWERS] + [_entry("truth", "black")]
    figure, panels = _panels(shown, most, 2.1, [*entries, *_leads(shown, picked)], "zonal wavenumber")
    for variable, ax in panels.items():
        truth = shown.values(shown.model, "power_truth", variable)[[k for k, _ in picked], 1:].mean(axis=0)
        for metric, dash, _ in _POWERS:
            power = shown.values(shown.model, metric, variable)[:, 1:]
            for k, colour in picked:
                _draw(ax, power[k], color=colour, linestyle=dash, linewidth=1.4)
        _draw(ax, truth, color="black", linewidth=1.0, zorder=6)
        ax.set_yscale("log")
        top = max(float(np.nanmax(truth)), 1e-30)
        ax.set_ylim(max(float(np.nanmin(truth)) / 20, top * 1e-8), top * 3)
        ax.set_title(f"{variable}  [({shown.unit(variable)})²]")
    alt = f"Power by zonal wavenumber of truth, members and ensemble mean for {', '.join(panels)}."
    caption = (
        f"Power by zonal wavenumber, {where(shown)}. Members should keep the truth's spectrum at every lead (no "
        "blurring); the mean of the ensemble loses what cannot be predicted."
    )
    return style.vector(figure, alt, caption)


def ratios(shown: Shown, most: int = 8) -> Picture:
    """The members' power over the truth's, of the state and of what changed since the start, and coherence."""
    picked = three_leads(shown, whole_days=True)
    drawn = [row for row in _RATIOS if shown.has(row[0])]
    entries = [_entry(what, _GREY, dash) for _, _, dash, what in drawn] + _leads(shown, picked)
    figure, panels = _panels(shown, most, 1.8, entries, "zonal wavenumber")
    for variable, ax in panels.items():
        ax.axhline(1, color="black", linewidth=0.8)
        for metric, over, dash, _ in drawn:
            values = shown.values(shown.model, metric, variable)[:, 1:]
            if over:
                below = shown.values(shown.model, over, variable)[:, 1:]
                values = values / np.where(below > 0, below, np.nan)
            for k, colour in picked:
                _draw(ax, values[k], color=colour, linestyle=dash, linewidth=1.3)
        ax.set_ylim(0, 2)
        ax.set_title(variable)
    alt = f"Ratio of the members' power to the truth's by zonal wavenumber for {', '.join(panels)}; 1 is ideal."
    caption = (
        f"Solid: power of the members over that of the truth, {where(shown)}; below 1: too smooth, above 1: too noisy. "
        "Dashed: the same of what changed since the start (accumulated tendency). Dotted: squared coherence of the "
        "mean and truth, which falls from 1 to 0 as waves lose their phase."
    )
    return style.vector(figure, alt, caption)


def scales(shown: Shown, most: int = 8) -> Picture:
    """Each ensemble's power over the truth's by total wavenumber, at the whole day next to ten."""
    days = [k for k, hours in enumerate(shown.hours) if hours % 24 == 0]
    lead = min(days, key=lambda k: abs(shown.hours[k] - 240))
    looks = {label: {**style.line(list(shown.metrics), label), "marker": ""} for label in shown.ensembles}
    entries = [Line2D([], [], label=name(label), **look) for label, look in looks.items()]
    figure, panels = _panels(shown, most, 1.8, entries, "total wavenumber")
    for variable, ax in panels.items():
        ax.axhspan(0.8, 1.2, color="#eef4ea", zorder=0)
        ax.axhline(1, color="#7a8a6a", linewidth=0.8)
        for label, look in looks.items():
            _draw(ax, shown.values(label, "spectrum_ratio", variable)[lead, 1:], **look)
        ax.set_ylim(0, 2)
        ax.set_title(variable)
    when = lead_name(shown.hours[lead])
    alt = f"Ratio of each ensemble's power to the truth's by total wavenumber at {when} for {', '.join(panels)}."
    caption = (
        f"Power of single members over that of the truth by total wavenumber at {when}, over the globe; the band is "
        "20 % to each side. Below it: too smooth, above: too noisy. With few starts the truth's longest waves are a "
        "matter of chance: what a perfect model or the climatological ensemble shows there is no fault of theirs."
    )
    return style.vector(figure, alt, caption)


def _panels(
    shown: Shown, most: int, height: float, entries: Sequence[Line2D], along: str
) -> tuple[Figure, dict[str, Axes]]:
    """A panel a variable, below one legend, to be read row by row, that keeps to the width of the figure."""
    chosen = spread_out(shown.variables, most)
    columns = style.columns_for(len(chosen))
    across = min(len(entries), max(1, int(min(columns, len(chosen)) * WIDTH / columns / _ENTRY)))
    rows = -(-len(entries) // across)
    figure, axes, bottom = style.panels(len(chosen), columns, (WIDTH / columns, height), head=0.22 + 0.17 * rows)
    handles = [entries[k] for column in range(across) for k in range(column, len(entries), across)]
    figure.legend(handles=handles, loc="upper left", ncols=across, fontsize=7.5, columnspacing=1.2)
    for ax in bottom:
        ax.set_xlabel(along)
    return figure, dict(zip(chosen, axes, strict=True))


def _entry(label: str, colour: str, dash: object = "-") -> Line2D:
    return Line2D([], [], color=colour, linestyle=dash, linewidth=1.4, label=label)  # type: ignore[arg-type]


def _leads(shown: Shown, picked: Sequence[tuple[int, str]]) -> list[Line2D]:
    """What the colours mean."""
    return [_entry(lead_name(shown.hours[k]), colour) for k, colour in picked]


def _draw(ax: Axes, values: np.ndarray, **look: object) -> None:
    """Values of wavenumbers 1, 2, ... (wavenumber,) on a logarithmic axis."""
    ax.plot(np.arange(1, values.size + 1), values, **look)  # type: ignore[arg-type]
    ax.set_xscale("log")
    ticks = np.array([1, 2, 5, 10, 20, 50, 100, 200, 500, 1000])
    ax.set_xticks(ticks[ticks <= values.size])
    ax.xaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()
