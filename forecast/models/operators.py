"""Operators that torch lacks, with gradients: on the CPU loops that copy nothing (kernels.py), elsewhere torch.

They compute in float32 whatever they are given and whatever autocast says. Dimensions: B rows (samples x members),
N targets, S sources, K neighbours of each target, H heads, D width, C condition.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from forecast.models import head_kernels, kernels
from forecast.models.recompute import kept


def attend(query: Tensor, key_value: Tensor, bias: Tensor, gate: Tensor, table: Tensor) -> Tensor:
    """(B, N, H, D) attention of each target to its K neighbours.

    sum over k of softmax_k(q . key_k + bias_k) * gate_k * value_k

    Args:
        query: (B, N, H, D), scaled. key_value: (B, S, 2, H, D). bias, gate: (N, H, K). table: (N, K) sources.
    """
    return _attend(*plain(query, key_value, bias, gate), table)[0]


def conditional_norm(x: Tensor, condition: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(R, D) layer norm of x, times 1 + scale, plus shift; (scale, shift) = condition @ weight + bias.

    Args:
        x: (R, D). condition: (R, C). weight: (C, 2, D). bias: (2, D).
    """
    return _conditional_norm(*plain(x, condition, weight, bias))[0]


def head_norm(qkv: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """(B, N, 3, H, D) with layer norms over D of queries and keys, times the weights (D,) `query` and `key`."""
    (given, weight) = plain(qkv.flatten(0, 1), torch.stack([query, key]))
    return _head_norm(given, weight)[0].view(qkv.shape)


def plain(*tensors: Tensor) -> list[Tensor]:
    """float32 and contiguous, so that results and gradients have the strides that a compiler is told."""
    return [tensor.float().contiguous() for tensor in tensors]


@torch.library.custom_op("forecast::attend", mutates_args=())
@kept
def _attend(query: Tensor, key_value: Tensor, bias: Tensor, gate: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """Output and softmax (B, N, H, K); one neighbour at a time, so that no copy of all neighbours is made."""
    near = table.unbind(1)
    score = torch.stack([(query * key_value[:, sources, 0]).sum(-1) for sources in near], dim=-1)
    weight = (score + bias).softmax(dim=-1)
    out = torch.zeros_like(query)
    for factor, sources in zip((weight * gate).unbind(-1), near, strict=True):
        out += factor[..., None] * key_value[:, sources, 1]
    return out, weight


@torch.library.custom_op("forecast::attend_backward", mutates_args=())
def _attend_backward(
    grad: Tensor, query: Tensor, key_value: Tensor, weight: Tensor, gate: Tensor, table: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    near = table.unbind(1)
    through = torch.stack([(grad * key_value[:, sources, 1]).sum(-1) for sources in near], dim=-1)
    to_weight = through * gate
    to_score = weight * (to_weight - (weight * to_weight).sum(-1, keepdim=True))
    to_query, to_key_value = torch.zeros_like(query), torch.zeros_like(key_value)
    for k, sources in enumerate(near):
        s = to_score[..., k, None]
        to_query += s * key_value[:, sources, 0]
        to_key_value.index_add_(1, sources, torch.stack([s * query, (weight * gate)[..., k, None] * grad], dim=2))
    return to_query, to_key_value, to_score.sum(0), (through * weight).sum(0)


@torch.library.custom_op("forecast::conditional_norm", mutates_args=())
def _conditional_norm(x: Tensor, condition: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Output and (R, 2) mean and inverse standard deviation."""
    normed, mean, inverse = torch.native_layer_norm(x, x.shape[-1:], None, None, 1e-5)
    scale, shift = (_modulation(condition, weight, bias, which) for which in (0, 1))
    return normed * (1 + scale) + shift, torch.cat([mean, inverse], dim=-1)


@torch.library.custom_op("forecast::conditional_norm_backward", mutates_args=())
def _conditional_norm_backward(
    grad: Tensor, x: Tensor, condition: Tensor, moments: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    normed = (x - moments[:, :1]) * moments[:, 1:]
    through = grad * (1 + _modulation(condition, weight, bias, 0))
    to_x = through - through.mean(-1, keepdim=True) - normed * (through * normed).mean(-1, keepdim=True)
    to_scale = grad * normed
    to_condition = torch.addmm(to_scale @ weight[:, 0].T, grad, weight[:, 1].T)
    to_weight = torch.stack([condition.T @ to_scale, condition.T @ grad], dim=1)
    return to_x * moments[:, 1:], to_condition, to_weight, torch.stack([to_scale.sum(0), grad.sum(0)])


def _modulation(condition: Tensor, weight: Tensor, bias: Tensor, which: int) -> Tensor:
    """(R, D) scales (0) or shifts (1)."""
    return torch.addmm(bias[which], condition, weight[:, which])


def arrays(*tensors: Tensor) -> list[Any]:
    """As NumPy arrays without gaps; unlike `Tensor.numpy` this leaves it to the tensor's owner to free its memory."""
    return [np.from_dlpack(tensor.detach().contiguous()) for tensor in tensors]


def _sums(parts: list[Any]) -> tuple[Tensor, Tensor]:
    first, second = (torch.from_numpy(sum(pieces)) for pieces in zip(*parts, strict=True))
    return first, second


@_attend.register_kernel("cpu")
@kept
def _(query: Tensor, key_value: Tensor, bias: Tensor, gate: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    out, weight = torch.empty(query.shape), torch.empty(*query.shape[:3], table.shape[1])
    rows = [*arrays(query, key_value), weight.numpy(), out.numpy()]
    kernels.over_rows(kernels.attend, rows, arrays(bias, gate, table))
    return out, weight


@_attend_backward.register_kernel("cpu")
def _(
    grad: Tensor, query: Tensor, key_value: Tensor, weight: Tensor, gate: Tensor, table: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    to_query, to_key_value = torch.empty(query.shape), torch.empty(key_value.shape)
    rows = [*arrays(grad, query, key_value, weight), to_query.numpy(), to_key_value.numpy()]
    return to_query, to_key_value, *_sums(kernels.over_rows(kernels.attend_backward, rows, arrays(gate, table)))


@_conditional_norm.register_kernel("cpu")
def _(x: Tensor, condition: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    out, moments = torch.empty(x.shape), torch.empty(len(x), 2)
    rows = [*arrays(x, condition), out.numpy(), moments.numpy()]
    kernels.over_rows(kernels.conditional_norm, rows, arrays(weight, bias))
    return out, moments


@_conditional_norm_backward.register_kernel("cpu")
def _(
    grad: Tensor, x: Tensor, condition: Tensor, moments: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    to_x, to_condition = torch.empty(x.shape), torch.empty(condition.shape)
    rows = [*arrays(grad, x, condition, moments), to_x.numpy(), to_condition.numpy()]
    return to_x, to_condition, *_sums(kernels.over_rows(kernels.conditional_norm_backward, rows, arrays(weight, bias)))


@_attend.register_fake
def _(query: Tensor, key_value: Tensor, bias: Tensor, gate: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(query), query.new_empty(*query.shape[:3], table.shape[1])


@_attend_backward.register_fake
def _(
    grad: Tensor, query: Tensor, key_value: Tensor, weight: Tensor, gate: Tensor, table: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return torch.empty_like(query), torch.empty_like(key_value), torch.empty_like(gate), torch.empty_like(gate)


@_conditional_norm.register_fake
def _(x: Tensor, condition: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(len(x), 2)


@_conditional_norm_backward.register_fake
def _(
    grad: Tensor, x: Tensor, condition: Tensor, moments: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(condition), torch.empty_like(weight), torch.empty_like(bias)


def _keep_attend(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key_value, _, gate, table = inputs
    ctx.save_for_backward(query, key_value, output[1], gate, table)
    ctx.mark_non_differentiable(output[1])


def _attend_gradient(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    return *_attend_backward(grad, *ctx.saved_tensors), None


def _keep_norm(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    x, condition, weight, bias = inputs
    ctx.save_for_backward(x, condition, output[1], weight, bias)
    ctx.mark_non_differentiable(output[1])


def _norm_gradient(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor, ...]:
    return _conditional_norm_backward(grad, *ctx.saved_tensors)


_attend.register_autograd(_attend_gradient, setup_context=_keep_attend)
_conditional_norm.register_autograd(_norm_gradient, setup_context=_keep_norm)


@torch.library.custom_op("forecast::head_norm", mutates_args=())
def _head_norm(qkv: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Output and (R, 2, H) inverse standard deviations."""
    x = qkv[:, :2]
    variance, mean = torch.var_mean(x, dim=-1, correction=0, keepdim=True)
    inverse = (variance + 1e-5).rsqrt()
    return torch.cat([(x - mean) * inverse * weight[:, None], qkv[:, 2:]], dim=1), inverse[..., 0]


@torch.library.custom_op("forecast::head_norm_backward", mutates_args=())
def _head_norm_backward(grad: Tensor, qkv: Tensor, inverse: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    x, g = qkv[:, :2], grad[:, :2]
    normed = (x - x.mean(-1, keepdim=True)) * inverse[..., None]
    through = g * weight[:, None]
    to_x = through - through.mean(-1, keepdim=True) - normed * (through * normed).mean(-1, keepdim=True)
    return torch.cat([to_x * inverse[..., None], grad[:, 2:]], dim=1), (g * normed).sum(dim=(0, 2))


@_head_norm.register_kernel("cpu")
def _(qkv: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    out, inverse = torch.empty(qkv.shape), torch.empty(len(qkv), 2, qkv.shape[2])
    kernels.over_rows(
        head_kernels.head_norm, [*arrays(qkv), out.numpy(), inverse.numpy()], [*arrays(weight), (0,) * qkv.shape[-1]]
    )
    return out, inverse


@_head_norm_backward.register_kernel("cpu")
def _(grad: Tensor, qkv: Tensor, inverse: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    to_qkv = torch.empty(qkv.shape)
    rows, whole = [*arrays(grad, qkv, inverse), to_qkv.numpy()], [*arrays(weight), (0,) * qkv.shape[-1]]
    return to_qkv, torch.from_numpy(sum(kernels.over_rows(head_kernels.head_norm_backward, rows, whole)))


@_head_norm.register_fake
def _(qkv: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(qkv), qkv.new_empty(qkv.shape[0], 2, qkv.shape[2])


@_head_norm_backward.register_fake
def _(grad: Tensor, qkv: Tensor, inverse: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(qkv), torch.empty_like(weight)


def _keep_head_norm(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[0], output[1], inputs[1])
    ctx.mark_non_differentiable(output[1])


def _head_norm_gradient(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor, ...]:
    return _head_norm_backward(grad, *ctx.saved_tensors)


_head_norm.register_autograd(_head_norm_gradient, setup_context=_keep_head_norm)
