import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from forecast.core.errors import ForecastError
from forecast.losses.score_matching import bias_aware, bias_weights, sliced_score_matching
from tests.losses import cases
from tests.losses.cases import Case, normal

MATRIX = normal(3, 3, seed=7)


def curved(x):
    return torch.tanh(x @ MATRIX.to(x.dtype))


def seeded(network, inputs, **at_call):
    return sliced_score_matching(network, inputs, generator=torch.Generator().manual_seed(3), **at_call)


def labelled(count):
    return normal(count, 3), normal(count, 3, seed=1), normal(count, seed=2).abs(), normal(count), normal(count, seed=4)


class TestEvery(cases.Every):
    CASES = (
        Case(bias_aware, labelled, {"balance": 0.5}, fixed=(2,), without=("chunks",)),
        Case(
            seeded,
            lambda n: (curved, normal(n, 3)),
            {"temperature": 0.5},
            name="sliced_score_matching",
            without=("chunks", "module", "mask"),
        ),
    )


def test_weights_by_hand():
    errors = torch.tensor([0.0, math.log(3)])
    assert bias_weights(errors).tolist() == pytest.approx([1.5, 0.5])
    mask = torch.tensor([True, False])
    assert bias_weights(errors, mask=mask).tolist() == pytest.approx([1.0, 0.0])
    assert bias_weights(errors, mask=~mask | mask, temperature=1e9).tolist() == pytest.approx([1.0, 1.0])
    assert bias_weights(errors, mask=torch.zeros(2)).tolist() == [0.0, 0.0]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 100), shift=st.floats(-10, 10), temperature=st.floats(0.05, 50))
def test_weights_have_a_mean_of_one_and_fall_with_the_error(seed, shift, temperature):
    errors = normal(6, seed=seed)
    weights = bias_weights(errors, temperature=temperature)
    assert weights.mean().item() == pytest.approx(1)
    torch.testing.assert_close(bias_weights(errors + shift, temperature=temperature), weights)
    assert (weights[errors.argsort()].diff() <= 0).all()


def test_bias_aware_by_hand():
    forecast, truth = torch.tensor([[1.0, 3.0], [0.0, 0.0]]), torch.zeros(2, 2)
    errors = torch.tensor([0.0, math.log(3)])
    each = bias_aware(forecast, truth, errors, reduction="none")
    assert each.tolist() == pytest.approx([1.5 * 2.0, 0.0])
    energy, wanted = torch.tensor([2.0, 0.0]), torch.zeros(2)
    each = bias_aware(forecast, truth, errors, energy, wanted, balance=0.8, reduction="none")
    assert each.tolist() == pytest.approx([1.5 * (2.0 + 0.25 * 2.0), 0.0])
    errors.requires_grad_()
    assert not bias_aware(forecast, truth, errors).requires_grad


def test_sliced_objective_by_hand():
    """F = -a x in one dimension: a^2 x^2 / 2 - kT a v^2."""
    x = torch.tensor([[2.0]])
    value = sliced_score_matching(lambda z: -0.5 * z, x, slices=1, generator=torch.Generator().manual_seed(0))
    v = torch.empty(1, 1).normal_(generator=torch.Generator().manual_seed(0)).item()
    assert value.item() == pytest.approx(0.5 * 1.0 - 0.5 * v * v)


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_gaussian_optimum(temperature):
    """States of variance 4: F = -kT x / 4."""
    x = 2 * normal(4000, 1)
    a = torch.tensor(temperature / 4, dtype=torch.float64, requires_grad=True)
    value = sliced_score_matching(
        lambda z: -a * z, x, temperature=temperature, slices=20, generator=torch.Generator().manual_seed(0)
    )
    (grad,) = torch.autograd.grad(value, a)
    # a mean x^2 - kT: standard errors of 0.09 a mean x^2 / 4 and 0.005 kT
    assert abs(grad.item()) < 0.1 * temperature


def test_slices_estimate_the_trace():
    x = normal(1, 3).expand(3000, 3)
    jacobian = torch.autograd.functional.jacobian(lambda z: curved(z[None])[0], x[0])
    exact = curved(x[:1]).square().sum() / 2 + jacobian.trace()
    estimate = sliced_score_matching(curved, x, slices=3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(estimate, exact, atol=0.1, rtol=0)


def test_it_trains_a_network_and_works_without_gradient():
    network = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 2))
    x = normal(6, 2, dtype=torch.float32)
    sliced_score_matching(network, x).backward()
    assert network[0].weight.grad.abs().sum() > 0
    with torch.no_grad():
        assert sliced_score_matching(network, x).isfinite()
    spoilt = x.clone()
    spoilt[1] = torch.nan
    mask = torch.arange(6) != 1
    draw = {"generator": torch.Generator().manual_seed(0)}
    assert sliced_score_matching(network, spoilt, mask=mask, **draw).isfinite()


def test_bad_input():
    forecast, truth, errors, energy, wanted = labelled(4)
    for call, words in (
        (lambda: bias_weights(errors, temperature=0.0), "temperature=0"),
        (lambda: bias_weights(truth), "errors="),
        (lambda: bias_aware(forecast, truth[:2], errors), "truth of shape"),
        (lambda: bias_aware(forecast, truth, errors[:2]), "errors="),
        (lambda: bias_aware(forecast, truth, errors, energy), "truth_energy="),
        (lambda: bias_aware(forecast, truth, errors, energy[:2], wanted[:2]), "forecast_energy of shape"),
        (lambda: bias_aware(forecast, truth, errors, balance=0.0), "balance=0"),
        (lambda: sliced_score_matching(lambda z: z[:, :1], truth), "network="),
        (lambda: sliced_score_matching(curved, truth, temperature=-1.0), "temperature=-1"),
        (lambda: sliced_score_matching(curved, truth, slices=0), "slices=0"),
    ):
        with pytest.raises(ForecastError, match=words):
            call()
