"""A tiny archive and a config for it: 8x16 points, 4 variables, 6-hourly, two gaps, made in a fraction of a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from forecast.core import config as configs
from forecast.core import grids, seeding, variables
from forecast.core.store import Store
from forecast.data.writer import Layout, StoreWriter

GRID = grids.gaussian(8)
NAMES = ("z_500", "t_850", "tp", "lsm")
DATES = np.datetime64("2001-01-01T00", "s") + np.arange(160) * np.timedelta64(6, "h")
GAPS = (40, 99)


def make(folder: Path, error: float = 0.0, **changes: Any) -> Path:
    """A store whose waves travel east; `error` times a keyed noise is added to all but the constant field.

    `changes` are of the layout.
    """
    missing = np.isin(np.arange(DATES.size), GAPS)
    metadata = {name: variables.metadata(name) for name in NAMES}
    layout = Layout(
        dates=DATES,
        variables=NAMES,
        metadata=metadata,
        latitudes=GRID.latitudes,
        longitudes=GRID.longitudes,
        field_shape=GRID.shape,
        frequency=np.timedelta64(6, "h"),
        missing=missing,
        dates_per_shard=16,
        tendencies=(np.timedelta64(12, "h"),),
        **changes,
    )
    writer = StoreWriter(folder / ("analysis.zarr" if error else "truth.zarr"), layout)
    states = _states(error)
    for slab in writer.todo:
        writer.write(slab, states[layout.slabs[slab]])
    return writer.finish()


def _states(error: float) -> np.ndarray:
    """(T, V, G) float32."""
    t = np.arange(DATES.size)[:, None]
    lat, lon = np.radians(GRID.latitudes), np.radians(GRID.longitudes)
    wave = np.cos(lat) * np.sin(2 * lon - 0.31 * t) + 0.5 * np.cos(lat) ** 2 * np.sin(3 * lon - 0.57 * t + 1.0)
    noise = seeding.normal(seeding.key(1, "tiny"), 3 * wave.size).reshape(3, *wave.shape) * error
    z, t850 = 5.5e4 + 1e3 * (wave + noise[0]), 280 - 20 * np.sin(lat) ** 2 + 3 * (wave**2 + noise[1])
    rain = np.maximum(1e-3 * (wave + noise[2]), 0)
    land = np.broadcast_to((np.sin(lon) > 0).astype(float), wave.shape)
    return np.stack([z, t850, rain, land], axis=1).astype(np.float32)


def stores(folder: Path) -> tuple[Store, Store]:
    """Truth and analysis."""
    return Store.open(make(folder)), Store.open(make(folder, error=0.1))


def raw(root: Path, archive: Path | None = None, **training: Any) -> dict[str, Any]:
    """A config as plain data, for the stores in `archive` (default `root`); `training` replaces keys of its section."""
    archive = archive or root
    return {
        "name": "tiny",
        "root": str(root),
        "source": {"kind": "planet"},
        "store": {"path": str(archive / "truth.zarr"), "analysis": str(archive / "analysis.zarr")},
        "data": {
            "train": ["2001-01-01", "2001-01-31T18"],
            "validation": ["2001-02-01", "2001-02-09T18"],
            "prognostic": ["z_500", "t_850"],
            "diagnostic": ["tp"],
            "static": ["lsm"],
            "normalisation": {"tp": "std", "lsm": "none"},
        },
        "model": {"mesh_refinement": 1, "width": 16, "heads": 2, "layers": 1},
        "training": {
            "members": 2,
            "batch_size": 2,
            "validate_every": 8,
            "validation_starts": 2,
            "validation_steps": 2,
            "checkpoint_every": 5,
            "device": "cpu",
            "stages": [{"updates": 14, "lr": 3e-3, "warmup": 3}, {"updates": 10, "rollout": [1, 3], "lr": 1e-3}],
            **training,
        },
        "forecast": {"starts": {"at": ["2001-02-01"]}},
    }


def config(root: Path, archive: Path | None = None, **training: Any) -> configs.Config:
    """`raw` as a config."""
    return configs.parse(raw(root, archive, **training))
