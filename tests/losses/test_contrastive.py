import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.core.errors import ForecastError
from forecast.losses import contrastive
from forecast.losses.contrastive import info_nce, nt_xent
from forecast.losses.experimental.contrastive import hard_contrastive
from tests.losses import cases
from tests.losses.cases import Case, normal


def views(count):
    return normal(count, 3), normal(count, 3, seed=1)


ALL = [
    Case(info_nce, views, {"symmetric": True}),
    Case(nt_xent, views),
    Case(hard_contrastive, views, {"hardest": 0.5}),
]


@pytest.mark.filterwarnings("ignore:hard_contrastive was built")
class TestEvery(cases.Every):
    CASES = ALL


@pytest.mark.filterwarnings("ignore:hard_contrastive was built")
@pytest.mark.parametrize("case", ALL, ids=str)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 100), scale=st.floats(0.1, 10))
def test_rotation_order_and_length_do_not_matter(case, seed, scale):
    a, b = normal(5, 3, seed=seed), normal(5, 3, seed=seed + 1)
    turn, order = torch.linalg.qr(normal(3, 3, seed=seed))[0], torch.randperm(5)
    torch.testing.assert_close(case(scale * a @ turn, b @ turn), case(a, b))
    torch.testing.assert_close(case(a[order], b[order]), case(a, b))


@pytest.mark.filterwarnings("ignore:hard_contrastive was built")
@pytest.mark.parametrize("case", ALL, ids=str)
def test_one_sample_and_bad_settings(case):
    with pytest.raises(ForecastError, match="2 samples"):
        case(*views(1))
    with pytest.raises(ForecastError, match="second of shape"):
        case(torch.zeros(3, 2), torch.zeros(4, 2))
    with pytest.raises(ForecastError, match="temperature=-1"):
        case.function(*views(3), temperature=-1.0)


def test_info_nce_by_hand():
    first = torch.eye(2, dtype=torch.float64)
    # anchors see their positive with cosine 1 and the negative with cosine 0
    assert info_nce(first, 3 * first, temperature=0.5).item() == pytest.approx(math.log(math.e**2 + 1) - 2)


def test_nt_xent_by_hand():
    first = torch.eye(2, dtype=torch.float64)
    # the positive has cosine 1; the other sample's two views have 0
    assert nt_xent(first, first, temperature=1.0).item() == pytest.approx(math.log(math.e + 2) - 1)


def test_symmetric_is_the_mean_of_both_directions():
    a, b = views(5)
    both = (info_nce(a, b, reduction="none") + info_nce(b, a, reduction="none")) / 2
    torch.testing.assert_close(info_nce(a, b, symmetric=True, reduction="none"), both)


def test_nt_xent_is_the_cross_entropy_over_all_other_views():
    a, b = views(5)
    both = torch.nn.functional.normalize(torch.cat([a, b]))
    scores = (both @ both.T / 0.5).fill_diagonal_(-torch.inf)
    expected = torch.nn.functional.cross_entropy(scores, torch.arange(10).roll(5))
    torch.testing.assert_close(nt_xent(a, b), expected)


@pytest.mark.parametrize("loss", [info_nce, nt_xent])
def test_views_that_agree_on_a_regular_simplex_are_the_minimum(loss):
    angle = 2 * math.pi * torch.arange(3, dtype=torch.float64) / 3
    simplex = torch.stack([angle.cos(), angle.sin()], 1)
    best = loss(simplex, simplex)
    for seed in range(20):
        a, b = 0.3 * normal(3, 2, seed=seed), 0.3 * normal(3, 2, seed=seed + 99)
        assert loss(simplex + a, simplex + b) > best


def test_cold_is_a_triplet_and_hot_is_simple():
    a, b = (torch.nn.functional.normalize(x) for x in views(6))
    cosine = a @ b.T
    own = cosine.diagonal()
    hardest = cosine.masked_fill(torch.eye(6, dtype=torch.bool), -9).amax(1)
    cold = 1e-4 * info_nce(a, b, temperature=1e-4, reduction="none")
    torch.testing.assert_close(cold, (hardest - own).clamp_min(0), atol=2e-4, rtol=0)
    hot = 1e5 * (info_nce(a, b, temperature=1e5, reduction="none") - math.log(6))
    torch.testing.assert_close(hot, cosine.mean(1) - own, atol=1e-4, rtol=0)


def test_gradient_on_negatives_is_their_softmax():
    scores = normal(4, 4).requires_grad_()
    # with the second views the unit vectors, the similarities are the first views themselves
    info_nce(scores, torch.eye(4, dtype=torch.float64), temperature=0.5, normalize=False, reduction="sum").backward()
    expected = (torch.softmax(scores.detach() / 0.5, 1) - torch.eye(4)) / 0.5
    torch.testing.assert_close(scores.grad, expected)


def test_nt_xent_sees_more_negatives_than_info_nce():
    a, b = views(5)
    assert (nt_xent(a, b, reduction="none") > 0).all()
    assert nt_xent(a, b, temperature=0.2) > info_nce(a, b, symmetric=True)
    torch.testing.assert_close(info_nce(a, b), info_nce(a, b, temperature=0.2))


def test_duplicates_are_false_negatives():
    same = torch.ones(4, 3, dtype=torch.float64)
    assert info_nce(same, same).item() == pytest.approx(math.log(4))
    assert nt_xent(same, same).item() == pytest.approx(math.log(7))


@pytest.mark.filterwarnings("ignore:hard_contrastive was built")
def test_hard_contrast_spans_triplet_to_info_nce():
    a, b = views(6)
    torch.testing.assert_close(hard_contrastive(a, b, hardest=1.0), info_nce(a, b))
    fewer = [hard_contrastive(a, b, hardest=share) for share in (0.2, 0.6, 1.0)]
    assert fewer[0] < fewer[1] < fewer[2]
    with pytest.raises(ForecastError, match="hardest=0"):
        hard_contrastive(a, b, hardest=0.0)


def test_large_batches_of_half_precision_stay_finite():
    a, b = normal(64, 8).bfloat16(), normal(64, 8, seed=1).bfloat16()
    assert contrastive.info_nce(a, b, temperature=0.01).isfinite()
