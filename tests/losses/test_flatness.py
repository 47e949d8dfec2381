import math

import pytest
import torch

from forecast.core.errors import ForecastError
from forecast.losses.flatness import GradientNormRegularizer, gradient_norm
from forecast.losses.registry import build


def numbers(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def quadratic(seed=0):
    """G = w H w / 2 + b w, over two parameters that together are w."""
    h, b, w = numbers(4, 4, seed=seed), numbers(4, seed=seed + 1), numbers(4, seed=seed + 2)
    h = h + h.mT
    u, v = w[:1].clone().requires_grad_(), w[1:].clone().requires_grad_()

    def objective():
        z = torch.cat([u, v])
        return z @ h @ z / 2 + b @ z

    return objective, [u, v], h, h @ w + b


def gradients(value, parameters):
    return torch.cat(torch.autograd.grad(value, parameters))


def test_by_hand():
    """G = 3 w^2 at w = 2: |g| = 12, its slope 6."""
    w = torch.tensor(2.0, requires_grad=True)
    value = gradient_norm(lambda: 3 * w**2, [w])
    assert value.item() == pytest.approx(12)
    assert torch.autograd.grad(value, w)[0].item() == pytest.approx(6, rel=1e-5)


@pytest.mark.parametrize("exact", [False, True])
def test_of_a_quadratic_the_gradient_is_h_times_the_direction(exact):
    objective, parameters, h, g = quadratic()
    value = gradient_norm(objective, parameters, exact=exact)
    torch.testing.assert_close(value, g.norm())
    torch.testing.assert_close(gradients(value, parameters), h @ g / g.norm())


def test_of_a_linear_function_nothing_is_added():
    w = numbers(3).requires_grad_()
    value = gradient_norm(lambda: (w * 2).sum(), [w])
    assert value.item() == pytest.approx(math.sqrt(12))
    assert torch.autograd.grad(value, w)[0].abs().max() < 1e-12


def test_finite_differences_tend_to_the_exact_gradient():
    w = numbers(3).requires_grad_()

    def objective():
        return w.sin().sum() + (w[0] * w[1]).exp()

    exact = gradients(gradient_norm(objective, [w], exact=True), [w])
    close = gradients(gradient_norm(objective, [w], step=1e-5), [w])
    torch.testing.assert_close(close, exact, atol=1e-4, rtol=0)
    assert torch.autograd.gradcheck(lambda x: gradient_norm(objective, [x], exact=True), (w,))
    assert torch.autograd.gradcheck(lambda x: gradient_norm(objective, [x], step=1e-5), (w,), atol=1e-4)


def test_parameters_come_back_bit_by_bit_even_after_an_error():
    objective, parameters, *_ = quadratic()
    before, calls = [p.detach().clone() for p in parameters], []

    def failing():
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("lost")
        return objective()

    gradient_norm(objective, parameters)
    with pytest.raises(RuntimeError, match="lost"):
        gradient_norm(failing, parameters)
    assert all(torch.equal(p, q) for p, q in zip(parameters, before, strict=True))


def test_no_slope_is_a_zero_with_a_graph():
    w = torch.zeros(3, requires_grad=True)
    value = gradient_norm(lambda: (w**2).sum(), [w])
    value.backward()
    assert value.item() == 0 and w.grad.abs().sum() == 0
    unused = torch.ones(2, requires_grad=True)
    assert gradient_norm(lambda: w.sum(), [w, unused]).item() == pytest.approx(math.sqrt(3))


def test_multiplier_grows_over_the_limit_falls_under_it_and_never_below_zero():
    w = torch.tensor([2.0], requires_grad=True)
    steep = GradientNormRegularizer(rho=0.5, limit=1.0, rate=0.1)
    first = steep(lambda: (3 * w).sum(), [w])  # rho |g| - limit = 0.5
    assert first.item() == 0 and steep.multiplier.item() == pytest.approx(0.05)
    second = steep(lambda: (3 * w**2).sum(), [w])
    assert second.item() == pytest.approx(0.05 * 0.5 * 12)
    assert torch.autograd.grad(second, w)[0].item() == pytest.approx(0.05 * 0.5 * 6, rel=1e-4)
    steep.eval()
    kept = steep.multiplier.clone()
    steep(lambda: (3 * w).sum(), [w])
    assert steep.multiplier == kept
    steep.train()
    for _ in range(20):
        steep(lambda: (0.001 * w).sum(), [w])
    assert steep.multiplier.item() == 0


def test_state_is_kept_and_reset():
    one, two = GradientNormRegularizer(first=0.5), GradientNormRegularizer()
    two.load_state_dict(one.state_dict())
    assert two.multiplier.item() == 0.5
    one.multiplier.fill_(3.0)
    one.reset_state()
    assert one.multiplier.item() == 0.5


def test_bad_input():
    w = torch.ones(1, requires_grad=True)
    for words, call in {
        "step=0": lambda: gradient_norm(w.sum, [w], step=0),
        "parameters": lambda: gradient_norm(w.sum, []),
        "rho=-1": lambda: build({"name": "gradient_norm", "rho": -1}),
        "did you mean `limit`": lambda: build({"name": "gradient_norm", "limits": 1}),
    }.items():
        with pytest.raises(ForecastError, match=words):
            call()
