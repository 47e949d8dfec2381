"""The page: figures, tables and words put into one HTML file that needs no network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from forecast.core.errors import ForecastError
from forecast.report import curves, diagrams, maps, scorecard, spectra, style, tables
from forecast.report.shown import Shown, lead_name, load, name

POWERS = ("power_members", "power_mean", "power_truth")


def write_report(scores: str | Path, out: str | Path) -> Path:
    """Write the report on a folder of scores as one self-contained HTML file.

    Args:
        scores: folder that `forecast verify` wrote.
        out: the HTML file; replaced at once when all is done.

    Raises:
        ForecastError: no scores there, or the file cannot be written.
    """
    shown, out = load(scores), Path(out)
    with style.settings():
        html = render(shown)
    partial = out.with_name(out.name + ".partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(html, encoding="utf-8")
        partial.replace(out)
    except OSError as error:
        raise ForecastError(f"{out}: the report cannot be written: {error.strerror}") from None
    return out


def render(shown: Shown) -> str:
    """The whole page as text."""
    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=select_autoescape(["html.j2", "html"], default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    cards = scorecard.references(shown) if scorecard.scores_of(shown) else []
    return environment.get_template("page.html.j2").render(
        title=shown.summary["title"] or "Verification",
        subtitle=_subtitle(shown),
        tiles=_tiles(shown),
        checks=shown.checks,
        curves=_skill_pictures(shown),
        card=scorecard.scorecard(shown, cards[0], shown.region, scorecard.scores_of(shown)[0]) if cards else None,
        tested=bool(shown.comparisons) and len(shown.summary["starts"]) > 2,
        data=scorecard.payload(shown) if cards else None,
        legend=scorecard.legend(),
        reliability=_spread_pictures(shown),
        events=_event_pictures(shown),
        spectra=_spectrum_pictures(shown),
        maps=[maps.case_maps(shown, case) for case in (shown.case, *shown.cases)],
        points=_point_maps(shown),
        facts=tables.facts(shown),
        notes=shown.summary["notes"],
        numbers=tables.numbers(shown),
        model=name(shown.model),
        settings=json.dumps(shown.summary["settings"], indent=1, ensure_ascii=False),
        version=shown.summary["version"],
    )


def _skill_pictures(shown: Shown) -> list[style.Picture]:
    wanted = (("fair_crps", "Fair CRPS"), ("rmse", "RMSE of the mean"), ("acc", "ACC of the mean"))
    pictures = [curves.skill_curves(shown, metric, title) for metric, title in wanted if shown.has(metric)]
    reference = next((r for r in ("climatology", "persistence") if (shown.model, r) in shown.comparisons), None)
    if reference and shown.has("fair_crps"):
        pictures.insert(0, curves.skill(shown, reference))
    if "climatology" in shown.metrics and len(shown.variables) > 1 and _all(shown, "fair_crps", "spread_skill"):
        pictures.insert(0, curves.overview(shown))
    return pictures


def _spread_pictures(shown: Shown) -> list[style.Picture]:
    if shown.summary["members"][shown.model] < 2:
        return []
    drawn = (("spread_skill", curves.spread_skill), ("rank_histogram", diagrams.rank_histograms))
    return [draw(shown) for metric, draw in drawn if shown.has(metric)]


def _spectrum_pictures(shown: Shown) -> list[style.Picture]:
    zonal = [spectra.spectra(shown), spectra.ratios(shown)] if _all(shown, *POWERS) else []
    return [*zonal, spectra.scales(shown)] if shown.has("spectrum_ratio") and shown.ensembles else zonal


def _event_pictures(shown: Shown) -> list[style.Picture]:
    if shown.summary["members"][shown.model] < 2 or not shown.has("sharpness"):
        return []
    drawn = (
        (("reliability", "reliability_expected", "reliability_low", "sharpness"), diagrams.reliability),
        (("roc_area", "hit_rate", "false_alarm_rate"), diagrams.roc),
        (("economic_value",), diagrams.value),
    )
    return [draw(shown) for metrics, draw in drawn if _all(shown, *metrics)]


def _all(shown: Shown, *metrics: str) -> bool:
    """Whether all of some scores were asked for and have values."""
    return all(shown.has(metric) for metric in metrics)


def _point_maps(shown: Shown) -> list[style.Picture]:
    reference = next((r for r in ("climatology", "persistence") if r in shown.metrics), None)
    return maps.point_maps(shown, reference) if shown.fields is not None and reference else []


def _subtitle(shown: Shown) -> str:
    s = shown.summary
    span = f"{s['starts'][0]} to {s['starts'][-1]}" if len(s["starts"]) > 1 else s["starts"][0]
    count = f"{len(s['starts'])} start{'s' if len(s['starts']) > 1 else ''}"
    return (
        f"{s['members'][shown.model]} members, {count} ({span} UTC), leads {lead_name(shown.hours[0])} to "
        f"{lead_name(shown.hours[-1])}, {len(s['variables'])} variables, {s['grid']}"
    )


def _tiles(shown: Shown) -> list[dict[str, str]]:
    """A few numbers to begin with."""
    leads = list(dict.fromkeys(shown.nearest(h) for h in (24.0, 72.0, 240.0) if h <= shown.hours.max()))
    tiles = []
    for reference in [r for r in scorecard.references(shown) if r != "perfect" and shown.has("fair_crps")][:3]:
        values = [_mean_change(shown, reference, k) for k in leads]
        text = ", ".join(f"{v:+.0f} %".replace("-", "−") for v in values)
        note = " / ".join(lead_name(shown.hours[k]) for k in leads)
        tiles.append(
            {"head": f"Fair CRPS against {name(reference)}", "value": text, "note": f"at {note}, mean over variables"}
        )
    if shown.checks:
        held = sum(bool(check["ok"]) for check in shown.checks)
        tiles.append(
            {"head": "Statements on skill that hold", "value": f"{held} of {len(shown.checks)}", "note": "listed below"}
        )
    return tiles


def _mean_change(shown: Shown, reference: str, lead: int) -> float:
    """Geometric mean over variables of the ratio of fair CRPS, as a change in per cent."""
    ratios = [
        shown.values(shown.model, "fair_crps", v)[lead] / shown.values(reference, "fair_crps", v)[lead]
        for v in shown.variables
    ]
    return float(100 * (np.exp(np.nanmean(np.log(ratios))) - 1))
