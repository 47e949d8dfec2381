import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.core.errors import ForecastError
from forecast.losses import multilabel as m
from forecast.losses.classification import cross_entropy
from tests.losses import laws
from tests.losses.laws import Case, integers, normal


def labelled(n, k=6):
    return normal(n, k), laws.binary(n, k).double()


def maps(n):
    return normal(n, 3, 6), laws.binary(n, 3, 6).double()


CASES = [
    Case("decoupled_softmax", m.decoupled_softmax, labelled, fixed=(1,)),
    Case("decoupled_softmax", m.decoupled_softmax, maps, {"class_dim": -1}, fixed=(1,)),
    Case("soft_top_k", m.soft_top_k, labelled, {"k": 2}, fixed=(1,)),
    Case("soft_top_k", m.soft_top_k, maps, {"k": 3.5, "class_dim": -1, "steepness": 2.0}, fixed=(1,)),
]


@laws.over(CASES)
def test_laws(law, case):
    law(case)


def test_decoupled_by_hand():
    f = torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.float64).log()
    value = m.decoupled_softmax(f, torch.tensor([[1, 1, 0]]))
    assert value.item() == pytest.approx(-(math.log(0.2 / 0.7) + math.log(0.3 / 0.8)) / 2)


def test_decoupled_limits():
    f, y = normal(5, 4), integers(4, 5)
    one = torch.nn.functional.one_hot(y, 4)
    torch.testing.assert_close(m.decoupled_softmax(f, one), cross_entropy(f, y))
    for labels in (torch.zeros(5, 4), torch.ones(5, 4)):
        leaf = f.clone().requires_grad_()
        value = m.decoupled_softmax(leaf, labels)
        value.backward()
        assert value.item() == 0 and (leaf.grad == 0).all()


def test_true_classes_do_not_push_each_other_down():
    f, y = labelled(3)
    f = f.requires_grad_()
    m.decoupled_softmax(f, y).backward()
    assert (f.grad[y == 1] < 0).all() and (f.grad[y == 0] > 0).all()
    plain = f.detach().clone().requires_grad_()
    cross_entropy(plain, y / y.sum(1, keepdim=True)).backward()
    assert (plain.grad[y == 1] > 0).any(), "as a softmax over all does"


def test_top_k_by_hand():
    f, y = torch.tensor([[math.log(3), math.log(3), 0.0]], dtype=torch.float64), torch.tensor([[1, 0, 1]])
    # with x = e^t: 2 * 3x / (1 + 3x) + x / (1 + x) = 1 gives 6x^2 + 3x - 1 = 0
    x = (-3 + math.sqrt(33)) / 12
    q = [3 * x / (1 + 3 * x), x / (1 + x)]
    assert 2 * q[0] + q[1] == pytest.approx(1)
    value = m.soft_top_k(f, y, k=1)
    assert value.item() == pytest.approx(-(math.log(q[0]) + math.log(q[1])) / 2)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 500), shift=st.floats(-50, 50), k=st.floats(0.2, 5.8), steepness=st.floats(0.1, 20))
def test_top_k(seed, shift, k, steepness):
    f, y = normal(3, 6, seed=seed), laws.binary(3, 6)
    q = m.soft_top_k_membership(f, k, steepness)
    torch.testing.assert_close(q.sum(1), torch.full((3,), k, dtype=torch.float64), rtol=1e-9, atol=0)
    torch.testing.assert_close(m.soft_top_k_membership(f + shift, k, steepness), q)
    assert (q.argsort(1) == f.argsort(1)).all() or steepness > 10  # saturated values tie
    f = f.requires_grad_()
    value = m.soft_top_k(f, y, k=k, steepness=steepness)
    value.backward()
    torch.testing.assert_close(f.grad.sum(1), torch.zeros(3, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(value.detach(), -(q.log() * y).sum(1).mean() / 3)


def test_jacobian():
    f, a = normal(5), 3.0
    q = m.soft_top_k_membership(f, 2, a)
    d = q * (1 - q)
    expected = a * (d.diag() - torch.outer(d, d) / d.sum())
    torch.testing.assert_close(
        torch.autograd.functional.jacobian(lambda x: m.soft_top_k_membership(x, 2, a), f), expected
    )


def test_steep_limit_is_the_top_k():
    f = normal(4, 9)
    q = m.soft_top_k_membership(f, 3, 1e4)
    hard = torch.zeros_like(f).scatter(1, f.topk(3).indices, 1.0)
    torch.testing.assert_close(q, hard, atol=1e-6, rtol=0)
    f = f.float().requires_grad_()
    value = m.soft_top_k(f, hard, k=3, steepness=1e4)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-3) and f.grad.isfinite().all()


@pytest.mark.parametrize("k", [4, 7.5])
def test_all_are_among_the_top_k_of_so_many(k):
    f = normal(2, 4).requires_grad_()
    value = m.soft_top_k(f, torch.ones(2, 4), k=k)
    value.backward()
    assert value.item() == 0 and (f.grad == 0).all()
    assert (m.soft_top_k_membership(f, k) == 1).all()


@pytest.mark.parametrize(
    ("function", "options", "labels", "words"),
    [
        (m.decoupled_softmax, {}, torch.full((2, 3), 0.5), "0 or 1"),
        (m.decoupled_softmax, {}, torch.zeros(2, 2), "shape"),
        (m.decoupled_softmax, {"class_dim": 2}, torch.zeros(2, 3), "class_dim=2"),
        (m.decoupled_softmax, {"mask": torch.ones(3)}, torch.zeros(2, 3), "mask of shape"),
        (m.soft_top_k, {"k": 0}, torch.zeros(2, 3), "k=0"),
        (m.soft_top_k, {"k": 1, "steepness": -1.0}, torch.zeros(2, 3), "steepness=-1.0"),
    ],
)
def test_bad_input(function, options, labels, words):
    with pytest.raises(ForecastError, match=words):
        function(torch.zeros(2, 3), labels, **options)
