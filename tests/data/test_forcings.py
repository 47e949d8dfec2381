"""Forcings against plain formulae, the almanac, and continuity."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from forecast.core.errors import ForecastError
from forecast.core.sections import Forcing
from forecast.data.forcings import Forcings, static_fields
from tests import tiny

LATITUDES = np.array([51.4779, 0.0, -33.87, 89.9, -89.9])
LONGITUDES = np.array([0.0, 90.0, 151.2, 200.0, 10.0])
ALL = get_args(Forcing)


def at(
    *names: str, dates: list[str], latitudes: np.ndarray = LATITUDES, longitudes: np.ndarray = LONGITUDES
) -> np.ndarray:
    return Forcings(names, latitudes, longitudes)(np.array(dates, "datetime64[s]"))


def plain(name: str, date: datetime.datetime, latitude: float, longitude: float) -> float:
    """Each forcing as its definition reads, point by point."""
    days = (date - datetime.datetime(date.year, 1, 1)).total_seconds() / 86400
    angles = {
        "latitude": np.radians(latitude),
        "longitude": np.radians(longitude),
        "julian_day": 2 * np.pi * days / 365.25,
        "local_time": 2 * np.pi * (date.hour + date.minute / 60 + longitude / 15) / 24,
    }
    function, angle = name.split("_", 1)
    return {"cos": np.cos, "sin": np.sin}[function](angles[angle])


@pytest.mark.parametrize("name", [name for name in ALL if name != "insolation"])
def test_equal_to_the_definition_point_by_point(name: str) -> None:
    dates = ["2001-01-01T00", "2004-02-29T18", "2004-12-31T06", "1999-07-04T12:30"]
    got = at(name, dates=dates)[..., 0]
    expected = [[plain(name, datetime.datetime.fromisoformat(d), *p) for p in zip(LATITUDES, LONGITUDES, strict=True)]
                for d in dates]  # fmt: skip
    np.testing.assert_allclose(got, expected, atol=2e-7)  # float32


@pytest.mark.parametrize(
    ("date", "latitude", "longitude", "altitude"),
    [
        # The sun stands 90 - |latitude - declination| high at noon; declination and equation of time by the almanac.
        ("2001-06-21T12:02", 51.4779, 0.0, 90 - 51.4779 + 23.44),  # solstice, Greenwich; true noon at 12:02
        ("2001-12-21T11:58", 51.4779, 0.0, 90 - 51.4779 - 23.44),
        ("2001-03-20T12:07", 0.0, 0.0, 90.0),  # equinox on the equator; true noon 12:07
        ("2001-11-03T11:44", 0.0, 0.0, 90 - 15.0),  # the sun's earliest noon, 16 min before the clock's
    ],
)
def test_the_sun_at_noon_stands_as_high_as_the_almanac_says(
    date: str, latitude: float, longitude: float, altitude: float
) -> None:
    got = at("insolation", dates=[date], latitudes=np.array([latitude]), longitudes=np.array([longitude]))
    assert np.degrees(np.arcsin(got.item())) == pytest.approx(altitude, abs=0.6)  # error of the series


def test_noon_comes_when_the_almanac_says() -> None:
    """The equation of time: -14 min in mid February, +16 min in early November, to two minutes."""
    minutes = np.arange(11 * 60, 13 * 60)
    for day, noon in (("2001-02-11", 12 * 60 + 14), ("2001-11-03", 12 * 60 - 16), ("2001-04-15", 12 * 60)):
        dates = np.datetime64(day, "s") + minutes * np.timedelta64(60, "s")
        sun = Forcings(["insolation"], np.array([0.0]), np.array([0.0]))(dates)[:, 0, 0].astype(float)
        assert abs(minutes[np.argmax(sun)] - noon) <= 3


def test_insolation_is_dark_at_night_and_a_quarter_of_the_globe_on_average() -> None:
    places = {"latitudes": np.array([51.0, 80.0, -80.0]), "longitudes": np.zeros(3)}
    sun = at("insolation", dates=["2001-06-21T00"], **places)[0, :, 0]
    assert sun[0] == 0 and sun[1] > 0 and sun[2] == 0  # midnight, midnight sun, polar night
    everywhere = Forcings(["insolation"], tiny.GRID.latitudes, tiny.GRID.longitudes)(tiny.DATES)[..., 0]
    mean = (everywhere * tiny.GRID.areas).sum(axis=1) / tiny.GRID.areas.sum()
    np.testing.assert_allclose(mean, 0.25, atol=0.01)  # a disc lit out of a sphere; 128 points resolve it to 1 %


def test_the_season_is_continuous_over_the_year_end() -> None:
    """The step over 31 December is at most as large as the leap day makes it (1.25 days instead of 1)."""
    for year in (2000, 2001, 2003):
        dates = np.datetime64(f"{year}-12-25", "s") + np.arange(14) * np.timedelta64(1, "D")
        angle = np.unwrap(
            np.arctan2(*Forcings(["sin_julian_day", "cos_julian_day"], LATITUDES, LONGITUDES)(dates)[:, 0].T)
        )
        steps = np.diff(angle) / (2 * np.pi / 365.25)
        assert steps.min() > 0.2 and steps.max() < 1.3


def test_static_fields_follow_the_computed_ones(tmp_path: Path) -> None:
    truth, _ = tiny.stores(tmp_path)
    static = static_fields(truth, ["lsm"])
    forcings = Forcings(["cos_latitude"], truth.grid.latitudes, truth.grid.longitudes, static)
    got = forcings(tiny.DATES[:3])
    assert got.shape == (3, truth.grid.size, forcings.size) == (3, 128, 2) and got.dtype == np.float32
    np.testing.assert_array_equal(got[..., 1], np.broadcast_to(truth.read(0, ["lsm"])[0, 0], (3, 128)))


def test_bad_names_are_refused(tmp_path: Path) -> None:
    truth, _ = tiny.stores(tmp_path)
    with pytest.raises(ForecastError, match="unknown forcing `cos_lat`"):
        Forcings(["cos_lat"], LATITUDES, LONGITUDES)
    with pytest.raises(ForecastError, match="static field `t_850` changes in time"):
        static_fields(truth, ["lsm", "t_850"])
    with pytest.raises(ForecastError, match="no variable `sdor`"):
        static_fields(truth, ["sdor"])
