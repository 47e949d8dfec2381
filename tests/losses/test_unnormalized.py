import math

import pytest
import torch

from forecast.core.errors import ForecastError
from forecast.losses.registry import build
from forecast.losses.unnormalized import UnnormalizedNLLLoss, log_partition_of, noise_contrastive, unnormalized_nll
from tests.losses import cases
from tests.losses.cases import Case, normal


def logs(count):
    return normal(count), normal(count, seed=1), normal(count, seed=2)


def four(count):
    return *logs(count), normal(count, seed=3)


WITHOUT = ("reduction", "chunks", "empty", "mask")


class TestEvery(cases.Every):
    CASES = (
        Case(unnormalized_nll, logs, without=(*WITHOUT, "module")),
        Case(noise_contrastive, four, {"ratio": 2.0}, without=WITHOUT),
    )


def test_by_hand():
    data, model, noise = torch.tensor([0.5, 1.5]), torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0])
    log_u = math.log((1 + math.e**2) / 2)
    assert log_partition_of(model, noise).item() == pytest.approx(log_u)
    assert unnormalized_nll(data, model, noise).item() == pytest.approx(log_u - 1.0)
    value = noise_contrastive(data[:1], data[1:], model[:1], noise[1:], ratio=2.0)
    g, h = 0.5 - 1.5 - math.log(2), 1.0 - 0.0 - math.log(2)
    assert value.item() == pytest.approx(math.log(1 + math.exp(-g)) + 2 * math.log(1 + math.exp(h)), rel=1e-5)


def test_a_constant_factor_of_the_model_drops_out():
    data, model, noise = logs(6)
    value = unnormalized_nll(data, model, noise)
    torch.testing.assert_close(unnormalized_nll(data + 7, model + 7, noise), value)
    running = torch.tensor(0.4, dtype=torch.float64)
    value = unnormalized_nll(data, model, noise, running)
    torch.testing.assert_close(unnormalized_nll(data + 7, model + 7, noise, running + 7), value)


def test_running_estimate_is_in_value_and_gradient():
    data, model, noise = logs(5)
    model.requires_grad_()
    running = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    value = unnormalized_nll(data, model, noise, running)
    torch.testing.assert_close(value, (running - data.mean()).detach())
    value.backward()
    torch.testing.assert_close(model.grad, ((model - noise).exp() / 5 / running.exp()).detach())
    assert running.grad is None


def test_the_model_with_the_data_density_is_the_optimum():
    """Precision a of exp(-a x^2 / 2) for standard normal data, noise of scale 2."""
    x, z = normal(4000), 2 * normal(4000, seed=1)
    log_q = -z.square() / 8 - math.log(2 * math.sqrt(2 * math.pi))
    log_q_x = -x.square() / 8 - math.log(2 * math.sqrt(2 * math.pi))
    a = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    constant = a.log() / 2 - math.log(math.sqrt(2 * math.pi))
    for value in (
        unnormalized_nll(-a * x.square() / 2, -a * z.square() / 2, log_q),
        noise_contrastive(constant - a * x.square() / 2, log_q_x, constant - a * z.square() / 2, log_q),
    ):
        (grad,) = torch.autograd.grad(value, a, retain_graph=True)
        assert abs(grad.item()) < 0.04  # standard errors of 0.02 and less
    for other in (0.5, 2.0):
        values = [unnormalized_nll(-b * x.square() / 2, -b * z.square() / 2, log_q) for b in (1.0, other)]
        assert values[0] < values[1]


def test_state():
    loss = build({"name": "unnormalized_nll", "rate": 0.25})
    data, model, noise = (x.float() for x in logs(5))
    first = log_partition_of(model, noise)
    torch.testing.assert_close(loss(data, model, noise), first - data.mean())
    torch.testing.assert_close(loss.log_partition, first)
    loss(data, model + math.log(3), noise)
    torch.testing.assert_close(loss.log_partition, first + math.log(0.75 + 0.25 * 3))
    other = UnnormalizedNLLLoss()
    other.load_state_dict(loss.state_dict())
    torch.testing.assert_close(other.log_partition, loss.log_partition)
    before = loss.log_partition.clone()
    torch.testing.assert_close(loss.eval()(data, model, noise), before - data.mean())
    assert torch.equal(loss.log_partition, before)
    loss.reset_state()
    assert loss.log_partition.isnan()
    plain = UnnormalizedNLLLoss(rate=1.0)
    for shift in (0.0, 1.0):
        torch.testing.assert_close(plain(data, model + shift, noise), first + shift - data.mean())


def test_weights_are_of_the_data():
    data, model, noise = logs(3)
    weight = torch.tensor([1.0, 0.0, 3.0])
    mean = (data * weight).sum() / 4
    torch.testing.assert_close(
        unnormalized_nll(data, model, noise, weight=weight), log_partition_of(model, noise) - mean
    )
    mask = weight > 0
    torch.testing.assert_close(
        noise_contrastive(data, data, model, noise, mask=mask),
        noise_contrastive(data[mask], data[mask], model, noise),
    )


def test_bad_input():
    data, model, noise = logs(4)
    for call, words in (
        (lambda: unnormalized_nll(data, model, noise[:2]), "noise_log_prob="),
        (lambda: unnormalized_nll(data, model[:0], noise[:0]), "noise_log_model="),
        (lambda: noise_contrastive(data, data[:2], model, noise), "data_log_noise="),
        (lambda: noise_contrastive(data, data, model, noise, ratio=0.0), "ratio=0"),
        (lambda: UnnormalizedNLLLoss(rate=0.0), "rate=0"),
    ):
        with pytest.raises(ForecastError, match=words):
            call()
