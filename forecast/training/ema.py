"""Exponential moving average of the weights, which forecasts are made with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """a <- a + (1 - d) (w - a) after every update, with d = min(decay, (1 + n) / (10 + n)) at update n = 1, 2, ...

    The growing decay lets the average forget the initial weights in short runs as well. A decay of 0 keeps the
    weights themselves.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._weights = dict(model.named_parameters())
        self.weights = {name: p.detach().clone() for name, p in self._weights.items()}

    @torch.no_grad()
    def update(self, n: int) -> None:
        """Take in the weights after update `n`, counted from 1."""
        decay = min(self.decay, (1 + n) / (10 + n))
        torch._foreach_lerp_(list(self.weights.values()), list(self._weights.values()), 1.0 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the model's parameters hold the averages."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, parameter in self._weights.items():
            kept = parameter.detach().clone()
            parameter.copy_(self.weights[name])
            self.weights[name].copy_(kept)

    def load(self, weights: dict[str, Tensor]) -> None:
        """Continue from saved averages."""
        for name, average in self.weights.items():
            average.copy_(weights[name])
