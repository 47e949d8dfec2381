"""One forecast to look at: truth, ensemble mean, spread and three members of a few variables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from forecast.verification.plan import Plan
from forecast.verification.sources import Source
from forecast.verification.states import States

FAVOURITES = ("z_500", "msl", "tp", "t_850", "t_650", "2t")
BACKGROUND = ("lsm", "z")


def choose_variables(variables: tuple[str, ...], most: int = 4) -> tuple[str, ...]:
    """Those that forecasters look at first, then the others, `most` at most."""
    return tuple(sorted(variables, key=lambda v: FAVOURITES.index(v) if v in FAVOURITES else 99)[:most])


def save_case(path: Path, source: Source, truth: States, plan: Plan, around: np.timedelta64) -> None:
    """Write the fields of the first start, at the scored lead nearest to `around`, to a NetCDF file.

    Arrays `fields` (variable, field, values) and, where the truth's store has them, `lsm` and `z` of the ground.
    """
    start = int(np.flatnonzero(plan.scored.any(axis=1))[0])
    leads = np.flatnonzero(plan.scored[start])
    lead = plan.leads[leads[np.abs(plan.leads[leads] - around).argmin()]]
    when = plan.starts[start] + lead
    state = truth.get(when)
    fields = []
    for name in (variables := choose_variables(plan.variables)):
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
        "start": str(plan.starts[start]),
        "lead_hours": float(lead / np.timedelta64(1, "h")),
        "shape": list(grid.shape),
        "global": int(grid.is_global),
    }
    xr.Dataset(arrays, coords, about).to_netcdf(path, engine="netcdf4")
