import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.core.errors import ForecastError
from forecast.losses.experimental.explanation import explanation_consistency, gradient_attribution
from forecast.losses.registry import entry
from tests.losses import cases
from tests.losses.cases import Case, normal

pytestmark = pytest.mark.filterwarnings("ignore:.*was built from memory")
REFERENCE = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


def attributions(count):
    return normal(count, 3), REFERENCE.clone()


class TestEvery(cases.Every):
    CASES = (
        Case(explanation_consistency, attributions, fixed=(1,), without=("reduction", "chunks")),
        Case(
            explanation_consistency,
            attributions,
            {"per_sample": True, "reverse": True},
            fixed=(1,),
            without=("chunks",),
        ),
    )


def test_by_hand():
    a, reference = torch.tensor([[1.0, -3.0]]), torch.tensor([1.0, 1.0])
    forward = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    backward = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert explanation_consistency(a, reference).item() == pytest.approx(forward)
    assert explanation_consistency(a, reference, reverse=True).item() == pytest.approx(backward)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 100), scale=st.floats(0.01, 100))
def test_zero_if_equal_alone_and_blind_to_scale(seed, scale):
    a = normal(4, 3, seed=seed)
    q = (a.abs() / a.abs().sum(1, keepdim=True)).mean(0)
    assert explanation_consistency(a, 7 * q).abs() < 1e-12
    value = explanation_consistency(a, REFERENCE)
    assert value > 0
    torch.testing.assert_close(explanation_consistency(-scale * a, REFERENCE), value)


def test_samples_without_attribution_do_not_count():
    a = normal(4, 3)
    a[2] = 0
    fewer = a[[0, 1, 3]]
    for per_sample in (False, True):
        value = explanation_consistency(a, REFERENCE, per_sample=per_sample)
        torch.testing.assert_close(value, explanation_consistency(fewer, REFERENCE, per_sample=per_sample))
    none = torch.zeros(2, 3, requires_grad=True)
    value = explanation_consistency(none, REFERENCE)
    assert value.item() == 0.0
    value.backward()


def test_weights_and_references_of_samples():
    a = normal(4, 3)
    weight = torch.tensor([1.0, 0.0, 2.0, 1.0])
    again = a[[0, 2, 2, 3]]
    torch.testing.assert_close(
        explanation_consistency(a, REFERENCE, weight=weight), explanation_consistency(again, REFERENCE)
    )
    each = REFERENCE.expand(4, 3)
    torch.testing.assert_close(explanation_consistency(a, each), explanation_consistency(a, REFERENCE))


def test_gradient_times_input_trains_the_network():
    matrix = normal(3, 1).requires_grad_()
    x = normal(5, 3, seed=1).requires_grad_()
    attribution = gradient_attribution((x @ matrix).tanh(), x)
    slope = 1 - (x @ matrix).tanh().square()
    torch.testing.assert_close(attribution, slope * matrix.T * x)
    explanation_consistency(attribution, REFERENCE).backward()
    assert matrix.grad.abs().sum() > 0


def test_bad_input_and_status():
    a = normal(4, 3)
    for call, words in (
        (lambda: explanation_consistency(a[0], REFERENCE), "attribution="),
        (lambda: explanation_consistency(a, REFERENCE[:2]), "reference="),
        (lambda: explanation_consistency(a, -REFERENCE), "reference=-0.5"),
        (lambda: explanation_consistency(a, 0 * REFERENCE), "all zero"),
        (lambda: gradient_attribution(a, a), "inputs="),
    ):
        with pytest.raises(ForecastError, match=words):
            call()
    assert entry("explanation_consistency").status == "from memory"
