"""Spectral transforms and derivatives of fields (..., G, V) on rectilinear grids, for scores behind them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from forecast.core.errors import ForecastError
from forecast.core.grids import Grid
from forecast.core.sphere import epsilon, legendre
from forecast.losses.common import require
from forecast.losses.registry import transform
from forecast.losses.transforms import Transform


class Spectral(Transform):
    """A transform into K complex coefficients of a real field.

    Attributes:
        degree: (K,) total wavenumber, from 0 to `degrees` - 1.
        multiplicity: (K,) 1, or 2 where a coefficient stands for its conjugate too.
    """

    mixes = True
    degrees: int
    degree: Tensor
    multiplicity: Tensor

    def coefficients(self, field: Tensor) -> Tensor:
        """(..., G, V) -> complex (..., K, V)."""
        raise NotImplementedError

    def forward(self, field: Tensor) -> Tensor:
        """(..., 2 K, V): real parts, then imaginary ones, times the root of the multiplicity: an isometry."""
        scaled = self.coefficients(field) * self.multiplicity.to(field.dtype).sqrt()[:, None]
        return torch.cat([scaled.real, scaled.imag], dim=-2)

    def weight(self, weight: Tensor) -> Tensor:
        """The mean over the grid: what lies in one place lies in no one coefficient."""
        return weight if weight.ndim < 2 else weight.mean(-2, keepdim=True)


@transform("fft")
class Fourier(Spectral):
    """Two-dimensional Fourier transform (orthonormal) of a rectilinear grid, regional or not; degree round(|k|).

    Args:
        grid: whose shape is (rows, columns); or `shape` itself.

    Raises:
        ForecastError: neither, or a grid without rows.
    """

    def __init__(self, grid: Grid | None = None, *, shape: Sequence[int] | None = None) -> None:
        super().__init__()
        if shape is None and (grid is None or not grid.is_regular):
            raise ForecastError("Fourier needs a rectilinear `grid`, or `shape`")
        rows, columns = self.shape = tuple(shape or (grid.shape if grid else ()))
        across, along = np.fft.fftfreq(rows, 1 / rows)[:, None], np.fft.rfftfreq(columns, 1 / columns)
        degree = np.round(np.hypot(across, along)).astype(np.int64)
        self.degrees = int(degree.max()) + 1
        alone = (along == 0) | (2 * along == columns)
        twice = np.where(alone, 1.0, 2.0) * np.ones((rows, 1))
        self.register_buffer("degree", torch.from_numpy(degree.ravel()), persistent=False)
        self.register_buffer("multiplicity", torch.from_numpy(twice.ravel()), persistent=False)

    def coefficients(self, field: Tensor) -> Tensor:
        """(..., G, V) -> complex (..., K, V)."""
        _check(field, self.shape)
        field = field.unflatten(-2, self.shape)
        return _even_empty(torch.fft.rfft2, field, dim=(-3, -2), norm="ortho").flatten(-3, -2)


def _check(field: Tensor, shape: tuple[int, ...]) -> None:
    points = int(np.prod(shape))
    require(field.ndim >= 2 and field.shape[-2] == points, "field", tuple(field.shape), f"must be (..., {points}, V)")


def _even_empty(function: Callable[..., Tensor], field: Tensor, **kwargs: Any) -> Tensor:
    """function(field), also where there is no sample, which FFT libraries refuse."""
    if field.numel():
        return function(field, **kwargs)
    return function(torch.cat([field, field.new_zeros(1, *field.shape[1:])]), **kwargs)[:0]


class _Tables(torch.nn.Module):
    """Legendre functions of a global rectilinear grid and sums over longitudes, on the unit sphere."""

    def __init__(self, grid: Grid | None, truncation: int | None) -> None:
        super().__init__()
        if grid is None or not (grid.is_regular and grid.is_global):
            raise ForecastError("spherical harmonics need a global rectilinear `grid`")
        nlat, nlon = self.shape = tuple(grid.shape)
        t = min((nlon - 1) // 2, nlat - 1) if truncation is None else truncation
        require(0 < 2 * t < nlon and t < nlat, "truncation", t, f"is too fine for {grid.name}")
        self.truncation = t
        sines = np.sin(np.radians(grid.rows))
        p = legendre(t + 1, sines)
        m, n = np.arange(t + 1)[:, None], np.arange(t + 1)[None, :]
        below = np.concatenate([np.zeros_like(p[: t + 1, :1]), p[: t + 1, :t]], axis=1)
        h = ((n + 1) * epsilon(m, np.maximum(n, 1)))[..., None] * below
        h = np.where((n >= m)[..., None], h - (n * epsilon(m, n + 1))[..., None] * p[: t + 1, 1:], 0.0)
        weights = grid.areas.reshape(grid.shape)[:, 0] * nlon / (4 * np.pi)
        cosines = np.sqrt(1 - sines**2)
        tables = {"p": p[: t + 1, : t + 1], "h": h, "weights": weights, "cosines": cosines}
        tables["per_cosine"] = np.where(cosines > 1e-6, 1 / np.maximum(cosines, 1e-6), 0.0)  # no slope at a pole
        eastward = (grid.columns[1] - grid.columns[0]) % 360 < 180
        tables["zonal"] = np.arange(t + 1.0) * (1 if eastward else -1)
        for name, table in tables.items():
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(table)), persistent=False)

    p: Tensor
    h: Tensor
    weights: Tensor
    cosines: Tensor
    per_cosine: Tensor
    zonal: Tensor

    def rows(self, field: Tensor) -> Tensor:
        """(..., G, V) -> complex (..., latitudes, M, V): zonal wavenumbers of each row."""
        _check(field, self.shape)
        waves = _even_empty(torch.fft.rfft, field.unflatten(-2, self.shape), dim=-2, norm="forward")
        return waves[..., : self.truncation + 1, :]

    def analysis(self, table: Tensor, rows: Tensor) -> Tensor:
        """Complex (..., latitudes, M, V) -> (..., M, N, V)."""
        parts = torch.view_as_real(rows)
        spectral = torch.einsum("mnj,...jmvc->...mnvc", (table * self.weights).to(parts.dtype), parts)
        return torch.view_as_complex(spectral.contiguous())

    def synthesis(self, table: Tensor, spectral: Tensor) -> Tensor:
        """Complex (..., M, N, V) -> real (..., G, V)."""
        parts = torch.view_as_real(spectral)
        rows = torch.einsum("mnj,...mnvc->...jmvc", table.to(parts.dtype), parts)
        waves = torch.view_as_complex(rows.contiguous())
        return _even_empty(torch.fft.irfft, waves, n=self.shape[1], dim=-2, norm="forward").flatten(-3, -2)

    def along(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        """(latitudes,) -> (G, 1)."""
        return values.to(dtype).repeat_interleave(self.shape[1])[:, None]


@transform("harmonics")
class SphericalHarmonics(Spectral):
    """Spherical harmonics to triangular truncation; the squares of all coefficients add up to the area mean square.

    Args:
        grid: global and rectilinear; exact on Gaussian grids. truncation: the finest that the grid holds by default.

    Raises:
        ForecastError: a grid that is neither, or too coarse.
    """

    def __init__(self, grid: Grid | None = None, *, truncation: int | None = None) -> None:
        super().__init__()
        self.tables = _Tables(grid, truncation)
        self.degrees = self.tables.truncation + 1
        m, n = np.nonzero(np.triu(np.ones((self.tables.truncation + 1,) * 2)))
        buffers = {"zonal": m, "degree": n, "multiplicity": np.where(m == 0, 1.0, 2.0)}
        for name, value in buffers.items():
            self.register_buffer(name, torch.from_numpy(value), persistent=False)

    zonal: Tensor

    def coefficients(self, field: Tensor) -> Tensor:
        """(..., G, V) -> complex (..., K, V), by zonal, then total wavenumber."""
        spectral = self.tables.analysis(self.tables.p, self.tables.rows(field))
        return spectral[..., self.zonal, self.degree, :]


@transform("gradient")
class Gradient(Transform):
    """Eastward, then northward derivative on the unit sphere, (..., 2 G, V), by spherical harmonics.

    Args: as `SphericalHarmonics`.
    """

    mixes = True

    def __init__(self, grid: Grid | None = None, *, truncation: int | None = None) -> None:
        super().__init__()
        self.tables = _Tables(grid, truncation)

    def forward(self, field: Tensor) -> Tensor:
        t = self.tables
        spectral = t.analysis(t.p, t.rows(field))
        zonal = 1j * t.zonal.to(field.dtype)[:, None, None]
        both = [t.synthesis(t.p, spectral * zonal), t.synthesis(t.h, spectral)]
        return torch.cat([part * t.along(t.per_cosine, field.dtype) for part in both], dim=-2)

    def weight(self, weight: Tensor) -> Tensor:
        """That of the point, for both components."""
        varies = weight.ndim >= 2 and weight.shape[-2] > 1
        return torch.cat([weight, weight], dim=-2) if varies else weight


@transform("vorticity_divergence")
class VorticityDivergence(Transform):
    """Vorticity, then divergence, on the unit sphere, of each pair of winds, (..., G, 2 P), by spherical harmonics.

    Args:
        variables: names, of which `10u` and `u_850` are eastward winds whose partners `10v` and `v_850` are there too.
        winds: pairs of columns (eastward, northward) of V instead.
        Others as `SphericalHarmonics`.

    Raises:
        ForecastError: no pair of winds.
    """

    mixes = True

    def __init__(
        self,
        grid: Grid | None = None,
        *,
        variables: Sequence[str] = (),
        winds: Sequence[Sequence[int]] | None = None,
        truncation: int | None = None,
    ) -> None:
        super().__init__()
        self.tables = _Tables(grid, truncation)
        found = wind_pairs(variables) if winds is None else [tuple(pair) for pair in winds]
        require(bool(found), "variables", list(variables), "hold no pair of winds")
        self.register_buffer("winds", torch.tensor(found, dtype=torch.long).T.contiguous(), persistent=False)

    winds: Tensor

    def forward(self, field: Tensor) -> Tensor:
        t = self.tables
        east, north = (t.rows(field[..., columns] * t.along(t.cosines, field.dtype)) for columns in self.winds)
        vorticity, divergence = self._divergence(north, -east), self._divergence(east, north)
        return torch.cat([vorticity, divergence], dim=-1)

    def _divergence(self, east: Tensor, north: Tensor) -> Tensor:
        """Of a vector field whose rows come times cos(latitude)."""
        t = self.tables
        metric = t.per_cosine.square()
        zonal = 1j * t.zonal.to(east.real.dtype)[:, None]
        spectral = t.analysis(t.p * metric, east * zonal) - t.analysis(t.h * metric, north)
        return t.synthesis(t.p, spectral)

    def weight(self, weight: Tensor) -> Tensor:
        """The mean of both winds."""
        if weight.ndim == 0 or weight.shape[-1] == 1:
            return weight
        both = 0.5 * (weight[..., self.winds[0]] + weight[..., self.winds[1]])
        return torch.cat([both, both], dim=-1)


def wind_pairs(variables: Sequence[str]) -> list[tuple[int, int]]:
    """Columns of eastward and northward winds that go together, by their names."""
    column = {name: i for i, name in enumerate(variables)}
    pairs = ((name, name.replace("u", "v", 1)) for name in variables if name.lstrip("0123456789").startswith("u"))
    return [(column[u], column[v]) for u, v in pairs if v in column]
