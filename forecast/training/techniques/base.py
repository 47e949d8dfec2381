"""What a technique is: the few points at which it may take part in training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from forecast.core import seeding
from forecast.core.config import Config
from forecast.core.technique_section import TechniqueSection
from forecast.data.batch import Batch
from forecast.data.dataset import Dataset
from forecast.data.sampler import Draw
from forecast.models.forecaster import Forecaster
from forecast.models.offers import Step
from forecast.training.curriculum import Update
from forecast.training.ema import Average
from forecast.training.mesh import Mesh

Terms = dict[str, Tensor]
"""name -> term of the loss; `loss` is their sum"""
Make = Callable[[np.ndarray], Draw]
"""the samples of an update, drawn from these windows (indices)"""
Advance = Callable[[float], None]
"""the optimiser's step with a learning rate"""


class Evaluate(Protocol):
    """Measures the loss at the weights as they are and, if wished, adds its gradient to `.grad`.

    Over all processes; `alone`, without a gradient, this process's part, the parts adding up to the loss.
    """

    def __call__(self, backward: bool = True, alone: bool = False) -> Terms: ...


@dataclass(frozen=True)
class Run:
    """What a technique may know of the run.

    Attributes:
        config: of the run. model, average: as they are, always. data: training windows. device: of the model.
        mesh: the processes that share the work.
    """

    config: Config
    model: Forecaster
    average: Average
    data: Dataset
    device: torch.device
    mesh: Mesh

    def parameters(self) -> dict[str, Tensor]:
        """The weights that learn, by name."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}


@dataclass(frozen=True)
class Now:
    """One update.

    Attributes:
        update: its number, from 0. plan: of the curriculum. members: of each sample.
    """

    update: int
    plan: Update
    members: int


S = TypeVar("S", bound=TechniqueSection)


class Technique(Generic[S]):
    """Base of all techniques: takes part nowhere.

    Points that wrap something (`draw`, `gradients`, `step`) are given what they wrap and may call it never, once or
    several times. What a technique must remember it keeps in `kept` and `noted`, which checkpoints hold; all else must
    follow from the section, the run and the number of the update.

    Attributes:
        section: its options. run: what it is part of.
        kept: named tensors on the run's device. noted: plain data, as JSON holds it.
    """

    def __init__(self, section: S, run: Run) -> None:
        self.section, self.run = section, run
        self.kept: dict[str, Tensor] = {}
        self.noted: dict[str, Any] = {}

    def draw(self, plan: Update, windows: np.ndarray, make: Make) -> Draw:
        """The samples of an update from `windows`; asked ahead of time, so a function of the update's number alone."""
        return make(windows)

    def batch(self, now: Now, batch: Batch) -> Batch:
        """The samples, or those of them that are here, perhaps changed; tensors that came are never written to."""
        return batch

    def scores(self, now: Now, scores: Tensor, steps: Sequence[Step]) -> Tensor:
        """(S, B, G, V) scores of the members of a rollout's steps; the mean over steps and samples enters the loss."""
        return scores

    def terms(self, now: Now, terms: Terms) -> Terms:
        """The terms of the loss, before its gradient."""
        return terms

    def gradients(self, now: Now, evaluate: Evaluate) -> Terms:
        """Leave in `.grad` what the step is to go by. Gradients are empty before."""
        return evaluate()

    def step(self, now: Now, lr: float, advance: Advance) -> None:
        """Change the weights, after gradients have been clipped and found finite."""
        advance(lr)

    def validated(self, done: int, score: float | None) -> None:
        """Told the validation score after `done` updates."""

    def loaded(self) -> None:
        """Told that `kept` and `noted` came from a checkpoint."""

    def key(self, *where: int | str) -> int:
        """Of random numbers, from the run's seed."""
        return seeding.key(self.run.config.seed, "technique", self.section.name, *where)
