"""Attention over edges that carry features, with gradients: on the CPU loops that copy nothing, elsewhere torch.

Keys and values of an edge are those of its source plus a linear function E e of its features e, as in the transformer
convolution of Shi et al. (2021). It is never formed: q . (k + E e) = q . k + (E' q) . e, and the sum of w (v + E e) is
the sum of w v plus E times the sum of w e. So an edge costs its few features, not a vector of the network's width, and
the features are shared by samples and members.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from forecast.models import edge_kernels, kernels
from forecast.models.operators import arrays, plain
from forecast.models.recompute import kept


def attend(query: Tensor, to_edge: Tensor, key_value: Tensor, edges: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """Attention of each target to the sources of its edges: mean values (B, N, H, D) and mean edges (B, N, H, A).

    Weights are softmax_k(query . key_k + to_edge . edge_k). Nothing comes of a target without edges.

    Args:
        query: (B, N, H, D), scaled. to_edge: (B, N, H, A), scaled. key_value: (B, S, 2, H, D). edges: (N, K, A).
        table: (N, K) sources, -1 behind the last one of a target that has fewer than K.
    """
    out, mean, _ = _attend(*plain(query, to_edge, key_value, edges), table)
    return out, mean


@torch.library.custom_op("forecast::attend_edges", mutates_args=())
@kept
def _attend(
    query: Tensor, to_edge: Tensor, key_value: Tensor, edges: Tensor, table: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One edge of every target at a time, so that no copy of all sources is made; also the softmax (B, N, H, K)."""
    there, near = (table >= 0)[:, None, :], table.clamp_min(0).unbind(1)
    score = torch.stack([(query * key_value[:, sources, 0]).sum(-1) for sources in near], dim=-1)
    score = score + torch.einsum("bnha,nka->bnhk", to_edge, edges)
    weight = score.masked_fill(~there, -torch.inf).softmax(dim=-1).nan_to_num(0.0)
    out = torch.zeros_like(query)
    for share, sources in zip(weight.unbind(-1), near, strict=True):
        out += share[..., None] * key_value[:, sources, 1]
    return out, torch.einsum("bnhk,nka->bnha", weight, edges), weight


@torch.library.custom_op("forecast::attend_edges_backward", mutates_args=())
def _attend_backward(
    grad: Tensor, grad_mean: Tensor, query: Tensor, to_edge: Tensor, key_value: Tensor, weight: Tensor, edges: Tensor,
    table: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    near = table.clamp_min(0).unbind(1)
    through = torch.stack([(grad * key_value[:, sources, 1]).sum(-1) for sources in near], dim=-1)
    through = through + torch.einsum("bnha,nka->bnhk", grad_mean, edges)
    to_score = weight * (through - (weight * through).sum(-1, keepdim=True))
    to_query, to_key_value = torch.zeros_like(query), torch.zeros_like(key_value)
    for k, sources in enumerate(near):
        s, w = to_score[..., k, None], weight[..., k, None]
        to_query += s * key_value[:, sources, 0]
        to_key_value.index_add_(1, sources, torch.stack([s * query, w * grad], dim=2))
    to_edges = torch.einsum("bnhk,bnha->nka", to_score, to_edge) + torch.einsum("bnhk,bnha->nka", weight, grad_mean)
    return to_query, torch.einsum("bnhk,nka->bnha", to_score, edges), to_key_value, to_edges


def _whole(query: Tensor, edges: Tensor, table: Tensor) -> list[Any]:
    """What loops share between rows: edges, their table, and tuples as long as a head and as an edge's features."""
    return [*arrays(edges, table), (0,) * query.shape[-1], (0,) * edges.shape[-1]]


@_attend.register_kernel("cpu")
@kept
def _(query: Tensor, to_edge: Tensor, key_value: Tensor, edges: Tensor, table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    out, mean = torch.empty(query.shape), torch.empty(to_edge.shape)
    weight = torch.empty(*query.shape[:3], table.shape[1])
    rows = [*arrays(query, to_edge, key_value), weight.numpy(), out.numpy(), mean.numpy()]
    kernels.over_rows(edge_kernels.attend, rows, _whole(query, edges, table))
    return out, mean, weight


@_attend_backward.register_kernel("cpu")
def _(
    grad: Tensor, grad_mean: Tensor, query: Tensor, to_edge: Tensor, key_value: Tensor, weight: Tensor, edges: Tensor,
    table: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    slopes = [torch.empty(x.shape) for x in (query, to_edge, key_value)]
    rows = [*arrays(grad, grad_mean, query, to_edge, key_value, weight), *(slope.numpy() for slope in slopes)]
    parts = kernels.over_rows(edge_kernels.attend_backward, rows, _whole(query, edges, table))
    return slopes[0], slopes[1], slopes[2], torch.from_numpy(sum(parts))


@_attend.register_fake
def _(query: Tensor, to_edge: Tensor, key_value: Tensor, edges: Tensor, table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(query), torch.empty_like(to_edge), query.new_empty(*query.shape[:3], table.shape[1])


@_attend_backward.register_fake
def _(
    grad: Tensor, grad_mean: Tensor, query: Tensor, to_edge: Tensor, key_value: Tensor, weight: Tensor, edges: Tensor,
    table: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return tuple(torch.empty_like(x) for x in (query, to_edge, key_value, edges))  # type: ignore[return-value]


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    query, to_edge, key_value, edges, table = inputs
    ctx.save_for_backward(query, to_edge, key_value, output[2], edges, table)
    ctx.mark_non_differentiable(output[2])


def _gradient(ctx: Any, grad: Tensor, grad_mean: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    return *_attend_backward(grad.contiguous(), grad_mean.contiguous(), *ctx.saved_tensors), None


_attend.register_autograd(_gradient, setup_context=_keep)
