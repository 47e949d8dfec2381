import math

import pytest
import torch
from torch.nn import functional as F

from forecast.core.errors import ForecastError
from forecast.losses.individual_temperature import IndividualTemperatureLoss
from forecast.losses.registry import build
from tests.losses import cases
from tests.losses.cases import Case, normal

WARM = {"start": 0.2, "low": 0.1, "high": 0.9, "rho": 0.5}


def views(count):
    return normal(count, 3), normal(count, 3, seed=1), torch.arange(count)


def fresh(first, second, index, reduction="mean", **at_call):
    """The loss in its first call, whose running means are the batch's."""
    return IndividualTemperatureLoss(50, reduction=reduction, **WARM)(first, second, index, **at_call)


class TestEvery(cases.Every):
    # float32 buffers: gradients are compared below with those of the closed form
    CASES = (Case(fresh, views, without=("module",)),)
    test_differentiable = None


def robust(a, b, temperature, rho):
    """t log mean over j != i of exp(h / t) + t rho."""
    cosine = F.normalize(a) @ F.normalize(b).T
    heat = (cosine - cosine.diagonal()[:, None]) / temperature
    heat = heat.masked_fill(torch.eye(len(a), dtype=torch.bool), -torch.inf)
    return temperature * (heat.logsumexp(1) - math.log(len(a) - 1)) + temperature * rho


def test_by_hand():
    first = torch.eye(2)
    value = fresh(first, first, torch.arange(2))
    # one negative, whose gap is -1: t (-1 / t) + t rho
    assert value.item() == pytest.approx(-1 + 0.2 * 0.5)


def test_first_call_is_the_robust_loss_with_its_gradient():
    a, b = (x.requires_grad_() for x in views(6)[:2])
    expected = (robust(a, b, 0.2, 0.5) + robust(b, a, 0.2, 0.5)).mean() / 2
    value = fresh(a, b, torch.arange(6))
    torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-6)
    for ours, theirs in zip(torch.autograd.grad(value, (a, b)), torch.autograd.grad(expected, (a, b)), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_running_mean_and_temperature_follow_the_official_steps():
    loss = build({"name": "individual_temperature", "samples": 9, "step": 0.1, "momentum": 0.5, "rate": 0.8, **WARM})
    index = torch.tensor([7, 2, 4])
    mean, temperature, slope = torch.zeros(3), torch.full((3,), 0.2), torch.zeros(3)
    for seed in (0, 10):
        a, b = normal(3, 4, seed=seed, dtype=torch.float32), normal(3, 4, seed=seed + 1, dtype=torch.float32)
        loss(a, b, index)
        cosine = F.normalize(a) @ F.normalize(b).T
        gaps = cosine - cosine.diagonal()[:, None]
        parts = (gaps / temperature[:, None]).exp() * (1 - torch.eye(3))
        batch = parts.sum(1) / 2
        mean = batch if seed == 0 else 0.2 * mean + 0.8 * batch
        weights = parts / mean[:, None] / 2
        new = mean.log() + 0.5 - (weights * gaps).sum(1) / temperature
        slope = 0.5 * slope + 0.5 * new.clamp(-5, 5)
        temperature = (temperature - 0.1 * slope).clamp(0.1, 0.9)
        torch.testing.assert_close(loss.log_mean[0, index].exp(), mean)
        torch.testing.assert_close(loss.temperature[0, index], temperature)
    assert loss.log_mean[0, 0].isnan() and loss.temperature[0, 0] == pytest.approx(0.2)


def test_temperature_rises_where_the_weights_are_more_peaked_than_rho_allows():
    """Stationary at KL(w || even) = rho."""
    a, b, index = views(8)
    cosine = F.normalize(a) @ F.normalize(b).T
    heat = ((cosine - cosine.diagonal()[:, None]) / 0.2).masked_fill(torch.eye(8, dtype=torch.bool), -torch.inf)
    w = torch.softmax(heat, 1)
    peaked = (w * (w * 7).clamp_min(1e-30).log()).sum(1)
    rho = float(peaked.median())
    loss = IndividualTemperatureLoss(8, step=0.01, **(WARM | {"rho": rho}))
    loss(a, b, index)
    moved = loss.temperature[0].double() - 0.2
    off = (peaked - rho).abs() > 1e-6
    assert (moved[off].sign() == (peaked - rho)[off].sign()).all()


def test_state():
    loss = IndividualTemperatureLoss(6, **WARM)
    a, b, index = views(4)
    loss(a, b, index)
    other = IndividualTemperatureLoss(6, **WARM)
    other.load_state_dict(loss.state_dict())
    for mine, theirs in zip(loss.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, equal_nan=True)
    before = [x.clone() for x in loss.buffers()]
    loss.eval()(b, a, index)
    for mine, old in zip(loss.buffers(), before, strict=True):
        torch.testing.assert_close(mine, old, equal_nan=True)
    loss.reset_state()
    assert loss.log_mean.isnan().all() and (loss.temperature == 0.2).all()


def test_cold_and_large_batches_do_not_overflow():
    a = normal(32, 4).bfloat16()
    value = IndividualTemperatureLoss(32)(a, a.flip(0), torch.arange(32))
    assert value.dtype == torch.float32 and value.isfinite()


def test_bad_input():
    a, b, index = views(4)
    loss = IndividualTemperatureLoss(4)
    for call, words in (
        (lambda: loss(a, b, index[:2]), "index="),
        (lambda: loss(a, b, index + 1), "index=.*0 .. 3"),
        (lambda: loss(a, b[:2], index), "second of shape"),
        (lambda: loss(a[:1], b[:1], index[:1]), "2 samples"),
        (lambda: IndividualTemperatureLoss(4, start=1.0), "start=1"),
        (lambda: IndividualTemperatureLoss(4, rate=0.0), "rate=0"),
        (lambda: IndividualTemperatureLoss(0), "samples=0"),
    ):
        with pytest.raises(ForecastError, match=words):
            call()
