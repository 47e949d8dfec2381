"""Encoder and decoder of a network whose processor works on the data's own points: a linear layer each, per point."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from forecast.core.model_sections import GraphTransformerSection
from forecast.models.full import Places, ProcessorLayer

__all__ = ["Decoder", "Encoder", "ProcessorLayer"]


class Encoder(nn.Module):
    """What is known of a point -> its features."""

    def __init__(self, section: GraphTransformerSection, graph: HeteroData, inputs: int) -> None:
        super().__init__()
        self.nodes = Places(graph["mesh"].x, section.trainable_features)
        self.embed = nn.Linear(inputs + self.nodes.width, section.width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x itself and (B, N, width) from x (B, N, inputs)."""
        return x, self.embed(torch.cat([x, self.nodes().expand(len(x), -1, -1)], dim=-1))


class Decoder(nn.Module):
    """Features -> increments, zero at the start."""

    def __init__(self, section: GraphTransformerSection, graph: HeteroData, inputs: int, outputs: int) -> None:
        super().__init__()
        self.hidden_width = section.width
        self.norm, self.head = nn.LayerNorm(section.width), nn.Linear(section.width, outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def ask(self, points: Tensor) -> tuple[Tensor, ...]:
        """What follows from points alone: nothing that the features do not hold."""
        return (points,)

    def forward(self, points: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """(B * M, G, outputs) and the features that the head reads, (B * M, G, width), from nodes (B * M, G, width)."""
        hidden = self.norm(nodes)
        return self.head(hidden), hidden
