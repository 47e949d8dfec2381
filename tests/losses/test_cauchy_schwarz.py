import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.core.errors import ForecastError
from forecast.losses.cauchy_schwarz import (
    cauchy_schwarz,
    conditional_cauchy_schwarz,
    gaussian_cauchy_schwarz,
    information_bottleneck,
    median_bandwidth,
    quadratic_information,
)
from tests.losses import cases
from tests.losses.cases import Case, normal


def two(count):
    return normal(count, 3), normal(count, 3, seed=1)


def three(count):
    return normal(count, 2), *two(count)


def four(count):
    return tuple(normal(count, 3, seed=seed) for seed in range(4))


OF_SETS = [
    Case(cauchy_schwarz, two, without=("reduction",)),
    Case(conditional_cauchy_schwarz, three, without=("reduction",)),
    Case(quadratic_information, two, {"normalize": True}, without=("reduction",)),
    Case(information_bottleneck, four, {"beta": 0.5}, without=("reduction",)),
]


class TestEvery(cases.Every):
    CASES = [*OF_SETS, Case(gaussian_cauchy_schwarz, four, without=("chunks",))]


def kernel(x, y=None, width=1.0):
    return (-torch.cdist(x, x if y is None else y).square() / (2 * width**2)).exp()


def test_two_points_by_hand():
    x, y = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0]])
    expected = -2 * (-0.5) + math.log((1 + math.exp(-2)) / 2) + 0.0
    assert cauchy_schwarz(x, y).item() == pytest.approx(expected, rel=1e-6)


def test_equals_the_sums_of_kernels():
    x, y = two(6)
    expected = -2 * kernel(x, y, 2.0).mean().log() + kernel(x, x, 2.0).mean().log() + kernel(y, y, 2.0).mean().log()
    torch.testing.assert_close(cauchy_schwarz(x, y, bandwidth=2.0), expected)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 200), shift=st.floats(-100, 100))
def test_a_divergence_not_negative_symmetric_and_blind_to_rigid_motions(seed, shift):
    x, y = normal(5, 3, seed=seed), 0.5 + normal(7, 3, seed=seed + 1)
    value = cauchy_schwarz(x, y)
    assert value >= 0
    torch.testing.assert_close(cauchy_schwarz(y, x), value)
    turn = torch.linalg.qr(normal(3, 3, seed=seed))[0]
    torch.testing.assert_close(cauchy_schwarz(x @ turn + shift, y @ turn + shift), value)
    assert cauchy_schwarz(x, x[torch.randperm(5)]).abs() < 1e-12
    information = quadratic_information(x, y[:5])
    assert information >= -1e-12
    torch.testing.assert_close(quadratic_information(y[:5] + shift, x), information)


def test_gaussian_samples_tend_to_the_closed_form_with_a_wider_variance():
    """Quantiles of N(0, 1) and N(1, 4) for samples; a bandwidth of s adds s^2 / 2 to each variance."""
    level = (torch.arange(1500, dtype=torch.float64) + 0.5) / 1500
    z = math.sqrt(2) * torch.erfinv(2 * level - 1)[:, None]
    value = cauchy_schwarz(z, 1 + 2 * z, bandwidth=0.5)
    v, w = 1 + 0.125, 4 + 0.125
    expected = math.log((v + w) / (2 * math.sqrt(v * w))) + 1 / (v + w)
    assert value.item() == pytest.approx(expected, rel=2e-3)
    means, logvars = (torch.tensor([[0.0], [1.0]]), torch.tensor([[v], [w]]).log())
    closed = gaussian_cauchy_schwarz(means[:1], logvars[:1], means[1:], logvars[1:])
    assert closed.item() == pytest.approx(expected, rel=1e-6)


def test_closed_form_sums_the_last_axis():
    inputs = [normal(2, 3, 4, seed=seed) for seed in range(4)]
    each = gaussian_cauchy_schwarz(*inputs, reduction="none")
    flat = gaussian_cauchy_schwarz(*(x.flatten(0, 1) for x in inputs), reduction="none")
    torch.testing.assert_close(each.flatten(), flat)
    torch.testing.assert_close(
        flat,
        sum(
            gaussian_cauchy_schwarz(*(x.flatten(0, 1)[:, d : d + 1] for x in inputs), reduction="none")
            for d in range(4)
        ),
    )


def test_closed_form_is_the_integral():
    x = torch.linspace(-30, 30, 20_001, dtype=torch.float64)
    p = torch.distributions.Normal(0.5, 1.5).log_prob(x).exp()
    q = torch.distributions.Normal(-1.0, 0.7).log_prob(x).exp()
    expected = -2 * (p * q).sum().log() + (p * p).sum().log() + (q * q).sum().log()
    one = lambda value: torch.tensor([[value]], dtype=torch.float64)  # noqa: E731
    inputs = one(0.5), one(2 * math.log(1.5)), one(-1.0), one(2 * math.log(0.7))
    torch.testing.assert_close(gaussian_cauchy_schwarz(*inputs), expected)
    assert gaussian_cauchy_schwarz(*inputs[:2], *inputs[:2]).item() == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("legacy", [False, True])
def test_conditional_is_normalised_as_in_the_paper_and_not_as_in_the_code(legacy):
    x, y, z = three(6)
    k = kernel(x)
    norm = k.square().sum(1) if legacy else k.sum(1).square()
    terms = [((k * part).sum(1) / norm).sum().log() for part in (kernel(y), kernel(z), kernel(z, y))]
    value = conditional_cauchy_schwarz(x, y, z, legacy=legacy)
    torch.testing.assert_close(value, terms[0] + terms[1] - 2 * terms[2])
    assert conditional_cauchy_schwarz(x, y, y, legacy=legacy).abs() < 1e-12


def test_information_equals_the_official_sum():
    x, y = two(6)
    k, m = kernel(x), kernel(y)
    cross = (torch.ones(6, dtype=torch.float64) @ k @ m).sum() / 6**3
    expected = (k * m).mean().log() + (k.mean() * m.mean()).log() - 2 * cross.log()
    torch.testing.assert_close(quadratic_information(x, y), expected)
    own = quadratic_information(x, x) * quadratic_information(y, y)
    torch.testing.assert_close(quadratic_information(x, y, normalize=True), expected / own.sqrt())


def test_information_is_zero_of_a_constant_and_one_with_itself():
    x, _ = two(6)
    flat = torch.full((6, 2), 3.0, dtype=torch.float64)
    for normalize in (False, True):
        assert quadratic_information(x, flat, normalize=normalize).abs() < 1e-9
    assert quadratic_information(x, x, normalize=True).item() == pytest.approx(1)
    assert quadratic_information(*two(1)).abs() < 1e-12


def test_bottleneck_is_its_parts():
    x, t, y, z = four(6)
    value = information_bottleneck(x, t, y, z, beta=0.3)
    parts = conditional_cauchy_schwarz(x, y, z), quadratic_information(x, t, normalize=True)
    torch.testing.assert_close(value, parts[0] + 0.3 * parts[1])
    torch.testing.assert_close(information_bottleneck(x, t, y, z, beta=0.0), parts[0])


@pytest.mark.parametrize("case", OF_SETS, ids=str)
def test_whole_weights_are_repeated_samples(case):
    inputs = case.draw()
    weight = torch.tensor([2.0, 0.0, 1.0, 1.0, 3.0])
    again = torch.tensor([0, 0, 2, 3, 4, 4, 4])
    torch.testing.assert_close(case(*inputs, weight=weight), case(*(x[again] for x in inputs)))


def test_median_bandwidth():
    x = torch.tensor([[0.0], [1.0], [4.0]])
    assert median_bandwidth(x) == 3.0
    assert median_bandwidth(torch.zeros(4, 2)) == 1.0
    torch.testing.assert_close(cauchy_schwarz(x, x + 1, bandwidth="median"), cauchy_schwarz(x, x + 1, bandwidth=2.0))
    assert median_bandwidth(normal(5000, 2)) == pytest.approx(2 * math.sqrt(math.log(2)), rel=0.05)


def test_bad_input():
    x, y, z = three(4)
    for call, words in (
        (lambda: cauchy_schwarz(x, y), "2 features"),
        (lambda: cauchy_schwarz(y, z[:2], weight=torch.ones(4)), "second of shape"),
        (lambda: cauchy_schwarz(y, z, bandwidth=0.0), "bandwidth=0"),
        (lambda: cauchy_schwarz(y, z, bandwidth="wide"), "bandwidth=wide"),
        (lambda: conditional_cauchy_schwarz(x[:2], y, z), "condition="),
        (lambda: quadratic_information(x, y[:3]), "second="),
        (lambda: information_bottleneck(x, x, y, z, beta=-1.0), "beta=-1"),
        (lambda: gaussian_cauchy_schwarz(x, x, x, y), "second_logvar of shape"),
    ):
        with pytest.raises(ForecastError, match=words):
            call()
