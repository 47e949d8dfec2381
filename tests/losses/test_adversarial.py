import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from forecast.core.errors import ForecastError
from forecast.losses.adversarial import adc_discriminator, adc_generator, hinge_discriminator, hinge_generator
from forecast.losses.registry import build

REAL_LABELS, MADE_LABELS = torch.tensor([0, 2, 1]), torch.tensor([1, 1, 0])
ALL = ("adc_discriminator", "adc_generator", "hinge_discriminator", "hinge_generator")


def inputs(name, seed=0):
    generator = torch.Generator().manual_seed(seed)
    real, made = torch.randn(2, 3, 6, dtype=torch.float64, generator=generator)
    return {
        "adc_discriminator": (real, made, REAL_LABELS, MADE_LABELS),
        "adc_generator": (made, MADE_LABELS),
        "hinge_discriminator": (real[:, 0], made[:, 0]),
        "hinge_generator": (made[:, 0],),
    }[name]


def test_by_hand():
    made = torch.tensor([[1.0, 3.0, 0.5, -2.0]])
    assert adc_generator(made, torch.tensor([0])).item() == pytest.approx(2.0)
    assert adc_generator(made, torch.tensor([1])).item() == pytest.approx(-2.5)
    flat = torch.zeros(1, 4)
    assert adc_discriminator(flat, flat, torch.tensor([1]), torch.tensor([0])).item() == pytest.approx(2 * math.log(4))
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.5])
    assert hinge_discriminator(real, fake, reduction="none").tolist() == [0.0, 2.0]
    assert hinge_generator(fake).item() == pytest.approx(1.25)


def test_discriminator_is_a_cross_entropy_of_twice_the_classes():
    real, made, *_ = inputs("adc_discriminator")
    expected = cross_entropy(real, 2 * REAL_LABELS) + cross_entropy(made, 2 * MADE_LABELS + 1)
    torch.testing.assert_close(adc_discriminator(real, made, REAL_LABELS, MADE_LABELS), expected)


def test_one_class_is_the_ordinary_discriminator():
    real, made = torch.tensor([[1.0, -1.0]]), torch.tensor([[0.5, 0.0]])
    zero = torch.tensor([0])
    expected = math.log(1 + math.exp(-2)) + math.log(1 + math.exp(0.5))
    assert adc_discriminator(real, made, zero, zero).item() == pytest.approx(expected, rel=1e-5)


def test_equal_logits_leave_the_generator_nothing():
    assert adc_generator(torch.full((2, 4), 3.0), torch.tensor([0, 1])).item() == 0


@pytest.mark.parametrize("name", ALL)
def test_gradient(name):
    given_ = [x.requires_grad_() if x.is_floating_point() else x for x in inputs(name)]
    assert torch.autograd.gradcheck(build({"name": name}), tuple(given_))


@pytest.mark.parametrize("name", ALL)
def test_reductions_precision_and_nothing_kept(name):
    given_, loss = inputs(name), build({"name": name})
    value, w = build({"name": name, "reduction": "none"})(*given_), torch.tensor([1.0, 0, 3], dtype=torch.float64)
    assert value.shape == (3,)
    torch.testing.assert_close(loss(*given_), value.mean())
    torch.testing.assert_close(loss(*given_, weight=w), (value * w).sum() / 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert loss(*[x.bfloat16() if x.is_floating_point() else x for x in given_]).dtype == torch.float32
    x = given_[0].detach().requires_grad_()
    nothing = loss(x, *given_[1:], mask=torch.zeros(3).bool())
    nothing.backward()
    assert nothing.item() == 0 and x.grad.abs().sum() == 0


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 50), shift=st.floats(-5, 5))
def test_a_shift_of_all_logits_changes_nothing(seed, shift):
    for name in ("adc_discriminator", "adc_generator"):
        given_ = inputs(name, seed)
        moved = [x + shift if x.is_floating_point() else x for x in given_]
        torch.testing.assert_close(build({"name": name})(*moved), build({"name": name})(*given_))


def test_bad_input():
    real, made, *_ = inputs("adc_discriminator")
    for words, call in {
        "3 must be a class number": lambda: adc_generator(made, MADE_LABELS + 2),
        "-100 must be a class number": lambda: adc_generator(made, MADE_LABELS * 0 - 100),
        r"logits=\(3, 5\)": lambda: adc_generator(made[:, :5], MADE_LABELS),
        "made of shape": lambda: adc_discriminator(real, made[:2], REAL_LABELS, MADE_LABELS),
        "labels of shape": lambda: adc_generator(made, MADE_LABELS[:2]),
        "real, |made of shape": lambda: hinge_discriminator(real, made[:2]),
    }.items():
        with pytest.raises(ForecastError, match=words):
            call()
