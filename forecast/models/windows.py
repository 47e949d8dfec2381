"""Attention within windows of a map of tokens; no score matrix is stored, no token sees what a mask would hide.

A map wraps round in longitude and ends at the poles. Windows of shifted blocks that a roll of the map would tie across
the poles, and those that a window size which does not divide the map leaves over, are cut into smaller windows: what
a mask would forbid is never computed. Rotary positions enter by their differences alone, so that this is the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from forecast.models import window_operators


@dataclass(frozen=True)
class Windows:
    """A partition of a map into windows.

    Attributes:
        order: (N,) raster indices of the tokens, window after window.
        groups: (windows, tokens of each) of every shape of window, in this order.
        positions: (N,) index of each token within its window, row by row of a full window.
    """

    order: np.ndarray
    groups: tuple[tuple[int, int], ...]
    positions: np.ndarray


def partition(shape: tuple[int, int], window: tuple[int, int], shift: tuple[int, int], wraps: bool) -> Windows:
    """Windows of `window` rows and columns over a map of `shape`, moved south and east by `shift`.

    Args:
        wraps: whether the last column is next to the first.
    """
    raster = np.arange(shape[0] * shape[1]).reshape(shape)
    rows, columns = _cuts(shape[0], window[0], shift[0], False), _cuts(shape[1], window[1], shift[1], wraps)
    by_shape: dict[tuple[int, int], list[np.ndarray]] = {}
    for r in rows:
        for c in columns:
            by_shape.setdefault((len(r), len(c)), []).append(raster[np.ix_(r, c)].ravel())
    places = {size: (np.arange(size[0])[:, None] * window[1] + np.arange(size[1])).ravel() for size in by_shape}
    return Windows(
        order=np.concatenate([index for indices in by_shape.values() for index in indices]),
        groups=tuple((len(indices), height * width) for (height, width), indices in by_shape.items()),
        positions=np.concatenate([np.tile(places[size], len(indices)) for size, indices in by_shape.items()]),
    )


def _cuts(n: int, window: int, shift: int, wraps: bool) -> list[np.ndarray]:
    """Indices 0..n-1 of one axis, window after window."""
    if n <= window:
        return [np.arange(n)]
    if wraps:
        rolled = (np.arange(n) + shift) % n
        return [rolled[i : i + window] for i in range(0, n, window)]
    ends = [e for e in range(shift, n, window) if e > 0] + [n]
    return [np.arange(begin, end) for begin, end in zip([0, *ends[:-1]], ends, strict=True)]


class Reorder(torch.autograd.Function):
    """x[:, order]; knowing the inverse, its gradient is an ordering, too, and no scattered sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(order, inverse)
        return x.index_select(1, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        order, inverse = ctx.saved_tensors
        return Reorder.apply(grad.contiguous(), inverse, order), None, None


class Reordering(nn.Module):
    """The permutation of tokens from one partition (None: raster) into another, and back."""

    there: Tensor
    back: Tensor

    def __init__(self, given: np.ndarray | None, wanted: np.ndarray) -> None:
        super().__init__()
        there = wanted if given is None else np.argsort(given)[wanted]
        self.register_buffer("there", torch.tensor(there), persistent=False)
        self.register_buffer("back", torch.tensor(np.argsort(there)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) in the wanted order."""
        return Reorder.apply(x, self.there, self.back)

    def undo(self, x: Tensor) -> Tensor:
        """(B, N, D) in the given order again."""
        return Reorder.apply(x, self.back, self.there)


class WindowAttention(nn.Module):
    """Attention of the tokens of each window to each other, with rotary positions (Su et al. 2021), no biases.

    Tokens come and go in the order of `home`, the partition that is not shifted.

    Args:
        width: features of a token, split over `heads`. home, own: partitions; tokens attend within `own`.
        base: of the rotary frequencies base^(-2 i / width of a head), which turn pairs (2 i, 2 i + 1).
    """

    cosine: Tensor
    sine: Tensor

    def __init__(self, width: int, heads: int, home: Windows, own: Windows, base: float = 1e4) -> None:
        super().__init__()
        self.heads, self.groups = heads, own.groups
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.reordering = None if own is home else Reordering(home.order, own.order)
        pairs = width // heads // 2
        angles = own.positions[:, None] * base ** (-np.arange(pairs) / max(pairs, 1))
        self.register_buffer("cosine", torch.tensor(np.cos(angles), dtype=torch.float32), persistent=False)
        self.register_buffer("sine", torch.tensor(np.sin(angles), dtype=torch.float32), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) -> (B, N, width)."""
        if self.reordering is not None:
            x = self.reordering(x)
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        if x.device.type == "cpu":  # where the gradient of attention in bfloat16 takes four times as long
            with torch.autocast("cpu", enabled=False):
                mixed = self._mixed(qkv.float())
        else:
            mixed = self._mixed(qkv)
        out = self.out(mixed)
        return out if self.reordering is None else self.reordering.undo(out)

    def _mixed(self, qkv: Tensor) -> Tensor:
        """(B, N, width) from (B, N, 3, H, d)."""
        query, key, value = window_operators.rotate(qkv, self.cosine, self.sine)
        if len(self.groups) == 1:
            return _attend(query, key, value, self.groups[0][1])
        sizes = [windows * length for windows, length in self.groups]
        parts = zip(*(tensor.split(sizes, dim=1) for tensor in (query, key, value)), self.groups, strict=True)
        return torch.cat([_attend(q, k, v, length) for q, k, v, (_, length) in parts], dim=1)


def _attend(query: Tensor, key: Tensor, value: Tensor, length: int) -> Tensor:
    """(B, n, D) of windows of `length` tokens; query, key, value (B, n, H, d)."""
    q, k, v = (x.reshape(-1, length, *x.shape[2:]).transpose(1, 2) for x in (query, key, value))
    mixed = functional.scaled_dot_product_attention(q, k, v)
    return mixed.transpose(1, 2).reshape(len(query), -1, query.shape[2] * query.shape[3])
