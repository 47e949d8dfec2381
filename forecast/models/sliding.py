"""Attention of each node to the nodes near it in their order, with gradients, in memory that grows with the nodes.

Queries go a block at a time to the keys of their window, so that no matrix of all pairs is made. On the CPU narrow
heads have loops of their own (sliding_kernels.py), and a block of wide ones is a call of torch's flash attention;
elsewhere blocks become a batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from forecast.models import kernels, sliding_kernels
from forecast.models.recompute import kept

BLOCK = 128
"""queries of a block on the CPU, where more would cost time for pairs outside the window, and fewer for the calls"""

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def attend(qkv: Tensor, window: int) -> Tensor:
    """(B, N, H, D) sum over j of softmax_j(q_i . k_j / sqrt(D)) v_j, |i - j| <= window.

    Args:
        qkv: (B, N, 3, H, D) queries, keys and values. window: nodes to each side.
    """
    if qkv.device.type != "cpu":  # torch's own gradient: an operator's body runs below autograd, where there is none
        return _in_batch(qkv, window)
    return _attend(qkv, window)[0]


@torch.library.custom_op("forecast::slide", mutates_args=())
@kept
def _attend(qkv: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Also (B, H, N), what a gradient needs of the softmax; here, for any device, nothing."""
    return _in_batch(qkv, window), qkv.new_empty(0)


@torch.library.custom_op("forecast::slide_backward", mutates_args=())
def _attend_backward(grad: Tensor, qkv: Tensor, out: Tensor, logsumexp: Tensor, window: int) -> Tensor:
    """By doing it again with a record."""
    with torch.enable_grad():
        given = qkv.detach().requires_grad_()
        return torch.autograd.grad(_in_batch(given, window), given, grad)[0]


def _in_batch(qkv: Tensor, window: int) -> Tensor:
    """Chunks of `window` queries, each with the keys of three chunks."""
    nodes, window = qkv.shape[1], min(window, qkv.shape[1])
    chunks = -(-nodes // window)
    rest = chunks * window - nodes
    query = functional.pad(qkv[:, :, 0], (0, 0, 0, 0, 0, rest)).unflatten(1, (chunks, window)).transpose(2, 3)
    around = functional.pad(qkv[:, :, 1:], (0, 0, 0, 0, 0, 0, window, window + rest)).unfold(1, 3 * window, window)
    key, value = around.permute(2, 0, 1, 3, 5, 4)  # (2, B, chunks, H, 3 window, D)
    place = torch.arange(3 * window, device=qkv.device) - window
    here = torch.arange(window, device=qkv.device)[:, None]
    near = (place - here).abs() <= window
    start = torch.arange(chunks, device=qkv.device)[:, None, None] * window
    inside = near & (place + start >= 0) & (place + start < nodes)
    inside = inside | (here + start >= nodes)  # of padding, whose results are dropped: none may be all masked
    out = functional.scaled_dot_product_attention(query, key, value, attn_mask=inside[:, None])
    return out.transpose(2, 3).flatten(1, 2)[:, :nodes].contiguous()


def _blocks(nodes: int, window: int) -> Iterator[tuple[slice, slice]]:
    """Queries, and the keys that at least one of them sees."""
    for begin in range(0, nodes, BLOCK):
        end = min(begin + BLOCK, nodes)
        yield slice(begin, end), slice(max(begin - window, 0), min(end + window, nodes))


def _mask(queries: slice, keys: slice, window: int) -> Tensor | None:
    """(queries, keys): 0 within the window, else minus infinity; nothing where all is within."""
    i, j = torch.arange(queries.start, queries.stop), torch.arange(keys.start, keys.stop)
    outside = (i[:, None] - j).abs() > window
    return torch.zeros(outside.shape).masked_fill_(outside, -torch.inf) if outside.any() else None


def _narrow(qkv: Tensor, window: int) -> tuple[Tensor, Tensor]:
    batch, nodes, _, heads, width = qkv.shape
    out, logsumexp = torch.empty(batch, nodes, heads, width), torch.empty(batch, heads, nodes)
    rows = [x.numpy() for x in (qkv, out, logsumexp)]
    kernels.over_rows(sliding_kernels.attend, rows, [window, (0,) * width])
    return out, logsumexp


def _narrow_backward(grad: Tensor, qkv: Tensor, out: Tensor, logsumexp: Tensor, window: int) -> Tensor:
    total = torch.empty(qkv.shape)
    rows = [x.float().contiguous().numpy() for x in (grad, qkv, out, logsumexp)]
    kernels.over_rows(sliding_kernels.attend_backward, [*rows, total.numpy()], [window, (0,) * qkv.shape[-1]])
    return total


@_attend.register_kernel("cpu")
@kept
def _(qkv: Tensor, window: int) -> tuple[Tensor, Tensor]:
    if qkv.shape[-1] in sliding_kernels.WIDTHS:
        return _narrow(qkv.float().contiguous(), window)
    query, key, value = qkv.float().permute(2, 0, 3, 1, 4)  # (B, H, N, D) each
    out = torch.empty(qkv.shape[:2] + qkv.shape[3:])
    logsumexp = torch.empty(query.shape[:3])
    for i, j in _blocks(qkv.shape[1], window):
        mask = _mask(i, j, window)
        part, logsumexp[:, :, i] = _flash(query[:, :, i], key[:, :, j], value[:, :, j], attn_mask=mask)
        out[:, i] = part.transpose(1, 2)
    return out, logsumexp


@_attend_backward.register_kernel("cpu")
def _(grad: Tensor, qkv: Tensor, out: Tensor, logsumexp: Tensor, window: int) -> Tensor:
    if qkv.shape[-1] in sliding_kernels.WIDTHS:
        return _narrow_backward(grad, qkv, out, logsumexp, window)
    query, key, value = qkv.float().permute(2, 0, 3, 1, 4)
    slope, result = (x.float().transpose(1, 2) for x in (grad, out))
    total = torch.zeros(qkv.shape)
    to_query, to_key, to_value = total.permute(2, 0, 3, 1, 4)
    for i, j in _blocks(qkv.shape[1], window):
        parts = _flash_backward(
            slope[:, :, i], query[:, :, i], key[:, :, j], value[:, :, j], result[:, :, i], logsumexp[:, :, i],
            0.0, False, attn_mask=_mask(i, j, window),
        )  # fmt: skip
        to_query[:, :, i] = parts[0]
        to_key[:, :, j] += parts[1]
        to_value[:, :, j] += parts[2]
    return total


@_attend.register_fake
def _(qkv: Tensor, window: int) -> tuple[Tensor, Tensor]:
    batch, nodes, _, heads, width = qkv.shape
    kept = (batch, heads, nodes) if qkv.device.type == "cpu" else (0,)
    return qkv.new_empty(batch, nodes, heads, width), qkv.new_empty(kept)


@_attend_backward.register_fake
def _(grad: Tensor, qkv: Tensor, out: Tensor, logsumexp: Tensor, window: int) -> Tensor:
    return torch.empty_like(qkv)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.window = inputs[1]
    ctx.save_for_backward(inputs[0], *output)
    ctx.mark_non_differentiable(output[1])


def _gradient(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor, None]:
    return _attend_backward(grad.contiguous(), *ctx.saved_tensors, ctx.window), None


_attend.register_autograd(_gradient, setup_context=_keep)
