"""Population based training (Jaderberg et al. 2017): runs that copy the best of them and vary what they were told."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from forecast.core import seeding
from forecast.core import technique_sections as sections
from forecast.core.errors import ForecastError
from forecast.training.techniques.base import Advance, Evaluate, Now, Run, Technique, Terms


class Population(Technique[sections.Population]):
    """One run of a population, whose `values` multiply what its config says (alpha: replace it).

    lr multiplies the learning rate of every update, so the schedule; beta the weight of a variational forecaster's
    divergence; terms.<name> the weight of a term. `forecast population` trains all runs in turns of `every` updates,
    then gives up the worst for copies of the best whose values it varies. Published: the worst and the best 20 %,
    factors 0.8 and 1.2 (from memory of the paper). With all values at 1, and alpha the config's, it is plain training.

    Raises:
        ForecastError: something to vary that the run does not have.
    """

    def __init__(self, section: sections.Population, run: Run) -> None:
        super().__init__(section, run)
        loss = run.config.loss
        known = ["lr", *(f"terms.{name}" for name in loss.terms)]
        known += ["beta"] if run.config.model.kind == "fuxi_ens" else []
        known += ["alpha"] if "alpha" in getattr(run.model.score.loss, "options", {}) else []
        for name in section.vary:
            if name not in known:
                raise ForecastError(
                    f"training.techniques: `population` can't vary {name}; this run has {', '.join(known)}"
                )
        first = {name: loss.alpha if name == "alpha" else 1.0 for name in section.vary}
        self.noted = {"values": vary(first, section.run, section.spread, self.key(section.run)), "exchanges": 0}
        self._weights = {name: term.weight for name, term in loss.terms.items()}
        self._apply()

    def loaded(self) -> None:
        """Values of the checkpoint."""
        self._apply()

    def gradients(self, now: Now, evaluate: Evaluate) -> Terms:
        """With the run's own weight of the divergence, which the forecaster has set for this update."""
        model: Any = self.run.model
        if "beta" in self.section.vary:
            model.beta *= self.noted["values"]["beta"]
        return evaluate()

    def step(self, now: Now, lr: float, advance: Advance) -> None:
        """With the run's own learning rate."""
        advance(lr * self.noted["values"].get("lr", 1.0))

    def validated(self, done: int, score: float | None) -> None:
        """What the runs are ranked by."""
        self.noted["score"] = score

    def _apply(self) -> None:
        model, values = self.run.model, self.noted["values"]
        if "alpha" in values:
            options: dict[str, Any] = model.score.loss.options  # type: ignore[assignment]
            options["alpha"] = values["alpha"]
        terms = {
            name: term.model_copy(update={"weight": self._weights[name] * values.get(f"terms.{name}", 1.0)})
            for name, term in model.loss.terms.items()
        }
        model.loss = model.loss.model_copy(update={"terms": terms})


def vary(values: dict[str, float], run: int, spread: float, key: int) -> dict[str, float]:
    """First values of a run: within the factor `spread`, evenly in the logarithm; run 0 has those of the config."""
    if run == 0:
        return dict(values)
    return {name: _moved(name, value, spread ** (2 * u - 1)) for (name, value), u in _each(values, key)}


def explored(values: dict[str, float], factors: tuple[float, float], key: int) -> dict[str, float]:
    """Each value times one of two factors."""
    return {name: _moved(name, value, factors[u >= 0.5]) for (name, value), u in _each(values, key)}


def exchanged(scores: Sequence[float | None], share: float, key: int) -> dict[int, int]:
    """Run that is given up -> run that it becomes, one of the best; the lower score is better, none the worst.

    As many are given up as are best, round(share * runs) but one at least; of equal ones the first number is better.
    """
    order = sorted(range(len(scores)), key=lambda i: (math.inf if scores[i] is None else scores[i], i))
    count = max(1, round(share * len(scores)))
    chosen = seeding.integers(key, count, count)
    return {worst: order[int(c)] for worst, c in zip(order[-count:], chosen, strict=True)}


def _each(values: dict[str, float], key: int) -> Any:
    return zip(values.items(), seeding.uniform(key, len(values)).tolist(), strict=True)


def _moved(name: str, value: float, factor: float) -> float:
    """Alpha is a share: what moves is its distance from 1."""
    return 1 - min(1.0, (1 - value) * factor) if name == "alpha" else value * factor
