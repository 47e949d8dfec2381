"""Two linear layers with a GELU between, a slice of rows at a time: the wide middle is never held whole, nor kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from forecast.models import kernels, mlp_kernels
from forecast.models.recompute import kept

MIDDLE = {"cpu": 1 << 18}
"""numbers in the middle of a slice by device: on the CPU they stay in the core's cache"""
LARGE = 1 << 28


class SlicedMLP(nn.Module):
    """Linear, GELU, linear; the gradient computes the middle again, which costs no more than to keep and read it."""

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


def _slices(x: Tensor, hidden: int) -> Iterator[slice]:
    size = _rows(x, hidden)
    return (slice(begin, min(begin + size, len(x))) for begin in range(0, len(x), size))


def _rows(x: Tensor, hidden: int) -> int:
    """Of a slice."""
    return max(1, MIDDLE.get(x.device.type, LARGE) // hidden)


def _room(x: Tensor, hidden: int) -> Tensor:
    """For the middle of a slice."""
    return x.new_empty(min(len(x), _rows(x, hidden)), hidden)


@torch.library.custom_op("forecast::mlp", mutates_args=())
@kept
def _mlp(x: Tensor, inner: Tensor, inner_bias: Tensor, outer: Tensor, outer_bias: Tensor) -> Tensor:
    """(R, O) from x (R, D), inner (F, D), outer (O, F)."""
    return _forward(x, inner, inner_bias, outer, outer_bias, _gelu)


@torch.library.custom_op("forecast::mlp_backward", mutates_args=())
def _mlp_backward(
    grad: Tensor, x: Tensor, inner: Tensor, inner_bias: Tensor, outer: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of all inputs; those of weights are summed over slices in float32 at least."""
    return _backward(grad, x, inner, inner_bias, outer, _gelu_backward)


def _forward(
    x: Tensor, inner: Tensor, inner_bias: Tensor, outer: Tensor, outer_bias: Tensor,
    gelu: Callable[[Tensor], None],
) -> Tensor:  # fmt: skip
    out, room = x.new_empty(len(x), len(outer)), _room(x, len(inner))
    for rows in _slices(x, len(inner)):
        middle = torch.addmm(inner_bias, x[rows], inner.T, out=room[: rows.stop - rows.start])
        gelu(middle)
        torch.addmm(outer_bias, middle, outer.T, out=out[rows])
    return out


def _backward(
    grad: Tensor, x: Tensor, inner: Tensor, inner_bias: Tensor, outer: Tensor,
    gelu_backward: Callable[[Tensor, Tensor], None],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    to_x, room, more = torch.empty_like(x), _room(x, len(inner)), _room(x, len(inner))
    wide = torch.promote_types(x.dtype, torch.float32)
    to_inner, to_inner_bias, to_outer = (torch.zeros_like(w, dtype=wide) for w in (inner, inner_bias, outer))
    for rows in _slices(x, len(inner)):
        g, size = grad[rows], rows.stop - rows.start
        middle = torch.addmm(inner_bias, x[rows], inner.T, out=room[:size])
        slope = torch.mm(g, outer, out=more[:size])
        gelu_backward(middle, slope)
        _add_product(to_outer, g.T, middle)
        _add_product(to_inner, slope.T, x[rows])
        to_inner_bias += slope.sum(0)
        torch.mm(slope, inner, out=to_x[rows])
    low = inner.dtype
    return to_x, to_inner.to(low), to_inner_bias.to(low), to_outer.to(low), grad.sum(0)


def _gelu(x: Tensor) -> None:
    """x becomes gelu(x)."""
    x.copy_(functional.gelu(x))


def _gelu_backward(x: Tensor, slope: Tensor) -> None:
    """The slope by gelu(x) becomes that by x, and x becomes gelu(x)."""
    slope.copy_(torch.ops.aten.gelu_backward(slope, x))
    _gelu(x)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b


@_mlp.register_kernel("cpu")
@kept
def _(x: Tensor, inner: Tensor, inner_bias: Tensor, outer: Tensor, outer_bias: Tensor) -> Tensor:
    return _forward(x, inner, inner_bias, outer, outer_bias, _fused_gelu)


@_mlp_backward.register_kernel("cpu")
def _(
    grad: Tensor, x: Tensor, inner: Tensor, inner_bias: Tensor, outer: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return _backward(grad, x, inner, inner_bias, outer, _fused_gelu_backward)


def _fused_gelu(x: Tensor) -> None:
    if x.dtype == torch.float32:
        kernels.over_rows(mlp_kernels.gelu, [x.numpy()], [])
    else:
        _gelu(x)


def _fused_gelu_backward(x: Tensor, slope: Tensor) -> None:
    if x.dtype == torch.float32:
        kernels.over_rows(mlp_kernels.gelu_backward, [x.numpy(), slope.numpy()], [])
    else:
        _gelu_backward(x, slope)


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
