import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.core.errors import ForecastError
from forecast.losses import calibration as c
from forecast.losses.binary import binary_cross_entropy
from forecast.losses.registry import build
from tests.losses import laws
from tests.losses.laws import Case, integers, normal


def labelled(n):
    return normal(n, 4), integers(4, n), normal(n, seed=5).exp()


CASES = [Case("correctness_calibration", c.correctness_calibration, labelled)]


@laws.over(CASES)
def test_laws(law, case):
    law(case)


def test_correctness_by_hand():
    f, y = torch.tensor([[math.log(9), 0.0]] * 2, dtype=torch.float64), torch.tensor([0, 1])
    sure = 3 / 4  # at temperature 2, sqrt(9) against 1
    value = c.correctness_calibration(f, y, torch.full((2,), 2.0), reduction="none")
    assert value.tolist() == pytest.approx([(1 - sure) ** 2, sure**2])
    one_for_all = c.correctness_calibration(f, y, torch.tensor(2.0))
    assert one_for_all.item() == pytest.approx(value.mean().item())


def test_confidence_settles_at_the_rate_of_success():
    f, y = torch.zeros(4, 3, dtype=torch.float64), torch.tensor([0, 0, 0, 1])
    f[:, 0] = math.log(6)  # 6 / 8 of softmax at temperature 1, and 3 of 4 are right
    t = torch.ones((), dtype=torch.float64, requires_grad=True)
    c.correctness_calibration(f, y, t).backward()
    assert t.grad.item() == pytest.approx(0, abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 300), shift=st.floats(-5, 5))
def test_correctness(seed, shift):
    f, y, t = normal(4, 3, seed=seed), integers(3, 4, seed=seed), normal(4, seed=seed + 1).exp()
    value = c.correctness_calibration(f, y, t, reduction="none")
    torch.testing.assert_close(c.correctness_calibration(f + shift, y, t, reduction="none"), value)
    hot = c.correctness_calibration(f, y, 1e9 * t, reduction="none")
    hits = (f.argmax(1) == y).double()
    torch.testing.assert_close(hot, (1 / 3 - hits).square(), atol=1e-6, rtol=0)


def test_outcome_rates_by_hand():
    p = torch.tensor([0.9, 0.1, 0.4, 0.6, 0.2, 0.8])
    y = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0, 1.0])
    points, rates = c.outcome_rates(p, y, bins=3)
    assert points.tolist() == pytest.approx([0.4, 0.8]) and rates.tolist() == [0.0, 0.5, 1.0]
    found = c.look_up(torch.tensor([[0.0, 0.39, 0.4], [0.7, 0.8, 1.0]]), points, rates)
    assert found.tolist() == [[0.0, 0.0, 0.5], [0.5, 1.0, 1.0]]
    weighted = c.outcome_rates(p, y, torch.tensor([1.0, 1, 3, 1, 1, 1]), bins=3)[1]
    assert weighted.tolist() == [0.0, 0.75, 1.0]
    one = c.outcome_rates(p, y, bins=1)
    assert one[1].tolist() == [0.5] and c.look_up(p, *one).tolist() == [0.5] * 6
    few = c.outcome_rates(p[:2], y[:2], bins=5)[1]
    assert few.isfinite().all() and few.min() >= 0


def test_kernel_rates():
    generator = torch.Generator().manual_seed(0)
    p = torch.empty(5000).uniform_(generator=generator)
    y = (torch.empty(5000).uniform_(generator=generator) < p**2).float()
    points, rates = c.outcome_rates(p, y, method="kernel")
    # 500 neighbours: standard error 0.022 at most, four of them; and the curvature over a tenth of the range
    torch.testing.assert_close(rates[13:-13], points[13:-13] ** 2, atol=0.1, rtol=0)
    close = torch.tensor([0.25, 0.3])
    low = c.look_up(close, points, rates)
    assert (low - close**2).abs().max() < 0.1
    ends = c.look_up(torch.tensor([-1.0, 2.0]), points, rates)
    torch.testing.assert_close(ends, rates[[0, -1]])
    three = c.outcome_rates(torch.tensor([0.2, 0.2, 0.4]), torch.tensor([0.0, 1.0, 1.0]), method="kernel")
    # weight exp(-2) between 0.2 and 0.4
    k = math.exp(-2)
    assert c.look_up(torch.tensor([0.2]), *three).item() == pytest.approx((1 + k) / (2 + k))
    assert c.look_up(torch.tensor([0.4]), *three).item() == pytest.approx((1 + k) / (1 + 2 * k))


def trained(loss, f, y, **options):
    """A loss that has seen (f, y) in epoch 0 and is now in the epoch that calibrates."""
    loss(f, y, **options)
    loss.set_epoch(loss.interval)
    return loss


@pytest.mark.parametrize("method", ["bins", "kernel"])
def test_targets_are_the_rates_of_the_last_epoch(method):
    f, y = normal(40).float(), laws.binary(40).float()
    loss = build({"name": "calibrated_probability", "interval": 3, "method": method, "bins": 4})
    torch.testing.assert_close(loss(f, y), binary_cross_entropy(f, y))
    loss.set_epoch(1)
    assert not loss.calibrating
    torch.testing.assert_close(loss(f, y), binary_cross_entropy(f, y))
    loss.set_epoch(3)
    assert loss.calibrating
    rates = c.look_up(f.sigmoid(), *c.outcome_rates(f.sigmoid(), y, method=method, bins=4))
    torch.testing.assert_close(loss(f, y), binary_cross_entropy(f, rates))
    torch.testing.assert_close(loss.eval()(f, y), binary_cross_entropy(f, y))
    loss.reset_state()
    assert not loss.calibrating and int(loss.seen) == 0


def test_one_bin_is_the_base_rate_and_there_the_gradient_is_zero():
    y = torch.tensor([1.0, 0.0, 0.0, 0.0])
    f = torch.full((4,), math.log(1 / 3), requires_grad=True)
    loss = trained(c.CalibratedProbabilityLoss(bins=1), f.detach(), y)
    loss(f, y).backward()
    torch.testing.assert_close(f.grad, torch.zeros(4), atol=1e-7, rtol=0)


def test_calibrated_bins_leave_no_mean_gradient():
    p = torch.tensor([0.2, 0.3, 0.25, 0.25, 0.7, 0.8, 0.75, 0.75])  # each bin's mean is its rate
    y = torch.tensor([0.0, 1, 0, 0, 1, 1, 0, 1])
    f = p.logit().requires_grad_()
    loss = trained(c.CalibratedProbabilityLoss(bins=2), f.detach(), y)
    loss(f, y).backward()
    torch.testing.assert_close(f.grad.reshape(2, 4).sum(1), torch.zeros(2), atol=1e-7, rtol=0)
    assert f.grad.abs().max() > 1e-3


def test_the_store_keeps_the_newest():
    loss = c.CalibratedProbabilityLoss(capacity=6, bins=1)
    for value in (0.0, 0.0, 1.0, 1.0):
        loss(torch.zeros(3), torch.full((3,), value))
    loss.set_epoch(1)
    assert loss.rates.item() == 1.0 and int(loss.seen) == 0
    loss(torch.zeros(100), (torch.arange(100) < 50).float())
    loss.set_epoch(2)
    assert loss.rates.item() == 0.5
    loss.set_epoch(3)  # nothing seen: the table stays
    assert loss.rates.item() == 0.5


def test_maps_with_areas_and_gaps():
    f, y = torch.zeros(2, 3), torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 1.0]])
    mask = torch.tensor([[True, True, False], [True, True, False]])
    area = torch.tensor([3.0, 1.0, 9.0])
    loss = trained(c.CalibratedProbabilityLoss(bins=1), f, y, weight=area, mask=mask)
    assert loss.rates.item() == pytest.approx(0.75)
    gone = f.masked_fill(~mask, math.nan).requires_grad_()
    value = loss(gone, y, weight=area, mask=mask)
    value.backward()
    assert value.item() == pytest.approx(math.log(2)) and gone.grad.isfinite().all()
    none = loss(f.requires_grad_(), y, mask=torch.zeros(3, dtype=torch.bool))
    assert none.item() == 0 and none.requires_grad


def test_state_and_precision():
    f, y = normal(20).float(), laws.binary(20).float()
    loss, other = trained(c.CalibratedProbabilityLoss(), f, y), c.CalibratedProbabilityLoss()
    other.load_state_dict(loss.state_dict())
    assert other.calibrating
    torch.testing.assert_close(other(f, y), loss(f, y))
    with torch.autocast("cpu", torch.bfloat16):
        assert loss(f.bfloat16(), y).dtype == torch.float32
    x = normal(6).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: loss.eval()(v, laws.binary(6)), x)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: c.correctness_calibration(torch.zeros(2, 3), torch.zeros(2).long(), -torch.ones(2)),
            "temperature: -1",
        ),
        (lambda: c.correctness_calibration(torch.zeros(2, 3), torch.zeros(2).long(), torch.ones(3)), "temperature of"),
        (lambda: c.CalibratedProbabilityLoss(0), "interval=0"),
        (lambda: c.CalibratedProbabilityLoss(bins=0), "bins=0"),
        (lambda: c.CalibratedProbabilityLoss(method="spline"), "method='spline'"),
        (lambda: c.CalibratedProbabilityLoss().set_epoch(-1), "epoch=-1"),
        (lambda: c.CalibratedProbabilityLoss()(torch.zeros(2), torch.tensor([0.0, 3.0])), "labels: 3"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ForecastError, match=words):
        call()
