"""What techniques do to lists of weights: norms, and moving them for a moment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


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
