"""Multi-sample dropout (Inoue 2019): one pass of the network, several masks before its last layer."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from forecast.core import seeding
from forecast.core import technique_sections as sections
from forecast.core.errors import ForecastError
from forecast.models import noise
from forecast.models.graph_forecaster import GraphForecaster
from forecast.models.offers import Step
from forecast.training.techniques.base import Now, Run, Technique


class MultiSampleDropout(Technique[sections.MultiSampleDropout]):
    """The score becomes the mean of those of K states, each from the features under a mask of its own, over 1 - p.

    8 masks as published (from memory). p = 0 is plain training; a head without weights gives the same score under any
    mask. Costs K heads and scores, far less than K passes. The state that the next step of a rollout begins with, and
    further terms of the loss, see no mask. Masks are keyed by sample, step and mask.

    Raises:
        ForecastError: another kind of forecaster than a graph transformer.
    """

    def __init__(self, section: sections.MultiSampleDropout, run: Run) -> None:
        super().__init__(section, run)
        if not isinstance(run.model, GraphForecaster):
            raise ForecastError("training.techniques: `multi_sample_dropout` needs a graph transformer")

    def scores(self, now: Now, scores: Tensor, steps: Sequence[Step]) -> Tensor:
        """Means over masks."""
        if not self.section.rate:
            return scores
        return torch.stack([self._step(number, step) for number, step in enumerate(steps)])

    def _step(self, number: int, step: Step) -> Tensor:
        model: Any = self.run.model
        newest, hidden = step.past[-1], step.features.hidden.float()
        reference = newest if model.truncation is None else model.truncation(newest)
        found = []
        for mask in range(self.section.masks):
            increment = model.network.decoder.head(hidden * self._mask(step, hidden, number, mask))
            found.append(model._score(model.added(reference, increment), step.truth))
        return torch.stack(found).mean(dim=0)

    def _mask(self, step: Step, hidden: Tensor, number: int, mask: int) -> Tensor:
        keys = [seeding.key(key, "dropout", number, mask) for key in step.keys]
        drawn = noise.draw(keys, hidden.shape[1:], hidden.device)
        return (drawn > NormalDist().inv_cdf(self.section.rate)).to(hidden.dtype) / (1 - self.section.rate)
