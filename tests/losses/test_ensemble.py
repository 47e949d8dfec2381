import numpy as np
import pytest
import scoringrules
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.core.errors import ForecastError
from forecast.losses import AlmostFairCRPS, almost_fair_crps, crps, ensemble, fair_crps


def sample(members, points=7, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, members, points, dtype=dtype, generator=generator)
    return x, torch.randn(2, points, dtype=dtype, generator=generator)


def all_pairs(x, y, alpha):
    """Equation 4 of Lang et al.: a sum of non-negative terms over pairs."""
    m = x.shape[1]
    error = (x - y[:, None]).abs()
    gap = (x[:, :, None] - x[:, None]).abs()
    terms = error[:, :, None] + error[:, None] - (1 - (1 - alpha) / m) * gap
    off_diagonal = ~torch.eye(m, dtype=torch.bool)[None, :, :, None]
    return (terms * off_diagonal).sum(dim=(1, 2)) / (2 * m * (m - 1))


def mixture(x, y, alpha):
    """alpha * fair + (1 - alpha) * standard."""
    m = x.shape[1]
    error, gaps = (x - y[:, None]).abs().mean(1), (x[:, :, None] - x[:, None]).abs().sum(dim=(1, 2))
    return error - gaps * (alpha / (2 * m * (m - 1)) + (1 - alpha) / (2 * m * m))


def rank_form(x, y, alpha):
    """Sorted members weighted by their rank."""
    m = x.shape[1]
    rank = 2 * torch.arange(m, dtype=x.dtype) - m + 1
    spread = (x.sort(dim=1).values * rank[:, None]).sum(1)
    return (x - y[:, None]).abs().mean(1) - spread * (m - 1 + alpha) / (m**2 * (m - 1))


@pytest.mark.parametrize("members", [2, 3, 4, 11, 12, 13, 50])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.95, 1.0])
def test_all_forms_agree(members, alpha):
    x, y = sample(members)
    for form in (all_pairs, mixture, rank_form):
        # float64 rounding of sums of up to 2500 terms of order one
        torch.testing.assert_close(almost_fair_crps(x, y, alpha), form(x, y, alpha), atol=1e-13, rtol=0)


@pytest.mark.parametrize("members", [2, 4, 20])
@pytest.mark.parametrize(("ours", "estimator"), [(crps, "nrg"), (fair_crps, "fair")])
def test_equals_scoringrules(members, ours, estimator):
    x, y = sample(members)
    theirs = scoringrules.crps_ensemble(y.numpy(), x.movedim(1, -1).numpy(), estimator=estimator)
    np.testing.assert_allclose(ours(x, y).numpy(), theirs, atol=1e-12)


@pytest.mark.parametrize("z", [0.5, 3.0, -40.0])
def test_lone_member_is_punished_unless_fair(z):
    x, y = torch.zeros(1, 4, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    x[0, 3] = z
    assert almost_fair_crps(x, y, alpha=0.95).item() == pytest.approx(0.003125 * abs(z))
    assert fair_crps(x, y).item() == pytest.approx(0.0, abs=1e-12)


def test_two_members_by_hand():
    x, y = torch.tensor([[[1.0], [4.0]]]), torch.tensor([[2.0]])
    # mean error (1 + 2) / 2; pair 3, coefficient (2 - 1 + a) / (4 * 1)
    assert almost_fair_crps(x, y, alpha=0.0).item() == pytest.approx(1.5 - 3 / 4)
    assert almost_fair_crps(x, y, alpha=1.0).item() == pytest.approx(1.5 - 3 / 2)


@pytest.mark.parametrize("members", [2, 4, 13])
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_gradient(members, dim):
    x, y = sample(members, points=3)
    x, w = x.movedim(1, dim).contiguous().requires_grad_(), torch.rand(2, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a, b: almost_fair_crps(a, b, 0.95, dim, w), (x, y.requires_grad_()))


@pytest.mark.parametrize("members", [4, 13])
def test_gradient_at_ties_is_the_mean_of_both_sides(members):
    values = torch.randint(0, 3, (5, members, 40), generator=torch.Generator().manual_seed(1)).double()
    truth = torch.randint(0, 3, (5, 40), generator=torch.Generator().manual_seed(2)).double()
    x = values.clone().requires_grad_()
    almost_fair_crps(x, truth).sum().backward()
    step = 1e-3  # of a piecewise linear function whose kinks lie at integers: the central difference is exact
    for j in range(members):
        shift = torch.zeros_like(values)
        shift[:, j] = step
        central = (mixture(values + shift, truth, 0.95) - mixture(values - shift, truth, 0.95)) / (2 * step)
        torch.testing.assert_close(x.grad[:, j], central, atol=1e-10, rtol=0)


def test_sorting_and_pairs_give_the_same_gradient(monkeypatch):
    x, y = sample(9)
    gradients = []
    for limit in (0, 100):
        monkeypatch.setattr(ensemble, "_PAIRS_UP_TO", limit)
        leaf = x.clone().requires_grad_()
        almost_fair_crps(leaf, y).sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients, atol=1e-14, rtol=0)


def test_fair_score_of_own_distribution_does_not_depend_on_members():
    generator = torch.Generator().manual_seed(3)
    for members, alpha, factor in ((2, 1.0, 1.0), (8, 1.0, 1.0), (2, 0.0, 1.5), (4, 0.95, 1 + 0.05 / 4)):
        x = torch.randn(1, members, 400_000, generator=generator)
        y = torch.randn(1, 400_000, generator=generator)
        # the standard error of 400,000 scores of standard deviation below 1 is 0.0016
        assert almost_fair_crps(x, y, alpha).mean().item() == pytest.approx(factor / np.pi**0.5, abs=0.006)


@settings(max_examples=25, deadline=None)
@given(shift=st.floats(-5, 5), scale=st.floats(0.1, 5), seed=st.integers(0, 100))
def test_invariances(shift, scale, seed):
    x, y = sample(5, seed=seed)
    score = almost_fair_crps(x, y)
    assert (score >= -1e-12).all()
    torch.testing.assert_close(almost_fair_crps(scale * x + shift, scale * y + shift), scale * score)
    torch.testing.assert_close(almost_fair_crps(x[:, torch.randperm(5)], y), score)


def test_weights_are_fused():
    x, y = sample(4)
    w = torch.rand(7, dtype=torch.float64)
    torch.testing.assert_close(almost_fair_crps(x, y, weights=w), almost_fair_crps(x, y) * w)


def test_half_precision_is_scored_in_float32():
    x, y = sample(4, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert almost_fair_crps(x, y).dtype == torch.float32
    half = x.bfloat16().requires_grad_()
    score = almost_fair_crps(half, y)
    score.sum().backward()
    assert score.dtype == torch.float32
    assert half.grad.dtype == torch.bfloat16
    torch.testing.assert_close(score, almost_fair_crps(x.bfloat16().float(), y))


def test_module_is_the_function():
    x, y = sample(4)
    torch.testing.assert_close(AlmostFairCRPS(0.5)(x, y), almost_fair_crps(x, y, 0.5))


@pytest.mark.parametrize(
    ("members", "truth", "alpha", "words"),
    [
        ((2, 1, 7), (2, 7), 0.95, "at least 2"),
        ((2, 4, 7), (2, 6), 0.95, "shape"),
        ((2, 4, 7), (2, 7), 1.5, "alpha=1.5"),
    ],
)
def test_bad_input(members, truth, alpha, words):
    with pytest.raises(ForecastError, match=words):
        almost_fair_crps(torch.zeros(members), torch.zeros(truth), alpha)
