"""Annealed gradient noise (Neelakantan et al. 2015, Adding gradient noise improves learning for very deep networks)."""

from __future__ import annotations

from forecast.core import technique_sections as sections
from forecast.models import noise
from forecast.training.techniques.base import Evaluate, Now, Technique, Terms


class GradientNoise(Technique[sections.GradientNoise]):
    """g <- g + N(0, eta / (1 + t)^gamma) at update t, independently in every weight.

    gamma = 0.55 and eta of 0.01, 0.3 or 1 as published (from memory of the paper). eta = 0 is plain training. With an
    optimiser that divides by the gradient's size (AdamW, Muon) the noise counts relative to the gradient. The noise is
    keyed by update and weight, so all processes add the same.
    """

    def gradients(self, now: Now, evaluate: Evaluate) -> Terms:
        """The gradient, then the noise."""
        terms = evaluate()
        deviation = (self.section.eta / (1 + now.update) ** self.section.gamma) ** 0.5
        if deviation:
            for name, p in self.run.parameters().items():
                if p.grad is not None:
                    p.grad.add_(noise.draw([self.key(now.update, name)], p.shape, p.device)[0], alpha=deviation)
        return terms
