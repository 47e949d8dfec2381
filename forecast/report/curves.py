"""Line figures: scores against lead time, rank histograms, spectra."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from forecast.report import style
from forecast.report.shown import Shown, lead_name, name
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
        f"All {count} variables together (geometric mean), {_where(shown)}. Left: below 1 is better than climatology."
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
        top = max(np.nanmax(v, initial=0) for label, v in curves.items() if label != "persistence")
        if "persistence" in curves:
            top = max(top, min(np.nanmax(curves["persistence"], initial=0), 1.15 * top))
        ax.set_ylim(0, 1.12 * top or 1.0)
        ax.set_title(f"{variable}  [{shown.unit(variable)}]")
        style.days(ax, shown.hours, label=ax in bottom)
    _legend(figure, axes[0], labels)
    beside = ", ".join(name(label) for label in labels[1:])
    alt = f"{title} against lead time for {', '.join(shown.variables)}: {name(shown.model)} beside {beside}."
    return style.vector(figure, alt, f"{title} by lead time, {_where(shown)}. Lower is better.")


def spread_skill(shown: Shown) -> Picture:
    """Spread-skill ratio against lead time with the band 0.75 to 1.25."""
    labels = [label for label in shown.ensembles if label != "climatology"]
    figure, axes, bottom = _variable_panels(shown, 1.55)
    for ax, variable in zip(axes, shown.variables, strict=True):
        ax.axhspan(0.75, 1.25, color="#eef4ea", zorder=0)
        ax.axhline(1, color="#7a8a6a", linewidth=0.8)
        for label in labels:
            ax.plot(shown.hours / 24, shown.values(label, "spread_skill", variable), **style.line(labels, label))
        _ratio_limits(ax)
        ax.set_title(variable)
        style.days(ax, shown.hours, label=ax in bottom)
    _legend(figure, axes[0], labels)
    alt = f"Spread-skill ratio against lead time for {', '.join(shown.variables)}; 1 is ideal."
    caption = (
        f"Spread-skill ratio freed of the ensemble's size, {_where(shown)}. 1: the spread is as large as the error of "
        "the mean; below 1: too little spread. Shaded: 0.75 to 1.25."
    )
    return style.vector(figure, alt, caption)


def rank_histograms(shown: Shown) -> Picture:
    """Rank histograms of the forecast in question at three leads, relative to a flat one."""
    picked = _three_leads(shown)
    count = len(shown.variables)
    columns = style.columns_for(count) + (count > 3)
    figure, axes, _ = style.panels(count, columns, (WIDTH / columns, 1.45))
    for ax, variable in zip(axes, shown.variables, strict=True):
        shares = shown.values(shown.model, "rank_histogram", variable)
        bins = shares.shape[-1]
        ax.axhline(1, color="#7a8a6a", linewidth=0.8)
        for k, colour in picked:
            text = lead_name(shown.hours[k])
            ax.stairs(
                shares[k] * bins, np.arange(bins + 1) - 0.5, baseline=None, color=colour, linewidth=1.3, label=text
            )
        ax.set_ylim(0, max(2.0, 1.05 * bins * float(np.nanmax(shares[[k for k, _ in picked]], initial=0))))
        ax.set_xlim(-0.5, bins - 0.5)
        ax.set_xticks([0, (bins - 1) // 2, bins - 1])
        ax.set_title(variable)
    handles, texts = axes[0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="upper left", ncols=3, fontsize=8.5)
    alt = f"Rank histograms of {name(shown.model)} for {', '.join(shown.variables)}; flat is ideal."
    caption = (
        f"Rank histograms of the {name(shown.model)}, {_where(shown)}: how often the truth had so many members below "
        "it, relative to a flat histogram (1). U-shaped: too little spread; sloping: biased. Ties are broken by lot."
    )
    return style.vector(figure, alt, caption)


def spectra(shown: Shown, most: int = 8) -> Picture:
    """Zonal power spectra of truth, members and ensemble mean at three leads."""
    picked = _three_leads(shown, whole_days=True)
    chosen = _spread_out(shown.variables, most)
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
        f"Power by zonal wavenumber, {_where(shown)}. Members should keep the truth's spectrum at every lead (no "
        "blurring); the mean of the ensemble loses what cannot be predicted."
    )
    return style.vector(figure, alt, caption)


def _variable_panels(shown: Shown, height: float) -> tuple[Figure, list[Axes], list[Axes]]:
    columns = style.columns_for(len(shown.variables))
    return style.panels(len(shown.variables), columns, (WIDTH / columns, height))


def _legend(figure: Figure, ax: Axes, labels: Sequence[str]) -> None:
    handles = list(ax.lines)[-len(labels) :]
    figure.legend(handles, [name(x) for x in labels], loc="upper left", ncols=min(len(labels), 7), fontsize=8.5)


def _ratio_limits(ax: Axes) -> None:
    low, high = ax.get_ylim()
    ax.set_ylim(max(0, min(low, 0.6)), min(max(high, 1.4), 2.5))


def _logarithmic(ax: Axes, truth: np.ndarray) -> None:
    ax.set_xscale("log")
    ax.set_yscale("log")
    top = max(float(np.nanmax(truth)), 1e-30)
    ax.set_ylim(max(float(np.nanmin(truth)) / 20, top * 1e-8), top * 3)
    ticks = np.array([1, 2, 5, 10, 20, 50, 100, 200, 500, 1000])
    ax.set_xticks(ticks[ticks <= truth.size])
    ax.xaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()


def _geometric_mean(ratios: Sequence[np.ndarray]) -> np.ndarray:
    """(L,) over variables; NaN where no variable has a value."""
    with np.errstate(all="ignore"):
        logs = np.log(np.array(ratios))
        return np.exp(np.nansum(logs, axis=0) / (~np.isnan(logs)).sum(axis=0))


def _three_leads(shown: Shown, whole_days: bool = False) -> list[tuple[int, str]]:
    """Positions of an early, a middle and a late lead, and their colours."""
    hours = np.where(shown.hours % 24 == 0, shown.hours, np.inf) if whole_days else shown.hours
    last = shown.hours.max()
    wanted = (24.0, 120.0, 240.0) if last >= 240 else (24.0, last / 2, last)
    picked = sorted({int(np.abs(hours - w).argmin()) for w in wanted})
    return list(zip(picked, style.LEAD_COLOURS[-len(picked) :], strict=True))


def _spread_out(variables: Sequence[str], most: int) -> list[str]:
    """`most` variables at most, evenly from the list."""
    places = np.unique(np.linspace(0, len(variables) - 1, min(most, len(variables))).round().astype(int))
    return [variables[k] for k in places]


def _where(shown: Shown) -> str:
    starts = len(shown.summary["starts"])
    return f"{shown.region}, {starts} start{'s' if starts > 1 else ''}"
