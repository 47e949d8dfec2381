"""Spectra by total wavenumber, of fields whose spectra are known, and the table that `forecast spectra` prints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.special import eval_legendre

from forecast.core import grids, seeding
from forecast.core.errors import ForecastError
from forecast.verification import scales
from forecast.verification.regions import Regions
from forecast.verification.results import Scores, compute_metrics
from forecast.verification.scorer import Scorer
from pipelines.spectra import spectra_table

START, DAY = np.datetime64("2001-01-01", "s"), np.timedelta64(86400, "s")
METRICS = (scales.MemberSpectrum(), scales.TruthSpectrum(), scales.SpectrumRatio())


def zonal_about(grid: grids.Grid, degree: int, latitude: float, longitude: float) -> np.ndarray:
    """Legendre's polynomial about some axis: its power lies at one total wavenumber and is 1 / (2 n + 1)."""
    axis = grids.unit_vectors(np.array(latitude), np.array(longitude))
    return np.asarray(eval_legendre(degree, grid.xyz @ axis))


def scored(grid: grids.Grid, members: np.ndarray, truth: np.ndarray, label: str = "mine") -> Scores:
    scorer = Scorer(grid, METRICS, Regions(grid, ("globe", "n.hem")))
    sums = scorer.zeros(label, len(members), ("z",), np.array([START]), np.array([DAY // 2, DAY]))
    for lead in (DAY // 2, DAY):
        scorer.add(sums, "z", START, lead, members, truth)
    sums = sums.compact()
    metrics = compute_metrics(sums, scorer.metrics)
    return Scores(Path("made-up"), {"starts": ["2001-01-01"]}, {label: sums}, {label: metrics})


EVEN, ODD = grids.global_latlon(36, 72), grids.global_latlon(37, 72)


@pytest.mark.parametrize(("grid", "tolerance"), [(grids.gaussian(24), 1e-6), (EVEN, 0.01), (ODD, 0.01)])
def test_power_lies_at_the_wavenumber_of_the_field_whatever_its_direction(grid: grids.Grid, tolerance: float) -> None:
    truth = 7.0 + 3.0 * zonal_about(grid, 5, 40.0, 30.0) + 2.0 * zonal_about(grid, 11, -20.0, 250.0)
    expected = np.zeros(scales.truncation(grid) + 1)
    expected[[0, 5, 11]] = 49.0, 9.0 / 11, 4.0 / 23
    members = np.stack([truth, -2.0 * truth])
    power = scored(grid, members, truth).metrics["mine"].isel(variable=0, region=0).sel(lead_time=DAY)
    assert np.allclose(power["spectrum_truth"], expected, atol=tolerance * expected.max(), rtol=0)
    assert np.allclose(power["spectrum_ratio"][[0, 5, 11]], 2.5, rtol=1e-5)  # (1 + 4) / 2
    assert power["spectrum_truth"].sum() == pytest.approx(
        (grid.areas @ truth**2) / (4 * np.pi), rel=max(1e-6, tolerance)
    )


def test_spectra_are_of_the_globe_at_whole_days() -> None:
    grid = grids.gaussian(8)
    field = seeding.normal(seeding.key(1, "f"), grid.size).astype(np.float32)
    found = scored(grid, field[None], field).metrics["mine"]["spectrum_ratio"].isel(variable=0)
    there = found.notnull().all(scales.AXIS)
    assert there.sel(region="globe").values.tolist() == [False, True] and not there.sel(region="n.hem").any()
    broken = field.copy()
    broken[3] = np.nan
    assert scored(grid, broken[None], field).metrics["mine"]["spectrum_members"].isnull().all()


def test_other_grids_have_none() -> None:
    for grid in (grids.octahedral(4), grids.latlon(np.linspace(60, 30, 6), np.arange(0.0, 40.0, 5.0))):
        assert Scorer(grid, METRICS).metrics == ()


def test_the_table_says_how_far_members_are_from_the_truth_and_from_another_ensemble() -> None:
    grid = grids.gaussian(12)
    truth = sum(zonal_about(grid, n, 10.0 * n, 30.0) for n in range(12))
    louder = truth + 0.5 * zonal_about(grid, 4, 40.0, 30.0)  # 1.5^2 of the power there
    both = scored(grid, louder[None], truth)
    both.metrics["perfect"] = scored(grid, truth[None], truth).metrics["mine"]

    def cells(**asked: str) -> list[list[str]]:
        return [list(column.cells) for column in spectra_table(both, lead="1d", **asked).columns]

    rows, mine, perfect = cells(wavenumbers="2-8")
    assert rows == ["z", "mean over variables", "within 20%"]
    assert mine == ["1.00 to 2.25", "1.00 to 2.25", "6 of 7"] and perfect[0] == "1.00 to 1.00"
    assert cells(wavenumbers="5-8", against="perfect")[1] == ["1.00 to 1.00", "1.00 to 1.00", "4 of 4"]
    for asked, words in (
        ({"lead": "12h"}, "no spectra at 12h"),
        ({"lead": "9d"}, "no lead 9d: choose from 12h, 1d"),
        ({"lead": "1d", "wavenumbers": "2-40"}, "total wavenumbers 0-11, not 2-40"),
        ({"lead": "1d", "wavenumbers": "8"}, "write it like 2-15"),
        ({"lead": "1d", "wavenumbers": "2-8", "against": "ours"}, "no `ours`: choose from truth, mine, perfect"),
    ):
        with pytest.raises(ForecastError, match=words):
            spectra_table(both, **asked)
