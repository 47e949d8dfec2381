"""Forcings: fields that are known for any date (sun, season, place) and the fields that never change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np

from forecast.core.errors import ForecastError
from forecast.core.sections import Forcing
from forecast.core.store import Store

_DAYS_PER_YEAR = 365.25


class Forcings:
    """Computed forcings in the order of `names`, then static fields, for any dates.

    Julian day is the time since 1 January in units of 365.25 days, local time the UTC hour plus longitude, insolation
    the cosine of the solar zenith angle (declination and equation of time as earthkit computes them), 0 at night.
    All computed forcings are dimensionless; static fields keep their units.

    Args:
        names: computed forcings, of `config.Forcing`.
        latitudes, longitudes: (G,) degrees.
        static: (G, S) fields appended to every date.

    Raises:
        ForecastError: an unknown name.
    """

    def __init__(
        self, names: Sequence[str], latitudes: np.ndarray, longitudes: np.ndarray, static: np.ndarray | None = None
    ) -> None:
        unknown = [name for name in names if name not in get_args(Forcing)]
        if unknown:
            raise ForecastError(f"unknown forcing `{unknown[0]}`: known ones are {', '.join(get_args(Forcing))}")
        self.names = tuple(names)
        latitude, longitude = np.deg2rad(latitudes), np.deg2rad(longitudes)
        self._cos_latitude, self._sin_latitude = np.cos(latitude), np.sin(latitude)
        self._cos_longitude, self._sin_longitude = np.cos(longitude), np.sin(longitude)
        self._static = np.zeros((len(latitude), 0)) if static is None else static

    @property
    def size(self) -> int:
        """F: number of computed forcings and static fields."""
        return len(self.names) + self._static.shape[1]

    def __call__(self, dates: np.ndarray) -> np.ndarray:
        """Forcings at `dates` (T,) datetime64: (T, G, F) float32."""
        dates = np.asarray(dates, dtype="datetime64[s]")
        out = np.empty((len(dates), len(self._cos_latitude), self.size), np.float32)
        year, hour = _year_angle(dates)[:, None], _hour_angle(dates)[:, None]
        for i, name in enumerate(self.names):
            out[..., i] = self._compute(name, year, hour)
        out[..., len(self.names) :] = self._static
        return out

    def _compute(self, name: str, year: np.ndarray, hour: np.ndarray) -> np.ndarray:
        """One forcing from the angles of year and UTC hour (T, 1): broadcastable to (T, G)."""
        match name:
            case "cos_latitude":
                return self._cos_latitude
            case "sin_latitude":
                return self._sin_latitude
            case "cos_longitude":
                return self._cos_longitude
            case "sin_longitude":
                return self._sin_longitude
            case "cos_julian_day":
                return np.cos(year)
            case "sin_julian_day":
                return np.sin(year)
            case "cos_local_time":
                return self._cos_local(hour)
            case "sin_local_time":
                return np.sin(hour) * self._cos_longitude + np.cos(hour) * self._sin_longitude
            case _:
                return self._insolation(year, hour)

    def _cos_local(self, angle: np.ndarray) -> np.ndarray:
        """cos(angle + longitude) without a cosine per point and date."""
        return np.cos(angle) * self._cos_longitude - np.sin(angle) * self._sin_longitude

    def _insolation(self, year: np.ndarray, hour: np.ndarray) -> np.ndarray:
        declination, correction = _sun(year)
        cos_hour_angle = self._cos_local(hour - np.pi + correction)
        zenith = np.sin(declination) * self._sin_latitude + np.cos(declination) * self._cos_latitude * cos_hour_angle
        return np.maximum(zenith, 0.0)


def static_fields(store: Store, names: Sequence[str]) -> np.ndarray:
    """The fields `names` of a store, which must not change in time: (G, S) float32.

    Raises:
        ForecastError: a name that the store lacks, or a field that varies in time.
    """
    if not names:
        return np.zeros((store.grid.size, 0), np.float32)
    there = np.flatnonzero(~store.missing)
    first, last = store.read(there[[0, -1]], names)
    for name, a, b in zip(names, first, last, strict=True):
        if not np.array_equal(a, b):
            raise ForecastError(f"{store.path}: static field `{name}` changes in time; list it under data.prognostic")
    return np.ascontiguousarray(first.T)


def _year_angle(dates: np.ndarray) -> np.ndarray:
    """Angle of the season: 2 pi x days since 1 January / 365.25."""
    days = (dates - dates.astype("datetime64[Y]").astype(dates.dtype)) / np.timedelta64(1, "D")
    return 2 * np.pi * days / _DAYS_PER_YEAR


def _hour_angle(dates: np.ndarray) -> np.ndarray:
    """Angle of the UTC hour: 2 pi x hour / 24."""
    return 2 * np.pi * ((dates - dates.astype("datetime64[D]").astype(dates.dtype)) / np.timedelta64(1, "D"))


def _sun(year: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Declination of the sun and equation of time, both in radians (series of earthkit-meteo, Iqbal 1983)."""
    declination = (
        0.396372 - 22.91327 * np.cos(year) + 4.025430 * np.sin(year) - 0.387205 * np.cos(2 * year)
        + 0.051967 * np.sin(2 * year) - 0.154527 * np.cos(3 * year) + 0.084798 * np.sin(3 * year)
    )  # fmt: skip
    correction = (
        0.004297 + 0.107029 * np.cos(year) - 1.837877 * np.sin(year) - 0.837378 * np.cos(2 * year)
        - 2.340475 * np.sin(2 * year)
    )  # fmt: skip
    return np.deg2rad(declination), np.deg2rad(correction)
