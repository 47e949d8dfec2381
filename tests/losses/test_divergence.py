import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import distributions

from forecast.core.errors import ForecastError
from forecast.losses.divergence import KINDS, categorical_divergence, gaussian_divergence
from tests.losses import cases
from tests.losses.cases import Case, normal


def four(count):
    return tuple(normal(count, 3, seed=seed) for seed in range(4))


def two(count):
    return normal(count, 4), normal(count, 4, seed=1)


class TestEvery(cases.Every):
    CASES = (
        *(Case(gaussian_divergence, four, {"kind": kind}, without=("chunks",)) for kind in KINDS),
        *(Case(categorical_divergence, two, {"kind": kind}, without=("chunks",)) for kind in KINDS),
    )


def gaussian(mean, logvar):
    return distributions.Independent(distributions.Normal(mean, (logvar / 2).exp()), 1)


def test_gaussian_kinds_are_those_of_torch():
    inputs = four(5)
    q, p = gaussian(*inputs[:2]), gaussian(*inputs[2:])
    forward, reverse = distributions.kl_divergence(q, p), distributions.kl_divergence(p, q)
    for kind, expected in (("forward", forward), ("reverse", reverse), ("symmetric", (forward + reverse) / 2)):
        torch.testing.assert_close(gaussian_divergence(*inputs, kind=kind, reduction="none"), expected)


def test_geometric_middle_is_the_normalised_root_of_the_product():
    x = torch.linspace(-30, 30, 20_001, dtype=torch.float64)
    step = x[1] - x[0]
    q, p = distributions.Normal(0.5, 1.5), distributions.Normal(-1.0, 0.7)
    root = ((q.log_prob(x) + p.log_prob(x)) / 2).exp()
    middle = (root / root.sum() / step).log()
    kl = [(d.log_prob(x).exp() * (d.log_prob(x) - middle)).sum() * step for d in (q, p)]
    inputs = [torch.tensor([[v]], dtype=torch.float64) for v in (0.5, 2 * math.log(1.5), -1.0, 2 * math.log(0.7))]
    torch.testing.assert_close(gaussian_divergence(*inputs, kind="jensen_shannon"), (kl[0] + kl[1]) / 2)


def test_by_hand():
    one = lambda value: torch.tensor([[value]])  # noqa: E731
    # two unit Gaussians at a distance of 2: KL 2; to their middle 1/2 each
    inputs = one(0.0), one(0.0), one(2.0), one(0.0)
    assert [gaussian_divergence(*inputs, kind=kind).item() for kind in KINDS] == pytest.approx([2, 2, 2, 0.5])
    certain = torch.tensor([[0.0, -1e4]])
    even = torch.tensor([[0.0, 0.0]])
    assert categorical_divergence(certain, even, kind="forward").item() == pytest.approx(math.log(2))
    expected = (math.log(4 / 3) + math.log(2 / 3) / 2 + math.log(2) / 2) / 2
    assert categorical_divergence(certain, even).item() == pytest.approx(expected)


def test_categorical_kinds_are_those_of_torch():
    a, b = two(6)
    q, p = distributions.Categorical(logits=a), distributions.Categorical(logits=b)
    forward, reverse = distributions.kl_divergence(q, p), distributions.kl_divergence(p, q)
    middle = distributions.Categorical(probs=(q.probs + p.probs) / 2)
    js = (distributions.kl_divergence(q, middle) + distributions.kl_divergence(p, middle)) / 2
    for kind, expected in zip(KINDS, (forward, reverse, (forward + reverse) / 2, js), strict=True):
        torch.testing.assert_close(categorical_divergence(a, b, kind=kind, reduction="none"), expected)
    torch.testing.assert_close(categorical_divergence(a.T, b.T, class_dim=0), categorical_divergence(a, b))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 300), size=st.floats(0.1, 30))
def test_laws(seed, size):
    """Not negative, zero for equals, symmetric where it should be; Jensen-Shannon at most log 2."""
    a, b = size * normal(3, 4, seed=seed), size * normal(3, 4, seed=seed + 1)
    for kind in KINDS:
        value = categorical_divergence(a, b, kind=kind)
        assert value >= -1e-12
        assert categorical_divergence(a, a + 3, kind=kind).abs() < 1e-12  # logits are free up to a constant
        flipped = {"forward": "reverse", "reverse": "forward"}.get(kind, kind)
        torch.testing.assert_close(categorical_divergence(b, a, kind=flipped), value)
    assert categorical_divergence(a, b) <= math.log(2) + 1e-12
    inputs = [normal(3, 2, seed=seed + k) for k in range(4)]
    for kind in KINDS:
        value = gaussian_divergence(*inputs, kind=kind)
        assert value >= 0
        assert gaussian_divergence(*inputs[:2], *inputs[:2], kind=kind).abs() < 1e-12
    assert gaussian_divergence(*inputs, kind="jensen_shannon") <= gaussian_divergence(*inputs, kind="symmetric")


def test_disjoint_categories_are_log_two_apart_and_finite():
    far = torch.tensor([[1e4, -1e4]], requires_grad=True)
    value = categorical_divergence(far, -far.detach())
    assert value.item() == pytest.approx(math.log(2))
    value.backward()
    assert far.grad.isfinite().all()


def test_bad_input():
    a, b = two(3)
    with pytest.raises(ForecastError, match="kind=both"):
        categorical_divergence(a, b, kind="both")
    with pytest.raises(ForecastError, match="kind=both"):
        gaussian_divergence(a, a, b, b, kind="both")
    with pytest.raises(ForecastError, match="prior_logits of shape"):
        categorical_divergence(a, b[:2])
    with pytest.raises(ForecastError, match="prior_logvar of shape"):
        gaussian_divergence(a, a, b, b[:2])
