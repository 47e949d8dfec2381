"""Ensembles of the sample planet: perturbed analyses, and the physics systems that forecast from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from forecast.core import seeding
from forecast.core.errors import ForecastError
from forecast.core.sphere import Harmonics
from forecast.planet import forcing
from forecast.planet.climate import ANALYSIS_ERROR, Climate
from forecast.planet.fields import VARIABLES, Fields
from forecast.planet.model import Model, grid
from forecast.planet.settings import OUTPUT_STEP, settings


class Analyses(Protocol):
    """What is needed of a store of analyses (core/store.py)."""

    def index(self, when: np.datetime64) -> int:
        """Position of a date; ForecastError where it has none."""

    def read(self, times: np.ndarray, variables: Sequence[str] | None = None) -> np.ndarray:
        """(T, V, G) float32."""


class Perturbations:
    """Initial states of ensemble members: an analysis plus an error with the statistics of analysis errors.

    Member k's error is a function of (seed, start, k). A model that starts from several dates gets the same error on
    all of them, so that it sees no spurious tendency.
    """

    variables = VARIABLES
    stores = ()

    def __init__(self, truncation: int = 21, seed: int = 1) -> None:
        self.sphere = Harmonics(truncation, grid(truncation), np.float32)
        self.seed = seed
        self._fields, self._climate = Fields(self.sphere), Climate(self.sphere)

    def errors(self, start: np.datetime64, members: Sequence[int]) -> np.ndarray:
        """(M, 2, N, B, 4): errors of streamfunction on three levels (1/s) and of moisture for B members."""
        keys = [seeding.key(self.seed, "member", start, member) for member in members]
        return self._climate.deviations(keys, np.full(len(keys), start)) * ANALYSIS_ERROR

    def needs(self, start: np.datetime64) -> np.ndarray:
        """Dates (N,) whose analyses it reads itself: none."""
        return np.array([], "datetime64[s]")

    def perturb(self, states: np.ndarray, when: np.ndarray, start: np.datetime64, members: Sequence[int]) -> np.ndarray:
        """Perturbed copies of analyses.

        Args:
            states: (T, V, G) with all of `variables`; when: (T,) their dates.
            start: the initial time, which keys the error. members: numbers of the B members.

        Returns:
            (B, T, V, G) float32 with every variable derived anew; tp is the analysis's own.
        """
        psi, s = self._fields.recover(states)
        errors = [self.errors(start, [member]) for member in members]  # one by one: the same bits in any company
        rain = self.sphere.from_rows(states[:, VARIABLES.index("tp")])
        season = forcing.season(when)
        out = [
            self._fields.derive(psi[..., :3] + error[..., 0, None, :3], s + error[..., 0, None, 3], rain, season)
            for error in errors
        ]
        return np.stack(out)


class PhysicsSystem:
    """An ensemble of the planet's own model, with its own (`perfect`) or with wrong (`imperfect`) physics.

    The `perfect` one is the limit of predictability; `imperfect` (settings.py) is to the planet what a good
    operational model is to the Earth. Both start from the analyses that learnt forecasts start from.

    Attributes:
        name, variables, grid, step: what it is called, what it gives, where, how often.
    """

    variables = VARIABLES
    step = OUTPUT_STEP

    def __init__(
        self,
        analyses: Analyses,
        physics: str = "perfect",
        truncation: int = 21,
        seed: int = 1,
        perturbed: bool = True,
        block: int = 10,
    ) -> None:
        """Raises ForecastError for unknown physics.

        Args:
            analyses: where initial states are read from.
            seed: of the members' perturbations; they are the same for both kinds of physics.
            perturbed: whether members start from perturbed analyses or all from the analysis itself.
            block: members that are computed in one go, needed or not: member k always in place k % block, so that its
                fields are the same bits with whichever other members it is asked for.
        """
        self.name = physics
        self.grid = grid(truncation)
        self._analyses, self._perturbed, self.block = analyses, perturbed, block
        self._model = Model(truncation, settings(physics))
        self._fields = Fields(self._model.sphere)
        self._perturbations = Perturbations(truncation, seed)

    def forecast(self, start: np.datetime64, members: Sequence[int], steps: int) -> Iterator[np.ndarray]:
        """Forecast from one start.

        Args:
            start: initial time, a date of the analyses. members: numbers from 0. steps: of 6 hours.

        Yields:
            (M, V, G) float32: the initial states first (tp: the analysis's), then one array a step.
        """
        analysis = self._analyses.read(np.array([self._analyses.index(start)]), VARIABLES)
        if analysis.shape[1:] != (len(VARIABLES), self.grid.size) or not np.isfinite(analysis).all():
            raise ForecastError(f"the analysis of {start} is no whole state of the sample planet on {self.grid.name}")
        batches = sorted({member // self.block for member in members})
        runs = [self._run(analysis, start, range(b * self.block, (b + 1) * self.block), steps) for b in batches]
        place = [batches.index(member // self.block) * self.block + member % self.block for member in members]
        for states in zip(*runs, strict=True):
            yield np.concatenate(states)[place] if len(runs) > 1 else states[0][place]

    def _run(self, analysis: np.ndarray, start: np.datetime64, members: range, steps: int) -> Iterator[np.ndarray]:
        """The whole batch that `members` forms, step by step."""
        size = len(members)
        psi, s = (np.repeat(a, size, axis=3) for a in self._fields.recover(analysis))
        if self._perturbed:
            error = self._perturbations.errors(start, members)
            psi[..., :3] += error[..., :3]
            s += error[..., 3]
        rain = np.repeat(self._model.sphere.from_rows(analysis[:, VARIABLES.index("tp")]), size, axis=-1)
        state = self._model.vorticity(psi)
        state[..., 3] = s
        for k in range(steps + 1):
            now = start + k * OUTPUT_STEP
            season = np.full(size, forcing.season(now))
            yield self._fields.derive(self._model.invert(state), np.ascontiguousarray(state[..., 3]), rain, season)
            if k < steps:
                state, rain = self._model.six_hours(state, season)
