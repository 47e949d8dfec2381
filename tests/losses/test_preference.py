import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.core.errors import ForecastError
from forecast.losses.classification import cross_entropy
from forecast.losses.preference import fidelity, preference_to_classify
from tests.losses import laws
from tests.losses.laws import Case, integers, normal


def gaussians(n):
    return normal(n, 2), normal(n, 2, seed=2).exp(), normal(n, 2, seed=3), normal(n, 2, seed=4).exp()


def preferences(n):
    pairs = torch.tensor([[0, 1], [2, 3], [1, 3]])[: 3 if n else 0]
    return normal(n, 3), integers(3, n), normal(n, 2, seed=5), pairs, torch.tensor([1.0, 0.0, 0.5])[: len(pairs)]


@laws.over([Case("fidelity", fidelity, gaussians)])
def test_laws(law, case):
    law(case)


@laws.over(
    [Case("preference_to_classify", preference_to_classify, preferences, {"strength": 0.5}, fixed=(4,))],
    without=("empty_is_zero", "masked_is_not_looked_at"),  # pairs have no mask; tested below
)
def test_laws_of_preferences(law, case):
    law(case)


def test_fidelity_by_hand():
    mean, std = torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.tensor([[0.6, 0.8]], dtype=torch.float64)
    p = (1 + math.erf(1 / math.sqrt(2))) / 2  # one standard deviation apart
    value = fidelity(mean, std, torch.zeros_like(mean), std)
    assert value.item() == pytest.approx(1 - math.sqrt(p / 2) - math.sqrt((1 - p) / 2), abs=1e-7)
    certain = fidelity(mean, torch.zeros_like(std), mean, torch.zeros_like(std))
    assert certain.item() == pytest.approx(0, abs=2e-4)  # sqrt(eps)
    opposite = fidelity(mean, torch.zeros_like(std), -mean, torch.zeros_like(std))
    assert opposite.item() == pytest.approx(1, abs=1e-3)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 500), scale=st.floats(0.01, 100), shift=st.floats(-10, 10))
def test_fidelity(seed, scale, shift):
    m, s, n, t = normal(3, 2, 4, seed=seed), *(normal(3, 2, 4, seed=seed + i) for i in (1, 2, 3))
    s, t = s.exp(), t.exp()
    value = fidelity(m, s, n, t, reduction="none")
    exact = fidelity(m, s, n, t, reduction="none", eps=1e-16)
    torch.testing.assert_close(exact, value, atol=2.1e-4, rtol=0)  # sqrt(eps) in each of two roots
    assert ((exact >= -1e-7) & (value <= 1)).all() and value.shape == (3, 4)
    torch.testing.assert_close(fidelity(m.flip(1), s.flip(1), n.flip(1), t.flip(1), reduction="none"), value)
    torch.testing.assert_close(fidelity(n, t, m, s, reduction="none"), value)
    torch.testing.assert_close(fidelity(scale * m + shift, scale * s, n, t, reduction="none"), value)
    assert fidelity(m, s, scale * m + shift, scale * s, eps=1e-16).abs().item() < 1e-7


def test_preferences_by_hand():
    f = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]], dtype=torch.float64)
    y, pairs, r = torch.tensor([0, 0]), torch.tensor([[0, 1]]), torch.tensor([1.0, 0.5], dtype=torch.float64)
    entropy = (math.log(2) + math.log(4 / 3)) / 2
    # the first is preferred but less probable, 1/2 against 3/4
    ranked = math.log1p(math.exp(-0.5))
    value = preference_to_classify(f, y, r, pairs, torch.tensor([1.0]), strength=2.0, consistency=3.0)
    assert value.item() == pytest.approx(entropy + 2 * (ranked + 3 * 0.25))
    other = preference_to_classify(f, y, r, pairs, torch.tensor([0.0]))
    assert other.item() == pytest.approx(entropy + ranked + 0.5)
    tie = preference_to_classify(f, y, r, pairs, torch.tensor([0.5]))
    assert tie.item() == pytest.approx(entropy + ranked + 0.25)


def test_heads_that_differ_are_rewarded_up_to_a_limit():
    f, y, _, pairs, q = preferences(4)
    r = normal(4, seed=6)

    def with_second(factor, **options):
        heads = torch.stack((r, factor * r), 1)
        return preference_to_classify(f, y, heads, pairs, q, **options) - preference_to_classify(
            f, y, heads, pairs, q, diversity=0.0
        )

    gap, other = r[pairs[:, 0]] - r[pairs[:, 1]], -2 * (r[pairs[:, 0]] - r[pairs[:, 1]])
    cross = [
        -(torch.sigmoid(a) * torch.sigmoid(b).log() + torch.sigmoid(-a) * torch.sigmoid(-b).log()).mean()
        for a, b in ((gap, other), (other, gap))
    ]
    torch.testing.assert_close(with_second(-2.0, diversity_limit=10.0), -sum(cross) / 2)
    assert with_second(-1000.0).item() == pytest.approx(-1.0)
    assert with_second(-1000.0, diversity_limit=0.3).item() == pytest.approx(-0.3)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 300), shift=st.floats(-10, 10))
def test_preferences(seed, shift):
    f, y, r, pairs, _ = preferences(4)
    q = normal(3, seed=seed).sigmoid()
    value = preference_to_classify(f, y, r, pairs, q)
    torch.testing.assert_close(preference_to_classify(f, y, r + shift, pairs, q), value)
    torch.testing.assert_close(preference_to_classify(f, y, r, pairs.flip(1), 1 - q), value)
    torch.testing.assert_close(preference_to_classify(f, y, r, pairs, q, strength=0.0), cross_entropy(f, y))
    torch.testing.assert_close(preference_to_classify(f, y, r, pairs[:0], q[:0]), cross_entropy(f, y))


def test_no_sample():
    f, y, r, pairs, q = preferences(0)
    value = preference_to_classify(f.requires_grad_(), y, r.requires_grad_(), pairs, q)
    value.backward()
    assert value.item() == 0 and r.grad is not None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pairs": torch.tensor([[0, 4]])}, "pairs=0 to 4: sample numbers lie in 0 to 3"),
        ({"pairs": torch.tensor([0, 1])}, "pairs of shape"),
        ({"preferred": torch.tensor([2.0])}, "preferred"),
        ({"preferred": torch.tensor([1.0, 0.0])}, "preferred of shape"),
        ({"rewards": torch.zeros(3)}, "rewards of shape"),
        ({"labels": torch.tensor([0, 1, 2, 3])}, "labels: 3"),
    ],
)
def test_bad_preferences(change, words):
    given_ = {"logits": torch.zeros(4, 3), "labels": torch.zeros(4).long(), "rewards": torch.zeros(4)}
    given_ |= {"pairs": torch.tensor([[0, 1]]), "preferred": torch.tensor([1.0])} | change
    with pytest.raises(ForecastError, match=words):
        preference_to_classify(*given_.values())


@pytest.mark.parametrize(
    ("shape", "std", "options", "words"),
    [
        ((2, 3), 1.0, {}, "pair_dim=1"),
        ((2, 2), -1.0, {}, "std: -1 must not be negative"),
        ((2, 2), 1.0, {"pair_dim": 5}, "pair_dim=5"),
    ],
)
def test_bad_fidelity(shape, std, options, words):
    m, s = torch.zeros(shape), torch.full(shape, std)
    with pytest.raises(ForecastError, match=words):
        fidelity(m, s, m, s, **options)
