import pytest
import scoringrules as sr
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.core.errors import ForecastError
from forecast.losses import quantiles as q
from tests.losses import contract

LEVELS = (0.1, 0.5, 0.8)


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


PREDICTED, TRUTH = drawn(3, 3, 5), drawn(3, 5, seed=1)
LOWER = drawn(3, 5, seed=2)
UPPER = LOWER + drawn(3, 5, seed=3).abs()


def pinball(*inputs, **kwargs):
    return q.pinball(*inputs, **{"levels": LEVELS} | kwargs)


@pytest.mark.parametrize(
    ("loss", "inputs"),
    [
        (pinball, (PREDICTED, TRUTH)),
        (lambda *x, **k: pinball(*x, huber=0.5, **k), (PREDICTED, TRUTH)),
        (q.interval_score, (LOWER, UPPER, TRUTH)),
    ],
    ids=["pinball", "huberised", "interval"],
)
def test_contract(loss, inputs):
    contract.gradient(loss, [x[:2] for x in inputs], reduction="none")
    contract.reductions(loss, inputs)
    contract.masked_nan(loss, inputs)
    contract.precision(loss, inputs)
    contract.empty(loss, inputs)


def test_by_hand():
    level = torch.tensor([[2.0]])  # quantile 2 at level 0.9: truth 5 above costs 0.9 * 3, truth 1 below 0.1 * 1
    assert q.pinball(level, torch.tensor([5.0]), levels=[0.9]).item() == pytest.approx(2.7)
    assert q.pinball(level, torch.tensor([1.0]), levels=[0.9]).item() == pytest.approx(0.1)
    assert q.pinball(level, torch.tensor([5.0]), levels=[0.9], huber=2.0).item() == pytest.approx(0.9 * 2)
    assert q.pinball(level, torch.tensor([1.0]), levels=[0.9], huber=2.0).item() == pytest.approx(0.1 * 0.25)
    interval = q.interval_score(torch.tensor([1.0]), torch.tensor([3.0]), torch.tensor([3.5]), alpha=0.1)
    assert interval.item() == pytest.approx(2 + 20 * 0.5)


def test_equals_scoringrules():
    ours = pinball(PREDICTED, TRUTH, reduction="none")
    theirs = sum(sr.quantile_score(TRUTH.numpy(), PREDICTED[:, i].numpy(), t) for i, t in enumerate(LEVELS)) / 3
    torch.testing.assert_close(ours, torch.as_tensor(theirs))
    interval = q.interval_score(LOWER, UPPER, TRUTH, alpha=0.2, reduction="none")
    theirs = sr.interval_score(TRUTH.numpy(), LOWER.numpy(), UPPER.numpy(), 0.2)
    torch.testing.assert_close(interval, torch.as_tensor(theirs))


def test_median_is_half_the_absolute_error():
    ours = q.pinball(PREDICTED[:, :1], TRUTH, levels=[0.5], reduction="none")
    torch.testing.assert_close(ours, (PREDICTED[:, 0] - TRUTH).abs() / 2)


def test_interval_is_two_pinballs():
    both = torch.stack([LOWER, UPPER], 1)
    expected = 2 / 0.2 * 2 * q.pinball(both, TRUTH, levels=[0.1, 0.9])  # pinball is the mean of the two
    torch.testing.assert_close(q.interval_score(LOWER, UPPER, TRUTH, alpha=0.2), expected)


def test_twice_the_mean_over_midpoint_levels_is_the_crps():
    members = drawn(2, 6, 7).sort(1).values
    levels = (torch.arange(6) + 0.5) / 6
    theirs = sr.crps_ensemble(TRUTH[:2, :].numpy(), members[:, :, :5].movedim(1, -1).numpy())
    ours = 2 * q.pinball(members[:, :, :5], TRUTH[:2], levels=levels, reduction="none")
    torch.testing.assert_close(ours, torch.as_tensor(theirs))


def test_little_huber_is_none():
    torch.testing.assert_close(pinball(PREDICTED, TRUTH, huber=1e-9), pinball(PREDICTED, TRUTH))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 20))
def test_rising_quantiles_rise(seed, scale):
    rising = q.rising_quantiles(scale * drawn(2, 5, 3, seed=seed))
    assert (rising.diff(dim=1) >= 0).all()


def test_rising_quantiles_start_as_given():
    raw = drawn(2, 5, 3)
    torch.testing.assert_close(q.rising_quantiles(raw)[:, 0], raw[:, 0])
    contract.gradient(q.rising_quantiles, [raw])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: q.pinball(PREDICTED, TRUTH, levels=[0.5]), "levels"),
        (lambda: q.pinball(PREDICTED, TRUTH, levels=[0.1, 0.5, 1.0]), "within"),
        (lambda: q.pinball(PREDICTED, TRUTH[:2], levels=LEVELS), "truth of shape"),
        (lambda: pinball(PREDICTED, TRUTH, huber=-1.0), "huber=-1"),
        (lambda: q.interval_score(LOWER, UPPER, TRUTH, alpha=1.0), "alpha=1"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ForecastError, match=words):
        call()
