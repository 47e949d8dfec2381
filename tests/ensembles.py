"""Small forecast stores with smooth fields, written in a moment: for the tests of outputs and plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from forecast.core import grids, shards
from forecast.core.forecasts import Layout, create, ledger_line
from forecast.core.grids import Grid

NAMES = ("z_500", "t_850", "2t", "10u", "msl", "tp", "lsm")
LEVELS = {"z_500": 5.5e4, "t_850": 275.0, "2t": 285.0, "10u": 3.0, "msl": 1.0e5, "tp": 0.0, "lsm": 0.0}
SIZES = {"z_500": 2e3, "t_850": 12.0, "2t": 15.0, "10u": 8.0, "msl": 2e3, "tp": 4e-3, "lsm": 1.0}


def layout(
    grid: Grid | None = None,
    names: Sequence[str] = NAMES,
    members: int = 5,
    batch: int = 2,
    leads: int = 4,
    **more: Any,
) -> Layout:
    """Two starts; leads every 6 h from 0; an accumulation of 6 h."""
    return Layout(
        variables=tuple(names),
        starts=np.array(["2020-02-28T00", "2020-12-31T12"], "datetime64[s]"),
        members=np.arange(members),
        leads=np.arange(leads) * np.timedelta64(6 * 3600, "s"),
        grid=grid or grids.gaussian(16),
        member_batch=batch,
        settings={"system": "test", "accumulation": "6h", **more},
    )


def states(made: Layout, start: int, lead: int) -> dict[str, np.ndarray]:
    """(M, G) float32 a variable: a wave that travels east, and that members disagree upon ever more."""
    lat, lon = np.radians(made.grid.latitudes), np.radians(made.grid.longitudes)
    member = np.arange(len(made.members))[:, None]
    fields = {}
    for k, name in enumerate(made.variables):
        phase = 0.3 * k + 0.4 * lead + start + 0.12 * (lead + 1) * np.sin(7.0 * member + k)
        wave = np.cos(lat) ** 2 * np.sin(3 * lon - phase) + 0.2 * np.sin(5 * lon + 4 * lat)
        values = LEVELS.get(name, 0.0) + SIZES.get(name, 1.0) * (wave - np.sin(lat) ** 2)
        if name == "tp":
            values = np.maximum(values, 0.0)
        if name == "lsm":
            values = np.broadcast_to(np.sin(2 * lon) * np.cos(lat) > 0.2, values.shape)
        fields[name] = values.astype(np.float32)
    return fields


def write(
    path: Path, made: Layout, changes: dict[str, Any] | None = None, skip: Sequence[tuple[int, ...]] = ()
) -> Path:
    """The store of `made` with `states`; `changes`: variable -> fields (S, L, M, G) in their place."""
    create(path, made)
    lines = []
    for start, lead in np.ndindex(len(made.starts), len(made.leads)):
        fields = states(made, start, lead)
        fields |= {name: np.asarray(values[start][lead], np.float32) for name, values in (changes or {}).items()}
        for batch in range(made.batches):
            unit = (start, batch, lead)
            if unit in skip:
                continue
            rows = slice(batch * made.member_batch, (batch + 1) * made.member_batch)
            for name in made.variables:
                (path / made.shard(name, unit)).write_bytes(shards.encode(fields[name][rows], made.member_batch))
            lines.append(ledger_line(made, unit))
    (path / "finished-0-of-1.jsonl").write_text("".join(lines))
    return path
