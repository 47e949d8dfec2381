import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.core.errors import ForecastError
from forecast.losses import reweighting as w
from forecast.losses.registry import build
from tests.losses import laws
from tests.losses.laws import Case, integers, normal


def labelled(n):
    return normal(n, 4), integers(4, n), normal(n, seed=5).exp()


@laws.over([Case("robust_temperature", w.robust_temperature, labelled)], without=("module_is_the_function",))
def test_laws(law, case):
    law(case)


@laws.over(
    [Case("loss_reweighting", w.loss_reweighting, lambda n: (normal(n).exp(),), {"strategy": "quadratic"})],
    without=("differentiable", "reduces"),  # weights take no gradient, and follow the mask
)
def test_laws_of_reweighting(law, case):
    law(case)


def test_robust_by_hand():
    f = torch.tensor([[0.0, math.log(4), 0.0]], dtype=torch.float64)
    # gaps log 4 and 0 at temperature 2: (2 + 1) / 2
    t = torch.tensor([2.0], dtype=torch.float64)
    value = w.robust_temperature(f, torch.tensor([0]), t, rho=0.5)
    assert value.item() == pytest.approx(2 * math.log(1.5) + 1)
    default = w.robust_temperature(f, torch.tensor([0]), t)
    assert default.item() == pytest.approx(2 * math.log(1.5) + 2 * math.log(2) / 2)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 300), t=st.floats(0.05, 5), rho=st.floats(0, 3), shift=st.floats(-5, 5))
def test_slope_in_the_temperature(seed, t, rho, shift):
    f, y = normal(1, 6, seed=seed), integers(6, 1, seed=seed)
    tau = torch.tensor([t], dtype=torch.float64, requires_grad=True)
    value = w.robust_temperature(f, y, tau, rho=rho)
    value.backward()
    others = torch.cat((f[:, : y[0]], f[:, y[0] + 1 :]), 1)
    q = (others / t).softmax(1)
    divergence = (q * (5 * q).log()).sum().item()
    assert tau.grad.item() == pytest.approx(rho - divergence, abs=1e-9)
    torch.testing.assert_close(w.robust_temperature(f + shift, y, tau, rho=rho), value)
    ends = [w.robust_temperature(f, y, tau.detach() * k, rho=rho) for k in (0.5, 1.5)]
    assert value.item() <= sum(ends).item() / 2 + 1e-9, "convex"


def test_temperature_network():
    loss = build({"name": "robust_temperature", "features": 3, "width": 4, "least": 0.1, "most": 2.0, "rho": 0.4})
    f, y, z = normal(5, 4).float(), integers(4, 5), normal(5, 3, seed=2).float().requires_grad_()
    t = loss.temperature(z)
    assert t.shape == (5,) and (t > 0.1).all() and (t < 2.0).all()
    value = loss(f.requires_grad_(), y, z)
    value.backward()
    torch.testing.assert_close(value, w.robust_temperature(f, y, t, rho=0.4))
    assert z.grad is None and all(p.grad is not None for p in loss.parameters()) and f.grad.abs().sum() > 0
    maps = loss(normal(2, 4, 6).float(), integers(4, 2, 6), normal(2, 6, 3).float())
    assert maps.isfinite()


def test_moving_average():
    f, y, z, index = normal(3, 4).float(), integers(4, 3), normal(3, 2, seed=2).float(), torch.tensor([4, 0, 2])
    plain = build({"name": "robust_temperature", "features": 2, "width": 4})
    loss = build({"name": "robust_temperature", "features": 2, "width": 4, "samples": 5, "momentum": 0.8})
    loss.load_state_dict(plain.state_dict() | {"log_means": loss.log_means})

    def grads(module, logits, **at_call):
        leaf = logits.clone().requires_grad_()
        module.zero_grad()
        value = module(leaf, y, z, **at_call)
        value.backward()
        return value.detach(), leaf.grad, *(p.grad for p in module.parameters())

    # the first visit is exact, value and gradients
    torch.testing.assert_close(grads(loss, f, index=index), grads(plain, f))
    first = loss.log_means[index].exp()
    assert loss.log_means.isinf().tolist() == [False, True, False, True, False]
    second_value, second_grad, *_ = grads(loss, 2 * f, index=index)
    t = loss.temperature(z).detach()
    gaps = torch.stack([torch.cat((r[:k], r[k + 1 :])) - r[k] for r, k in zip(2 * f, y, strict=True)])
    now = (gaps / t[:, None]).exp().mean(1)
    average = 0.2 * first + 0.8 * now
    torch.testing.assert_close(loss.log_means[index].exp(), average)
    torch.testing.assert_close(second_value, (t * (average.log() + math.log(3) / 2)).mean())
    exact = grads(plain, 2 * f)[1]
    torch.testing.assert_close(second_grad, exact * (now / average)[:, None])
    before = loss.log_means.clone()
    loss.eval()(f, y, z, index=index)
    torch.testing.assert_close(loss.log_means, before)
    huge = loss.train()(1e4 * f, y, z, index=index)
    assert huge.isfinite() and loss.log_means[index].isfinite().all()
    loss.reset_state()
    assert loss.log_means.isinf().all()


LOSSES = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)  # h = -1, -0.5, 1


@pytest.mark.parametrize(
    ("strategy", "s"),
    [("linear_upper", (0, 0.5, 1)), ("quadratic", (0, 0.75, 0)), ("extremes", (1, 0.5, 1))],
)
def test_weights_by_hand(strategy, s):
    expected = 3 * (torch.tensor(s, dtype=torch.float64) / 0.5).softmax(0)
    got = w.loss_weights(LOSSES, strategy=strategy, temperature=0.5)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(w.loss_reweighting(LOSSES, strategy=strategy, temperature=0.5), (got * LOSSES).mean())


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 300),
    strategy=st.sampled_from(["linear_upper", "quadratic", "extremes"]),
    shift=st.floats(-5, 5),
    scale=st.floats(0.1, 10),
)
def test_weights(seed, strategy, shift, scale):
    x = normal(2, 4, seed=seed)
    got = w.loss_weights(x, strategy=strategy, delta=0.7)
    assert got.sum().item() == pytest.approx(8) and (got > 0).all()
    torch.testing.assert_close(w.loss_weights(scale * x + shift, strategy=strategy, delta=0.7), got)
    torch.testing.assert_close(w.loss_weights(x, strategy=strategy, temperature=1e9), torch.ones_like(x))
    torch.testing.assert_close(w.loss_weights(torch.full_like(x, shift), strategy=strategy), torch.ones_like(x))
    mask = torch.arange(8).reshape(2, 4) % 3 > 0
    inside = w.loss_weights(x, strategy=strategy, mask=mask)
    torch.testing.assert_close(inside[mask], w.loss_weights(x[mask], strategy=strategy))
    assert (inside[~mask] == 0).all()


def test_weights_take_no_gradient():
    x = LOSSES.clone().requires_grad_()
    area = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64)
    w.loss_reweighting(x, weight=area).backward()
    torch.testing.assert_close(x.grad, w.loss_weights(LOSSES) * area / 4)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda f, y, t: w.robust_temperature(f, y, -t), "temperature: -1"),
        (lambda f, y, t: w.robust_temperature(f, y, t[:1]), "temperature of shape"),
        (lambda f, y, t: w.robust_temperature(f[:, :1], 0 * y, t), "1 class"),
        (lambda f, y, t: w.robust_temperature(f, y, t, rho=-1.0), "rho=-1.0"),
        (lambda f, y, t: w.RobustTemperatureLoss(3, least=0.0), "least=0.0"),
        (lambda f, y, t: w.RobustTemperatureLoss(3, momentum=0.0), "momentum=0.0"),
        (lambda f, y, t: w.RobustTemperatureLoss(3, samples=2)(f, y, f), "index"),
        (lambda f, y, t: w.RobustTemperatureLoss(3, samples=2)(f, y, f, index=torch.tensor([0, 2])), "0 to 1"),
        (lambda f, y, t: w.loss_reweighting(t, strategy="cubic"), "strategy='cubic'"),
        (lambda f, y, t: w.loss_reweighting(t, delta=0.0), "delta=0.0"),
        (lambda f, y, t: w.loss_reweighting(t, temperature=0.0), "temperature=0.0"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ForecastError, match=words):
        call(torch.zeros(2, 3), torch.tensor([0, 1]), torch.ones(2))
