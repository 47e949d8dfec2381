"""What increments are added to: the newest state, or the newest state smoothed through a coarse grid."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from scipy import sparse
from torch import Tensor, nn

from forecast.core import grids, regrid
from forecast.core.model_sections import Residual

warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")


class SparseProduct(nn.Module):
    """matrix @ x along the grid, on the state's device; the gradient goes through the transpose.

    Args:
        matrix: (T, S) scipy sparse.
    """

    def __init__(self, matrix: sparse.sparray) -> None:
        super().__init__()
        self.shapes = (tuple(matrix.shape), tuple(matrix.shape[::-1]))
        for which, csr in zip(("", "_transposed"), (sparse.csr_array(matrix), sparse.csr_array(matrix.T)), strict=True):
            self.register_buffer(f"rows{which}", torch.from_numpy(csr.indptr.astype("int64")), persistent=False)
            self.register_buffer(f"columns{which}", torch.from_numpy(csr.indices.astype("int64")), persistent=False)
            self.register_buffer(f"values{which}", torch.from_numpy(csr.data.astype("float32")), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., T, V) from (..., S, V), float32."""
        source_first = x.float().movedim(-2, 0)
        flat: Tensor = _Product.apply(source_first.flatten(1), self._matrix(""), self._matrix("_transposed"))
        return flat.unflatten(1, source_first.shape[1:]).movedim(0, -2)

    def _matrix(self, which: str) -> Tensor:
        rows, columns, values = (getattr(self, f"{name}{which}") for name in ("rows", "columns", "values"))
        return torch.sparse_csr_tensor(rows, columns, values, self.shapes[bool(which)], check_invariants=False)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Tensor, transposed: Tensor) -> Tensor:
        ctx.transposed = transposed
        return matrix @ x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.transposed @ grad.contiguous(), None, None


class Truncation(nn.Module):
    """x_ref = Up(Down(x)): keeps what a coarse grid can hold (Lang et al. 2026, eq. 6), so that small scales cannot
    build up from step to step; constants pass unchanged.

    Args:
        section: the coarse grid and the weights. latitudes, longitudes: (G,) of the grid, degrees.

    Raises:
        ForecastError: an unknown grid, or weights that cannot be made between these two.
    """

    def __init__(self, section: Residual, grid: grids.Grid) -> None:
        super().__init__()
        coarse = grids.named(section.grid)
        up = "linear" if section.method == "conservative" else section.method
        self.down = SparseProduct(regrid.matrix(grid, coarse, section.method, section.neighbours, section.sigma))
        self.up = SparseProduct(regrid.matrix(coarse, grid, up, section.neighbours, section.sigma))

    def forward(self, x: Tensor) -> Tensor:
        """(..., G, V) -> (..., G, V)."""
        out: Tensor = self.up(self.down(x))
        return out
