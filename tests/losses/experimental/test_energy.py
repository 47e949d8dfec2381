import math

import pytest
import torch

from forecast.core.errors import ForecastError
from forecast.losses.experimental.energy import recovery_likelihood, refine
from tests.losses import laws
from tests.losses.laws import Case, normal

pytestmark = pytest.mark.filterwarnings("ignore:.*from memory")


def inputs(n):
    return normal(n), normal(n, seed=1), normal(n, 3, seed=2), normal(n, 3, seed=3)


@laws.over([Case("recovery_likelihood", recovery_likelihood, inputs, fixed=(3,))])
def test_laws(law, case):
    law(case)


def test_by_hand():
    f, g = torch.tensor([1.0]), torch.tensor([4.0])
    assert recovery_likelihood(f, g).item() == 3.0
    x, y = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 3.0]])
    assert recovery_likelihood(f, g, x, y, initializer=0.1).item() == pytest.approx(3.5)
    assert recovery_likelihood(f, f).item() == 0


def test_refined_fields_get_no_gradient():
    f, g, x, y = (z.requires_grad_() for z in inputs(3))
    recovery_likelihood(f, g, x, y).backward()
    assert y.grad is None and x.grad.abs().sum() > 0


def test_sampler_finds_the_posterior_of_a_gaussian():
    """f = -x^2 / 2, noise s: precision 1 + a^2 / s^2, mean a y / s^2 over it, a^2 = 1 - s^2; 20,000 chains."""
    s, count = 0.6, 20_000
    a = math.sqrt(1 - s * s)
    y = torch.full((count,), 1.5)
    x = refine(lambda z: -z.square() / 2, y, torch.zeros(count), sigma=s, steps=150, step_size=0.3,
               generator=torch.Generator().manual_seed(0))  # fmt: skip
    precision = 1 + a * a / s**2
    # standard error of the mean 0.004; the step's bias in the variance about step^2 / 4 of it, 2 percent
    assert x.mean().item() == pytest.approx(a * 1.5 / s**2 / precision, abs=0.02)
    assert x.var().item() == pytest.approx(1 / precision, rel=0.06)
    assert not x.requires_grad


def test_same_generator_same_samples():
    y = normal(3, 2)
    one, two = (refine(lambda z: 0 * z.sum(-1), y, y, sigma=0.3, steps=2, generator=torch.Generator().manual_seed(1))
                for _ in range(2))  # fmt: skip
    torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_bad_input():
    f, g, x, y = inputs(3)
    for words, call in {
        "refined": lambda: recovery_likelihood(f, g, x),
        "negative of shape": lambda: recovery_likelihood(f, g[:1]),
        "refined of shape": lambda: recovery_likelihood(f, g, x, y[:, :1]),
        "sigma=1": lambda: refine(torch.sum, x, x, sigma=1),
        "steps=0": lambda: refine(torch.sum, x, x, sigma=0.5, steps=0),
    }.items():
        with pytest.raises(ForecastError, match=words):
            call()
