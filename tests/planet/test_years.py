"""The archive: time axis, slabs, missing dates, determinism."""

import numpy as np
import pytest

from forecast.core.archive_sections import PlanetSource
from forecast.planet import years
from forecast.planet.fields import VARIABLES

DAYS = 6


def source(**settings) -> PlanetSource:
    return PlanetSource(kind="planet", **settings)


@pytest.fixture
def short(monkeypatch):
    """Years of six days after a spin-up of one."""

    def year(number: int) -> np.ndarray:
        return np.datetime64(f"{number}-12-26T00", "s") + np.arange(4 * DAYS) * np.timedelta64(6, "h")

    monkeypatch.setattr(years, "_year", year)
    monkeypatch.setattr(years, "SPIN_UP_DAYS", 1)


def whole(source: PlanetSource, size: int = 64) -> tuple[np.ndarray, ...]:
    return tuple(np.concatenate(arrays) for arrays in zip(*years.archive(source, size), strict=True))


def test_time_axis():
    dates, missing = years.dates(source(years=4, first_year=2001))
    assert dates.size == 4 * 1460 + 4 and (np.diff(dates) == np.timedelta64(6, "h")).all()
    assert str(dates[0]) == "2001-01-01T00:00:00"
    assert [str(d) for d in dates[missing]] == [f"{y}-12-31T18:00:00" for y in range(2001, 2005)]


def test_slabs_cover_the_axis_in_order(short):
    config = source(years=5)
    sizes, seen = [], []
    for dates, truth, analysis in years.archive(config, 32):
        assert truth.shape == analysis.shape == (dates.size, len(VARIABLES), 2048) and truth.dtype == np.float32
        sizes.append(dates.size)
        seen.append(dates)
    assert sizes == [32, 32, 32, 24]
    np.testing.assert_array_equal(np.concatenate(seen), years.dates(config)[0])


def test_the_last_date_of_a_year_is_missing(short):
    config = source(years=2)
    _, truth, analysis = whole(config)
    missing = years.dates(config)[1]
    for data in (truth, analysis):
        assert np.isnan(data[missing]).all() and np.isfinite(data[~missing]).all()


def test_the_seed_decides(short):
    first, again, other = (whole(source(years=1, seed=seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first[1], again[1])
    np.testing.assert_array_equal(first[2], again[2])
    assert np.abs(first[1][0] - other[1][0]).max() > 10


def test_a_year_is_the_same_in_any_archive(short):
    """Alone, among five, and cut into other slabs."""
    alone, among = whole(source(years=1)), whole(source(years=5), 7)
    np.testing.assert_array_equal(alone[1], among[1][: 4 * DAYS])
    np.testing.assert_allclose(alone[2], among[2][: 4 * DAYS], rtol=1e-5, atol=1e-3)


def test_years_are_different_histories(short):
    _, truth, _ = whole(source(years=2))
    z = truth[:, VARIABLES.index("z_500")]
    assert np.abs(z[0] - z[4 * DAYS]).max() > 300


def test_the_analysis_errs_about_the_truth_without_memory(short):
    dates, truth, analysis = whole(source(years=2))
    k = VARIABLES.index("z_500")
    error = (analysis - truth)[:, k]
    good = np.isfinite(error[:, 0])
    assert 40 < error[good].std() < 140  # a tenth of some 900 m2 s-2
    size = error[good].std(axis=1)
    correlation = np.mean(error[good][1:] * error[good][:-1], axis=1) / (size[1:] * size[:-1])
    assert abs(correlation.mean()) < 0.1
    np.testing.assert_array_equal(analysis[:, VARIABLES.index("tp")], truth[:, VARIABLES.index("tp")])
    np.testing.assert_array_equal(analysis[:, -2:], truth[:, -2:])


def test_trajectories_are_continuous(short):
    _, truth, _ = whole(source(years=1))
    z = truth[: 4 * DAYS - 1, VARIABLES.index("z_500")]
    assert np.abs(np.diff(z, axis=0)).mean() < 0.3 * z.std(axis=0).mean() + 100
