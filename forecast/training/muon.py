"""Muon (Jordan et al. 2024): momentum whose matrices are made orthogonal; matrices of one shape go together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from forecast.training import sharded

_QUINTIC = (3.4445, -4.7750, 2.0315)  # of Jordan et al.: brings singular values near 1 in five steps
_STEPS = 5


class Muon(torch.optim.Optimizer):
    """w <- w (1 - lr decay) - 0.2 lr sqrt(max(rows, columns)) orthogonal(nesterov momentum of the gradient)

    The factor makes the update's RMS that of AdamW (Liu et al. 2025, arXiv 2502.16982), so that learning rates mean
    the same. The updates are those of `torch.optim.Muon` (torch >= 2.9) with `match_rms_adamw`; a network has many
    small matrices of few shapes, and products in batches take less than two thirds of the time. Where matrices are cut
    among processes (FSDP2), each process is given some of them whole, and gives back their directions.

    Args:
        params: matrices. momentum: decay of the gradient's average.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float = 0.0, weight_decay: float = 0.1, momentum: float = 0.95
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update all matrices that have a gradient."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    alike[p.shape].append(p)
            for shape, matrices in alike.items():
                momentum = torch.stack([self._nesterov(p, group["momentum"]) for p in matrices])
                directions = sharded.of_whole(orthogonal, momentum, matrices[0])
                here = [sharded.local(p) for p in matrices]
                torch._foreach_mul_(here, 1 - group["lr"] * group["weight_decay"])
                size = 0.2 * group["lr"] * max(shape) ** 0.5
                torch._foreach_add_(here, list(directions.to(here[0].dtype)), alpha=-size)

    def _nesterov(self, p: Tensor, momentum: float) -> Tensor:
        assert p.grad is not None
        gradient = sharded.local(p.grad)
        buffer = sharded.local(self.state[p].setdefault("momentum_buffer", torch.zeros_like(p.grad)))
        buffer.lerp_(gradient, 1 - momentum)
        return gradient.lerp(buffer, momentum)


def orthogonal(matrices: Tensor) -> Tensor:
    """(n, r, c) in bfloat16: about U V^T of each, its singular values between 0.7 and 1.2, by Newton and Schulz."""
    a, b, c = _QUINTIC
    x = matrices.bfloat16()
    if tall := x.shape[1] > x.shape[2]:
        x = x.mT.contiguous()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
