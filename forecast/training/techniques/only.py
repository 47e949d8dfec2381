"""Training a part of the weights: event heads after training, for one."""

from __future__ import annotations

from forecast.core import technique_sections as sections
from forecast.core.errors import ForecastError
from forecast.training.techniques.base import Evaluate, Now, Run, Technique, Terms


class Only(Technique[sections.Only]):
    """Weights whose names begin with none of `weights` get no gradient, so that they keep their bits.

    With the terms `calibrated_probability` (CaPE) or `correctness_calibration` it calibrates event heads of a trained
    forecaster, whose states stay as they are. Naming all is plain training.

    Raises:
        ForecastError: no weight has such a name.
    """

    def __init__(self, section: sections.Only, run: Run) -> None:
        super().__init__(section, run)
        names = list(run.parameters())
        for begin in section.weights:
            if not any(name.startswith(begin) for name in names):
                there = ", ".join(dict.fromkeys(".".join(name.split(".")[:2]) for name in names))
                raise ForecastError(f"training.techniques: `only` finds no weight {begin}...; there are {there}")
        self._others = [p for name, p in run.parameters().items() if not name.startswith(section.weights)]

    def gradients(self, now: Now, evaluate: Evaluate) -> Terms:
        """Of the named alone."""
        terms = evaluate()
        for p in self._others:
            p.grad = None
        return terms
