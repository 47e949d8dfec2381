import pytest
import torch

from forecast.models import modulation


def by_hand(x, factor, shift):
    normed = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-6).sqrt()
    return normed * factor[:, None] + shift[:, None]


def given(rows=3, tokens=5, width=7):
    torch.manual_seed(0)
    shapes = ((rows, tokens, width), (rows, width), (rows, width), (rows, tokens, width))
    return [torch.randn(shape, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("threads", [1, 2])
def test_norm_has_the_unbiased_variance(threads, monkeypatch):
    """The formula, its gradients, and the same of the code for other devices."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    x, factor, shift, grad = given()
    mine = modulation.modulated_norm(x, factor, shift)
    wanted = by_hand(x, factor, shift)
    torch.testing.assert_close(mine, wanted)
    got, asked = (torch.autograd.grad(y, (x, factor, shift), grad) for y in (mine, wanted))
    for a, b in zip(got, asked, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_code_for_other_devices():
    x, factor, shift, grad = (t.detach() for t in given())
    out, moments = modulation._norm(x, factor, shift)
    other, also = modulation._norm._init_fn(x, factor, shift)
    torch.testing.assert_close(out, other)
    torch.testing.assert_close(moments, also)
    for mine, theirs in ((modulation._norm_backward, (grad, x, factor, moments)),
                         (modulation._gate_backward, (grad, factor, x))):  # fmt: skip
        for a, b in zip(mine(*theirs), mine._init_fn(*theirs), strict=True):
            torch.testing.assert_close(a, b)


def test_gated_sum():
    x, gate, _, y = (t.detach().double().requires_grad_() for t in given())
    torch.testing.assert_close(modulation.gated_sum(x, gate, y), x + gate[:, None] * y)
    x, gate, _, y = given()
    grad = torch.randn_like(x)
    mine = torch.autograd.grad(modulation.gated_sum(x, gate, y), (x, gate, y), grad)
    wanted = torch.autograd.grad(x + gate[:, None] * y, (x, gate, y), grad)
    for a, b in zip(mine, wanted, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("name", "count"), [("modulated_norm", 3), ("gate_backward", 3)])
def test_operators_are_well_formed(name, count):
    x, factor, shift, grad = (t.detach() for t in given())
    arguments = {"modulated_norm": (x, factor, shift), "gate_backward": (grad, factor, x)}[name]
    torch.library.opcheck(getattr(torch.ops.forecast, name).default, arguments)
