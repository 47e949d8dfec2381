import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.core.errors import ForecastError
from forecast.losses.selfsupervised import barlow_twins, beta, mix_views, mixed_barlow_twins
from tests.losses import cases
from tests.losses.cases import Case, normal


def views(count):
    return normal(count, 3), normal(count, 3, seed=1)


def mixture(count):
    return *views(count), normal(count, 3, seed=2), torch.arange(count).flip(0), torch.tensor(0.3)


ALL = (
    Case(barlow_twins, views, without=("reduction", "chunks")),
    Case(mixed_barlow_twins, mixture, fixed=(4,), without=("reduction", "chunks", "mask")),
)


class TestEvery(cases.Every):
    CASES = ALL


def test_by_hand():
    """Standardised columns (1, -1, 1, -1) and (1, 1, -1, -1): C of a view with itself is 1, with its columns swapped
    1 off the diagonal."""
    one = torch.tensor([[3.0, 7.0], [1.0, 7.0], [3.0, 5.0], [1.0, 5.0]], dtype=torch.float64)
    assert barlow_twins(one, one, eps=1e-12).item() == pytest.approx(0, abs=1e-9)
    assert barlow_twins(one, one.flip(1), eps=1e-12).item() == pytest.approx(2 + 0.0051 * 2)


def test_equals_batch_normalisation():
    a, b = views(7)
    norm = torch.nn.BatchNorm1d(3, affine=False, dtype=torch.float64)
    c = norm(a).T @ norm(b) / 7
    expected = (1 - c.diagonal()).square().sum() + 0.0051 * (c - c.diagonal().diag()).square().sum()
    torch.testing.assert_close(barlow_twins(a, b), expected)


def test_whitened_equal_views_give_zero():
    white = torch.linalg.qr(torch.cat([torch.ones(6, 1, dtype=torch.float64), normal(6, 3)], 1))[0][:, 1:] * 6**0.5
    assert barlow_twins(white, 5 + 3 * white).item() < 1e-9


def test_a_feature_that_does_not_vary_costs_one():
    a, _ = views(5)
    flat = a.clone()
    flat[:, 2] = 4.0
    assert barlow_twins(flat, flat, off_diagonal=0.0).item() == pytest.approx(1, abs=1e-8)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 100), scale=st.floats(0.5, 5), shift=st.floats(-5, 5))
def test_order_scale_and_shift_do_not_matter(seed, scale, shift):
    a, b = normal(6, 3, seed=seed), normal(6, 3, seed=seed + 1)
    order = torch.randperm(6)
    torch.testing.assert_close(barlow_twins(a[order], b[order]), barlow_twins(a, b))
    torch.testing.assert_close(barlow_twins(scale * a + shift, b), barlow_twins(a, b), rtol=1e-3, atol=1e-4)


def test_whole_weights_are_repeated_samples():
    a, b = views(4)
    weight = torch.tensor([2.0, 1.0, 0.0, 1.0])
    again = torch.tensor([0, 0, 1, 3])
    torch.testing.assert_close(barlow_twins(a, b, weight=weight), barlow_twins(a[again], b[again]))


def test_mixed_equals_the_official_sum():
    a, b, m, order, _ = mixture(6)
    std = lambda x: (x - x.mean(0)) / x.std(0)  # noqa: E731
    one, two, mid = std(a), std(b), std(m)
    extra = 0.0
    for view in (one, two):
        wanted = (0.3 * one.T @ view + 0.7 * two[order].T @ view) / 6
        extra += (mid.T @ view / 6 - wanted).square().sum()
    value = mixed_barlow_twins(a, b, m, order, 0.3, eps=1e-12, scale=2.0)
    torch.testing.assert_close(value, barlow_twins(a, b, eps=1e-12) + 2 * 0.0051 * extra)


def test_weights_of_mixtures():
    a, b, m, order, share = mixture(5)
    even = torch.full((5,), 2.0)
    value = mixed_barlow_twins(a, b, m, order, share)
    torch.testing.assert_close(mixed_barlow_twins(a, b, m, order, share, weight=even), value)
    uneven = torch.tensor([1.0, 0.0, 2.0, 1.0, 1.0])
    plain = mixed_barlow_twins(a, b, m, order, share, scale=0.0, weight=uneven)
    torch.testing.assert_close(plain, barlow_twins(a, b, weight=uneven))
    with pytest.raises(ForecastError, match="weight="):
        mixed_barlow_twins(a, b, m, order, share, weight=-even)


def test_a_linear_network_pays_for_the_spread_of_its_mixtures_alone():
    """Z_m is the mix of the standardised Z, but for its own standardisation."""
    one, two = views(6)
    one, two = ((x - x.mean(0)) / x.std(0) for x in (one, two))
    made = mix_views(one, two, generator=torch.Generator().manual_seed(3))
    spread = made.mixed.std(0)
    value = mixed_barlow_twins(one, two, made.mixed, made.order, made.share, eps=1e-12)
    plain = barlow_twins(one, two, eps=1e-12)
    target = made.share * one + (1 - made.share) * two[made.order]
    torch.testing.assert_close(made.mixed, target)
    gap = sum(((target / spread).T @ view / 6 - target.T @ view / 6).square().sum() for view in (one, two))
    torch.testing.assert_close(value - plain, 4 * 0.0051 * gap)
    for edge in (0.0, 1.0):
        same = edge * one + (1 - edge) * two[made.order]
        torch.testing.assert_close(mixed_barlow_twins(one, two, same, made.order, edge, eps=1e-12), plain)


def test_detached_target_gets_no_gradient():
    inputs = [x.requires_grad_() if x.is_floating_point() else x for x in mixture(5)[:4]]
    grads = []
    for detach in (False, True):
        value = mixed_barlow_twins(*inputs, 0.3, detach_target=detach)
        grads.append(torch.autograd.grad(value, inputs[:3]))
    torch.testing.assert_close(grads[0][2], grads[1][2])
    assert not torch.allclose(grads[0][0], grads[1][0])


def test_mixing_is_reproducible_and_beta_has_its_moments():
    draw = lambda: mix_views(*views(5), generator=torch.Generator().manual_seed(4))  # noqa: E731
    for x, y in zip(draw(), draw(), strict=True):
        assert torch.equal(x, y)
    assert sorted(draw().order.tolist()) == list(range(5))
    many = beta(2.0, torch.empty(20_000), torch.Generator().manual_seed(0))
    # standard errors 0.0016 and 0.0003
    assert many.mean().item() == pytest.approx(0.5, abs=0.007)
    assert many.var().item() == pytest.approx(1 / 20, abs=0.0015)


def test_bad_input():
    a, b = views(4)
    for call, words in (
        (lambda: barlow_twins(a, b[:3]), "second of shape"),
        (lambda: barlow_twins(a[:1], b[:1]), "2 samples"),
        (lambda: barlow_twins(a, b, off_diagonal=-1.0), "off_diagonal=-1"),
        (lambda: barlow_twins(a, b, eps=0.0), "eps=0"),
        (lambda: mixed_barlow_twins(a, b, a, torch.arange(3), 0.5), "order="),
        (lambda: mixed_barlow_twins(a, b, a, torch.arange(4), 0.5, weight=torch.zeros(4)), "weight="),
        (lambda: mix_views(a, b, concentration=0.0), "concentration=0"),
    ):
        with pytest.raises(ForecastError, match=words):
            call()
