"""What every classification and event loss keeps to. A family's tests run `LAWS` over a table of `Case`s."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch

from forecast.losses import registry

COUNT = 5


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def integers(high, *shape, seed=1):
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def binary(*shape, seed=2):
    """0 and 1 by turns, so that every set of two has both."""
    return (torch.arange(max(1, torch.Size(shape).numel())).reshape(-1) % 2)[: torch.Size(shape).numel()].reshape(shape)


@dataclass
class Case:
    """A loss of the registry with its function and inputs of n samples.

    `fixed`: positions of inputs that get no gradient. `sets`: weight and mask act inside sets, `per_set` many values.
    `seeded`: it draws numbers.
    """

    name: str
    function: Callable
    inputs: Callable[[int], tuple]
    settings: dict = field(default_factory=dict)
    fixed: tuple[int, ...] = ()
    sets: bool = False
    seeded: bool = False

    def __str__(self):
        settings = (getattr(value, "__name__", str(value)) for value in self.settings.values())
        return "-".join([self.name, *settings])

    def __call__(self, *inputs, **at_call):
        if self.seeded:
            at_call["generator"] = torch.Generator().manual_seed(7)
        return self.function(*inputs, **self.settings, **at_call)

    def leaves(self, count=COUNT):
        return tuple(
            x.clone().requires_grad_() if torch.is_tensor(x) and x.is_floating_point() and i not in self.fixed else x
            for i, x in enumerate(self.inputs(count))
        )


def differentiable(case):
    assert torch.autograd.gradcheck(case, case.leaves())


def reduces(case):
    """mean and sum are those of none, with weight and mask."""
    inputs = case.inputs(COUNT)
    each = case(*inputs, reduction="none")
    torch.testing.assert_close(case(*inputs), each.mean())
    torch.testing.assert_close(case(*inputs, reduction="sum"), each.sum())
    if case.sets:
        return
    weight = torch.linspace(0.5, 2.0, each.numel(), dtype=torch.float64).reshape(each.shape)
    weighted = case(*inputs, weight=weight, reduction="none")
    torch.testing.assert_close(case(*inputs, weight=weight), weighted.sum() / weight.sum())
    torch.testing.assert_close(case(*inputs, weight=weight, reduction="sum"), weighted.sum())
    mask = torch.arange(each.numel()).reshape(each.shape) % 3 > 0
    kept = case(*inputs, mask=mask, reduction="none")
    assert (kept[~mask] == 0).all()
    torch.testing.assert_close(case(*inputs, mask=mask), kept.sum() / mask.sum())
    ones = torch.ones_like(each)
    torch.testing.assert_close(case(*inputs, weight=ones, reduction="none"), each)


def empty_is_zero(case):
    """No sample, or none that counts: a zero with a graph, and no NaN in the gradient."""
    for count, mask in ((0, None), (COUNT, torch.zeros((), dtype=torch.bool))):
        inputs = case.leaves(count)
        value = case(*inputs, mask=mask)
        value.backward()
        assert value.item() == 0
        assert inputs[0].grad is not None
        assert all(x.grad is None or (x.grad == 0).all() for x in inputs if torch.is_tensor(x))


def masked_is_not_looked_at(case):
    """NaN in a sample that the mask leaves out reaches neither value nor gradient."""
    clean, spoilt = case.leaves(), case.leaves()
    with torch.no_grad():
        for x in spoilt:
            if torch.is_tensor(x) and x.is_floating_point() and len(x) == COUNT:
                x[1] = torch.nan
    one = case(*clean, reduction="none")
    shape = (COUNT, *clean[0].shape[1:]) if case.sets else one.shape
    mask = torch.ones(shape, dtype=torch.bool)
    mask[1] = False
    values = [case(*inputs, mask=mask) for inputs in (clean, spoilt)]
    for value in values:
        value.backward()
    torch.testing.assert_close(values[0], values[1])
    for x, y in zip(clean, spoilt, strict=True):
        if torch.is_tensor(x) and x.grad is not None:
            torch.testing.assert_close(x.grad, y.grad)


def half_is_widened(case):
    inputs = case.leaves()
    half = [x.detach().bfloat16() if torch.is_tensor(x) and x.is_floating_point() else x for x in inputs]
    half[0].requires_grad_()
    value = case(*half)
    assert value.dtype == torch.float32
    value.backward()
    assert half[0].grad.dtype == torch.bfloat16
    single = [x.detach().float() if torch.is_tensor(x) and x.is_floating_point() else x for x in inputs]
    with torch.autocast("cpu", torch.bfloat16):
        value = case(*single)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, case(*single))


def module_is_the_function(case):
    inputs = case.inputs(COUNT)
    at_call = {"generator": torch.Generator().manual_seed(7)} if case.seeded else {}
    module = registry.build({"name": case.name, **case.settings})
    torch.testing.assert_close(module(*inputs, **at_call), case(*inputs))


LAWS = (differentiable, reduces, empty_is_zero, masked_is_not_looked_at, half_is_widened, module_is_the_function)


def over(cases, *, without=()):
    """Decorator: run over all laws and cases."""
    pairs = [(law, case) for case in cases for law in LAWS if law.__name__ not in without]
    return pytest.mark.parametrize(("law", "case"), pairs, ids=[f"{c}-{law.__name__}" for law, c in pairs])
