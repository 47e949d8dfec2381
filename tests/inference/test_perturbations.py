"""Perturbations: their size, correlation, mean and growth are what they are said to be."""

import numpy as np
import pytest

from forecast import planet
from forecast.core import grids
from forecast.core.errors import ForecastError
from forecast.core.sphere import great_circle
from forecast.core.store import Store
from forecast.inference.perturbations import error
from forecast.inference.perturbations.analyses import Ensemble
from forecast.inference.perturbations.base import Members
from forecast.inference.perturbations.dynamic import Bred, Lagged
from forecast.inference.perturbations.random import EARTH_KM, Correlated, Gaussian, power
from forecast.planet import forcing
from forecast.planet.climate import Climate
from forecast.planet.fields import Fields
from forecast.planet.model import Model
from forecast.planet.years import initial_states
from tests import tiny

NAMES = ("z_500", "z_850", "t_850", "q_850", "tp")
ERROR = np.array([100.0, 60.0, 0.5, 1e-3, 0.0])
START = np.datetime64("2001-02-03T00", "s")
HOURS = np.timedelta64(6, "h")
DATES = START + np.arange(-1, 1) * HOURS


def states(points: int) -> np.ndarray:
    """(2, V, G): two analyses, the moisture close to its lower bound."""
    means = np.array([5e4, 1.4e4, 280, 1e-4, 0], np.float32)[:, None]
    return np.repeat(np.broadcast_to(means, (5, points))[None], 2, axis=0)


def correlated(grid, length=1500.0, members=Members(), names=NAMES, size=ERROR) -> Correlated:  # noqa: B008
    return Correlated(names, size, members, 1, grid.latitudes, grid.longitudes, length)


@pytest.mark.parametrize("kind", ["gaussian", "correlated"])
def test_departures_have_the_size_of_the_analysis_error(kind) -> None:
    grid = grids.octahedral(8)
    made = Gaussian(NAMES, ERROR, Members(), 1) if kind == "gaussian" else correlated(grid)
    drawn = np.stack([made.departure(states(grid.size), DATES, START, number) for number in range(200)])
    ratio = drawn[:, :, :4].std(axis=0)[:4] / ERROR[:4, None]
    assert np.abs(ratio.mean(axis=1) - 1).max() < 0.06 and (drawn[:, 4] == 0).all()
    assert np.abs(drawn.mean(axis=0)[:4] / ERROR[:4, None]).mean() < 1.2 / np.sqrt(200)
    assert np.abs(ratio - 1).max() < 5 / np.sqrt(2 * 200), "also near the poles"


@pytest.mark.parametrize("length", [800.0, 2000.0])
@pytest.mark.parametrize("grid", [grids.gaussian(16), grids.octahedral(10)], ids=["rectilinear", "reduced"])
def test_correlation_falls_with_distance_as_stated(length, grid) -> None:
    """exp(-d^2 / 2 L^2) along a meridian and a parallel, from 1,500 fields; sampling error is 0.026."""
    fields = correlated(grid, length).patterns(7, 1500)
    assert fields.shape == (1500, grid.size) and np.abs(fields.var(axis=0) - 1).max() < 5 * np.sqrt(2 / 1500)
    place = int(np.argmin(np.abs(grid.latitudes - 40) + np.abs(grid.longitudes - 90)))
    xyz = grids.unit_vectors(grid.latitudes, grid.longitudes)
    distance = great_circle(xyz, xyz[place]) * EARTH_KM
    found = fields.T @ fields[:, place] / 1500
    near = distance < 3 * length
    expected = np.exp(-(distance**2) / (2 * length**2))
    assert near.sum() > 10 and np.abs(found - expected)[near].max() < 0.12
    assert np.abs(found - expected)[near].mean() < 0.035


def test_power_holds_all_of_the_variance() -> None:
    for length in (250.0, 1000.0):
        share = power(length)
        assert share.sum() == pytest.approx(1) and share[-1] < 1e-2 * share.max()
    assert len(power(250.0)) < 110


def test_levels_of_a_quantity_are_correlated_and_quantities_are_not() -> None:
    grid = grids.gaussian(8)
    made = correlated(grid)
    drawn = np.stack([made.departure(states(grid.size), DATES, START, number) for number in range(150)])
    table = np.corrcoef(drawn[:, :3, ::7].transpose(1, 0, 2).reshape(3, -1))
    assert table[0, 1] == pytest.approx(np.exp(-np.log(850 / 500) / 0.5), abs=0.06)
    assert abs(table[0, 2]) < 0.08


def test_pairs_are_centred_on_the_analysis_and_the_control_is_it() -> None:
    grid = grids.gaussian(8)
    given = states(grid.size)
    made = correlated(grid, members=Members(control=True)).perturb(given, DATES, START, range(7))
    assert made.dtype == np.float32 and made.shape == (7, 2, 5, grid.size)
    assert np.array_equal(made[0], given) and not np.array_equal(made[1], given)
    dry = made[1:, :, :3].astype(np.float64)
    for a, b in zip(dry[::2], dry[1::2], strict=True):
        assert np.abs((a + b) / 2 - given[:, :3]).max() <= np.spacing(np.float32(5e4)), "to the rounding of float32"
    assert made[:, :, 3].min() == 0, "moisture stays above its bound"
    assert np.array_equal(made[:, 0] - given[0], made[:, 1] - given[1]), "one error for all dates"


@pytest.mark.parametrize("members", [Members(), Members(control=True), Members(paired=False)])
def test_member_is_a_function_of_its_number(members) -> None:
    grid = grids.gaussian(8)
    for made in (correlated(grid, members=members), Gaussian(NAMES, ERROR, members, 1)):
        together = made.perturb(states(grid.size), DATES, START, range(6))
        for k in (5, 0, 3):
            assert np.array_equal(made.perturb(states(grid.size), DATES, START, [k])[0], together[k])
        other = made.perturb(states(grid.size), DATES, START + HOURS, range(6))
        assert (together[2, 0, :3] != other[2, 0, :3]).mean() > 0.5
        assert len(np.unique(together[:, 0, 0, 0])) >= 5


class Planet:
    """The sample planet's own model and a week of its trajectory as analyses."""

    step = HOURS

    def __init__(self) -> None:
        self._model = Model(21)
        self._fields = Fields(self._model.sphere)
        self.analysis = self
        self.grid = planet.grid(21)
        self.dates = START + np.arange(-20, 5) * HOURS
        state = initial_states(self._model, Climate(self._model.sphere), [3], self.dates[:1])
        out = []
        for now in self.dates:
            rain = np.zeros((64, 32, 1), np.float32) if not out else rain  # noqa: F821
            season = np.array([forcing.season(now)])
            out.append(self._fields.derive(self._model.invert(state), state[..., 3], rain, season)[0])
            state, rain = self._model.six_hours(state, season)
        self.data = np.stack(out)

    def index(self, when) -> int:
        return int(np.flatnonzero(self.dates == when)[0])

    def read(self, times, variables=None) -> np.ndarray:
        return self.data[times]

    def advance(self, window, date) -> np.ndarray:
        season = np.full(1, forcing.season(date))
        out = []
        for member in window[:, -1]:
            psi, s = self._fields.recover(member[None])
            state = self._model.vorticity(psi)
            state[..., 3] = s
            state, rain = self._model.six_hours(state, season)
            out.append(
                self._fields.derive(
                    self._model.invert(state), state[..., 3].copy(), rain, np.full(1, forcing.season(date + HOURS))
                )[0]
            )
        return np.stack(out)


@pytest.fixture(scope="module")
def dynamics() -> Planet:
    return Planet()


@pytest.fixture(scope="module")
def about(dynamics) -> tuple:
    """Variables, and an error of a tenth of what they vary by; rain stays as it is."""
    size = 0.1 * dynamics.data.std(axis=0).mean(axis=-1)
    size[planet.variables.index("tp")] = 0
    return planet.variables, size, Members()


def test_bred_vectors_grow_along_the_fastest_directions(dynamics, about) -> None:
    """Over the next day they grow by more than noise of the same size that breeding began with, and two of them are
    more alike than that noise: they turn to what grows."""
    noise = Correlated(*about, 1, dynamics.grid.latitudes, dynamics.grid.longitudes, 1000.0)
    bred = Bred(noise, dynamics, 1, cycles=20)
    analysis = dynamics.read(np.array([dynamics.index(START)]))

    def grown(departure: np.ndarray) -> float:
        pair, date = np.stack([analysis, analysis + departure]).astype(np.float32), START
        for _ in range(4):
            pair, date = dynamics.advance(pair, date)[:, None], date + HOURS
        return bred.size((pair[1] - pair[0]).astype(np.float64))

    vectors = [bred.departure(analysis, DATES[1:], START, number) for number in (0, 1)]
    noises = [bred.scaled(noise.departure(analysis, DATES[1:], START, number)[None]) for number in (0, 1)]
    assert [bred.size(v) for v in (*vectors, *noises)] == pytest.approx([1] * 4)
    growth, growth_of_noise = [grown(v) for v in vectors], [grown(v) for v in noises]
    assert np.log(min(growth)) > 1.4 * np.log(max(growth_of_noise)), (growth, growth_of_noise)

    def likeness(a: np.ndarray, b: np.ndarray) -> float:
        z = planet.variables.index("z_500")
        return abs(float(np.corrcoef(a[0, z], b[0, z])[0, 1]))

    assert likeness(*vectors) > likeness(*noises)
    assert np.array_equal(bred.needs(START), START - np.arange(21) * HOURS)


def test_lagged_departures_mix_errors_of_earlier_forecasts(dynamics, about) -> None:
    class Drifting(Planet):
        """A forecaster that is wrong: it adds to the truth what grows with every step."""

        def __init__(self, other) -> None:
            self.__dict__ |= other.__dict__
            self.analysis = self

        def advance(self, window, date) -> np.ndarray:
            error = window[:, -1] - self.data[self.index(date)]
            pattern = np.sin(np.arange(self.grid.size) * (1 + self.index(date) % 3))
            return self.data[self.index(date + HOURS)] + 1.5 * error + 0.01 * pattern * about[1][:, None]

    lagged = Lagged(*about, Drifting(dynamics), 2, lags=3)
    found = lagged.differences(START)
    assert found.shape == (3, 2, len(planet.variables), dynamics.grid.size)
    assert [lagged.size(one) for one in found] == pytest.approx([1, 1, 1]) and (found[0, 0] == 0).all()
    departures = [lagged.departure(dynamics.data[:2], DATES, START, number) for number in range(5)]
    assert [lagged.size(one) for one in departures] == pytest.approx([1] * 5)
    flat = np.stack(
        [one[-1].ravel() / np.repeat(np.maximum(about[1], 1e-30), dynamics.grid.size) for one in departures]
    )
    flat[:, np.repeat(about[1] == 0, dynamics.grid.size)] = 0
    assert np.linalg.matrix_rank(flat, tol=1e-3 * np.linalg.norm(flat)) == 3, "mixtures of three differences"
    assert np.array_equal(lagged.needs(START), START - np.arange(5) * HOURS)


class Analyses:
    """An ensemble of analyses: member k of 4 is 10 k above the first at all dates."""

    ensemble, path = 4, "eda.zarr"

    def index(self, when) -> int:
        return 0

    def read(self, times, variables, member=0) -> np.ndarray:
        return states(6)[: len(times)] + np.float32(10 * member)


@pytest.mark.parametrize("control", [False, True])
def test_ensemble_of_analyses_is_recentred_on_the_analysis(control) -> None:
    given = states(6) + np.float32(3)
    made = Ensemble(NAMES, ERROR, Analyses(), 1.0, control).perturb(given, DATES, START, range(5))
    shift = [-15.0, -5.0, 5.0, 15.0, -15.0]
    expected = [0.0, *shift[:4]] if control else shift
    assert (made[:, 1, 0] - given[1, 0]).mean(axis=1).tolist() == expected
    assert made[control : control + 4, :, :3].mean(axis=0) == pytest.approx(given[:, :3], abs=1e-2)
    assert np.array_equal(made[:, :, 4], np.repeat(given[None, :, 4], 5, axis=0)), "rain stays as it is"


def test_ensemble_of_analyses_as_it_is() -> None:
    made = Ensemble(NAMES, ERROR, Analyses(), recentred=False).perturb(states(6) + 3, DATES, START, [0, 3, 4])
    assert np.array_equal(made[:, :, :3], np.stack([states(6) + 10 * k for k in (0, 3, 0)])[:, :, :3])
    single = Analyses()
    single.ensemble = 1
    with pytest.raises(ForecastError, match="eda.zarr holds single analyses, no ensemble"):
        Ensemble(NAMES, ERROR, single)


def test_analysis_error_is_estimated_from_the_stores(tmp_path) -> None:
    truth, analysis = tiny.stores(tmp_path)
    names = ("z_500", "t_850")
    assert error.against_truth(analysis, truth, names) == pytest.approx([100, 0.3], rel=0.05)
    assert error.of_tendencies(truth, names) == pytest.approx(0.2 * truth.tendencies["stdev"][:2])
    with pytest.raises(ForecastError, match="holds single analyses"):
        error.of_ensemble(truth, names)


def test_analysis_error_of_an_ensemble_is_its_spread(tmp_path, monkeypatch) -> None:
    store = Store.open(tiny.make(tmp_path))
    store.ensemble = 3
    values = np.array([[1.0, 5.0], [2.0, 5.0], [3.0, 8.0]], np.float32)
    monkeypatch.setattr(store, "read", lambda time, names, member: np.tile(values[member][:, None], (1, 1, 128)))
    assert error.of_ensemble(store, ("z_500", "t_850")) == pytest.approx([1.0, np.sqrt(3.0)])
