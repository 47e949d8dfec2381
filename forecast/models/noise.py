"""How chance enters: noise at every mesh node becomes the scale and shift of the processor's layer norms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from forecast.core import seeding
from forecast.models import operators


def draw(keys: Sequence[int], shape: tuple[int, int], device: torch.device | str = "cpu") -> Tensor:
    """(len(keys), N, C) float32 standard normals, the block of each key independent of the others.

    Args:
        keys: one `seeding.key` per block. shape: mesh nodes N and noise channels C.
    """
    blocks = [seeding.normal(key, shape[0] * shape[1]) for key in keys]
    return torch.from_numpy(np.stack(blocks)).reshape(-1, *shape).to(device)


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
