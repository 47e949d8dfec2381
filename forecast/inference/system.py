"""The learnt forecaster as an ensemble system: checkpoint, analyses and keyed noise in, members out."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from forecast.core.errors import ForecastError
from forecast.core.grids import Grid
from forecast.core.store import Store
from forecast.core.times import format_time
from forecast.data.forcings import Forcings, static_fields
from forecast.inference.rollout import noise_keys, rollout
from forecast.models.fields import Fields
from forecast.models.forecaster import Forecaster
from forecast.models.serialise import load_forecaster

Perturb = Callable[[np.datetime64, int, np.ndarray], np.ndarray]
"""(start, member, states (T, V, G) up to the start) -> the states that this member starts from"""


class LearntSystem:
    """A trained forecaster that starts from the analyses of a store.

    Members are computed in fixed micro-batches: member k is always row k % micro_batch of the batch with members
    (k // micro_batch) * micro_batch and following, which is computed whole whichever of them are asked for. So a
    member's bits depend on (checkpoint, analysis, seed, start, member, step), the micro-batch's size and the machine's
    arithmetic, on nothing else.

    Args:
        checkpoint: a folder that training wrote.
        analysis: the states that forecasts start from.
        seed: of the noise.
        micro_batch: members computed together.
        perturb: gives each member its own initial states; all start from the analysis if absent.
        perturbation: the name of what `perturb` does.
        device: cpu, cuda, or auto (cuda where there is one).

    Raises:
        ForecastError: no checkpoint, an analysis store on another grid or without a variable that is needed.
    """

    name = "learnt"

    def __init__(
        self,
        checkpoint: str | Path,
        analysis: Store,
        seed: int = 1,
        micro_batch: int = 10,
        perturb: Perturb | None = None,
        perturbation: str = "none",
        device: str = "auto",
    ) -> None:
        self.device = _device(device)
        self.model = load_forecaster(checkpoint).to(self.device).eval()
        self.fields = self.model.fields
        self.analysis, self.seed, self.micro_batch, self.perturb = analysis, seed, micro_batch, perturb
        self._stride = analysis.stride(self.step)
        _check_grid(analysis, self.fields)
        analysis.position(self.variables)
        static = static_fields(analysis, self.fields.static)
        self._forcings = Forcings(self.fields.forcings, self.fields.latitudes, self.fields.longitudes, static)
        self.settings: dict[str, Any] = {
            "checkpoint": _fingerprint(self.model),
            "analysis": f"{zlib.crc32(np.stack(list(analysis.statistics.values())).tobytes()):08x}",
            "seed": seed,
            "perturbation": perturbation,
            "micro_batch": micro_batch,
            "device": self.device.type,
        }

    @property
    def variables(self) -> tuple[str, ...]:
        """(V,) prognostic, then diagnostic variables."""
        return self.fields.variables

    @property
    def grid(self) -> Grid:
        """The grid of the analyses."""
        return self.analysis.grid

    @property
    def step(self) -> np.timedelta64:
        """Length of a forecast step."""
        return np.timedelta64(self.fields.step, "s")

    def check(self, starts: np.ndarray) -> None:
        """Make sure that every start (S,) has its initial states.

        Raises:
            ForecastError: lists all that have not.
        """
        problems = [f"{format_time(start)} ({why})" for start in starts if (why := self._lacks(start))]
        if problems:
            raise ForecastError(f"{self.analysis.path}: no initial states for {', '.join(problems)}")

    def _lacks(self, start: np.datetime64) -> str:
        dates = self.analysis.dates
        for back in range(self.fields.input_steps):
            date = start - back * self.step
            at = int(np.searchsorted(dates, date))
            if at == len(dates) or dates[at] != date:
                inside = dates[0] <= date <= dates[-1]
                bounds = f"outside {format_time(dates[0])}..{format_time(dates[-1])}"
                return f"{format_time(date)} is {'no date of the store' if inside else bounds}"
            if self.analysis.missing[at]:
                return f"{format_time(date)} is missing"
        return ""

    def forecast(self, start: np.datetime64, members: Sequence[int], steps: int) -> Iterator[np.ndarray]:
        """States (M, V, G) float32 at steps 0 (the initial states), 1, ..., `steps`; see `ensemble.System`."""
        whole = sorted({member // self.micro_batch for member in members})
        size = self.micro_batch
        rows = [whole.index(member // size) * size + member % size for member in members]
        for parts in zip(*(self._forecast_batch(start, batch, steps) for batch in whole), strict=True):
            states = parts[0] if len(parts) == 1 else np.concatenate(parts)
            yield states if rows == list(range(len(states))) else states[rows]

    def _forecast_batch(self, start: np.datetime64, batch: int, steps: int) -> Iterator[np.ndarray]:
        members = range(batch * self.micro_batch, (batch + 1) * self.micro_batch)
        initial = self._initial(start, members)
        yield initial[:, -1]
        window = torch.from_numpy(initial).to(self.device).transpose(-1, -2).contiguous()
        states = rollout(
            self.model, window, start, self._forcings, lambda s: noise_keys(self.seed, start, members, s), steps
        )
        for state in states:
            yield _to_numpy(state)

    def _initial(self, start: np.datetime64, members: Sequence[int]) -> np.ndarray:
        """(M, T, V, G) initial states of members, perturbed if so wished."""
        newest = self.analysis.index(start)
        times = newest - self._stride * np.arange(self.fields.input_steps)[::-1]
        states = self.analysis.read(times, self.variables)
        if self.perturb is None:
            return np.repeat(states[None], len(members), axis=0)
        return np.stack([self.perturb(start, member, states) for member in members])


def _to_numpy(state: Tensor) -> np.ndarray:
    """(M, V, G) from (M, G, V) on any device."""
    return state.transpose(-1, -2).contiguous().cpu().numpy()


def _device(name: str) -> torch.device:
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise ForecastError("the device is set to cuda, but torch sees no CUDA device: set it to cpu or auto")
    return torch.device("cuda" if there and name in ("cuda", "auto") else "cpu")


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
