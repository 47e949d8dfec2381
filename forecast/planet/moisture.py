"""Sources and sinks of moisture: evaporation, vertical motion, condensation."""

from __future__ import annotations

import math

import numpy as np

from forecast.core.sphere import Harmonics
from forecast.planet import forcing
from forecast.planet.settings import DAY, GAS_CONSTANT, GRAVITY, MEAN_GEOPOTENTIAL, RADIUS, ROSSBY_RADII, ROTATION

COLUMN = 45_000.0 / GRAVITY
"""kg m-2 of air whose moisture follows that at 800 hPa"""
WARMER_BELOW = 10.0
"""K by which 800 hPa is warmer than the layer 500-800 hPa, and the sea warmer than 800 hPa"""
_SEA_DAYS, _LAND_DAYS = 5.0, 15.0
_SEA_HUMIDITY, _LAND_HUMIDITY = 0.85, 0.3
_CONDENSATION_DAYS = 0.25
_SATURATED = 0.92
"""relative humidity of a grid box above which it rains"""
_UPLIFT = 3.0 / 65_000.0
"""Pa-1: relative change of humidity with pressure"""
_SURFACE_UPLIFT = 0.5
_TROPICAL_F = 2 * ROTATION * math.sin(math.radians(18.0))
"""below this Coriolis parameter vertical motion fades out"""


def saturation(temperature: np.ndarray, pressure: float = 80_000.0) -> np.ndarray:
    """Saturation specific humidity in kg/kg at temperature in K (Bolton 1980) and pressure in Pa."""
    celsius = temperature - 273.15
    return 0.622 / pressure * 611.2 * np.exp(17.67 * celsius / (celsius + 243.5))


def reference(latitudes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The fixed profile q_ref in kg/kg and d ln(q_ref) / d mu, for degrees of latitude.

    Four fifths of saturation at 287 K on the equator and 255 K at the poles.
    """
    lat = np.radians(latitudes)
    temperature = 255.0 + 32.0 * np.cos(lat) ** 2
    slope = 17.67 * 243.5 / (temperature - 29.65) ** 2
    return 0.8 * saturation(temperature), slope * -64.0 * np.sin(lat)  # dT/dmu = -64 mu


class Moisture:
    """Everything but advection that changes s = q_800 / q_ref."""

    def __init__(self, sphere: Harmonics, height: np.ndarray, land: np.ndarray) -> None:
        """Height in m and land fraction of the ground, both (longitude, latitude)."""
        self.sphere = sphere
        rows = sphere.grid.rows
        q_ref, slope = reference(rows)

        def cast(a: np.ndarray) -> np.ndarray:
            return np.ascontiguousarray(a, sphere.dtype)

        self.q_ref = cast(q_ref[:, None])
        self._poleward = cast(-slope[:, None])
        self._cos2 = cast(np.cos(np.radians(rows))[:, None] ** 2)
        f = 2 * ROTATION * np.sin(np.radians(rows))
        layer = 30_000.0 * (RADIUS / ROSSBY_RADII[1]) ** 2
        self._omega = cast((layer * f / (f**2 + _TROPICAL_F**2))[:, None])
        gradient = sphere.wind(sphere.to_spectral(height.astype(sphere.dtype)))  # (-dh/dmu cos2, dh/dlambda)
        lift = _SURFACE_UPLIFT * _UPLIFT * 80_000.0 / (GAS_CONSTANT * 275.0) * GRAVITY
        self._slope_east = cast(lift * gradient[1][..., None]) / self._cos2
        self._slope_north = cast(-lift * gradient[0][..., None]) / self._cos2
        self._overturning = tuple(cast(a[:, None]) for a in forcing.overturning(rows))
        self._sea = tuple(cast(a[:, None]) for a in forcing.sea_temperature(rows))
        self._wetting = cast(((1 - land) / _SEA_DAYS + land / _LAND_DAYS) / DAY)[..., None]
        self._humidity = cast((1 - land) * _SEA_HUMIDITY + land * _LAND_HUMIDITY)[..., None]

    def temperature(self, psi: np.ndarray) -> np.ndarray:
        """Temperature at 800 hPa in K, (longitude, latitude, B), from the thickness of 500-800 hPa."""
        log = math.log(800 / 500)
        mean = (MEAN_GEOPOTENTIAL[1] - MEAN_GEOPOTENTIAL[2]) / (GAS_CONSTANT * log) + WARMER_BELOW
        scale = 2 * ROTATION * RADIUS**2 / (GAS_CONSTANT * log)
        thickness = self.sphere.balanced(psi[..., 1] - psi[..., 2])
        return mean + scale * thickness

    def source(
        self, fields: dict[str, np.ndarray], psi_change: np.ndarray, season: np.ndarray, step: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """What one step adds to s, and the rain.

        Args:
            fields: psi, u, v, s and relaxation of Model.tendency.
            psi_change: (M, 2, N, B, 4) d psi/dt.
            season: (B,). step: seconds.

        Returns:
            (M, 2, N, B) coefficients to add to s, and (longitude, latitude, B) rain in m.
        """
        u, v, s = fields["u"], fields["v"], fields["s"]
        rate = v[..., 2] * self._poleward
        rate += u[..., 2] * self._slope_east + v[..., 2] * self._slope_north
        rate += self._overturning[0] + self._overturning[1] * season
        rate -= _UPLIFT * self.omega(fields, psi_change)
        new = np.maximum(s, 0) * np.exp(np.clip(rate * step, -0.5, 0.5))
        sea = self._sea[0] + self._sea[1] * season
        moist = self._humidity * saturation(sea - WARMER_BELOW) / self.q_ref
        new += step * self._wetting * np.maximum(moist - new, 0)
        dew = _SATURATED * saturation(self.temperature(fields["psi"])) / self.q_ref
        condensed = np.maximum(new - dew, 0) * (1 - math.exp(-step / (_CONDENSATION_DAYS * DAY)))
        new -= condensed
        rain = condensed * self.q_ref * (COLUMN / 1000.0)
        return self.sphere.to_spectral(new - s), rain

    def omega(self, fields: dict[str, np.ndarray], psi_change: np.ndarray) -> np.ndarray:
        """Vertical motion at 650 hPa in Pa/s from the thickness equation of 500-800 hPa.

        omega = dp (a/R)^2 f/(f^2 + f0^2) (dT/dt + J(psi_3, T) - heating), T = psi_2 - psi_3; f0 tapers the tropics.
        """
        stretching = (RADIUS / ROSSBY_RADII[1]) ** 2
        change = psi_change[..., 1] - psi_change[..., 2] - fields["relaxation"][..., 2] / stretching
        u, v = fields["u"], fields["v"]
        advection = (u[..., 2] * v[..., 1] - v[..., 2] * u[..., 1]) / self._cos2
        return self._omega * (self.sphere.to_grid(change) + advection)
