"""Several techniques as one: the first that a config names is the outermost."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from forecast.core.errors import ForecastError
from forecast.core.technique_section import TechniqueSection
from forecast.data.batch import Batch
from forecast.data.sampler import Draw
from forecast.models.offers import Step
from forecast.training.curriculum import Update
from forecast.training.techniques.adahessian import AdaHessian
from forecast.training.techniques.adaptation import Adaptation
from forecast.training.techniques.archive_bandit import ArchiveBandit
from forecast.training.techniques.base import Advance, Evaluate, Make, Now, Run, Technique, Terms
from forecast.training.techniques.cluster_batches import ClusterBatches
from forecast.training.techniques.condensation import Condensation
from forecast.training.techniques.coreset import Coreset
from forecast.training.techniques.date_selection import DateSelection
from forecast.training.techniques.generations import Generations
from forecast.training.techniques.gradient_noise import GradientNoise
from forecast.training.techniques.hard_regions import HardRegions
from forecast.training.techniques.instance_noise import InstanceNoise
from forecast.training.techniques.local_learning import LocalLearning
from forecast.training.techniques.multi_sample_dropout import MultiSampleDropout
from forecast.training.techniques.normalised_descent import NormalisedDescent
from forecast.training.techniques.only import Only
from forecast.training.techniques.population import Population
from forecast.training.techniques.reweighting import Reweighting
from forecast.training.techniques.robust_self_training import RobustSelfTraining
from forecast.training.techniques.sharpness import SharpnessAware
from forecast.training.techniques.unlearning import Unlearning
from forecast.training.techniques.zeroth_order import ZerothOrder

TECHNIQUES: dict[str, type[Technique[Any]]] = {
    "gradient_noise": GradientNoise,
    "sam": SharpnessAware,
    "adahessian": AdaHessian,
    "normalised_descent": NormalisedDescent,
    "zeroth_order": ZerothOrder,
    "local_learning": LocalLearning,
    "population": Population,
    "reweighting": Reweighting,
    "multi_sample_dropout": MultiSampleDropout,
    "instance_noise": InstanceNoise,
    "hard_regions": HardRegions,
    "date_selection": DateSelection,
    "coreset": Coreset,
    "cluster_batches": ClusterBatches,
    "archive_bandit": ArchiveBandit,
    "robust_self_training": RobustSelfTraining,
    "condensation": Condensation,
    "generations": Generations,
    "adaptation": Adaptation,
    "unlearning": Unlearning,
    "only": Only,
}


class Techniques:
    """What the Trainer meets: the points of all techniques of a run, each around the next.

    Args:
        sections: of the config. run: what they are part of. axes: of the mesh, those with more than one process.

    Raises:
        ForecastError: one does not work on such a mesh, or with this forecaster.
    """

    def __init__(self, sections: Sequence[TechniqueSection], run: Run, axes: Collection[str] = ()) -> None:
        check_mesh(sections, axes)
        self.each = [TECHNIQUES[section.name](section, run) for section in sections]
        self._now: Now | None = None
        if any(type(technique).scores is not Technique.scores for technique in self.each):
            run.model.rescored = self._scores

    def draw(self, plan: Update, windows: int, make: Make) -> Draw:
        """The samples of an update, of `windows` in number."""
        for technique in reversed(self.each):
            make = partial(_drawn, technique, plan, make)
        return make(np.arange(windows))

    def batch(self, now: Now, batch: Batch) -> Batch:
        """Samples as the techniques want them."""
        for technique in self.each:
            batch = technique.batch(now, batch)
        return batch

    def terms(self, now: Now, terms: Terms) -> Terms:
        """The terms of the loss as the techniques want them, before its gradient."""
        for technique in self.each:
            terms = technique.terms(now, terms)
        return terms

    def gradients(self, now: Now, evaluate: Evaluate) -> Terms:
        """Leave gradients in `.grad`; returns what was measured."""
        self._now = now
        for technique in reversed(self.each):
            evaluate = _Around(technique, now, evaluate)
        return evaluate()

    def step(self, now: Now, advance: Advance) -> None:
        """Change the weights."""
        for technique in reversed(self.each):
            advance = partial(_stepped, technique, now, advance)
        advance(now.plan.lr)

    def validated(self, done: int, score: float | None) -> None:
        """Tell all of a validation."""
        for technique in self.each:
            technique.validated(done, score)

    def tensors(self) -> dict[str, Tensor]:
        """What is to be saved: `technique.<technique>.<name>`."""
        return {f"technique.{t.section.name}.{name}": kept for t in self.each for name, kept in t.kept.items()}

    def notes(self) -> dict[str, Any]:
        """What is to be saved as JSON, by technique."""
        return {t.section.name: copy.deepcopy(t.noted) for t in self.each if t.noted}

    def load(self, tensors: dict[str, Tensor], notes: dict[str, Any]) -> None:
        """Put back what `tensors` and `notes` gave; other names are passed over."""
        for technique in self.each:
            prefix = f"technique.{technique.section.name}."
            mine = {name.removeprefix(prefix): kept for name, kept in tensors.items() if name.startswith(prefix)}
            technique.kept = {name: kept.to(technique.run.device) for name, kept in mine.items()}
            technique.noted = notes.get(technique.section.name, {})
            technique.loaded()

    def _scores(self, scores: Tensor, steps: Sequence[Step]) -> Tensor:
        assert self._now is not None
        for technique in self.each:
            scores = technique.scores(self._now, scores, steps)
        return scores


def check_mesh(sections: Sequence[TechniqueSection], axes: Collection[str]) -> None:
    """Whether techniques work where samples, members or points are shared among processes.

    Raises:
        ForecastError: names the first that does not, and the axis.
    """
    for section in sections:
        for axis in sorted(set(axes) - section.mesh):
            raise ForecastError(
                f"training.techniques: `{section.name}` does not work where the {axis} axis of the mesh has several "
                "processes: give this axis one, or leave the technique out"
            )


@dataclass(frozen=True)
class _Around:
    """A technique's gradients as what the technique around it evaluates."""

    technique: Technique[Any]
    now: Now
    inner: Evaluate

    def __call__(self, backward: bool = True, alone: bool = False) -> Terms:
        return self.technique.gradients(self.now, self.inner) if backward else self.inner(False, alone)


def _drawn(technique: Technique[Any], plan: Update, make: Make, windows: np.ndarray) -> Draw:
    return technique.draw(plan, windows, make)


def _stepped(technique: Technique[Any], now: Now, advance: Advance, lr: float) -> None:
    technique.step(now, lr, advance)
