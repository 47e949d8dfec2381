import math

import pytest
import torch

from forecast.core.errors import ForecastError
from forecast.losses.experimental.reconstruction import adjustable_reconstruction
from tests.losses import laws
from tests.losses.laws import Case, normal

pytestmark = pytest.mark.filterwarnings("ignore:.*from memory")


def inputs(n):
    return normal(n, 4), normal(n, 4, seed=1), normal(n, 4, seed=2).exp()


CASES = [
    Case("adjustable_reconstruction", adjustable_reconstruction, inputs, s) for s in ({}, {"alpha": 2.0, "beta": 0.5})
]


@laws.over(CASES)
def test_laws(law, case):
    law(case)


def test_by_hand():
    x, m, v = torch.tensor([3.0]), torch.tensor([1.0]), torch.tensor([2.0])
    expected = 0.5 * 4 / 2 + 3 * math.log(2)
    assert adjustable_reconstruction(m, x, v, alpha=0.5, beta=3.0).item() == pytest.approx(expected)


def test_limits():
    m, x, v = inputs(5)
    score = -torch.distributions.Normal(m, v.sqrt()).log_prob(x)
    value = adjustable_reconstruction(m, x, v, reduction="none")
    torch.testing.assert_close(value, 2 * score - math.log(2 * math.pi))
    torch.testing.assert_close(
        adjustable_reconstruction(m, x, torch.ones_like(v), beta=0.0), torch.nn.functional.mse_loss(m, x)
    )


def test_best_variance_is_the_squared_error():
    m, x, _ = inputs(5)
    best = (2.0 * (x - m).square() / 0.5).requires_grad_()
    adjustable_reconstruction(m, x, best, alpha=2.0, beta=0.5).backward()
    assert best.grad.abs().max() < 1e-9


def test_variances_below_the_floor_are_the_floor():
    v = torch.tensor([-1.0], requires_grad=True)
    value = adjustable_reconstruction(torch.zeros(1), torch.ones(1), v, floor=0.5)
    value.backward()
    assert value.item() == pytest.approx(2 + math.log(0.5)) and v.grad.item() == 0


def test_bad_input():
    m, x, v = inputs(3)
    for words, call in {
        "alpha=-1": lambda: adjustable_reconstruction(m, x, v, alpha=-1),
        "floor=0": lambda: adjustable_reconstruction(m, x, v, floor=0),
        "variance of shape": lambda: adjustable_reconstruction(m, x, v[:1]),
    }.items():
        with pytest.raises(ForecastError, match=words):
            call()
