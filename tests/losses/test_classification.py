import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.core.errors import ForecastError
from forecast.losses import classification as c
from forecast.losses.registry import build
from tests.losses import laws
from tests.losses.laws import Case, integers, normal


def labelled(n, k=4):
    return normal(n, k), integers(k, n)


def maps(n):
    return normal(n, 3, 4), integers(4, n, 3)


def soft(n):
    return normal(n, 4), normal(n, 4, seed=3).softmax(-1)


CASES = [
    Case("cross_entropy", c.cross_entropy, maps, {"class_dim": -1, "label_smoothing": 0.1}),
    Case("cross_entropy", c.cross_entropy, soft, {"class_weights": (1.0, 2.0, 0.5, 1.0)}, fixed=(1,)),
    Case("z", c.z_loss, labelled, {"slope": 0.7, "offset": 1.2}),
    *(Case("comp_sum", c.comp_sum, labelled, {"tau": tau}) for tau in (0.0, 0.6, 1.0, 1.00001, 1.5, 2.0)),
    Case("comp_sum", c.comp_sum, soft, {"tau": 1.4}, fixed=(1,)),
    Case("direct_coverage", c.direct_coverage, labelled, {"draws": 5.0}),
]


@laws.over(CASES)
def test_laws(law, case):
    law(case)


@laws.over(
    [Case("", c.normalized_softmax, lambda n: (normal(n, 3), integers(4, n), normal(4, 3, seed=5)))],
    without=("module_is_the_function",),
)
def test_laws_of_normalized_softmax(law, case):
    law(case)


def of(p, y=0):
    """Logits whose softmax is p, and the label y."""
    return torch.tensor([p], dtype=torch.float64).log(), torch.tensor([y])


@pytest.mark.parametrize(
    ("function", "options", "p", "value"),
    [
        (c.cross_entropy, {}, (0.2, 0.8), -math.log(0.2)),
        (c.cross_entropy, {"label_smoothing": 0.5}, (0.2, 0.8), -0.75 * math.log(0.2) - 0.25 * math.log(0.8)),
        (c.comp_sum, {"tau": 0.0}, (0.2, 0.8), 4.0),
        (c.comp_sum, {"tau": 1.0}, (0.2, 0.8), math.log(5)),
        (c.comp_sum, {"tau": 1.5}, (0.25, 0.75), (1 - 0.5) / 0.5),
        (c.comp_sum, {"tau": 2.0}, (0.2, 0.8), 0.8),
        (c.direct_coverage, {"draws": 3}, (0.5, 0.5), -math.log(7 / 8)),
        # z of the logits (log 4, 0) is (1, -1)
        (c.z_loss, {"slope": 2.0, "offset": 1.5}, (0.8, 0.2), math.log1p(math.exp(1.0)) / 2),
    ],
)
def test_by_hand(function, options, p, value):
    assert function(*of(p), **options).item() == pytest.approx(value, rel=1e-12)


def test_cross_entropy_is_torchs():
    f, y = maps(5)
    f = f.movedim(-1, 1)
    y[0, 0] = -100
    theirs = torch.nn.functional.cross_entropy(f, y, label_smoothing=0.2)
    torch.testing.assert_close(c.cross_entropy(f, y, label_smoothing=0.2), theirs)
    f, y = soft(5)
    torch.testing.assert_close(c.cross_entropy(f, y), torch.nn.functional.cross_entropy(f, y))
    torch.testing.assert_close(c.cross_entropy(f.softmax(1), y, from_logits=False), c.cross_entropy(f, y))


@settings(max_examples=25, deadline=None)
@given(scale=st.floats(0.1, 20), shift=st.floats(-20, 20), seed=st.integers(0, 50))
def test_invariances(scale, shift, seed):
    f, y = normal(4, 5, seed=seed), integers(5, 4, seed=seed)
    torch.testing.assert_close(c.z_loss(scale * f + shift, y), c.z_loss(f, y))
    for function in (c.comp_sum, c.direct_coverage, c.cross_entropy):
        torch.testing.assert_close(function(f + shift, y), function(f, y))
    w = normal(5, 5, seed=seed + 1)
    rows = torch.linspace(0.1, scale, 5, dtype=torch.float64)[:, None]
    torch.testing.assert_close(c.normalized_softmax(scale * f, y, rows * w), c.normalized_softmax(f, y, w))


def test_z_loss():
    f, y = labelled(5)
    hinge = c.z_loss(f, y, slope=1e4, offset=0.5)
    z = (f - f.mean(1, keepdim=True)) / f.std(1, correction=0, keepdim=True)
    expected = (0.5 - z.gather(1, y[:, None])).clamp_min(0).mean()
    torch.testing.assert_close(hinge, expected, atol=1e-4, rtol=0)
    flat = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    value = c.z_loss(flat, torch.tensor([0, 1]), offset=2.0)
    value.backward()
    assert value.item() == pytest.approx(math.log1p(math.exp(2.0)))
    assert flat.grad.isfinite().all()
    # the largest z there is: one logit apart from 9 equal ones
    best = c.z_loss(torch.eye(10, dtype=torch.float64)[:1], torch.tensor([0]), slope=1e6, offset=3.0)
    assert best.item() == pytest.approx(0, abs=1e-6)


def test_comp_sum_limits():
    f, y = labelled(6)
    torch.testing.assert_close(c.comp_sum(f, y, tau=1.0), c.cross_entropy(f, y))
    # continuous in tau: on both sides of where the series takes over
    for tau in (1 - 1.01e-4, 1 - 0.99e-4, 1 + 0.99e-4, 1 + 1.01e-4):
        entropy = c.cross_entropy(f, y, reduction="none")
        expected = torch.expm1((1 - tau) * entropy) / (1 - tau)
        torch.testing.assert_close(c.comp_sum(f, y, tau=tau, reduction="none"), expected, rtol=1e-7, atol=0)
    p = f.softmax(1).gather(1, y[:, None])[:, 0]
    torch.testing.assert_close(c.comp_sum(f, y, tau=1.7, reduction="none"), (1 - p**0.7) / 0.7)
    assert (c.comp_sum(100 * f, y, tau=1.2, reduction="none") <= 1 / 0.2 + 1e-12).all()


def test_comp_sum_of_a_hopeless_sample_is_finite():
    f = torch.tensor([[0.0, 1000.0]], requires_grad=True)
    value = c.comp_sum(f, torch.tensor([0]), tau=0.0)
    value.backward()
    assert value.isfinite() and f.grad.isfinite().all() and f.grad[0, 0] < 0


@settings(max_examples=25, deadline=None)
@given(p=st.floats(1e-6, 1 - 1e-6), draws=st.floats(1, 1000))
def test_direct_coverage_scales_the_gradient_of_cross_entropy(p, draws):
    grads = []
    for n in (draws, 1.0):
        f, y = of((p, 1 - p))
        f.requires_grad_()
        c.direct_coverage(f, y, draws=n).backward()
        grads.append(f.grad[0, 0].item())
    missed = (1 - p) ** draws
    factor = draws * (1 - p) ** (draws - 1) * p / (1 - missed)
    assert grads[0] == pytest.approx(factor * grads[1], rel=1e-6, abs=1e-9)
    assert grads[1] == pytest.approx(p - 1, rel=1e-9)


def test_direct_coverage_ends():
    log_p = torch.tensor([[-69.0, 0.0], [0.0, -200.0], [0.0, -16.0]], requires_grad=True)  # p = 1e-30, 1, 1 - 1e-7
    value = c.direct_coverage(log_p, torch.zeros(3, dtype=torch.long), draws=2, reduction="none")
    value.sum().backward()
    assert value[0].item() == pytest.approx(69 - math.log(2), rel=1e-6)
    assert value[1].item() == 0
    assert value[2].item() == pytest.approx(math.exp(-32), rel=1e-4)
    assert log_p.grad.isfinite().all() and log_p.grad[1].abs().max() == 0
    f, y = labelled(5)
    by_draws = [c.direct_coverage(f, y, draws=n).item() for n in (1, 2, 8, 100)]
    assert by_draws == sorted(by_draws, reverse=True)
    torch.testing.assert_close(c.direct_coverage(f, y), c.cross_entropy(f, y))


def test_normalized_softmax_module():
    module = build({"name": "normalized_softmax", "features": 3, "classes": 4, "temperature": 0.1})
    x, y = normal(5, 3).float(), integers(4, 5)
    module(x, y).backward()
    assert module.weights.grad.abs().sum() > 0
    # at temperature t the cosines are 1 with its own row and 0 with the other
    one = c.normalized_softmax(torch.tensor([[7.0, 0.0]]), torch.tensor([0]), torch.eye(2), temperature=0.5)
    assert one.item() == pytest.approx(math.log1p(math.exp(-2.0)), rel=1e-6)


@pytest.mark.parametrize(
    ("function", "options", "logits", "labels", "words"),
    [
        (c.cross_entropy, {}, (2, 3), [0, 3], "labels: 3 must be a class number, 0 to 2"),
        (c.cross_entropy, {}, (2, 3), [0, -1], "labels: -1"),
        (c.cross_entropy, {}, (2, 3), [0, 1, 1], "shape"),
        (c.cross_entropy, {}, (2, 3), [0.0, 1.0], "integers"),
        (c.cross_entropy, {}, (2, 3), [[0.0, 1.5, 0.0]] * 2, "labels: 1.5 must be a probability"),
        (c.cross_entropy, {"mask": torch.ones(3)}, (2, 3), [0, 1], "mask of shape"),
        (c.cross_entropy, {"label_smoothing": 1.0}, (2, 3), [0, 1], "label_smoothing=1.0"),
        (c.cross_entropy, {"class_weights": (1.0,)}, (2, 3), [0, 1], "class_weights"),
        (c.cross_entropy, {"class_dim": 2}, (2, 3), [0, 1], "class_dim=2"),
        (c.z_loss, {"slope": 0.0}, (2, 3), [0, 1], "slope=0.0"),
        (c.z_loss, {}, (2, 3), [[0.0, 1.0, 0.0]] * 2, "integer"),
        (c.comp_sum, {"tau": -1.0}, (2, 3), [0, 1], "tau=-1.0"),
        (c.direct_coverage, {"draws": 0.5}, (2, 3), [0, 1], "draws=0.5"),
    ],
)
def test_bad_input(function, options, logits, labels, words):
    with pytest.raises(ForecastError, match=words):
        function(torch.zeros(logits), torch.tensor(labels), **options)


def test_bad_input_of_normalized_softmax():
    with pytest.raises(ForecastError, match="temperature=-1"):
        c.normalized_softmax(torch.zeros(2, 3), torch.zeros(2).long(), torch.zeros(4, 3), temperature=-1)
    with pytest.raises(ForecastError, match=r"\(B, D\) and \(K, D\)"):
        c.normalized_softmax(torch.zeros(2, 3), torch.zeros(2).long(), torch.zeros(4, 2))


def test_probabilities_that_are_none():
    with pytest.raises(ForecastError, match="logits: 2 must be a probability"):
        c.comp_sum(torch.full((2, 3), 2.0), torch.tensor([0, 1]), from_logits=False)
