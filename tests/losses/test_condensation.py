import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from forecast.core.errors import ForecastError
from forecast.losses.condensation import gradient_matching
from forecast.losses.registry import build
from tests.losses.cases import normal


def layers(seed):
    return [normal(4, 3, seed=seed), normal(4, seed=seed + 1), normal(2, 4, 3, 3, seed=seed + 2)]


def test_by_hand():
    real = [torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])]
    synthetic = [torch.tensor([[3.0, 0.0], [5.0, 0.0], [-1.0, -1.0]])]
    each = gradient_matching(real, synthetic, reduction="none")
    assert each.tolist() == pytest.approx([0.0, 1.0, 2.0])
    assert gradient_matching(real, synthetic).item() == pytest.approx(3.0)
    assert gradient_matching(real, synthetic, reduction="mean").item() == pytest.approx(1.0)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 100), scale=st.floats(0.01, 100))
def test_zero_for_identical_sets_and_blind_to_scale(seed, scale):
    real, synthetic = layers(seed), layers(seed + 50)
    assert gradient_matching(real, [scale * g for g in real]).abs() < 1e-9
    value = gradient_matching(real, synthetic)
    torch.testing.assert_close(gradient_matching([scale * g for g in real], synthetic), value)
    assert 0 <= value <= 2 * 6


def test_axes_after_the_first_are_one_and_vectors_do_not_count():
    real, synthetic = layers(0), layers(9)
    flat = [g.flatten(1) for g in (real[0], real[2])], [g.flatten(1) for g in (synthetic[0], synthetic[2])]
    torch.testing.assert_close(gradient_matching(*flat), gradient_matching(real, synthetic))


def test_zero_gradients_are_skipped():
    real, synthetic = layers(0)[:1], [layers(9)[0].clone()]
    each = gradient_matching(real, synthetic, reduction="none")
    synthetic[0][1] = 0
    synthetic[0].requires_grad_()
    fewer = gradient_matching(real, synthetic, reduction="none")
    assert fewer.tolist() == pytest.approx([each[0].item(), 0, each[2].item(), each[3].item()])
    fewer.sum().backward()
    assert synthetic[0].grad.isfinite().all()
    biases = [normal(3).requires_grad_()]
    value = gradient_matching([normal(3)], biases)
    assert value.item() == 0.0
    value.backward()
    assert gradient_matching([], []).item() == 0.0


def test_differentiable_and_only_in_the_synthetic():
    real, synthetic = layers(0)[0], layers(9)[0].requires_grad_()
    assert torch.autograd.gradcheck(lambda g: gradient_matching([real], [g]), (synthetic,))
    real.requires_grad_()
    gradient_matching([real], [synthetic]).backward()
    assert real.grad is None


def test_half_precision_is_widened():
    real, synthetic = ([g.bfloat16() for g in layers(seed)] for seed in (0, 9))
    assert gradient_matching(real, synthetic).dtype == torch.float32


def test_synthetic_samples_are_moved_towards_the_gradient_of_the_real():
    """The gradient of a network's loss is matched by one synthetic sample of a linear problem."""
    network = nn.Linear(3, 2, bias=False, dtype=torch.float64)
    loss = build({"name": "gradient_matching"})
    x, y = normal(20, 3), normal(20, 2, seed=1)
    real = torch.autograd.grad((network(x) - y).square().mean(), network.parameters())
    made, label = normal(4, 3, seed=2).requires_grad_(), normal(4, 2, seed=3)
    values = []
    for _ in range(30):
        ours = torch.autograd.grad((network(made) - label).square().mean(), network.parameters(), create_graph=True)
        value = loss(real, ours)
        (step,) = torch.autograd.grad(value, made)
        made = (made - 0.5 * step).detach().requires_grad_()
        values.append(value.item())
    assert values[-1] < 0.1 * values[0]


def test_bad_input():
    real = layers(0)
    with pytest.raises(ForecastError, match="synthetic=2"):
        gradient_matching(real, real[:2])
    with pytest.raises(ForecastError, match="synthetic of shape"):
        gradient_matching(real[:1], real[1:2])
