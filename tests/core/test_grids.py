"""Grids: areas that are exact, layouts recognised from bare points, bad input named."""

import numpy as np
import pytest

from forecast.core import grids
from forecast.core.errors import ForecastError


def fibonacci(n):
    i = np.arange(n) + 0.5
    return np.degrees(np.arcsin(1 - 2 * i / n)), np.degrees(np.pi * (1 + 5**0.5) * i) % 360


@pytest.mark.parametrize(
    "grid",
    [
        grids.gaussian(32),
        grids.octahedral(16),
        grids.latlon(np.linspace(90, -90, 61), np.arange(120) * 3.0),
        grids.latlon(np.arange(-87.5, 90, 5.0), np.arange(72) * 5.0 - 180),
        grids.from_points(*fibonacci(600)),
    ],
    ids=lambda g: g.name,
)
def test_areas_of_a_global_grid_sum_to_the_sphere_and_average_sin2_to_a_third(grid):
    np.testing.assert_allclose(grid.areas.sum(), 4 * np.pi, rtol=1e-12)
    mean = (grid.areas * np.sin(np.radians(grid.latitudes)) ** 2).sum() / grid.areas.sum()
    assert abs(mean - 1 / 3) < 2e-3  # midpoint rule on cells of a few degrees
    assert grid.is_global and (grid.areas > 0).all()
    assert grid.longitudes.min() >= 0 and grid.longitudes.max() < 360


def test_latlon_areas_are_differences_of_sines():
    grid = grids.latlon(np.array([50.0, 47.5, 45.0]), np.array([-2.5, 0.0, 2.5]))
    edges = np.sin(np.radians([51.25, 48.75, 46.25, 43.75]))
    expected = (edges[:-1] - edges[1:])[:, None] * np.radians(2.5) * np.ones(3)
    np.testing.assert_allclose(grid.areas.reshape(grid.shape), expected, rtol=1e-12)
    assert not grid.is_global
    np.testing.assert_allclose(grid.columns, [357.5, 0, 2.5])


def test_gauss_weights_integrate_even_polynomials_of_sine_exactly():
    grid = grids.gaussian(16)
    sine = np.sin(np.radians(grid.latitudes))
    for power in (2, 10, 30):
        np.testing.assert_allclose((grid.areas * sine**power).sum(), 4 * np.pi / (power + 1), rtol=1e-12)


@pytest.mark.parametrize(
    "grid", [grids.gaussian(24), grids.latlon(np.linspace(60, 35, 11), np.arange(13) * 2.5), grids.octahedral(8)]
)
def test_points_alone_tell_the_grid(grid):
    again = grids.from_points(grid.latitudes, grid.longitudes)
    assert (again.name, again.shape) == (grid.name, grid.shape)
    np.testing.assert_allclose(again.areas, grid.areas, rtol=1e-9)


def test_octahedral_counts_are_those_of_ecmwf():
    assert [grids.octahedral(n).size for n in (32, 48, 96)] == [5248, 10944, 40320]


def test_regional_points_get_cells_of_their_own_size():
    latitudes, longitudes = np.meshgrid(np.linspace(40, 50, 11), np.linspace(0, 10, 11), indexing="ij")
    jitter = np.random.default_rng(0).uniform(-0.2, 0.2, (2, latitudes.size))
    grid = grids.from_points(latitudes.ravel() + jitter[0], longitudes.ravel() + jitter[1])
    cell = np.radians(1) ** 2 * np.cos(np.radians(45))
    assert 0.8 < np.median(grid.areas) / cell < 1.2 and grid.areas.max() < 3 * cell


@pytest.mark.parametrize(
    ("latitudes", "longitudes", "message"),
    [
        ([0.0, 1.0], [0.0], "2 latitudes but 1 longitudes"),
        ([0.0, np.nan], [0.0, 1.0], "not finite"),
        ([0.0, 10.0, 20.0, 30.0, 0.0], [0.0, 7.0, 80.0, 200.0, 0.0], "repeats points"),
    ],
)
def test_bad_points_are_named(latitudes, longitudes, message):
    with pytest.raises(ForecastError, match=message):
        grids.from_points(np.array(latitudes), np.array(longitudes))


def test_shuffled_or_impossible_latitudes_are_named():
    with pytest.raises(ForecastError, match="rise or fall"):
        grids.latlon(np.array([10.0, 30.0, 20.0]), np.array([0.0, 1.0]))
    with pytest.raises(ForecastError, match="-90..90"):
        grids.latlon(np.array([100.0, 90.0]), np.array([0.0, 1.0]))
