import torch

from forecast.models.attention import DenseAttention, NeighbourAttention
from forecast.models.graph import icosphere


def test_attention_is_gated_softmax_over_neighbours():
    torch.manual_seed(1)
    table = torch.randint(0, 15, (20, 5))
    attention = NeighbourAttention(6, 7, 8, 2, table, torch.randn(table.numel(), 3))
    targets, sources = torch.randn(3, 20, 6), torch.randn(3, 15, 7)
    query = attention.query(targets).unflatten(-1, (2, 4))
    key, value = (t.unflatten(-1, (2, 4))[:, table] for t in attention.key_value(sources).chunk(2, dim=-1))
    geometry = attention.geometry(attention.edges).unflatten(0, table.shape)  # (N, K, 2 H)
    score = torch.einsum("bnhd,bnkhd->bnkh", query, key) / 2 + geometry[..., :2]
    weight = score.softmax(dim=2) * (1 + geometry[..., 2:])
    expected = attention.out(torch.einsum("bnkh,bnkhd->bnhd", weight, value).flatten(-2))
    torch.testing.assert_close(attention(targets, sources), expected)
    one_query = attention(targets[:1], sources)
    torch.testing.assert_close(one_query[:1], attention(targets[:1], sources[:1]))


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
