import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import softplus

from forecast.core.errors import ForecastError
from forecast.losses import ranking as r
from tests.losses import laws
from tests.losses.laws import Case, normal


def maps(n):
    return normal(n, 6), laws.binary(n, 6).double()


def patches(n):
    return normal(n, 6), normal(n, 6, seed=4)


CASES = [
    Case("mann_whitney", r.mann_whitney, maps, {"temperature": 0.7}, fixed=(1,), sets=True),
    Case("mann_whitney", r.mann_whitney, maps, {"normalize": "events", "temperature": 2.0}, fixed=(1,), sets=True),
    Case(
        "mann_whitney",
        r.mann_whitney,
        maps,
        {"batch": False, "temperature": 0.3, "negatives": 4},
        fixed=(1,),
        sets=True,
        seeded=True,
    ),
    Case("pair_ranking", r.pair_ranking, patches, fixed=(1,), sets=True),
    Case("pair_ranking", r.pair_ranking, patches, {"form": "standardized"}, fixed=(1,), sets=True),
]


@laws.over(CASES)
def test_laws(law, case):
    law(case)


def by_pairs(s, y, w, t):
    """The definition, all pairs at once."""
    s, y, w = s.reshape(-1), y.reshape(-1), w.reshape(-1)
    pair = (w * y)[:, None] * (w * (1 - y))
    return (pair * softplus((s - s[:, None]) / t)).sum() / pair.sum()


def test_by_hand():
    s, y = torch.tensor([[2.0, 0.0, 1.0]], dtype=torch.float64), torch.tensor([[1, 0, 0]])
    pairs = [math.log1p(math.exp(-4)), math.log1p(math.exp(-2))]
    assert r.mann_whitney(s, y, temperature=0.5).item() == pytest.approx(sum(pairs) / 2)
    assert r.mann_whitney(s, y, temperature=0.5, normalize="events").item() == pytest.approx(sum(pairs))
    area = torch.tensor([5.0, 1.0, 3.0])
    weighted = (pairs[0] + 3 * pairs[1]) / 4
    assert r.mann_whitney(s, y, temperature=0.5, weight=area).item() == pytest.approx(weighted)
    target = torch.tensor([[0.3, 0.1, 0.3]])  # the pairs (0, 1) and (2, 1); 0 and 2 tie
    ranked = (math.log1p(math.exp(-2)) + math.log1p(math.exp(-1))) / 2
    assert r.pair_ranking(s, target).item() == pytest.approx(ranked)
    # target of mean 0.7 / 3 and variance 0.02 / 2.25: standardised to (1, -2, 1) / sqrt 2
    a = 1 / math.sqrt(2)
    expected = ((2 - a) ** 2 + (2 * a) ** 2 + (1 - a) ** 2) / 3
    assert r.pair_ranking(s, target, form="standardized").item() == pytest.approx(expected, rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 500), shift=st.floats(-5, 5), t=st.floats(0.05, 3))
def test_mann_whitney(seed, shift, t):
    s, soft = normal(3, 5, seed=seed), normal(3, 5, seed=seed + 1).sigmoid()
    y, area = (soft > 0.5).double(), normal(5, seed=seed + 2).exp()
    value = r.mann_whitney(s, y, temperature=t, weight=area)
    torch.testing.assert_close(value, by_pairs(s, y, area.expand(3, 5), t))
    torch.testing.assert_close(r.mann_whitney(s, soft, temperature=t), by_pairs(s, soft, torch.ones(3, 5), t))
    torch.testing.assert_close(r.mann_whitney(s + shift, y, temperature=t, weight=area), value)
    torch.testing.assert_close(r.mann_whitney(-s, 1 - y, temperature=t, weight=area), value)
    gap = (s[y > 0.5][:, None] - s[y < 0.5]) if y.min() < y.max() else torch.ones(1)
    auc = (gap > 0).double().mean()
    plain = r.mann_whitney(s, y, temperature=t)
    if y.min() < y.max():
        assert 1 - auc <= plain / math.log(2) + 1e-9
        hinge = 1e-4 * r.mann_whitney(s, y, temperature=1e-4)
        torch.testing.assert_close(hinge, (-gap).clamp_min(0).mean(), atol=1e-4, rtol=0)


def test_perfect_ranking_costs_nothing_and_one_class_too():
    y = laws.binary(2, 6)
    assert r.mann_whitney(y.double(), y).item() < 1e-12
    for label in (0, 1):
        s = normal(2, 6).requires_grad_()
        value = r.mann_whitney(s, torch.full((2, 6), label))
        value.backward()
        assert value.item() == 0 and (s.grad == 0).all()


@pytest.mark.parametrize("normalize", ["pairs", "events"])
def test_chunks_change_nothing(monkeypatch, normalize):
    s, y = normal(9, 7), laws.binary(9, 7).double()
    results = []
    for pairs in (2**20, 100, 1):
        monkeypatch.setattr(r, "_PAIRS", pairs)
        leaf, target = s.clone().requires_grad_(), s.sin().round(decimals=1)
        value = r.mann_whitney(leaf, y, temperature=0.2, normalize=normalize) + r.pair_ranking(leaf, target)
        value.backward()
        results.append((value.detach(), leaf.grad))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-12, atol=1e-14)


def test_memory_is_that_of_a_chunk(monkeypatch):
    """No tensor made on the way, forward or backward, is much larger than the chunk."""
    monkeypatch.setattr(r, "_PAIRS", 512)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for x in out if isinstance(out, tuple | list) else (out,):
                largest = max(largest, x.numel() if torch.is_tensor(x) else 0)
            return out

    s, y = normal(1, 200).requires_grad_(), laws.binary(1, 200).double()
    with Watch():
        (r.mann_whitney(s, y) + r.pair_ranking(s, y)).backward()
    assert 200 <= largest <= 512


def test_samples_are_apart():
    s, y = maps(3)
    y[1] = 1
    alone = [r.mann_whitney(s[i : i + 1], y[i : i + 1]) for i in range(3)]
    each = r.mann_whitney(s, y, batch=False, reduction="none")
    torch.testing.assert_close(each, torch.stack(alone))
    assert each[1] == 0
    torch.testing.assert_close(r.mann_whitney(s, y, batch=False), (alone[0] + alone[2]) / 2)


def test_drawn_negatives_estimate_the_mean():
    s, y = torch.linspace(-1, 1, 40, dtype=torch.float64)[None], laws.binary(1, 40).double()
    area = torch.linspace(0.1, 3, 40, dtype=torch.float64)
    whole = r.mann_whitney(s, y, temperature=0.5, weight=area).item()
    generator = torch.Generator().manual_seed(0)
    options = {"temperature": 0.5, "weight": area, "negatives": 8, "generator": generator}
    draws = torch.tensor([r.mann_whitney(s, y, **options).item() for _ in range(300)])
    # the mean of 300 draws, within four of its standard errors, of which each is small against the value
    error = draws.std().item() / 300**0.5
    assert 0 < error < 0.02 * whole
    assert draws.mean().item() == pytest.approx(whole, abs=4 * error)
    again = [r.mann_whitney(s, y, negatives=3, generator=torch.Generator().manual_seed(5)) for _ in range(2)]
    assert again[0] == again[1]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 500), shift=st.floats(-5, 5))
def test_pair_ranking(seed, shift):
    p, target = normal(2, 6, seed=seed), normal(2, 6, seed=seed + 1).round(decimals=0)
    valid = target[:, :, None] > target[:, None]
    each = softplus(p[:, None] - p[:, :, None])
    mean = (each * valid).sum((1, 2)) / valid.sum((1, 2)).clamp_min(1)
    torch.testing.assert_close(r.pair_ranking(p, target, reduction="none"), mean)
    torch.testing.assert_close(r.pair_ranking(p + shift, target), r.pair_ranking(p, target))
    torch.testing.assert_close(r.pair_ranking(p, 3 * target + shift), r.pair_ranking(p, target))
    torch.testing.assert_close(r.pair_ranking(p, -target), r.pair_ranking(-p, target))


def test_ties_alone_cost_nothing():
    p = normal(2, 4).requires_grad_()
    value = r.pair_ranking(p, torch.ones(2, 4))
    value.backward()
    assert value.item() == 0 and (p.grad == 0).all()


@pytest.mark.parametrize(
    ("function", "options", "words"),
    [
        (r.mann_whitney, {"temperature": 0.0}, "temperature=0.0"),
        (r.mann_whitney, {"normalize": "all"}, "normalize='all'"),
        (r.mann_whitney, {"negatives": 0}, "negatives=0"),
        (r.mann_whitney, {"negatives": 3, "normalize": "events"}, "must be pairs"),
        (r.pair_ranking, {"form": "all"}, "form='all'"),
    ],
)
def test_bad_input(function, options, words):
    with pytest.raises(ForecastError, match=words):
        function(torch.zeros(2, 2), torch.zeros(2, 2), **options)
    with pytest.raises(ForecastError, match="shape"):
        function(torch.zeros(2, 2), torch.zeros(2, 3))
