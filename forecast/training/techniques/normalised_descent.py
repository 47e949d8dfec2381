"""Normalised gradient descent (From logistic regression to the perceptron algorithm, 2024): only directions count."""

from __future__ import annotations

import torch

from forecast.core import technique_sections as sections
from forecast.training.techniques.base import Advance, Now, Technique
from forecast.training.techniques.weights import norm


class NormalisedDescent(Technique[sections.NormalisedDescent]):
    """w <- w - lr g / |g|, the norm over all weights; no step where g is 0. No momentum, no decay.

    From the abstract: on separable data large steps of logistic regression turn into the perceptron, and normalised
    ones stay stable. Costs nothing, and saves the optimiser's moments.
    """

    @torch.no_grad()
    def step(self, now: Now, lr: float, advance: Advance) -> None:
        """In place of the optimiser's."""
        weights = [p for p in self.run.parameters().values() if p.grad is not None]
        size = norm([p.grad for p in weights if p.grad is not None])
        if bool(size > 0):
            for p in weights:
                assert p.grad is not None
                p.sub_(p.grad * (lr / size).to(p.dtype))
