"""Make the packaged table of the planet's transients: `python -m forecast.planet.climate 21` (analysis.py reads it)."""

from __future__ import annotations

import json
import sys

import numpy as np

from forecast.core.config import PlanetSource
from forecast.core.sphere import Harmonics
from forecast.planet import forcing
from forecast.planet.years import simulate
from forecast.planet.analysis import table_path
from forecast.planet.model import Model

YEARS = 8
SEED = 20
EVERY = 8
"""6-hourly states between two that are used"""


def transients(truncation: int, years: int = YEARS, seed: int = SEED) -> tuple[np.ndarray, np.ndarray]:
    """Streamfunction and moisture less their mean seasonal cycle, (M, 2, N, B, 4), and the seasons (B,)."""
    model = Model(truncation)
    source = PlanetSource(kind="planet", years=years, truncation=truncation, seed=seed)
    states, when = [], []
    for dates, year, _ in simulate(model, source):
        states.append(np.moveaxis(year[::EVERY], 0, 3))
        when.append(dates[::EVERY])
    state, dates = np.concatenate(states, 3), np.concatenate(when)
    fields = model.invert(state)
    fields[..., 3] = state[..., 3]
    angle = 2 * np.pi * ((dates - dates.astype("datetime64[Y]")) / np.timedelta64(365, "D"))
    waves = np.stack([np.ones_like(angle), *(f(k * angle) for k in (1, 2, 3) for f in (np.cos, np.sin))], -1)
    flat = np.moveaxis(fields, 3, 0).reshape(dates.size, -1).astype(float)
    flat -= waves @ np.linalg.lstsq(waves, flat, rcond=None)[0]
    return np.moveaxis(flat.reshape(dates.size, *fields.shape[:3], 4), 0, 3), forcing.season(dates)


def describe(sphere: Harmonics, anomalies: np.ndarray, season: np.ndarray) -> dict[str, list]:
    """The table: covariance between levels and variance of moisture per n, standard deviation per latitude.

    The profiles (latitude, 4) are relative: the area mean of their square over the year is 1.
    """
    covariance = np.zeros((sphere.truncation + 1, 3, 3))
    for k in range(3):
        for j in range(3):
            covariance[:, k, j] = sphere.cross_power(anomalies[..., k], anomalies[..., j]).mean(-1)
    moisture = sphere.power(anomalies[..., 3]).mean(-1)
    square = (sphere.to_grid(anomalies) ** 2).mean(0)  # (latitude, B, 4)
    winter, summer = (np.sqrt(square[:, side].mean(1)) for side in (season > 0.5, season < -0.5))
    reach = np.abs(season[np.abs(season) > 0.5]).mean()
    mean, amplitude = (winter + summer) / 2, (winter - summer) / (2 * reach)
    weights = sphere.grid.areas.reshape(sphere.grid.shape)[:, 0]
    norm = np.sqrt(np.average(mean**2 + amplitude**2 / 2, axis=0, weights=weights))
    return {
        "streamfunction": _rounded(covariance),
        "moisture": _rounded(moisture),
        "profile": _rounded(mean / norm),
        "profile_season": _rounded(amplitude / norm),
    }


def _rounded(values: np.ndarray) -> list:
    return np.vectorize(lambda x: float(f"{x:.4g}"))(values).tolist()


def main(truncation: int = 21) -> None:
    """Write the table of a truncation."""
    anomalies, season = transients(truncation)
    sphere = Model(truncation, dtype=np.float64).sphere
    table = {"made by": f"python -m forecast.planet.climate {truncation}", "years": YEARS, "seed": SEED}
    table |= describe(sphere, anomalies, season)
    table_path(truncation).write_text(json.dumps(table).replace("]], ", "]],\n").replace('], "', '],\n"') + "\n")


if __name__ == "__main__":
    main(*(int(a) for a in sys.argv[1:]))
