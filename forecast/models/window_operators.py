"""Operators of windowed transformers, with gradients: few passes over memory, little kept for the gradient.

They give back the type that they are given; angles and products are in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from forecast.core import threads
from forecast.core.compiled import compiled

PIECE = 32
"""rows of tokens"""


def rotate(qkv: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys with their pairs (2 i, 2 i + 1) turned by each token's angles, and values: (B, N, H, d) each.

    Args:
        qkv: (B, N, 3, H, d). cosine, sine: (N, d // 2) of the angles, float32.
    """
    query, key, value = _rotate(qkv.contiguous(), cosine, sine)
    return query, key, value


def gated_gelu(x: Tensor) -> Tensor:
    """(..., D) a GELU(b) from (..., 2 D), a and b being its halves (GEGLU, Shazeer 2020); keeps x alone."""
    return _GatedGelu.apply(x.contiguous())


class _GatedGelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        out = x.new_empty(*x.shape[:-1], x.shape[-1] // 2)
        for given, rows in zip(_in_pieces(x), _in_pieces(out), strict=True):
            a, b = given.chunk(2, dim=-1)
            torch.mul(a, functional.gelu(b), out=rows)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        out = torch.empty_like(x)
        for given, rows, g in zip(_in_pieces(x), _in_pieces(out), _in_pieces(grad.contiguous()), strict=True):
            a, b = given.chunk(2, dim=-1)
            to_a, to_b = rows.chunk(2, dim=-1)
            torch.mul(g, functional.gelu(b), out=to_a)
            torch.ops.aten.gelu_backward.grad_input(g * a, b, grad_input=to_b)
        return out


def _in_pieces(x: Tensor) -> Sequence[Tensor]:
    """The rows of x, on the CPU in pieces of so few that what is made of them on the way stays in its cache."""
    rows = x.flatten(0, -2)
    return rows.split(PIECE) if x.device.type == "cpu" and not torch.compiler.is_compiling() else (rows,)


@torch.library.custom_op("forecast::rotate", mutates_args=())
def _rotate(qkv: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = qkv.unbind(2)
    return _turned(query, cosine, sine), _turned(key, cosine, sine), value.clone(memory_format=torch.contiguous_format)


@torch.library.custom_op("forecast::rotate_backward", mutates_args=())
def _rotate_backward(query: Tensor, key: Tensor, value: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """(B, N, 3, H, d) from the gradients of the three."""
    return torch.stack([_turned(query, cosine, -sine), _turned(key, cosine, -sine), value], dim=2)


def _turned(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """(B, N, H, d) with its pairs turned."""
    even, odd = x[..., 0::2].float(), x[..., 1::2].float()
    c, s = cosine[:, None], sine[:, None]
    return torch.stack([even * c - odd * s, even * s + odd * c], dim=-1).flatten(-2).to(x.dtype)


@compiled(fastmath=True)
def _turn(given: np.ndarray, out: np.ndarray, cosine: np.ndarray, sine: np.ndarray, first: int, sign: float) -> None:
    """out (n, H, d) from given (n, H, d); the angles of token t are those of row (first + t) % N."""
    pairs = cosine.shape[1]
    for t in range(given.shape[0]):
        n = (first + t) % cosine.shape[0]
        for h in range(given.shape[1]):
            for i in range(pairs):
                c, s = cosine[n, i], np.float32(sign) * sine[n, i]
                even, odd = given[t, h, 2 * i], given[t, h, 2 * i + 1]
                out[t, h, 2 * i] = even * c - odd * s
                out[t, h, 2 * i + 1] = even * s + odd * c


def _turn_all(given: list[Tensor], out: list[Tensor], cosine: Tensor, sine: Tensor, sign: float) -> None:
    """Turn the first two (B, N, H, d) of three, copy the last, tokens shared out among threads."""
    x, o = ([tensor.flatten(0, 1).numpy() for tensor in tensors] for tensors in (given, out))
    angles = cosine.numpy(), sine.numpy()

    def piece(begin: int, end: int) -> None:
        for which in (0, 1):
            _turn(x[which][begin:end], o[which][begin:end], *angles, begin, sign)
        np.copyto(o[2][begin:end], x[2][begin:end])

    threads.share(piece, len(x[0]), torch.get_num_threads())


@_rotate.register_kernel("cpu")
def _(qkv: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    given = qkv.detach().unbind(2)
    if qkv.dtype != torch.float32:  # which NumPy may lack
        return _turned(given[0], cosine, sine), _turned(given[1], cosine, sine), given[2].contiguous()
    out = [torch.empty(part.shape) for part in given]
    _turn_all(list(given), out, cosine, sine, 1.0)
    return out[0], out[1], out[2]


@_rotate_backward.register_kernel("cpu")
def _(query: Tensor, key: Tensor, value: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    if query.dtype != torch.float32:
        return torch.stack([_turned(query, cosine, -sine), _turned(key, cosine, -sine), value], dim=2)
    out = torch.empty(*query.shape[:2], 3, *query.shape[2:])
    _turn_all([query.contiguous(), key.contiguous(), value.contiguous()], list(out.unbind(2)), cosine, sine, -1.0)
    return out


@_rotate.register_fake
def _(qkv: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = (part.new_empty(part.shape) for part in qkv.unbind(2))
    return query, key, value


@_rotate_backward.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    return query.new_empty(*query.shape[:2], 3, *query.shape[2:])


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[1:])


def _gradient(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, None, None]:
    return _rotate_backward(query, key, value, *ctx.saved_tensors), None, None


_rotate.register_autograd(_gradient, setup_context=_keep)
