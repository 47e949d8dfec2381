"""Whether the planet looks like weather: figures of a run of 8 x 50 days, in January and in July."""

import numpy as np
import pytest

from forecast.planet import forcing
from forecast.planet.climate import ANALYSIS_ERROR, Climate, annual, table_path
from forecast.planet.fields import STATIC, VARIABLES, Fields
from forecast.planet.settings import RADIUS, ROWS

WINTER = {"january": slice(0, 16), "july": slice(16, 32)}  # rows of the winter hemisphere
SUMMER = {"january": slice(16, 32), "july": slice(0, 16)}


def transient(field: np.ndarray) -> np.ndarray:
    """Less the mean over time and members."""
    return field - field.mean((0, 1))


@pytest.mark.parametrize("season", ["january", "july"])
def test_jets(run, season):
    u = {level: run.season(f"u_{level}", season).mean((0, 1, 3)) for level in (200, 500, 800)}
    assert 20 < u[200][WINTER[season]].max() < 45
    assert 15 < u[200][SUMMER[season]].max() < 40
    assert u[500][WINTER[season]].max() > 12 and (u[200] > u[800] - 1).all()
    latitude = np.abs(run.model.sphere.grid.rows[WINTER[season]][u[200][WINTER[season]].argmax()])
    assert 30 < latitude < 60
    tropics = np.abs(run.model.sphere.grid.rows) < 20
    assert u[800][tropics].mean() < -1  # trade winds


@pytest.mark.parametrize("season", ["january", "july"])
def test_transient_eddies(run, season):
    z = transient(run.season("z_500", season)) / 9.80665
    per_row = np.sqrt((z**2).mean((0, 1, 3)))
    middle = np.abs(np.abs(run.model.sphere.grid.rows) - 50) < 12
    assert 30 < np.sqrt((z**2).mean((0, 1)).ravel() @ run.weights) < 150
    assert 30 < per_row[middle].mean() < 180 and per_row[middle].mean() > 2.5 * per_row[14:18].mean()


def test_kinetic_energy_falls_with_wavenumber(run):
    sphere = run.model.sphere
    n = np.arange(sphere.truncation + 1)
    power = np.mean([sphere.power(psi[..., 1]).mean(-1) for psi in run.psi[::5]], 0)
    energy = n * (n + 1) / 2 * power * RADIUS**2
    assert energy[6:10].mean() > 1.5 * energy[11:14].mean() > 2 * energy[17:20].mean()
    slope = np.polyfit(np.log(n[8:20]), np.log(energy[8:20]), 1)[0]
    assert -4 < slope < -1.3


def test_small_errors_double_in_one_to_four_days(run):
    """Twins that differ by a thousandth of the climate's deviations, days 5 to 20."""
    sphere = run.model.sphere
    size = np.array([np.sqrt(sphere.power((a - b)[..., 1]).sum(0)) for a, b in zip(run.psi, run.twin, strict=True)])
    growth = np.log2(size[20] / size[5]).reshape(2, -1).mean(1) / 15
    assert (1 / growth > 1).all() and (1 / growth < 4).all()


def test_seasons(run):
    """Both hemispheres are colder, and their jets stronger, in their own winter."""
    for name, north_at_least, south_at_least in (("2t", 5, 1.5), ("t_650", 1.5, 1)):
        january, july = (run.season(name, s).mean((0, 1, 3)) for s in ("january", "july"))
        north, south = slice(3, 10), slice(-10, -3)
        assert (july - january)[north].mean() > north_at_least and (january - july)[south].mean() > south_at_least
    january, july = (run.season("u_200", s).mean((0, 1, 3)) for s in ("january", "july"))
    assert january[:16].max() > july[:16].max() + 4 and july[16:].max() > january[16:].max() + 2


def test_dry_and_wet_regions(run):
    daily = 4000 * np.concatenate([run.season("tp", s) for s in ("january", "july")], 1)  # mm a day
    mean = daily.mean((0, 1))
    weights = run.weights.reshape(mean.shape)
    assert 2 < (mean * weights).sum() < 4.5
    assert weights[mean < 1.2].sum() > 0.04 and weights[mean > 4].sum() > 0.1
    assert 0.1 < (((daily > 0.4).mean((0, 1))) * weights).sum() < 0.7
    itcz = [run.season("tp", s).mean((0, 1, 3))[12:20].argmax() for s in ("july", "january")]
    assert itcz[0] < itcz[1]  # the tropical rain follows the sun


RANGES = {
    "z_200": (9e4, 1.3e5), "z_500": (4e4, 6.3e4), "z_800": (5e3, 2.8e4), "t_350": (180, 265), "t_650": (200, 300),
    "q_800": (0, 0.025), "tp": (0, 0.1), "msl": (8.6e4, 1.1e5), "2t": (190, 325), "z": (0, 4.2e4), "lsm": (0, 1),
}  # fmt: skip


def test_units(run):
    assert np.isfinite(run.fields).all() and run.fields.dtype == np.float32
    for k, name in enumerate(VARIABLES):
        low, high = RANGES.get(name, (-130, 130))
        field = run.fields[:, :, k]
        assert low <= field.min() and field.max() <= high, name
    mean = run.fields.mean((0, 1)) @ run.weights
    assert mean[VARIABLES.index("msl")] == pytest.approx(101_325, abs=500)
    assert mean[VARIABLES.index("2t")] == pytest.approx(288, abs=3)


def test_analysis_errors_are_a_tenth_of_every_variable(run):
    model, fields = run.model, Fields(run.model.sphere)
    climate = Climate(model.sphere)
    error = {}
    square = {name: 0.0 for name in VARIABLES}
    for t in (10, 25, 40):
        when = run.when[t]
        keys = [1000 * t + k for k in range(when.size)]
        deviation = climate.deviations(keys, when) * np.float32(ANALYSIS_ERROR)
        psi, s = fields.recover(run.fields[t])
        rain = model.sphere.from_rows(run.fields[t][:, VARIABLES.index("tp")])
        states = [(psi, s), (psi + deviation[..., [0, 1, 2, 2]], s + deviation[..., 3])]
        plain, wrong = (fields.derive(*state, rain, forcing.season(when)) for state in states)
        for k, name in enumerate(VARIABLES):
            square[name] += float(((wrong - plain)[:, k].astype(float) ** 2).mean(0) @ run.weights) / 3
    for name in VARIABLES:
        if name in (*STATIC, "tp"):
            assert square[name] == 0
            continue
        parts = [transient(run.season(name, s).astype(float)) for s in ("january", "july")]
        variance = np.mean([(p**2).mean((0, 1)).ravel() @ run.weights for p in parts])
        error[name] = np.sqrt(square[name] / variance)
    assert all(0.08 < ratio < 0.14 for ratio in error.values()), error  # 400 days know a std to 10 percent or so


def test_deviations_have_the_variance_of_the_table(run):
    sphere = run.model.sphere
    climate = Climate(sphere)
    when = np.full(300, np.datetime64("2001-04-20", "s"))  # season 0: no amplitude
    drawn = climate.deviations(list(range(300)), when)
    total = [sphere.power(drawn[..., k]).mean(-1).sum() for k in range(4)]
    mix = np.einsum("nkj,nkj,n->j", climate._mix, climate._mix, 2 * np.arange(22) + 1.0)
    square = np.average(climate._profile[:, 0] ** 2, axis=0, weights=run.weights.reshape(32, 64).sum(1))
    np.testing.assert_allclose(total, mix * square, rtol=0.06)  # 300 draws of some 300 numbers; truncation takes 1 %


def test_a_deviation_depends_on_its_key_alone(run):
    climate = Climate(run.model.sphere)
    when = np.full(3, np.datetime64("2001-02-01", "s"))
    together = climate.deviations([7, 8, 9], when)
    alone = climate.deviations([8], when[:1])
    np.testing.assert_allclose(together[..., 1:2, :], alone, atol=1e-5 * np.abs(alone).max(), rtol=0)
    assert np.abs(together[..., 0, :] - together[..., 1, :]).max() > 0.1 * np.abs(alone).max()


def test_tables_are_packaged_for_every_truncation():
    assert all(table_path(truncation).is_file() for truncation in ROWS)


def test_annual_wave_meets_itself_at_new_year():
    ends = annual(np.array(["2001-01-01T00", "2001-12-31T18", "2002-01-01T00"], "datetime64[s]"))
    np.testing.assert_allclose(ends[0], ends[2])
    np.testing.assert_allclose(ends[1], ends[2], atol=0.01)


@pytest.mark.slow
def test_the_table_is_what_the_model_does(run):
    """Made again from other years: variances per wavenumber within sampling noise of the packaged ones."""
    from forecast.planet.tabulate import describe, sample

    fields, when = sample(21, 4, seed=99)
    again = describe(run.model.sphere, fields, when)
    packaged = Climate(run.model.sphere)
    waves = 2 * np.arange(22) + 1.0
    covariance = np.einsum("njk,njl->nkl", packaged._mix, packaged._mix) * waves[:, None, None]
    for level in range(3):
        made = np.array(again["streamfunction"])[:, level, level]
        assert 0.8 < made.sum() / covariance[:, level, level].sum() < 1.25
        np.testing.assert_allclose(np.log(made[4:] / covariance[4:, level, level]), 0, atol=0.5)
