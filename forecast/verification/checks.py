"""Statements about skill, each with what was asked and what was reached."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import xarray as xr

from forecast.core.times import format_duration
from forecast.verification.deterministic import SQUARED_ERROR
from forecast.verification.ensemble import UNBIASED_SQUARED_ERROR, VARIANCE
from forecast.verification.results import Scores

HOUR = np.timedelta64(3600, "s")
BAND = (0.75, 1.25)


@dataclass(frozen=True)
class Check:
    """One statement: what is claimed, what that takes, what the scores say."""

    claim: str
    asked: str
    reached: str
    ok: bool


def skill_checks(
    scores: Scores,
    model: str,
    rival: str | None = None,
    early: Sequence[np.timedelta64] | None = None,
    late: np.timedelta64 = 240 * HOUR,
) -> list[Check]:
    """The statements that a useful ensemble must pass, over the first region (globe or domain).

    At the `early` leads (24 and 72 h, or 24 and 48 h where `late` was not scored): fair CRPS below persistence and
    climatology for every variable, and below `rival` for at least half of them. At the `late` lead: no variable more
    than 5 % above climatology. At 24-120 h: spread-skill within 0.75-1.25, for every variable and lead, and for all
    variables together. Leads and baselines that were not scored give no statement.
    """
    leads = scores.metrics[model]["lead_time"].values
    if early is None:
        early = (24 * HOUR, 72 * HOUR) if late in leads else (24 * HOUR, 48 * HOUR)
    crps = {label: m["fair_crps"].isel(region=0, drop=True) for label, m in scores.metrics.items()}
    checks = []
    for lead in (lead for lead in early if lead in leads):
        for other in (b for b in ("persistence", "climatology") if b in crps):
            checks.append(_below(crps[model], crps[other], other, lead))
    if late in leads and "climatology" in crps:
        checks.append(_no_worse(crps[model], crps["climatology"], late))
    checks += _spread_skill(scores, model)
    for lead in (lead for lead in early if rival in crps and lead in leads):
        checks.append(_at_least_half(crps[model], crps[str(rival)], str(rival), lead))
    return checks


def write_checks(scores: Scores, checks: Sequence[Check]) -> None:
    """Keep the statements beside the scores, for the report."""
    (scores.path / "checks.json").write_text(json.dumps([asdict(check) for check in checks], indent=1))


def _ratio(model: xr.DataArray, other: xr.DataArray, lead: np.timedelta64) -> dict[str, float]:
    ratio = (model / other).sel(lead_time=lead)
    return dict(zip(ratio["variable"].values.tolist(), ratio.values.tolist(), strict=True))


def _worst(ratios: dict[str, float]) -> str:
    name = max(ratios, key=lambda v: np.nan_to_num(ratios[v], nan=np.inf))
    return f"{name} {_percent(ratios[name])}"


def _few(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.0f} %".replace("-", "\N{MINUS SIGN}")


def _below(model: xr.DataArray, other: xr.DataArray, name: str, lead: np.timedelta64) -> Check:
    ratios = _ratio(model, other, lead)
    good = sum(r < 1 for r in ratios.values())
    held = good == len(ratios)
    reached = f"{good} of {len(ratios)}; {'closest' if held else 'worst'} {_worst(ratios)}"
    return Check(f"Fair CRPS below {name} at {_hours(lead)}", "every variable", reached, held)


def _no_worse(model: xr.DataArray, climatology: xr.DataArray, lead: np.timedelta64) -> Check:
    ratios = _ratio(model, climatology, lead)
    over = [v for v, r in ratios.items() if not r <= 1.05]
    reached = f"worst {_worst(ratios)}" + (f"; over: {_few(over)}" if over else "")
    return Check(f"Fair CRPS no more than 5 % above climatology at {_hours(lead)}", "every variable", reached, not over)


def _at_least_half(model: xr.DataArray, other: xr.DataArray, name: str, lead: np.timedelta64) -> Check:
    ratios = _ratio(model, other, lead)
    good = sum(r < 1 for r in ratios.values())
    mean = float(np.exp(np.nanmean(np.log(list(ratios.values())))))
    reached = f"{good} of {len(ratios)}; on average {_percent(mean)}"
    claim = f"Fair CRPS below {name} at {_hours(lead)}"
    return Check(claim, "at least half of the variables", reached, 2 * good >= len(ratios))


def _spread_skill(scores: Scores, model: str) -> list[Check]:
    leads = scores.metrics[model]["lead_time"].values
    chosen = leads[(leads >= 24 * HOUR) & (leads <= 120 * HOUR)]
    if not chosen.size or scores.sums[model].members < 2:
        return []
    single = scores.metrics[model]["spread_skill"].isel(region=0).sel(lead_time=chosen)
    pooled = _pooled(scores, model).sel(lead_time=chosen)
    within = (single >= BAND[0]) & (single <= BAND[1])
    outside = [str(v) for v in single["variable"].values if not within.sel(variable=v).all()]
    reached = f"{_span(single)}; {int(within.sum())} of {single.size} within"
    reached += f"; not {_few(outside)}" if outside else ""
    asked = f"{BAND[0]} to {BAND[1]}"
    span = f"{_hours(chosen[0])} to {_hours(chosen[-1])}"
    together = bool(((pooled >= BAND[0]) & (pooled <= BAND[1])).all())
    return [
        Check(f"Spread-skill of all variables together, {span}", asked, _span(pooled), together),
        Check(f"Spread-skill of every variable, {span}", asked, reached, not outside),
    ]


def _pooled(scores: Scores, model: str) -> xr.DataArray:
    """Spread-skill of all variables together: variances and errors in units of the model's mean squared error."""
    sums = scores.sums[model]
    variance, unbiased, scale = (
        sums.sum[s.name].isel(region=0).sum("init_time", skipna=False)
        for s in (VARIANCE, UNBIASED_SQUARED_ERROR, SQUARED_ERROR)
    )
    return ((variance / scale).mean("variable") / (unbiased / scale).mean("variable")) ** 0.5


def _span(values: xr.DataArray) -> str:
    return f"{float(values.min()):.2f} to {float(values.max()):.2f}"


def _hours(lead: np.timedelta64) -> str:
    return format_duration(lead) if lead % (24 * HOUR) and lead % HOUR else f"{int(lead / HOUR)} h"
