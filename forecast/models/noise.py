"""How chance enters: noise at every mesh node becomes the scale and shift of the processor's layer norms."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from forecast.core import seeding
from forecast.models import normals, operators


def draw(
    keys: Sequence[int],
    shape: Sequence[int],
    device: torch.device | str = "cpu",
    parts: Sequence[slice] | None = None,
) -> Tensor:
    """(len(keys), *shape) float32 standard normals on `device`, the same bits on any.

    Args:
        keys: one `seeding.key` per block, whose numbers depend on nothing else. shape: mesh nodes and noise channels.
        parts: of a block's numbers, those that are wanted; together as many as `shape` holds. All if absent.
    """
    device = torch.device(device)
    wanted = [slice(0, math.prod(shape))] if parts is None else parts
    pieces = [_piece(keys, part.start, part.stop - part.start, device) for part in wanted]
    return (pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)).reshape(-1, *shape)


def _piece(keys: Sequence[int], offset: int, size: int, device: torch.device) -> Tensor:
    if device.type == "cpu":
        return torch.from_numpy(np.stack([seeding.normal(key, size, offset) for key in keys]))
    return normals.normal(keys, size, device, offset)


class NoiseEmbedding(nn.Sequential):
    """Noise (..., C) -> condition (..., C): two linear layers and a layer norm (Lang et al. 2026)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels), nn.LayerNorm(channels))


class ConditionalLayerNorm(nn.Module):
    """LN(x) * (1 + scale(c)) + shift(c) with linear scale and shift, zero at the start: then a plain layer norm."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels, 2, width))
        self.bias = nn.Parameter(torch.zeros(2, width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(..., width) from x (..., width) and condition (..., C), float32."""
        return operators.conditional_norm(x.flatten(0, -2), condition.flatten(0, -2), self.weight, self.bias).view_as(x)
