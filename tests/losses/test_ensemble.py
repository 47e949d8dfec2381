"""The CRPS and its variants. float64 runs the formulas in torch, float32 and bfloat16 the loops of the CPU."""

import math

import numpy as np
import pytest
import scoringrules
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forecast.core.errors import ForecastError
from forecast.losses import ensemble, registry
from forecast.losses.ensemble import almost_fair_crps, crps, fair_crps, threshold_weighted_crps, weighted_crps
from tests.losses import contract

WEIGHTS = [0.5, 2.0, 0.0, 1.0]  # of four members
VARIANTS = {
    "almost fair": (almost_fair_crps, {}),
    "fair": (fair_crps, {}),
    "standard": (crps, {}),
    "above": (threshold_weighted_crps, {"above": -0.25}),
    "below": (threshold_weighted_crps, {"below": 0.5, "alpha": 1.0}),
    "interval": (threshold_weighted_crps, {"above": -0.5, "below": 0.75, "alpha": 0.0}),
    "smooth": (threshold_weighted_crps, {"centre": 0.125, "width": 0.75}),
    "weighted": (weighted_crps, {"member_weights": WEIGHTS}),
    "fair weighted": (weighted_crps, {"member_weights": WEIGHTS, "alpha": 1.0}),
}
each_variant = pytest.mark.parametrize("variant", VARIANTS)


def loss(variant):
    function, options = VARIANTS[variant]
    return lambda *inputs, **kwargs: function(*inputs, **options, **kwargs)


def sample(members=4, points=7, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, members, points, dtype=torch.float64, generator=generator)
    return x.to(dtype), torch.randn(2, points, dtype=torch.float64, generator=generator).to(dtype)


def pointwise(function, *inputs, **options):
    return function(*inputs, reduction="none", **options)


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


def quantiles(x, y, alpha):
    """For alpha = 0 twice the mean pinball loss of the sorted members, as levels (k - 1/2) / M."""
    level = (torch.arange(x.shape[1], dtype=x.dtype) + 0.5)[:, None] / x.shape[1]
    u = y[:, None] - x.sort(dim=1).values
    fair = mixture(x, y, alpha) - mixture(x, y, 0.0)
    return 2 * torch.maximum(level * u, (level - 1) * u).mean(1) + fair


@pytest.mark.parametrize("members", [2, 3, 4, 17, 50])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.95, 1.0])
def test_all_forms_agree(members, alpha):
    x, y = sample(members)
    for form in (all_pairs, mixture, quantiles):
        # float64 rounding of sums of up to 2500 terms of order one
        score = pointwise(almost_fair_crps, x, y, alpha=alpha)
        torch.testing.assert_close(score, form(x, y, alpha), atol=1e-13, rtol=0)


@pytest.mark.parametrize("members", [2, 4, 20])
@pytest.mark.parametrize(("ours", "estimator"), [(crps, "nrg"), (fair_crps, "fair")])
def test_equals_scoringrules(members, ours, estimator):
    x, y = sample(members)
    theirs = scoringrules.crps_ensemble(y.numpy(), x.movedim(1, -1).numpy(), estimator=estimator)
    np.testing.assert_allclose(pointwise(ours, x, y).numpy(), theirs, atol=1e-12)


def chained(z, above=None, below=None, centre=None, width=None, **_):
    if centre is not None:
        u = (z - centre) / width
        normal = torch.distributions.Normal(0.0, 1.0)
        return (z - centre) * normal.cdf(u) + width * normal.log_prob(u).exp()
    return z.clamp(above, below)


@pytest.mark.parametrize("variant", ["above", "below", "interval", "smooth"])
def test_threshold_weight_is_the_score_of_the_chained(variant):
    x, y = sample(6, 40)
    options = VARIANTS[variant][1]
    expected = mixture(chained(x, **options), chained(y, **options), options.get("alpha", 0.95))
    torch.testing.assert_close(pointwise(loss(variant), x, y), expected)


def test_thresholds_equal_scoringrules_and_may_differ_by_point():
    x, y = sample(5)
    t = torch.linspace(-1, 1, 7, dtype=torch.float64)
    theirs = scoringrules.twcrps_ensemble(
        y.numpy(),
        x.movedim(1, -1).numpy(),
        v_func=lambda z: np.maximum(z, t.numpy().reshape([-1] + [1] * (z.ndim - 2))),
    )
    ours = pointwise(threshold_weighted_crps, x, y, above=t, alpha=0.0)
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-12)


def test_limits_of_thresholds():
    x, y = sample()
    plain = almost_fair_crps(x, y)
    torch.testing.assert_close(threshold_weighted_crps(x, y, above=-1e3), plain)
    torch.testing.assert_close(threshold_weighted_crps(x, y, centre=-1e3, width=1.0), plain)
    leaf = x.clone().requires_grad_()
    score = threshold_weighted_crps(leaf, y, above=1e3)
    score.backward()
    assert score.item() == 0
    assert (leaf.grad == 0).all()
    parts = [threshold_weighted_crps(x, y, **{side: 0.25}) for side in ("above", "below")]
    torch.testing.assert_close(sum(parts), plain)  # weights that add up to 1


def weighted_pairs(x, y, w, alpha):
    w = w / w.sum(1, keepdim=True)
    gain = 1 - alpha + alpha / (1 - w.square().sum(1))
    gaps = (x[:, :, None] - x[:, None]).abs() * w[:, :, None] * w[:, None]
    return (w * (x - y[:, None]).abs()).sum(1) - gain * gaps.sum(dim=(1, 2)) / 2


@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_member_weights(alpha, dtype):
    x, y = sample(5, 9)
    w = torch.rand(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    ours = pointwise(weighted_crps, x.to(dtype), y.to(dtype), member_weights=w.to(dtype), alpha=alpha)
    torch.testing.assert_close(ours, weighted_pairs(x, y, w, alpha).to(dtype), rtol=1e-5, atol=1e-7)
    same = pointwise(weighted_crps, x.to(dtype), y.to(dtype), member_weights=[3.0] * 5, alpha=alpha)
    torch.testing.assert_close(same, pointwise(almost_fair_crps, x, y, alpha=alpha).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_members_without_weight_might_as_well_not_be_there(dtype):
    x, y = sample(4, dtype=dtype)
    x[:, 2] = torch.nan
    x.requires_grad_()
    score = weighted_crps(x, y, member_weights=[1.0, 1.0, 0.0, 1.0], alpha=0.6)
    torch.testing.assert_close(score, almost_fair_crps(x.detach()[:, [0, 1, 3]], y, alpha=0.6))
    score.backward()
    assert x.grad.isfinite().all()
    alone = pointwise(weighted_crps, x, y, member_weights=[0.0, 2.0, 0.0, 0.0], alpha=1.0)
    torch.testing.assert_close(alone, (x[:, 1] - y).abs())


def test_member_weights_can_be_learnt():
    x, y = sample()
    w = torch.tensor([0.3, 1.0, 0.6, 2.0], dtype=torch.float64, requires_grad=True)
    for alpha in (0.0, 0.8):
        assert torch.autograd.gradcheck(lambda w, a=alpha: weighted_crps(x, y, member_weights=w, alpha=a), w)
    single = w.detach().float().requires_grad_()
    weighted_crps(x.float(), y.float(), member_weights=single, alpha=0.8).backward()
    weighted_crps(x, y, member_weights=w, alpha=0.8).backward()
    torch.testing.assert_close(single.grad.double(), w.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("z", [0.5, 3.0, -40.0])
def test_lone_member_is_punished_unless_fair(z, dtype):
    x, y = torch.zeros(1, 4, 1, dtype=dtype), torch.zeros(1, 1, dtype=dtype)
    x[0, 3] = z
    x.requires_grad_()
    assert almost_fair_crps(x, y, alpha=0.95).item() == pytest.approx(0.05 * abs(z) / 16)
    score = fair_crps(x, y)
    score.backward()
    assert score.item() == 0
    assert x.grad[0, 3] == 0


def test_two_members_by_hand():
    x, y = torch.tensor([[[1.0], [4.0]]]), torch.tensor([[2.0]])
    # mean error (1 + 2) / 2; pair 3, coefficient (2 - 1 + a) / (4 * 1)
    assert almost_fair_crps(x, y, alpha=0.0).item() == pytest.approx(1.5 - 3 / 4)
    assert almost_fair_crps(x, y, alpha=1.0).item() == pytest.approx(1.5 - 3 / 2)
    # weights 1/4, 3/4: 0.25 * 1 + 0.75 * 2 - 3/16 * 3
    assert weighted_crps(x, y, member_weights=[1.0, 3.0]).item() == pytest.approx(1.75 - 9 / 16)
    # of max(z, 3): 3, 4 against 3
    assert threshold_weighted_crps(x, y, above=3.0, alpha=0.0).item() == pytest.approx(0.5 - 1 / 4)


def test_lone_member_is_refused_unless_told_otherwise():
    x, y = sample(1)
    for function, options in VARIANTS.values():
        if "member_weights" not in options:
            with pytest.raises(ForecastError, match="members=1"):
                function(x, y, **options)
    for dtype in (torch.float64, torch.float32):
        ours = pointwise(almost_fair_crps, x.to(dtype), y.to(dtype), allow_deterministic=True)
        torch.testing.assert_close(ours, (x[:, 0] - y).abs().to(dtype))


def test_fair_score_of_own_distribution_does_not_depend_on_members():
    generator = torch.Generator().manual_seed(3)
    for members, alpha, factor in ((2, 1.0, 1.0), (8, 1.0, 1.0), (2, 0.0, 1.5), (4, 0.95, 1 + 0.05 / 4)):
        x = torch.randn(1, members, 400_000, generator=generator)
        y = torch.randn(1, 400_000, generator=generator)
        # the standard error of 400,000 scores of standard deviation below 1 is 0.0016
        assert almost_fair_crps(x, y, alpha=alpha).item() == pytest.approx(factor / math.pi**0.5, abs=0.006)


@settings(max_examples=25, deadline=None)
@given(shift=st.floats(-5, 5), scale=st.floats(0.1, 5), seed=st.integers(0, 100))
def test_invariances(shift, scale, seed):
    x, y = sample(5, seed=seed)
    score = pointwise(almost_fair_crps, x, y)
    assert (score >= 0).all()
    torch.testing.assert_close(pointwise(almost_fair_crps, scale * x + shift, scale * y + shift), scale * score)
    torch.testing.assert_close(pointwise(almost_fair_crps, x[:, torch.randperm(5)], y), score)


@each_variant
def test_what_every_loss_keeps(variant):
    inputs = sample()
    contract.gradient(loss(variant), inputs)
    contract.precision(loss(variant), inputs)
    for dtype in (torch.float64, torch.float32):
        single = [x.to(dtype) for x in inputs]
        contract.reductions(loss(variant), single)
        contract.masked_nan(loss(variant), single)
        contract.empty(loss(variant), single)


@pytest.mark.parametrize("name", ["almost_fair_crps", "fair_crps", "crps", "weighted_crps", "threshold_weighted_crps"])
def test_module_is_the_function(name):
    options = {"weighted_crps": {"member_weights": WEIGHTS}, "threshold_weighted_crps": {"above": 0.5}}.get(name, {})
    x, y = sample()
    module = registry.build({"name": name, **options})
    torch.testing.assert_close(module(x, y), getattr(ensemble, name)(x, y, **options))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"members": torch.zeros(2, 1, 7)}, "members=1: at least 2"),
        ({"truth": torch.zeros(2, 6)}, r"truth of shape \(2, 6\)"),
        ({"alpha": 1.5}, "alpha=1.5"),
        ({"reduction": "average"}, "reduction=average"),
        ({"ensemble_dim": 3}, "ensemble_dim=3"),
        ({"weight": torch.ones(3)}, r"weight of shape \(3,\)"),
        ({"mask": torch.ones(3, dtype=torch.bool)}, r"mask of shape \(3,\)"),
        ({"function": threshold_weighted_crps}, "above, below or both"),
        ({"function": threshold_weighted_crps, "above": 0.0, "centre": 0.0, "width": 1.0}, "above, below or both"),
        ({"function": threshold_weighted_crps, "centre": 0.0}, "centre and width"),
        ({"function": threshold_weighted_crps, "above": 1.0, "below": 0.0}, "less than below=0.0"),
        ({"function": threshold_weighted_crps, "centre": 0.0, "width": 0.0}, "width=0.0"),
        ({"function": threshold_weighted_crps, "above": [0.0, 1.0]}, "lower threshold of shape"),
        ({"function": weighted_crps, "member_weights": [1.0, 2.0]}, "one for each member"),
        ({"function": weighted_crps, "member_weights": [1.0, -2.0, 0.0, 0.0]}, "must not be negative"),
        ({"function": weighted_crps, "member_weights": [0.0] * 4}, "all 0"),
        ({"function": weighted_crps, "member_weights": torch.ones(3, 7)}, "member_weights of shape"),
    ],
)
def test_bad_input(change, words):
    given = {"members": torch.zeros(2, 4, 7), "truth": torch.zeros(2, 7), "function": almost_fair_crps} | change
    function, members, truth = (given.pop(name) for name in ("function", "members", "truth"))
    with pytest.raises(ForecastError, match=words):
        function(members, truth, **given)
