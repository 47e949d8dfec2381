"""Two linear layers with a GELU between, a slice of rows at a time: the wide middle is never held whole, nor kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

MIDDLE = {"cpu": 1 << 18}
"""numbers in the middle of a slice by device: on the CPU they stay in the core's cache"""
LARGE = 1 << 28


class SlicedMLP(nn.Module):
    """Linear, GELU, linear; the gradient computes the middle again."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        weights = (self.inner.weight, self.inner.bias, self.outer.weight, self.outer.bias)
        device = x.device.type
        if torch.is_autocast_enabled(device):
            low = torch.get_autocast_dtype(device)
            x, weights = x.to(low), tuple(weight.to(low) for weight in weights)  # type: ignore[assignment]
        return _mlp(x.flatten(0, -2), *weights).view(x.shape)


def _slices(rows: int, hidden: int, device: torch.device) -> Iterator[slice]:
    size = max(1, MIDDLE.get(device.type, LARGE) // hidden)
    return (slice(begin, min(begin + size, rows)) for begin in range(0, rows, size))


@torch.library.custom_op("forecast::mlp", mutates_args=())
def _mlp(x: Tensor, inner: Tensor, inner_bias: Tensor, outer: Tensor, outer_bias: Tensor) -> Tensor:
    """(R, O) from x (R, D), inner (F, D), outer (O, F)."""
    out = x.new_empty(len(x), len(outer))
    for rows in _slices(len(x), len(inner), x.device):
        middle = functional.gelu(torch.addmm(inner_bias, x[rows], inner.T))
        torch.addmm(outer_bias, middle, outer.T, out=out[rows])
    return out


@torch.library.custom_op("forecast::mlp_backward", mutates_args=())
def _mlp_backward(
    grad: Tensor, x: Tensor, inner: Tensor, inner_bias: Tensor, outer: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of all inputs; those of weights are summed over slices in float32."""
    to_x = torch.empty_like(x)
    to_inner, to_inner_bias, to_outer = (torch.zeros_like(w, dtype=torch.float32) for w in (inner, inner_bias, outer))
    for rows in _slices(len(x), len(inner), x.device):
        g = grad[rows]
        before = torch.addmm(inner_bias, x[rows], inner.T)
        _add_product(to_outer, g.T, functional.gelu(before))
        to_before = torch.ops.aten.gelu_backward(g @ outer, before)
        _add_product(to_inner, to_before.T, x[rows])
        to_inner_bias += to_before.sum(0)
        torch.mm(to_before, inner, out=to_x[rows])
    low = inner.dtype
    return to_x, to_inner.to(low), to_inner_bias.to(low), to_outer.to(low), grad.sum(0)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b


@_mlp.register_fake
def _(x: Tensor, inner: Tensor, inner_bias: Tensor, outer: Tensor, outer_bias: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], outer.shape[0])


@_mlp_backward.register_fake
def _(
    grad: Tensor, x: Tensor, inner: Tensor, inner_bias: Tensor, outer: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    inputs = (x, inner, inner_bias, outer)
    a, b, c, d = (torch.empty_like(t) for t in inputs)
    return a, b, c, d, grad.new_empty(grad.shape[1])


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])


def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
    return _mlp_backward(grad.contiguous(), *ctx.saved_tensors)


_mlp.register_autograd(_gradient, setup_context=_keep)
