"""Grids: areas that are exact, layouts recognised from bare points, bad input named."""

import numpy as np
import pytest

from forecast.core import grids, reduced
from forecast.core.cells import FULL
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
        grids.named("N32"),
        grids.named("N20"),
        grids.named("HN8"),
        grids.named("ico4"),
        grids.named("5"),
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


def test_counts_are_those_of_ecmwf():
    assert [grids.octahedral(n).size for n in (32, 48, 96)] == [5248, 10944, 40320]
    assert [grids.classical(n).size for n in (32, 80, 160, 320)] == [6114, 35718, 138346, 542080]


@pytest.mark.parametrize("number", [24, 80, 320, 640])
def test_rule_for_unpublished_numbers_comes_close_to_published_tables(number, monkeypatch):
    published = reduced.classical_counts(number)
    monkeypatch.setattr(reduced, "tables", dict)
    ours = reduced.classical_counts(number)
    assert abs(ours.sum() / published.sum() - 1) < 0.03 and (ours == ours[::-1]).all()
    assert (np.diff(ours[:number]) >= 0).all() and ours.max() == 4 * number


@pytest.mark.parametrize("name", ["N32", "O16", "H6", "HN8", "ico3", "gaussian-16x32", "latlon-19x36"])
def test_a_name_leads_to_the_grid_and_the_points_back_to_the_name(name):
    grid = grids.named(name)
    again = grids.from_points(grid.latitudes.astype(np.float32), grid.longitudes.astype(np.float32) - 360)
    assert grid.name == again.name == name
    np.testing.assert_allclose(again.areas, grid.areas, rtol=1e-5)
    assert (again.boxes is None) == (grid.boxes is None)


@pytest.mark.parametrize("name", ["O16", "N32", "latlon-18x36"])
def test_every_point_lies_in_its_own_box(name):
    grid = grids.named(name)
    sines, longitudes = np.sin(np.radians(grid.latitudes)), np.radians(grid.longitudes)
    np.testing.assert_array_equal(grid.boxes.holding(sines, longitudes), np.arange(grid.size))
    upward = grids.latlon(np.linspace(-60, 60, 7), np.arange(8) * 45.0 - 180)
    inside = upward.boxes.holding(np.sin(np.radians([0.0, 89.0])), np.radians([181.0, 0.0]))
    np.testing.assert_array_equal(inside, [24, -1])


def test_healpix_by_hand():
    assert grids.named("H1").latitudes[[0, 4, 8]] == pytest.approx(np.degrees(np.arcsin([2 / 3, 0, -2 / 3])))
    np.testing.assert_allclose(grids.named("H1").longitudes, [45, 135, 225, 315, 0, 90, 180, 270, 45, 135, 225, 315])
    nested = grids.named("HN4")
    centres = nested.xyz.reshape(12, 16, 3).mean(axis=1)
    parents = grids.named("HN1").xyz
    assert ((centres @ parents.T).argmax(axis=1) == np.arange(12)).all()  # 16 in a row share their parent


def test_points_from_a_file(tmp_path):
    latitudes, longitudes = fibonacci(50)
    np.savez(tmp_path / "points.npz", latitudes=latitudes, longitudes=longitudes)
    np.testing.assert_array_equal(grids.named(str(tmp_path / "points.npz")).latitudes, latitudes)
    with pytest.raises(ForecastError, match="no .npz file with `latitudes`"):
        grids.named(str(tmp_path / "other.npz"))


@pytest.mark.parametrize("name", ["X12", "O", "O0", "HN6", "0.7", "ico12", "0", "latlon-10", "N-3"])
def test_unknown_names_are_refused(name):
    with pytest.raises(ForecastError):
        grids.named(name)


def test_grids_equal_those_of_mir():
    mir = pytest.importorskip("mir")
    for name in ("O32", "N32", "N80", "N320", "F32", "H8", "HN8"):
        grid, oracle = grids.named(name), mir.Grid(name)
        points = grids.unit_vectors(*map(np.array, oracle.to_latlons()))
        np.testing.assert_allclose(grid.xyz, points, atol=1e-12)
        if grid.boxes is not None:
            areas = np.array(oracle.grid_box_areas())
            np.testing.assert_allclose(grid.areas / FULL, areas / areas.sum(), rtol=1e-8)


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
