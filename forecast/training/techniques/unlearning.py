"""Unlearning a bad period (Tarun et al. 2023, Deep regression unlearning; Fan et al. 2024, SalUn)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from forecast.core import seeding
from forecast.core import technique_sections as sections
from forecast.core.errors import ForecastError
from forecast.core.times import format_time
from forecast.data.batch import Batch
from forecast.data.loader import collate
from forecast.data.sampler import Draw
from forecast.models.base import load_teacher
from forecast.models.offers import Passing, Step
from forecast.training.curriculum import Update
from forecast.training.techniques.base import Advance, Evaluate, Make, Now, Run, Technique, Terms


class Unlearning(Technique[sections.Unlearning]):
    """Fine-tuning after which the forgotten period no longer helps, and the rest is kept; use `training.start_from`.

    blindspot: samples of the period have |member - proxy's member| of equal noise as their score, the proxy having been
    trained a little on the other dates; a member equal to the proxy's gives zero. The official code adds 50 times the
    distance of attention maps, which these networks do not tell. saliency: samples of the period have the truth of
    another date, and only the weights with the largest |gradient| on the period change, 50 % of them as in the official
    code (there with random labels, which a forecaster has not). Without samples of the period it is plain training
    (blindspot). Label-agnostic forgetting is the terms `representation_gap` and `forgetting_contrast`.

    Raises:
        ForecastError: no window of training has a truth in the period, or none has not.
    """

    def __init__(self, section: sections.Unlearning, run: Run) -> None:
        super().__init__(section, run)
        self._inside = self._forgotten_windows()
        self._proxy = load_teacher(section.proxy, run.model.fields).to(run.device) if section.proxy else None
        whole = self._proxy is not None and type(self._proxy) is not type(run.model)
        if whole:
            raise ForecastError("training.techniques: `unlearning` needs a proxy of the run's own kind of model")

    def _forgotten_windows(self) -> np.ndarray:
        data, (first, last) = self.run.data, self.section.forget
        inside = np.array([self._is_forgotten(data.window(int(w), 1, 0).dates) for w in data.windows(1)])
        if inside.all() or not inside.any():
            what = "every window" if inside.all() else "no window"
            raise ForecastError(
                f"training.techniques: `unlearning` of {format_time(first)} to {format_time(last)}: {what} of "
                "data.train has a truth there"
            )
        return inside

    def _is_forgotten(self, dates: np.ndarray) -> bool:
        truths = dates[self.run.data.data.input_steps :]
        return bool(((truths >= self.section.forget[0]) & (truths <= self.section.forget[1])).any())

    def draw(self, plan: Update, windows: np.ndarray, make: Make) -> Draw:
        """The period's windows several times."""
        data = self.run.data
        firsts = data.windows(1)[self._inside]
        forgotten = windows[np.isin(data.windows(plan.rollout)[windows], firsts)]
        return make(np.concatenate([windows, *(self.section.often - 1) * [forgotten]]))

    def batch(self, now: Now, batch: Batch) -> Batch:
        """saliency: with wrong truths for the forgotten."""
        forgotten = [b for b, dates in enumerate(batch.dates) if self._is_forgotten(dates)]
        if self.section.method == "blindspot" or not forgotten:
            return batch
        states, data = batch.states.clone(), self.run.data
        others = data.windows(batch.rollout)
        for b in forgotten:
            key = seeding.key(batch.keys[b], "unlearning")
            other = data.read(int(others[seeding.integers(key, len(others), 1)[0]]), batch.rollout, key)
            truth = torch.from_numpy(other.states[batch.input_steps :].swapaxes(-1, -2)).to(states)
            states[b, batch.input_steps :] = truth
        return replace(batch, states=states)

    def scores(self, now: Now, scores: Tensor, steps: Sequence[Step]) -> Tensor:
        """blindspot: the distance to the proxy for the forgotten."""
        if self._proxy is None:
            return scores
        truths = np.stack([step.dates for step in steps], axis=1)
        first, last = self.section.forget
        forgotten = torch.from_numpy(((truths >= first) & (truths <= last)).any(axis=1)).to(scores.device)
        if not bool(forgotten.any()):
            return scores
        far = torch.stack([self.distance(step) for step in steps])
        return torch.where(forgotten[:, None, None], far, scores)

    def distance(self, step: Step) -> Tensor:
        """(B, G, V) mean over members of the absolute distance to the proxy's."""
        assert self._proxy is not None
        weights: dict[str, Tensor] = {f"network.{name}": p for name, p in self._proxy.network.named_parameters()}
        with torch.no_grad():
            past = [state.detach() for state in step.past]
            whole = Passing(self.run.model.network, step.run)
            theirs, _ = torch.func.functional_call(whole, weights, (past, step.forcings, step.noise))
        return (step.members - theirs).abs().mean(dim=1)

    def gradients(self, now: Now, evaluate: Evaluate) -> Terms:
        """saliency: which weights may change is found before the first update."""
        if self.section.method == "saliency" and not self.kept:
            self.kept = salient(self._slopes(now.members), self.section.share)
        return evaluate()

    def _slopes(self, members: int) -> dict[str, Tensor]:
        """Gradients of the loss on windows of the period, evenly chosen."""
        data, model = self.run.data, self.run.model
        windows = data.windows(1)[self._inside]
        chosen = np.unique(np.linspace(0, len(windows) - 1, self.section.samples).round().astype(int))
        for number, w in enumerate(chosen):
            sample = data.read(int(windows[w]), 1, self.key("saliency", number))
            batch = collate([sample], data.data.input_steps).to(self.run.device)
            (model.training_loss(batch, members, batch.keys)["loss"] / len(chosen)).backward()
        slopes = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in self.run.parameters().items()}
        for p in self.run.parameters().values():
            p.grad = None
        return slopes

    @torch.no_grad()
    def step(self, now: Now, lr: float, advance: Advance) -> None:
        """saliency: of the weights that may change alone."""
        if not self.kept:
            advance(lr)
            return
        before = {name: p.detach().clone() for name, p in self.run.parameters().items()}
        advance(lr)
        for name, p in self.run.parameters().items():
            p.copy_(torch.where(self.kept[name], p, before[name]))


def salient(slopes: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """True for the `share` of all weights with the largest |gradient|; of equal ones those that come first."""
    every = torch.cat([slope.abs().flatten() for slope in slopes.values()])
    chosen = torch.zeros_like(every, dtype=torch.bool)
    chosen[every.argsort(descending=True, stable=True)[: round(share * len(every))]] = True
    parts = chosen.split([slope.numel() for slope in slopes.values()])
    return {name: part.view_as(slope) for (name, slope), part in zip(slopes.items(), parts, strict=True)}
