"""Physical units to numbers of order one and back, a method per variable."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from forecast.core.errors import ForecastError
from forecast.models.fields import Fields


class Normaliser(nn.Module):
    """(x - offset) / scale for the last dimension; `mean-std`, `std`, `max` (no offset) or `none` per variable."""

    offset: Tensor
    scale: Tensor

    def __init__(self, fields: Fields, names: tuple[str, ...]) -> None:
        super().__init__()
        offset, scale = zip(*(_method(fields, name) for name in names), strict=True) if names else ((), ())
        self.register_buffer("offset", torch.tensor(offset, dtype=torch.float32), persistent=False)
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Physical (..., V) to normalised."""
        return (x - self.offset) / self.scale

    def inverse(self, x: Tensor) -> Tensor:
        """Normalised (..., V) to physical."""
        return torch.addcmul(self.offset, x, self.scale)


def _method(fields: Fields, name: str) -> tuple[float, float]:
    method = fields.normalisation.get(name, "mean-std")
    if method == "none":
        return 0.0, 1.0
    scale = float(fields.column("maximum" if method == "max" else "stdev", (name,))[0])
    if not scale > 0 or not np.isfinite(scale):
        raise ForecastError(f"`{name}` cannot be normalised by {method}, its scale is {scale:g}: use `none`")
    return (float(fields.column("mean", (name,))[0]) if method == "mean-std" else 0.0), scale
