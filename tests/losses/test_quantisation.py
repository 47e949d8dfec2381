import math

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from forecast.core.errors import ForecastError
from forecast.losses.quantisation import group_progressive_guidance, weight_distribution
from forecast.losses.registry import build


def numbers(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_weights_by_hand():
    """0, 0, 0, 4: mean 1, deviations -1, -1, -1, 3, variance 3; skew 24 / 4 / 3^1.5, kurtosis 84 / 4 / 9."""
    w = torch.tensor([[0.0, 0.0], [0.0, 4.0]])
    expected = (6 / 3**1.5) ** 2 + 0.015 * (21 / 9 - 1.8) ** 2
    assert weight_distribution(w).item() == pytest.approx(expected, rel=1e-5)
    assert weight_distribution([w, torch.ones(3)]).item() == pytest.approx(expected / 2, rel=1e-5)


def test_weights_equal_scipy():
    w = numbers(50).exp()
    expected = scipy.stats.skew(w) ** 2 + 0.015 * (scipy.stats.kurtosis(w, fisher=False) - 1.8) ** 2
    assert weight_distribution(w).item() == pytest.approx(expected)


def test_uniform_weights_are_the_aim():
    assert weight_distribution(torch.linspace(-1, 1, 100_001, dtype=torch.float64)).item() == pytest.approx(0, abs=1e-8)


def test_constant_or_no_weights_are_zero_with_a_graph():
    for w in (torch.full((5,), 0.1), torch.zeros(5), torch.zeros(0)):
        loss = weight_distribution(w.requires_grad_())
        loss.backward()
        assert loss.item() == 0 and w.grad.abs().sum() == 0
    assert weight_distribution([]).item() == 0


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(0.01, 100), shift=st.floats(-2, 2), seed=st.integers(0, 50))
def test_weights_up_to_scale_shift_and_order(scale, shift, seed):
    w = numbers(30, seed=seed).exp()
    torch.testing.assert_close(
        weight_distribution(scale * (w.flip(0) + shift)), weight_distribution(w), rtol=1e-5, atol=0
    )


def test_guidance_by_hand():
    high, low = torch.tensor([[0.0, math.log(3.0)]]), torch.zeros(1, 2)
    labels = torch.tensor([1])
    expected = (-math.log(0.75) + 0.5 * math.log(2) + 0.5 * math.log(2)) / 2
    assert group_progressive_guidance([high, low], labels).item() == pytest.approx(expected, rel=1e-6)


def test_guidance_limits():
    logits, labels = numbers(3, 4, 5), torch.tensor([0, 4, 2, -100])
    plain = torch.stack([cross_entropy(x, labels) for x in logits])
    torch.testing.assert_close(group_progressive_guidance(logits[:1], labels), plain[0])
    torch.testing.assert_close(group_progressive_guidance(logits, labels, hard=1.0), plain.mean())
    same = logits[:1].expand(2, -1, -1)
    p = same[0, :3].softmax(-1)
    entropy = -(p * p.log()).sum(-1).mean()
    torch.testing.assert_close(group_progressive_guidance(same, labels, hard=0.0), (plain[0] + entropy) / 2)


def test_the_wider_gets_no_gradient_from_the_narrower():
    high, low, labels = numbers(2, 3).requires_grad_(), numbers(2, 3, seed=1), torch.tensor([0, 1])
    (both,) = torch.autograd.grad(group_progressive_guidance([high, low], labels), high)
    (alone,) = torch.autograd.grad(group_progressive_guidance([high], labels), high)
    torch.testing.assert_close(both, alone / 2)


def test_gradients():
    assert torch.autograd.gradcheck(
        lambda a, b: weight_distribution([a, b]), (numbers(4).requires_grad_(), numbers(2, 3).requires_grad_())
    )
    high, low, labels = numbers(2, 3), numbers(2, 3, seed=1).requires_grad_(), torch.tensor([0, 1])
    assert torch.autograd.gradcheck(lambda x: group_progressive_guidance([high, x], labels), (low,))


def test_reductions_and_precision():
    w = [numbers(9, seed=i) for i in range(3)]
    value, factor = weight_distribution(w, reduction="none"), torch.tensor([1.0, 0, 2], dtype=torch.float64)
    assert value.shape == (3,)
    torch.testing.assert_close(weight_distribution(w, weight=factor), (value * factor).sum() / 3)
    logits, labels = numbers(2, 3, 5), torch.tensor([0, 4, 2])
    value = group_progressive_guidance(logits, labels, reduction="none")
    torch.testing.assert_close(group_progressive_guidance(logits, labels), value.mean())
    torch.testing.assert_close(group_progressive_guidance(logits, labels, weight=factor), (value * factor).sum() / 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert weight_distribution([x.bfloat16() for x in w]).dtype == torch.float32
        assert group_progressive_guidance(list(logits.bfloat16()), labels).dtype == torch.float32
    ignored = group_progressive_guidance(logits.requires_grad_(), torch.full((3,), -100))
    ignored.backward()
    assert ignored.item() == 0 and logits.grad.abs().sum() == 0


def test_bad_input():
    logits, labels = numbers(2, 3, 5), torch.tensor([0, 4, 2])
    for words, call in {
        "hard=2": lambda: group_progressive_guidance(logits, labels, hard=2),
        "5 must be a class number": lambda: group_progressive_guidance(logits, labels + 1),
        "logits of shapes": lambda: group_progressive_guidance([logits[0], logits[0, :2]], labels),
        r"logits of shapes \[\]": lambda: group_progressive_guidance([], labels),
        "real numbers": lambda: weight_distribution(labels),
        "no setting `kurtoses`": lambda: type(build({"name": "weight_distribution"}))(kurtoses=1),
    }.items():
        with pytest.raises(ForecastError, match=words):
            call()
