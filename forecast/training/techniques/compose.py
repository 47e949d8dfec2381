"""Several techniques as one: the first that a config names is the outermost."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from forecast.core.errors import ForecastError
from forecast.core.technique_sections import TechniqueSection
from forecast.data.batch import Batch
from forecast.data.sampler import Draw
from forecast.models.offers import Step
from forecast.training.curriculum import Update
from forecast.training.techniques.base import Advance, Evaluate, Make, Now, Run, Technique, Terms
from forecast.training.techniques.gradient_noise import GradientNoise
from forecast.training.techniques.sharpness import SharpnessAware

TECHNIQUES: dict[str, type[Technique[Any]]] = {
    "gradient_noise": GradientNoise,
    "sam": SharpnessAware,
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

    def begin(self, now: Now) -> Now:
        """The update with its batch as the techniques want it."""
        for technique in self.each:
            now = _with_batch(now, technique.batch(now))
        self._now = now
        return now

    def gradients(self, now: Now, loss: Callable[[Batch, int], Terms]) -> Terms:
        """Leave gradients in `.grad`; returns what was measured."""

        def evaluate() -> Terms:
            terms = loss(now.batch, now.members)
            for technique in self.each:
                terms = technique.terms(now, terms)
            terms["loss"].backward()
            return terms

        around: Evaluate = evaluate
        for technique in reversed(self.each):
            around = partial(technique.gradients, now, around)
        return around()

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
        return {technique.section.name: technique.noted for technique in self.each if technique.noted}

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


def _with_batch(now: Now, batch: Batch) -> Now:
    return Now(now.update, now.plan, batch, now.members)


def _drawn(technique: Technique[Any], plan: Update, make: Make, windows: np.ndarray) -> Draw:
    return technique.draw(plan, windows, make)


def _stepped(technique: Technique[Any], now: Now, advance: Advance, lr: float) -> None:
    technique.step(now, lr, advance)
