import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits

from forecast.core.errors import ForecastError
from forecast.losses import binary as b
from forecast.losses.registry import build
from tests.losses import laws
from tests.losses.laws import Case, normal


def maps(n):
    return normal(n, 3), laws.binary(n, 3).double()


def probabilities(n):
    return normal(n, 3).sigmoid(), laws.binary(n, 3).double()


CASES = [
    Case("binary_cross_entropy", b.binary_cross_entropy, maps, {"pos_weight": 3.0}, fixed=(1,)),
    Case("binary_cross_entropy", b.binary_cross_entropy, probabilities, {"from_logits": False}, fixed=(1,)),
    Case("focal", b.focal, maps, {"alpha": 0.25}, fixed=(1,)),
    Case("focal", b.focal, probabilities, {"from_logits": False, "gamma": 0.5}, fixed=(1,)),
    Case("asymmetric_focal", b.asymmetric_focal, maps, fixed=(1,)),
    Case("multi_grained_focal", b.multi_grained_focal, maps, {"frequencies": (0.1, 0.9, 0.0)}, fixed=(1,)),
    Case("multi_grained_focal", b.multi_grained_focal, maps, {"gamma_pos": 1.0, "clip": 0.0}, fixed=(1,)),
]


@laws.over(CASES)
def test_laws(law, case):
    law(case)


@laws.over(
    [Case("ens", b.ens_loss, maps, {"shape": 0.3}, fixed=(1,), seeded=True)],
    without=("module_is_the_function", "reduces", "differentiable"),  # slopes are constants drawn anew; tested below
)
def test_laws_of_ens_loss(law, case):
    law(case)


@pytest.mark.parametrize(
    ("function", "options", "y", "value"),
    [
        (b.binary_cross_entropy, {"pos_weight": 2.0}, 1.0, -2 * math.log(0.25)),
        (b.binary_cross_entropy, {}, 0.5, -0.5 * math.log(0.25) - 0.5 * math.log(0.75)),
        (b.focal, {"gamma": 2.0, "alpha": 0.3}, 1.0, -0.3 * 0.75**2 * math.log(0.25)),
        (b.focal, {"gamma": 2.0, "alpha": 0.3}, 0.0, -0.7 * 0.25**2 * math.log(0.75)),
        (b.asymmetric_focal, {}, 0.0, -(0.2**4) * math.log(0.8)),
        (b.asymmetric_focal, {"gamma_pos": 1.0}, 1.0, -0.75 * math.log(0.25)),
    ],
)
@pytest.mark.parametrize("from_logits", [True, False])
def test_by_hand(function, options, y, value, from_logits):
    p = torch.tensor([0.25], dtype=torch.float64)
    given_ = p.logit() if from_logits else p
    assert function(given_, torch.tensor([y]), from_logits=from_logits, **options).item() == pytest.approx(value)


def test_rarity_by_hand():
    p = torch.full((1, 2), 0.25, dtype=torch.float64).logit()
    value = b.multi_grained_focal(p, torch.zeros(1, 2), clip=0.0, frequencies=(10.0, 10 * math.exp(-63.0)), gamma_neg=1)
    # the second counts as a millionth of the sum
    powers = [2.0, 1 + (1 + math.log(1e6)) ** (1 / 6)]
    expected = -math.log(0.75) * sum(0.25**power for power in powers) / 2
    assert value.item() == pytest.approx(expected, rel=1e-9)


def test_limits():
    f, y = maps(5)
    entropy = binary_cross_entropy_with_logits(f, y)
    for value in (
        b.binary_cross_entropy(f, y),
        b.focal(f, y, gamma=0.0),
        b.focal(f, y, gamma=0.0, alpha=0.5) * 2,
        b.multi_grained_focal(f, y, gamma_pos=0.0, gamma_neg=0.0, clip=0.0),
        b.multi_grained_focal(f, y, gamma_neg=0.0, clip=1e-9),
    ):
        torch.testing.assert_close(value, entropy)
    weighted = binary_cross_entropy_with_logits(f, y, pos_weight=torch.tensor(2.5))
    torch.testing.assert_close(b.binary_cross_entropy(f, y, pos_weight=2.5), weighted)
    both = b.multi_grained_focal(f, y, gamma_pos=2.0, gamma_neg=2.0, clip=0.0)
    torch.testing.assert_close(b.focal(f, y), both)


def test_area_weights_of_a_map():
    f, y, area = *maps(4), torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    each = binary_cross_entropy_with_logits(f, y, reduction="none")
    torch.testing.assert_close(b.binary_cross_entropy(f, y, weight=area), (each * area).sum() / (4 * 8))


def test_easy_negatives_are_left_alone():
    f = torch.tensor([-5.0, -3.5, -1.0, 60.0, -60.0], requires_grad=True)
    value = b.asymmetric_focal(f, torch.zeros(5), clip=0.05, reduction="sum")
    value.backward()
    assert f.grad[:2].tolist() == [0, 0] and f.grad[2] > 0
    assert value.isfinite() and f.grad.isfinite().all()


def test_focus_can_be_detached():
    f, y = maps(4)
    f = f.requires_grad_()
    b.focal(f, y, detach_focus=True).backward()
    p = f.detach().sigmoid()
    hard = torch.where(y == 1, 1 - p, p).square()
    torch.testing.assert_close(f.grad, hard * (p - y) / f.numel())


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 100))
def test_order_of_classes_does_not_matter(seed):
    f, y, n = normal(4, 6, seed=seed), laws.binary(4, 6).double(), torch.linspace(1, 9, 6)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    value = b.multi_grained_focal(f, y, frequencies=n.tolist())
    permuted = b.multi_grained_focal(f[:, order], y[:, order], frequencies=n[order].tolist())
    torch.testing.assert_close(permuted, value)
    moved = b.multi_grained_focal(f.T[None], y.T[None], frequencies=n.tolist())
    torch.testing.assert_close(moved, value)


def slopes(f, y, seed=0, **options):
    f = f.clone().requires_grad_()
    b.ens_loss(f, y, reduction="sum", generator=torch.Generator().manual_seed(seed), **options).backward()
    return f.grad


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), shape=st.sampled_from([None, -1.0, -0.3, 0.0, 0.4, 1.0]))
def test_ens_slopes_are_those_of_a_convex_calibrated_loss(seed, shape):
    f, y = 3 * normal(12, seed=seed), laws.binary(12)
    margin, grad = f * (2 * y - 1), slopes(f, y, seed, shape=shape) * (2 * y - 1)
    ordered = grad[margin.argsort()]
    assert (ordered < 0).all() and (ordered.diff() >= 0).all() and (ordered >= -1 - 1e-5).all()
    far = margin > 1
    assert (grad[far].abs() <= 1 / margin[far] + 1e-5).all()
    flipped = slopes(-f, 1 - y, seed, shape=shape)
    torch.testing.assert_close(flipped, -slopes(f, y, seed, shape=shape))


def test_ens_slopes_by_hand():
    """l = 1: g = -min(max(1 + z, 0), 1)."""
    f, y = torch.tensor([-1.0, 4.0, 0.5], dtype=torch.float64), torch.tensor([1, 1, 1])
    z = torch.empty(3, dtype=torch.float64).normal_(generator=torch.Generator().manual_seed(3))
    steep = (1 + z).clamp(0, 1).sort(descending=True).values
    expected = -torch.stack([steep[0], steep[2] / 4, steep[1]]) - 1e-6
    torch.testing.assert_close(slopes(f, y, 3, shape=1.0), expected)


def test_ens_slopes_follow_a_permutation():
    f, y = normal(9), laws.binary(9)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(slopes(f[order], y[order], shape=0.5), slopes(f, y, shape=0.5)[order])


def test_ens_mask_and_weight():
    f, y = normal(2, 4), laws.binary(2, 4)
    mask = torch.tensor([[True, False, True, True], [False, True, True, False]])
    inside = torch.zeros(2, 4, dtype=torch.float64)
    inside[mask] = slopes(f[mask], y[mask], shape=0.2)
    torch.testing.assert_close(slopes(f, y, shape=0.2, mask=mask), inside)
    area = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    torch.testing.assert_close(slopes(f, y, shape=0.2, weight=area), slopes(f, y, shape=0.2) * area)


def test_ens_module_keeps_its_shape_for_a_period_of_epochs():
    loss, f, y = build({"name": "ens", "period": 3}), normal(6).float(), laws.binary(6)
    shapes = []
    for call in range(14):  # two calls an epoch
        loss.set_epoch(call // 2)
        loss(f, y, generator=torch.Generator().manual_seed(call))
        shapes.append(float(loss.shape))
    assert [len(set(shapes[i : i + 6])) for i in (0, 6, 12)] == [1, 1, 1] and len(set(shapes)) == 3
    other = build({"name": "ens", "period": 3})
    other.load_state_dict(loss.state_dict())
    both = [x(f, y, generator=torch.Generator().manual_seed(1)) for x in (loss, other)]
    torch.testing.assert_close(*both)
    loss.eval().set_epoch(9)
    loss(f, y)
    assert float(loss.shape) == shapes[-1]  # only training draws
    loss.train().reset_state()
    loss(f, y, generator=torch.Generator().manual_seed(1))
    assert int(loss.epoch) == 0 and float(loss.shape) != shapes[-1]
    torch.testing.assert_close(loss.value(f, y), b.binary_cross_entropy(f, y))


@pytest.mark.parametrize(
    ("function", "options", "labels", "words"),
    [
        (b.binary_cross_entropy, {}, (0.0, 2.0), "labels: 2 must be in"),
        (b.binary_cross_entropy, {}, (0.0, math.nan), "labels: nan"),
        (b.binary_cross_entropy, {}, (0.0,), "shape"),
        (b.binary_cross_entropy, {"pos_weight": 0.0}, (0.0, 1.0), "pos_weight=0.0"),
        (b.binary_cross_entropy, {"from_logits": False}, (0.0, 1.0), "logits: 3 must be a probability"),
        (b.binary_cross_entropy, {"mask": torch.ones(3)}, (0.0, 1.0), "mask of shape"),
        (b.binary_cross_entropy, {"weight": torch.ones(3)}, (0.0, 1.0), "weight of shape"),
        (b.focal, {"gamma": -1.0}, (0.0, 1.0), "gamma=-1.0"),
        (b.focal, {"alpha": 1.0}, (0.0, 1.0), "alpha=1.0"),
        (b.multi_grained_focal, {"clip": 1.0}, (0.0, 1.0), "clip=1.0"),
        (b.multi_grained_focal, {"frequencies": (1.0,), "class_dim": 0}, (0.0, 1.0), "frequencies"),
        (b.ens_loss, {}, (0.0, 0.5), "0 or 1"),
        (b.ens_loss, {"shape": 2.0}, (0.0, 1.0), "shape=2.0"),
    ],
)
def test_bad_input(function, options, labels, words):
    with pytest.raises(ForecastError, match=words):
        function(torch.tensor([0.0, 3.0]), torch.tensor(labels), **options)
