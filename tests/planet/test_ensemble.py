"""Physics ensembles: the same analyses, the same members, whichever are asked for."""

import numpy as np
import pytest

from forecast import planet
from forecast.core.errors import ForecastError
from forecast.planet import forcing
from forecast.planet.climate import Climate
from forecast.planet.fields import Fields
from forecast.planet.model import Model
from forecast.planet.years import initial_states

START = np.datetime64("2001-02-01T00", "s")
PHI = planet.variables.index("z_500")


class Analyses:
    """Two days of a trajectory, as a store of analyses without error."""

    def __init__(self) -> None:
        model = Model(21)
        fields = Fields(model.sphere)
        state = initial_states(model, Climate(model.sphere), [3], np.array([START]))
        rain = np.zeros((64, 32, 1), np.float32)
        self.dates = START + np.arange(9) * np.timedelta64(6, "h")
        out = []
        for now in self.dates:
            season = np.array([forcing.season(now)])
            out.append(fields.derive(model.invert(state), state[..., 3], rain, season)[0])
            state, rain = model.six_hours(state, season)
        self.data = np.stack(out)

    def index(self, when):
        return int(np.flatnonzero(self.dates == when)[0])

    def read(self, times, variables=None):
        assert tuple(variables) == planet.variables
        return self.data[times]


@pytest.fixture(scope="module")
def analyses() -> Analyses:
    return Analyses()


def test_the_perfect_model_continues_a_stored_trajectory(analyses):
    """From fields rounded to float32; a week later rounding would have grown, two days later it has not."""
    system = planet.PhysicsSystem(analyses, "perfect", perturbed=False, block=1)
    states = np.stack([member[0] for member in system.forecast(START, [0], 8)])
    spread = analyses.data.std(axis=(0, 2), keepdims=True)
    departure = np.abs(states - analyses.data) / np.maximum(spread, 1e-12)
    dry = [k for k, name in enumerate(planet.variables) if name not in ("tp", "q_800")]
    assert departure[0, dry].max() < 1e-4
    assert departure[:, dry].max() < 2e-3
    assert departure.max() < 0.2 and departure.mean() < 1e-3  # stored q is never negative: moisture starts a bit off


def test_members_are_the_same_bits_in_any_company(analyses):
    system = planet.PhysicsSystem(analyses, block=4)
    several = list(system.forecast(START, [0, 2, 5], 2))
    for members in ([5], [2, 3], [5, 0]):
        for step, states in enumerate(system.forecast(START, members, 2)):
            for place, member in enumerate(members):
                if member in (0, 2, 5):
                    np.testing.assert_array_equal(states[place], several[step][[0, 2, 5].index(member)])


def test_perturbations_are_those_of_the_systems(analyses):
    """Learnt forecasts perturb states with `Perturbations`, physics its own state: the same initial fields."""
    members = [0, 1, 2]
    first = next(planet.PhysicsSystem(analyses, seed=9, block=3).forecast(START, members, 0))
    states = planet.Perturbations(seed=9).perturb(analyses.data[:1], np.array([START]), START, members)[:, 0]
    for k, name in enumerate(planet.variables):
        scale = np.abs(first[:, k]).max()
        np.testing.assert_allclose(states[:, k], first[:, k], atol=1e-5 * max(scale, 1e-3), rtol=0, err_msg=name)


def test_both_physics_start_alike_and_part(analyses):
    runs = [list(planet.PhysicsSystem(analyses, name, block=2).forecast(START, [0, 1], 8))
            for name in ("perfect", "imperfect")]  # fmt: skip
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    assert np.abs(runs[0][8][:, PHI] - runs[1][8][:, PHI]).max() > 50


def test_a_window_gets_one_error(analyses):
    states = planet.Perturbations().perturb(analyses.data[:2], analyses.dates[:2], analyses.dates[1], [4])
    error = states[0, :, PHI] - analyses.data[:2, PHI]
    np.testing.assert_allclose(error[0], error[1], atol=0.2)  # float32 of 5e4 m2 s-2
    assert error.std() > 30


def test_perturbations_depend_on_seed_start_and_member(analyses):
    keys = ((1, START, 0), (2, START, 0), (1, analyses.dates[4], 0), (1, START, 1))
    draws = [planet.Perturbations(seed=seed).errors(start, [member]) for seed, start, member in keys]
    for other in draws[1:]:
        assert np.abs(draws[0] - other).max() > 0.1 * np.abs(draws[0]).max()


def test_bad_requests(analyses):
    with pytest.raises(ForecastError, match="perfect and imperfect"):
        planet.PhysicsSystem(analyses, "ideal")
    broken = Analyses.__new__(Analyses)
    broken.dates, broken.data = analyses.dates, np.full_like(analyses.data, np.nan)
    with pytest.raises(ForecastError, match="no whole state"):
        next(planet.PhysicsSystem(broken).forecast(START, [0], 1))


def test_attributes(analyses):
    system = planet.PhysicsSystem(analyses, "imperfect")
    assert system.name == "imperfect" and system.variables == planet.variables
    assert system.grid.name == "gaussian-32x64" and system.step == np.timedelta64(6, "h")
