"""Blocks as published, against plain formulas."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from forecast.models import edge_operators, mlp, operators
from forecast.models.blocks import EdgeAttention, Edges
from forecast.models.mlp import MIDDLE, SlicedMLP


@pytest.fixture
def graph():
    """Sources and targets of edges, features, of 7 targets (one without edges, in no order) and 9 sources."""
    generator = torch.Generator().manual_seed(1)
    targets = torch.tensor([0, 0, 0, 1, 1, 2, 4, 4, 4, 4, 5, 6, 6])[torch.randperm(13, generator=generator)]
    sources = torch.randint(0, 9, (13,), generator=generator)
    return torch.stack([sources, targets]), torch.randn(13, 3, generator=generator)


def by_edges(module, targets, sources, edge_index, features):
    """Shi et al. 2021, an edge at a time: keys and values of the source plus the projected edge."""
    heads, rows = module.heads, len(sources)
    q = module.query(targets).unflatten(-1, (heads, -1)).expand(rows, -1, -1, -1)
    k, v = module.key_value(sources).unflatten(-1, (2, heads, -1)).unbind(2)
    if module.norm is not None:
        q, k = module.norm.of(q, module.norm.query), module.norm.of(k, module.norm.key)
    e = module.edge(features).unflatten(-1, (heads, -1))
    out = torch.zeros_like(q)
    for n in range(targets.shape[1]):
        mine = (edge_index[1] == n).nonzero().flatten()
        if len(mine):
            near = edge_index[0, mine]
            weight = ((q[:, n, None] * (k[:, near] + e[mine])).sum(-1) * q.shape[-1] ** -0.5).softmax(dim=1)
            out[:, n] = (weight[..., None] * (v[:, near] + e[mine])).sum(1)
    return out.flatten(-2)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_edge_attention_is_the_transformer_convolution(graph, qk_norm):
    torch.manual_seed(0)
    edge_index, features = graph
    module = EdgeAttention(16, 2, Edges(edge_index, features, 7, trainable=2), qk_norm)
    nn.init.normal_(module.edges.learnt)
    targets, sources = torch.randn(1, 7, 16), torch.randn(3, 9, 16)
    whole = torch.cat([features, module.edges.learnt], dim=1)
    mixed = by_edges(module, targets, sources, edge_index, whole)
    mixed[:, 3] += module.edge.bias  # a target without edges keeps the bias alone
    expected = module.out(mixed + module.self_connection(targets))
    found = module.answer(*(part.expand(3, *part.shape[1:]) for part in module.ask(targets)), sources)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    parameters = [p for name, p in module.named_parameters() if name != "key_value.bias"]  # of keys: no gradient
    for a, b in zip(*(torch.autograd.grad(x.square().sum(), parameters) for x in (found, expected)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_loops_and_torch_agree(graph):
    """The CPU's kernels against the formulas that other devices run, value and gradient."""
    torch.manual_seed(0)
    table = Edges(*graph, 7, 0).table
    shapes = [(2, 7, 3, 4), (2, 7, 3, 5), (2, 9, 2, 3, 4), (*table.shape, 5)]
    inputs = [torch.randn(shape) for shape in shapes]
    found, expected = (f(*inputs, table) for f in (edge_operators._attend, edge_operators._attend._init_fn))
    grads = [torch.randn_like(x) for x in found[:2]]
    given = (*grads, *inputs[:3], found[2], inputs[3], table)
    back, slow = (f(*given) for f in (edge_operators._attend_backward, edge_operators._attend_backward._init_fn))
    there = (table >= 0)[..., None]
    for a, b in zip((*found, *back), (*expected, *slow), strict=True):
        a, b = (x * there if x.shape[:2] == table.shape else x for x in (a, b))
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_sliced_mlp_is_the_plain_one():
    torch.manual_seed(0)
    sliced = SlicedMLP(8, 1024)
    x = torch.randn(2, MIDDLE["cpu"] // 1024 + 5, 8, requires_grad=True)
    plain = functional.linear(functional.gelu(sliced.inner(x)), sliced.outer.weight, sliced.outer.bias)
    found, given = sliced(x), [x, *sliced.parameters()]
    torch.testing.assert_close(found, plain, atol=1e-5, rtol=1e-5)
    for a, b in zip(*(torch.autograd.grad(y.square().mean(), given) for y in (found, plain)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert sliced(x).dtype == torch.bfloat16


def test_gelu_and_its_slope_are_torchs():
    """Loops that take sixteen numbers at once, with a rest; far out on both sides, at zero and at what is no number."""
    x = torch.cat([torch.linspace(-30, 30, 997), torch.tensor([0.0, torch.nan, 1e4, -1e4])])[None]
    slope, given = torch.randn(x.shape), x.clone().requires_grad_()
    expected = functional.gelu(given)
    expected.backward(slope)
    found, alone = (x.clone() for _ in range(2))
    mlp._fused_gelu_backward(found, slope)
    mlp._fused_gelu(alone)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6, equal_nan=True)
    torch.testing.assert_close(slope, given.grad, atol=1e-6, rtol=1e-6, equal_nan=True)
    assert torch.equal(alone.nan_to_num(), found.nan_to_num())


def test_head_norm_norms_queries_and_keys():
    torch.manual_seed(0)
    qkv, query, key = torch.randn(2, 5, 3, 2, 8, requires_grad=True), torch.rand(8) + 0.5, torch.rand(8) + 0.5
    given = [qkv, query.requires_grad_(), key.requires_grad_()]
    normed = [functional.layer_norm(qkv[:, :, i], (8,), weight) for i, weight in enumerate((query, key))]
    expected, found = torch.stack([*normed, qkv[:, :, 2]], dim=2), operators.head_norm(*given)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    grad = torch.randn_like(expected)
    back = [torch.autograd.grad(x, given, grad) for x in (found, expected)]
    for a, b in zip(*back, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    rows, weight = qkv.detach().flatten(0, 1), torch.stack([query, key]).detach()
    plain = operators._head_norm._init_fn(rows, weight)
    torch.testing.assert_close(plain[0].view(qkv.shape), expected, atol=1e-6, rtol=1e-5)
    slow = operators._head_norm_backward._init_fn(grad.flatten(0, 1), rows, plain[1], weight)
    torch.testing.assert_close(slow[0].view(qkv.shape), back[1][0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(slow[1], torch.stack(back[1][1:]), atol=1e-5, rtol=1e-4)
