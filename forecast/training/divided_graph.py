"""A graph transformer on the grid axis: each process has a run of grid points, one of mesh nodes, and edges into them.

What an attention needs of other processes' nodes is fetched before it: sources of edges (a halo), a window's nodes to
each side, or keys and values of all nodes for dense attention. All else is row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from forecast.models import compact, direct, full
from forecast.models.attention import DenseAttention, NeighbourAttention
from forecast.models.blocks import EdgeAttention, WindowAttention
from forecast.models.graph_forecaster import GraphForecaster
from forecast.models.harmonic import HarmonicLayer, Waves
from forecast.models.residual import SparseProduct
from forecast.training import exchange
from forecast.training.exchange import Move, ranges
from forecast.training.mesh import Axis
from forecast.training.sharing import Part, become, rows


def divide(model: GraphForecaster, part: Part) -> None:
    """Leave of the network what belongs to this process's nodes."""
    axis, network = part.mesh.grid, model.network
    channels, parts, points = network.noise_shape[1], list(part.nodes), list(part.points)
    mine = parts[axis.rank]
    _encoder(axis, network.encoder, points, parts)
    for layer in network.layers:
        if isinstance(layer, HarmonicLayer):
            divide_waves(axis, layer.waves, parts)
        else:
            _attention(axis, cast(Any, layer).attention, parts, parts)
    decoder = network.decoder
    if isinstance(decoder, compact.Decoder):
        _attention(axis, decoder.attention, points, parts)
    elif isinstance(decoder, full.Decoder):
        _attention(axis, decoder.block.attention, points, parts)
    part.noise = [slice(mine.start * channels, mine.stop * channels)], (mine.stop - mine.start, channels)
    if model.truncation is not None:
        coarse = axis.parts(model.truncation.down.shapes[0][0])
        model.truncation.down = Divided(axis, model.truncation.down, coarse, points)
        model.truncation.up = Divided(axis, model.truncation.up, points, coarse)


def _encoder(axis: Axis, encoder: nn.Module, points: Any, nodes: Any) -> None:
    here, mine = points[axis.rank], nodes[axis.rank]
    if isinstance(encoder, direct.Encoder):
        rows(encoder.nodes, "learnt", mine)
        encoder.nodes.positions = encoder.nodes.positions[mine].clone()
        return
    if isinstance(encoder, compact.Encoder):
        rows(encoder, "points", here)
        rows(encoder, "nodes", mine)
        encoder.positions = encoder.positions[mine].clone()
        _attention(axis, encoder.attention, nodes, points)
        return
    assert isinstance(encoder, full.Encoder)
    for places, own in ((encoder.points, here), (encoder.nodes, mine)):
        rows(places, "learnt", own)
        places.positions = places.positions[own].clone()
    _attention(axis, encoder.block.attention, nodes, points)


def _attention(axis: Axis, attention: Any, targets: list[slice], sources: list[slice]) -> None:
    """Let an attention give its targets here, from sources of which only some are here."""
    if isinstance(attention, DenseAttention):
        become(attention, _AllKeys)
        cast(_AllKeys, attention).among = axis, [part.stop - part.start for part in sources]
        attention.frame = attention.frame[targets[axis.rank]].clone()
    elif isinstance(attention, WindowAttention):
        _window(axis, attention, sources)
    elif isinstance(attention, NeighbourAttention):
        width = attention.edges.shape[-1]
        every = attention.edges.view(-1, attention.table.shape[1], width)
        attention.edges = every[targets[axis.rank]].flatten(0, 1).clone()
        attention.table = _edges(axis, attention, attention.table, targets, sources)
    else:
        assert isinstance(attention, EdgeAttention)
        for name in ("place", "features"):
            setattr(attention.edges, name, getattr(attention.edges, name)[targets[axis.rank]].clone())
        attention.edges.table = _edges(axis, attention, attention.edges.table, targets, sources)


def _edges(axis: Axis, attention: Any, table: Tensor, targets: list[slice], sources: list[slice]) -> Tensor:
    """Fetch the sources of edges before their keys and values are made; returns the table of their places there."""
    wanted = [np.unique(table[part].numpy()) for part in targets]
    wanted = [needed[needed >= 0] for needed in wanted]
    fetch, here = Move(axis, ranges(sources), wanted), table[targets[axis.rank]].numpy()
    places = np.where(here < 0, -1, np.searchsorted(wanted[axis.rank], here))
    _before(attention.key_value, fetch)
    return torch.from_numpy(places)


def _window(axis: Axis, attention: WindowAttention, parts: list[slice]) -> None:
    """Fetch the nodes within reach on both sides, and drop what was computed of them."""
    last = parts[-1].stop
    reach = [slice(max(p.start - attention.window, 0), min(p.stop + attention.window, last)) for p in parts]
    mine, seen = parts[axis.rank], reach[axis.rank]
    own = slice(mine.start - seen.start, mine.stop - seen.start)
    _before(attention, Move(axis, ranges(parts), ranges(reach)))
    attention.register_forward_hook(lambda _, given, out: out[:, own])


def divide_waves(axis: Axis, waves: Waves, parts: Sequence[slice | np.ndarray]) -> None:
    """Coefficients of the nodes here, whose sum over processes is filtered, and fields at the nodes here."""
    if isinstance(waves, _SharedWaves):  # of another layer
        return
    become(waves, _SharedWaves)
    cast(_SharedWaves, waves).axis = axis
    here = parts[axis.rank]
    for half in ("", "_half"):
        analysis, synthesis = waves.get_buffer(f"analysis{half}"), waves.get_buffer(f"synthesis{half}")
        setattr(waves, f"analysis{half}", analysis[:, here].clone())
        setattr(waves, f"synthesis{half}", synthesis.unflatten(0, (3, -1))[:, here].flatten(0, 1).clone())


def _before(module: nn.Module, fetch: Move) -> None:
    module.fetch = fetch
    module.register_forward_pre_hook(lambda _, given: (fetch(given[0]), *given[1:]))


class _AllKeys(DenseAttention):
    """Queries of the nodes here, keys and values of all."""

    among: tuple[Axis, list[int]]

    def _query_key_value(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = super()._query_key_value(x)
        axis, lengths = self.among
        return query, exchange.gather(axis, key, 2, lengths), exchange.gather(axis, value, 2, lengths)


class _SharedWaves(Waves):
    """Harmonics of nodes of which some are here."""

    axis: Axis

    def _all(self, coefficients: Tensor) -> Tensor:
        return exchange.total(self.axis, coefficients)


class Divided(SparseProduct):
    """The rows of a product that are here; columns are fetched from those that have them."""

    def __init__(self, axis: Axis, whole: SparseProduct, targets: list[slice], sources: list[slice]) -> None:
        arrays = [getattr(whole, name).numpy() for name in ("values", "columns", "rows")]
        matrix = sparse.csr_array(tuple(arrays), shape=whole.shapes[0])
        wanted = [np.unique(matrix[part].indices) for part in targets]
        super().__init__(matrix[targets[axis.rank]][:, wanted[axis.rank]])
        self.fetch = Move(axis, ranges(sources), wanted)

    def forward(self, x: Tensor) -> Tensor:
        """(..., t, V) from (..., s, V), of the rows that are here."""
        return super().forward(self.fetch(x.float()))
