"""Pieces of the FuXi-ENS network: embedded patches, blocks told of the time, patch heads."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from forecast.core.errors import ForecastError
from forecast.core.model_sections import FuxiEnsSection
from forecast.models import modulation, window_operators
from forecast.models.harmonic import HarmonicLayer, Waves
from forecast.models.windows import Reordering, WindowAttention, Windows, partition

FREQUENCIES = 128


def norm(x: Tensor, weight: Tensor) -> Tensor:
    """(B, N, D) layer norm with the unbiased variance, times the weight, in float32."""
    each = weight.expand(len(x), -1)
    return modulation.modulated_norm(x, each, torch.zeros_like(each))


class Geometry(NamedTuple):
    """How a grid is cut into patches and windows.

    Attributes:
        grid: rows and columns. patch: of a token. drop: a last row or column of patches that the grid does not fill is
            no token (as in the released network), rather than one filled up with zeros.
        tokens: rows and columns. home, shifted: partitions into windows; of a harmonic backbone its rows.
        waves: harmonics at the tokens, of a harmonic backbone.
    """

    grid: tuple[int, int]
    patch: tuple[int, int]
    drop: bool
    tokens: tuple[int, int]
    home: Windows
    shifted: Windows
    waves: Waves | None = None

    @classmethod
    def of(cls, section: FuxiEnsSection, grid: tuple[int, int], wraps: bool, points: np.ndarray) -> Geometry:
        """The geometry of a grid of rows and columns, whose last column is next to the first if it wraps.

        Args:
            points: (G, 3) unit vectors.
        """
        patch, drop = section.patch, section.remainder == "drop"
        tokens = tuple(n // p if drop else -(-n // p) for n, p in zip(grid, patch, strict=True))
        size = (tokens[0], tokens[1])
        window = section.window if section.backbone == "windows" else (1, size[1])
        home = partition(size, window, (0, 0), wraps)
        shifted = partition(size, window, (window[0] // 2, window[1] // 2), wraps)
        made = cls(grid, patch, drop, size, home, shifted)
        if section.backbone == "windows":
            return made
        if not wraps:
            raise ForecastError("model.backbone=harmonic wants a grid that goes round the globe: set it to windows")
        return made._replace(waves=Waves(section.truncation, made._centres(points)))

    @property
    def covered(self) -> tuple[int, int]:
        """Rows and columns of patches that the heads write, the grid and maybe more."""
        rows, columns = (-(-n // p) for n, p in zip(self.grid, self.patch, strict=True))
        return rows, columns

    def cut(self, fields: Tensor) -> Tensor:
        """(R, C, rows, columns) of whole patches from (R, G, C), zeros where there is no grid."""
        (rows, columns), wanted = self.grid, [n * p for n, p in zip(self.tokens, self.patch, strict=True)]
        x = fields.unflatten(1, (rows, columns)).movedim(-1, 1)
        if wanted == [rows, columns]:
            return x
        return functional.pad(x, (0, wanted[1] - columns, 0, wanted[0] - rows))  # negative: cut off

    def _centres(self, points: np.ndarray) -> Tensor:
        """(N, 3) unit vectors in the middle of each token's patch."""
        means = functional.avg_pool2d(self.cut(torch.from_numpy(points)[None]), self.patch)
        return functional.normalize(means.flatten(2)[0].T, dim=-1)


class ModulatedNorm(nn.Linear):
    """LN(x) (1 + s) + b, where s and b are linear in the condition, and zero at the start."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 2 * width)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:  # type: ignore[override]
        """(B, N, width) from (B, N, width) and SiLU(condition) (B, width)."""
        scale, shift = super().forward(condition).float().chunk(2, dim=-1)
        return modulation.modulated_norm(x, 1 + scale, shift)


class TimeEmbedding(nn.Module):
    """Step number, UTC hour / 24 and day of the year / 365 -> condition (B, width), a small MLP for each."""

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.each = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width)) for _ in range(3)
        )
        frequencies = torch.exp(-math.log(1e4) * torch.arange(FREQUENCIES) / FREQUENCIES)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, times: Tensor) -> Tensor:
        """(B, width) from (B, 3)."""
        angles = times[..., None] * self.frequencies
        waves = torch.cat([angles.sin(), angles.cos()], dim=-1)
        return torch.stack([mlp(waves[:, i]) for i, mlp in enumerate(self.each)]).sum(dim=0)


class Patches(nn.Module):
    """Fields of states and of forcings -> tokens: a strided convolution for each, their sum normed."""

    def __init__(self, channels: int, forcings: int, width: int, geometry: Geometry) -> None:
        super().__init__()
        self.geometry, patch = geometry, geometry.patch
        self.embed_state = nn.Conv2d(channels, width, patch, patch)
        self.embed_forcings = nn.Conv2d(forcings, width, patch, patch) if forcings else None
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, fields: Tensor, forcings: Tensor) -> Tensor:
        """(R, N, width), raster order, from (R, G, channels) and (R or a divisor, G, forcings)."""
        x = self.embed_state(self.geometry.cut(fields))
        if self.embed_forcings is not None:
            known = self.embed_forcings(self.geometry.cut(forcings))
            x = x + known.repeat_interleave(len(x) // len(known), dim=0)
        return norm(x.flatten(2).transpose(1, 2), self.weight)


class Block(nn.Module):
    """x += g1 attention(LN(x) (1 + s1) + b1); x += g2 MLP(LN(x) (1 + s2) + b2); s, b, g linear in the condition.

    The MLP is a GEGLU. Modulations are zero at the start: then a block changes nothing.
    """

    def __init__(self, section: FuxiEnsSection, home: Windows, own: Windows) -> None:
        super().__init__()
        width, hidden = section.width, section.mlp_width
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        self.attention = WindowAttention(width, section.heads, home, own)
        self.mlp_in = nn.Linear(width, 2 * hidden, bias=False)
        self.mlp_out = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(B, N, width) from tokens (B, N, width) and SiLU(condition) (B, width)."""
        s1, b1, g1, s2, b2, g2 = self.modulation(condition).float().chunk(6, dim=-1)
        x = modulation.gated_sum(x, g1, self.attention(modulation.modulated_norm(x, 1 + s1, b1)).float())
        hidden = window_operators.gated_gelu(self.mlp_in(modulation.modulated_norm(x, 1 + s2, b2)))
        return modulation.gated_sum(x, g2, self.mlp_out(hidden).float())


class Backbone(nn.Module):
    """Fields -> tokens: embedded patches, layers of blocks, a modulated norm plus the embedded patches.

    Every second block of a layer attends within shifted windows. With `backbone: harmonic` blocks filter instead.

    Args:
        channels, forcings: of the fields. layers: of section.blocks blocks each. dropout: of what blocks see: after the
            embedding and after the first layer.
    """

    def __init__(self, section: FuxiEnsSection, geometry: Geometry, channels: int, forcings: int, layers: int) -> None:
        super().__init__()
        width = section.width
        self.patches = Patches(channels, forcings, width, geometry)
        self.time = TimeEmbedding(width)
        self.layers = nn.ModuleList(
            nn.ModuleList(_block(section, geometry, shifted=bool(i % 2)) for i in range(section.blocks))
            for _ in range(layers)
        )
        self.modulation = ModulatedNorm(width)
        self.home = Reordering(None, geometry.home.order)
        self.recompute = section.checkpoint_blocks

    def forward(
        self, fields: Tensor, forcings: Tensor, times: Tensor, masks: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """(R, N, width) tokens in raster order.

        Args:
            fields: (R, G, channels). forcings: (B, G, F). times: (B, 3), R a multiple of B: members next to each other.
            masks: (R, N, width) factors of dropout, before the first and the second layer.
        """
        embedded = self.home(self.patches(fields, forcings))
        condition = functional.silu(self.time(times)).repeat_interleave(len(fields) // len(times), dim=0)
        x = embedded
        for index, layer in enumerate(self.layers):
            if masks is not None and index < len(masks):
                x = x * masks[index]
            for block in layer:  # type: ignore[attr-defined]
                x = checkpoint(block, x, condition, use_reentrant=False) if self._recomputes() else block(x, condition)
        return self.home.undo(self.modulation(x, condition) + embedded)

    def _recomputes(self) -> bool:
        return self.recompute and torch.is_grad_enabled()


def _block(section: FuxiEnsSection, geometry: Geometry, shifted: bool) -> nn.Module:
    if geometry.waves is None:
        return Block(section, geometry.home, geometry.shifted if shifted else geometry.home)
    width = section.width
    return HarmonicLayer(width, section.mlp_width, section.filters, geometry.waves, ModulatedNorm(width))


class PatchHead(nn.Module):
    """Tokens -> fields: a transposed convolution that fills each token's patch.

    Where a last row or column of patches is no token, its fields are the bias alone.

    Args:
        coarsening: one output for so many rows and columns of the grid, a divisor of the patch.
    """

    def __init__(self, width: int, channels: int, geometry: Geometry, coarsening: int = 1) -> None:
        super().__init__()
        self.geometry = geometry
        patch = (geometry.patch[0] // coarsening, geometry.patch[1] // coarsening)
        covered = geometry.covered
        self.whole = (covered[0] * patch[0], covered[1] * patch[1])
        self.shape = geometry.grid if coarsening == 1 else self.whole
        self.head = nn.ConvTranspose2d(width, channels, patch, patch)

    def forward(self, tokens: Tensor) -> Tensor:
        """(R, points, channels) from (R, N, width); points row by row of `shape`."""
        (rows, columns), covered = self.geometry.tokens, self.geometry.covered
        x = tokens.transpose(1, 2).unflatten(2, (rows, columns))
        if covered != (rows, columns):
            x = functional.pad(x, (0, covered[1] - columns, 0, covered[0] - rows))
        return self.head(x)[..., : self.shape[0], : self.shape[1]].flatten(2).transpose(1, 2)

    def start(self, value: float = 0.0) -> None:
        """Give `value` everywhere, whatever the tokens."""
        nn.init.zeros_(self.head.weight)
        if self.head.bias is not None:
            nn.init.constant_(self.head.bias, value)
