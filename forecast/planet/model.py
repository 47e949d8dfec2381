"""The atmosphere: three-level quasi-geostrophic potential vorticity (Marshall and Molteni 1993) and moisture.

The state is one array (M, 2, N, B, 4) of spherical harmonic coefficients, B trajectories side by side: potential
vorticity at 200, 500, 800 hPa without its planetary and orographic parts (1/s), and moisture s, the specific
humidity at 800 hPa in units of a fixed profile q_ref(latitude). Lengths are in Earth radii, times in seconds.

    dq_i/dt = -J(psi_i, q_i + f (+ f h/H at 800 hPa)) - drag + relaxation - diffusion
    ds/dt   = -J(psi_3, s) + evaporation, vertical motion, condensation (moisture.py) - diffusion

J is the divergence of the flux of q by the rotational wind, so that means are conserved to rounding.
"""

from __future__ import annotations

import numpy as np

from forecast.core import grids
from forecast.core.sphere import Harmonics
from forecast.planet import forcing, surface
from forecast.planet.moisture import Moisture
from forecast.planet.settings import (
    DAY,
    OUTPUT_STEP,
    PERFECT,
    RADIUS,
    ROSSBY_RADII,
    ROTATION,
    ROWS,
    STEPS_PER_OUTPUT,
    Settings,
)

RELAXATION_DAYS = 25.0
DRAG_DAYS = 3.0
DIFFUSION_DAYS = 1.0
"""e-folding time of the smallest wave under the scale-selective (order 8) diffusion"""
MOISTURE_DIFFUSION = 4.0
"""diffusion of moisture as a multiple of that of vorticity"""
SCALE_HEIGHT = 9000.0
"""m, H in the orographic term"""


def grid(truncation: int) -> grids.Grid:
    """The Gaussian grid of a truncation: 32x64 for T21, 48x96 for T31."""
    return grids.gaussian(ROWS[truncation])


class Model:
    """Tendencies and time steps for a batch of trajectories.

    Attributes:
        sphere: the transforms. step: seconds of a Runge-Kutta step. steps_per_output: steps in 6 hours.
    """

    def __init__(self, truncation: int = 21, settings: Settings = PERFECT, dtype: type = np.float32) -> None:
        exact = Harmonics(truncation, grid(truncation))
        self.sphere = Harmonics(truncation, exact.grid, dtype)
        self.settings, self.dtype = settings, dtype
        self.steps_per_output = STEPS_PER_OUTPUT[truncation]
        self.step = float(OUTPUT_STEP / np.timedelta64(1, "s")) / self.steps_per_output

        def cast(a: np.ndarray) -> np.ndarray:
            return np.ascontiguousarray(a, dtype)

        coupling = _coupling((RADIUS / np.array(ROSSBY_RADII)) ** 2)
        eigenvalues, modes = np.linalg.eigh(coupling)
        self._coupling = cast(_to_four(coupling))
        self._from_modes = cast(modes.T[:, [0, 1, 2, 2]])
        self._to_modes = cast(np.vstack([modes, np.zeros(3)]))
        denominator = exact.laplacian[:, None] + eigenvalues
        denominator[0] = np.inf
        self._inverse = cast(1 / denominator)[:, None]
        order = (exact.laplacian / exact.laplacian[-1]) ** 4
        strength = np.array([1.0, 1.0, 1.0, MOISTURE_DIFFUSION])
        self._diffusion = cast(settings.diffusion / (DIFFUSION_DAYS * DAY) * order[:, None, None] * strength)
        rate = settings.relaxation / (RELAXATION_DAYS * DAY)
        self._relaxation = cast(-rate * _to_four(coupling))
        across = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, -1.0], [0.0, 0.0]])  # levels with these layer differences
        self._equilibrium = tuple(cast(rate * e @ (across.T @ _to_four(coupling))) for e in forcing.equilibrium(exact))
        lat, lon = exact.grid.latitudes, exact.grid.longitudes
        height, land = (exact.from_rows(f(lat, lon)) for f in (surface.orography, surface.land_sea_mask))
        self._planetary = cast(exact.to_spectral(_planetary(exact.grid.rows, settings.orography * height)))
        self._drag = cast(settings.drag * _drag(height, land))
        self.moisture = Moisture(self.sphere, height, land)

    def invert(self, vorticity: np.ndarray) -> np.ndarray:
        """Streamfunction (M, 2, N, B, 4) of a state (M, 2, N, B, 4): three levels and the lowest once more.

        The vertical modes of the coupling between levels make the inversion a division.
        """
        modes = _mix(vorticity, self._to_modes)
        modes *= np.repeat(self._inverse, modes.shape[-2], axis=1)
        return _mix(modes, self._from_modes)

    def vorticity(self, psi: np.ndarray) -> np.ndarray:
        """Potential vorticity (M, 2, N, B, 4) of a streamfunction (the fourth entry 0); undoes `invert`."""
        q = psi * self.sphere.laplacian.astype(self.dtype)[:, None, None]
        q[..., 3] = 0
        return q + _mix(psi, self._coupling)

    def equilibrium(self, season: np.ndarray) -> np.ndarray:
        """(M, 2, N, B, 4) tendency of potential vorticity that radiative equilibrium gives, for (B,) seasons."""
        e0, e1 = self._equilibrium
        return e0 + e1 * np.asarray(season, self.dtype)[:, None]

    def tendency(self, state: np.ndarray, equilibrium: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Time derivative of the state but for the sources of moisture, and what they need of the fields."""
        psi = self.invert(state)
        u, v = self.sphere.wind(psi)
        field = self.sphere.to_grid(state + self._planetary)
        east, north = u * field, v * field
        drag = np.repeat(self._drag, state.shape[-2], axis=-1)
        east[..., 2] += drag * v[..., 2]
        north[..., 2] -= drag * u[..., 2]
        change = -self.sphere.divergence(east, north)
        change -= np.repeat(self._diffusion, state.shape[-2], axis=1) * state
        relaxation = _mix(psi, self._relaxation)
        relaxation += equilibrium
        change += relaxation
        return change, {"psi": psi, "u": u, "v": v, "s": field[..., 3], "relaxation": relaxation}

    def advance(self, state: np.ndarray, season: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One Runge-Kutta (order 4) step; moisture's sources are added from the state at its beginning.

        Args:
            state: (M, 2, N, B, 4).
            season: (B,), see forcing.season.

        Returns:
            the state one step later and the rain of the step, (longitude, latitude, B) in m.
        """
        h, balance = self.step, self.equilibrium(season)
        k, fields = self.tendency(state, balance)
        source, rain = self.moisture.source(fields, self.invert(k), np.asarray(season, self.dtype), h)
        total = k.copy()
        for fraction, weight in ((0.5, 2), (0.5, 2), (1.0, 1)):
            k *= fraction * h
            k, _ = self.tendency(state + k, balance)
            total += weight * k
        total *= h / 6
        total += state
        total[..., 3] += source
        return total, rain

    def six_hours(self, state: np.ndarray, season: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The state 6 hours later and the rain in between, (longitude, latitude, B) in m."""
        state, total = self.advance(state, season)
        for _ in range(self.steps_per_output - 1):
            state, rain = self.advance(state, season)
            total += rain
        return state, total


def _mix(fields: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Multiply the last dimension of (M, ..., K) by (K, L), a product for each m."""
    flat = fields.reshape(fields.shape[0], -1, fields.shape[-1])
    return (flat @ matrix).reshape(*fields.shape[:-1], matrix.shape[-1])


def _coupling(stretching: np.ndarray) -> np.ndarray:
    """(3, 3), symmetric: what the streamfunctions of the three levels add to the potential vorticities."""
    a, b = stretching
    return np.array([[-a, a, 0.0], [a, -a - b, b], [0.0, b, -b]])


def _to_four(matrix: np.ndarray) -> np.ndarray:
    """Pad (3, 3) to (4, 4): nothing comes from or goes to the fourth entry."""
    return np.pad(matrix, (0, 1))


def _planetary(latitudes: np.ndarray, height: np.ndarray) -> np.ndarray:
    """(longitude, latitude, 1, 4): f, at the lowest level f (1 + h/H), and 0 for moisture."""
    f = np.broadcast_to(2 * ROTATION * np.sin(np.radians(latitudes)), height.shape)
    return np.stack([f, f, f * (1 + height / SCALE_HEIGHT), np.zeros_like(f)], -1)[..., None, :]


def _drag(height: np.ndarray, land: np.ndarray) -> np.ndarray:
    """(longitude, latitude, 1) Ekman drag in 1/s, twice as strong over high land (Marshall and Molteni 1993)."""
    return (1 + 0.5 * land + 0.5 * (1 - np.exp(-height / 1000.0)))[..., None] / (DRAG_DAYS * DAY)
