"""Small modules that learn beside a forecaster, because a loss of its terms asks for them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from forecast.losses.sparsity import FeatureUse


def mlp(inputs: int, outputs: int, hidden: int = 64) -> nn.Sequential:
    """Linear, SiLU, linear: smooth, since some losses differentiate it twice."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, outputs))


def _random(rows: int, width: int) -> nn.Parameter:
    """(rows, width) vectors of about unit length."""
    return nn.Parameter(nn.init.normal_(torch.empty(rows, width), std=1 / math.sqrt(width)))


class Prototypes(nn.Module):
    """(count, width) learnt vectors, and if wished as many normals of planes through them."""

    def __init__(self, count: int, width: int, planes: bool = False) -> None:
        super().__init__()
        self.rows = _random(count, width)
        self.normals = _random(count, width) if planes else None


class Temperature(nn.Module):
    """One positive number, 1 at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.zeros(1))

    def forward(self) -> Tensor:
        return self.log.exp()


class SparseCode(nn.Module):
    """A sparse autoencoder of features (R, width): 4 * width of them, of which a sample keeps the `active` largest."""

    def __init__(self, width: int, active: int = 8, idle: int = 10_000) -> None:
        super().__init__()
        self.active, self.idle = min(active, width), idle
        self.encode = nn.Linear(width, 4 * width)
        self.decoder = _random(4 * width, width)
        self.offset = nn.Parameter(torch.zeros(width))
        self.use = FeatureUse(4 * width)

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Features before the activation (R, F), and the reconstruction (R, width)."""
        raw = self.encode(rows - self.offset)
        best = raw.topk(self.active, dim=-1)
        kept = torch.zeros_like(raw).scatter(-1, best.indices, best.values.relu())
        if self.training:
            self.use(kept)
        return raw, kept @ self.decoder + self.offset


class PairHeads(nn.Module):
    """Views (R, width) through several heads, and the keys that their temperatures are made of."""

    def __init__(self, width: int, heads: int = 3, size: int = 16) -> None:
        super().__init__()
        self.heads = heads
        self.project, self.key = nn.Linear(width, heads * size), nn.Linear(size, 8)

    def forward(self, rows: Tensor) -> Tensor:
        """(R, C, E)."""
        return self.project(rows).unflatten(-1, (self.heads, -1))


class PairCritic(nn.Module):
    """(R, R) scores of pairs of two views; 1-Lipschitz in each for views of unit length, by spectral norms."""

    def __init__(self, width: int, size: int = 32) -> None:
        super().__init__()
        bound = nn.utils.parametrizations.spectral_norm
        self.first, self.second = (bound(nn.Linear(width, size, bias=False)) for _ in range(2))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.first(functional.normalize(first, dim=-1)) @ self.second(functional.normalize(second, dim=-1)).T


class Critic(nn.Module):
    """Judges states of single points (R, V): a value, and logits of each class, real or made."""

    def __init__(self, variables: int, classes: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(variables, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU())
        self.value, self.logits = nn.Linear(64, 1), nn.Linear(64, 2 * classes)

    def forward(self, states: Tensor) -> Tensor:
        """(R, 1 + 2K): the value, then logits."""
        trunk = self.trunk(states)
        return torch.cat([self.value(trunk), self.logits(trunk)], dim=-1)


class Marginals(nn.Module):
    """log p of any subset of a point's variables, and of one more given them (normal)."""

    def __init__(self, variables: int) -> None:
        super().__init__()
        self.net = mlp(2 * variables, 1 + 2 * variables)

    def forward(self, states: Tensor, known: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log p (R,), and for every variable the mean and log of the deviation (R, V), knowing states where known."""
        out = self.net(torch.cat([states * known, known], dim=-1))
        mean, log_deviation = out[:, 1:].chunk(2, dim=-1)
        return out[:, 0], mean, log_deviation.clamp(-5.0, 5.0)


class Leads(nn.Module):
    """Fields and latents at all leads at once, from the features of a rollout's first step."""

    def __init__(self, hidden: int, latent: int, variables: int) -> None:
        super().__init__()
        self.fields, self.latents = nn.Linear(hidden + 1, variables), nn.Linear(latent + 1, latent)

    def forward(self, hidden: Tensor, latent: Tensor, leads: int) -> tuple[Tensor, Tensor]:
        """(B, S, G, V) and (B, S, D) from (B, G, W) and (B, D)."""
        fields, latents = (torch.stack([_with_lead(x, lead) for lead in range(leads)], dim=1) for x in (hidden, latent))
        return self.fields(fields), self.latents(latents)


def _with_lead(x: Tensor, lead: int) -> Tensor:
    return torch.cat([x, torch.full_like(x[..., :1], 0.1 * lead)], dim=-1)


class DistributionHead(nn.Module):
    """Parameters of a distribution of one variable at every point, from features (B, G, width)."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.read = nn.Linear(width, count)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, count, G)."""
        return self.read(hidden).movedim(-1, 1)
