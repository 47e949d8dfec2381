import math

import pytest
import torch

from forecast.core.errors import ForecastError
from forecast.losses.attention import attention_entropy, attention_entropy_maximization
from forecast.losses.registry import build
from tests.losses import cases
from tests.losses.cases import Case, normal


def layered(count):
    """(L, B, H, T, S) of logits, and thresholds."""
    return normal(2, count, 3, 4, 4), 0.3 * torch.rand(2, 3, dtype=torch.float64)


def entropy_of_logits(logits, threshold, **at_call):
    return attention_entropy(torch.softmax(logits, -1), threshold, tolerance=0.05, strength=1.0, **at_call)


def negentropy_of_logits(logits, **at_call):
    return attention_entropy_maximization(torch.softmax(logits, -1), **at_call)


class TestEvery(cases.Every):
    CASES = (
        Case(entropy_of_logits, layered, name="attention_entropy", without=("chunks", "mask", "module", "empty")),
        Case(
            negentropy_of_logits,
            lambda n: (normal(n, 6),),
            name="attention_entropy_maximization",
            without=("chunks", "module", "mask"),
        ),
    )


def even(*shape):
    return torch.full(shape, 1 / shape[-1], dtype=torch.float64)


def one_hot(*shape):
    return torch.nn.functional.one_hot(torch.zeros(shape[:-1], dtype=torch.long), shape[-1]).double()


def test_maximization_of_even_and_of_one_hot_attention():
    assert attention_entropy_maximization(even(2, 5)).item() == pytest.approx(-math.log(5))
    hard = one_hot(2, 5).requires_grad_()
    value = attention_entropy_maximization(hard)
    assert value.item() == 0.0
    value.backward()
    assert hard.grad.isfinite().all()
    by_hand = torch.tensor([[0.25, 0.75]])
    assert attention_entropy_maximization(by_hand).item() == pytest.approx(
        0.25 * math.log(0.25) + 0.75 * math.log(0.75)
    )
    several = torch.softmax(normal(2, 3, 4), -1)
    each = attention_entropy_maximization(several, reduction="none")
    torch.testing.assert_close(each, (several * several.log()).sum(-1))
    loss = build({"name": "attention_entropy_maximization"})
    torch.testing.assert_close(loss(even(2, 5)), attention_entropy_maximization(even(2, 5)))


@pytest.mark.parametrize(("threshold", "entropy"), [(0.5, 1.0), (0.5, 0.0), (0.85, 1.0), (0.75, 1.0)])
def test_penalty_by_hand(threshold, entropy):
    """Even attention has the largest entropy, one-hot none; within 0.2 of it nothing is paid."""
    attention = even(1, 2, 1, 3, 4) if entropy else one_hot(1, 2, 1, 3, 4)
    away = (entropy - threshold) * math.log(4)
    expected = away**2 if abs(entropy - threshold) > 0.2 else 0.0
    at = torch.full((1, 1), threshold, dtype=torch.float64)
    assert attention_entropy(attention, at, strength=1.0).item() == pytest.approx(expected)


def test_masked_keys_lower_the_largest_entropy_and_lone_rows_do_not_count():
    """A causal mask: row t may look at t + 1 keys, evenly; the first row has no choice."""
    keys = torch.tril(torch.ones(4, 4, dtype=torch.bool))
    attention = keys.double() / keys.sum(-1, keepdim=True)
    spoilt = torch.where(keys, attention, torch.nan)[None, None, None].requires_grad_()
    at = torch.ones(1, 1, dtype=torch.float64)
    value = attention_entropy(spoilt, at, strength=1.0, tolerance=0.0, mask=keys)
    assert value.item() == pytest.approx(0.0, abs=1e-12)
    value = attention_entropy(spoilt, 0 * at, strength=1.0, tolerance=0.0, mask=keys)
    assert value.item() == pytest.approx(((math.log(2) + math.log(3) + math.log(4)) / 3) ** 2)
    value.backward()
    assert spoilt.grad.isfinite().all()


def test_a_single_key_costs_nothing():
    assert attention_entropy(torch.ones(1, 2, 1, 3, 1), torch.zeros(1, 1)).item() == 0.0


def test_four_dimensions_are_one_layer():
    attention, threshold = torch.softmax(layered(3)[0], -1), layered(3)[1]
    each = attention_entropy(attention, threshold, strength=1.0, reduction="none")
    assert each.shape == (2, 3)
    torch.testing.assert_close(attention_entropy(attention[1], threshold[1], strength=1.0, reduction="none"), each[1])


def test_a_missing_bag_is_left_out():
    attention = torch.softmax(normal(3, 4), 1)
    spoilt = attention.clone()
    spoilt[1] = torch.nan
    spoilt.requires_grad_()
    mask = torch.tensor([True, False, True])
    value = attention_entropy_maximization(spoilt, mask=mask)
    torch.testing.assert_close(value, attention_entropy_maximization(attention[mask]))
    value.backward()
    assert spoilt.grad.isfinite().all()


def test_module_learns_its_thresholds():
    loss = build({"name": "attention_entropy", "layers": 1, "heads": 2, "strength": 1.0})
    attention = even(1, 2, 2, 3, 4)
    value = loss(attention)
    assert value.item() == pytest.approx((0.5 * math.log(4)) ** 2, rel=1e-5)
    value.backward()
    assert (loss.threshold.grad < 0).all()
    fixed = build({"name": "attention_entropy", "layers": 1, "heads": 2, "learnt": False})
    assert not any(p.requires_grad for p in fixed.parameters())


def test_bad_input():
    attention, threshold = torch.softmax(layered(2)[0], -1), layered(2)[1]
    for call, words in (
        (lambda: attention_entropy(attention, threshold[0]), "threshold="),
        (lambda: attention_entropy(attention[0, 0], threshold), "attention="),
        (lambda: attention_entropy(2 * attention, threshold), "attention=.*sum to 1"),
        (lambda: attention_entropy(attention, threshold, tolerance=-1.0), "tolerance=-1"),
        (lambda: attention_entropy_maximization(-attention), "attention="),
        (lambda: build({"name": "attention_entropy", "layers": 1, "heads": 1, "start": 2.0}), "start=2"),
    ):
        with pytest.raises(ForecastError, match=words):
            call()
