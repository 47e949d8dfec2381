"""The page: figures, tables and words put into one HTML file that needs no network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from forecast.core.errors import ForecastError
from forecast.report import curves, maps, scorecard, style, tables
from forecast.report.shown import BASELINES, Shown, lead_name, load, name


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
    region, references = shown.region, _references(shown)
    return environment.get_template("page.html.j2").render(
        title=shown.summary["title"] or "Verification",
        subtitle=_subtitle(shown),
        tiles=_tiles(shown),
        checks=shown.checks,
        curves=_skill_pictures(shown),
        cards=[scorecard.scorecard(shown, label, region) for label in references],
        regional_cards=[scorecard.scorecard(shown, references[0], r) for r in shown.summary["regions"][1:]]
        if references
        else [],
        legend=scorecard.legend(),
        reliability=_reliability_pictures(shown),
        spectra=[curves.spectra(shown)] if shown.has("power_truth") else [],
        maps=[maps.case_maps(shown)],
        facts=tables.facts(shown),
        notes=shown.summary["notes"],
        numbers=tables.numbers(shown),
        model=name(shown.model),
        settings=json.dumps(shown.summary["settings"], indent=1, ensure_ascii=False),
        version=shown.summary["version"],
    )


def _skill_pictures(shown: Shown) -> list[style.Picture]:
    every = [
        curves.skill_curves(shown, "fair_crps", "Fair CRPS"),
        curves.skill_curves(shown, "rmse", "RMSE of the mean"),
    ]
    return [curves.overview(shown), *every] if "climatology" in shown.metrics and len(shown.variables) > 1 else every


def _reliability_pictures(shown: Shown) -> list[style.Picture]:
    if shown.summary["members"][shown.model] < 2:
        return []
    return [curves.spread_skill(shown), curves.rank_histograms(shown)]


def _references(shown: Shown) -> list[str]:
    """What scorecards compare with: other forecasts first, then climatology, persistence as the last resort."""
    others = [label for label in shown.rivals if label not in BASELINES]
    baselines = [label for label in ("ridge regression", "climatology", "persistence") if label in shown.metrics]
    return (sorted(others, key=lambda label: label == "perfect") + baselines)[:4]


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
    for reference in [r for r in (*_references(shown), "persistence") if r in shown.metrics and r != "perfect"][:3]:
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
