"""Make the packaged table of the planet's climate: `python -m forecast.planet.tabulate 21` (climate.py reads it).

The years that it is made from start from the table that is there; a second pass changes it by sampling noise only.
"""

from __future__ import annotations

import json
import sys

import numpy as np

from forecast.core.archive_sections import PlanetSource
from forecast.core.sphere import Harmonics
from forecast.planet.climate import annual, table_path
from forecast.planet.forcing import season
from forecast.planet.model import Model
from forecast.planet.years import simulate

YEARS = 8
SEED = 20
EVERY = 8
"""6-hourly states from one that is used to the next"""


def sample(truncation: int, years: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Streamfunction (1/s) and moisture (M, 2, N, B, 4) of an archive, and their dates (B,)."""
    model = Model(truncation)
    source = PlanetSource(kind="planet", years=years, truncation=truncation, seed=seed)
    slabs = [(when[::EVERY], np.moveaxis(states[::EVERY], 0, 3)) for when, states, _ in simulate(model, source)]
    when, state = np.concatenate([s[0] for s in slabs]), np.concatenate([s[1] for s in slabs], 3)
    fields = model.invert(state)
    fields[..., 3] = state[..., 3]
    return fields, when


def describe(sphere: Harmonics, fields: np.ndarray, when: np.ndarray) -> dict[str, list]:
    """The table of fields (M, 2, N, B, 4) at B dates.

    Returns:
        mean (3, N, 4): zonal mean, constant, cosine and sine of the year; streamfunction (N, 3, 3) and moisture (N):
        (co)variance of the transients per total wavenumber; profile and profile_season (latitude, 4): their
        standard deviation, mean and amplitude of the season, relative to the globe's and the year's.
    """
    angle = annual(when)
    half_year = np.stack([angle[:, 1] ** 2, angle[:, 1] * angle[:, 2]], 1)
    waves = np.concatenate([angle, half_year], 1)
    flat = np.moveaxis(fields, 3, 0).reshape(when.size, -1).astype(float)
    flat = flat - waves @ np.linalg.lstsq(waves, flat, rcond=None)[0]
    anomalies = np.moveaxis(flat.reshape(when.size, *fields.shape[:3], 4), 0, 3)
    zonal = np.linalg.lstsq(angle, fields[0, 0].swapaxes(0, 1).reshape(when.size, -1).astype(float), rcond=None)[0]
    covariance = [
        [sphere.cross_power(anomalies[..., k], anomalies[..., j]).mean(-1) for j in range(3)] for k in range(3)
    ]
    mean, amplitude = _profiles(sphere, anomalies, season(when))
    return {
        "mean": _rounded(zonal.reshape(3, -1, 4)),
        "streamfunction": _rounded(np.moveaxis(np.array(covariance), 2, 0)),
        "moisture": _rounded(sphere.power(anomalies[..., 3]).mean(-1)),
        "profile": _rounded(mean),
        "profile_season": _rounded(amplitude),
    }


def _profiles(sphere: Harmonics, anomalies: np.ndarray, phase: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    square = (sphere.to_grid(anomalies) ** 2).mean(0)  # (latitude, B, 4)
    winter, summer = (np.sqrt(square[:, side].mean(1)) for side in (phase > 0.5, phase < -0.5))
    reach = np.abs(phase[np.abs(phase) > 0.5]).mean()
    mean, amplitude = (winter + summer) / 2, (winter - summer) / (2 * reach)
    weights = sphere.grid.areas.reshape(sphere.grid.shape)[:, 0]
    norm = np.sqrt(np.average(mean**2 + amplitude**2 / 2, axis=0, weights=weights))
    return mean / norm, amplitude / norm


def _rounded(values: np.ndarray) -> list:
    return np.vectorize(lambda x: float(f"{x:.4g}"))(values).tolist()


def main(truncation: int = 21) -> None:
    """Write the table of a truncation."""
    fields, when = sample(truncation, YEARS, SEED)
    table = {"made by": f"python -m forecast.planet.tabulate {truncation}", "years": YEARS, "seed": SEED}
    table |= describe(Model(truncation, dtype=np.float64).sphere, fields.astype(float), when)
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in table.items()]
    table_path(truncation).write_text("{\n" + ",\n".join(lines).replace("]], ", "]],\n ") + "\n}\n")


if __name__ == "__main__":
    main(*(int(a) for a in sys.argv[1:]))
