"""Attention in a window of the node order, against one matrix of all pairs."""

import pytest
import torch
from torch.nn import functional

from forecast.models import sliding


def dense(qkv, window):
    """By a mask of all pairs."""
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    place = torch.arange(qkv.shape[1])
    near = (place[:, None] - place).abs() <= window
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=near).transpose(1, 2)


@pytest.mark.parametrize("width", [8, 16, 20], ids=lambda d: f"width {d}")
@pytest.mark.parametrize("attend", [sliding.attend, sliding._in_batch], ids=["blocks", "batch"])
@pytest.mark.parametrize(
    ("nodes", "window"), [(300, 40), (37, 64), (130, 128), (257, 1), (3 * sliding.BLOCK, sliding.BLOCK), (1, 5)]
)
def test_value_and_gradient_are_those_of_a_dense_mask(attend, nodes, window, width):
    qkv = torch.randn(2, nodes, 3, 2, width, generator=torch.Generator().manual_seed(nodes)).requires_grad_()
    grad = torch.randn(2, nodes, 2, width, generator=torch.Generator().manual_seed(window))
    expected, found = dense(qkv, window), attend(qkv, window)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for a, b in zip(*(torch.autograd.grad(x, qkv, grad) for x in (found, expected)), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


def test_a_node_outside_the_window_changes_nothing():
    qkv = torch.randn(1, 400, 3, 1, 8)
    before = sliding.attend(qkv, 50)
    qkv[:, 200] += 100
    changed = (sliding.attend(qkv, 50) != before).any(dim=(0, 2, 3)).nonzero().flatten()
    assert changed.min() == 150 and changed.max() == 250


def test_traces():
    qkv = torch.randn(2, 40, 3, 2, 8, requires_grad=True)
    torch.library.opcheck(sliding._attend, (qkv, 7), test_utils=("test_schema", "test_faketensor"))
