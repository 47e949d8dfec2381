"""How much power members have at each scale, beside the truth's or another ensemble's."""

from __future__ import annotations

import re

import xarray as xr
from rich.table import Table

from forecast.core.errors import ForecastError
from forecast.core.times import duration, format_duration
from forecast.verification.results import Scores
from forecast.verification.scales import AXIS

TOLERANCE = 0.2
TRUTH = "truth"


def spectra_table(scores: Scores, lead: str = "240h", wavenumbers: str = "2-15", against: str = TRUTH) -> Table:
    """Lowest and highest ratio of power over a band of total wavenumbers, a row a variable and a column a forecast.

    Args:
        against: `truth`, at the same valid times, or the label of a forecast or baseline, whose members count.

    Raises:
        ForecastError: scores without spectra, a lead, band or label that they do not have.
    """
    first, last = _band(wavenumbers)
    power = {label: _power(scores, label, "spectrum_members", lead) for label in scores.metrics}
    reference = _power(scores, next(iter(power)), "spectrum_truth", lead) if against == TRUTH else power.get(against)
    if reference is None:
        raise ForecastError(f"{scores.path} holds no `{against}`: choose from {TRUTH}, {', '.join(power)}")
    if last > int(reference[AXIS].max()):
        raise ForecastError(f"{scores.path} holds total wavenumbers 0-{int(reference[AXIS].max())}, not {wavenumbers}")
    shown = {label: p for label, p in power.items() if label not in (against, "persistence")}
    table = Table("variable", *shown, title=_title(scores, lead, wavenumbers, against), title_justify="left")
    ratios = {label: (p / reference).sel({AXIS: slice(first, last)}) for label, p in shown.items()}
    for name in reference["variable"].values:
        table.add_row(str(name), *(_span(ratio.sel(variable=name)) for ratio in ratios.values()))
    table.add_section()
    table.add_row("mean over variables", *(_span(ratio.mean("variable")) for ratio in ratios.values()))
    table.add_row(
        f"within {TOLERANCE:.0%}", *(f"{int((abs(r - 1) <= TOLERANCE).sum())} of {r.size}" for r in ratios.values())
    )
    return table


def _power(scores: Scores, label: str, metric: str, lead: str) -> xr.DataArray:
    """(variable, total wavenumber) of the globe."""
    metrics, when = scores.metrics[label], duration(lead, "--lead:")
    if metric not in metrics:
        raise ForecastError(f"{scores.path} holds no spectra: verify with `{metric}` among verification.scores")
    leads = metrics["lead_time"].values
    if when not in leads:
        known = ", ".join(format_duration(value) for value in leads)
        raise ForecastError(f"{scores.path} holds no lead {lead}: choose from {known}")
    found = metrics[metric].sel(lead_time=when).isel(region=0)
    if not found.notnull().any():
        raise ForecastError(f"{scores.path} holds no spectra at {lead}: they are taken at whole days, over the globe")
    return found


def _band(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)-(\d+)", text.strip())
    if not match or int(match[1]) > int(match[2]):
        raise ForecastError(f"--wavenumbers: `{text}` is no band; write it like 2-15")
    return int(match[1]), int(match[2])


def _title(scores: Scores, lead: str, wavenumbers: str, against: str) -> str:
    starts = len(scores.summary["starts"])
    over = "the truth's" if against == TRUTH else f"that of `{against}`"
    return f"Power of members over {over}, total wavenumbers {wavenumbers}, {lead}, {starts} starts: lowest to highest"


def _span(ratio: xr.DataArray) -> str:
    return f"{float(ratio.min()):.2f} to {float(ratio.max()):.2f}"
