"""What the loader hands to a forecaster: windows of states with their forcings and dates."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from forecast.core.errors import ForecastError


@dataclass(frozen=True)
class Batch:
    """Windows of T = input steps + rollout steps consecutive states.

    Attributes:
        states: (B, T, G, V) float32, physical units; V = prognostic, then diagnostic variables.
        forcings: (B, T, G, F) float32; computed forcings, then static fields (as stored; the model normalises them).
        dates: (B, T) datetime64[s], UTC.
        starts_from_analysis: (B,) bool; the first `input_steps` states came from the analysis store.
        keys: (B,) sample identities, the root of each sample's noise.
        input_steps: states given to the forecaster; the rest are targets.
        places: (B,) int64, position in the store of each window's first state; None where windows are from no store.
    """

    states: Tensor
    forcings: Tensor
    dates: np.ndarray
    starts_from_analysis: Tensor
    keys: tuple[int, ...]
    input_steps: int
    places: Tensor | None = None

    def __post_init__(self) -> None:
        states, forcings = self._four("states"), self._four("forcings")
        samples, times = states[:2]
        if forcings[:3] != states[:3]:
            raise ForecastError(f"batch: forcings {forcings} do not match states {states}")
        if self.dates.shape != (samples, times) or {len(self.keys), len(self.starts_from_analysis)} != {samples}:
            raise ForecastError(f"batch: dates, keys and starts_from_analysis must describe {samples} x {times} states")
        if not 0 < self.input_steps < times:
            raise ForecastError(f"batch: {times} dates leave no target after {self.input_steps} input steps")

    def _four(self, name: str) -> tuple[int, ...]:
        shape = tuple(getattr(self, name).shape)
        if len(shape) != 4:
            raise ForecastError(f"batch: {name} must have 4 dimensions (sample, time, grid, variable), got {shape}")
        return shape

    @property
    def targets(self) -> Tensor:
        """(B, S, G, V) states to be predicted, S = T - input_steps."""
        return self.states[:, self.input_steps :]

    @property
    def rollout(self) -> int:
        """Number of forecast steps S."""
        return self.states.shape[1] - self.input_steps

    def to(self, device: torch.device | str) -> Batch:
        """The batch with its tensors on `device`."""
        return replace(
            self,
            states=self.states.to(device, non_blocking=True),
            forcings=self.forcings.to(device, non_blocking=True),
            starts_from_analysis=self.starts_from_analysis.to(device, non_blocking=True),
            places=None if self.places is None else self.places.to(device, non_blocking=True),
        )
