"""Norms and sums that a condition modulates, with gradients: a pass over memory on the CPU, plain torch elsewhere.

All in float32. B samples, N tokens of each, D width; factors, shifts and gates are those of a sample, (B, D).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from forecast.core import threads
from forecast.core.compiled import compiled

EPSILON = 1e-6


def modulated_norm(x: Tensor, factor: Tensor, shift: Tensor) -> Tensor:
    """(B, N, D) layer norm with the unbiased variance, times the factor, plus the shift."""
    width = x.shape[-1]
    unbiased = (width - 1) / width
    return _norm(x.float().contiguous(), (factor * unbiased**0.5).contiguous(), shift.contiguous())[0]


def gated_sum(x: Tensor, gate: Tensor, y: Tensor) -> Tensor:
    """(B, N, D) x + gate y."""
    return _GatedSum.apply(x, gate, y)


class _GatedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(gate, y)
        return torch.addcmul(x, gate[:, None], y)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        to_y, to_gate = _gate_backward(grad.contiguous(), *ctx.saved_tensors)
        return grad, to_gate, to_y


@torch.library.custom_op("forecast::modulated_norm", mutates_args=())
def _norm(x: Tensor, factor: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Output, and (B, N, 2) mean and inverse standard deviation."""
    normed, mean, inverse = torch.native_layer_norm(x, x.shape[-1:], None, None, _epsilon(x.shape[-1]))
    return torch.addcmul(shift[:, None], normed, factor[:, None]), torch.cat([mean, inverse], dim=-1)


@torch.library.custom_op("forecast::modulated_norm_backward", mutates_args=())
def _norm_backward(grad: Tensor, x: Tensor, factor: Tensor, moments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    normed = (x - moments[..., :1]) * moments[..., 1:]
    through = grad * factor[:, None]
    to_x = through - through.mean(-1, keepdim=True) - normed * (through * normed).mean(-1, keepdim=True)
    return to_x * moments[..., 1:], (grad * normed).sum(1), grad.sum(1)


@torch.library.custom_op("forecast::gate_backward", mutates_args=())
def _gate_backward(grad: Tensor, gate: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return grad * gate[:, None], (grad * y).sum(1)


def _epsilon(width: int) -> float:
    """What biased variance needs to stand for unbiased variance + EPSILON, but for a factor."""
    return EPSILON * (width - 1) / width


@compiled(fastmath=True)
def _norm_rows(
    x: np.ndarray, out: np.ndarray, moments: np.ndarray, factor: np.ndarray, shift: np.ndarray,
    first: int, tokens: int, epsilon: float,
) -> None:  # fmt: skip
    """Rows (n, D) from row `first` of (B * N, D) on."""
    width = x.shape[1]
    for r in range(x.shape[0]):
        b, row, o = (first + r) // tokens, x[r], out[r]
        mean, square = np.float32(0), np.float32(0)
        for d in range(width):
            mean += row[d]
        mean /= np.float32(width)
        for d in range(width):
            square += (row[d] - mean) * (row[d] - mean)
        inverse = np.float32(1) / np.sqrt(square / np.float32(width) + np.float32(epsilon))
        moments[r, 0], moments[r, 1] = mean, inverse
        for d in range(width):
            o[d] = (row[d] - mean) * inverse * factor[b, d] + shift[b, d]


@compiled(fastmath=True)
def _norm_rows_backward(
    grad: np.ndarray, x: np.ndarray, moments: np.ndarray, to_x: np.ndarray, factor: np.ndarray,
    first: int, tokens: int,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    width = x.shape[1]
    to_factor, to_shift = np.zeros_like(factor), np.zeros_like(factor)
    for r in range(x.shape[0]):
        b, row, g, to_row, mean, inverse = (first + r) // tokens, x[r], grad[r], to_x[r], moments[r, 0], moments[r, 1]
        one, two = np.float32(0), np.float32(0)
        for d in range(width):
            one += g[d] * factor[b, d]
            two += g[d] * factor[b, d] * (row[d] - mean) * inverse
        one /= np.float32(width)
        two /= np.float32(width)
        for d in range(width):
            normed = (row[d] - mean) * inverse
            to_factor[b, d] += g[d] * normed
            to_shift[b, d] += g[d]
            to_row[d] = (g[d] * factor[b, d] - one - normed * two) * inverse
    return to_factor, to_shift


@compiled(fastmath=True)
def _gate_rows_backward(
    grad: np.ndarray, y: np.ndarray, to_y: np.ndarray, gate: np.ndarray, first: int, tokens: int
) -> np.ndarray:
    to_gate = np.zeros_like(gate)
    for r in range(y.shape[0]):
        b, row, g, to_row = (first + r) // tokens, y[r], grad[r], to_y[r]
        for d in range(y.shape[1]):
            to_row[d] = g[d] * gate[b, d]
            to_gate[b, d] += g[d] * row[d]
    return to_gate


def _over_tokens(loop: Callable[..., Any], rows: list[Tensor], whole: list[Tensor], *options: float) -> list[Any]:
    """Run loop(*rows, *whole, first, N, *options) with rows (B, N, *) as (B * N, *), cut into a piece per thread."""
    arrays, tokens = [tensor.flatten(0, 1).numpy() for tensor in rows], rows[0].shape[1]
    tensors = [tensor.contiguous().numpy() for tensor in whole]

    def piece(begin: int, end: int) -> Any:
        return loop(*(array[begin:end] for array in arrays), *tensors, begin, tokens, *options)

    return threads.share(piece, len(arrays[0]), torch.get_num_threads())


@_norm.register_kernel("cpu")
def _(x: Tensor, factor: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    x, out, moments = x.detach(), torch.empty(x.shape), torch.empty(*x.shape[:2], 2)
    _over_tokens(_norm_rows, [x, out, moments], [factor.detach(), shift.detach()], _epsilon(x.shape[-1]))
    return out, moments


@_norm_backward.register_kernel("cpu")
def _(grad: Tensor, x: Tensor, factor: Tensor, moments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    to_x = torch.empty(x.shape)
    parts = _over_tokens(_norm_rows_backward, [grad.contiguous(), x, moments, to_x], [factor])
    to_factor, to_shift = (torch.from_numpy(sum(pieces)) for pieces in zip(*parts, strict=True))
    return to_x, to_factor, to_shift


@_gate_backward.register_kernel("cpu")
def _(grad: Tensor, gate: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    to_y = torch.empty(y.shape)
    parts = _over_tokens(_gate_rows_backward, [grad, y.contiguous(), to_y], [gate])
    return to_y, torch.from_numpy(sum(parts))


@_norm.register_fake
def _(x: Tensor, factor: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(*x.shape[:2], 2)


@_norm_backward.register_fake
def _(grad: Tensor, x: Tensor, factor: Tensor, moments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(factor), torch.empty_like(factor)


@_gate_backward.register_fake
def _(grad: Tensor, gate: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(y), torch.empty_like(gate)


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[0], inputs[1], output[1])
    ctx.mark_non_differentiable(output[1])


def _gradient(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor, ...]:
    return _norm_backward(grad, *ctx.saved_tensors)


_norm.register_autograd(_gradient, setup_context=_keep)
