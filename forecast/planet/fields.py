"""From the model's state to the variables of a weather archive, and back.

| variable | unit | derived from |
|---|---|---|
| z_200 z_500 z_800 | m2 s-2 | linear balance laplacian(z) = div(f grad psi), plus a standard global mean |
| u, v on the levels | m s-1 | rotational wind of psi |
| t_350 t_650 | K | hypsometric: thickness of 200-500 and 500-800 hPa |
| q_800 | kg kg-1 | prognostic moisture times its reference profile, not below 0 |
| tp | m | rain of the 6 hours that end at the date (moisture.py) |
| msl | Pa | z_800 and the temperature of the air beneath, at a lapse rate of 6.5 K/km, by the hypsometric equation |
| 2t | K | t_650 taken down to the ground at 6.5 K/km; over sea half way from there to the prescribed sea
temperature, over land plus a prescribed seasonal difference (up to 10 K colder in winter, warmer in summer) |
| 10u 10v | m s-1 | 800 hPa wind times 0.75, turned 15 degrees to the low (over land 0.5 and 30 degrees) |
| z | m2 s-2 | geopotential of the ground (surface.py) |
| lsm | 1 | land fraction (surface.py) |
"""

from __future__ import annotations

import math

import numpy as np

from forecast.core.sphere import Harmonics
from forecast.planet import forcing, surface
from forecast.planet.moisture import reference
from forecast.planet.settings import GAS_CONSTANT, GRAVITY, LAPSE_RATE, LEVELS, MEAN_GEOPOTENTIAL, RADIUS, ROTATION

VARIABLES: tuple[str, ...] = (
    *(f"{name}_{level}" for name in "zuv" for level in LEVELS),
    "t_350", "t_650", "q_800", "tp", "msl", "2t", "10u", "10v", "z", "lsm",
)  # fmt: skip
"""The archive's variables in the order of the store."""
STATIC = ("z", "lsm")

_SEA_WIND, _LAND_WIND = (0.75, 15.0), (0.5, 30.0)


class Fields:
    """Derives all variables from states; takes the transforms of one grid and precision."""

    def __init__(self, sphere: Harmonics) -> None:
        self.sphere = sphere
        lat, lon = sphere.grid.latitudes, sphere.grid.longitudes
        rows = sphere.grid.rows

        def cast(a: np.ndarray) -> np.ndarray:
            return np.ascontiguousarray(a, sphere.dtype)

        height, land = (sphere.from_rows(f(lat, lon))[..., None] for f in (surface.orography, surface.land_sea_mask))
        self._static = GRAVITY * height, land
        self._wind_scale = cast(RADIUS / np.cos(np.radians(rows)))[:, None]
        self._q_ref = cast(reference(rows)[0])[:, None]
        self._sea = tuple(cast(a[:, None]) for a in forcing.sea_temperature(rows))
        self._land = cast(forcing.land_temperature(rows)[:, None])
        factor = land * _LAND_WIND[0] + (1 - land) * _SEA_WIND[0]
        turn = np.radians(land * _LAND_WIND[1] + (1 - land) * _SEA_WIND[1]) * np.tanh(rows / 10.0)[:, None]
        self._along, self._across = cast(factor * np.cos(turn)), cast(factor * np.sin(turn))

    def derive(self, psi: np.ndarray, s: np.ndarray, rain: np.ndarray, season: np.ndarray) -> np.ndarray:
        """All variables in the order of VARIABLES.

        Args:
            psi: (M, 2, N, B, 3 or 4) streamfunction on the unit sphere in 1/s. s: (M, 2, N, B) moisture.
            rain: (longitude, latitude, B) in m of the last 6 hours.
            season: (B,), see forcing.season.

        Returns:
            (B, V, G) float32.
        """
        psi, s = np.ascontiguousarray(psi[..., :3]), np.ascontiguousarray(s)
        mean: np.ndarray = np.array(MEAN_GEOPOTENTIAL, self.sphere.dtype)
        z = self.sphere.balanced(psi) * (2 * ROTATION * RADIUS**2) + mean
        u, v = (w * self._wind_scale[..., None] for w in self.sphere.wind(psi))
        q = np.maximum(self.sphere.to_grid(s), 0) * self._q_ref
        t = [(z[..., k] - z[..., k + 1]) / (GAS_CONSTANT * math.log(LEVELS[k + 1] / LEVELS[k])) for k in (0, 1)]
        levels = [w[..., k] for w in (z, u, v) for k in range(3)]
        surface_wind = (self._along * u[..., 2] - self._across * v[..., 2],
                        self._across * u[..., 2] + self._along * v[..., 2])  # fmt: skip
        near = self._near_surface(z, t[1], np.asarray(season, self.sphere.dtype))
        fields = [*levels, *t, q, rain, *near, *surface_wind, *self._static]
        nlat, nlon = self.sphere.grid.shape
        out = np.empty((s.shape[-1], len(fields), nlat, nlon), np.float32)
        for k, field in enumerate(fields):
            out[:, k] = np.moveaxis(field, (2, 1, 0), (0, 1, 2))
        return out.reshape(*out.shape[:2], -1)

    def _near_surface(self, z: np.ndarray, t: np.ndarray, season: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """msl in Pa and 2t in K from z (..., 3), the temperature of 500-800 hPa and the season."""
        lapse = LAPSE_RATE / GRAVITY
        t_800 = t + lapse / 2 * (z[..., 1] - z[..., 2])
        msl = 100.0 * LEVELS[2] * np.exp(z[..., 2] / (GAS_CONSTANT * (t_800 + lapse / 2 * z[..., 2])))
        ground, land = self._static
        air = t_800 + lapse * (z[..., 2] - ground)
        sea = self._sea[0] + self._sea[1] * season
        return msl, air + (1 - land) / 2 * (sea - air) + land * self._land * season

    def recover(self, fields: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Streamfunction (M, 2, N, B, 4) (lowest level twice) and moisture (M, 2, N, B) of stored fields (B, V, G).

        Exact to the fields' rounding: the vorticity of the stored winds lies within the truncation.
        """
        at = VARIABLES.index
        levels = [LEVELS[0], LEVELS[1], LEVELS[2], LEVELS[2]]
        u, v = (np.stack([self.sphere.from_rows(fields[:, at(f"{w}_{level}")]) for level in levels], -1) for w in "uv")
        cosine = np.cos(np.radians(self.sphere.grid.rows)).astype(self.sphere.dtype)[:, None, None]
        scale = cosine / RADIUS
        psi = self.sphere.inverse_laplacian(self.sphere.divergence(v * scale, -u * scale))
        s = self.sphere.from_rows(fields[:, at("q_800")]) / self._q_ref
        return psi, self.sphere.to_spectral(s)
