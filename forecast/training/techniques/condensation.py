"""Dataset condensation by contrastive gradient matching (Lee et al. 2022, contrastive signals)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from forecast.core import data_technique_sections as sections
from forecast.core.errors import ForecastError
from forecast.data.batch import Batch
from forecast.data.loader import collate
from forecast.losses.condensation import gradient_matching
from forecast.models.forecaster import build
from forecast.training.curriculum import Curriculum
from forecast.training.techniques.base import Evaluate, Now, Run, Technique, Terms
from forecast.training.techniques.weights import lowest_states, moved, norm, unscored

FILE, NAME = "optimizer.safetensors", "technique.condensation.states"


class Condensation(Technique[sections.Condensation]):
    """Samples s that learn: each update moves them down D(grad_w L(w; archive), grad_w L(w; s)), w then learn from s.

    D is `losses.condensation.gradient_matching` (official code: sum over outputs of 1 - cosine, samples begin as real
    ones, momentum 0.5, ten updates of a network before one with new weights). D's slope by s is d/ds of
    v . grad_w L(w; s), v = dD/dg: a central difference along v of slopes by s, so no operator needs a second
    derivative (there it is taken through the network). Each move has the rms `rate` in standard deviations, which
    falls to 0 over the run (ours, 0.001; there steps of 0.1 times the slope by pixels). Samples equal to the archive's
    give D = 0 and stay. With `of`, a run trains on what another found: from the archive it then needs statistics
    alone. Samples are of one step. Five passes each update.

    Raises:
        ForecastError: rollouts of several steps, or no such samples in `of`.
    """

    def __init__(self, section: sections.Condensation, run: Run) -> None:
        super().__init__(section, run)
        if Curriculum(run.config.training.stages).rollouts() != [1]:
            raise ForecastError("training.techniques: `condensation` trains rollouts of one step only")
        fields, data = run.model.fields, run.data
        windows, held = data.windows(1), _held(section.of)
        count = section.samples if held is None else len(held)
        firsts = windows[np.linspace(0, len(windows) - 1, count).round().astype(int)]
        read = [data.read(int(first), 1, self.key("sample", number)) for number, first in enumerate(firsts)]
        self._samples = collate(read, data.data.input_steps).to(run.device)
        self._stdev = torch.tensor(fields.column("stdev", fields.variables), dtype=torch.float32, device=run.device)
        self._lowest = lowest_states(fields.variables).to(run.device)
        states = self._samples.states if held is None else held.to(run.device)
        if states.shape != self._samples.states.shape:
            raise ForecastError(f"{section.of}: condensed samples {tuple(states.shape)} of another grid or variables")
        self.kept = {"states": states.clone()}
        if section.of is None:
            self.kept["velocity"] = torch.zeros_like(states)

    def batch(self, now: Now, batch: Batch) -> Batch:
        """Of condensed samples, where they are given: in turn, with the noise of the update."""
        if self.section.of is None:
            return batch
        size, whole = len(batch.keys), self._condensed()
        at = (now.update * size + np.arange(size)) % len(whole.keys)
        tensors = {name: getattr(whole, name)[at] for name in ("states", "forcings", "starts_from_analysis", "dates")}
        return replace(batch, **tensors, places=None)

    def gradients(self, now: Now, evaluate: Evaluate) -> Terms:
        """That of the condensed samples, which have been moved."""
        if self.section.of is not None:
            return evaluate()
        if now.update and now.update % self.section.fresh_every == 0:
            self._begin_again(now.update)
        terms = evaluate()
        weights = [p for p in self.run.parameters().values() if p.grad is not None]
        real = [p.grad.clone() for p in weights if p.grad is not None]
        apart, slope = self._slope(now, weights, real)
        self._move(slope, self.section.rate * (1 - now.update / self._updates))
        for p, own in zip(weights, self._own(now, weights), strict=True):
            p.grad = own
        return terms | {"techniques/apart": apart}

    @property
    def _updates(self) -> int:
        return Curriculum(self.run.config.training.stages).updates

    def _condensed(self) -> Batch:
        return replace(self._samples, states=self.kept["states"])

    def _loss(self, now: Now, samples: Batch) -> Tensor:
        with unscored(self.run.model):
            return self.run.model.training_loss(samples, now.members, samples.keys)["loss"]

    def _own(self, now: Now, weights: Sequence[Tensor]) -> list[Tensor]:
        """Gradients of the condensed samples' loss by the weights."""
        found = torch.autograd.grad(self._loss(now, self._condensed()), weights, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(weights, found, strict=True)]

    def _slope(self, now: Now, weights: Sequence[Tensor], real: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """How far gradients are apart, and its slope by the samples' states."""
        own = [g.requires_grad_() for g in self._own(now, weights)]
        apart = gradient_matching(real, own)
        along = torch.autograd.grad(apart, own, allow_unused=True)
        direction = [torch.zeros_like(g) if v is None else v for g, v in zip(own, along, strict=True)]

        def by_states() -> Tensor:
            states = self.kept["states"].clone().requires_grad_()
            return torch.autograd.grad(self._loss(now, replace(self._samples, states=states)), states)[0]

        return apart.detach(), mixed_derivative(by_states, weights, direction, self.section.difference)

    @torch.no_grad()
    def _move(self, slope: Tensor, rate: float) -> None:
        """Down a slope by states."""
        down = slope * self._stdev
        size = down.square().mean().sqrt()
        if not bool(size > 0):
            return
        self.kept["velocity"] = self.section.momentum * self.kept["velocity"] + down / size
        states = self.kept["states"] - rate * self._stdev * self.kept["velocity"]
        self.kept["states"] = torch.maximum(states, self._lowest)

    @torch.no_grad()
    def _begin_again(self, update: int) -> None:
        """New weights."""
        model = self.run.model
        torch.manual_seed(self.key("weights", update) >> 1)
        fresh = dict(build(model.section, model.fields, model.loss).named_parameters())
        for name, p in model.named_parameters():
            p.copy_(fresh[name])


def mixed_derivative(
    slope: Callable[[], Tensor], weights: Sequence[Tensor], direction: Sequence[Tensor], difference: float
) -> Tensor:
    """d/dw of `slope`() along `direction`, by a central difference of `difference` times the weights' norm."""
    size, far = norm(direction), difference * norm([w.detach() for w in weights])
    if not bool(size > 0):
        return torch.zeros_like(slope())
    by = [v * (far / size) for v in direction]
    with moved(weights, by):
        ahead = slope()
    with moved(weights, [-v for v in by]):
        behind = slope()
    return (ahead - behind) * (size / (2 * far))


def _held(folder: str | None) -> Tensor | None:
    """(N, T, G, V) condensed states in a checkpoint.

    Raises:
        ForecastError: there are none.
    """
    if folder is None:
        return None
    path = Path(folder) / FILE
    if path.exists():
        with safe_open(path, framework="pt") as file:
            if NAME in file.keys():  # noqa: SIM118 - a method of the file, which is no mapping
                return file.get_tensor(NAME)
    raise ForecastError(f"{folder}: no condensed samples: name a checkpoint of a run with `condensation`")
