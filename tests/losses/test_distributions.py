import math

import numpy as np
import pytest
import scoringrules as sr
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.integrate import quad

from forecast.core.errors import ForecastError
from forecast.losses import distributions as d
from forecast.losses import rain as r
from forecast.losses.registry import build
from tests.losses import contract


def rand(low, high, seed, shape=(4, 6)):
    return low + (high - low) * torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


MEAN, SIGMA, TRUTH = rand(-2, 2, 1), rand(0.1, 2, 2), rand(-3, 3, 3)
SHAPE, RATE, AMOUNT, SHIFT, XI = (
    rand(0.2, 6, 4),
    rand(0.1, 2, 5),
    rand(0.01, 6, 6),
    rand(0.01, 2, 7),
    rand(-0.9, 0.9, 8),
)
CASES = {
    "gaussian_crps": (d.gaussian_crps, (MEAN, SIGMA, TRUTH), lambda m, s, y: sr.crps_normal(y, m, s)),
    "logistic_crps": (d.logistic_crps, (MEAN, SIGMA, TRUTH), lambda m, s, y: sr.crps_logistic(y, m, s)),
    "lognormal_crps": (d.lognormal_crps, (MEAN, SIGMA, AMOUNT), lambda m, s, y: sr.crps_lognormal(y, m, s)),
    "censored_gaussian_crps": (
        lambda *x, **k: d.censored_gaussian_crps(*x, lower=-1, upper=1.5, **k),
        (MEAN, SIGMA, TRUTH),
        lambda m, s, y: sr.crps_cnormal(y, m, s, -1, 1.5),
    ),
    "truncated_gaussian_crps": (
        lambda *x, **k: d.truncated_gaussian_crps(*x, lower=-3, upper=3.5, **k),
        (MEAN, SIGMA, TRUTH),
        lambda m, s, y: sr.crps_tnormal(y, m, s, -3, 3.5),
    ),
    "gamma_crps": (r.gamma_crps, (SHAPE, RATE, AMOUNT), lambda k, b, y: sr.crps_gamma(y, k, b)),
    "censored_shifted_gamma_crps": (
        r.censored_shifted_gamma_crps,
        (SHAPE, RATE, SHIFT, AMOUNT),
        lambda k, b, s, y: sr.crps_csg0(y, shape=k, rate=b, shift=s),
    ),
    "gev_crps": (r.gev_crps, (MEAN, SIGMA, XI, TRUTH), lambda m, s, x, y: sr.crps_gev(y, x, m, s)),
}
by_case = pytest.mark.parametrize("name", CASES)


@pytest.mark.filterwarnings("ignore:divide by zero")  # inside scoringrules
@by_case
def test_equals_scoringrules(name):
    loss, inputs, oracle = CASES[name]
    expected = torch.as_tensor(oracle(*(x.numpy() for x in inputs)))
    torch.testing.assert_close(loss(*inputs, reduction="none"), expected, atol=1e-10, rtol=0)


@by_case
def test_contract(name):
    loss, inputs, _ = CASES[name]
    contract.gradient(loss, [x[:1, :3] for x in inputs], reduction="none")
    contract.reductions(loss, inputs)
    contract.masked_nan(loss, inputs)
    contract.precision(loss, inputs)
    contract.empty(loss, inputs)
    module = build({"name": name, "reduction": "sum"})
    torch.testing.assert_close(module(*inputs), module.function(*inputs, reduction="sum"))


@by_case
def test_integral_of_the_squared_distance(name):
    """Against the definition, by quadrature; here scoringrules is of no help for truncation in a tail."""
    if name == "gaussian_crps":
        value, cdf, y = d.gaussian_crps(*one(0.3, 0.7, 1.0)), stats.norm(0.3, 0.7).cdf, 1.0
    elif name == "logistic_crps":
        value, cdf, y = d.logistic_crps(*one(0.3, 0.7, 1.0)), stats.logistic(0.3, 0.7).cdf, 1.0
    elif name == "lognormal_crps":
        value, cdf, y = d.lognormal_crps(*one(0.3, 0.7, -0.5)), stats.lognorm(0.7, scale=math.exp(0.3)).cdf, -0.5
    elif name == "censored_gaussian_crps":
        value, y = d.censored_gaussian_crps(*one(0.3, 0.7, 0.0)), 0.0
        cdf = lambda x: stats.norm(0.3, 0.7).cdf(x) if x >= 0 else 0.0  # noqa: E731
    elif name == "truncated_gaussian_crps":
        value, cdf, y = d.truncated_gaussian_crps(*one(-6.0, 1.0, 0.2)), stats.truncnorm(6, math.inf, -6).cdf, 0.2
    elif name == "gamma_crps":
        value, cdf, y = r.gamma_crps(*one(1.7, 0.6, 2.0)), stats.gamma(1.7, scale=1 / 0.6).cdf, 2.0
    elif name == "censored_shifted_gamma_crps":
        value, y = r.censored_shifted_gamma_crps(*one(1.7, 0.6, 0.5, 0.0)), 0.0
        cdf = lambda x: stats.gamma(1.7, scale=1 / 0.6).cdf(x + 0.5) if x >= 0 else 0.0  # noqa: E731
    else:
        value, cdf, y = r.gev_crps(*one(0.3, 0.7, -0.3, 1.0)), stats.genextreme(0.3, 0.3, 0.7).cdf, 1.0
    ends = [end for end in (0.0, 1.0, 4.0) if y < end]
    below = quad(lambda x: cdf(x) ** 2, -8, y, limit=200)[0]
    above = quad(lambda x: (1 - cdf(x)) ** 2, y, 60, limit=400, points=ends)[0]
    assert value.item() == pytest.approx(below + above, abs=2e-8)


def one(*values):
    return [torch.tensor([value], dtype=torch.float64) for value in values]


def test_gaussian_by_hand():
    sigma = 1.7  # at the mean: sigma (sqrt(2) - 1) / sqrt(pi)
    assert d.gaussian_crps(*one(0.0, sigma, 0.0)).item() == pytest.approx(sigma * (math.sqrt(2) - 1) / d.SQRT_PI)
    assert d.gaussian_crps(*one(0.0, 0.0, 3.0)).item() == pytest.approx(3.0, abs=1e-6)
    nodes, weights = (torch.as_tensor(x) for x in np.polynomial.hermite_e.hermegauss(60))
    own = d.gaussian_crps(0 * nodes, 0 * nodes + sigma, nodes * sigma, weight=weights)  # of its own distribution
    assert own.item() == pytest.approx(sigma / d.SQRT_PI, abs=1e-4)


def test_gaussian_gradient_is_bounded_where_that_of_the_log_score_is_not():
    mean, sigma, truth = one(0.0, 1e-4, 1.0)
    d.gaussian_crps(mean, sigma.requires_grad_(), truth).backward()
    assert abs(sigma.grad.item()) == pytest.approx(1 / d.SQRT_PI)


@pytest.mark.parametrize(
    ("parametrisation", "raw"), [("log", math.log(0.8)), ("softplus", math.log(math.expm1(0.8))), ("sigma", 0.8)]
)
def test_parametrisations_agree(parametrisation, raw):
    expected = d.gaussian_crps(*one(0.1, 0.8, 0.5))
    value = d.gaussian_crps(*one(0.1, raw, 0.5), parametrisation=parametrisation)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)


def test_bounds_at_infinity_leave_the_normal_distribution():
    plain = d.gaussian_crps(MEAN, SIGMA, TRUTH, reduction="none")
    for loss in (d.censored_gaussian_crps, d.truncated_gaussian_crps):
        wide = loss(MEAN, SIGMA, TRUTH, lower=-math.inf, upper=math.inf, reduction="none")
        torch.testing.assert_close(wide, plain, atol=1e-12, rtol=0)


@pytest.mark.parametrize("mean", [-1e4, -30.0, 40.0])
def test_truncation_in_the_farthest_tail_is_finite(mean):
    inputs = [x.requires_grad_() for x in one(mean, 1.0, 0.5)]
    value = d.truncated_gaussian_crps(*inputs, lower=0.0, upper=1.0)
    value.backward()
    assert value.item() == pytest.approx(0.44, abs=1e-3)  # of an exponential one of mean 1/25
    assert all(x.grad.isfinite().all() for x in inputs)


def test_gumbel_limit_and_ends_of_the_support():
    values = [r.gev_crps(*one(0.0, 1.0, xi, 0.4)).item() for xi in (-2e-4, 0.0, 2e-4)]
    assert values[1] == pytest.approx(sr.crps_gev(0.4, 0.0, 0.0, 1.0), abs=1e-8)
    assert values[1] == pytest.approx((values[0] + values[2]) / 2, abs=1e-7)
    for xi, y in ((0.5, -10.0), (-0.5, 10.0)):
        inputs = [x.requires_grad_() for x in one(0.0, 1.0, xi, y)]
        r.gev_crps(*inputs).backward()
        assert all(x.grad.isfinite().all() for x in inputs)
        assert abs(inputs[3].grad.item()) == pytest.approx(1.0)


def test_no_shift_leaves_the_gamma_distribution():
    plain = r.gamma_crps(SHAPE, RATE, AMOUNT)
    torch.testing.assert_close(r.censored_shifted_gamma_crps(SHAPE, RATE, torch.zeros_like(SHAPE), AMOUNT), plain)


@settings(max_examples=20, deadline=None)
@given(shift=st.floats(-5, 5), scale=st.floats(0.1, 5))
def test_translation_and_scale(shift, scale):
    for loss in (d.gaussian_crps, d.logistic_crps):
        moved = loss(scale * MEAN + shift, scale * SIGMA, scale * TRUTH + shift, reduction="none")
        torch.testing.assert_close(moved, scale * loss(MEAN, SIGMA, TRUTH, reduction="none"))
    gamma = r.gamma_crps(SHAPE, RATE / scale, scale * AMOUNT, reduction="none")
    torch.testing.assert_close(gamma, scale * r.gamma_crps(SHAPE, RATE, AMOUNT, reduction="none"))
    gev = r.gev_crps(scale * MEAN + shift, scale * SIGMA, XI, scale * TRUTH + shift, reduction="none")
    torch.testing.assert_close(gev, scale * r.gev_crps(MEAN, SIGMA, XI, TRUTH, reduction="none"))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: d.gaussian_crps(MEAN, -SIGMA, TRUTH), "sigma=.*negative"),
        (lambda: d.gaussian_crps(MEAN, SIGMA[:2], TRUTH), "sigma of shape"),
        (lambda: d.gaussian_crps(MEAN, SIGMA, TRUTH, parametrisation="variance"), "parametrisation=variance"),
        (lambda: d.censored_gaussian_crps(MEAN, SIGMA, TRUTH, lower=1, upper=0), "lower=1"),
        (lambda: d.truncated_gaussian_crps(MEAN, SIGMA, TRUTH, lower=1, upper=1), "lower=1"),
        (lambda: r.gamma_crps(SHAPE, 0 * RATE, AMOUNT), "rate=0: must be positive"),
        (lambda: r.censored_shifted_gamma_crps(SHAPE, RATE, -SHIFT, AMOUNT), "shift"),
        (lambda: r.gev_crps(MEAN, SIGMA, XI + 2, TRUTH), "shape=.*below 1"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ForecastError, match=words):
        call()
