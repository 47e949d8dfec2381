"""Spherical harmonics against closed forms."""

import numpy as np
import pytest

from forecast.core import grids
from forecast.core.errors import ForecastError
from forecast.core.sphere import Harmonics, great_circle

T = 21


@pytest.fixture(scope="module")
def sphere() -> Harmonics:
    return Harmonics(T, grids.gaussian(32))


@pytest.fixture(scope="module")
def random(sphere) -> np.ndarray:
    """Coefficients (M, 2, N, 3) of real fields: nothing below the diagonal, m = 0 real."""
    a = np.random.default_rng(1).standard_normal((T + 1, 2, T + 1, 3))
    a *= sphere.present[:, None, :, None]
    a[0, 1] = 0.0
    return a


def lonlat(sphere):
    lon, lat = np.radians(sphere.grid.columns)[:, None], np.radians(sphere.grid.rows)[None, :]
    return np.broadcast_arrays(lon, lat)


def test_round_trip(sphere, random):
    np.testing.assert_allclose(sphere.to_spectral(sphere.to_grid(random)), random, atol=1e-13)


def test_float32_round_trip(random):
    single = Harmonics(T, grids.gaussian(32), np.float32)
    back = single.to_spectral(single.to_grid(random.astype(np.float32)))
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, random, atol=2e-5)  # sums of 64 terms of size 1..30 in float32


def test_known_harmonics(sphere):
    lon, lat = lonlat(sphere)
    a = sphere.to_spectral(np.sqrt(3.0) * np.sin(lat))  # Y_10
    assert a[0, 0, 1] == pytest.approx(1.0) and np.abs(a).sum() == pytest.approx(1.0)
    b = sphere.to_spectral(np.sqrt(1.5) * np.cos(lat) * np.cos(lon))  # half Y_11 + its conjugate
    assert b[1, 0, 1] == pytest.approx(0.5) and np.abs(b).sum() == pytest.approx(0.5)


def test_parseval(sphere, random):
    field = sphere.to_grid(random)
    weights = sphere.grid.areas.reshape(sphere.grid.shape).T[..., None] / (4 * np.pi)
    np.testing.assert_allclose(sphere.power(random).sum(0), (field**2 * weights).sum((0, 1)), rtol=1e-12)


def test_laplacian_is_the_divergence_of_the_gradient(sphere, random):
    u, v = sphere.wind(random)  # gradient = (v, -u) in these units
    expected = random * sphere.laplacian[:, None]
    np.testing.assert_allclose(sphere.divergence(v, -u), expected, atol=1e-10 * np.abs(expected).max())


def test_rotational_wind_has_no_divergence(sphere, random):
    u, v = sphere.wind(random)
    assert np.abs(sphere.divergence(u, v)).max() < 1e-10 * np.abs(random).max() * T * T


def test_inverse_laplacian(sphere, random):
    back = sphere.inverse_laplacian(random * sphere.laplacian[:, None])
    np.testing.assert_allclose(back[:, :, 1:], random[:, :, 1:], atol=1e-14)
    assert not back[:, :, 0].any()


def test_solid_rotation_wind(sphere):
    _, lat = lonlat(sphere)
    u, v = sphere.wind(sphere.to_spectral(-np.sin(lat)))
    np.testing.assert_allclose(u, np.cos(lat) ** 2, atol=1e-13)
    assert np.abs(v).max() < 1e-13


def test_linear_balance(sphere):
    """div(mu grad psi) = laplacian(phi), checked in a truncation that holds the product."""
    lon, lat = lonlat(sphere)
    psi = sphere.to_spectral(np.cos(lat) ** 3 * np.sin(lat) * np.cos(3 * lon) + np.sin(lat) ** 3)
    u, v = sphere.wind(psi)
    phi = sphere.inverse_laplacian(sphere.divergence(np.sin(lat) * v, -np.sin(lat) * u))
    np.testing.assert_allclose(sphere.balanced(psi), sphere.to_grid(phi), atol=1e-13)


def test_solid_rotation_is_balanced_by_mu_squared(sphere):
    _, lat = lonlat(sphere)
    phi = sphere.balanced(sphere.to_spectral(-np.sin(lat)))
    np.testing.assert_allclose(phi, -(np.sin(lat) ** 2 - 1 / 3) / 2, atol=1e-13)


def test_rows_are_storage_order(sphere):
    fields = np.arange(2.0 * sphere.grid.size).reshape(2, -1)
    field = sphere.from_rows(fields)
    assert field.shape == (64, 32, 2) and field[5, 3, 1] == fields[1, 3 * 64 + 5]
    np.testing.assert_array_equal(sphere.to_rows(field), fields)


def test_too_coarse_or_regional_grids_are_refused():
    with pytest.raises(ForecastError, match="too coarse for T21"):
        Harmonics(21, grids.gaussian(16))
    with pytest.raises(ForecastError, match="global rectilinear"):
        Harmonics(3, grids.latlon(np.linspace(60, 30, 16), np.arange(0.0, 40.0, 1.0)))


def test_great_circle():
    poles = np.array([[0, 0, 1.0], [0, 0, -1.0], [1.0, 0, 0]])
    np.testing.assert_allclose(great_circle(poles[0], poles), [0, np.pi, np.pi / 2])
