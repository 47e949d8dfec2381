"""Self-distillation over generations, damped by the truth (Borup and Andersen 2021, Even your teacher ...)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from forecast.core import technique_sections as sections
from forecast.models.offers import Passing, Step
from forecast.training.techniques.base import Evaluate, Now, Technique, Terms


class Generations(Technique[sections.Generations]):
    """alpha score(members, truth) + (1 - alpha) |member - teacher's member|, the mean over members of equal noise.

    The teacher is the run's averaged weights as they were when the generation began; a new one begins every so many
    updates, and the first has no teacher. alpha = 1 is plain training; a teacher equal to the student adds zero. The
    published form, alpha (f - y)^2 + (1 - alpha) (f - f_previous)^2, is the term `self_distillation`; 0.5 is our
    default. One more forward pass and one more copy of the weights.
    """

    def gradients(self, now: Now, evaluate: Evaluate) -> Terms:
        """Where a generation begins, the averages become the teacher."""
        if self.section.alpha < 1 and now.update and now.update % self.section.every == 0:
            self.kept = {name: weights.clone() for name, weights in self.run.average.weights.items()}
        return evaluate()

    def scores(self, now: Now, scores: Tensor, steps: Sequence[Step]) -> Tensor:
        """With the distance to the teacher."""
        if not self.kept:
            return scores
        far = torch.stack([self.distance(step) for step in steps])
        return self.section.alpha * scores + (1 - self.section.alpha) * far

    def distance(self, step: Step) -> Tensor:
        """(B, G, V)."""
        prefix = "network."
        weights = {name: kept for name, kept in self.kept.items() if name.startswith(prefix)}
        whole = Passing(self.run.model.network, step.run)
        with torch.no_grad():
            past = [state.detach() for state in step.past]
            teacher, _ = torch.func.functional_call(whole, weights, (past, step.forcings, step.noise))
        return (step.members - teacher).abs().mean(dim=1)
