import math

import pytest
import scoringrules as sr
import torch

from forecast.core.errors import ForecastError
from forecast.losses import moments
from forecast.losses.registry import build
from tests.losses import contract


def ensemble(members=5, shape=(3, 4), seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape[0], members, *shape[1:], dtype=torch.float64, generator=generator)
    return x, torch.randn(*shape, dtype=torch.float64, generator=generator)


def parametric():
    x, y = ensemble()
    return x.mean(1), x.std(1), y


CASES = {
    "gaussian_log_score": parametric(),
    "dawid_sebastiani": parametric(),
    "ensemble_log_score": ensemble(),
    "multivariate_dawid_sebastiani": ensemble(7, (3, 2, 4)),
}


@pytest.mark.parametrize("name", CASES)
def test_contract(name):
    loss, inputs = build({"name": name}).function, CASES[name]
    contract.gradient(loss, [x[:2] for x in inputs], reduction="none")
    contract.reductions(loss, inputs)
    contract.precision(loss, inputs)
    contract.empty(loss, inputs)
    if name != "multivariate_dawid_sebastiani":
        contract.masked_nan(loss, inputs)


def test_scores_by_hand():
    mean, sigma, truth = (torch.tensor([value]) for value in (1.0, 2.0, 5.0))
    assert moments.dawid_sebastiani(mean, sigma, truth).item() == pytest.approx(4 + 2 * math.log(2))
    log_score = moments.gaussian_log_score(mean, sigma, truth).item()
    assert log_score == pytest.approx(math.log(2 * math.pi) / 2 + math.log(2) + 2)


def test_equal_to_scoringrules_and_distributions():
    mean, sigma, truth = parametric()
    log_score = moments.gaussian_log_score(mean, sigma, truth, reduction="none")
    torch.testing.assert_close(log_score, -torch.distributions.Normal(mean, sigma).log_prob(truth))
    ds = moments.dawid_sebastiani(mean, sigma, truth, reduction="none")
    torch.testing.assert_close(ds, 2 * log_score - math.log(2 * math.pi))
    members, truth = ensemble()
    theirs = sr.dssuv_ensemble(truth.numpy(), members.movedim(1, -1).numpy())
    torch.testing.assert_close(2 * moments.ensemble_log_score(members, truth, reduction="none"), torch.tensor(theirs))


def test_multivariate_equals_scoringrules():
    members, truth = ensemble(9, (3, 2, 4))
    theirs = sr.dssmv_ensemble(truth.numpy(), members.movedim(1, -2).numpy())
    ours = moments.multivariate_dawid_sebastiani(members, truth, ridge=0.0, reduction="none")
    torch.testing.assert_close(ours, torch.tensor(theirs))


def test_full_shrinkage_leaves_a_sum_over_variables():
    members, truth = ensemble(3, (3, 4))
    ours = moments.multivariate_dawid_sebastiani(members, truth, shrinkage=1.0, ridge=0.0, reduction="none")
    torch.testing.assert_close(ours, 2 * moments.ensemble_log_score(members, truth, reduction="none").sum(-1))


@pytest.mark.parametrize("name", ["ensemble_log_score", "multivariate_dawid_sebastiani", "spread_error"])
@pytest.mark.parametrize("dim", [0, -1])
def test_members_on_any_axis(name, dim):
    members, truth = ensemble(7, (3, 2, 4))
    moved = build({"name": name, "ensemble_dim": dim})(members.movedim(1, dim), truth)
    torch.testing.assert_close(moved, build({"name": name})(members, truth))


def test_variance_has_a_floor():
    members, truth = torch.zeros(1, 3, 2, requires_grad=True), torch.ones(1, 2)
    value = moments.ensemble_log_score(members, truth, floor=0.1)
    value.backward()
    assert value.item() == pytest.approx(0.5 * (math.log(0.01) + 100), rel=1e-5)
    assert members.grad.isfinite().all()


def test_spread_error_by_hand():
    members = torch.tensor([[[1.0, 10.0], [3.0, 10.0]]])  # variances 2 and 0, means 2 and 10
    truth = torch.tensor([[3.0, 12.0]])
    each = moments.spread_error(members, truth, eps=1e-6, reduction="none")
    expected = [math.log(1.5 * 2) ** 2, (math.log(1e-6) - math.log(4)) ** 2]
    torch.testing.assert_close(each, torch.tensor(expected), rtol=1e-4, atol=0)
    whole = moments.spread_error(members, truth, keep=(), finite_ensemble=False)
    assert whole.item() == pytest.approx((math.log(1.0) - math.log(2.5)) ** 2)
    weight = torch.tensor([[1.0, 0.0]])
    weighted = moments.spread_error(members, truth, keep=(), weight=weight, eps=0.0)
    assert weighted.item() == pytest.approx(math.log(3.0) ** 2)


def test_spread_error_vanishes_for_a_reliable_ensemble():
    members, truth = ensemble(4, (1, 200_000, 1))
    assert moments.spread_error(members, truth).item() < 1e-3
    assert moments.spread_error(0.5 * members, truth).item() > 0.5


def test_spread_error_contract():
    members, truth = ensemble()
    contract.gradient(moments.spread_error, (members, truth))
    contract.precision(moments.spread_error, (members, truth))
    contract.masked_nan(moments.spread_error, (members, truth))
    contract.empty(moments.spread_error, (members, truth))
    each = moments.spread_error(members, truth, reduction="none")
    torch.testing.assert_close(moments.spread_error(members, truth), each.mean())
    assert build({"name": "spread_error"})(2 * members, 2 * truth).item() == pytest.approx(each.mean().item())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x, y: moments.ensemble_log_score(x[:, :1], y), "members=1: at least 2"),
        (lambda x, y: moments.ensemble_log_score(x, y[:2]), "truth of shape"),
        (lambda x, y: moments.multivariate_dawid_sebastiani(x[:, :4], y), "4 variables need more members"),
        (lambda x, y: moments.multivariate_dawid_sebastiani(x, y, shrinkage=2.0), "shrinkage=2"),
        (lambda x, y: moments.spread_error(x, y, keep=(0,)), "keep=.*from the end"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ForecastError, match=words):
        call(*ensemble())
