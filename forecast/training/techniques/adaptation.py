"""Adaptation to a new analysis version (Brahma and Rai 2023, PETAL): a prior of the old weights, and restoration."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from forecast.core import technique_sections as sections
from forecast.losses.adaptation import restore, swag_diagonal
from forecast.models.serialise import load_forecaster
from forecast.training.techniques.base import Advance, Evaluate, Now, Run, Technique, Terms


class Adaptation(Technique[sections.Adaptation]):
    """Adds strength (w - m) / v to the gradient; after each step puts the weights of least Fisher information back.

    m and v are mean and variance of the weights over the sources (SWAG's diagonal), v a constant for a lone one. A
    forecaster's labels come by themselves, six hours late, so it adapts on true pairs where the paper adapts on a
    teacher's; that teacher is the term `petal` for event heads. Strength 1e-8 and 3 % restored, towards m, as in the
    official configs; the Fisher information is the squared gradient of the update. Strength 0 and restore 0 are plain
    fine-tuning, restore 1 changes nothing. Start with `training.start_from`. Two copies of the weights.
    """

    def __init__(self, section: sections.Adaptation, run: Run) -> None:
        super().__init__(section, run)
        mine = run.parameters()
        snapshots = []
        for folder in section.sources:
            held = dict(load_forecaster(folder).named_parameters())
            snapshots.append([held[name].to(run.device) if _fits(held, name, p) else p.detach().clone()
                              for name, p in mine.items()])  # fmt: skip
        self._means, variances = swag_diagonal(snapshots)
        few = len(snapshots) < 2
        self._variances = [torch.full_like(v, section.variance) if few else v for v in variances]

    @torch.no_grad()
    def gradients(self, now: Now, evaluate: Evaluate) -> Terms:
        """With that of the prior."""
        with torch.enable_grad():
            terms = evaluate()
        if self.section.strength:
            for p, m, v in zip(self.run.parameters().values(), self._means, self._variances, strict=True):
                if p.grad is not None:
                    p.grad.add_((p - m) / v, alpha=self.section.strength)
        return terms

    def step(self, now: Now, lr: float, advance: Advance) -> None:
        """The optimiser's, then what matters least goes back."""
        advance(lr)
        weights = list(self.run.parameters().values())
        fisher = [torch.zeros_like(p) if p.grad is None else p.grad.square() for p in weights]
        restore(weights, self._means, fisher, self.section.restore)


def _fits(held: Mapping[str, Tensor], name: str, p: Tensor) -> bool:
    return name in held and held[name].shape == p.shape
