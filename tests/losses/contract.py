"""What every loss must keep, whatever its formula: gradient, reductions, weight and mask, precision, empty input."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def gradient(
    loss: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    wrt: Sequence[int] | None = None,
    fast_mode: bool = False,
    **kwargs,
) -> None:
    """First derivatives in float64 equal finite differences; in fast mode in random directions only."""
    leaves = [
        x.clone().requires_grad_(x.is_floating_point() and (wrt is None or i in wrt)) for i, x in enumerate(inputs)
    ]
    assert torch.autograd.gradcheck(lambda *x: loss(*x, **kwargs), leaves, atol=1e-6, fast_mode=fast_mode)


def reductions(loss: Callable[..., Tensor], inputs: Sequence[Tensor], seed: int = 5) -> None:
    """mean = sum / n of none; with weight and mask sum(w l) / sum(w); what is masked, NaN too, leaves no trace.

    `loss` takes reduction, weight and mask; weight and mask get the shape of reduction="none".
    """
    generator = torch.Generator().manual_seed(seed)
    each = loss(*inputs, reduction="none")
    torch.testing.assert_close(loss(*inputs, reduction="sum"), each.sum())
    torch.testing.assert_close(loss(*inputs, reduction="mean"), each.mean())
    weight = torch.rand(each.shape, generator=generator, dtype=each.dtype)
    mask = torch.rand(each.shape, generator=generator) < 0.6
    mask.view(-1)[0], mask.view(-1)[-1] = True, False
    total = weight * mask
    torch.testing.assert_close(loss(*inputs, reduction="none", weight=weight, mask=mask), each * total)
    torch.testing.assert_close(loss(*inputs, reduction="sum", weight=weight, mask=mask), (each * total).sum())
    expected = (each * total).sum() / total.sum()
    torch.testing.assert_close(loss(*inputs, weight=weight, mask=mask), expected)


def masked_nan(loss: Callable[..., Tensor], inputs: Sequence[Tensor], truth: int = -1) -> None:
    """A NaN in the truth propagates; masked, it reaches neither value nor gradient."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    mask = torch.ones(inputs[truth].shape, dtype=torch.bool)
    mask.view(-1)[1] = False
    broken = list(inputs)
    broken[truth] = torch.where(mask, inputs[truth], torch.nan)
    assert loss(*broken).isnan()
    value = loss(*broken, mask=mask)
    torch.testing.assert_close(value, loss(*inputs, mask=mask))
    value.backward()
    for x in inputs:
        assert x.grad is not None and x.grad.isfinite().all()


def precision(loss: Callable[..., Tensor], inputs: Sequence[Tensor]) -> None:
    """bfloat16 inputs, and float32 ones under autocast, give float32."""
    half = [x.bfloat16() if x.is_floating_point() else x for x in inputs]
    assert loss(*half).dtype == torch.float32
    single = [x.float() if x.is_floating_point() else x for x in inputs]
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(*single)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(*single))


def empty(loss: Callable[..., Tensor], inputs: Sequence[Tensor]) -> None:
    """No sample, or none kept, gives a zero that has a graph."""
    none = [x[:0].clone().requires_grad_(x.is_floating_point()) for x in inputs]
    with warnings.catch_warnings():  # torch on moments of nothing
        warnings.filterwarnings("ignore", "var")
        value = loss(*none)
        value.backward()
    assert value.item() == 0
    kept = [x.clone().requires_grad_(x.is_floating_point()) for x in inputs]
    value = loss(*kept, mask=torch.zeros((), dtype=torch.bool))
    value.backward()
    assert value.item() == 0
    assert all(x.grad is None or (x.grad == 0).all() for x in kept)
