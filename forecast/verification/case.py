"""Forecasts to look at: truth, ensemble mean, spread and three members of a few variables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from forecast.verification.engine import Engine
from forecast.verification.plan import Plan
from forecast.verification.sources import Source
from forecast.verification.states import States
from forecast.verification.sums import Sums

FAVOURITES = ("z_500", "msl", "tp", "t_850", "t_650", "2t")
BACKGROUND = ("lsm", "z")


def choose_variables(variables: tuple[str, ...], most: int = 4) -> tuple[str, ...]:
    """Those that forecasters look at first, then the others, `most` at most."""
    return tuple(sorted(variables, key=lambda v: FAVOURITES.index(v) if v in FAVOURITES else 99)[:most])


def save_notable(folder: Path, engine: Engine, sums: Mapping[str, Sums], around: np.timedelta64) -> None:
    """Write the cases of the first forecast's best and worst start, by the fair CRPS of its first shown variable.

    None where the fair CRPS was not asked for; the first start is a case of its own (`save_case`).
    """
    plan, source = engine.plan, engine.sources[0]
    name = choose_variables(plan.variables)[0]
    if "fair_crps" not in sums[source.label].sum:
        return
    scored = plan.scored.any(axis=1)
    first = int(np.flatnonzero(scored)[0])
    lead = int(np.abs(plan.leads - around).argmin())
    at = (plan.variables.index(name), slice(None), lead, 0)
    crps = np.where(plan.scored[:, lead], sums[source.label].arrays["fair_crps"][0][at], np.nan)
    if not np.isfinite(crps).any():
        return
    folder.mkdir()
    for what, start in (("smallest", int(np.nanargmin(crps))), ("largest", int(np.nanargmax(crps)))):
        if start != first:
            why = f"the {what} fair CRPS of {name}"
            save_case(folder / f"{what}.nc", source, engine.truth, plan, around, start, why, most=2)


def save_case(
    path: Path,
    source: Source,
    truth: States,
    plan: Plan,
    around: np.timedelta64,
    start: int | None = None,
    why: str = "",
    most: int = 4,
) -> None:
    """Write the fields of a start, the first if absent, at the scored lead nearest to `around`, to a NetCDF file.

    Arrays `fields` (variable, field, values) of `most` variables and, where the truth's store has them, `lsm` and `z`
    of the ground. `why` says what makes it notable.
    """
    start = int(np.flatnonzero(plan.scored.any(axis=1))[0]) if start is None else start
    leads = np.flatnonzero(plan.scored[start])
    lead = plan.leads[leads[np.abs(plan.leads[leads] - around).argmin()]]
    when = plan.starts[start] + lead
    state = truth.get(when)
    fields = []
    for name in (variables := choose_variables(plan.variables, most)):
        members = source.read(name, plan.starts[start], lead)
        mean = members.mean(axis=0, dtype=np.float64)
        spread = members.std(axis=0, dtype=np.float64, ddof=min(1, len(members) - 1))
        fields.append(np.stack([state[plan.variables.index(name)], mean, spread, *members[:3]]))
    shown = [f"member {k}" for k in range(len(fields[0]) - 3)]
    grid, store = truth.store.grid, truth.store
    arrays: dict[str, Any] = {"fields": (("variable", "field", "values"), np.array(fields, dtype=np.float32))}
    for name in BACKGROUND:
        if name in store.variables:
            arrays[name] = (("values",), store.read(store.index(when), [name])[0, 0])
    coords = {
        "variable": list(variables),
        "field": ["truth", "mean", "spread", *shown],
        "latitude": ("values", grid.latitudes),
        "longitude": ("values", grid.longitudes),
    }
    about = {
        "label": source.label,
        "why": why,
        "start": str(plan.starts[start]),
        "lead_hours": float(lead / np.timedelta64(1, "h")),
        "shape": list(grid.shape),
        "global": int(grid.is_global),
    }
    xr.Dataset(arrays, coords, about).to_netcdf(path, engine="netcdf4")
