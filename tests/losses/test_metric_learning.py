import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from forecast.core.errors import ForecastError
from forecast.losses import metric_learning
from forecast.losses.metric_learning import (
    adaptive_margin_triplet,
    covariance,
    metrix,
    unified_negative_pairs,
)
from tests.losses import cases
from tests.losses.cases import Case, normal


def triplets(count):
    return normal(count, 3), normal(count, 3, seed=1), normal(count, 3, seed=2)


def shared(count):
    return *triplets(count), torch.linspace(0.1, 0.9, count, dtype=torch.float64)


def labelled(count):
    return normal(count, 3), torch.arange(count) % 3, normal(4, 3, seed=1)


UNPG = {"scale": 4.0}


class TestEvery(cases.Every):
    @pytest.fixture(autouse=True)
    def small_histogram(self, monkeypatch):
        monkeypatch.setattr(metric_learning, "_BINS", 512)

    CASES = (
        Case(metrix, shared, {"far": 3.0}, fixed=(3,), without=("chunks",)),
        Case(adaptive_margin_triplet, triplets, without=("chunks",)),
        Case(covariance, lambda n: (normal(n, 3),), without=("chunks", "reduction")),
        Case(unified_negative_pairs, labelled, UNPG, samples=6),
    )


def test_metrix_by_hand():
    a, p, n = torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    share = torch.tensor([0.75])
    away = math.hypot(1.5, 1.0)
    value = metrix(a, p, n, share, normalize=False, far=5.0, near=1.0)
    assert value.item() == pytest.approx(0.75 * (away - 1) + 0.25 * (5 - away))
    one = metrix(a, p, n, share, mix="anchor_negative", normalize=False, far=5.0)
    assert one.item() == pytest.approx(0.75 * 1.0 + 0.25 * 4.0)


def test_metrix_of_a_pure_pair_is_the_contrastive_loss():
    a, p, n = (F.normalize(x) for x in triplets(6))
    ones = torch.ones(6, dtype=torch.float64)
    torch.testing.assert_close(metrix(a, p, n, ones, reduction="none"), (a - p).norm(dim=1))
    pure = (1.5 - (a - n).norm(dim=1)).clamp_min(0)
    torch.testing.assert_close(metrix(a, p, n, 0 * ones, far=1.5, reduction="none"), pure)


def test_metrix_draws_are_reproducible():
    draw = lambda seed: metrix(*triplets(5), generator=torch.Generator().manual_seed(seed))  # noqa: E731
    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_adaptive_margin_by_hand():
    a, p, n = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    expected = 3 - (4 + 5) / 2 + 2 + 2 / (math.exp(12) + 1e-6) + 2 / (math.exp(-12) + 1e-6)
    assert adaptive_margin_triplet(a, p, n).item() == pytest.approx(expected, rel=1e-6)


def test_adaptive_margin_falls_with_the_positive_distance_and_never_overflows():
    apart = torch.tensor([0.0, 0.1, 1.0, 1e4], dtype=torch.float64)
    a, p = torch.zeros(4, 1, dtype=torch.float64), apart[:, None]
    value = adaptive_margin_triplet(a, p, a + 1, reduction="none")
    margin = value - (apart - (1 + (apart - 1).abs()) / 2)
    near = margin - 1 - 2 / (1 + 1e-6)
    assert near[0].item() == pytest.approx(1 + 2 / (1 + 1e-6))
    assert (near.diff() < 0).all()
    assert near[-1].item() == pytest.approx(1)
    assert adaptive_margin_triplet(a, p, a - 1e4, hinge=True, reduction="none").min() >= 0


def test_covariance():
    x = normal(8, 3)
    cov = torch.cov(x.T)
    torch.testing.assert_close(covariance(x), (cov - cov.diagonal().diag()).square().sum() / 3)
    white = torch.linalg.qr(torch.cat([torch.ones(6, 1, dtype=torch.float64), normal(6, 3)], 1))[0][:, 1:]
    assert covariance(white).item() < 1e-20
    assert covariance(x[:1]).item() == 0.0


def unpg_by_sorting(x, labels, w, margin=0.4, scale=4.0, whisker=1.0):
    """As the official code does it."""
    x, w = F.normalize(x), F.normalize(w)
    cosine = x @ w.T
    cosine = cosine - margin * F.one_hot(labels, len(w)).double()
    pairs = (x @ x.T)[((labels[:, None] != labels).triu(1))]
    ordered = pairs.sort().values
    low, high = ordered[int(0.25 * len(pairs))], ordered[int(0.75 * len(pairs))]
    reach = whisker * (high - low)
    kept = ordered[(ordered >= low - reach) & (ordered <= high + reach)]
    logits = scale * torch.cat([cosine, kept.expand(len(x), -1)], 1)
    return F.cross_entropy(logits, labels)


@pytest.mark.parametrize("whisker", [0.0, 0.3, 1.0])
def test_unpg_equals_the_official_sum(whisker):
    for seed in range(5):
        x, w = normal(30, 3, seed=seed), normal(4, 3, seed=seed + 50)
        labels = torch.arange(30) % 4
        value = unified_negative_pairs(x, labels, w, **UNPG, whisker=whisker)
        torch.testing.assert_close(value, unpg_by_sorting(x, labels, w, whisker=whisker), rtol=1e-9, atol=0)


def test_unpg_of_one_class_is_the_margin_softmax():
    x, _, w = labelled(5)
    labels = torch.zeros(5, dtype=torch.long)
    cosine = F.normalize(x) @ F.normalize(w).T
    cosine[:, 0] -= 0.4
    value = unified_negative_pairs(x, labels, w, **UNPG)
    torch.testing.assert_close(value, F.cross_entropy(4 * cosine, labels))
    more = unified_negative_pairs(*labelled(6), **UNPG, reduction="none")
    assert more.isfinite().all()


def test_unpg_counts_equal_pairs_and_ignores_labels():
    same = torch.ones(4, 2, dtype=torch.float64)
    w = torch.eye(2, dtype=torch.float64)
    value = unified_negative_pairs(same, torch.tensor([0, 0, 1, 1]), w, scale=1.0, margin=0.0)
    pairs = 4 * math.e
    assert value.item() == pytest.approx(math.log(2 * math.exp(0.5**0.5) + pairs) - 0.5**0.5)
    x, labels, w = labelled(6)
    fewer = unified_negative_pairs(x[:4], labels[:4], w, **UNPG)
    labels[4:] = -100
    torch.testing.assert_close(unified_negative_pairs(x, labels, w, **UNPG), fewer)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 100))
def test_rotation_does_not_matter(seed):
    turn = torch.linalg.qr(normal(3, 3, seed=seed))[0]
    x, labels, w = labelled(7)
    torch.testing.assert_close(
        unified_negative_pairs(x @ turn, labels, w @ turn, **UNPG), unified_negative_pairs(x, labels, w, **UNPG)
    )
    for loss, inputs in ((adaptive_margin_triplet, triplets(4)), (metrix, shared(4))):
        turned = [part @ turn if part.ndim == 2 else part for part in inputs]
        torch.testing.assert_close(loss(*turned), loss(*inputs))


def test_bad_input():
    a, p, n = triplets(4)
    x, labels, w = labelled(4)
    for call, words in (
        (lambda: metrix(a, p, n[:2]), "negative_pair of shape"),
        (lambda: metrix(a, p, n, mix="both"), "mix=both"),
        (lambda: metrix(a, p, n, concentration=-2.0), "concentration=-2"),
        (lambda: metrix(a, p, n, torch.full((4,), 1.5)), "share="),
        (lambda: adaptive_margin_triplet(a, p[:1], n), "positive_pair of shape"),
        (lambda: covariance(a[0]), "features="),
        (lambda: unified_negative_pairs(x, labels + 2, w), "labels=.*0 .. 3"),
        (lambda: unified_negative_pairs(x, labels[:3], w), "labels="),
        (lambda: unified_negative_pairs(x, labels, w[:, :2]), "3 features"),
        (lambda: unified_negative_pairs(x, labels, w, scale=0.0), "scale=0"),
        (lambda: unified_negative_pairs(x, labels, w, whisker=-1.0), "whisker=-1"),
    ):
        with pytest.raises(ForecastError, match=words):
            call()
