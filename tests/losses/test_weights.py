import numpy as np
import pytest

from forecast import losses
from forecast.core import grids
from forecast.core.errors import ForecastError
from forecast.core.sections import LossSection
from forecast.losses import AlmostFairCRPSLoss, weights

NAMES = ("z_500", "t_850", "2t")


def test_area_weights_integrate_exactly():
    grid = grids.gaussian(16)
    sine = np.sin(np.radians(grid.latitudes))
    assert weights.area(grid.areas) @ sine**2 == pytest.approx(1 / 3, abs=1e-14)


def test_variable_weights_prefer_the_full_name():
    np.testing.assert_array_equal(weights.variable(NAMES, {"z": 2.0, "t_850": 3.0, "t": 9.0}), [2.0, 3.0, 1.0])


def test_level_weights():
    np.testing.assert_allclose(weights.level((*NAMES, "z_50"), slope=0.001, floor=0.2), [0.5, 0.85, 1.0, 0.2])


def test_compose_is_a_normalised_outer_product():
    total = weights.compose(("grid", "variable"), variable=np.array([1.0, 3.0]), grid=np.array([2.0, 2.0, 4.0]))
    np.testing.assert_allclose(total, np.outer([0.25, 0.25, 0.5], [0.25, 0.75]))
    assert weights.compose(("grid", "variable"), variable=np.array([1.0, 3.0])).shape == (1, 2)


def test_section_in_units_of_the_tendency():
    section = LossSection(variable_weights={"2t": 4.0}, level_slope=0.001, level_floor=0.2)
    total = weights.from_section(section, NAMES, np.ones(5), units=np.array([0.5, 1.0, 2.0]))
    expected = np.array([0.5 / 0.5, 0.85, 4.0 / 2.0])
    np.testing.assert_allclose(total.sum(0), expected / expected.sum())
    assert total.sum() == pytest.approx(1.0)


def test_bad_weights():
    with pytest.raises(ForecastError, match="`w`"):
        weights.variable(NAMES, {"w": 1.0})
    with pytest.raises(ForecastError, match="negative"):
        weights.variable(NAMES, {"z": -1.0})
    with pytest.raises(ForecastError, match="zero"):
        weights.compose(("variable",), variable=np.zeros(3))
    with pytest.raises(ForecastError, match="`level`"):
        weights.compose(("variable",), level=np.ones(3))


def test_registry_builds_by_name():
    loss = losses.build({"name": "almost_fair_crps", "alpha": 0.5})
    assert isinstance(loss, AlmostFairCRPSLoss)
    assert loss.options["alpha"] == 0.5


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"name": "almost_fair_crsp"}, "`almost_fair_crps`"),
        ({"name": "almost_fair_crps", "alhpa": 1}, "`alpha`"),
        ({"name": "fair_crps", "alpha": 1}, "unknown option"),
        ({}, "unknown loss"),
    ],
)
def test_registry_names_the_nearest(spec, words):
    with pytest.raises(ForecastError, match=words):
        losses.build(spec)


@pytest.mark.parametrize("step", [10.0, 22.5])
def test_area_weights_of_a_grid_with_poles(step):
    """Bands 2 cos(phi) sin(step / 2), poles 2 sin^2(step / 4); they sum to 2."""
    latitudes = np.arange(90, -90.1, -step)
    grid = grids.latlon(latitudes, np.arange(0, 360, 30.0))
    bands = grid.areas.reshape(grid.shape).sum(1) / (2 * np.pi)
    half = np.radians(step) / 2
    expected = 2 * np.cos(np.radians(latitudes)) * np.sin(half)
    expected[[0, -1]] = 2 * np.sin(half / 2) ** 2
    np.testing.assert_allclose(bands, expected, atol=1e-14)
    assert bands.sum() == pytest.approx(2.0)
    assert weights.area(grid.areas).sum() == pytest.approx(1.0)
    assert weights.unit_mean(grid.areas).mean() == pytest.approx(1.0)


def test_level_weights_of_other_shapes():
    names = ("z_500", "t_1000", "2t")
    np.testing.assert_allclose(weights.level_by_pressure(names), [500 / 750, 1000 / 750, 1.0])
    np.testing.assert_allclose(weights.level_by_pressure(("2t", "msl")), [1.0, 1.0])
    by_shape = {"linear": [0.7, 1.2, 1.0], "relu": [0.5, 1.0, 1.0], "polynomial": [0.45, 1.2, 1.0]}
    for shape, expected in by_shape.items():
        np.testing.assert_allclose(weights.level_by_shape(names, shape, 0.001, 0.2), expected)
    with pytest.raises(ForecastError, match="shape='cubic'"):
        weights.level_by_shape(names, "cubic", 0.001, 0.2)


def test_lead_time_weights():
    np.testing.assert_allclose(weights.lead_time(3, 0.5), np.array([1, 0.5, 0.25]) / (1.75 / 3))
    np.testing.assert_allclose(weights.lead_time(4), np.ones(4))
    np.testing.assert_allclose(weights.inverse_growth(np.array([1.0, 2.0])), [4 / 3, 2 / 3])
    total = weights.compose(("lead", "variable"), lead=weights.lead_time(2, 0.5), variable=np.ones(3))
    np.testing.assert_allclose(total.sum(1), [2 / 3, 1 / 3])
    for call in (
        lambda: weights.lead_time(0),
        lambda: weights.lead_time(3, -1.0),
        lambda: weights.inverse_growth(np.array([1.0, 0.0])),
        lambda: weights.unit_mean(np.zeros(2)),
    ):
        with pytest.raises(ForecastError):
            call()
