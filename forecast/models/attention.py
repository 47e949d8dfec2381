"""Attention of the forecaster: over a fixed number of neighbours, and over all nodes of a mesh."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from forecast.models import operators
from forecast.models.graph import local_frame


class NeighbourAttention(nn.Module):
    """Each target attends to its K neighbours; geometry enters as a bias and a gate per edge and head.

    weight = softmax_k(q . k / sqrt(d) + bias(edge)) * (1 + gate(edge)); the gate may be below -1, so that a head can
    form a difference. Bias and gate depend on the geometry alone and are shared by samples and members.

    Args:
        target_width, source_width: features of the nodes. width: of queries, keys and values, split over `heads`.
        table: (N, K) sources of each target. edges: (N * K, 3) features.
        outputs: features of the result; target_width if absent.
    """

    table: Tensor
    edges: Tensor

    def __init__(
        self,
        target_width: int,
        source_width: int,
        width: int,
        heads: int,
        table: Tensor,
        edges: Tensor,
        outputs: int | None = None,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(target_width, width, bias=False)
        self.key_value = nn.Linear(source_width, 2 * width, bias=False)
        self.geometry = nn.Sequential(nn.Linear(edges.shape[1], 32), nn.GELU(), nn.Linear(32, 2 * heads))
        self.out = nn.Linear(width, outputs or target_width)
        self.register_buffer("table", table, persistent=False)
        self.register_buffer("edges", edges, persistent=False)
        self._frozen: tuple[Tensor, Tensor] | None = None

    def forward(self, targets: Tensor, sources: Tensor | None = None) -> Tensor:
        """(B, N, outputs) from targets (B or a divisor of it, N, target_width) and sources (B, S, source_width).

        Fewer rows of targets serve several rows of sources each. Without sources the targets attend to each other.
        """
        sources = targets if sources is None else sources
        query = self.query(targets).unflatten(-1, (self.heads, -1))
        query = (query * query.shape[-1] ** -0.5).repeat_interleave(len(sources) // len(query), dim=0)
        key_value = self.key_value(sources).unflatten(-1, (2, self.heads, -1))
        bias, gate = self._frozen or self._bias_and_gate()
        return self.out(operators.attend(query, key_value, bias, gate, self.table).flatten(-2))

    def freeze(self) -> None:
        """Compute what geometry contributes once and for all; for weights that stay as they are, on their device."""
        with torch.no_grad():
            self._frozen = self._bias_and_gate()

    def _bias_and_gate(self) -> tuple[Tensor, Tensor]:
        """(N, H, K) each."""
        bias, gate = self.geometry(self.edges).unflatten(0, self.table.shape).movedim(1, -1).chunk(2, dim=1)
        return bias.contiguous(), (1 + gate).contiguous()

    def weights(self, x: Tensor, targets: Tensor) -> Tensor:
        """(B, H, T, K) attention, before the gate, of the nodes `targets` (T,) to their neighbours in (B, N, width)."""
        table = self.table[targets]
        query = self.query(x[:, targets]).unflatten(-1, (self.heads, -1))
        key = self.key_value(x).unflatten(-1, (2, self.heads, -1))[:, :, 0][:, table]
        bias = self.geometry(self.edges).unflatten(0, self.table.shape)[targets, :, : self.heads]
        scores = torch.einsum("bthd,btkhd->bhtk", query, key) * query.shape[-1] ** -0.5
        return (scores.float() + bias.permute(2, 0, 1)).softmax(dim=-1)


class DenseAttention(nn.Module):
    """Attention of every node to every node; each head looks at a place relative to the node that it learns.

    Beside content, query and key carry geometry: the keys hold the nodes' unit vectors x, the queries
    range * (x + shift in the local frame), so that exp(q . k) is a von Mises-Fisher kernel around a shifted place.
    Ranges start spread from the mesh spacing to the globe, shifts in all directions; both depend on the node's state.
    """

    frame: Tensor

    def __init__(self, width: int, heads: int, positions: Tensor) -> None:
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.place = nn.Linear(width, 3 * heads)
        self.out = nn.Linear(width, width)
        self.register_buffer("frame", local_frame(positions), persistent=False)
        self._start(len(positions))

    def _start(self, nodes: int) -> None:
        """Head ranges from two mesh spacings to the globe, shifts all round by about one range."""
        spacing = (4 * torch.pi / nodes) ** 0.5
        reach = torch.logspace(0, 1, self.heads) * 1.5 * spacing
        angle = torch.arange(self.heads) * 2.4
        with torch.no_grad():
            self.place.weight.zero_()
            self.place.bias.copy_(torch.stack([1 / reach, 0.7 * angle.cos(), 0.7 * angle.sin()], dim=-1).flatten())

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) -> (B, N, width)."""
        query, key, v = self._query_key_value(x)
        mixed = functional.scaled_dot_product_attention(query, key, v, scale=1.0)
        return self.out(mixed.transpose(1, 2).reshape(x.shape))

    def weights(self, x: Tensor, targets: Tensor) -> Tensor:
        """(B, H, T, N) attention of the nodes `targets` (T,) to all, in (B, N, width)."""
        query, key, _ = self._query_key_value(x)
        return (query[:, :, targets] @ key.transpose(-1, -2)).float().softmax(dim=-1)

    def _query_key_value(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, H, N, d), content and place."""
        batch, nodes, _ = x.shape
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, self.head_width)).unbind(2)
        sharp, east, north = self.place(x).unflatten(-1, (self.heads, 3)).float().unbind(-1)
        place = torch.stack([sharp**2, sharp * east, sharp * north], dim=-1)  # (B, N, H, 3) in the node's frame
        towards = torch.einsum("bnhf,nfx->bnhx", place, self.frame)
        here = self.frame[:, 0].expand(batch, self.heads, nodes, 3)
        scale = self.head_width**-0.5
        query = torch.cat([q * scale, towards.to(q.dtype)], dim=-1).transpose(1, 2)
        key = torch.cat([k, here.transpose(1, 2).to(k.dtype)], dim=-1).transpose(1, 2)
        return query, key, v.transpose(1, 2)


def attention_layers(network: nn.Module) -> list[NeighbourAttention | DenseAttention]:
    """The attention of a network's processor, layer by layer; none of a network that has no such layers."""
    layers = [getattr(layer, "attention", None) for layer in getattr(network, "layers", ())]
    return [layer for layer in layers if isinstance(layer, NeighbourAttention | DenseAttention)]


@contextmanager
def attention_of(network: nn.Module, targets: int) -> Iterator[list[Tensor]]:
    """A list that gets each processor layer's attention (B, H, T, S) of T nodes while the network runs inside."""
    found: list[Tensor] = []

    def keep(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        nodes = given[0].shape[1]
        picked = torch.linspace(0, nodes - 1, min(targets, nodes), device=given[0].device).round().long()
        assert isinstance(layer, NeighbourAttention | DenseAttention)
        found.append(layer.weights(given[0], picked))

    hooks = [layer.register_forward_pre_hook(keep) for layer in attention_layers(network)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
