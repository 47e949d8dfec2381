"""Tropical cyclones: an analytic vortex is found where it is, followed where it goes, and nothing else is."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from forecast.core import grids
from forecast.core.errors import ForecastError
from forecast.verification import cyclone_scores as scores
from forecast.verification.cyclones import HOUR, Centre, Criteria, Finder, distance, follow, stitch
from tests.verification.synthetic import write_forecast, write_truth

GRID = grids.latlon(np.linspace(40, -40, 81), np.arange(180.0))
NAMES = ("msl", "10u", "10v", "z_300", "z_500")
START = np.datetime64("2001-08-01T00", "s")


def vortex(latitude: float, longitude: float, grid=GRID, depth=3000.0, core=True, turn=1.0) -> dict[str, np.ndarray]:
    """Holland's (1980) vortex of 110 km: pressure, its wind with an inflow of none, and a warm core of 8 degrees."""
    lat, lon = np.radians(grid.latitudes), np.radians(grid.longitudes)
    la, lo = np.radians(latitude), np.radians(longitude)
    north = np.sin(lat) * np.cos(la) - np.cos(lat) * np.sin(la) * np.cos(lon - lo)
    east = np.cos(lat) * np.sin(lon - lo)
    angle = np.arccos(np.clip(np.sin(lat) * np.sin(la) + np.cos(lat) * np.cos(la) * np.cos(lon - lo), -1, 1))
    r = np.maximum(6371.0 * angle, 20.0)
    pressure = 101000.0 - depth * (1 - np.exp(-110.0 / r))
    speed = 35.0 * np.sqrt(110.0 / r * np.exp(1 - 110.0 / r)) * turn * np.sign(latitude)
    norm = np.maximum(np.hypot(east, north), 1e-9)
    warm = 400.0 * np.exp(-((np.degrees(angle) / 3) ** 2)) * core
    fields = {"msl": pressure, "10u": -speed * north / norm, "10v": speed * east / norm,
              "z_300": 90000.0 + warm, "z_500": np.full(grid.size, 55000.0)}  # fmt: skip
    return {name: values.astype(np.float32) for name, values in fields.items()}


@pytest.mark.parametrize("place", [(15.3, 60.4), (-18.7, 121.6), (22.0, 0.2)])
def test_a_vortex_is_found_between_the_points_on_either_side_of_the_equator(place) -> None:
    (centre,) = Finder(GRID).centres(vortex(*place))
    assert distance(centre, Centre(*place, 0, 0)) < 40, "half of the spacing is 55 km"
    assert centre.pressure < 99500 and 20 < centre.wind <= 36


@pytest.mark.parametrize(
    "fields",
    [vortex(15, 60, depth=150), vortex(15, 60, core=False), vortex(15, 60, turn=-1), vortex(15, 60, turn=0.1)],
    ids=["shallow", "cold core", "anticyclonic wind", "calm"],
)
def test_what_is_no_cyclone_is_not_found(fields) -> None:
    assert Finder(GRID).centres(fields) == []


def test_an_open_trough_is_no_closed_contour() -> None:
    lat = np.abs(GRID.latitudes - 10)
    assert Finder(GRID).centres({"msl": 100000 + 30 * lat + 0.01 * np.abs(GRID.longitudes - 90)}) == []


def test_other_grids_find_it_too_across_the_date_line_and_the_meridian() -> None:
    for grid in (grids.octahedral(80), grids.icosahedral(5)):
        for place in ((-15.0, 179.8), (20.0, 0.1)):
            (centre,) = Finder(grid).centres(vortex(*place, grid))
            assert distance(centre, Centre(*place, 0, 0)) < 110
    with pytest.raises(ForecastError, match="too far for cyclones"):
        Finder(grids.gaussian(32))


def test_two_vortices_are_two_tracks_and_a_short_one_is_none() -> None:
    times = START + np.arange(13) * 6 * HOUR
    away = [Centre(15 + k / 2, 60 - k, 1e5, 30.0) for k in range(13)]
    other = [Centre(-10, (358 + k) % 360, 1e5, 30.0) for k in range(13)]
    found = [[away[k], other[k]][:: 1 if k % 2 else -1] for k in range(13)]
    found[5] = [other[5]]  # a gap of one time
    found[3] = [*found[3], Centre(30, 200, 1e5, 30.0)]
    tracks = stitch(times, found)
    assert sorted(len(track) for track in tracks) == [12, 13]
    assert [track[times[12]].latitude for track in tracks if len(track) == 12] == [21.0]
    track = follow((START, away[0]), times[1:], found[1:])
    assert list(track.values()) == [c for k, c in enumerate(away) if k not in (0, 5)]
    lost = [[], *[[Centre(-40, 200, 1e5, 30.0)]] * 11]
    assert follow((START, away[0]), times[1:], lost) == {}


def test_a_strike_is_a_passage_within_120_km() -> None:
    """An eastward track along the equator strikes 2 x 120 km across, and half a circle at its ends."""
    grid = grids.latlon(np.arange(2.025, -2.05, -0.05), np.arange(2, 18.01, 0.05))
    track = {START + k * 24 * HOUR: Centre(0.0, 5 + 5.0 * k, 1e5, 30.0) for k in range(3)}
    area = grid.areas[scores.struck(track, grid.xyz)].sum() * 6371**2
    assert area == pytest.approx(2 * 120 * 10 * np.pi / 180 * 6371 + np.pi * 120**2, rel=0.01)


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> tuple[Path, Path]:
    """A vortex that moves west by 3 degrees a day; member k of 4 is 0.5 k degrees too far north after a day."""
    folder = tmp_path_factory.mktemp("cyclones")
    dates = START + np.arange(-4, 17) * 6 * HOUR

    def at(when, error=0.0):
        days = float((when - START) / (24 * HOUR))
        return vortex(15.0 + error * days, 100.0 - 3 * days)

    truth = [at(when) for when in dates]
    write_truth(folder / "t.zarr", GRID, dates, {name: np.stack([f[name] for f in truth]) for name in NAMES})
    leads = np.array([24, 48, 72]) * HOUR

    def field(name, start, lead):
        return np.stack([at(start + lead, 0.5 * k)[name] for k in range(4)])

    write_forecast(folder / "f.zarr", GRID, np.array([START]), leads, 4, NAMES, field)
    return folder / "f.zarr", folder / "t.zarr"


def test_scores_of_tracks_are_the_displacements_that_were_made(stores, tmp_path) -> None:
    found = scores.score_cyclones(*stores, tmp_path / "out")
    table = found.set_index(["score", "lead_hours"])["value"]
    degree = np.pi / 180 * 6371
    for day in (1, 2, 3):
        assert table["position_error_members", 24.0 * day] == pytest.approx(0.75 * day * degree, abs=30)
        assert table["position_error_mean", 24.0 * day] == pytest.approx(0.75 * day * degree, abs=30)
        assert table["position_spread", 24.0 * day] == pytest.approx(0.5 * day * degree, abs=30)
        assert table["hit_share", 24.0 * day] == 1
    assert set(pd.read_csv(tmp_path / "out" / "tracks.csv")["member"]) == {"truth", "0", "1", "2", "3"}
    strikes = pd.read_csv(tmp_path / "out" / "strikes.csv")
    assert strikes["area"].sum() == pytest.approx(1) and strikes["frequency"].iloc[-1] > 0.9
    assert 0 < float(found[found.score == "strike_brier_skill"]["value"].iloc[0]) < 1


def test_a_truth_without_pressure_or_cyclones_is_refused(stores, tmp_path) -> None:
    flat = tmp_path / "flat.zarr"
    dates = START + np.arange(-4, 17) * 6 * HOUR
    write_truth(flat, GRID, dates, {"msl": np.full((21, GRID.size), 1e5, np.float32)})
    with pytest.raises(ForecastError, match="no tropical cyclone at any of 1 starts"):
        scores.score_cyclones(stores[0], flat, tmp_path / "out")
    assert Criteria().gap == 24 * HOUR


def test_a_cyclone_of_era5_is_found_where_its_pressure_is_lowest_and_moves_as_cyclones_do(real_data: Path) -> None:
    """Off the north-west of Australia in March 2026, at 1 degree, 22 h apart: pressure and wind alone."""
    fields = xr.open_zarr(real_data / "zarr/era5_sfc_global_1deg_7h_202603.zarr", consolidated=False)
    fields = fields.sel(latitude=slice(5, -35), longitude=slice(95, 140))  # what is asked lies well inside
    grid, track = grids.latlon(fields["latitude"].values, fields["longitude"].values), []
    for time in (0, 3, 6):
        names = {"msl": "msl", "10u": "u10", "10v": "v10"}
        state = {name: fields[there].isel(time_index=time).values.ravel() for name, there in names.items()}
        (centre,) = (c for c in Finder(grid).centres(state) if c.pressure < 99000)
        deepest = int(np.argmin(state["msl"]))
        assert distance(centre, Centre(grid.latitudes[deepest], grid.longitudes[deepest], 0, 0)) < 120
        assert centre.pressure <= state["msl"].min() + 50 and 20 < centre.wind < 35
        track.append(centre)
    assert all(150 < distance(a, b) < 22 * 30 for a, b in itertools.pairwise(track))
    assert track[0].pressure > track[1].pressure > track[2].pressure and track[2].longitude < track[0].longitude
