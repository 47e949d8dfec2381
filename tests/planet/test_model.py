"""The dynamics against conservation laws and exact waves."""

import numpy as np
import pytest

from forecast.core.errors import ForecastError
from forecast.planet import forcing
from forecast.planet.climate import Climate
from forecast.planet.model import Model
from forecast.planet.settings import IMPERFECT, PERFECT, ROTATION, Settings, settings
from forecast.planet.years import initial_states

WINTER = np.array(["2001-01-15T00"], "datetime64[s]")


def inviscid(orography: float = 1.0) -> Model:
    return Model(21, Settings("inviscid", drag=0.0, relaxation=0.0, orography=orography, diffusion=0.0), np.float64)


def dry_steps(model: Model, state: np.ndarray, steps: int) -> np.ndarray:
    """Steps without moisture, which has sources of its own."""
    season = np.zeros(state.shape[3])
    state = state.copy()
    for _ in range(steps):
        state, _ = model.advance(state, season)
        state[..., 3] = 0
    return state


def weather(model: Model, members: int = 1) -> np.ndarray:
    state = initial_states(model, Climate(model.sphere), list(range(members)), np.repeat(WINTER, members))
    state[..., 3] = 0
    return state


def test_inversion_is_undone_by_vorticity():
    model = inviscid()
    state = weather(model)
    np.testing.assert_allclose(model.vorticity(model.invert(state)), state, atol=1e-12 * np.abs(state).max())


def invariants(model: Model, state: np.ndarray) -> np.ndarray:
    """Total energy (up to sign and factors) and potential enstrophy on each level."""
    energy = -sum(model.sphere.cross_power(model.invert(state)[..., k], state[..., k]).sum() for k in range(3))
    absolute = state + model._planetary
    return np.array([energy, *(model.sphere.power(absolute[..., k]).sum() for k in range(3))])


def test_energy_and_potential_enstrophy_are_conserved():
    """T21 products are free of aliasing on 32x64 points, so only the time scheme (order 4) can lose anything."""
    model = inviscid()
    state = weather(model)
    before = invariants(model, state)
    drift = []
    for step, steps in ((7200.0, 24), (3600.0, 48)):
        model.step = step
        drift.append(np.abs(invariants(model, dry_steps(model, state, steps)) / before - 1))
    assert (drift[0] < 1e-4).all()
    assert (drift[1] < drift[0] / 12).all()  # halving the step: 2^4 for order 4, with a margin


def test_friction_and_diffusion_take_energy():
    for drag, diffusion in ((1.0, 0.0), (0.0, 1.0)):
        model = Model(21, Settings("dissipative", drag=drag, relaxation=0.0, diffusion=diffusion), np.float64)
        state = weather(model)
        assert invariants(model, dry_steps(model, state, 4))[0] < invariants(model, state)[0]


def test_rossby_haurwitz_wave_moves_at_its_exact_speed():
    """Haurwitz (1940): solid rotation w plus Y_n^m turns, unchanged, at w - 2 (Omega + w) / (n (n + 1))."""
    model = inviscid(orography=0.0)
    m, n, w = 4, 5, 6e-6
    psi = np.zeros((22, 2, 22, 1, 4))
    psi[0, 0, 1] = -w / np.sqrt(3.0)
    psi[m, 0, n] = 2e-7
    steps = 24
    after = model.invert(dry_steps(model, model.vorticity(psi), steps))
    speed = w - 2 * (ROTATION + w) / (n * (n + 1))
    angle = m * speed * steps * model.step
    expected = 2e-7 * np.array([np.cos(angle), -np.sin(angle)])
    for level in range(3):
        np.testing.assert_allclose(after[m, :, n, 0, level], expected, atol=2e-7 * 1e-4)  # RK4 at 3 h steps
    after[m, :, n], after[0, 0, 1] = 0, 0
    assert np.abs(after).max() < 1e-14


@pytest.mark.parametrize("mode", range(3))
def test_each_vertical_mode_is_a_rossby_wave_at_rest(mode):
    """Frequency -2 Omega m / (n (n + 1) + mu) with the mode's eigenvalue -mu of the coupling between levels."""
    model = inviscid(orography=0.0)
    eigenvalues, vectors = np.linalg.eigh(model._coupling[:3, :3])
    m, n = 3, 7
    psi = np.zeros((22, 2, 22, 1, 4))
    psi[m, 0, n, 0, :3] = 1e-7 * vectors[:, mode]
    psi[..., 3] = psi[..., 2]
    steps = 16
    after = model.invert(dry_steps(model, model.vorticity(psi), steps))
    angle = -2 * ROTATION * m / (n * (n + 1) - eigenvalues[mode]) * steps * model.step
    np.testing.assert_allclose(after[m, 0, n, 0, :3], psi[m, 0, n, 0, :3] * np.cos(angle), atol=1e-11)
    np.testing.assert_allclose(after[m, 1, n, 0, :3], -psi[m, 0, n, 0, :3] * np.sin(angle), atol=1e-11)


def test_radiative_equilibrium_is_not_relaxed():
    model = Model(21, dtype=np.float64)
    e0, e1 = forcing.equilibrium(model.sphere)
    difference = e0 + 0.3 * e1
    psi = np.stack([difference[..., 0], 0 * difference[..., 0], -difference[..., 1], -difference[..., 1]], -1)
    equilibrium = model.equilibrium(np.array([0.3]))
    _, fields = model.tendency(model.vorticity(psi), equilibrium)
    assert np.abs(fields["relaxation"]).max() < 1e-12 * np.abs(equilibrium).max()


def test_a_trajectory_does_not_feel_its_neighbours():
    """Alone and within a batch: equal but for the rounding of differently shaped float32 products."""
    model = Model(21)
    many = initial_states(model, Climate(model.sphere), [1, 2, 3], np.repeat(WINTER, 3))
    alone = np.ascontiguousarray(many[..., 1:2, :])
    for _ in range(8):
        many, rain_many = model.six_hours(many, np.zeros(3))
        alone, rain = model.six_hours(alone, np.zeros(1))
    scale = np.abs(many).max(axis=(0, 1, 2, 3))
    assert (np.abs(many[..., 1:2, :] - alone).max(axis=(0, 1, 2, 3)) < 2e-5 * scale).all()
    assert np.abs(rain_many[..., 1:2] - rain).max() < 1e-3 * rain.max()


def test_the_same_start_gives_the_same_bits():
    model = Model(21)
    start = initial_states(model, Climate(model.sphere), [5], WINTER)
    np.testing.assert_array_equal(*(Model(21).six_hours(start, np.ones(1))[0] for _ in range(2)))


def test_t31_runs_and_agrees_with_t21_at_first():
    """The same smooth state at both truncations: large scales after a day differ by the missing scales only."""
    coarse, fine = Model(21), Model(31)
    psi = Climate(coarse.sphere).mean(WINTER)
    psi[..., 3] = 0
    psi[4, 0, 8, 0, :3] = 2e-7
    wide = np.zeros((32, 2, 32, 1, 4), np.float32)
    wide[:22, :, :22] = psi
    states = [model.vorticity(p) for model, p in ((coarse, psi), (fine, wide))]
    for k, model in enumerate((coarse, fine)):
        for _ in range(4):
            states[k], _ = model.six_hours(states[k], np.ones(1))
    a, b = coarse.invert(states[0])[:11, :, :11, ..., 1], fine.invert(states[1])[:11, :, :11, ..., 1]
    assert np.abs(a - b).max() < 0.05 * np.abs(a - psi[:11, :, :11, ..., 1]).max()


def test_settings():
    assert settings("perfect") is PERFECT
    assert (IMPERFECT.drag, IMPERFECT.relaxation, IMPERFECT.orography, IMPERFECT.diffusion) == (0.7, 1.3, 0.8, 2.0)
    with pytest.raises(ForecastError, match="perfect and imperfect"):
        settings("ideal")
