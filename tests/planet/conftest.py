"""One short run of the planet, in both seasons, shared by the tests of its climate."""

from dataclasses import dataclass

import numpy as np
import pytest

from forecast.planet import forcing
from forecast.planet.climate import Climate
from forecast.planet.fields import VARIABLES, Fields
from forecast.planet.model import Model
from forecast.planet.years import initial_states

SPIN_UP, DAYS, EACH = 25, 50, 4


@dataclass
class Run:
    """Daily states of 4 trajectories from 1 January and 4 from 1 July, and of their slightly perturbed twins.

    fields (T, 8, V, G); psi, twin (T, M, 2, N, 8, 4) streamfunctions; when (T, 8).
    """

    model: Model
    fields: np.ndarray
    psi: np.ndarray
    twin: np.ndarray
    when: np.ndarray

    def season(self, name: str, season: str) -> np.ndarray:
        """A variable as (T, members, latitude, longitude), in 'january' or 'july'."""
        part = {"january": slice(0, EACH), "july": slice(EACH, 2 * EACH)}[season]
        field = self.fields[:, part, VARIABLES.index(name)]
        return field.reshape(*field.shape[:2], *self.model.sphere.grid.shape)

    @property
    def weights(self) -> np.ndarray:
        """(G,) area weights that sum to 1."""
        return self.model.sphere.grid.areas / (4 * np.pi)


@pytest.fixture(scope="session")
def run() -> Run:
    """About 12 CPU seconds."""
    model = Model(21)
    climate, fields = Climate(model.sphere), Fields(model.sphere)
    now = np.repeat(np.array(["2001-01-01T00", "2001-07-01T00"], "datetime64[s]"), EACH)
    state = initial_states(model, climate, list(range(2 * EACH)), now)
    for _ in range(SPIN_UP * 4):
        state, _rain = model.six_hours(state, forcing.season(now))
        now = now + np.timedelta64(6, "h")
    psi = model.invert(state)
    psi[..., :3] += np.float32(1e-3) * climate.deviations(list(range(100, 100 + 2 * EACH)), now)[..., :3]
    twin = model.vorticity(psi)
    twin[..., 3] = state[..., 3]
    both = np.concatenate([state, twin], 3)
    out: list[tuple[np.ndarray, ...]] = []
    for _ in range(DAYS):
        for _ in range(4):
            both, rain = model.six_hours(both, forcing.season(np.tile(now, 2)))
            now = now + np.timedelta64(6, "h")
        psi = model.invert(both)
        half = slice(0, 2 * EACH)
        derived = fields.derive(psi[..., half, :], both[..., half, 3], rain[..., half], forcing.season(now))
        out.append((derived, psi[..., half, :], psi[..., 2 * EACH :, :], now))
    return Run(model, *(np.stack(arrays) for arrays in zip(*out, strict=True)))
