"""Whole ensembles on the whole grid, of some samples on each process: what scores and terms of whole fields take."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from forecast.training import exchange
from forecast.training.mesh import Axis, Mesh

Held = Sequence[Sequence[int]]
"""the members that each process of the ensemble axis computes"""


def everyone(axis: Axis, x: Tensor, held: Held, into: int, parts: Sequence[slice]) -> Tensor:
    """All members, in their order, for this process's part of dimension `into`; x is (B, m, ...)."""
    found = exchange.share(axis, x, 1, [len(each) for each in held], into, parts)
    order = torch.tensor([member for each in held for member in each]).argsort()
    return found if order.equal(torch.arange(len(order))) else found.index_select(1, order.to(found.device))


class Samples:
    """The share of a batch's samples that this process of an ensemble x grid is given whole.

    Args:
        points, nodes: of each process of the grid axis. held: members of each of the ensemble axis. samples: in number.

    Attributes:
        mine: of the batch's samples, those that are given here; none where there are fewer than processes.
    """

    def __init__(self, mesh: Mesh, points: Sequence[slice], nodes: Sequence[slice], held: Held, samples: int) -> None:
        self._points, self._nodes = points, nodes
        self._ensemble, self._grid, self._held = mesh.ensemble, mesh.grid, held
        shares = Axis(size=mesh.ensemble.size * mesh.grid.size).parts(samples)
        rows = [shares[e * mesh.grid.size : (e + 1) * mesh.grid.size] for e in range(mesh.ensemble.size)]
        self._outer = [slice(row[0].start, row[-1].stop) for row in rows]
        begin = self._outer[mesh.ensemble.rank].start
        self._inner = [slice(s.start - begin, s.stop - begin) for s in rows[mesh.ensemble.rank]]
        self.mine = rows[mesh.ensemble.rank][mesh.grid.rank]
        self.part = (self.mine.stop - self.mine.start) / samples
        """of the samples"""

    def members(self, x: Tensor) -> Tensor:
        """(b, M, G, D) from (B, m, g, D)."""
        return self._joined(self._everyone(x), 2, self._points)

    def latents(self, x: Tensor) -> Tensor:
        """(b, M, N, D) from (B, m, n, D)."""
        return self._joined(self._everyone(x), 2, self._nodes)

    def fields(self, x: Tensor) -> Tensor:
        """(b, G, D) from (B, g, D), which all processes of the ensemble axis hold."""
        return self._joined(x[self._outer[self._ensemble.rank]], 1, self._points)

    def _everyone(self, x: Tensor) -> Tensor:
        return everyone(self._ensemble, x, self._held, 0, self._outer)

    def _joined(self, x: Tensor, dim: int, parts: Sequence[slice]) -> Tensor:
        return exchange.share(self._grid, x, dim, [part.stop - part.start for part in parts], 0, self._inner)
