"""The ground of the sample planet: continents and mountain ranges as sums of smooth analytic shapes.

The north has two broad continents, one with a high plateau, the other with a long western range; the south has
less land, a narrow range along a west coast, and an ice cap over the pole.
"""

from __future__ import annotations

import numpy as np

# latitude, longitude of the centre; half height, half width in degrees
_CONTINENTS = (
    (52.0, 75.0, 22.0, 68.0),
    (28.0, 95.0, 16.0, 22.0),
    (48.0, 262.0, 23.0, 32.0),
    (8.0, 20.0, 26.0, 21.0),
    (-22.0, 24.0, 14.0, 13.0),
    (-14.0, 300.0, 25.0, 17.0),
    (-26.0, 135.0, 11.0, 18.0),
    (74.0, 318.0, 9.0, 17.0),
)
# latitude, longitude of the centre; half length, half width in degrees of arc; bearing of the axis; height in m
_RANGES = (
    (36.0, 88.0, 18.0, 8.5, 85.0, 3600.0),
    (47.0, 247.0, 20.0, 8.0, 165.0, 2100.0),
    (73.0, 318.0, 9.0, 8.0, 0.0, 1600.0),
    (4.0, 32.0, 13.0, 8.0, 0.0, 900.0),
    (-20.0, 291.0, 20.0, 6.5, 0.0, 2600.0),
    (-26.0, 27.0, 8.0, 8.0, 40.0, 900.0),
    (60.0, 120.0, 11.0, 9.0, 60.0, 900.0),
)
_COAST = 0.12
_ICE_EDGE, _ICE_SLOPE, _ICE_HEIGHT = -70.0, 3.5, 2400.0


def land_sea_mask(latitudes: np.ndarray, longitudes: np.ndarray) -> np.ndarray:
    """Land fraction, 0 (sea) to 1 (land), at positions in degrees."""
    sea = 1.0 - _ice_cap(latitudes)
    for lat, lon, height, width in _CONTINENTS:
        east = (longitudes - lon + 180.0) % 360.0 - 180.0
        radius = np.hypot((latitudes - lat) / height, east / width)
        sea = sea * (1.0 - 1.0 / (1.0 + np.exp((radius - 1.0) / _COAST)))
    return 1.0 - sea


def orography(latitudes: np.ndarray, longitudes: np.ndarray) -> np.ndarray:
    """Height of the ground in m at positions in degrees; exactly 0 nowhere, below 1 m far from the ranges."""
    height = _ICE_HEIGHT * _ice_cap(latitudes + 4.0)
    for lat, lon, length, width, bearing, top in _RANGES:
        north = latitudes - lat
        east = ((longitudes - lon + 180.0) % 360.0 - 180.0) * np.cos(np.radians(lat))
        along = north * np.cos(np.radians(bearing)) + east * np.sin(np.radians(bearing))
        across = -north * np.sin(np.radians(bearing)) + east * np.cos(np.radians(bearing))
        height = height + top * np.exp(-((along / length) ** 2) - (across / width) ** 2)
    return height


def _ice_cap(latitudes: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp((latitudes - _ICE_EDGE) / _ICE_SLOPE))
