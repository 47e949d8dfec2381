"""Encoder, processor layer and decoder of one width on grid and mesh, as published (Lang et al. 2026)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from forecast.core.model_sections import GraphTransformerSection
from forecast.models import graph as graphs
from forecast.models.attention import DenseAttention
from forecast.models.blocks import EdgeAttention, Edges, MapperBlock, ProcessorBlock, WindowAttention


class Places(nn.Module):
    """What is known of each node whatever the weather: where it is, and learnt numbers, (N, width)."""

    positions: Tensor

    def __init__(self, positions: Tensor, trainable: int) -> None:
        super().__init__()
        self.register_buffer("positions", positions, persistent=False)
        self.learnt = nn.Parameter(torch.zeros(len(positions), trainable))
        self.width = 3 + trainable

    def forward(self) -> Tensor:
        """(N, width)."""
        return torch.cat([self.positions, self.learnt], dim=-1)


class Encoder(nn.Module):
    """Grid states -> mesh nodes, each of which attends to the grid points around it."""

    def __init__(self, section: GraphTransformerSection, graph: HeteroData, inputs: int) -> None:
        super().__init__()
        width, trainable = section.width, section.trainable_features
        self.points, self.nodes = Places(graph["grid"].x, trainable), Places(graph["mesh"].x, trainable)
        self.embed_points = nn.Linear(inputs + self.points.width, width)
        self.embed_nodes = nn.Linear(self.nodes.width, width)
        edges = _edges(graph, graphs.ENCODER, section)
        self.block = MapperBlock(width, section.heads, int(width * section.mlp_ratio), edges)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What is known of grid points (B, G, D), and mesh nodes (B, N, width), from (B, G, inputs)."""
        points = torch.cat([x, self.points().expand(len(x), -1, -1)], dim=-1)
        return points, self.block(self.embed_nodes(self.nodes())[None], self.embed_points(points))


class ProcessorLayer(ProcessorBlock):
    """A block on the mesh, its attention as configured."""

    def __init__(self, section: GraphTransformerSection, graph: HeteroData) -> None:
        width = section.width
        attention: nn.Module
        if section.processor == "window":
            attention = WindowAttention(width, section.heads, section.window, section.qk_norm)
        elif section.processor == "dense":
            attention = DenseAttention(width, section.heads, graph["mesh"].x)
        else:
            edges = _edges(graph, graphs.PROCESSOR, section)
            attention = EdgeAttention(width, section.heads, edges, section.qk_norm)
        super().__init__(attention, width, int(width * section.mlp_ratio), section.noise_channels)


class Decoder(nn.Module):
    """Mesh features -> increments on the grid, each point of which attends to the mesh nodes around it."""

    def __init__(self, section: GraphTransformerSection, graph: HeteroData, inputs: int, outputs: int) -> None:
        super().__init__()
        width = self.hidden_width = section.width
        self.embed_points = nn.Linear(inputs + 3 + section.trainable_features, width)
        edges = _edges(graph, graphs.DECODER, section)
        self.block = MapperBlock(width, section.heads, int(width * section.mlp_ratio), edges)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def ask(self, points: Tensor) -> tuple[Tensor, ...]:
        """What follows from points (B, G, D) alone."""
        return self.block.ask(self.embed_points(points))

    def forward(self, query: Tensor, to_edge: Tensor, own: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """(B * M, G, outputs) and the features that the head reads, (B * M, G, width).

        From what points ask (B or B * M rows) and nodes (B * M, N, width).
        """
        members = len(nodes) // len(query)
        if members > 1:
            query, to_edge, own = (part.repeat_interleave(members, dim=0) for part in (query, to_edge, own))
        hidden = self.norm(self.block.answer(query, to_edge, own, nodes))
        return self.head(hidden), hidden


def _edges(graph: HeteroData, kind: tuple[str, str, str], section: GraphTransformerSection) -> Edges:
    return Edges(graph[kind].edge_index, graph[kind].edge_attr, graph[kind[2]].num_nodes, section.trainable_edges)
