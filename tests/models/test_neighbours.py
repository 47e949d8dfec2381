import pytest
import torch

from forecast.models import neighbours
from forecast.models.attention import DenseAttention, NeighbourAttention
from forecast.models.graph import icosphere

ROWS, TARGETS, SOURCES, NEIGHBOURS, HEADS, WIDTH = 3, 20, 15, 5, 2, 4


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    table = torch.randint(0, SOURCES, (TARGETS, NEIGHBOURS), generator=generator)
    query = torch.randn(ROWS, TARGETS, HEADS, WIDTH, generator=generator)
    key = torch.randn(ROWS, SOURCES, HEADS, WIDTH, generator=generator)
    weight = torch.randn(ROWS, TARGETS, HEADS, NEIGHBOURS, generator=generator)
    return table, query, key, weight


def reference_dot(query, key, table):
    return torch.einsum("bnhd,bnkhd->bnhk", query, key[:, table])


def reference_mix(weight, value, table):
    return torch.einsum("bnhk,bnkhd->bnhd", weight, value[:, table])


@pytest.mark.parametrize("threads", [1, 2])
def test_values_and_gradients_equal_gathering(tensors, threads):
    table, query, key, weight = tensors
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for ours, theirs, left in ((neighbours.dot, reference_dot, query), (neighbours.mix, reference_mix, weight)):
            leaves = left.clone().requires_grad_(), key.clone().requires_grad_()
            a, b = ours(*leaves, table), theirs(*leaves, table)
            torch.testing.assert_close(a, b)
            cotangent = torch.randn_like(a)
            torch.testing.assert_close(
                torch.autograd.grad(a, leaves, cotangent), torch.autograd.grad(b, leaves, cotangent)
            )
    finally:
        torch.set_num_threads(before)


def test_loops_over_neighbours_equal_loops_over_nodes(tensors):
    """What other devices run, run here."""
    table, query, key, weight = tensors
    for op, arguments in (
        (neighbours.dot, (query, key, table)),
        (neighbours.mix, (weight, key, table)),
        (neighbours.spread, (weight, query, table, SOURCES)),
    ):
        torch.testing.assert_close(op._init_fn(*arguments), op(*arguments))


def test_operators_are_fit_for_tracing(tensors):
    table, query, key, weight = tensors
    leaves = [t.requires_grad_() for t in (query, key, weight)]
    for op, left in ((neighbours.dot, leaves[0]), (neighbours.mix, leaves[2])):
        torch.library.opcheck(op, (left, leaves[1], table))


def test_attention_is_softmax_over_neighbours(tensors):
    table = tensors[0]
    torch.manual_seed(1)
    attention = NeighbourAttention(6, 7, 8, 2, table, torch.randn(table.numel(), 3))
    targets, sources = torch.randn(ROWS, TARGETS, 6), torch.randn(ROWS, SOURCES, 7)
    query = attention.query(targets).unflatten(-1, (2, 4))
    key, value = (t.unflatten(-1, (2, 4))[:, table] for t in attention.key_value(sources).chunk(2, dim=-1))
    geometry = attention.geometry(attention.edges).unflatten(0, table.shape)  # (N, K, 2 H)
    score = torch.einsum("bnhd,bnkhd->bnkh", query, key) / 2 + geometry[..., :2]
    weight = score.softmax(dim=2) * (1 + geometry[..., 2:])
    expected = attention.out(torch.einsum("bnkh,bnkhd->bnhd", weight, value).flatten(-2))
    torch.testing.assert_close(attention(targets, sources), expected)


def test_dense_attention_starts_around_the_node():
    """With content switched off each head averages over a neighbourhood; a sharp head sees mostly its own place."""
    positions = torch.tensor(icosphere(2)[-1], dtype=torch.float32)
    attention = DenseAttention(8, 2, positions)
    with torch.no_grad():
        attention.qkv.weight[:16] = 0  # queries and keys
        attention.qkv.weight[16:] = torch.eye(8)
        attention.out.weight.copy_(torch.eye(8))
        attention.out.bias.zero_()
        attention.place.bias[1:3] = 0  # no shift of the first head
    x = torch.zeros(1, 162, 8)
    x[0, 5, 0] = 1.0
    seen = attention(x)[0, :, 0]
    kernel = torch.softmax(positions @ positions.T / attention.place.bias[0].item() ** -2, dim=1)[:, 5]
    torch.testing.assert_close(seen, kernel, atol=1e-5, rtol=1e-3)
    assert seen.argmax() == 5
