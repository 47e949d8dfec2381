"""Operators of windowed transformers, with gradients: few passes over memory, little kept for the gradient.

They give back the type that they are given; angles and products are in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from forecast.core import threads
from forecast.core.compiled import compiled

PIECE = 32
"""rows of tokens"""


def rotate(qkv: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys with their pairs (2 i, 2 i + 1) turned by each token's angles, and values: (B, N, H, d) each.

    On the CPU in float32 `qkv` is turned where it lies: nobody may have kept it for a gradient.

    Args:
        qkv: (B, N, 3, H, d). cosine, sine: (N, d // 2) of the angles, float32.
    """
    plain = type(qkv) is Tensor and not torch.compiler.is_compiling()  # fake tensors, which only count, hold no values
    if plain and qkv.device.type == "cpu" and qkv.dtype == torch.float32:
        query, key, value = _Rotation.apply(qkv.contiguous(), cosine, sine).unbind(2)
        return query, key, value
    query, key, value = qkv.unbind(2)
    return _turned(query, cosine, sine), _turned(key, cosine, sine), value


def gated_gelu(x: Tensor) -> Tensor:
    """(..., D) a GELU(b) from (..., 2 D), a and b being its halves (GEGLU, Shazeer 2020)."""
    return _GatedGelu.apply(x.contiguous())


class _GatedGelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        gate, out = (x.new_empty(*x.shape[:-1], x.shape[-1] // 2) for _ in range(2))
        for given, gates, rows in zip(*map(_in_pieces, (x, gate, out)), strict=True):
            a, b = given.chunk(2, dim=-1)
            torch.mul(a, torch.ops.aten.gelu.out(b, out=gates), out=rows)
        ctx.save_for_backward(x, gate)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        x, gate = ctx.saved_tensors
        out = torch.empty_like(x)
        for given, gates, rows, g in zip(*map(_in_pieces, (x, gate, out, grad.contiguous())), strict=True):
            a, b = given.chunk(2, dim=-1)
            to_a, to_b = rows.chunk(2, dim=-1)
            torch.mul(g, gates, out=to_a)
            torch.ops.aten.gelu_backward.grad_input(g * a, b, grad_input=to_b)
        return out


def _in_pieces(x: Tensor) -> Sequence[Tensor]:
    """The rows of x, on the CPU in pieces of so few that what is made of them on the way stays in its cache."""
    rows = x.flatten(0, -2)
    return rows.split(PIECE) if x.device.type == "cpu" and not torch.compiler.is_compiling() else (rows,)


class _Rotation(torch.autograd.Function):
    """In place; so is its gradient, which is the inverse rotation."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        ctx.mark_dirty(qkv)
        ctx.save_for_backward(cosine, sine)
        _turn_in_place(qkv, cosine, sine, 1.0)
        return qkv

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        grad = grad.contiguous()  # of three views: made for nobody else
        cosine, sine = ctx.saved_tensors
        _turn_in_place(grad, cosine, sine, -1.0)
        return grad, None, None


def _turned(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """(B, N, H, d) with its pairs turned."""
    even, odd = x[..., 0::2].float(), x[..., 1::2].float()
    c, s = cosine[:, None], sine[:, None]
    return torch.stack([even * c - odd * s, even * s + odd * c], dim=-1).flatten(-2).to(x.dtype)


@compiled(fastmath=True)
def _turn(qkv: np.ndarray, cosine: np.ndarray, sine: np.ndarray, first: int, sign: float) -> None:
    """Queries and keys of qkv (n, 3, H, d); the angles of token t are those of row (first + t) % N."""
    for t in range(qkv.shape[0]):
        n = (first + t) % cosine.shape[0]
        for which in range(2):
            for h in range(qkv.shape[2]):
                row = qkv[t, which, h]
                for i in range(cosine.shape[1]):
                    c, s = cosine[n, i], np.float32(sign) * sine[n, i]
                    even, odd = row[2 * i], row[2 * i + 1]
                    row[2 * i] = even * c - odd * s
                    row[2 * i + 1] = even * s + odd * c


def _turn_in_place(qkv: Tensor, cosine: Tensor, sine: Tensor, sign: float) -> None:
    """(B, N, 3, H, d), tokens shared out among threads."""
    rows, angles = qkv.detach().flatten(0, 1).numpy(), (cosine.numpy(), sine.numpy())

    def piece(begin: int, end: int) -> None:
        _turn(rows[begin:end], *angles, begin, sign)

    threads.share(piece, len(rows), torch.get_num_threads())
