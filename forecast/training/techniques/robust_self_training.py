"""Distributionally robust self-training (Saberi et al. 2024, Out-of-domain unlabeled data improves generalization)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from forecast.core import data_technique_sections as sections
from forecast.core import seeding
from forecast.core.store import Store
from forecast.data.batch import Batch
from forecast.data.dataset import Dataset
from forecast.data.loader import load
from forecast.data.sampler import draw
from forecast.models.base import clock
from forecast.training.techniques.base import Evaluate, Now, Run, Technique, Terms
from forecast.training.techniques.weights import lowest_states, unscored


class RobustSelfTraining(Technique[sections.RobustSelfTraining]):
    """phi_c of own samples + strength phi_c' of unlabelled ones, phi_c = max over z of loss(z, y) - c |z - x|^2.

    x are the states that a sample starts from and |.|^2 is the mean square in standard deviations (there the squared
    L2 norm of an embedding). Unlabelled: states of other archives, whose own next states are not believed (another
    model's climate); their y is a member of the forecaster's own, drawn by a key of its own and held fixed (in the
    official code a class's chances). The worst z is found by gradient steps alpha / t, alpha = 1 / 2c, of which the
    first is exact where the loss is linear; the official code takes 10 of a free alpha. Strength 0.001 is that code's
    (its searches found 1e-5 to 0.1); costs there range over eight powers of ten, 5 is ours. Strength 0 without a
    cost is plain training. Costs a pass for each step, and as much and two passes more for unlabelled samples.
    """

    def __init__(self, section: sections.RobustSelfTraining, run: Run) -> None:
        super().__init__(section, run)
        config, fields = run.config, run.model.fields
        stores = [Store.open(Path(config.root) / name) for name in section.archives] if section.strength else []
        self._archives = [Dataset(config.data, config.data.train, store) for store in stores]
        self._stdev = torch.tensor(fields.column("stdev", fields.variables), dtype=torch.float32, device=run.device)
        self._lowest = lowest_states(fields.variables).to(run.device)

    def batch(self, now: Now, batch: Batch) -> Batch:
        """From the worst states nearby."""
        return self._worst(now, batch, self.section.cost)

    def gradients(self, now: Now, evaluate: Evaluate) -> Terms:
        """With that of unlabelled states."""
        terms = evaluate()
        if not self._archives:
            return terms
        guessed = self._guessed(self._unlabelled(now))
        worst = self._worst(now, guessed, self.section.cost_unlabelled)
        with unscored(self.run.model):
            loss = self.run.model.training_loss(worst, now.members, worst.keys)["loss"]
        (self.section.strength * loss).backward()
        return terms | {"techniques/unlabelled": loss.detach()}

    def _unlabelled(self, now: Now) -> Batch:
        """Windows of one step of an archive, in turn."""
        data = self._archives[now.update % len(self._archives)]
        count, size = len(data.windows(1)), self.run.config.training.batch_size
        turn = now.update // len(self._archives)
        place = draw(self.key("unlabelled", data.truth.path.name) >> 1, turn, batch_size=size, windows=count, rollout=1)
        return load(data, place, self.run.device)

    @torch.no_grad()
    def _guessed(self, batch: Batch) -> Batch:
        """With a member of the forecaster's own as truth."""
        model, inputs = self.run.model, batch.input_steps
        noise = model.draw([seeding.key(key, "guess") for key in batch.keys])[:, None]
        times = clock(batch.dates[:, inputs - 1], 0, self.run.device)
        given = batch.states[:, None, :inputs, :, : model.prognostic]
        guess = model.step(given, batch.forcings[:, inputs - 1], True, noise, times)
        return replace(batch, states=torch.cat([batch.states[:, :inputs], guess], dim=1))

    def _worst(self, now: Now, batch: Batch, cost: float | None) -> Batch:
        """With the first states moved to where the loss less the cost is largest."""
        if cost is None:
            return batch
        inputs = batch.input_steps

        def moved(by: Tensor) -> Batch:
            first = torch.maximum(batch.states[:, :inputs] + by * self._stdev, self._lowest)
            return replace(batch, states=torch.cat([first, batch.states[:, inputs:]], dim=1))

        def slope(by: Tensor) -> Tensor:
            at = by.detach().requires_grad_()
            with unscored(self.run.model), torch.enable_grad():
                loss = self.run.model.training_loss(moved(at), now.members, batch.keys)["loss"]
            return torch.autograd.grad(loss * len(at), at)[0]

        return moved(worst(slope, batch.states[:, :inputs].shape, cost, self.section.steps, self.run.device))


def worst(
    slope: Callable[[Tensor], Tensor], shape: tuple[int, ...], cost: float, steps: int, device: torch.device
) -> Tensor:
    """Moves (B, *) that raise each sample's loss less `cost` times their mean square.

    Args:
        slope: gradient of the sum of the samples' losses by the moves.
    """
    by, each = torch.zeros(shape, device=device), math.prod(shape[1:])
    for t in range(1, steps + 1):
        by = by + (each * slope(by) - 2 * cost * by) / (2 * cost * t)
    return by
