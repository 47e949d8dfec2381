import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.core.errors import ForecastError
from forecast.losses.classification import cross_entropy
from forecast.losses.margins import ALDRLoss, ldr, margin_control
from tests.losses import laws
from tests.losses.laws import Case, integers, normal


def labelled(n, k=4):
    return normal(n, k), integers(k, n)


CASES = [
    *(Case("ldr", ldr, labelled, {"normalize": how}) for how in (None, "softplus_mean", "l1")),
    Case("margin_control", margin_control, labelled, {"strength": 0.5, "batch_sum": False}),
]


@laws.over(CASES)
def test_laws(law, case):
    law(case)


def plain(f, y, **options):
    return ldr(f, y, normalize=None, reduction="none", **options)


def test_ldr_by_hand():
    f, y = torch.tensor([[1.0, 3.0]], dtype=torch.float64), torch.tensor([0])
    # margins 0 and 3 - 1 + 0.5; then softplus(f) over its mean; then f over mean |f|
    assert plain(f, y, margin=0.5, temperature=2.0).item() == pytest.approx(2 * math.log((1 + math.exp(1.25)) / 2))
    a, b = math.log1p(math.e), math.log1p(math.exp(3))
    gap = 2 * (b - a) / (a + b) + 2
    assert ldr(f, y).item() == pytest.approx(math.log((1 + math.exp(gap)) / 2))
    assert ldr(f, y, normalize="l1", margin=0.0).item() == pytest.approx(math.log((1 + math.e) / 2))


def test_ldr_limits():
    f, y = labelled(6)
    gaps = f - f.gather(1, y[:, None]) + (torch.arange(4) != y[:, None]) * 1.0
    torch.testing.assert_close(plain(f, y, margin=1.0, temperature=1e-3), gaps.amax(1), atol=2e-3, rtol=0)
    torch.testing.assert_close(plain(f, y, margin=1.0, temperature=1e6), gaps.mean(1), atol=1e-4, rtol=0)
    entropy = cross_entropy(f, y, reduction="none")
    torch.testing.assert_close(plain(f, y, margin=0.0), entropy - math.log(4))
    # worst mixture of labels: the gradient in the gaps is that mixture q, and the value q . gaps - t KL(q | uniform)
    q = (gaps / 0.7).softmax(1)
    robust = (q * gaps).sum(1) - 0.7 * (q * (4 * q).log()).sum(1)
    torch.testing.assert_close(plain(f, y, margin=1.0, temperature=0.7), robust)


def test_ldr_is_negative_near_its_optimum():
    f = torch.tensor([[60.0, 0.0, 0.0]], dtype=torch.float64)
    assert plain(f, torch.tensor([0]), temperature=2.0).item() == pytest.approx(-2 * math.log(3), abs=1e-9)
    assert plain(torch.zeros(1, 1), torch.tensor([0])).item() == 0
    assert ldr(torch.zeros(1, 3), torch.tensor([0]), normalize="l1").isfinite()


@settings(max_examples=20, deadline=None)
@given(shift=st.floats(-20, 20), scale=st.floats(0.1, 10), seed=st.integers(0, 50))
def test_invariances(shift, scale, seed):
    f, y = normal(3, 4, seed=seed), integers(4, 3, seed=seed)
    torch.testing.assert_close(plain(f + shift, y), plain(f, y))
    torch.testing.assert_close(ldr(scale * f, y, normalize="l1"), ldr(f, y, normalize="l1"))
    f = f.requires_grad_()
    plain(f, y).sum().backward()
    wrong = torch.arange(4) != y[:, None]
    assert (f.grad[wrong] > 0).all() and (f.grad[~wrong] < 0).all()


def test_margin_control():
    f, y = labelled(6)
    size = f.softmax(1).square().sum()
    entropy = cross_entropy(f, y)
    total = margin_control(f, y, strength=0.1, batch_sum=True)
    torch.testing.assert_close(total, entropy + 0.1 * torch.log(1 + size))
    torch.testing.assert_close(margin_control(f, y, strength=0.1), entropy + 0.1 * torch.log(1 + size / 6))
    torch.testing.assert_close(margin_control(f, y, strength=0.0), entropy)
    area = torch.tensor([0.0, 2.0, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(margin_control(f, y, weight=area), margin_control(f[1:2], y[1:2]))
    for scale, one, many in ((0.0, math.log(1 + 1 / 4), math.log(1 + 6 / 4)), (1e4, math.log(2), math.log(7))):
        extra = [margin_control(scale * f, y, strength=1.0, batch_sum=b) - cross_entropy(scale * f, y) for b in (0, 1)]
        assert [x.item() for x in extra] == pytest.approx([one, many], abs=1e-9)


def test_the_mean_form_does_not_depend_on_the_batch():
    """The official code's sum does."""
    f, y = labelled(6)
    twice = torch.cat((f, f)), torch.cat((y, y))
    torch.testing.assert_close(margin_control(*twice), margin_control(f, y))
    assert margin_control(*twice, batch_sum=True) > margin_control(f, y, batch_sum=True) + 0.01


def test_aldr_by_hand():
    f, y, loss = torch.tensor([[0.0, math.log(3)]]), torch.tensor([0]), ALDRLoss(3, normalize=None, alpha=2.0)
    value = loss(f, y, index=torch.tensor([2]))
    # p = (1/4, 3/4): divergence log 2 - entropy; the 1e-5 on each probability moves it by less than 1e-4
    divergence = math.log(2) + 0.25 * math.log(0.25) + 0.75 * math.log(0.75)
    t = 1 - divergence / (2 * math.log(2))
    torch.testing.assert_close(loss.temperatures, torch.tensor([1.0, 1.0, t]), atol=1e-4, rtol=0)
    expected = t * math.log((1 + math.exp((math.log(3) + 1) / t)) / 2) - math.log(2) * (t - 1) ** 2
    assert value.item() == pytest.approx(expected, abs=1e-3)


def test_aldr_keeps_its_state():
    f, y, index = normal(4, 3).float(), integers(3, 4), torch.tensor([5, 0, 3, 1])
    loss = ALDRLoss(6).eval()
    torch.testing.assert_close(loss(f, y, index=index), ldr(f, y, margin=1.0, normalize="l1"))
    assert (loss.temperatures == 1).all()
    loss.train()
    loss(f, y, index=index, mask=torch.tensor([True, True, True, False]))
    assert (loss.temperatures < 1).tolist() == [True, False, False, True, False, True]
    other = ALDRLoss(6)
    other.load_state_dict(loss.state_dict())
    torch.testing.assert_close(other(f, y, index=index), loss(f, y, index=index))
    assert loss.temperatures.min() > 0
    loss(1e4 * f, y, index=index)  # one-hot probabilities: the temperature stays above 1 - 1 / alpha
    assert loss.temperatures.min() >= 0.5 - 1e-3
    loss.reset_state()
    assert (loss.temperatures == 1).all()


def test_aldr_gradient_and_precision():
    f, y, index = normal(4, 3).requires_grad_(), integers(3, 4), torch.arange(4)
    loss = ALDRLoss(4)
    loss(f.detach(), y, index=index)
    assert torch.autograd.gradcheck(lambda x: loss.eval()(x, y, index=index), f)
    with torch.autocast("cpu", torch.bfloat16):
        assert loss(f.bfloat16(), y, index=index).dtype == torch.float32
    none = loss(f[:0], y[:0], index=index[:0])
    assert none.item() == 0 and none.requires_grad
    assert ALDRLoss(4)(f[:, :1], torch.zeros(4).long(), index=index).item() == 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda f, y: ldr(f, y, temperature=-1.0), "temperature=-1.0"),
        (lambda f, y: ldr(f, y, normalize="l2"), "normalize=l2"),
        (lambda f, y: ldr(f, y + 3), "labels"),
        (lambda f, y: margin_control(f, y, strength=-0.1), "strength=-0.1"),
        (lambda f, y: ALDRLoss(3, alpha=1.0), "alpha=1.0"),
        (lambda f, y: ALDRLoss(3, temperature=0.0), "temperature=0.0"),
        (lambda f, y: ALDRLoss(0), "samples=0"),
        (lambda f, y: ALDRLoss(3)(f, y, index=torch.tensor([0, 3])), "index: 0 to 3; must lie in 0 to 2"),
        (lambda f, y: ALDRLoss(3)(f, y, index=torch.tensor([0])), "index of shape"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ForecastError, match=words):
        call(torch.zeros(2, 3), torch.tensor([0, 1]))
