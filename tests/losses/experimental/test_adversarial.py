import math
import warnings

import pytest
import torch

from forecast.core.errors import ForecastError
from forecast.losses.classification import comp_sum, cross_entropy
from forecast.losses.common import from_memory
from forecast.losses.experimental.adversarial import smooth_adversarial_comp_sum
from forecast.losses.registry import build, entry
from tests.losses.laws import integers, normal

pytestmark = pytest.mark.filterwarnings("ignore:.*from memory")


def seeded():
    return torch.Generator().manual_seed(0)


def linear(weights):
    return lambda x: x @ weights


def test_it_warns_once_and_says_so():
    assert entry("smooth_adversarial_comp_sum").status == "from memory"
    assert smooth_adversarial_comp_sum is type(build({"name": "smooth_adversarial_comp_sum"})).function
    loss = from_memory(smooth_adversarial_comp_sum.__wrapped__)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            loss(torch.nn.Linear(3, 2), torch.zeros(2, 3), torch.tensor([0, 1]))
    assert sum("from memory" in str(w.message) for w in caught) == 1


@pytest.mark.parametrize("tau", [0.5, 1.0, 1.6])
def test_without_strength_it_is_comp_sum(tau):
    x, y, w = normal(5, 3), integers(4, 5), normal(3, 4, seed=2)
    value = smooth_adversarial_comp_sum(linear(w), x, y, tau=tau, margin=2.0, strength=0.0)
    torch.testing.assert_close(value, comp_sum(x @ w / 2, y, tau=tau))


def test_maximum_of_a_linear_network():
    """Two classes: D changes by (w_y - w_k) . d, at most radius * |w_y - w_k|_1."""
    x, y, w = normal(4, 3), torch.tensor([0, 1, 0, 1]), normal(3, 2, seed=2)
    value = smooth_adversarial_comp_sum(linear(w), x, y, strength=1.5, radius=0.2, steps=2, generator=seeded())
    worst = 0.2 * (w[:, 0] - w[:, 1]).abs().sum()
    torch.testing.assert_close(value, cross_entropy(x @ w, y) + 1.5 * worst)


def test_gradient_reaches_the_network_and_nothing_lingers():
    x, y = normal(4, 3).float(), integers(3, 4)
    network = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    value = smooth_adversarial_comp_sum(network, x, y, generator=seeded())
    assert all(p.grad is None for p in network.parameters())
    value.backward()
    assert all(p.grad.abs().sum() > 0 for p in network.parameters())
    again = smooth_adversarial_comp_sum(network, x, y, generator=seeded())
    assert again.item() == value.item() > comp_sum(network(x), y).item()


def test_differentiable_in_weights():
    x, y, w = normal(3, 2), integers(3, 3), normal(2, 3, seed=2).requires_grad_()
    options = {"radius": 0.1, "strength": 0.7}
    assert torch.autograd.gradcheck(
        lambda v: smooth_adversarial_comp_sum(linear(v), x, y, generator=seeded(), **options), w
    )


def test_reductions_mask_and_empty():
    x, y, w = normal(4, 3), integers(2, 4), normal(3, 2, seed=2).requires_grad_()

    def loss(**options):
        return smooth_adversarial_comp_sum(linear(w), x, y, generator=seeded(), **options)

    each = loss(reduction="none")
    torch.testing.assert_close(loss(), each.mean())
    torch.testing.assert_close(loss(reduction="sum"), each.sum())
    area = torch.tensor([1.0, 0.0, 2.0, 1.0])
    torch.testing.assert_close(loss(weight=area), (each * area).sum() / 4)
    nothing = loss(mask=torch.zeros(4, dtype=torch.bool))
    assert nothing.item() == 0 and nothing.requires_grad


def test_autocast_network_gives_float32():
    network, y = torch.nn.Linear(3, 2), torch.tensor([0, 1])
    with torch.autocast("cpu", torch.bfloat16):
        value = smooth_adversarial_comp_sum(network, torch.zeros(2, 3), y, generator=seeded())
    assert value.dtype == torch.float32 and value.isfinite()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tau": -1.0}, "tau=-1.0"),
        ({"margin": 0.0}, "margin=0.0"),
        ({"radius": -0.1}, "radius=-0.1"),
        ({"strength": -0.1}, "strength=-0.1"),
        ({"steps": 0}, "steps=0"),
    ],
)
def test_bad_input(options, words):
    with pytest.raises(ForecastError, match=words):
        smooth_adversarial_comp_sum(lambda x: x, torch.zeros(2, 2), torch.tensor([0, 1]), **options)
    with pytest.raises(ForecastError, match="labels: 2"):
        smooth_adversarial_comp_sum(lambda x: x, torch.zeros(2, 2), torch.tensor([0, 2]))
    assert math.isfinite(smooth_adversarial_comp_sum(lambda x: x, torch.zeros(2, 2), torch.tensor([0, 1])).item())
