"""Encoder, processor layer and decoder whose grid points have few features: most nodes are there."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from forecast.core.model_sections import GraphTransformerSection
from forecast.models import graph as graphs
from forecast.models.attention import DenseAttention, NeighbourAttention
from forecast.models.blocks import WindowAttention
from forecast.models.noise import ConditionalLayerNorm


def mlp(width: int, hidden: int) -> nn.Sequential:
    """Linear, GELU, linear."""
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


class Encoder(nn.Module):
    """Grid states -> features of grid points and mesh nodes; each mesh node attends to the grid points around it."""

    def __init__(self, section: GraphTransformerSection, graph: HeteroData, inputs: int) -> None:
        super().__init__()
        width, wide = section.grid_width, section.width
        self.embed = nn.Linear(inputs, width)
        self.points = nn.Parameter(torch.zeros(graph["grid"].num_nodes, width))
        self.nodes = nn.Parameter(torch.zeros(graph["mesh"].num_nodes, section.trainable_features))
        self.positions: Tensor
        self.register_buffer("positions", graph["mesh"].x, persistent=False)
        self.embed_nodes = nn.Linear(3 + section.trainable_features, wide)
        self.norm, self.norm_nodes, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(wide), nn.LayerNorm(wide)
        table, edges = graphs.table(graph, graphs.ENCODER), graph[graphs.ENCODER].edge_attr
        self.attention = NeighbourAttention(wide, width, wide, section.heads, table, edges)
        self.mlp = mlp(wide, int(wide * section.mlp_ratio))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, G, grid_width) and (B, N, width) from (B, G, inputs)."""
        points = nn.functional.gelu(self.embed(x) + self.points)
        nodes = self.embed_nodes(torch.cat([self.positions, self.nodes], dim=-1))[None]
        nodes = nodes + self.attention(self.norm_nodes(nodes), self.norm(points))
        return points, nodes + self.mlp(self.norm_mlp(nodes))


class ProcessorLayer(nn.Module):
    """x += attention(CLN(x)); x += MLP(CLN(x)), the layer norms conditioned on noise."""

    def __init__(self, section: GraphTransformerSection, graph: HeteroData) -> None:
        super().__init__()
        width = section.width
        self.attention: DenseAttention | NeighbourAttention | WindowAttention
        if section.processor == "window":
            self.attention = WindowAttention(width, section.heads, section.window, section.qk_norm)
        elif section.processor == "dense":
            self.attention = DenseAttention(width, section.heads, graph["mesh"].x)
        else:
            table, edges = graphs.table(graph, graphs.PROCESSOR), graph[graphs.PROCESSOR].edge_attr
            self.attention = NeighbourAttention(width, width, width, section.heads, table, edges)
        self.norm_attention = ConditionalLayerNorm(width, section.noise_channels)
        self.norm_mlp = ConditionalLayerNorm(width, section.noise_channels)
        self.mlp = mlp(width, int(width * section.mlp_ratio))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(B, N, width) -> (B, N, width); condition (B, N, C)."""
        normed = self.norm_attention(x, condition)
        x = x + self.attention(normed)
        return x + self.mlp(self.norm_mlp(x, condition))


class Decoder(nn.Module):
    """Mesh features -> increments on the grid; each grid point attends to the mesh nodes around it."""

    def __init__(self, section: GraphTransformerSection, graph: HeteroData, inputs: int, outputs: int) -> None:
        super().__init__()
        width, wide = section.grid_width, section.width
        self.hidden_width = 2 * width
        self.norm, self.norm_points = nn.LayerNorm(wide), nn.LayerNorm(width)
        table, edges = graphs.table(graph, graphs.DECODER), graph[graphs.DECODER].edge_attr
        self.attention = NeighbourAttention(width, wide, width, section.grid_heads, table, edges, outputs=2 * width)
        self.skip = nn.Linear(width, 2 * width, bias=False)
        self.head = nn.Linear(2 * width, outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def ask(self, points: Tensor) -> tuple[Tensor, ...]:
        """What follows from points (B, G, grid_width) alone."""
        return (points,)

    def forward(self, points: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """(B * M, G, outputs) and the features that the head reads, (B * M, G, 2 grid_width).

        From points (B or B * M, G, grid_width) and nodes (B * M, N, width).
        """
        points = self.norm_points(points)
        hidden = self.attention(points, self.norm(nodes)).unflatten(0, (len(points), -1)) + self.skip(points)[:, None]
        hidden = nn.functional.gelu(hidden.flatten(0, 1))
        return self.head(hidden), hidden
