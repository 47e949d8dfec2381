"""Power by zonal wavenumber, of truth, members and ensemble mean, and by total wavenumber, of all ensembles."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from forecast.report import style
from forecast.report.curves import WIDTH, where
from forecast.report.diagrams import spread_out, three_leads
from forecast.report.shown import Shown, lead_name, name
from forecast.report.style import Picture

_RATIOS = (
    ("power_members", "power_truth", "-", "power"),
    ("tendency_power_members", "tendency_power_truth", (0, (4, 2)), "tendency"),
    ("coherence", "", (0, (1, 1.2)), "coherence"),
)


def spectra(shown: Shown, most: int = 8) -> Picture:
    """Zonal power spectra of truth, members and ensemble mean at three leads."""
    picked = three_leads(shown, whole_days=True)
    chosen = spread_out(shown.variables, most)
    columns = style.columns_for(len(chosen))
    figure, axes, bottom = style.panels(len(chosen), columns, (WIDTH / columns, 2.1))
    for ax, variable in zip(axes, chosen, strict=True):
        truth = shown.values(shown.model, "power_truth", variable)[[k for k, _ in picked], 1:].mean(axis=0)
        wavenumbers = np.arange(1, truth.size + 1)
        for metric, dash, what in (("power_members", "-", "members"), ("power_mean", (0, (2, 1.5)), "ensemble mean")):
            power = shown.values(shown.model, metric, variable)[:, 1:]
            for k, colour in picked:
                text = f"{what}, {lead_name(shown.hours[k])}"
                ax.plot(wavenumbers, power[k], color=colour, linestyle=dash, linewidth=1.4, label=text)
        ax.plot(wavenumbers, truth, color="black", linewidth=1.0, label="truth", zorder=6)
        _logarithmic(ax, truth)
        ax.set_title(f"{variable}  [({shown.unit(variable)})²]")
        if ax in bottom:
            ax.set_xlabel("zonal wavenumber")
    handles, texts = axes[0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="upper left", ncols=7, fontsize=7.5, columnspacing=1.2)
    alt = f"Power by zonal wavenumber of truth, members and ensemble mean for {', '.join(chosen)}."
    caption = (
        f"Power by zonal wavenumber, {where(shown)}. Members should keep the truth's spectrum at every lead (no "
        "blurring); the mean of the ensemble loses what cannot be predicted."
    )
    return style.vector(figure, alt, caption)


def ratios(shown: Shown, most: int = 8) -> Picture:
    """The members' power over the truth's, of the state and of what changed since the start, and coherence."""
    picked = three_leads(shown, whole_days=True)
    chosen = spread_out(shown.variables, most)
    columns = style.columns_for(len(chosen))
    figure, axes, bottom = style.panels(len(chosen), columns, (WIDTH / columns, 1.8))
    for ax, variable in zip(axes, chosen, strict=True):
        ax.axhline(1, color="black", linewidth=0.8)
        for metric, over, dash, what in _RATIOS:
            if not shown.has(metric):
                continue
            values = shown.values(shown.model, metric, variable)[:, 1:]
            if over:
                below = shown.values(shown.model, over, variable)[:, 1:]
                values = values / np.where(below > 0, below, np.nan)
            for k, colour in picked:
                text = f"{what}, {lead_name(shown.hours[k])}"
                ax.plot(np.arange(1, values.shape[1] + 1), values[k], color=colour, linestyle=dash, linewidth=1.3,
                        label=text)  # fmt: skip
        ax.set_xscale("log")
        ax.set_ylim(0, 2)
        _wavenumbers(ax, shown.values(shown.model, "power_truth", variable).shape[-1] - 1)
        ax.set_title(variable)
        if ax in bottom:
            ax.set_xlabel("zonal wavenumber")
    handles, texts = axes[0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="upper left", ncols=5, fontsize=7.5, columnspacing=1.2)
    alt = f"Ratio of the members' power to the truth's by zonal wavenumber for {', '.join(chosen)}; 1 is ideal."
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
    chosen = spread_out(shown.variables, most)
    columns = style.columns_for(len(chosen))
    figure, axes, bottom = style.panels(len(chosen), columns, (WIDTH / columns, 1.8))
    for ax, variable in zip(axes, chosen, strict=True):
        ax.axhspan(0.8, 1.2, color="#eef4ea", zorder=0)
        ax.axhline(1, color="#7a8a6a", linewidth=0.8)
        for label in shown.ensembles:
            ratio = shown.values(label, "spectrum_ratio", variable)[lead, 1:]
            look = {**style.line(list(shown.metrics), label), "marker": ""}
            ax.plot(np.arange(1, ratio.size + 1), ratio, label=name(label), **look)
        ax.set_xscale("log")
        ax.set_ylim(0, 2)
        _wavenumbers(ax, ratio.size)
        ax.set_title(variable)
        if ax in bottom:
            ax.set_xlabel("total wavenumber")
    handles, texts = axes[0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="upper left", ncols=5, fontsize=7.5, columnspacing=1.2)
    when = lead_name(shown.hours[lead])
    alt = f"Ratio of each ensemble's power to the truth's by total wavenumber at {when} for {', '.join(chosen)}."
    caption = (
        f"Power of single members over that of the truth by total wavenumber at {when}, over the globe; the band is "
        "20 % to each side. Below it: too smooth, above: too noisy. With few starts the truth's longest waves are a "
        "matter of chance: what a perfect model or the climatological ensemble shows there is no fault of theirs."
    )
    return style.vector(figure, alt, caption)


def _logarithmic(ax: Axes, truth: np.ndarray) -> None:
    ax.set_xscale("log")
    ax.set_yscale("log")
    top = max(float(np.nanmax(truth)), 1e-30)
    ax.set_ylim(max(float(np.nanmin(truth)) / 20, top * 1e-8), top * 3)
    _wavenumbers(ax, truth.size)


def _wavenumbers(ax: Axes, last: int) -> None:
    ticks = np.array([1, 2, 5, 10, 20, 50, 100, 200, 500, 1000])
    ax.set_xticks(ticks[ticks <= last])
    ax.xaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()
