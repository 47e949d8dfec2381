"""What the season drives: the thickness that the layers relax to, the sea's temperature, the mean overturning.

Everything is linear in one number, `season`: +1 at mid-winter of the north (20 January), -1 half a year later.
"""

from __future__ import annotations

import numpy as np

from forecast.core.sphere import Harmonics
from forecast.planet.settings import GAS_CONSTANT, RADIUS, ROTATION
from forecast.planet.surface import land_sea_mask

_COLDEST = 20.0 / 365.25
# equilibrium wind shear of a hemisphere's jet: m/s in the layers 200-500 and 500-800 hPa, latitude, half width
_WINTER_NORTH = ((24.0, 27.0), 33.0, 18.0)
_SUMMER_NORTH = ((15.0, 19.0), 42.0, 18.0)
_WINTER_SOUTH = ((22.0, 24.0), 33.0, 18.0)
_SUMMER_SOUTH = ((19.0, 21.0), 40.0, 18.0)
_LAND_COOLING = ((12.0, 22.0), (4.0, 4.0))
"""K, two layers: how much colder than the sea land is in equilibrium at mid-winter, and in the mean of the year"""
_LAYER_LOGS = (np.log(500 / 200), np.log(800 / 500))


def season(dates: np.ndarray | np.datetime64) -> np.ndarray:
    """cos of the time since 20 January in the cycle of the year, for datetime64 dates of any unit and shape."""
    dates = np.asarray(dates, "datetime64[s]")
    year = dates.astype("datetime64[Y]")
    length = (year + 1).astype("datetime64[s]") - year.astype("datetime64[s]")
    return np.cos(2 * np.pi * ((dates - year) / length - _COLDEST))


def equilibrium(sphere: Harmonics) -> tuple[np.ndarray, np.ndarray]:
    """Streamfunction difference across the two layers in equilibrium, as mean and amplitude of the season.

    Returns:
        two (M, 2, N, 1, 2) arrays e0, e1 in 1/s on the unit sphere: e = e0 + season * e1.
    """
    lat = np.radians(sphere.grid.rows)
    january = np.stack([_shear(lat, _WINTER_NORTH, layer) + _shear(-lat, _SUMMER_SOUTH, layer) for layer in (0, 1)], -1)
    july = np.stack([_shear(lat, _SUMMER_NORTH, layer) + _shear(-lat, _WINTER_SOUTH, layer) for layer in (0, 1)], -1)
    winter, summer = (_streamfunction(sphere, u) + _land_contrast(sphere, sign)
                      for u, sign in ((january, 1.0), (july, -1.0)))  # fmt: skip
    both = (winter + summer) / 2, (winter - summer) / 2
    return both[0][..., None, :], both[1][..., None, :]


def _shear(lat: np.ndarray, jet: tuple[tuple[float, float], float, float], layer: int) -> np.ndarray:
    strength, centre, width = jet
    profile = np.exp(-(((np.degrees(lat) - centre) / width) ** 2))
    return strength[layer] * profile


def _streamfunction(sphere: Harmonics, u: np.ndarray) -> np.ndarray:
    """From a zonally symmetric wind (latitudes, layers) in m/s."""
    row = (u * np.cos(np.radians(sphere.grid.rows))[:, None] / RADIUS).astype(sphere.dtype)
    eastward = np.repeat(row[None], sphere.grid.shape[1], axis=0)
    return sphere.inverse_laplacian(sphere.divergence(np.zeros_like(eastward), -eastward))


def _land_contrast(sphere: Harmonics, sign: float) -> np.ndarray:
    """Land colder than the sea in winter and warmer in summer, turned into streamfunction through f.

    The contrast grows with the sine of latitude, so that dividing by f leaves a smooth field.
    """
    land = sphere.from_rows(land_sea_mask(sphere.grid.latitudes, sphere.grid.longitudes))
    smooth = sphere.to_spectral(land - land.mean(0))
    smooth = smooth * np.exp(sphere.laplacian / 72.0).astype(sphere.dtype)
    sine = np.sin(np.radians(sphere.grid.rows))
    layers = []
    for layer in (0, 1):
        (seasonal, mean), log = (_LAND_COOLING[0][layer], _LAND_COOLING[1][layer]), _LAYER_LOGS[layer]
        kelvin_over_sine = -(seasonal * sign + mean * sine)
        psi = sphere.to_grid(smooth) * kelvin_over_sine * GAS_CONSTANT * log / (2 * ROTATION * RADIUS**2)
        layers.append(sphere.to_spectral(psi.astype(sphere.dtype)))
    return np.stack(layers, -1)


def sea_temperature(latitudes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Prescribed sea surface temperature in K as mean and amplitude of the season, for degrees of latitude."""
    lat = np.radians(latitudes)
    mean = 273.0 + 27.5 * np.cos(lat) ** 2.5
    return mean, -4.0 * np.sin(lat) * np.cos(lat) ** 0.5 * 1.3


def land_temperature(latitudes: np.ndarray) -> np.ndarray:
    """By how many K the ground of land is warmer than the air above implies, per unit of season: colder in winter."""
    return -10.0 * np.sin(np.radians(latitudes))


def overturning(latitudes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean meridional overturning, which quasi-geostrophy lacks: ascent in 1/s as mean and amplitude of the season.

    Air rises near the equator on the summer side and sinks about 25 degrees away from there; the number is the
    growth rate of moisture that it brings at 800 hPa.
    """
    january, july = (_cell(latitudes, itcz) for itcz in (-7.0, 9.0))
    return (january + july) / 2, (january - july) / 2


def _cell(latitudes: np.ndarray, itcz: float) -> np.ndarray:
    away = latitudes - itcz
    ascent = 0.22 * np.exp(-((away / 9.0) ** 2))
    return (ascent - 0.25 * np.exp(-(((np.abs(away) - 24.0) / 9.0) ** 2))) / 86400.0
