"""Output variables against their defining relations."""

import numpy as np
import pytest

from forecast.core.variables import lookup
from forecast.planet import forcing, surface
from forecast.planet.climate import Climate
from forecast.planet.fields import STATIC, VARIABLES, Fields
from forecast.planet.model import Model
from forecast.planet.settings import GAS_CONSTANT, GRAVITY, RADIUS, ROTATION
from forecast.planet.years import initial_states

DATES = np.array(["2001-01-15T06", "2001-08-01T18"], "datetime64[s]")


@pytest.fixture(scope="module")
def made() -> tuple[Model, Fields, np.ndarray, np.ndarray, np.ndarray]:
    """Model, Fields, state, rain and derived fields of two random states."""
    model = Model(21)
    state = initial_states(model, Climate(model.sphere), [1, 2], DATES)
    rain = np.abs(np.random.default_rng(0).standard_normal((64, 32, 2))).astype(np.float32) * 1e-3
    fields = Fields(model.sphere)
    return model, fields, state, rain, fields.derive(model.invert(state), state[..., 3], rain, forcing.season(DATES))


def of(made, name: str) -> np.ndarray:
    """(2, latitude, longitude)."""
    return made[4][:, VARIABLES.index(name)].reshape(2, 32, 64).astype(float)


def test_order_and_names():
    assert VARIABLES[:3] == ("z_200", "z_500", "z_800") and VARIABLES[-2:] == STATIC == ("z", "lsm")
    assert len(set(VARIABLES)) == 19
    for name in VARIABLES:
        lookup(name.split("_")[0])


def test_state_comes_back_from_the_fields(made):
    model, fields, state, _, derived = made
    psi, s = fields.recover(derived)
    expected = model.invert(state)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(psi, expected, atol=3e-6 * scale)  # winds are stored to 24 bits
    wet = np.maximum(model.sphere.to_grid(state[..., 3]), 0)
    np.testing.assert_allclose(s, model.sphere.to_spectral(wet), atol=1e-5)


def test_wind_is_geostrophic_in_mid_latitudes(made):
    """f u = -dz/dy of the zonal means: linear balance departs from it by the curvature of f, a few percent."""
    model = made[0]
    lat = np.radians(model.sphere.grid.rows)
    u, z = of(made, "u_500").mean(2)[0], of(made, "z_500").mean(2)[0]
    geostrophic = -np.gradient(z, lat) / (RADIUS * 2 * ROTATION * np.sin(lat))
    middle = (np.abs(np.degrees(lat)) > 25) & (np.abs(np.degrees(lat)) < 75)
    assert np.corrcoef(u[middle], geostrophic[middle])[0, 1] > 0.97
    assert np.abs(u - geostrophic)[middle].mean() < 0.15 * np.abs(u[middle]).max()


def test_temperature_is_hypsometric(made):
    for name, low, high in (("t_350", "500", "200"), ("t_650", "800", "500")):
        thickness = of(made, f"z_{high}") - of(made, f"z_{low}")
        expected = thickness / (GAS_CONSTANT * np.log(float(low) / float(high)))
        np.testing.assert_allclose(of(made, name), expected, rtol=1e-5)


def test_sea_level_pressure_brings_back_the_height_of_800_hpa(made):
    msl, z = of(made, "msl"), of(made, "z_800")
    t_800 = of(made, "t_650") + 6.5e-3 / GRAVITY * (of(made, "z_500") - z) / 2
    layer = t_800 + 6.5e-3 / GRAVITY * z / 2
    np.testing.assert_allclose(GAS_CONSTANT * layer * np.log(msl / 80_000), z, rtol=1e-4)


def test_near_surface_fields(made):
    model = made[0]
    land = of(made, "lsm")
    ratio = np.hypot(of(made, "10u"), of(made, "10v")) / np.hypot(of(made, "u_800"), of(made, "v_800"))
    np.testing.assert_allclose(ratio, 0.75 - 0.25 * land, rtol=2e-3)
    north = (model.sphere.grid.rows > 40)[None, :, None] & (land < 0.01)
    across = of(made, "u_800") * of(made, "10v") - of(made, "v_800") * of(made, "10u")
    assert (across[np.broadcast_to(north, across.shape)] >= 0).all()  # turned to the left, to the low, in the north
    sea = sum(a * b for a, b in zip(forcing.sea_temperature(model.sphere.grid.rows),
                                    (1.0, forcing.season(DATES)[0]), strict=True))  # fmt: skip
    assert np.abs(of(made, "2t")[0] - sea[:, None])[land[0] < 0.01].mean() < 8


def test_rain_and_statics_are_passed_on(made):
    grid = made[0].sphere.grid
    np.testing.assert_array_equal(of(made, "tp"), made[3].transpose(2, 1, 0))
    height = surface.orography(grid.latitudes, grid.longitudes).reshape(32, 64)
    np.testing.assert_allclose(of(made, "z")[1], GRAVITY * height, rtol=1e-6)


def test_surface():
    lat, lon = np.repeat(np.linspace(-89, 89, 90), 180), np.tile(np.arange(0.0, 360, 2), 90)
    land, height = surface.land_sea_mask(lat, lon), surface.orography(lat, lon)
    assert land.min() >= 0 and land.max() <= 1 and height.min() >= 0 and 3000 < height.max() < 5000
    weights = np.cos(np.radians(lat))
    north, south = (np.average(land[side], weights=weights[side]) for side in (lat > 0, lat < 0))
    assert 0.2 < north < 0.45 and 0.1 < south < 0.3 and north > south + 0.05
    assert land[height > 1500].min() > 0.5
    np.testing.assert_allclose(surface.orography(lat, lon + 360), height, atol=1e-9)
