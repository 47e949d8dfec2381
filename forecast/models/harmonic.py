"""Layers that see the whole sphere at once: filters in spherical harmonics, their gradients, a gated MLP per node."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from forecast.core import grids
from forecast.core.errors import ForecastError
from forecast.core.sphere import epsilon, legendre

_STEEPEST, _FLATTEST = -2.0, 0.3
"""powers of the wavenumber that filters begin with: from an inverse Laplacian to a slight sharpening"""


def harmonics(truncation: int, latitudes: np.ndarray, longitudes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Real spherical harmonics at points: values, eastward and northward derivatives (3, N, K), and degrees (K,).

    K = (T + 1)^2, wavenumber by wavenumber, cosines before sines. The mean square of each over the sphere is 1;
    derivatives are those on the unit sphere.

    Args:
        truncation: T. latitudes, longitudes: (N,) degrees.
    """
    sines, angle = np.sin(np.radians(latitudes)), np.radians(longitudes)
    cosine = np.maximum(np.sqrt(1 - sines**2), 1e-6)
    p = legendre(truncation + 1, sines)
    parts, degrees = [], []
    for m in range(truncation + 1):
        n = np.arange(m, truncation + 1)
        up, down = epsilon(m, n + 1)[:, None], epsilon(m, np.maximum(n, 1))[:, None]
        below = p[m, n - 1] if m else np.concatenate([np.zeros((1, sines.size)), p[m, n[1:] - 1]])
        slope = (n + 1)[:, None] * down * below - n[:, None] * up * p[m, n + 1]  # (1 - mu^2) dP/dmu
        for wave, turned in ((np.cos(m * angle), -np.sin(m * angle)), (np.sin(m * angle), np.cos(m * angle)))[: m + 1]:
            size = 1.0 if m == 0 else 2**0.5
            value, east, north = p[m, n] * wave, m * p[m, n] * turned / cosine, slope * wave / cosine
            parts.append(size * np.stack([value, east, north]).swapaxes(1, 2))
            degrees.append(n)
    return np.concatenate(parts, axis=2), np.concatenate(degrees)


class Waves(nn.Module):
    """Transforms between values at nodes and coefficients of spherical harmonics, as matrix products.

    Analysis is the least-squares fit weighted by the nodes' areas; on a Gaussian grid that is exact quadrature. Dense
    matrices: meant for meshes of up to about 10,000 nodes.

    Args:
        truncation: T. positions: (N, 3) unit vectors.

    Attributes:
        truncation: T.

    Raises:
        ForecastError: fewer nodes than (T + 1)^2 harmonics, or nodes that do not determine them.
    """

    def __init__(self, truncation: int, positions: Tensor) -> None:
        super().__init__()
        self.truncation = truncation
        x, y, z = positions.double().numpy().T
        latitudes, longitudes = np.degrees(np.arctan2(z, np.hypot(x, y))), np.degrees(np.arctan2(y, x))
        basis, degrees = harmonics(truncation, latitudes, longitudes)
        weights = grids.from_points(latitudes, longitudes).areas
        weighted = basis[0].T * (weights / weights.sum())
        if len(degrees) > len(positions) or np.linalg.cond(gram := weighted @ basis[0]) > 1e4:
            raise ForecastError(
                f"model.truncation={truncation} has {len(degrees):,} spherical harmonics, more than {len(positions):,} "
                "nodes can tell apart: lower it, or take a finer mesh (smaller patches)"
            )
        basis[1:] /= max(1.0, (truncation * (truncation + 1) / 2) ** 0.5 / 2)  # of the size of the values
        self._keep("degrees", torch.from_numpy(degrees))
        for name, matrix in (("analysis", np.linalg.solve(gram, weighted)), ("synthesis", np.concatenate(basis))):
            single = torch.from_numpy(np.ascontiguousarray(matrix, np.float32))
            self._keep(name, single)
            self._keep(f"{name}_half", single.bfloat16())

    def _keep(self, name: str, values: Tensor) -> None:
        self.register_buffer(name, values, persistent=False)

    def forward(self, x: Tensor, gain: Tensor) -> Tensor:
        """(B, N, 3 K) fields x (B, N, K) filtered by gain (T + 1, 1, K), and their eastward and northward derivatives.

        In the precision of x: float32 or bfloat16.
        """
        rows, nodes, fields = x.shape
        half = "_half" if x.dtype == torch.bfloat16 else ""
        analysis, synthesis = getattr(self, f"analysis{half}"), getattr(self, f"synthesis{half}")
        coefficients = self._all(analysis @ x.transpose(0, 1).reshape(nodes, -1)).view(-1, rows, fields)
        filtered = (coefficients * gain[self.get_buffer("degrees")]).to(x.dtype)
        out = (synthesis @ filtered.view(len(filtered), -1)).view(3, nodes, rows, fields)
        return out.permute(2, 1, 0, 3).flatten(2)

    def _all(self, coefficients: Tensor) -> Tensor:
        """Coefficients of all nodes, from those of the nodes that are here."""
        return coefficients


class HarmonicLayer(nn.Module):
    """x += MLP(LN(x), filtered fields of LN(x), their gradients); the MLP multiplies two linear maps (Shazeer 2020).

    What a fluid does is made of just that: a filter that turns vorticity into a streamfunction, gradients, products.
    After spherical Fourier neural operators (Bonev et al. 2023), whose filters depend on the degree alone, too.

    Args:
        hidden: width of the MLP. filters: filtered fields. norm: of x, told the condition.
    """

    def __init__(self, width: int, hidden: int, filters: int, waves: Waves, norm: nn.Module) -> None:
        super().__init__()
        self.waves, self.norm = waves, norm
        self.choose = nn.Linear(width, filters, bias=False)
        powers = torch.linspace(_STEEPEST, _FLATTEST, filters)
        degrees = torch.arange(waves.truncation + 1.0)[:, None, None]
        self.gain = nn.Parameter((1 + degrees / 4) ** powers)
        self.inner, self.outer = nn.Linear(width + 3 * filters, 2 * hidden), nn.Linear(hidden, width)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(B, N, width) -> (B, N, width); condition as the norm takes it."""
        normed = self.norm(x, condition)
        chosen = self.choose(normed)
        one, other = self.inner(torch.cat([normed.to(chosen.dtype), self.waves(chosen, self.gain)], -1)).chunk(2, -1)
        return x + self.outer(one * other)
