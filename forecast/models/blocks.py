"""Transformer blocks as published (Lang et al. 2026): attention over edges or a window, then an MLP, norms before."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from forecast.models import edge_operators, operators, sliding
from forecast.models.mlp import SlicedMLP
from forecast.models.noise import ConditionalLayerNorm


class HeadNorm(nn.Module):
    """Layer norm of each head's queries and keys, with a scale and no shift."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key = nn.Parameter(torch.ones(width)), nn.Parameter(torch.ones(width))

    def of(self, x: Tensor, weight: Tensor) -> Tensor:
        """Normed (..., H, D) queries or keys."""
        return functional.layer_norm(x, weight.shape, weight)

    def forward(self, qkv: Tensor) -> Tensor:
        """(B, N, 3, H, D) with normed queries and keys."""
        return operators.head_norm(qkv, self.query, self.key)


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
        """(B, N, width) from targets and sources (B, N or S, width), which are the targets where absent."""
        return self.answer(*self.ask(targets), targets if sources is None else sources)

    def ask(self, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What follows from targets (B, N, width) alone: queries of sources and edges, and the self-connection."""
        query = self.query(targets).unflatten(-1, (self.heads, -1))
        if self.norm is not None:
            query = self.norm.of(query, self.norm.query)
        query = query * query.shape[-1] ** -0.5
        to_edge = (query.flatten(-2) @ self._spread()).unflatten(-1, (self.heads, -1))
        return query, to_edge, self.out(self.self_connection(targets) + self.edge.bias)

    def answer(self, query: Tensor, to_edge: Tensor, own: Tensor, sources: Tensor) -> Tensor:
        """(B, N, width) from what targets ask and sources (B, S, width)."""
        key_value = self.key_value(sources).unflatten(-1, (2, self.heads, -1))
        if self.norm is not None:
            key, value = key_value.unbind(2)
            key_value = torch.stack([self.norm.of(key, self.norm.key), value], dim=2)
        values, mean = edge_operators.attend(query, to_edge, key_value, self.edges(), self.edges.table)
        out = own.flatten(0, 1).addmm(values.flatten(0, 1).flatten(1), self.out.weight.T)
        return out.addmm(mean.flatten(0, 1).flatten(1), (self.out.weight @ self._spread()).T).view(own.shape)

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
            qkv = self.norm(qkv)
        return self.out(sliding.attend(qkv, self.window).flatten(-2))


class MapperBlock(nn.Module):
    """Targets attend to sources along edges, then an MLP; both add to the targets."""

    def __init__(self, width: int, heads: int, hidden: int, edges: Edges) -> None:
        super().__init__()
        self.norm_targets, self.norm_sources = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = EdgeAttention(width, heads, edges)
        self.norm_mlp, self.mlp = nn.LayerNorm(width), SlicedMLP(width, hidden)

    def forward(self, targets: Tensor, sources: Tensor) -> Tensor:
        """(B, N, width) from targets (B or 1, N, width) and sources (B, S, width)."""
        query, to_edge, own = (part.expand(len(sources), *part.shape[1:]) for part in self.ask(targets))
        return self.answer(query, to_edge, own, sources)

    def ask(self, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What follows from targets (B, N, width) alone, the targets among it."""
        query, to_edge, own = self.attention.ask(self.norm_targets(targets))
        return query, to_edge, own + targets

    def answer(self, query: Tensor, to_edge: Tensor, own: Tensor, sources: Tensor) -> Tensor:
        """(B, N, width) from what targets ask and sources (B, S, width)."""
        x = self.attention.answer(query, to_edge, own, self.norm_sources(sources))
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
