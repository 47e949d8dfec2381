"""Made-up scores on many grids, and one page of them that all tests share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from forecast.core import grids, seeding
from forecast.verification import score, skill_checks, write_checks
from tests.verification.synthetic import HOUR, write_forecast, write_truth

DAY = 24 * HOUR
DATES = np.arange(np.datetime64("2001-01-01", "s"), np.datetime64("2002-12-31", "s"), DAY)
PERIOD = (DATES[0], np.datetime64("2001-12-31", "s"))
GLOBE, EUROPE = grids.gaussian(12), grids.latlon(np.linspace(55, 30, 6), np.linspace(345, 375, 7))
LEVELS = {"z_500": (5.4e4, 800.0), "msl": (1.01e5, 900.0), "tp": (0.0, 2e-3), "2t": (285.0, 8.0)}


def state(name: str, when: np.datetime64, grid: grids.Grid) -> np.ndarray:
    mean, deviation = LEVELS[name]
    field = mean + deviation * seeding.normal(seeding.key(1, name, when), grid.size)
    return np.maximum(field, 0) if name == "tp" else field


def scored(
    folder: Path, grid: grids.Grid, names: tuple[str, ...], starts: int, members: dict[str, int], land: bool = False,
    climatology: bool = True, scores: Sequence[str] | None = None,
) -> Path:  # fmt: skip
    """A folder of scores of made-up forecasts, one store a label."""
    fields = {n: np.stack([state(n, when, grid) for when in DATES]) for n in names}
    if land:
        fields |= {"lsm": np.tile(np.sin(np.radians(grid.longitudes)) > 0, (DATES.size, 1)).astype(float)}
        fields |= {"z": np.tile(np.maximum(0, 1e4 * np.cos(np.radians(grid.latitudes))), (DATES.size, 1))}
    truth = write_truth(folder / "truth.zarr", grid, DATES, fields)
    when = np.array(["2002-03-01", "2002-06-01", "2002-11-01"], "datetime64[s]")[:starts]

    def made(label: str, count: int) -> Callable[[str, np.datetime64, np.timedelta64], np.ndarray]:
        def field(name: str, start: np.datetime64, lead: np.timedelta64) -> np.ndarray:
            key = seeding.key(2, label, name, start, int(lead / HOUR))
            noise = seeding.normal(key, (count + 1) * grid.size).reshape(-1, grid.size)
            made = state(name, start + lead, grid) + LEVELS[name][1] * 0.1 * float(lead / DAY) * (noise[0] + noise[1:])
            return np.maximum(made, 0) if name == "tp" else made

        return field

    leads = np.arange(0, 11) * DAY
    stores = {
        label: write_forecast(folder / f"{label}.zarr", grid, when, leads, count, names, made(label, count))
        for label, count in members.items()
    }
    period = PERIOD if climatology else (DATES[0], DATES[40])
    title = "A <test> & more"
    found = score(stores, truth, folder / "scores", climatology=period, title=title, draws=50, scores=scores)
    write_checks(found, skill_checks(found, next(iter(members)), rival="imperfect"))
    return folder / "scores"
