"""What several techniques do: norms of lists of weights, moving them for a moment, passes without other techniques."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from forecast.core.variables import minimum


def norm(tensors: Sequence[Tensor]) -> Tensor:
    """L2 over all of them, a scalar; 0 for none."""
    return torch.stack([t.float().norm() for t in tensors]).norm() if tensors else torch.zeros(())


def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Sum of products over two lists alike, a scalar; 0 for none."""
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum() if a else torch.zeros(())


@contextmanager
def moved(weights: Sequence[Tensor], by: Sequence[Tensor]) -> Iterator[None]:
    """Within the block the weights are moved; afterwards they have their bits of before."""
    with torch.no_grad():
        before = [w.detach().clone() for w in weights]
        torch._foreach_add_(list(weights), list(by))
    try:
        yield
    finally:
        with torch.no_grad():
            for w, original in zip(weights, before, strict=True):
                w.copy_(original)


@contextmanager
def unscored(model: Any) -> Iterator[None]:
    """Within the block no technique has a say in the scores of `model`."""
    rescored, model.rescored = model.rescored, None
    try:
        yield
    finally:
        model.rescored = rescored


def lowest_states(variables: Sequence[str]) -> Tensor:
    """(V,) physical minimum of each variable, minus infinity where there is none."""
    bounds = [minimum(name) for name in variables]
    return torch.tensor([-torch.inf if bound is None else bound for bound in bounds], dtype=torch.float32)
