"""The loops of the CPU (float32, bfloat16) against the formulas in torch (float64), and what both promise."""

import itertools
from functools import partial

import pytest
import torch

from forecast.core.errors import ForecastError
from forecast.losses import crps_kernels, crps_layout, crps_operators, crps_torch
from forecast.losses.ensemble import almost_fair_crps, threshold_weighted_crps, weighted_crps

POINT = torch.linspace(-0.5, 0.5, 5)  # thresholds in halves and quarters: the same in float32
LOSSES = {
    "plain": almost_fair_crps,
    "clipped": partial(threshold_weighted_crps, above=-0.25, below=0.875),
    "by point": partial(threshold_weighted_crps, above=POINT),
    "smooth": partial(threshold_weighted_crps, centre=0.125, width=0.75),
}
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rounded(x):
    return (2 * x).round() / 2


def axes(x, y):
    """Members (M, P, 5) in other orders and strides, with `ensemble_dim` and the truth that goes with them."""
    halves = [half.unflatten(-2, (-1, 2)) for half in (x, y)]
    yield x, y, 0
    yield x.movedim(0, 1).contiguous(), y, 1
    yield x.movedim(0, 2).contiguous(), y, -1  # points side by side are M apart
    yield x.movedim(0, 1), y, 1  # a view
    yield halves[0].transpose(1, 2).contiguous().transpose(1, 2), halves[1], 0  # no view with one stride for points
    yield torch.cat([x, x], dim=2)[..., :5], y, 0


def value_and_gradient(loss, x, y, **options):
    leaf = x.detach().requires_grad_()
    value = loss(leaf, y, **options)
    up = torch.linspace(0.5, 2.0, value.numel(), dtype=value.dtype).reshape(value.shape)
    value.backward(up)
    return value.detach(), leaf.grad


def close(ours, exact, half=False):
    (value, grad), (expected, slope) = ours, exact
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(grad.double(), slope, rtol=4e-3 if half else 3e-6, atol=1e-8)


@each_loss
@pytest.mark.parametrize("members", [2, 3, 17])
def test_loops_equal_the_formulas(loss, members):
    half = members == 3
    x, y = draw(members, 70, 5), draw(70, 5, seed=1)
    weight, mask = torch.rand(70, 1, generator=torch.Generator().manual_seed(2)), draw(70, 5, seed=3) < 1
    for ties, reduction in itertools.product((False, True), ("mean", "sum", "none")):
        a, b = (rounded(x), rounded(y)) if ties else (x, y)
        a = a.bfloat16() if half else a
        for one, truth, dim in axes(a, b):
            w, m = (factor.expand_as(b).reshape(truth.shape) for factor in (weight, mask))
            options = {"ensemble_dim": dim, "reduction": reduction, "mask": m}
            run = loss
            if loss is LOSSES["by point"] and truth.ndim == 3:
                run = partial(threshold_weighted_crps, above=POINT.expand_as(b).reshape(truth.shape))
            ours = value_and_gradient(run, one, truth, weight=w, **options)
            assert ours[0].dtype == torch.float32 and ours[1].dtype == one.dtype
            close(ours, value_and_gradient(run, one.double(), truth.double(), weight=w.double(), **options), half)


@pytest.mark.parametrize("shape", [(1, 5), (1, 300), (300, 1), (5, 7), (2, 4200)])
@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.0])
def test_points_of_any_number_and_weights_of_members(shape, alpha):
    x, y = rounded(draw(shape[0], 9, shape[1])), rounded(draw(*shape, seed=1))
    for shares in (torch.rand(9), torch.rand(shape[0], 9, shape[1])):
        (shares if shares.ndim == 1 else shares[:, :, 0].T)[0] = 0.0
        loss = partial(weighted_crps, alpha=alpha, reduction="none")
        ours = value_and_gradient(partial(loss, member_weights=shares), x, y)
        exact = value_and_gradient(partial(loss, member_weights=shares.double()), x.double(), y.double())
        torch.testing.assert_close(ours[0].double(), exact[0], rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(ours[1].double(), exact[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("members", [4, 50, 130])
def test_float32_is_float64_rounded(members):
    """Also of geopotential, 54,000 with gaps of tens, and where nearly all members agree with the truth."""
    x = 54_000 + 30 * draw(1, members, 400)
    y = 54_000 + 30 * draw(1, 400, seed=1)
    x[:, 1:, :50] = y[:, None, :50]
    for alpha in (0.0, 0.95, 1.0):
        loss = partial(almost_fair_crps, alpha=alpha, reduction="none")
        torch.testing.assert_close(loss(x, y).double(), loss(x.double(), y.double()), rtol=1e-7, atol=0)
        total = almost_fair_crps(x, y, alpha=alpha).double()
        torch.testing.assert_close(total, almost_fair_crps(x.double(), y.double(), alpha=alpha), rtol=1e-7, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weights", [None, [1.0, 3.0, 0.5, 2.0]])
def test_gradient_at_ties_is_the_mean_of_both_sides(dtype, weights):
    values = torch.randint(0, 3, (5, 4, 40), generator=torch.Generator().manual_seed(1)).double()
    truth = torch.randint(0, 3, (5, 40), generator=torch.Generator().manual_seed(2)).double()
    loss = almost_fair_crps if weights is None else partial(weighted_crps, member_weights=weights, alpha=0.5)
    x = values.to(dtype).requires_grad_()
    loss(x, truth.to(dtype), reduction="sum").backward()
    step = 1e-3  # of a piecewise linear function whose kinks lie at integers: the central difference is exact
    for j in range(4):
        shift = torch.zeros_like(values)
        shift[:, j] = step
        sides = [loss(values + sign * shift, truth, reduction="none") for sign in (1, -1)]
        tolerance = 4e-3 if dtype == torch.bfloat16 else 1e-6
        central = (sides[0] - sides[1]) / (2 * step)
        torch.testing.assert_close(x.grad[:, j].double(), central, atol=tolerance, rtol=tolerance)


def test_minus_zero_ties_with_zero():
    x, y = torch.tensor([[[0.0], [-0.0], [1.0]]]), torch.zeros(1, 1)
    slopes = [value_and_gradient(almost_fair_crps, x, sign * y)[1] for sign in (1, -1)]
    torch.testing.assert_close(slopes[0][0, 0], slopes[0][0, 1], rtol=0, atol=0)
    torch.testing.assert_close(*slopes, rtol=0, atol=0)


def test_bits_depend_on_neither_run_nor_threads():
    x, y, weight = draw(2, 7, 30_000), draw(2, 30_000, seed=1), draw(30_000, seed=2).abs()
    before, found = torch.get_num_threads(), []
    try:
        for count in (1, 1, 2, 3):
            torch.set_num_threads(count)
            found.append(value_and_gradient(almost_fair_crps, x, y, weight=weight))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_members_lie_on_any_axis_and_are_not_copied(dim):
    x = draw(6, 7, 8).bfloat16().requires_grad_()
    y = draw(*(n for d, n in enumerate(x.shape) if d != dim), seed=1)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        loss = almost_fair_crps(x, y, ensemble_dim=dim)
    own = {t.untyped_storage().data_ptr() for t in (x, y)}
    assert sum(t.nbytes for t in kept if t.untyped_storage().data_ptr() not in own) <= 16
    loss.backward()
    assert x.grad.stride() == x.stride()


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 11])
def test_network_sorts(count):
    """It does if it sorts all zeros and ones."""
    rows = torch.tensor(list(itertools.product((0, 1), repeat=count)), dtype=torch.int32).T.contiguous().numpy()
    lanes = crps_layout.LANES
    for start in range(0, rows.shape[1], lanes):
        part = rows[:, start : start + lanes]
        work = torch.zeros(count, lanes, dtype=torch.int32).numpy()
        work[:, : part.shape[1]] = part
        crps_kernels._sort(work, crps_layout.comparators(count))
        assert (work[1:] >= work[:-1]).all()
        assert (work.sum(0)[: part.shape[1]] == part.sum(0)).all()


@each_loss
def test_slabs_change_nothing(loss, monkeypatch):
    x, y = draw(3, 4, 11, 5).double(), draw(3, 11, 5, seed=1).double()
    shares = torch.rand(4, dtype=torch.float64, requires_grad=True)
    found = []
    for size in (crps_torch.SLAB, 30):
        monkeypatch.setattr(crps_torch, "SLAB", size)
        shares.grad = None
        weighted_crps(x, y, member_weights=shares).backward()
        found.append((*value_and_gradient(loss, x, y, reduction="none"), shares.grad))
    torch.testing.assert_close(*found)


def test_truth_and_weight_get_gradients_too():
    x, y = draw(2, 3, 40), draw(2, 40, seed=1)
    weight = draw(40, seed=2).abs()
    grads = []
    for dtype in (torch.float32, torch.float64):
        leaves = [value.to(dtype).detach().requires_grad_() for value in (x, y, weight)]
        almost_fair_crps(leaves[0], leaves[1], weight=leaves[2]).backward()
        grads.append([leaf.grad.double() for leaf in leaves])
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-7)
    x, y, weight = (value[..., :4].double().requires_grad_() for value in (x, y, weight))
    assert torch.autograd.gradcheck(lambda *leaves: almost_fair_crps(*leaves[:2], weight=leaves[2]), (x, y, weight))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_second_derivative_through_the_loss(dtype):
    """Of its square: twice the square of the slope, for the slope itself does not change."""
    x, y = draw(2, 3, 5).to(dtype).requires_grad_(), draw(2, 5, seed=1).to(dtype)
    (slope,) = torch.autograd.grad(almost_fair_crps(x, y), x)
    (first,) = torch.autograd.grad(almost_fair_crps(x, y).square(), x, create_graph=True)
    (second,) = torch.autograd.grad((first * slope).sum(), x)
    torch.testing.assert_close(second, 2 * slope * slope.square().sum())
    smooth = threshold_weighted_crps(x, y, centre=0.0, width=1.0).square()
    (first,) = torch.autograd.grad(smooth, x, create_graph=True)
    with pytest.raises(ForecastError, match="second derivative"):
        first.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_operators_are_fit_for_tracing(dtype):
    x, y = draw(2, 3, 40).to(dtype).requires_grad_(), draw(2, 40, seed=1).to(dtype)
    shares = torch.rand(2, 3, 40, dtype=dtype)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    for reduction, share in (("mean", None), ("none", shares)):
        settings = (None,) * 4 + (share, 0.95, False, reduction)
        torch.library.opcheck(crps_operators._crps, (x, y, *settings), test_utils=checks)
    for others, share in itertools.product((False, True), (None, shares)):
        settings = (None,) * 4 + (share, 0.95, False, others)
        torch.library.opcheck(crps_operators._crps_gradient, (y, x.detach(), y, *settings), test_utils=checks)


def test_integers_and_half_precision_are_widened():
    x, y = torch.tensor([[[1], [4]]]), torch.tensor([[2]])
    assert almost_fair_crps(x, y, alpha=0.0).item() == 0.75
    assert almost_fair_crps(x.half(), y, alpha=0.0).dtype == torch.float32
    assert almost_fair_crps(x.float(), y.double(), alpha=0.0).dtype == torch.float64
