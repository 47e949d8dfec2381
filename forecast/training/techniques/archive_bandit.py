"""Auxiliary archives mixed in by a bandit (Albalak et al. 2023, FLAD: exploring and exploiting auxiliary data)."""

from __future__ import annotations

import itertools
import math
from bisect import bisect
from pathlib import Path

import torch
from torch import Tensor

from forecast.core import data_technique_sections as sections
from forecast.core import seeding
from forecast.core.store import Store
from forecast.data.dataset import Dataset
from forecast.data.loader import load
from forecast.data.sampler import draw
from forecast.training.techniques.base import Evaluate, Now, Run, Technique, Terms
from forecast.training.techniques.weights import dot, norm


class ArchiveBandit(Technique[sections.ArchiveBandit]):
    """g = g_own + beta g_a of an auxiliary archive a, chosen by how its gradients have agreed with the run's own.

    The reward is the cosine of g_a and g_own (official code, as is beta = 1). ucb1 plays each archive once, then the
    one with the largest mean reward + sqrt(2 ln t / n); exp3 draws one with probability (1 - K e) softmax(e R) + e, R
    the sums of rewards over their probabilities and e = min(1 / K, sqrt(ln K / (K t))). beta = 0 is plain training.
    Costs a second pass each update. Stores need the run's variables and grid; their windows are those of the same
    period.
    """

    def __init__(self, section: sections.ArchiveBandit, run: Run) -> None:
        super().__init__(section, run)
        config, count = run.config, len(section.archives)
        stores = [Store.open(Path(config.root) / name) for name in section.archives]
        self._archives = [Dataset(config.data, config.data.train, store) for store in stores]
        self.noted = {"plays": [0] * count, "rewards": [0.0] * count}

    def gradients(self, now: Now, evaluate: Evaluate) -> Terms:
        """The run's own, and that of the archive chosen."""
        terms = evaluate()
        weights = [p for p in self.run.parameters().values() if p.requires_grad]
        own = [_taken(p) for p in weights]
        chosen, chance = self._choose(now.update)
        self._evaluate(now, chosen)
        other = [_taken(p) for p in weights]
        size = float(norm(own) * norm(other))
        reward = float(dot(own, other)) / size if size > 0 else 0.0
        self.noted["plays"][chosen] += 1
        self.noted["rewards"][chosen] += reward / chance if self.section.policy == "exp3" else reward
        for p, mine, theirs in zip(weights, own, other, strict=True):
            p.grad = mine.add(theirs, alpha=self.section.beta) if self.section.beta else mine
        shown = {"archive": float(chosen), "archive_reward": reward}
        return terms | {f"techniques/{name}": torch.tensor(value) for name, value in shown.items()}

    def _evaluate(self, now: Now, chosen: int) -> None:
        data, training = self._archives[chosen], self.run.config.training
        windows = len(data.windows(now.plan.rollout))
        seed, size = self.key("archive", chosen) >> 1, training.batch_size
        batch = load(data, draw(seed, now.update, batch_size=size, windows=windows, rollout=now.plan.rollout),
                     self.run.device)  # fmt: skip
        self.run.model.training_loss(batch, now.members, batch.keys)["loss"].backward()

    def _choose(self, update: int) -> tuple[int, float]:
        """Number of an archive, and the chance that it had."""
        plays, rewards = self.noted["plays"], self.noted["rewards"]
        if self.section.policy == "ucb1":
            return ucb1(plays, rewards), 1.0
        chances = exp3(rewards, sum(plays) + 1)
        u = float(seeding.uniform(self.key("play", update), 1)[0])
        number = min(bisect(list(itertools.accumulate(chances)), u), len(chances) - 1)
        return number, chances[number]


def ucb1(plays: list[int], rewards: list[float]) -> int:
    """The first that was not played, else that with the largest upper bound of its mean reward."""
    if 0 in plays:
        return plays.index(0)
    time = sum(plays)
    bounds = [reward / n + math.sqrt(2 * math.log(time) / n) for n, reward in zip(plays, rewards, strict=True)]
    return bounds.index(max(bounds))


def exp3(rewards: list[float], time: int) -> list[float]:
    """Chances of each at play `time`, from 1."""
    count = len(rewards)
    e = min(1 / count, math.sqrt(math.log(count) / (count * time)))
    softmax = (e * torch.tensor(rewards, dtype=torch.float64)).softmax(0)
    return ((1 - count * e) * softmax + e).tolist()


def _taken(p: Tensor) -> Tensor:
    """The gradient of a weight, which has none after."""
    gradient, p.grad = p.grad, None
    return torch.zeros_like(p) if gradient is None else gradient
