"""Checks of losses over sets of samples, which a family's tests run over their cases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from forecast.losses import pairs, registry

MANY = 40
"""samples, for what grows with their pairs"""


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def floating(value):
    return torch.is_tensor(value) and value.is_floating_point()


@dataclass
class Case:
    """A loss, and a function that makes its inputs for so many samples; `fixed` inputs (places) have no gradient.

    without: what the loss has not: "reduction" (one number for the set), "weight", "mask", "empty", "module", "chunks".
    """

    function: Callable
    inputs: Callable[[int], tuple]
    settings: dict = field(default_factory=dict)
    name: str = ""
    samples: int = 5
    fixed: tuple[int, ...] = ()
    without: tuple[str, ...] = ()

    def __post_init__(self):
        self.name = self.name or self.function.__name__

    def __call__(self, *inputs, **at_call):
        return self.function(*inputs, **self.settings, **at_call)

    def draw(self, count=None):
        return self.inputs(self.samples if count is None else count)

    def leaves(self, count=None):
        return [
            x.clone().requires_grad_() if floating(x) and place not in self.fixed else x
            for place, x in enumerate(self.draw(count))
        ]

    def __str__(self):
        return self.name


def differentiable(case):
    """gradcheck in all floating inputs that are not fixed."""
    assert torch.autograd.gradcheck(case, case.leaves())


def reduces(case):
    """mean and sum are those of none, with weights too."""
    inputs = case.draw()
    each = case(*inputs, reduction="none")
    assert each.ndim > 0
    torch.testing.assert_close(case(*inputs, reduction="mean"), each.mean())
    torch.testing.assert_close(case(*inputs, reduction="sum"), each.sum())
    if "weight" in case.without:
        return
    weight = torch.rand(each.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(case(*inputs, weight=weight, reduction="sum"), (each * weight).sum())
    torch.testing.assert_close(case(*inputs, weight=weight, reduction="mean"), (each * weight).sum() / weight.sum())


def leaves_out(case):
    """Samples that the mask leaves out might as well not be there, and may be NaN."""
    mask = torch.ones(case.samples, dtype=torch.bool)
    mask[1] = False
    inputs = case.draw()
    of_samples = [torch.is_tensor(x) and x.ndim > 0 and len(x) == case.samples for x in inputs]
    without = [x[mask] if mine else x for x, mine in zip(inputs, of_samples, strict=True)]
    spoilt = [x.clone() if torch.is_tensor(x) else x for x in inputs]
    for x, mine in zip(spoilt, of_samples, strict=True):
        if floating(x):
            if mine:
                x[1] = torch.nan
            x.requires_grad_()
    value = case(*spoilt, mask=mask)
    torch.testing.assert_close(value, case(*without))
    value.backward()
    for x in spoilt:
        assert not torch.is_tensor(x) or x.grad is None or x.grad.isfinite().all()
    if "reduction" not in case.without:
        each = case(*inputs, mask=mask, reduction="none")
        assert each.shape == mask.shape
        assert each[1] == 0


def half_is_widened(case):
    """bfloat16 in, float32 out, and the gradient comes back in bfloat16."""
    inputs = [x.detach().bfloat16() if floating(x) else x for x in case.draw()]
    leaf = next(x for place, x in enumerate(inputs) if floating(x) and place not in case.fixed).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value = case(*inputs)
    assert value.dtype == torch.float32
    assert value.isfinite().all()
    value.sum().backward()
    assert leaf.grad is None or leaf.grad.dtype == torch.bfloat16


def module_is_the_function(case):
    inputs = case.draw()
    module = registry.build({"name": case.name, **case.settings})
    torch.testing.assert_close(module(*inputs), case(*inputs))
    assert registry.entry(case.name).family


def empty_is_zero(case):
    """No samples: a zero that is still joined to the inputs."""
    value = case(*case.leaves(0))
    assert value.item() == 0.0
    value.backward()


class Largest(TorchDispatchMode):
    """Records how many entries the largest tensor has that is made, forward or backward."""

    entries = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if torch.is_tensor(tensor):
                size = tensor.untyped_storage().nbytes() // tensor.element_size()
                self.entries = max(self.entries, size)
        return made


def is_chunked(case, monkeypatch):
    """Summed a few rows at a time, value and gradient stay, and nothing is made of the size of all pairs."""

    def run():
        inputs = case.leaves(MANY)
        with Largest() as made:
            value = case(*inputs)
            value.backward()
        return made.entries, [value.detach(), *(x.grad for x in inputs if torch.is_tensor(x) and x.grad is not None)]

    most, whole = run()
    monkeypatch.setattr(pairs, "ENTRIES", 4 * MANY)
    fewer, parts = run()
    torch.testing.assert_close(parts, whole)
    assert most >= MANY**2 > 2 * fewer


class Every:
    """A family's `class TestEvery(cases.Every)` says which CASES it has, and is tested for all that they promise."""

    CASES: tuple[Case, ...] = ()
    NEEDS = {
        "test_reduces": "reduction",
        "test_leaves_out": "mask",
        "test_empty": "empty",
        "test_module": "module",
        "test_chunked": "chunks",
    }

    def __init_subclass__(cls):
        for test, need in cls.NEEDS.items():
            if all(need in case.without for case in cls.CASES):
                setattr(cls, test, None)

    def pytest_generate_tests(self, metafunc):
        if "case" in metafunc.fixturenames:
            need = self.NEEDS.get(metafunc.function.__name__)
            metafunc.parametrize("case", [case for case in self.CASES if need not in case.without], ids=str)

    def test_differentiable(self, case):
        differentiable(case)

    def test_reduces(self, case):
        reduces(case)

    def test_leaves_out(self, case):
        leaves_out(case)

    def test_half(self, case):
        half_is_widened(case)

    def test_module(self, case):
        module_is_the_function(case)

    def test_empty(self, case):
        empty_is_zero(case)

    def test_chunked(self, case, monkeypatch):
        is_chunked(case, monkeypatch)
