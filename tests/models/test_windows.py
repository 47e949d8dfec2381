import numpy as np
import pytest
import torch

from forecast.models import window_operators
from forecast.models.windows import WindowAttention, partition

CASES = {
    "divides": ((4, 8), (2, 4), (1, 2)),
    "leaves rows and columns over": ((5, 7), (2, 3), (1, 1)),
    "larger than the map": ((3, 4), (4, 8), (2, 4)),
    "as the released network": ((90, 180), (18, 18), (9, 9)),
}


@pytest.mark.parametrize("wraps", [True, False])
@pytest.mark.parametrize(("shape", "window", "shift"), CASES.values(), ids=CASES)
def test_every_token_is_in_one_window(shape, window, shift, wraps):
    for moved in ((0, 0), shift):
        p = partition(shape, window, moved, wraps)
        assert np.array_equal(np.sort(p.order), np.arange(shape[0] * shape[1]))
        assert sum(n * length for n, length in p.groups) == len(p.order)
        assert all(length <= window[0] * window[1] for _, length in p.groups)


def test_released_windows():
    """16,200 tokens in 50 windows of 324; the shifted ones cut where the roll would tie the poles."""
    assert partition((90, 180), (18, 18), (0, 0), True).groups == ((50, 324),)
    assert partition((90, 180), (18, 18), (9, 9), True).groups == ((20, 162), (40, 324))


def rolled_and_masked(shape, window, shift):
    """(N, N) whether tokens see each other: roll, windows, and a mask across the poles alone (Swin's, 2021)."""
    rows, columns = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    r, c = (rows - shift[0]) % shape[0], (columns - shift[1]) % shape[1]
    number = (r // window[0]) * 1000 + c // window[1]
    wrapped = (r >= shape[0] - window[0]) & (rows < shift[0])
    same = (number.ravel()[:, None] == number.ravel()) & (wrapped.ravel()[:, None] == wrapped.ravel())
    within = (r % window[0]) * window[1] + c % window[1]
    return same, within.ravel()


def plain(attention, x, seen, positions):
    """The same attention over all tokens with a mask, positions turned by complex numbers."""
    q, k, v = attention.qkv(x).unflatten(-1, (3, attention.heads, -1)).unbind(2)
    pairs = q.shape[-1] // 2
    angles = positions[:, None] * 1e4 ** (-np.arange(pairs) / pairs)
    turn = torch.polar(torch.ones(angles.shape), torch.tensor(angles, dtype=torch.float32))[:, None]
    q, k = (torch.view_as_real(torch.view_as_complex(t.unflatten(-1, (-1, 2))) * turn).flatten(-2) for t in (q, k))
    scores = torch.einsum("bnhd,bmhd->bhnm", q, k) * q.shape[-1] ** -0.5
    weights = scores.masked_fill(~torch.tensor(seen), -100.0 + scores.min().item()).softmax(-1)
    return attention.out(torch.einsum("bhnm,bmhd->bnhd", weights, v).flatten(-2))


def attention_of(shape, window, shift, wraps=True, width=16):
    torch.manual_seed(0)
    home = partition(shape, window, (0, 0), wraps)
    own = home if shift == (0, 0) else partition(shape, window, shift, wraps)
    attention = WindowAttention(width, 2, home, own)
    with torch.no_grad():
        attention.qkv.weight.normal_(std=0.5)
    return attention, home.order


@pytest.mark.parametrize("shift", [(0, 0), (1, 2)])
def test_cut_windows_are_masked_windows(shift):
    """No mask, no roll, smaller windows: the same numbers and gradients as the plain implementation."""
    shape, window = (6, 8), (2, 4)
    attention, order = attention_of(shape, window, shift)
    x = torch.randn(2, 48, 16, requires_grad=True)
    seen, positions = rolled_and_masked(shape, window, shift)
    wanted = plain(attention, x, seen, positions)
    out = torch.empty_like(wanted)
    out[:, order] = attention(x[:, order])
    torch.testing.assert_close(out, wanted, rtol=1e-4, atol=1e-5)
    g = torch.randn_like(out)
    parameters = [x, *attention.parameters()]
    for mine, theirs in zip(*(torch.autograd.grad((y * g).sum(), parameters) for y in (out, wanted)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("wraps", [True, False])
@pytest.mark.parametrize("shift", [(0, 0), (1, 2)])
def test_tokens_see_their_window_only(shift, wraps):
    """The Jacobian's pattern is that of the partition, also of one that does not divide the map."""
    shape, window = (5, 7), (2, 4)
    attention, order = attention_of(shape, window, shift, wraps)
    own = partition(shape, window, shift, wraps)
    number = np.empty(35, int)
    sizes = [length for n, length in own.groups for _ in range(n)]
    number[own.order] = np.repeat(np.arange(len(sizes)), sizes)
    x = torch.randn(1, 35, 16)
    jacobian = torch.autograd.functional.jacobian(lambda y: attention(y).sum(-1)[0], x)[:, 0].abs().sum(-1)
    seen = np.empty((35, 35), bool)
    seen[np.ix_(order, order)] = jacobian.numpy() > 0
    assert np.array_equal(seen, number[:, None] == number)
    rows, columns = np.divmod(np.arange(35), 7)
    poles = seen[np.ix_(rows == 0, rows == 4)]
    assert not poles.any()
    seam = seen[np.ix_(columns == 6, columns == 0)].any()
    assert seam == (wraps and shift != (0, 0))


def test_rotary_products_depend_on_differences():
    torch.manual_seed(0)
    angles = torch.arange(40)[:, None] * 1e4 ** (-torch.arange(8) / 8)
    one = torch.randn(1, 1, 3, 1, 16).expand(1, 40, 3, 1, 16)
    q, k, v = window_operators.rotate(one.clone(), angles.cos(), angles.sin())
    products = torch.einsum("nd,md->nm", q[0, :, 0], k[0, :, 0])
    for offset in (0, 1, 7):
        diagonal = products.diagonal(offset)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(q.norm(dim=-1), one[:, :, 0].norm(dim=-1))
    torch.testing.assert_close(q[:, 0], one[:, 0, 0])
    assert torch.equal(v, one[:, :, 2])


def test_rotation_on_every_path():
    """Loops and torch agree, in value and gradient; the gradient is the inverse rotation."""
    torch.manual_seed(0)
    angles = torch.rand(6, 4)
    qkv = torch.randn(2, 6, 3, 2, 8, requires_grad=True)
    mine = window_operators.rotate(qkv.clone(), angles.cos(), angles.sin())
    half = window_operators.rotate(qkv.bfloat16(), angles.cos(), angles.sin())
    for part, (a, b) in enumerate(zip(mine, half, strict=True)):
        turned = window_operators._turned(qkv[:, :, part], angles.cos(), angles.sin()) if part < 2 else qkv[:, :, 2]
        torch.testing.assert_close(a, turned)
        torch.testing.assert_close(b.float(), turned, rtol=2e-2, atol=2e-2)
    (back,) = torch.autograd.grad(mine, qkv, [part.detach().clone() for part in mine])
    torch.testing.assert_close(back, qkv)


def test_gated_gelu():
    torch.manual_seed(0)
    x = torch.randn(3, 5, 8, dtype=torch.float64, requires_grad=True)
    a, b = x.chunk(2, dim=-1)
    torch.testing.assert_close(window_operators.gated_gelu(x), a * torch.nn.functional.gelu(b))
    assert torch.autograd.gradcheck(window_operators.gated_gelu, (x,))
