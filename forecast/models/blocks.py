"""Transformer blocks as published (Lang et al. 2026): attention over edges or a window, then an MLP, norms before."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from forecast.models import edge_operators, sliding
from forecast.models.mlp import SlicedMLP
from forecast.models.noise import ConditionalLayerNorm


class HeadNorm(nn.Module):
    """Layer norm of each head's queries and keys, with a scale and no shift."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key = nn.Parameter(torch.ones(width)), nn.Parameter(torch.ones(width))

    def forward(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Normed (..., H, D) queries and keys."""
        shape = self.query.shape
        return functional.layer_norm(query, shape, self.query), functional.layer_norm(key, shape, self.key)


class Edges(nn.Module):
    """Edges into each target: where they come from, their features, and numbers of their own that are learnt.

    Args:
        edge_index: (2, E) sources and targets. features: (E, F). targets: their number N.
        trainable: learnt numbers per edge.

    Attributes:
        table: (N, K) sources, -1 behind the last one of a target that has fewer than K. width: of the features.
    """

    table: Tensor
    place: Tensor
    features: Tensor

    def __init__(self, edge_index: Tensor, features: Tensor, targets: int, trainable: int) -> None:
        super().__init__()
        degree = torch.bincount(edge_index[1], minlength=targets)
        by_target = torch.argsort(edge_index[1], stable=True)
        target = edge_index[1, by_target]
        slot = torch.arange(len(target)) - (degree.cumsum(0) - degree)[target]
        place = torch.full((targets, max(1, int(degree.max()))), len(target))  # the row behind the last edge is empty
        place[target, slot] = by_target
        table = torch.cat([edge_index[0], torch.tensor([-1])])[place]
        self.register_buffer("table", table, persistent=False)
        self.register_buffer("place", place, persistent=False)
        self.register_buffer("features", torch.cat([features, features.new_zeros(1, features.shape[1])])[place], False)
        self.learnt = nn.Parameter(torch.zeros(len(target), trainable)) if trainable else None
        self.width = features.shape[-1] + trainable

    def forward(self) -> Tensor:
        """(N, K, width); where there is no edge it does not matter."""
        if self.learnt is None:
            return self.features
        return torch.cat([self.features, functional.pad(self.learnt, (0, 0, 0, 1))[self.place]], dim=-1)


class EdgeAttention(nn.Module):
    """Each target attends to the sources of its edges, whose features enter keys and values; a linear self-connection.

    Args:
        width: of targets, sources and result, split over `heads`. qk_norm: norm queries and keys of each head.
    """

    def __init__(self, width: int, heads: int, edges: Edges, qk_norm: bool = False) -> None:
        super().__init__()
        self.heads, self.edges = heads, edges
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.self_connection, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.edge = nn.Linear(edges.width, width)
        self.norm = HeadNorm(width // heads) if qk_norm else None

    def forward(self, targets: Tensor, sources: Tensor | None = None) -> Tensor:
        """(B, N, width) from targets (B or a divisor of it, N, width) and sources (B, S, width).

        Fewer rows of targets serve several rows of sources each. Without sources the targets attend to each other.
        """
        sources = targets if sources is None else sources
        query = self.query(targets).unflatten(-1, (self.heads, -1))
        key_value = self.key_value(sources).unflatten(-1, (2, self.heads, -1))
        if self.norm is not None:
            query, key = self.norm(query, key_value[:, :, 0])
            key_value = torch.stack([key, key_value[:, :, 1]], dim=2)
        query = query * query.shape[-1] ** -0.5
        spread = self._spread()
        to_edge = (query.flatten(-2) @ spread).unflatten(-1, (self.heads, -1))
        rows = len(sources) // len(query)
        query, to_edge = (x.repeat_interleave(rows, dim=0) for x in (query, to_edge))
        values, mean = edge_operators.attend(query, to_edge, key_value, self.edges(), self.edges.table)
        own = self.out(self.self_connection(targets) + self.edge.bias)
        mixed = torch.cat([values.flatten(-2), mean.flatten(-2)], dim=-1)
        out = functional.linear(mixed, torch.cat([self.out.weight, self.out.weight @ spread], dim=1))
        return (out.unflatten(0, (len(own), rows)) + own[:, None]).flatten(0, 1)

    def _spread(self) -> Tensor:
        """(width, H * A): the edges' weights of each head, in blocks on the diagonal."""
        return torch.block_diag(*self.edge.weight.chunk(self.heads))


class WindowAttention(nn.Module):
    """Attention to the nodes up to `window` places before and behind in their order; no bias in query, key, value."""

    def __init__(self, width: int, heads: int, window: int, qk_norm: bool) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.norm = HeadNorm(width // heads) if qk_norm else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) -> (B, N, width)."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        if self.norm is not None:
            qkv = torch.stack([*self.norm(qkv[:, :, 0], qkv[:, :, 1]), qkv[:, :, 2]], dim=2)
        return self.out(sliding.attend(qkv, self.window).flatten(-2))


class MapperBlock(nn.Module):
    """Targets attend to sources along edges, then an MLP; both add to the targets."""

    def __init__(self, width: int, heads: int, hidden: int, edges: Edges) -> None:
        super().__init__()
        self.norm_targets, self.norm_sources = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = EdgeAttention(width, heads, edges)
        self.norm_mlp, self.mlp = nn.LayerNorm(width), SlicedMLP(width, hidden)

    def forward(self, targets: Tensor, sources: Tensor) -> Tensor:
        """(B, N, width) from targets (B or a divisor of it, N, width) and sources (B, S, width)."""
        changes = self.attention(self.norm_targets(targets), self.norm_sources(sources))
        x = (changes.unflatten(0, (len(targets), -1)) + targets[:, None]).flatten(0, 1)
        return x + self.mlp(self.norm_mlp(x))


class ProcessorBlock(nn.Module):
    """x += attention(CLN(x)); x += MLP(CLN(x)), the layer norms conditioned on noise."""

    def __init__(self, attention: nn.Module, width: int, hidden: int, condition: int) -> None:
        super().__init__()
        self.attention, self.mlp = attention, SlicedMLP(width, hidden)
        self.norm_attention = ConditionalLayerNorm(width, condition)
        self.norm_mlp = ConditionalLayerNorm(width, condition)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(B, N, width) -> (B, N, width); condition (B, N, C)."""
        x = x + self.attention(self.norm_attention(x, condition))
        return x + self.mlp(self.norm_mlp(x, condition))
