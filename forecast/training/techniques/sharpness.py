"""Sharpness-aware minimisation, for each group of variables (Foret et al. 2021; Phan et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from forecast.core import technique_sections as sections
from forecast.core.errors import ForecastError
from forecast.models.offers import Step
from forecast.training.techniques.base import Evaluate, Now, Run, Technique, Terms
from forecast.training.techniques.weights import moved, norm


class SharpnessAware(Technique[sections.SharpnessAware]):
    """g = sum over groups k of grad L_k(w + rho grad L_k(w) / |grad L_k(w)|).

    One group of all variables is SAM (Foret et al. 2021, official code: rho 0.05). Groups are the tasks of Phan et al.
    2022 (Improving multi-task learning via seeking task-based flat regions), their parts of the gradient added up; what
    is in no group makes a further one. rho = 0 is plain training.

    Two passes for each group in place of one, and a copy of the weights. On L = w A w / 2 the gradient is
    A (w + rho A w / |A w|).

    Raises:
        ForecastError: a variable that is not predicted or in two groups; groups where the loss has further terms.
    """

    def __init__(self, section: sections.SharpnessAware, run: Run) -> None:
        super().__init__(section, run)
        self._columns = _columns(section.groups, run.model.fields.variables)
        self._only: Tensor | None = None
        if self._columns and (run.config.loss.terms or run.config.model.kind == "fuxi_ens"):
            raise ForecastError(
                "training.techniques: `sam` with groups divides a loss that is a score alone: leave out its groups, or "
                "loss.terms and divergences"
            )

    def scores(self, now: Now, scores: Tensor, steps: Sequence[Step]) -> Tensor:
        """Those of the group whose gradient is being made."""
        return scores if self._only is None else scores * self._only

    def gradients(self, now: Now, evaluate: Evaluate) -> Terms:
        """The gradient at the worst place of each group."""
        if not self._columns:
            return self._at_worst(evaluate)
        measured, variables, sums = list[Terms](), len(self.run.model.fields.variables), dict[str, Tensor]()
        weights = self.run.parameters()
        for columns in self._columns:
            self._only = torch.zeros(variables, device=self.run.device)
            self._only[columns] = 1.0
            measured.append(self._at_worst(evaluate))
            for name, p in weights.items():
                if p.grad is not None:
                    sums[name] = sums[name] + p.grad if name in sums else p.grad
                p.grad = None
        self._only = None
        for name, total in sums.items():
            weights[name].grad = total
        return {name: torch.stack([terms[name] for terms in measured]).sum() for name in measured[0]}

    def _at_worst(self, evaluate: Evaluate) -> Terms:
        terms = evaluate()
        weights = [p for p in self.run.parameters().values() if p.grad is not None]
        size = norm([p.grad for p in weights if p.grad is not None])
        if not self.section.rho or not bool(size > 0):
            return terms
        uphill = [p.grad * (self.section.rho / size) for p in weights if p.grad is not None]
        for p in weights:
            p.grad = None
        with moved(weights, uphill):
            evaluate()
        return terms


def _columns(groups: Sequence[Sequence[str]], variables: Sequence[str]) -> list[list[int]]:
    """Columns of the variables of each group, and of the rest as one more."""
    found: list[list[int]] = []
    for group in groups:
        for name in group:
            if not any(name in (variable, variable.rsplit("_", 1)[0]) for variable in variables):
                raise ForecastError(f"training.techniques: `sam` has a group with `{name}`, which is not predicted")
        found.append([v for v, name in enumerate(variables) if name in group or name.rsplit("_", 1)[0] in group])
    every = [v for columns in found for v in columns]
    if len(set(every)) < len(every):
        raise ForecastError("training.techniques: `sam` has a variable in two groups")
    rest = [v for v in range(len(variables)) if v not in every]
    return [*found, rest] if found and rest else found
