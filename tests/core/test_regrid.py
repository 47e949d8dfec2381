"""Weights between grids: constants, integrals, smooth fields, and the file they are kept in."""

from __future__ import annotations

import numpy as np
import pytest

from forecast.core import grids, polygons, regrid
from forecast.core.errors import ForecastError

PAIRS = [("O32", "O16"), ("O16", "N24"), ("latlon-37x72", "O16"), ("O16", "latlon-36x72"), ("gaussian-32x64", "O8"),
         ("H8", "O16"), ("O16", "HN8"), ("ico3", "O8"), ("ico4", "H8"), ("latlon-19x36", "ico3")]  # fmt: skip


@pytest.mark.parametrize("method", ["conservative", "linear", "gaussian"])
@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_constants_stay_and_weights_are_no_extrapolation(a, b, method):
    source, target = grids.named(a), grids.named(b)
    weights = regrid.matrix(source, target, method)
    assert weights.shape == (target.size, source.size)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, atol=1e-14)
    assert weights.data.min() > -1e-15


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_conservative_weights_keep_the_integral(a, b):
    source, target = grids.named(a), grids.named(b)
    field = np.random.default_rng(3).normal(size=source.size)
    moved = regrid.matrix(source, target) @ field
    assert abs(target.areas @ moved - source.areas @ field) < 1e-12 * (source.areas @ np.abs(field))


@pytest.mark.parametrize("family", ["latlon-{}x{}", "O{}", "H{}", "ico{}"])
def test_linear_weights_are_of_second_order_in_the_spacing(family):
    target = grids.octahedral(24)
    numbers = {"latlon-{}x{}": [(37, 72), (73, 144)], "O{}": [(16,), (32,)], "H{}": [(8,), (16,)],
               "ico{}": [(3,), (4,)]}[family]  # fmt: skip
    errors = []
    for number in numbers:
        source = grids.named(family.format(*number))
        errors.append(np.abs(regrid.matrix(source, target, "linear") @ source.xyz - target.xyz).max())
        assert errors[-1] < 1.0 * source.spacing**2
    assert errors[1] < 0.4 * errors[0]


def test_conservative_weights_by_hand():
    source = grids.latlon(np.array([45.0, -45.0]), np.arange(4) * 90.0)
    target = grids.latlon(np.array([45.0, -45.0]), np.arange(2) * 180.0)
    weights = regrid.matrix(source, target).toarray()
    expected = np.kron(np.eye(2), [[0.5, 0.25, 0, 0.25], [0, 0.25, 0.5, 0.25]])
    np.testing.assert_allclose(weights, expected, atol=1e-14)


def test_overlaps_of_polygons_are_those_of_voronoi_cells():
    coarse, fine = grids.icosahedral(1), grids.icosahedral(3)
    shares = polygons.overlaps(coarse, fine)
    np.testing.assert_allclose(shares.sum(axis=1), fine.areas, rtol=1e-9)
    np.testing.assert_allclose(shares.sum(axis=0), coarse.areas, rtol=1e-9)
    inside = np.linalg.norm(fine.xyz[:, None] - coarse.xyz, axis=-1).argmin(axis=1)
    assert (shares.toarray().argmax(axis=1) == inside).mean() > 0.9  # the rest lie on edges of the coarse cells
    sure = shares.toarray().max(axis=1) > 0.999 * fine.areas
    assert (shares.toarray().argmax(axis=1) == inside)[sure].all() and sure.sum() > 200


def test_polygons_by_hand():
    shared = polygons.overlaps(grids.named("latlon-2x8"), grids.named("latlon-2x4")).toarray()
    row = np.array([1, 0.5, 0, 0, 0, 0, 0, 0.5])
    expected = np.kron(np.eye(2), [np.roll(row, 2 * k) for k in range(4)]) * np.pi / 4  # octants' halves and quarters
    np.testing.assert_allclose(shared, expected, atol=1e-12)


def test_gaussian_weights_by_hand():
    source, target = grids.octahedral(8), grids.octahedral(4)
    weights = regrid.matrix(source, target, "gaussian", neighbours=3, sigma=0.1).toarray()
    angle = np.arccos(np.clip(target.xyz @ source.xyz.T, -1, 1))
    near = np.argsort(angle, axis=1)[:, :3]
    expected = np.exp(-(np.take_along_axis(angle, near, 1) ** 2) / (2 * 0.1**2))
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.sort(weights, axis=1)[:, -3:], np.sort(expected, axis=1), atol=1e-7)
    nearest = regrid.matrix(source, target, "gaussian", neighbours=1)
    assert nearest.nnz == target.size and set(nearest.data) == {1.0}


def test_order_of_rows_does_not_matter():
    north, target = grids.named("latlon-19x36"), grids.octahedral(8)
    south = grids.latlon(north.rows[::-1], north.columns)
    field = np.random.default_rng(0).normal(size=north.shape)
    for method in ("conservative", "linear"):
        down = regrid.matrix(north, target, method) @ field.ravel()
        np.testing.assert_allclose(regrid.matrix(south, target, method) @ field[::-1].ravel(), down, atol=1e-12)


def test_regional_grids():
    europe = grids.latlon(np.linspace(60, 30, 13), np.arange(-10, 21, 2.5))
    inside = grids.latlon(np.linspace(57, 33, 9), np.arange(-6, 16, 3.0))
    for method in ("conservative", "linear", "gaussian"):
        moved = regrid.matrix(europe, inside, method) @ europe.latitudes
        assert np.abs(moved - inside.latitudes).max() < 1.6
    for method in ("conservative", "linear"):
        with pytest.raises(ForecastError, match="reaches outside latlon-13x13"):
            regrid.matrix(europe, grids.octahedral(8), method)
    points = grids.from_points(*np.random.default_rng(0).uniform(40, 50, (2, 40)))
    with pytest.raises(ForecastError, match="gaussian"):
        regrid.matrix(points, inside, "conservative")


def test_missing_values():
    source, target = grids.octahedral(16), grids.octahedral(8)
    weights = regrid.matrix(source, target)
    fields = np.ones((2, 3, source.size), np.float32)
    fields[0, 0, source.longitudes < 180] = np.nan
    moved, filled = regrid.apply(weights, fields), regrid.apply(weights, fields, least=0.5)
    assert moved.dtype == np.float32 and moved.shape == (2, 3, target.size)
    assert np.isnan(moved[0, 0]).sum() > np.isnan(filled[0, 0]).sum() > 0.4 * target.size
    np.testing.assert_allclose(filled[np.isfinite(filled)], 1.0, atol=1e-6)


def test_kept_files_are_read_and_torn_ones_made_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("FORECAST_CACHE", str(tmp_path / "cache"))
    source, target = grids.octahedral(8), grids.octahedral(4)
    first = regrid.matrix(source, target)
    (file,) = (tmp_path / "cache").iterdir()
    monkeypatch.setattr(regrid, "_make", None)  # a second making would fail
    assert (regrid.matrix(source, target) != first).nnz == 0
    monkeypatch.undo()
    monkeypatch.setenv("FORECAST_CACHE", str(tmp_path / "cache"))
    file.write_bytes(file.read_bytes()[:200])
    assert (regrid.matrix(source, target) != first).nnz == 0
    assert len(list((tmp_path / "cache").iterdir())) == 1
    regrid.matrix(source, target, "gaussian", neighbours=2)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_cache_that_cannot_be_written_is_no_obstacle(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FORECAST_CACHE", str(tmp_path / "file" / "cache"))
    assert regrid.matrix(grids.octahedral(4), grids.octahedral(2)).shape == (88, 208)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "cubic"}, "one of conservative, linear, gaussian"),
        ({"method": "gaussian", "neighbours": 1000}, "has 208"),
        ({"method": "gaussian", "sigma": 0.0}, "sigma > 0"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ForecastError, match=message):
        regrid.matrix(grids.octahedral(4), grids.octahedral(2), **options)
