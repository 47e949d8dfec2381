import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.core.errors import ForecastError
from forecast.losses.group_ordering import group_ordering, soft_sort, upper_mass
from tests.losses import cases
from tests.losses.cases import Case, normal


class TestEvery(cases.Every):
    CASES = (Case(group_ordering, lambda n: (normal(n, 3, 4),), {"negatives": 2, "stop_gradient": False}),)


def test_two_scores_by_hand():
    swapped = 0.5 - math.atan(2.0) / math.pi  # probability that (3, 1) are in order, at steepness 1
    scores, probability = soft_sort(torch.tensor([3.0, 1.0]), steepness=1.0)
    assert scores.tolist() == pytest.approx([3 * swapped + (1 - swapped), 3 * (1 - swapped) + swapped])
    torch.testing.assert_close(probability, torch.tensor([[swapped, 1 - swapped], [1 - swapped, swapped]]))


@settings(max_examples=25, deadline=None)
@given(size=st.integers(1, 8), seed=st.integers(0, 100), steepness=st.floats(0.1, 50))
def test_probabilities_are_doubly_stochastic_and_sort_the_scores(size, seed, steepness):
    x = normal(3, size, seed=seed)
    scores, probability = soft_sort(x, steepness=steepness)
    ones = torch.ones(3, size, dtype=torch.float64)
    torch.testing.assert_close(probability.sum(1), ones)
    torch.testing.assert_close(probability.sum(2), ones)
    torch.testing.assert_close((x[:, None] @ probability)[:, 0], scores)
    for ranks in range(size + 1):
        mass = probability[..., size - ranks :].sum(-1)
        torch.testing.assert_close(upper_mass(x, ranks, steepness=steepness), mass)


def test_steep_is_sorted():
    x = normal(4, 9)
    scores, probability = soft_sort(x, steepness=1e9)
    torch.testing.assert_close(scores, x.sort(1).values, atol=1e-6, rtol=0)
    assert torch.equal(probability.argmax(1), x.argsort(1))


def test_network_is_that_of_the_official_package():
    """Values of diffsort 0.2: odd_even, cauchy, steepness 3, of (3, 1, 2, 0.5)."""
    scores, probability = soft_sort(torch.tensor([3.0, 1.0, 2.0, 0.5]), steepness=3.0)
    torch.testing.assert_close(scores, torch.tensor([0.7979, 1.1193, 1.8949, 2.6879]), atol=1e-4, rtol=0)
    first = torch.tensor([0.0456, 0.0560, 0.0972, 0.8012])
    torch.testing.assert_close(probability[0], first, atol=1e-4, rtol=0)


def test_one_negative_by_hand():
    """Anchors are unit vectors, positives equal to them: scores (0, 1) in order."""
    views = torch.eye(2, dtype=torch.float64)[:, None].expand(2, 2, 2)
    right = 0.5 + math.atan(1.0) / math.pi
    assert group_ordering(views, negatives=1).item() == pytest.approx(-math.log(right))


def test_well_separated_gives_zero_and_mixed_up_does_not():
    centres = torch.eye(6, dtype=torch.float64)[:, None]
    apart = centres + 0.01 * normal(6, 3, 6)
    assert group_ordering(apart, negatives=3, steepness=1e5).item() < 1e-3
    mixed = apart.clone()
    mixed[:, 1] = apart[:, 1].roll(1, 0)
    assert group_ordering(mixed, negatives=3, steepness=1e5).item() > 1


def test_stopped_gradient_is_the_anchors():
    views = normal(4, 2, 3).requires_grad_()
    full, stopped = (
        torch.autograd.grad(group_ordering(views, negatives=2, stop_gradient=stop), views)[0] for stop in (False, True)
    )
    assert not torch.allclose(full, stopped)
    torch.testing.assert_close(group_ordering(views, negatives=2), group_ordering(views.detach(), negatives=2))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 100))
def test_rotation_and_order_do_not_matter(seed):
    views = normal(5, 3, 4, seed=seed)
    turn, order = torch.linalg.qr(normal(4, 4, seed=seed))[0], torch.randperm(5)
    value = group_ordering(views, negatives=2)
    torch.testing.assert_close(group_ordering(views @ turn, negatives=2), value)
    torch.testing.assert_close(group_ordering(views[order].flip(1), negatives=2), value)


def test_bad_input():
    for views, settings_, words in (
        (torch.zeros(4, 3), {}, "views="),
        (torch.zeros(4, 1, 3), {}, "views="),
        (torch.zeros(4, 2, 3), {}, "negatives=10"),
        (torch.zeros(4, 2, 3), {"negatives": 0}, "negatives=0"),
        (torch.zeros(4, 2, 3), {"negatives": 2, "steepness": -1.0}, "steepness=-1"),
    ):
        with pytest.raises(ForecastError, match=words):
            group_ordering(views, **settings_)
