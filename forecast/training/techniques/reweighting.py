"""Weights of samples from their losses (Dynamic loss-based sample reweighting ..., 2025)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from forecast.core import technique_sections as sections
from forecast.losses.reweighting import loss_weights
from forecast.models.offers import Step
from forecast.training.techniques.base import Now, Technique


class Reweighting(Technique[sections.Reweighting]):
    """Each sample's score times B softmax(s(l) / r), s by strategy, l the samples' mean losses over the rollout.

    The rule is `losses.reweighting.loss_weights` (read in others' code; delta = r = 1). Equal losses, or a large r,
    give weights of 1, so plain training. Further terms of the loss are left as they are. Costs nothing to speak of.
    """

    def scores(self, now: Now, scores: Tensor, steps: Sequence[Step]) -> Tensor:
        """Weighted."""
        each = (scores.detach().mean(dim=0) * self.run.model.weights).flatten(1).sum(dim=1)
        how = self.section
        weights = loss_weights(each, strategy=how.strategy, delta=how.delta, temperature=how.temperature)
        return scores * weights[:, None, None]
