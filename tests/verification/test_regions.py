"""Area weights, and what a missing value does to them."""

from __future__ import annotations

import numpy as np
import pytest

from forecast.core import grids
from forecast.core.errors import ForecastError
from forecast.verification.regions import Regions

GLOBE = grids.gaussian(32)
EUROPE = grids.latlon(np.linspace(55, 30, 11), np.linspace(-15, 15, 13))


def test_global_means_are_exact() -> None:
    """Gauss weights integrate sin^2 and sin^4 of the latitude exactly: 1/3 and 1/5."""
    sine = np.sin(np.radians(GLOBE.latitudes))
    areas = Regions(GLOBE, ("globe",)).areas
    sums, weights = areas.mean(np.stack([np.ones(GLOBE.size), sine**2, sine**4])), areas.total
    assert sums[0] == pytest.approx([1, 1 / 3, 1 / 5], abs=1e-13)
    assert weights == pytest.approx([1], abs=1e-13)


def test_cell_areas_of_a_regional_grid() -> None:
    """A field of latitude bands has the mean that the cells' exact areas sin(north) - sin(south) give."""
    edges = np.radians(np.linspace(56.25, 28.75, 12))
    heights = np.sin(edges[:-1]) - np.sin(edges[1:])
    sums = Regions(EUROPE).areas.mean(np.repeat(np.arange(11.0), 13)[None])
    assert sums[0, 0] == pytest.approx((heights * np.arange(11)).sum() / heights.sum(), rel=1e-12)


def test_default_regions() -> None:
    assert Regions(GLOBE).names == ("globe", "n.hem", "s.hem", "tropics")
    assert Regions(EUROPE).names == ("domain",)


@pytest.mark.parametrize(
    ("name", "grid", "hint"),
    [
        ("globe", EUROPE, "use `domain`"),
        ("s.hem", EUROPE, "holds no point"),
        ("europa", GLOBE, "unknown region `europa`"),
    ],
)
def test_regions_that_make_no_sense_are_refused(name: str, grid: grids.Grid, hint: str) -> None:
    with pytest.raises(ForecastError, match=hint):
        Regions(grid, (name,))


def test_nan_reaches_the_regions_that_hold_it_and_no_other() -> None:
    values = np.ones((2, GLOBE.size))
    values[1, 0] = np.nan  # northernmost row
    regions = Regions(GLOBE)
    sums = regions.areas.mean(values)
    lost = dict(zip(regions.names, np.isnan(sums[:, 1]), strict=True))
    assert lost == {"globe": True, "n.hem": True, "s.hem": False, "tropics": False}
    assert not np.isnan(sums[:, 0]).any()


def test_points_that_do_not_count_leave_mean_and_weight() -> None:
    """All statistics share one mask, so skill and spread are averaged over the same points."""
    values = np.stack([np.arange(GLOBE.size, dtype=float), np.ones(GLOBE.size)])
    valid = GLOBE.latitudes > 0
    values[:, ~valid] = np.nan
    whole = Regions(GLOBE, ("globe",)).areas
    sums, weights = whole.where(valid).mean(values), whole.where(valid).total
    assert weights[0] == pytest.approx(0.5)
    assert sums[0] / weights[0] == pytest.approx(whole.mean(np.where(valid, values, 0))[0] * 2)


def test_row_means_equal_point_means() -> None:
    rows = np.cos(np.radians(GLOBE.rows))[None]
    points = np.repeat(rows, GLOBE.shape[1], axis=1)
    areas = Regions(GLOBE).areas
    assert np.allclose(areas.mean(rows), areas.mean(points), rtol=1e-13)
