"""Physical units to numbers of order one and back, a method per variable."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from forecast.core.errors import ForecastError
from forecast.models.fields import Fields

LOG_TOP = 7.0
"""of log1p(millimetres), as the released FuXi-ENS has it: 1,096 mm"""


class Normaliser(nn.Module):
    """(x - offset) / scale for the last dimension; `mean-std`, `std`, `max` (no offset) or `none` per variable.

    `log`, for water in metres, takes log1p(1000 x) in place of x, with no offset and log1p(1000 stdev) as scale.
    """

    offset: Tensor
    scale: Tensor
    log: Tensor

    def __init__(self, fields: Fields, names: tuple[str, ...]) -> None:
        super().__init__()
        offset, scale = zip(*(_method(fields, name) for name in names), strict=True) if names else ((), ())
        self.register_buffer("offset", torch.tensor(offset, dtype=torch.float32), persistent=False)
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32), persistent=False)
        logs = [fields.normalisation.get(name) == "log" for name in names]
        self.any_log = any(logs)
        self.register_buffer("log", torch.tensor(logs, dtype=torch.bool), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Physical (..., V), or the first columns of it, to normalised."""
        n = x.shape[-1]
        if self.any_log:
            x = torch.where(self.log[:n], torch.log1p(1000 * x.clamp_min(0)), x)
        return (x - self.offset[:n]) / self.scale[:n]

    def inverse(self, x: Tensor) -> Tensor:
        """Normalised (..., V) to physical."""
        x = torch.addcmul(self.offset, x, self.scale)
        return torch.where(self.log, torch.expm1(x.clamp(0, LOG_TOP)) / 1000, x) if self.any_log else x

    def spread(self, physical: np.ndarray) -> np.ndarray:
        """(V,) standard deviations in normalised units; 1 for `log`."""
        return np.where(self.log.numpy(), 1.0, physical / self.scale.double().numpy())


def _method(fields: Fields, name: str) -> tuple[float, float]:
    method = fields.normalisation.get(name, "mean-std")
    if method == "none":
        return 0.0, 1.0
    scale = float(fields.column("maximum" if method == "max" else "stdev", (name,))[0])
    if not scale > 0 or not np.isfinite(scale):
        raise ForecastError(f"`{name}` cannot be normalised by {method}, its scale is {scale:g}: use `none`")
    if method == "log":
        return 0.0, float(np.log1p(1000 * scale))
    return (float(fields.column("mean", (name,))[0]) if method == "mean-std" else 0.0), scale
