"""Adaptation to a new analysis version (Brahma and Rai 2023, PETAL): a prior of the old weights, and restoration.

And statistics mixed of the old archive and the new (You et al. 2021, Test-time batch statistics calibration).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from forecast.core import technique_sections as sections
from forecast.core.technique_section import TechniqueSection
from forecast.losses.adaptation import restore, swag_diagonal
from forecast.models.fields import Fields
from forecast.models.serialise import load_forecaster
from forecast.training.techniques.base import Advance, Evaluate, Now, Run, Technique, Terms


class Adaptation(Technique[sections.Adaptation]):
    """Adds strength (w - m) / v to the gradient; after each step puts the weights of least Fisher information back.

    m and v are mean and variance of the weights over the sources (SWAG's diagonal), v a constant for a lone one. A
    forecaster's labels come by themselves, six hours late, so it adapts on true pairs where the paper adapts on a
    teacher's; that teacher is the term `petal` for event heads. Strength 1e-8 and 3 % restored, towards m, as in the
    official configs; the Fisher information is the squared gradient of the update. Strength, restore and statistics of
    0 are plain fine-tuning, restore 1 changes nothing. Start with `training.start_from`. Two copies of the weights.

    States are normalised by `mixed_fields`, with 0.9 of the old statistics (from the abstract). There it is batch
    norms that hold statistics; here it is the normalisation of the archive, as layers have none.
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


def mixed_fields(fields: Fields, techniques: Iterable[TechniqueSection]) -> Fields:
    """With the statistics that an adaptation among the techniques normalises by, or as they are.

    a m_old + (1 - a) m_new for means, the same of squares for standard deviations (also of tendencies).

    Raises:
        ForecastError: a source that is no checkpoint.
    """
    section = next((t for t in techniques if isinstance(t, sections.Adaptation)), None)
    if section is None or not section.statistics:
        return fields
    old, a = load_forecaster(section.sources[0]).fields.statistics, section.statistics

    def mixed(kind: str, theirs: float, mine: float) -> float:
        if kind == "mean":
            return a * theirs + (1 - a) * mine
        return math.sqrt(a * theirs**2 + (1 - a) * mine**2) if "stdev" in kind else mine

    return replace(fields, statistics={
        name: {kind: mixed(kind, old.get(name, {}).get(kind, value), value) for kind, value in kinds.items()}
        for name, kinds in fields.statistics.items()
    })  # fmt: skip


def _fits(held: Mapping[str, Tensor], name: str, p: Tensor) -> bool:
    return name in held and held[name].shape == p.shape
