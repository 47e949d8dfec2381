"""Moisture: saturation, rain, and the budget of water."""

import numpy as np
import pytest

from forecast.planet import forcing
from forecast.planet.climate import Climate
from forecast.planet.model import Model
from forecast.planet.moisture import COLUMN, reference, saturation
from forecast.planet.settings import Settings


def test_saturation_at_the_freezing_point():
    assert saturation(np.array(273.15)) == pytest.approx(0.622 * 611.2 / 80_000)


def test_slope_of_the_reference_profile():
    lat = np.array([-60.0, -20.0, 5.0, 45.0])
    step = 1e-4
    mu = np.sin(np.radians(lat))
    above, below = (np.log(reference(np.degrees(np.arcsin(mu + d)))[0]) for d in (step, -step))
    np.testing.assert_allclose(reference(lat)[1], (above - below) / (2 * step), rtol=1e-5)


@pytest.fixture(scope="module")
def calm() -> tuple[Model, dict[str, np.ndarray], np.ndarray]:
    """A planet with the mean zonal flow in January, where nothing changes but by moisture's own sources."""
    model = Model(21, Settings("free", drag=0.0, relaxation=0.0, orography=0.0, diffusion=0.0), np.float64)
    psi = Climate(model.sphere).mean(np.array(["2001-01-15"], "datetime64[s]"))
    psi[..., 3] = 0
    change, fields = model.tendency(model.vorticity(psi), model.equilibrium(np.ones(1)))
    return model, fields, model.invert(change)


def source(calm, s: float) -> tuple[np.ndarray, np.ndarray]:
    model, fields, change = calm
    return model.moisture.source({**fields, "s": np.full_like(fields["s"], s)}, change, np.ones(1), model.step)


def test_zonal_flow_has_no_vertical_motion(calm):
    model, fields, change = calm
    assert np.abs(model.moisture.omega(fields, change)).max() < 1e-12  # Pa/s; storms have 0.1


def test_dry_air_does_not_rain_and_takes_up_water(calm):
    added, rain = source(calm, 0.0)
    assert not rain.any()
    assert calm[0].sphere.to_grid(added).mean() > 0


def test_rain_is_the_water_that_leaves(calm):
    """Air far above saturation, where nothing evaporates: what moisture loses beyond vertical transport has rained."""
    model, fields, change = calm
    wet = 5.0
    _, rain = source(calm, wet)
    assert rain.min() > 0
    longer = model.moisture.source({**fields, "s": np.full_like(fields["s"], wet)}, change, np.ones(1), 20 * 86400.0)[1]
    column = wet * model.moisture.q_ref * COLUMN / 1000
    dew = saturation(model.moisture.temperature(fields["psi"])) * 0.92 * COLUMN / 1000
    transported = np.exp(0.5)  # the limit of vertical transport in one step
    assert (longer <= column * transported - dew + 1e-9).all() and (longer >= column / transported - dew - 1e-9).all()


def test_ascent_brings_moisture_up(calm):
    model, fields, change = calm
    u = {**fields, "s": np.full_like(fields["s"], 0.3)}
    still = model.sphere.to_grid(model.moisture.source(u, change, np.ones(1), model.step)[0])
    cooling = change.copy()
    cooling[6, 0, 8, :, 1] += 3e-12  # thickness changes as air rises (cools) and sinks
    moved = model.sphere.to_grid(model.moisture.source(u, cooling, np.ones(1), model.step)[0])
    omega = model.moisture.omega(fields, cooling)
    strong = np.abs(omega) > 0.5 * np.abs(omega).max()
    assert (np.sign(moved - still)[strong] == -np.sign(omega)[strong]).all()


def test_season_is_a_cosine_of_the_year():
    dates = np.array(["2001-01-21", "2001-07-22", "2004-01-21"], "datetime64[s]")
    np.testing.assert_allclose(forcing.season(dates), [1, -1, 1], atol=2e-3)
