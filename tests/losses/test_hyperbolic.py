import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from forecast.core.errors import ForecastError
from forecast.losses.hyperbolic import (
    PseudoNegatives,
    hyperbolic_cross_entropy,
    hyperbolic_logits,
    hyperbolic_pairwise_confusion,
    mobius_add,
    poincare_distance,
    to_ball,
)
from tests.losses import cases
from tests.losses.cases import Case, normal


def views(count):
    return normal(count, 3), normal(count, 3, seed=1)


def planes(count):
    return normal(count, 3), torch.arange(count) % 2, normal(2, 3, seed=1), normal(2, 3, seed=2)


class TestEvery(cases.Every):
    CASES = (
        Case(hyperbolic_pairwise_confusion, views, {"clip": None}, without=("chunks",)),
        Case(hyperbolic_cross_entropy, planes, {"clip": None}, without=("chunks",)),
    )


def test_distance_on_a_line_by_hand():
    """Through the origin: twice the difference of artanh at c = 1."""
    x, y = torch.tensor([0.5, 0.0]), torch.tensor([-0.25, 0.0])
    expected = 2 * (math.atanh(0.5) + math.atanh(0.25))
    assert poincare_distance(x, y, curvature=1.0).item() == pytest.approx(expected, rel=1e-6)
    # from a feature of norm 1 at the origin: the map puts it at a distance of 2
    zero = torch.zeros(1, 2)
    assert hyperbolic_pairwise_confusion(torch.tensor([[0.6, 0.8]]), zero).item() == pytest.approx(2.0, rel=1e-5)


def test_distance_has_artanh_and_not_arctan():
    """The official loss has arctan, which is shorter."""
    x, y = torch.tensor([0.9, 0.0]), torch.tensor([0.0, 0.0])
    value = poincare_distance(x, y, curvature=1.0).item()
    assert value == pytest.approx(2 * math.atanh(0.9), rel=1e-5)
    assert abs(value - 2 * math.atan(0.9)) > 1


def test_mean_is_over_the_pairs_and_not_twice_them():
    a, b = views(6)
    each = hyperbolic_pairwise_confusion(a, b, reduction="none")
    assert each.shape == (6,)
    torch.testing.assert_close(hyperbolic_pairwise_confusion(a, b), each.sum() / 6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 200))
def test_distance_equals_its_arcosh_form_and_is_a_metric(seed):
    x, y, z = (to_ball(0.7 * normal(4, 3, seed=seed + k), curvature=1.0, clip=None) for k in (0, 300, 600))
    away = (x - y).square().sum(1)
    form = torch.acosh(1 + 2 * away / ((1 - x.square().sum(1)) * (1 - y.square().sum(1))))
    d = lambda a, b: poincare_distance(a, b, curvature=1.0)  # noqa: E731
    torch.testing.assert_close(d(x, y), form, rtol=1e-9, atol=0)
    torch.testing.assert_close(d(x, y), d(y, x))
    assert (d(x, z) <= d(x, y) + d(y, z) + 1e-12).all()
    turn = torch.linalg.qr(normal(3, 3, seed=seed))[0]
    torch.testing.assert_close(d(x @ turn, y @ turn), d(x, y))


def test_flat_limit():
    a, b = views(5)
    torch.testing.assert_close(
        hyperbolic_pairwise_confusion(a, b, curvature=1e-10, clip=None, reduction="none"),
        2 * (a - b).norm(dim=1),
        rtol=1e-6,
        atol=0,
    )
    x, _, p, n = planes(5)
    torch.testing.assert_close(
        hyperbolic_logits(x, p, n, curvature=1e-10), 4 * ((x[:, None] - p) * n).sum(-1), rtol=1e-6, atol=1e-8
    )


def test_logits_are_distances_to_the_plane():
    """A plane through the origin: asinh(2 sqrt(c) x / (1 - c x^2)) / sqrt(c) is the distance, doubled for l_p |a|."""
    x = torch.tensor([[0.3, 0.0]], dtype=torch.float64)
    normal_ = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    value = hyperbolic_logits(x, torch.zeros(1, 2, dtype=torch.float64), normal_, curvature=0.5)
    away = poincare_distance(x, torch.zeros_like(x), curvature=0.5)
    torch.testing.assert_close(value[0], 4 * away)


def test_cross_entropy_is_that_of_the_logits_and_ignores():
    x, labels, p, n = planes(6)
    labels[2] = -100
    inside = [to_ball(part) for part in (x, p)]
    expected = F.cross_entropy(hyperbolic_logits(*inside, n), labels)
    torch.testing.assert_close(hyperbolic_cross_entropy(x, labels, p, n), expected)


def test_coincident_and_far_points_have_finite_gradients():
    for x, y in ((torch.zeros(2, 3), torch.zeros(2, 3)), (torch.full((2, 3), 1e4), torch.full((2, 3), -1e4))):
        x.requires_grad_()
        for clip in (2.0, None):
            (grad,) = torch.autograd.grad(hyperbolic_pairwise_confusion(x, y, clip=clip), x)
            assert grad.isfinite().all()


def test_clip_and_map():
    long = torch.tensor([[30.0, 40.0]])
    torch.testing.assert_close(to_ball(long), to_ball(long / 25))
    assert to_ball(long, clip=None).norm() <= 1 / math.sqrt(0.1) + 1e-5
    zero = torch.zeros(1, 2)
    torch.testing.assert_close(mobius_add(zero, long / 100), long / 100)
    torch.testing.assert_close(mobius_add(-long / 100, long / 100), zero)


def test_pseudo_negatives_keep_a_running_mean():
    draws = PseudoNegatives(2, momentum=0.5, variance=4.0)
    ones = torch.ones(20_000, 2)
    made = draws(ones, torch.Generator().manual_seed(0))
    assert draws.mean.tolist() == [0.5, 0.5]
    # standard errors 0.014 and 0.02
    assert made.mean().item() == pytest.approx(0.5, abs=0.05)
    assert made.var().item() == pytest.approx(4.0, abs=0.1)
    draws(ones[:3])
    assert draws.mean.tolist() == [0.75, 0.75]  # the official code would have forgotten
    assert draws.state_dict().keys() == {"mean"}
    draws.eval()(ones[:3])
    assert draws.mean.tolist() == [0.75, 0.75]
    draws.reset_state()
    assert draws.mean.tolist() == [0.0, 0.0]


def test_bad_input():
    a, b = views(4)
    x, labels, p, n = planes(4)
    for call, words in (
        (lambda: hyperbolic_pairwise_confusion(a, b[:2]), "second of shape"),
        (lambda: hyperbolic_pairwise_confusion(a, b, curvature=-1.0), "curvature=-1"),
        (lambda: hyperbolic_cross_entropy(x, labels + 1, p, n), "labels="),
        (lambda: hyperbolic_cross_entropy(x, labels, p, n[:1]), "normals of shape"),
        (lambda: PseudoNegatives(3, momentum=1.0), "momentum=1"),
    ):
        with pytest.raises(ForecastError, match=words):
            call()
