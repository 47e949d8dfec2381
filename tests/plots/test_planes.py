"""Projections against their own inverses and known points; resampling against fields whose values are known."""

from __future__ import annotations

import numpy as np
import pytest

from forecast.core import grids
from forecast.core.coastlines import coastlines
from forecast.core.errors import ForecastError
from forecast.core.grids import Grid
from forecast.outputs.products import Product
from forecast.plots.looks import LOOKS, look, product_look
from forecast.plots.panel import Canvas
from forecast.plots.projections import KINDS, project
from forecast.plots.resample import Resampler


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("centre", [(0.0, 45.0), (150.0, -20.0)])
def test_inverse_undoes_forward(kind: str, centre: tuple[float, float]) -> None:
    plane = project(kind, centre)
    lon, lat = (a.ravel() for a in np.meshgrid(np.arange(-179.0, 180, 7), np.arange(-88.0, 89, 8)))
    x, y = plane.forward(lon, lat)
    there = np.isfinite(x)
    assert there.any() and (kind in ("platecarree", "robinson")) == there.all()
    back_lon, back_lat = plane.inverse(x[there], y[there])
    inside = np.isfinite(back_lon)  # the edge of the map may round outward
    assert inside.mean() > 0.9
    np.testing.assert_allclose(back_lat[inside], lat[there][inside], atol=1e-6)
    np.testing.assert_allclose((back_lon[inside] - lon[there][inside] + 180) % 360, 180, atol=1e-6)
    west, east, south, north = plane.extent
    assert (x[there] >= west - 1e-2).all() and (y[there] <= north + 1e-2).all()


def test_known_points() -> None:
    """Robinson at 45 N (Snyder's table), the far side of the globe, a pole in the middle."""
    x, y = project("robinson", (0.0, 0.0)).forward(np.array([90.0]), np.array([45.0]))
    np.testing.assert_allclose((x[0], y[0]), (0.8487 * 0.8962 * np.pi / 2, 1.3523 * 0.5571))
    x, y = project("orthographic", (10.0, 50.0)).forward(np.array([10.0, -170.0]), np.array([50.0, -50.0]))
    np.testing.assert_allclose((x[0], y[0]), 0, atol=1e-12)
    assert np.isnan(x[1]) and np.isnan(project("orthographic", (0, 0)).inverse(np.array([0.9]), np.array([0.9]))[0])[0]
    for kind, latitude in (("north", 90.0), ("south", -90.0)):
        x, y = project(kind, (0.0, 0.0)).forward(np.array([33.0]), np.array([latitude]))
        np.testing.assert_allclose((x[0], y[0]), 0, atol=1e-12)


def test_stereographic_maps_keep_shapes() -> None:
    plane, h = project("north", (20.0, 0.0)), 1e-4
    lon, lat = np.array([50.0, 50.0 + h, 50.0]), np.array([60.0, 60.0, 60.0 + h])
    x, y = plane.forward(lon, lat)
    east, north = np.hypot(x[1] - x[0], y[1] - y[0]), np.hypot(x[2] - x[0], y[2] - y[0])
    assert east / np.cos(np.radians(60)) == pytest.approx(north, rel=1e-5)


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (("mercator", (0.0, 0.0)), "choose one of platecarree"),
        (("north", (0.0, 0.0), (1.0, 2, 3, 4)), "an area is drawn"),
    ],
)
def test_projections_that_are_none(args: tuple, reason: str) -> None:
    with pytest.raises(ForecastError, match=reason):
        project(*args)


@pytest.mark.parametrize("grid", [grids.gaussian(32), grids.latlon(np.arange(90.0, -91, -5), np.arange(0.0, 360, 5))])
def test_bilinear_values(grid: Grid) -> None:
    field = grid.latitudes + 10 * np.sin(np.radians(grid.longitudes))
    lat, lon = np.array([0.0, 43.2, -71.0, 90.0, np.nan]), np.array([0.0, -179.9, 12345.0, 77.0, 0.0])
    found = Resampler(grid, lat, lon)(np.stack([field, 2 * field]))
    exact = lat + 10 * np.sin(np.radians(lon))
    exact[3] = 90.0 if grid.rows[0] == 90 else grid.rows[0]  # the pole takes the mean of the last row
    np.testing.assert_allclose(found[0, :4], exact[:4], atol=0.05)
    np.testing.assert_allclose(found[1], 2 * found[0])
    assert np.isnan(found[0, 4])
    at_points = Resampler(grid, grid.latitudes[::97], grid.longitudes[::97])(field)
    np.testing.assert_allclose(at_points, field[::97], atol=1e-9)


def test_regions_end_where_their_cells_end() -> None:
    grid = grids.latlon(np.arange(60.0, 29, -5), np.arange(345.0, 376, 5) % 360)
    found = Resampler(grid, np.array([45.0, 45, 45, 62, 63]), np.array([-17.0, -18, 16, 0, 0]))
    assert found.inside.tolist() == [True, False, True, True, False]
    np.testing.assert_allclose(found(grid.latitudes)[0], 45)


def test_reduced_grids() -> None:
    grid = grids.octahedral(16)
    found = Resampler(grid, np.array([47.0, -89.9]), np.array([3.0, 200.0]))(grid.latitudes)
    np.testing.assert_allclose(found, [47, grid.latitudes.min()], atol=2.5)


def test_coastlines_know_the_earth() -> None:
    """A line passes within half a degree of Gibraltar, Cape Town and Cape Comorin, none of mid-Pacific."""
    points = np.vstack(coastlines())
    assert len(coastlines()) > 100 and np.abs(points).max() <= 180
    for place, near in (((-5.3, 36.1), True), ((18.4, -34.0), True), ((77.5, 8.1), True), ((-140.0, 20.0), False)):
        assert (np.hypot(*(points - place).T).min() < 0.7) == near
    pieces = Canvas(project("robinson", (0.0, 0.0)), grids.gaussian(8), None).coasts
    assert max(np.abs(np.diff(piece[:, 0])).max() for piece in pieces) < 0.5


@pytest.mark.parametrize("name", LOOKS)
def test_scales_rise_and_hold_their_values(name: str) -> None:
    for values in (np.linspace(-3, 40, 200), np.full(9, 7.0), np.array([np.nan]), np.linspace(1e-6, 2e-6, 50)):
        colours, norm, _ = look(name).scale(values)
        assert (np.diff(norm.boundaries) > 0).all() and len(norm.boundaries) - 1 == colours.N


def test_temperatures_are_white_at_freezing_and_units_are_those_of_forecasters() -> None:
    colours, norm, _ = look("2t").scale(np.linspace(-20, 20, 100))
    cold, warm = colours(norm(-15.0)), colours(norm(15.0))
    assert cold[2] > cold[0] and warm[0] > warm[2] and 0.0 in norm.boundaries
    assert look("2t").shown(np.array(273.15)) == 0 and look("msl").shown(np.array(101300.0)) == pytest.approx(1013)
    assert product_look("2t", Product("spread")).unit == "K" and product_look("2t", Product("spread")).offset == 0
