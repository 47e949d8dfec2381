"""The learnt forecaster as an ensemble system: checkpoint, analyses and keyed noise in, members out."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from forecast.core import seeding
from forecast.core.errors import ForecastError
from forecast.core.grids import Grid
from forecast.core.store import Store
from forecast.core.times import format_duration, format_time
from forecast.data.forcings import Forcings, static_fields
from forecast.inference.rollout import Calls, ahead, rollout
from forecast.models.fields import Fields
from forecast.models.forecaster import Forecaster
from forecast.models.serialise import load_forecaster


class Perturbations(Protocol):
    """Gives members initial states of their own (planet.ensemble.Perturbations is one)."""

    @property
    def variables(self) -> tuple[str, ...]:
        """What it must be given; more than the forecaster reads, if these are to stay in balance."""

    @property
    def stores(self) -> tuple[Store, ...]:
        """Where else it reads the dates of a start."""

    def needs(self, start: np.datetime64) -> np.ndarray:
        """Dates (N,) whose analyses it reads itself."""

    def perturb(self, states: np.ndarray, when: np.ndarray, start: np.datetime64, members: Sequence[int]) -> np.ndarray:
        """(M, T, V, G) from states (T, V, G) at dates (T,); a member's are a function of its number and the start."""


class LearntSystem:
    """A trained forecaster that starts from the analyses of a store.

    A member's bits depend on (checkpoint, analysis, perturbations, seed, start, member, step) and the device's
    arithmetic, on nothing else: see `rollout.Calls`.

    Args:
        checkpoint: a folder that training wrote.
        analysis: the states that forecasts start from.
        seed: of the noise.
        perturbations: of the initial states; all members start from the analysis if absent.
        device: cpu, cuda, or auto (cuda where there is one).

    Attributes:
        block: members that are computed in one go, needed or not.

    Raises:
        ForecastError: no checkpoint, an analysis store on another grid or without a variable that is needed.
    """

    name = "learnt"

    def __init__(
        self,
        checkpoint: str | Path,
        analysis: Store,
        seed: int = 1,
        perturbations: Perturbations | None = None,
        device: str = "auto",
    ) -> None:
        self.model = load_forecaster(checkpoint).to(_device(device)).eval()
        self.fields = self.model.fields
        self.analysis, self.seed = analysis, seed
        _check_grid(analysis, self.fields)
        self._events = self.model.terms.probabilities
        analysis.position(self.fields.variables)
        self.perturb(perturbations)
        static = static_fields(analysis, self.fields.static)
        forcings = Forcings(self.fields.forcings, self.fields.latitudes, self.fields.longitudes, static)
        self._calls = Calls(self.model, forcings)
        self._gaps = known_gaps(analysis, self.fields)
        self.block = self._calls.size

    def perturb(self, perturbations: Perturbations | None) -> None:
        """Give members initial states of their own, or the analysis to all."""
        self.analysis.position(perturbations.variables if perturbations else ())
        for store in perturbations.stores if perturbations else ():
            _check_grid(store, self.fields)
        self.perturbations = perturbations

    @property
    def settings(self) -> dict[str, Any]:
        """What its fields depend on besides perturbations, start, member and step; JSON values."""
        return {
            "checkpoint": _fingerprint(self.model),
            "analysis": fingerprint(self.analysis),
            "seed": self.seed,
            "device": self._calls.device.type,
            "accumulation": format_duration(self.analysis.frequency),
            **({"events": self._events} if self._events else {}),
        }

    @property
    def variables(self) -> tuple[str, ...]:
        """(V,) prognostic, then diagnostic variables, then probabilities of events, absent from initial states."""
        return (*self.fields.variables, *self._events)

    @property
    def grid(self) -> Grid:
        """The grid of the analyses."""
        return self.analysis.grid

    @property
    def step(self) -> np.timedelta64:
        """Length of a forecast step."""
        return np.timedelta64(self.fields.step, "s")

    def check(self, starts: np.ndarray) -> None:
        """Make sure that every start (S,) has its initial states and those that its perturbations need.

        Raises:
            ForecastError: lists all that have not.
        """
        check_starts(self.analysis, {start: self._needs(start) for start in starts})
        for store in self.perturbations.stores if self.perturbations else ():
            check_starts(store, {start: input_dates(start, self.step, self.fields.input_steps) for start in starts})

    def forecast(self, start: np.datetime64, members: Sequence[int], steps: int) -> Iterator[np.ndarray]:
        """States (M, V, G) float32 at steps 0 (the initial states), 1, ..., `steps`; see `ensemble.System`."""
        initial = self._initial(start, members)
        window = torch.from_numpy(initial).to(self._calls.device).transpose(-1, -2).contiguous()
        states = ahead(rollout(self._calls, window, start, members, self.seed, steps))
        unknown = np.full((len(initial), len(self._events), initial.shape[-1]), np.nan, np.float32)
        first = np.concatenate([initial[:, -1], unknown], axis=1)
        for step, fields in enumerate(chain([first], map(_to_numpy, states))):
            predicted = fields[:, : len(self._gaps)]
            known = (np.isfinite(predicted) | (np.isnan(predicted) & self._gaps)).all(axis=2)
            if step:
                known = np.concatenate([known, np.isfinite(fields[:, len(self._gaps) :]).all(axis=2)], axis=1)
            if not known.all():
                member, variable = np.argwhere(~known)[0]
                raise ForecastError(
                    f"`{self.variables[variable]}` of member {members[member]} from {format_time(start)} is not finite "
                    f"after {step} steps: " + ("train on longer rollouts" if step else "the analysis has missing "
                    "values that its first state has not, or that data.masked does not name")
                )  # fmt: skip
            yield fields

    def advance(self, window: np.ndarray, date: np.datetime64) -> np.ndarray:
        """(M, V, G) one step after window (M, T, V, G) up to `date`, all rows with the same noise.

        So what comes of two rows differs by what the rows differ in. Made for perturbations that grow by the model.
        """
        states = torch.from_numpy(window).to(self._calls.device).transpose(-1, -2).contiguous()
        keys = [seeding.key(self.seed, "advance", date)] * len(window)
        return _to_numpy(self._calls.step(states, date, 0, range(len(window)), keys))[:, : len(self.fields.variables)]

    def _initial(self, start: np.datetime64, members: Sequence[int]) -> np.ndarray:
        """(M, T, V, G) initial states of members, perturbed if so wished."""
        when = input_dates(start, self.step, self.fields.input_steps)
        times = np.array([self.analysis.index(date) for date in when])
        if self.perturbations is None:
            return np.repeat(self.analysis.read(times, self.fields.variables)[None], len(members), axis=0)
        given = self.perturbations.variables
        states = self.perturbations.perturb(self.analysis.read(times, given), when, start, members)
        return states[:, :, [given.index(name) for name in self.fields.variables]]

    def _needs(self, start: np.datetime64) -> np.ndarray:
        """Dates whose analyses a start needs, the newest first."""
        own = input_dates(start, self.step, self.fields.input_steps)
        further = self.perturbations.needs(start) if self.perturbations else own[:0]
        return np.unique(np.concatenate([own, further]))[::-1]


def known_gaps(analysis: Store, fields: Fields) -> np.ndarray:
    """(V, G) bool: where masked variables have no values (sst over land), which is so from the first state on."""
    gaps = np.zeros((len(fields.variables), fields.grid_size), bool)
    if fields.masked:
        first = analysis.read(int(np.flatnonzero(~analysis.missing)[0]), fields.masked)[0]
        gaps[[fields.variables.index(name) for name in fields.masked]] = np.isnan(first)
    return gaps


def fingerprint(store: Store) -> str:
    """A short hash of a store's statistics, which tells archives apart."""
    return f"{zlib.crc32(np.stack(list(store.statistics.values())).tobytes()):08x}"


def check_starts(analysis: Store, needs: Mapping[np.datetime64, np.ndarray]) -> None:
    """Make sure that the store holds the dates that each start needs.

    Raises:
        ForecastError: lists all starts that lack one.
    """
    problems = []
    for start, dates in needs.items():
        lacks = next(filter(None, (_lacks(analysis, date) for date in dates)), "")
        problems += [f"{format_time(start)} ({lacks})"] if lacks else []
    if problems:
        raise ForecastError(f"{analysis.path} has no initial states for {', '.join(problems)}")


def input_dates(start: np.datetime64, step: np.timedelta64, states: int) -> np.ndarray:
    """(T,) dates of the states that a forecast from `start` is given, the newest last."""
    return start - np.arange(states)[::-1] * step


def _lacks(analysis: Store, date: np.datetime64) -> str:
    """What is wrong with a date, or nothing."""
    dates = analysis.dates
    at = int(np.searchsorted(dates, date))
    if date < dates[0] or date > dates[-1]:
        return f"{format_time(date)} is outside {format_time(dates[0])}..{format_time(dates[-1])}"
    if dates[at] != date:
        return f"{format_time(date)} is no date of the store"
    return f"{format_time(date)} is missing" if analysis.missing[at] else ""


def _to_numpy(state: Tensor) -> np.ndarray:
    """(M, V, G) from (M, G, V) on any device."""
    return state.transpose(-1, -2).contiguous().cpu().numpy()


def _device(name: str) -> torch.device:
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise ForecastError("the device is set to cuda, but torch sees no CUDA device: set it to cpu or auto")
    if not there or name == "cpu":
        return torch.device("cpu")
    local = int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", 0)))  # torchrun, srun
    return torch.device("cuda", local % torch.cuda.device_count())


def _check_grid(analysis: Store, fields: Fields) -> None:
    there = np.stack([analysis.grid.latitudes, analysis.grid.longitudes])
    wanted = np.stack([fields.latitudes, fields.longitudes % 360.0])
    if there.shape != wanted.shape or np.abs(there - wanted).max() > 1e-3:
        raise ForecastError(
            f"{analysis.path} lies on {analysis.grid.name}, but the checkpoint on {wanted.shape[1]} other points"
        )


def _fingerprint(model: Forecaster) -> str:
    """A short hash of all that makes the forecaster: weights, fields, hyperparameters."""
    about = [model.fields.to_json(), model.section.model_dump(mode="json")]
    digest = hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=8)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()
