"""The one way in which processes of an axis exchange tensors within the gradient: everyone gives everyone a piece.

The gradient of an exchange is the exchange backwards, so that whatever is built of it is differentiated by autograd.
Each process's loss is its own part of the whole one, and what a piece does elsewhere comes back as its gradient.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from forecast.training.mesh import Axis


class Traffic:
    """What this process has sent to others, and how long it has waited for them, since `reset`."""

    bytes: int = 0
    calls: int = 0
    seconds: float = 0.0

    @classmethod
    def reset(cls) -> None:
        """Count from 0 again."""
        cls.bytes, cls.calls, cls.seconds = 0, 0, 0.0


@torch.compiler.disable  # a compiled network is cut here
def swap(axis: Axis, pieces: Sequence[Tensor], shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """What every process of the axis gives to this one, for what this one gives to every process.

    Args:
        pieces: one for each process, in order. shapes: of what each gives to this one.
    """
    if axis.size == 1:
        return list(pieces)
    return list(_Swap.apply(axis, tuple(map(tuple, shapes)), *pieces))


class _Swap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, axis: Axis, shapes: tuple[tuple[int, ...], ...], *pieces: Tensor) -> tuple[Tensor, ...]:
        ctx.axis, ctx.shapes = axis, tuple(tuple(piece.shape) for piece in pieces)
        return _swapped(axis, pieces, shapes)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        return None, None, *_swapped(ctx.axis, grads, ctx.shapes)


def _swapped(axis: Axis, pieces: Sequence[Tensor], shapes: Sequence[tuple[int, ...]]) -> tuple[Tensor, ...]:
    given = torch.cat([piece.reshape(-1) for piece in pieces])
    sizes = [int(np.prod(shape)) for shape in shapes]
    taken, began = given.new_empty(sum(sizes)), time.perf_counter()
    dist.all_to_all_single(taken, given, sizes, [piece.numel() for piece in pieces], group=axis.group)
    Traffic.seconds += time.perf_counter() - began  # on a GPU the time to queue it
    Traffic.bytes += (given.numel() - pieces[axis.rank].numel()) * given.element_size()
    Traffic.calls += 1
    return tuple(part.view(shape) for part, shape in zip(taken.split(sizes), shapes, strict=True))


class Move(nn.Module):
    """Rows of (..., n, D) from one layout among processes into another, in which a row may occur several times.

    Args:
        given: rows that each process holds, in their order; every row is somewhere, once. wanted: rows that each needs.
    """

    order: Tensor

    def __init__(self, axis: Axis, given: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> None:
        super().__init__()
        self.axis = axis
        owner, place = _whereabouts(given)
        for rank, rows in enumerate(wanted):
            mine = rows[owner[rows] == axis.rank]
            self.register_buffer(f"give{rank}", torch.from_numpy(place[mine]), persistent=False)
        here = wanted[axis.rank]
        self.sizes = np.bincount(owner[here], minlength=axis.size).tolist()
        order = np.empty(len(here), np.int64)
        order[np.argsort(owner[here], kind="stable")] = np.arange(len(here))
        self.plain = bool((order == np.arange(len(here))).all())
        self.register_buffer("order", torch.from_numpy(order), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., m, D) in the wanted layout from (..., n, D) in the given one."""
        pieces = [x.index_select(-2, getattr(self, f"give{rank}")) for rank in range(self.axis.size)]
        shapes = [(*x.shape[:-2], size, x.shape[-1]) for size in self.sizes]
        taken = torch.cat(swap(self.axis, pieces, shapes), dim=-2)
        return taken if self.plain else taken.index_select(-2, self.order)


def _whereabouts(given: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Who holds each row, and at which place."""
    rows = np.concatenate(given)
    owner, place = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
    for rank, held in enumerate(given):
        owner[held], place[held] = rank, np.arange(len(held))
    return owner, place


class Permutation(nn.Module):
    """Rows in another layout, and back; each row is in either layout once."""

    def __init__(self, axis: Axis, given: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> None:
        super().__init__()
        self.there, self.back = Move(axis, given, wanted), Move(axis, wanted, given)

    def forward(self, x: Tensor) -> Tensor:
        """(..., m, D) in the wanted layout."""
        out: Tensor = self.there(x)
        return out

    def undo(self, x: Tensor) -> Tensor:
        """(..., n, D) in the given layout."""
        out: Tensor = self.back(x)
        return out


def ranges(parts: Sequence[slice]) -> list[np.ndarray]:
    """The rows of slices."""
    return [np.arange(part.start, part.stop) for part in parts]


def share(axis: Axis, x: Tensor, dim: int, lengths: Sequence[int], into: int, parts: Sequence[slice]) -> Tensor:
    """All of dimension `dim` for this process's part of dimension `into`.

    Args:
        x: this process's part of `dim`, all of `into`. lengths: of everybody's part of `dim`.
        parts: of `into` that everybody is to get.
    """
    pieces = [x.narrow(into, part.start, part.stop - part.start) for part in parts]
    mine = parts[axis.rank]
    shapes = [_with(x.shape, {dim: length, into: mine.stop - mine.start}) for length in lengths]
    return torch.cat(swap(axis, pieces, shapes), dim=dim)


def gather(axis: Axis, x: Tensor, dim: int, lengths: Sequence[int]) -> Tensor:
    """All of dimension `dim` on every process; `lengths` of everybody's part of it."""
    shapes = [_with(x.shape, {dim: length}) for length in lengths]
    return torch.cat(swap(axis, [x] * axis.size, shapes), dim=dim)


def total(axis: Axis, x: Tensor) -> Tensor:
    """The sum of everybody's x, on every process."""
    return torch.stack(swap(axis, [x] * axis.size, [x.shape] * axis.size)).sum(dim=0)


def _with(shape: Sequence[int], changes: dict[int, int]) -> list[int]:
    out = list(shape)
    for dim, size in changes.items():
        out[dim] = size
    return out
