"""How chance enters: noise at every mesh node becomes the scale and shift of the processor's layer norms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from forecast.core import seeding


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
        self.width = (width,)
        self.condition = nn.Linear(channels, 2 * width)
        nn.init.zeros_(self.condition.weight)
        nn.init.zeros_(self.condition.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(..., width) from x (..., width) and condition (..., C)."""
        scale, shift = self.condition(condition).chunk(2, dim=-1)
        normed = functional.layer_norm(x, self.width)
        return torch.addcmul(normed + shift, normed, scale)
