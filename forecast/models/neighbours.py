"""Products and sums over a fixed number of neighbours, without copies of the neighbours' features.

`dot` and `mix` are each other's adjoints, so that with `spread`, the adjoint of a gather, they make attention and its
gradient. On the CPU they are numba loops over whatever lies in cache (gathering the neighbours first took 20 to 50
times as long); elsewhere they loop over neighbours. B sample rows, N targets, S sources, K neighbours, H heads, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

_pool = ThreadPoolExecutor(thread_name_prefix="neighbours")


@torch.library.custom_op("forecast::neighbour_dot", mutates_args=())
def dot(query: Tensor, key: Tensor, table: Tensor) -> Tensor:
    """(B, N, H, K) products of each target's query (B, N, H, D) with its neighbours' keys (B, S, H, D).

    `table` (N, K) int64 holds the sources of each target.
    """
    return torch.stack([(query * key[:, sources]).sum(-1) for sources in table.unbind(1)], dim=-1)


@torch.library.custom_op("forecast::neighbour_mix", mutates_args=())
def mix(weight: Tensor, value: Tensor, table: Tensor) -> Tensor:
    """(B, N, H, D) sums of the neighbours' values (B, S, H, D) with weights (B, N, H, K)."""
    columns = zip(weight.unbind(-1), table.unbind(1), strict=True)
    return torch.stack([w[..., None] * value[:, sources] for w, sources in columns]).sum(0)


@torch.library.custom_op("forecast::neighbour_spread", mutates_args=())
def spread(weight: Tensor, target: Tensor, table: Tensor, sources: int) -> Tensor:
    """(B, S, H, D) sums over the targets (B, N, H, D) that each source is a neighbour of, with weights (B, N, H, K)."""
    out = target.new_zeros(target.shape[0], sources, *target.shape[2:])
    for w, column in zip(weight.unbind(-1), table.unbind(1), strict=True):
        out.index_add_(1, column, w[..., None] * target)
    return out


def _dot_loop(query: np.ndarray, key: np.ndarray, table: np.ndarray, out: np.ndarray) -> None:
    rows, targets, heads, neighbours = out.shape
    width = key.shape[3]
    for b in range(rows):
        for n in range(targets):
            for k in range(neighbours):
                s = table[n, k]
                for h in range(heads):
                    total = np.float32(0)
                    for d in range(width):
                        total += query[b, n, h, d] * key[b, s, h, d]
                    out[b, n, h, k] = total


def _mix_loop(weight: np.ndarray, value: np.ndarray, table: np.ndarray, out: np.ndarray) -> None:
    rows, targets, heads, neighbours = weight.shape
    width = value.shape[3]
    for b in range(rows):
        for n in range(targets):
            out[b, n] = 0
            for k in range(neighbours):
                s = table[n, k]
                for h in range(heads):
                    w = weight[b, n, h, k]
                    for d in range(width):
                        out[b, n, h, d] += w * value[b, s, h, d]


def _spread_loop(weight: np.ndarray, target: np.ndarray, table: np.ndarray, out: np.ndarray) -> None:
    rows, targets, heads, neighbours = weight.shape
    width = target.shape[3]
    for b in range(rows):
        out[b] = 0
        for n in range(targets):
            for k in range(neighbours):
                s = table[n, k]
                for h in range(heads):
                    w = weight[b, n, h, k]
                    for d in range(width):
                        out[b, s, h, d] += w * target[b, n, h, d]


_jit = numba.njit(nogil=True, fastmath=True, error_model="numpy")
_LOOPS = {"dot": _jit(_dot_loop), "mix": _jit(_mix_loop), "spread": _jit(_spread_loop)}


def _on_cpu(loop: Callable[..., None], first: Tensor, second: Tensor, table: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Run a loop on float32 rows, shared out among as many threads as torch uses."""
    a, b = first.float().contiguous(), second.float().contiguous()
    out = torch.empty(shape)
    arrays = a.numpy(), b.numpy(), table.numpy(), out.numpy()
    chunks = min(torch.get_num_threads(), len(out))
    cuts = [len(out) * i // chunks for i in range(chunks + 1)]
    parts = [(arrays[0][i:j], arrays[1][i:j], arrays[2], arrays[3][i:j]) for i, j in zip(cuts[:-1], cuts[1:], strict=True)]
    running = [_pool.submit(loop, *part) for part in parts[1:]]
    loop(*parts[0])
    for other in running:
        other.result()
    return out.to(second.dtype)


@dot.register_kernel("cpu")
def _(query: Tensor, key: Tensor, table: Tensor) -> Tensor:
    return _on_cpu(_LOOPS["dot"], query, key, table, (*query.shape[:3], table.shape[1]))


@mix.register_kernel("cpu")
def _(weight: Tensor, value: Tensor, table: Tensor) -> Tensor:
    return _on_cpu(_LOOPS["mix"], weight, value, table, (*weight.shape[:3], value.shape[3]))


@spread.register_kernel("cpu")
def _(weight: Tensor, target: Tensor, table: Tensor, sources: int) -> Tensor:
    return _on_cpu(_LOOPS["spread"], weight, target, table, (len(target), sources, *target.shape[2:]))


@dot.register_fake
def _(query: Tensor, key: Tensor, table: Tensor) -> Tensor:
    return query.new_empty(*query.shape[:3], table.shape[1])


@mix.register_fake
def _(weight: Tensor, value: Tensor, table: Tensor) -> Tensor:
    return value.new_empty(*weight.shape[:3], value.shape[3])


@spread.register_fake
def _(weight: Tensor, target: Tensor, table: Tensor, sources: int) -> Tensor:
    return target.new_empty(target.shape[0], sources, *target.shape[2:])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _dot_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    query, key, table = ctx.saved_tensors
    return mix(grad, key, table), spread(grad, query, table, key.shape[1]), None


def _mix_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    weight, value, table = ctx.saved_tensors
    return dot(grad, value, table), spread(weight, grad, table, value.shape[1]), None


dot.register_autograd(_dot_backward, setup_context=_keep)
mix.register_autograd(_mix_backward, setup_context=_keep)
