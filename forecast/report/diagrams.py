"""Diagrams of probabilities: rank histograms, reliability, ROC, economic value."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from forecast.report import style
from forecast.report.curves import WIDTH, where
from forecast.report.shown import Shown, lead_name, name
from forecast.report.style import Picture

MOST = 4  # variables in diagrams of events
SQUARE = (0.5, 0.46, 0.1, 0.3)  # margins of panels with names on both axes


def rank_histograms(shown: Shown) -> Picture:
    """Rank histograms of the forecast in question at three leads, relative to a flat one."""
    picked = three_leads(shown)
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
        f"Rank histograms of the {name(shown.model)}, {where(shown)}: how often the truth had so many members below "
        "it, relative to a flat histogram (1). U-shaped: too little spread; sloping: biased. Ties are broken by lot."
    )
    return style.vector(figure, alt, caption)


def reliability(shown: Shown) -> Picture:
    """Reliability diagrams, a row an event: curves at three leads, consistency bars, and how often each is said."""
    picked, cases = three_leads(shown), _cases(shown)
    middle, columns = picked[len(picked) // 2][0], min(MOST, len(cases))
    figure, axes, _ = style.panels(len(cases), columns, (WIDTH / columns, 3.0), margins=SQUARE)
    for ax, (event, variable) in zip(axes, cases, strict=True):

        def values(what: str, event: str = event, variable: str = variable) -> np.ndarray:
            return shown.values(shown.model, f"{what}[{event}]", variable)

        observed, said = values("reliability"), values("sharpness")
        stated = np.arange(observed.shape[-1]) / (observed.shape[-1] - 1)
        ax.plot([0, 1], [0, 1], color="#8a95a3", linewidth=0.8, linestyle=(0, (4, 3)))
        ax.fill_between(stated, values("reliability_low")[middle], values("reliability_high")[middle],
                        color="#7a8a6a", alpha=0.25, linewidth=0)  # fmt: skip
        rate = np.nansum(observed[middle] * said[middle])
        ax.axhline(rate, color="#8a95a3", linewidth=0.8, linestyle=(0, (1, 1.5)))
        for k, colour in picked:
            ax.plot(stated, observed[k], color=colour, marker="o", linewidth=1.4, label=lead_name(shown.hours[k]))
        _square(ax, f"{variable}  {event.removeprefix(variable).strip()}")
        inner = ax.inset_axes((0.6, 0.07, 0.37, 0.24))
        inner.bar(stated, np.maximum(said[middle], 1e-5), width=0.8 / said.shape[-1], color=picked[len(picked) // 2][1])
        inner.set_yscale("log")
        inner.set_xticks([])
        inner.tick_params(labelsize=5.5, length=1.5)
        inner.minorticks_off()
        inner.grid(False)
    _key(figure, axes[0])
    events = ", ".join(shown.summary["events"])
    day = lead_name(shown.hours[middle])
    alt = f"Reliability diagrams of {name(shown.model)} for events {events}; on the diagonal is ideal."
    caption = (
        f"How often an event came when a share of the members said so, {where(shown)}. Percentiles: of the local "
        f"climatology. Shaded at {day}: where 90 % of a perfect ensemble of this size would lie (consistency bars). "
        f"Dotted: frequency of the event. Inset: share of forecasts at {day}, logarithmic (sharpness)."
    )
    return style.vector(figure, alt, caption)


def roc(shown: Shown) -> Picture:
    """ROC of the forecast in question and its rivals at the middle lead, with areas."""
    cases, labels = _cases(shown), [label for label in shown.ensembles if label != "climatology"]
    middle = _middle(shown)
    columns = min(MOST, len(cases))
    figure, axes, _ = style.panels(len(cases), columns, (WIDTH / columns, 3.0), margins=SQUARE)
    for ax, (event, variable) in zip(axes, cases, strict=True):
        ax.plot([0, 1], [0, 1], color="#8a95a3", linewidth=0.8, linestyle=(0, (4, 3)))
        areas = []
        for label in labels:
            hit, false = (
                shown.values(label, f"{x}[{event}]", variable)[middle] for x in ("hit_rate", "false_alarm_rate")
            )
            ax.plot(false, hit, **{**style.line(list(shown.metrics), label), "markersize": 2.2}, label=name(label))
            areas.append((shown.values(label, f"roc_area[{event}]", variable)[middle], label))
        for row, (area, label) in enumerate(areas):
            colour = style.line(list(shown.metrics), label)["color"]
            ax.text(0.97, 0.06 + 0.085 * row, f"{area:.3f}", color=colour, ha="right", fontsize=7.5, weight="bold")
        _square(ax, f"{variable}  {event.removeprefix(variable).strip()}", "false alarm rate", "hit rate")
    _key(figure, axes[0])
    alt = f"ROC curves of {', '.join(name(x) for x in labels)}; the nearer to the upper left corner the better."
    caption = (
        f"Hit rate against false alarm rate when at least k of M members warn, at {lead_name(shown.hours[middle])}, "
        f"{where(shown)}. Numbers: area under the curve (0.5: no skill, 1: perfect)."
    )
    return style.vector(figure, alt, caption)


def value(shown: Shown) -> Picture:
    """Relative economic value by the users' ratio of cost to loss, at three leads."""
    cases, picked = _cases(shown), three_leads(shown)
    columns = min(MOST, len(cases))
    costs = shown.metrics[shown.model]["economic_value"]["cost"].values
    figure, axes, _ = style.panels(len(cases), columns, (WIDTH / columns, 2.1), margins=SQUARE)
    for ax, (event, variable) in zip(axes, cases, strict=True):
        values = shown.values(shown.model, f"economic_value[{event}]", variable)
        for k, colour in picked:
            ax.plot(costs, values[k], color=colour, linewidth=1.5, label=lead_name(shown.hours[k]))
        ax.set_xscale("log")
        ax.set_xticks([0.01, 0.03, 0.1, 0.3, 1], ["0.01", "0.03", "0.1", "0.3", "1"])
        ax.minorticks_off()
        ax.set_ylim(0, 1)
        ax.set_title(f"{variable}  {event.removeprefix(variable).strip()}")
        ax.set_xlabel("cost / loss")
    _key(figure, axes[0])
    alt = f"Relative economic value of {name(shown.model)} by ratio of cost to loss; 1 is perfect, 0 climatology."
    caption = (
        f"Relative economic value of the {name(shown.model)} for users who act on the best share of members for their "
        f"ratio of cost to loss, {where(shown)}. 1: as good as a perfect forecast; 0: no better than climatology."
    )
    return style.vector(figure, alt, caption)


def _cases(shown: Shown) -> list[tuple[str, str]]:
    """Pairs of event and variable, row by row: the events that a variable has, of the variables looked at first."""
    found = shown.metrics[shown.model]["sharpness"].isel(region=0)
    known = {e: [v for v in shown.variables if found.sel(event=e, variable=v).notnull().any()]
             for e in found["event"].values.tolist()}  # fmt: skip
    first = [str(v) for v in shown.case["variable"].values]
    return [(e, v) for e, having in known.items() for v in ([v for v in first if v in having] or having)[:MOST]]


def _middle(shown: Shown) -> int:
    picked = three_leads(shown)
    return picked[len(picked) // 2][0]


def _square(ax: Axes, title: str, x: str = "share of members", y: str = "frequency of event") -> None:
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    ax.set_xticks(np.linspace(0, 1, 6))
    ax.set_yticks(np.linspace(0, 1, 6))
    ax.set_title(title)
    ax.set_xlabel(x)
    ax.set_ylabel(y, labelpad=2)


def _key(figure: Figure, ax: Axes) -> None:
    handles, texts = ax.get_legend_handles_labels()
    figure.legend(handles, texts, loc="upper left", ncols=7, fontsize=8.5)


def three_leads(shown: Shown, whole_days: bool = False) -> list[tuple[int, str]]:
    """Positions of an early, a middle and a late lead, and their colours."""
    hours = np.where(shown.hours % 24 == 0, shown.hours, np.inf) if whole_days else shown.hours
    last = shown.hours.max()
    wanted = (24.0, 120.0, 240.0) if last >= 240 else (24.0, last / 2, last)
    picked = sorted({int(np.abs(hours - w).argmin()) for w in wanted})
    return list(zip(picked, style.LEAD_COLOURS[-len(picked) :], strict=True))


def spread_out(variables: Sequence[str], most: int) -> list[str]:
    """`most` variables at most, evenly from the list."""
    places = np.unique(np.linspace(0, len(variables) - 1, min(most, len(variables))).round().astype(int))
    return [variables[k] for k in places]
