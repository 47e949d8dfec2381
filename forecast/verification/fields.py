"""Scores of single points, for maps: means over starts of the ensemble mean's bias and the fair CRPS.

Of a few variables at three leads: a percent of the data, read once more.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr

from forecast.verification.case import choose_variables
from forecast.verification.engine import Engine
from forecast.verification.matchup import Matchup
from forecast.verification.plan import Plan

MOST = 4
DAY = np.timedelta64(86400, "s")
LEADS = (1 * DAY, 5 * DAY, 10 * DAY)


def save_fields(path: Path, engine: Engine) -> None:
    """Write `bias` and `fair_crps`, dims (label, variable, lead_time, values), means over the starts that are scored.

    A point that a field lacks is missing in the mean.
    """
    plan, grid = engine.plan, engine.truth.store.grid
    names, leads = choose_variables(plan.variables, MOST), some_leads(plan)
    labels = [source.label for source in engine.sources]
    shape = (len(labels), len(names), len(leads), grid.size)
    sums, count = {name: np.zeros(shape) for name in ("bias", "fair_crps")}, np.zeros(len(leads))
    for s, k in plan.cases:
        if k not in leads:
            continue
        at, start, lead = leads.index(k), plan.starts[s], plan.leads[k]
        truth = engine.truth.get(start + lead)
        count[at] += 1
        for n, source in enumerate(engine.sources):
            for v, name in enumerate(names):
                pair = Matchup(source.read(name, start, lead), truth[plan.variables.index(name)])
                sums["bias"][n, v, at] += pair.mean_error
                sums["fair_crps"][n, v, at] += pair.absolute_error - pair.half_distance
    dims = ("label", "variable", "lead_time", "values")
    arrays = {name: (dims, (total / count[:, None]).astype(np.float32)) for name, total in sums.items()}
    coords = {
        "label": labels,
        "variable": list(names),
        "lead_time": plan.leads[leads],
        "latitude": ("values", grid.latitudes),
        "longitude": ("values", grid.longitudes),
    }
    about = {"shape": list(grid.shape), "global": int(grid.is_global)}
    xr.Dataset(arrays, coords, about).to_netcdf(path, engine="netcdf4")


def some_leads(plan: Plan) -> list[int]:
    """Positions of the scored leads nearest to one, five and ten days."""
    scored = np.flatnonzero(plan.scored.any(axis=0))
    return sorted({int(scored[np.abs(plan.leads[scored] - wanted).argmin()]) for wanted in LEADS})
